"""The terminal client, against a real server, through a pipe and in real terminals."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shlex
import signal
import socket
import sqlite3
import sys
import tempfile
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from prompt_toolkit.utils import get_cwidth

from chat_cli import tokens
from chat_cli.lines import line as shown
from chat_cli.printable import printable, wrapped
from chat_cli.screen import clock
from chat_transports.pipe import address
from chatcore import Chat, Delete, Edit, Limits, Member, Message, SqliteRepository
from chatcore.events import Durable, Reaction, RoomChanged, Tally
from chatcore.testing import PATIENCE, Proxy, eventually
from tests.support import PASSWORD, ServerProcess, connected, present, serving
from tests.terminal import Pane, Tmux
from tests.test_backup import put_back

CLIENT = [sys.executable, "-c", "from chat_cli import main; main()"]
ANOTHER = "battery staple"
MENU = ["1. Register", "2. Login", "3. Exit", "Choose an option:"]
CREDENTIALS = ["Username:", "Password:"]
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
LAST = datetime(9999, 12, 31, 12, tzinfo=UTC)


@pytest.fixture
async def server() -> AsyncIterator[ServerProcess]:
    async with serving() as server:
        yield server


@pytest.fixture
async def tmux() -> AsyncIterator[Tmux]:
    with tempfile.TemporaryDirectory() as directory:  # a socket's path must be short
        terminals = Tmux(Path(directory))
        yield terminals
        await terminals.close()


@contextlib.asynccontextmanager
async def client(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """chat-cli with pipes."""
    process = await asyncio.create_subprocess_exec(
        *CLIENT,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(PATIENCE):
            yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def piped(url: str, *lines: str, room: str = "lobby") -> tuple[int | None, list[str]]:
    """Return the status of a client that was given these lines, and what it printed."""
    async with client("connect", "--room", room, url) as process:
        out, err = await process.communicate("".join(f"{line}\n" for line in lines).encode())
    assert err == b""
    return process.returncode, [
        re.sub(r"^\[\d\d:\d\d\]", "[HH:MM]", line) for line in out.decode().splitlines()
    ]


@contextlib.asynccontextmanager
async def joined(
    server: ServerProcess, name: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, asyncio.StreamReader]]:
    """A client with pipes, in the lobby, and what it prints next."""
    async with client("connect", server.urls["ws"]) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"1\n{name}\n{PASSWORD}\n".encode())
        while b"Online" not in await process.stdout.readline():
            pass
        yield process, process.stdout


async def entered(tmux: Tmux, url: str, name: str, *, width: int = 80, height: int = 24) -> Pane:
    """A terminal in which somebody has registered."""
    pane = await tmux.open(*CLIENT, "connect", url, width=width, height=height)
    await pane.until_shown("Choose an option:")
    await pane.enter("1", name, PASSWORD)
    await pane.until(lambda lines: "Online" in "".join(lines[-2:-1]) and lines[-1] == "lobby>")
    return pane


def port(url: str) -> str:
    return str(urlsplit(url).port)


async def said_meanwhile(database: Path, name: str, *texts: str) -> None:
    """Have somebody write in the lobby, on a server that no client knows."""
    async with serving(database) as server, present(server.urls["ws"], name) as somebody:
        for text in texts:
            reply = await somebody.do("send", room="lobby", content=text)
            assert "seq" in reply


class TestPipe:
    @pytest.mark.parametrize("door", ["ws", "tcp"])
    async def test_reads_the_dialogue_line_by_line(self, server: ServerProcess, door: str) -> None:
        status, lines = await piped(server.urls[door], "1", "ada", PASSWORD, "hello", "bye")
        assert status == 0
        assert [
            *MENU,
            *CREDENTIALS,
            "[System] Joined lobby as ada; /help lists the commands",
            "[System] Online (1): ada",
            "[HH:MM] ada: hello",
            "[HH:MM] ada: bye",
            "Goodbye!",
        ] == lines

    async def test_prints_no_escape_and_loads_no_library_for_it(
        self, server: ServerProcess
    ) -> None:
        script = "import atexit, sys; from chat_cli import main; "
        script += "atexit.register(lambda: print('prompt_toolkit' in sys.modules)); main()"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", script, "connect", server.urls["ws"]),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate(f"1\nada\n{PASSWORD}\nhello\n".encode())
        assert b"\x1b" not in out
        assert out.decode().splitlines()[-1] == "False"

    async def test_asks_again_after_a_wrong_choice_or_password(self, server: ServerProcess) -> None:
        status, lines = await piped(
            server.urls["ws"], "7", "2", "ada", "wrong", "1", "", "", "3", "unread"
        )
        assert status == 0
        assert [
            *MENU,
            "Invalid choice. Please enter 1, 2, or 3.",
            *MENU,
            *CREDENTIALS,
            "Invalid username or password",
            *MENU,
            *CREDENTIALS,
            "Username and password are required",
            *MENU,
            "Goodbye!",
        ] == lines

    async def test_sends_no_command_as_text(self, server: ServerProcess) -> None:
        typed = [" ", "/me waves", "//me waves", "/users", "two\twords", "a\x07bell"]
        status, lines = await piped(
            server.urls["ws"], "1", "ada", PASSWORD, *typed, "/exit", "unread"
        )
        assert status == 0
        assert lines[7:] == [
            "[System] Online (1): ada",
            "Message cannot be empty",
            "There is no command /me: /help lists them, and //me sends it as text",
            "[HH:MM] ada: /me waves",
            "[System] Online (1): ada",
            "[HH:MM] ada: two\twords",
            "[System] A message cannot have the character U+0007; of control characters"
            " only newline and tab. Not sent: a\\x07bell",
            "Goodbye!",
        ]

    async def test_goes_from_room_to_room(self, server: ServerProcess) -> None:
        url = server.urls["ws"]
        async with present(url, "bob") as bob:
            await bob.do("create", room="tea", title="Tea time")
            typed = ["/rooms", "/join Tea", "hi", "/whoami", "/join lobby", "/leave tea"]
            typed += ["/history 5", "/history x", "/leave", "nobody hears"]
            status, lines = await piped(url, "1", "ada", PASSWORD, *typed)
        assert status == 0
        assert lines[8:] == [
            "* lobby  Lobby",
            "  tea  Tea time",
            "[System] Joined tea as ada; /help lists the commands",
            "[System] Online (1): ada",
            "[HH:MM] ada: hi",
            "[System] You are ada, in lobby, tea",
            "[System] You are no longer in tea",
            "/history takes a number, 1 or more",
            "[System] You are no longer in lobby",
            "You are in no room: /join one",
            "Goodbye!",
        ]

    async def test_finds_what_was_said(self, server: ServerProcess) -> None:
        url = server.urls["ws"]
        async with contextlib.AsyncExitStack() as stack:
            bob, cyd, dan = [
                await stack.enter_async_context(present(url, name))
                for name in ("bob", "cyd", "dan")
            ]
            for each in (cyd, dan, bob):
                for number in range(7):
                    await each.do("send", room="lobby", content=f"Biscuit {number}")
            await bob.do("create", room="tea")
            seq = (await bob.do("send", room="tea", content="The café is open"))["seq"]
            await bob.do("edit", room="tea", seq=seq, content="The café is closed")
            await bob.do("react", room="tea", seq=seq, emoji="☕")
            typed = ["/search", "/search CAFE from:bob", '/search "6 biscuits"', "/search biscuit"]
            typed += ["/search from:", "/join tea", "/search in:tea closed"]
            status, lines = await piped(url, "1", "ada", PASSWORD, *typed)
        assert status == 0
        lines = [re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "WHEN", line) for line in lines]
        start = lines.index("/search is not used like that: /help says how")
        said = [f"[WHEN] {name}: Biscuit {n}" for name in ("cyd", "dan", "bob") for n in range(7)]
        assert lines[start + 1 : start + 25] == [
            "[WHEN] (tea) bob (edited, ☕ 1): The café is closed",
            "[System] Nothing was found",
            *said[1:],
            "[System] These are the newest 20; say more to find others",
            "[System] from: is followed by a name, without a space between them",
        ]
        assert lines[-2] == "[WHEN] bob (edited, ☕ 1): The café is closed"

    async def test_help_names_every_command(self, server: ServerProcess) -> None:
        _, lines = await piped(server.urls["ws"], "1", "ada", PASSWORD, "/help")
        assert [line.split()[0] for line in lines[8:-1]] == [
            *("/users", "/rooms", "/join", "/leave", "/create", "/msg", "/history", "/search"),
            *(
                "/reply",
                "/react",
                "/unreact",
                "/edit",
                "/delete",
                "/title",
                "/topic",
                "/slow",
                "/keep",
                "/archive",
                "/invite",
                "/kick",
                "/ban",
            ),
            *("/unban", "/mute", "/unmute", "/role", "/bans", "/report", "/reports", "/log"),
            *("/whoami", "/name", "/password", "/help", "/exit", "//text"),
        ]
        assert max(map(len, lines)) < 80

    async def test_keeps_order_in_a_room(self, server: ServerProcess) -> None:
        url = server.urls["ws"]
        async with connected(url) as bob:
            await bob.do("register", username="bob", password=PASSWORD)
            typed = ["/create tea private", "/topic Tea  and biscuits", "/invite bob", "/slow 5"]
            typed += [
                "/slow 0",
                "/keep 7",
                "/keep x",
                "/role bob reader",
                "/kick bob",
                "/bans",
                "/ban bob 5 Sells watches",
                "/mute bob",
                "/bans",
            ]
            typed += [
                "/unban bob",
                "/unmute bob",
                "/kick nobody",
                "/kick",
                "/ban bob 0",
            ]
            typed += ["/archive", "Hello?", "/archive off", "/title The tea room", "/rooms"]
            status, lines = await piped(url, "1", "ada", PASSWORD, *typed)
            told = await bob.event("membership")
            assert (told["change"], told["role"]) == ("invite", "invited")
        assert status == 0
        lines = [re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "WHEN", line) for line in lines]
        assert lines[8:] == [
            "[System] Joined tea as ada; /help lists the commands",
            "[System] Online (1): ada",
            "[System] ada changed the topic to: Tea  and biscuits",
            "[System] ada invited bob",
            "[System] ada set slow mode: one message in 5 seconds",
            "[System] ada set slow mode: off",
            "[System] ada lets messages go after 7 days",
            "/keep is not used like that: /help says how",
            "[System] bob is not a member of this room",
            "[System] ada removed bob",
            "[System] Nobody is banned or muted here",
            "[System] ada banned bob until WHEN: Sells watches",
            "[System] ada muted bob",
            "bob is banned by ada until WHEN: Sells watches",
            "bob is muted by ada",
            "[System] ada let bob come back",
            "[System] ada let bob write again",
            "[System] There is no such user",
            "/kick is not used like that: /help says how",
            "Minutes are 1 or more, and no more than a hundred years",
            "[System] ada archived the room",
            "[System] This room is archived: it can be read, and nobody writes there."
            " Not sent: Hello?",
            "[System] ada opened the room again",
            "[System] ada changed the title to: The tea room",
            "* lobby  Lobby",
            "* tea  The tea room",
            "Goodbye!",
        ]

    async def test_what_stands_between_a_command_and_its_text_may_be_any_space(
        self, server: ServerProcess
    ) -> None:
        typed = ["/create tea", "/title\tThe tea  room", "/topic\xa0 Milk", "/title", "/topic "]
        _, lines = await piped(server.urls["ws"], "1", "ada", PASSWORD, *typed)
        assert lines[-5:] == [
            "[System] ada changed the title to: The tea  room",
            "[System] ada changed the topic to: Milk",
            "[System] ada removed the title",
            "[System] ada removed the topic",
            "Goodbye!",
        ]

    async def test_mends_what_was_said_and_reports_it(self, server: ServerProcess) -> None:
        url = server.urls["ws"]
        async with present(url, "bob") as bob:
            await bob.do("create", room="tea")
            await bob.do("join", room="tea")
            reply = await bob.do("send", room="tea", content="Cheap watches")
            sent = datetime.fromisoformat(reply["timestamp"])
            typed = ["/join tea", "/edit nothing yet", "one", "/edit  one and a half", "/delete"]
            typed += ["/report Bob He sells  watches", "/report cyd spam", "/log", "/delete bob"]
            _, lines = await piped(url, "1", "ada", PASSWORD, *typed)
            (report,) = (await bob.do("reports", room="tea"))["reports"]
        assert (report["seq"], report["username"]) == (2, "ada")
        assert report["reason"] == "He sells  watches"
        assert lines[8:] == [
            "[HH:MM] bob: Cheap watches",
            "[System] Joined tea as ada; /help lists the commands",
            "[System] Online (2): ada, bob",
            "There is no message of ada on this screen",
            "[HH:MM] ada: one",
            "[HH:MM] ada (edited): one and a half",
            "[System] ada deleted a message of their own",
            "[System] The moderators are told",
            "There is no message of cyd on this screen",
            "[System] Only an owner or a moderator may do that here",
            "[System] Only who sent a message, or a moderator, may delete it",
            "Goodbye!",
        ]
        _, lines = await piped(url, "2", "bob", PASSWORD, "/reports", "/log 3", room="tea")
        lines = [re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "WHEN", line) for line in lines]
        assert lines[-6:] == [
            "[WHEN] ada reports: He sells  watches",
            f"  [{clock(sent)}] bob: Cheap watches",
            "[WHEN] bob joined",
            "[WHEN] ada joined",
            "[WHEN] ada deleted a message of their own",
            "Goodbye!",
        ]

    async def test_what_is_the_last_message_changes_with_what_is_deleted(
        self, server: ServerProcess
    ) -> None:
        typed = ["one", "two", "/delete ada", "/edit uno", "/reply ada yes", "/delete", "/delete"]
        _, lines = await piped(server.urls["ws"], "1", "ada", PASSWORD, *typed, "/edit nothing")
        assert lines[8:] == [
            "[HH:MM] ada: one",
            "[HH:MM] ada: two",
            "[System] ada deleted a message of their own",
            "[HH:MM] ada (edited): uno",
            "[HH:MM] ada (to ada: uno): yes",
            "[System] ada deleted a message of their own",
            "[System] ada deleted a message of their own",
            "There is no message of ada on this screen",
            "Goodbye!",
        ]

    async def test_tells_moderators_whose_message_was_deleted_and_which_was_reported(
        self, tmp_path: Path
    ) -> None:
        """Of one that is not among those shown on coming, and of one that is gone altogether."""
        now = datetime.now(UTC) - timedelta(days=40)
        repository = SqliteRepository(tmp_path / "chat.db")
        limits = Limits(messages=None)
        async with Chat(repository, clock=lambda: now, bcrypt_cost=4, limits=limits) as chat:
            bob, cyd = [await chat.register(name, PASSWORD) for name in ("bob", "cyd")]
            await chat.create(bob, "tea")
            await chat.update(bob, "tea", retention_days=30)
            await chat.join(cyd, "tea")
            gone = (await chat.send(cyd, "tea", "Cheap carpets")).seq
            await chat.report(cyd, "tea", gone, "My mistake")
            now += timedelta(days=35)
            sent = (await chat.send(cyd, "tea", "Cheap watches")).seq
            async with asyncio.timeout(PATIENCE):
                while (await chat.history(bob, "tea")).first <= gone:  # noqa: ASYNC110 - no event
                    await asyncio.sleep(0.05)
            await chat.report(cyd, "tea", sent, "My mistake, too")
            await chat.delete(bob, "tea", sent, reason="spam")
            for number in range(60):
                await chat.send(bob, "tea", f"Biscuit {number}")
        async with serving(tmp_path / "chat.db") as server:
            typed = ["/reports", "/log 1"]
            _, lines = await piped(server.urls["ws"], "2", "bob", PASSWORD, *typed, room="tea")
        lines = [re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "WHEN", line) for line in lines]
        assert [re.sub(r"\d\d:\d\d", "HH:MM", line) for line in lines[-6:]] == [
            "[WHEN] cyd reports: ",
            "  a message that is gone",
            "[WHEN] cyd reports: My mistake, too",
            "  [HH:MM] cyd: (deleted)",
            "[WHEN] bob deleted a message of cyd: spam",
            "Goodbye!",
        ]

    async def test_answers_and_reacts_and_marks_what_was_shown(self, server: ServerProcess) -> None:
        url = server.urls["ws"]
        async with present(url, "bob") as bob:
            await bob.do("join", room="lobby")
            first = await bob.do("send", room="lobby", content="Tea?")
            typed = ["/reply @Bob  Yes,  please", "/react bob \u2615", "/unreact bob \u2615"]
            typed += ["/react bob yes", "/react cyd \u2615", "/reply bob", "/react bob \U0001f44d"]
            _, lines = await piped(url, "1", "ada", PASSWORD, *typed, "/history 2")
            assert lines[9:] == [
                "[HH:MM] ada (to bob: Tea?): Yes,  please",
                "[System] ada put \u2615 beside bob: Tea?",
                "[System] ada took \u2615 away from bob: Tea?",
                "[System] A reaction is one emoji",
                "There is no message of cyd on this screen",
                "/reply is not used like that: /help says how",
                "[System] ada put \U0001f44d beside bob: Tea?",
                "[HH:MM] bob (\U0001f44d 1): Tea?",
                "[HH:MM] ada (to bob: Tea?): Yes,  please",
                "Goodbye!",
            ]
            assert first["seq"]
            for text in ("ping @ada", "@ada?"):
                await bob.do("send", room="lobby", content=text)
            await bob.do("create", room="tea")
            await bob.do("join", room="tea")
        status, lines = await piped(url, "2", "ada", PASSWORD, "/help")
        assert status == 0
        assert "[HH:MM] bob (mentions you): @ada?" in lines
        async with connected(url) as ada:
            reply = await ada.do("login", username="ada", password=PASSWORD)
            entry = reply["rooms"][0]
            assert (entry["unread"], entry["unread_mentions"]) == (0, 0)
            await ada.do("join", room="tea")
        async with connected(url) as bob:
            await bob.do("login", username="bob", password=PASSWORD)
            await bob.do("send", room="tea", content="@ada, biscuits?")
        _, lines = await piped(url, "2", "ada", PASSWORD)
        assert "[System] tea has 1 message for you: /join tea" in lines

    async def test_talks_with_one_person_alone(self, server: ServerProcess) -> None:
        url = server.urls["ws"]
        async with connected(url) as bob:
            await bob.do("register", username="bob", password=PASSWORD)
            await bob.do("create", room="den", kind="private")
            typed = ["/msg bob psst", "/msg @bob", "still here", "/whoami", "/rooms", "/msg nobody"]
            _, lines = await piped(url, "1", "ada", PASSWORD, *typed, "/leave @bob")
            assert lines[8:] == [
                "[HH:MM] (@bob) ada: psst",
                "[HH:MM] ada: still here",
                "[System] You are ada, in lobby, @bob",
                "* @bob",
                "* lobby  Lobby",
                "[System] There is no such user",
                "[System] You are no longer in @bob",
                "Goodbye!",
            ]
            room = (await bob.do("direct", username="ada"))["room"]["name"]
            await bob.do("send", room=room, content="where are you?")
            await bob.do("invite", room="den", username="ada")
            _, lines = await piped(url, "2", "ada", PASSWORD, "/rooms")
        assert "[System] @bob has 1 message for you: /msg bob" in lines
        assert "[System] You are invited to den: /join den" in lines
        assert "? den" in lines

    async def test_changes_a_name_and_a_password(self, server: ServerProcess) -> None:
        async with present(server.urls["ws"], "bob") as bob:
            wrong = ["/password", "wrong horse", ANOTHER, ANOTHER, ""]
            typed = ["/name", "/name  Ada   Lovelace", *wrong]
            typed += ["/password", PASSWORD, ANOTHER, "something else", "still me"]
            typed += ["/password", PASSWORD, ANOTHER, ANOTHER, "Y", "/password now"]
            _, lines = await piped(server.urls["ws"], "1", "ada", PASSWORD, *typed)
            assert (await bob.event("profile"))["display_name"] == "Ada Lovelace"
        asked = ["Old password:", "New password:", "The new one again:"]
        both = "End your other logins? (y/N)"
        start = lines.index("/name is not used like that: /help says how")
        assert lines[start:] == [
            "/name is not used like that: /help says how",
            "[System] You are shown as Ada Lovelace",
            *(*asked, both, "[System] The old password is wrong. Your password is as it was"),
            *(*asked, "[System] The new passwords differ. Your password is as it was"),
            "[HH:MM] ada: still me",
            *(*asked, both, "[System] Your password is changed; your other logins have ended"),
            "/password is not used like that: /help says how",
            "Goodbye!",
        ]
        status, lines = await piped(server.urls["ws"], "2", "ada", ANOTHER)
        assert (status, lines[-1]) == (0, "Goodbye!")
        assert "[System] Joined lobby as ada; /help lists the commands" in lines

    async def test_an_end_of_the_input_changes_no_password(self, server: ServerProcess) -> None:
        _, lines = await piped(server.urls["ws"], "1", "ada", PASSWORD, "/password", PASSWORD)
        assert lines[-3:] == ["Old password:", "New password:", "Goodbye!"]
        assert (await piped(server.urls["ws"], "2", "ada", PASSWORD))[0] == 0

    async def test_loses_nothing_to_the_rate_limit(self, server: ServerProcess) -> None:
        sent = [f"message {number}" for number in range(14)]  # four more than go at once
        status, lines = await piped(server.urls["ws"], "1", "ada", PASSWORD, *sent)
        assert status == 0
        assert [f"[HH:MM] ada: {text}" for text in sent] == lines[8:-1]

    async def test_shows_what_was_said_before(self, server: ServerProcess) -> None:
        await piped(server.urls["ws"], "1", "ada", PASSWORD, "first", "second")
        _, lines = await piped(server.urls["ws"], "1", "bob", PASSWORD)
        assert lines[6:9] == [
            "[HH:MM] ada: first",
            "[HH:MM] ada: second",
            "[System] Joined lobby as bob; /help lists the commands",
        ]

    async def test_shows_what_was_said_before_as_it_is_now(self, server: ServerProcess) -> None:
        async with present(server.urls["ws"], "ada") as ada:
            for text in ("first", "second", "third"):
                await ada.do("send", room="lobby", content=text)
            await ada.do("edit", room="lobby", seq=2, content="1st")
            await ada.do("delete", room="lobby", seq=3)
            _, lines = await piped(server.urls["ws"], "1", "bob", PASSWORD, "/history 3")
        shown = [
            "[HH:MM] ada (edited): 1st",
            "[HH:MM] ada: (deleted)",
            "[HH:MM] ada: third",
        ]
        assert lines[6:9] == shown, "on joining"
        assert lines[11:14] == shown, "and on asking"

    async def test_a_room_that_is_not_there_is_status_1(self, server: ServerProcess) -> None:
        status, lines = await piped(server.urls["ws"], "1", "ada", PASSWORD, room="cellar")
        assert (status, lines[-1]) == (1, "[System] There is no such room")

    async def test_end_of_input_at_the_menu_is_status_0(self, server: ServerProcess) -> None:
        assert (0, [*MENU, "Goodbye!"]) == await piped(server.urls["ws"])

    async def test_ctrl_c_is_status_0(self, server: ServerProcess) -> None:
        async with joined(server, "ada") as (process, stdout):
            process.send_signal(signal.SIGINT)
            assert await stdout.read() == b"Goodbye!\n"
            assert await process.wait() == 0

    async def test_a_leave_that_is_told_late_does_not_end_the_next_membership(
        self, server: ServerProcess
    ) -> None:
        """Over a slow line the event of a leave comes after the next join's reply was asked for."""
        target = urlsplit(server.urls["tcp"])

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            up, down = await asyncio.open_connection(target.hostname, target.port)

            async def slowly() -> None:
                async for line in up:
                    await asyncio.sleep(0.03)
                    writer.write(line)

            telling = asyncio.create_task(slowly())
            async for line in reader:
                down.write(line)
            telling.cancel()
            for each in (down, writer):
                each.close()

        async with await asyncio.start_server(relay, "127.0.0.1", 0) as proxy:
            url = f"tcp://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
            typed = ["/leave", "/join lobby", "still here", "/whoami"]
            status, lines = await piped(url, "1", "ada", PASSWORD, *typed)
        assert status == 0
        assert lines.count("[System] You are no longer in lobby") == 1
        assert "[HH:MM] ada: still here" in lines
        assert "[System] You are ada, in lobby" in lines

    async def test_says_when_one_is_out_of_the_room(self, server: ServerProcess) -> None:
        async with joined(server, "ada") as (_, stdout):
            async with present(server.urls["ws"], "ada") as elsewhere:
                await elsewhere.do("leave", room="lobby")
            assert await stdout.readline() == b"[System] You are no longer in lobby\n"

    async def test_says_who_removed_one(self, server: ServerProcess) -> None:
        url = server.urls["ws"]
        async with present(url, "bob") as bob, joined(server, "ada") as (process, stdout):
            await bob.do("create", room="tea")
            assert process.stdin is not None
            process.stdin.write(b"/join tea\n")
            while b"Online" not in await stdout.readline():
                pass
            await bob.do("ban", room="tea", username="ada", reason="spam")
            assert await stdout.readline() == b"[System] bob banned ada: spam\n"
            assert await stdout.readline() == b"[System] You are no longer in tea\n"
            process.stdin.write(b"/join tea\n")
            assert await stdout.readline() == b"[System] You are banned from this room\n"


class TestTerminal:
    async def test_two_people_talk(self, server: ServerProcess, tmux: Tmux) -> None:
        """Messages stand above the input line, each once, and disturb nothing typed."""
        ada = await entered(tmux, server.urls["ws"], "ada")
        bob = await entered(tmux, server.urls["tcp"], "bob", width=40, height=12)
        await ada.until_shown("[System] bob joined")
        await ada.type("half a thou")
        await ada.until(lambda lines: lines[-1] == "lobby> half a thou")
        await bob.enter("hi ada")
        await ada.until(
            lambda lines: "bob: hi ada" in lines[-2] and lines[-1] == "lobby> half a thou"
        )
        await ada.type("ght")
        await ada.press("Enter")
        await bob.until_shown("ada: half a thought")
        await ada.enter("/users")
        seen = await ada.until(lambda lines: "Online (2)" in lines[-2])
        assert [re.sub(r"^\[\d\d:\d\d\]", "[HH:MM]", line) for line in seen[-6:]] == [
            "[System] Online (1): ada",
            "[System] bob joined",
            "[HH:MM] bob: hi ada",
            "[HH:MM] ada: half a thought",
            "[System] Online (2): ada, bob",
            "lobby>",
        ]
        seen = await bob.lines()
        assert sum("hi ada" in line for line in seen) == 1
        assert sum("half a thought" in line for line in seen) == 1

        await ada.type("never sent")
        await ada.press("C-c")
        assert await ada.status() == 0
        await ada.until(lambda lines: lines[-1] == "Goodbye!")
        await bob.until_shown("[System] ada left")
        await bob.enter("/exit")
        assert await bob.status() == 0

    @pytest.mark.parametrize("key", ["C-c", "C-d"])
    @pytest.mark.parametrize("typed", [(), ("1",), ("1", "ada")], ids=["menu", "name", "password"])
    async def test_leaving_before_the_chat_is_status_0(
        self, server: ServerProcess, tmux: Tmux, typed: tuple[str, ...], key: str
    ) -> None:
        pane = await tmux.open(*CLIENT, "connect", server.urls["ws"])
        for question, answer in zip(["Choose", "Username", "Password"], typed, strict=False):
            await pane.until_shown(question)
            await pane.enter(answer)
        await pane.until_shown(["Choose", "Username", "Password"][len(typed)])
        await pane.press(key)
        assert await pane.status() == 0
        await pane.until(lambda lines: lines[-1] == "Goodbye!")

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda n: n.name)
    async def test_a_signal_leaves_properly(
        self, tmux: Tmux, tmp_path: Path, number: signal.Signals
    ) -> None:
        async with (
            serving(tmp_path / "chat.db") as server,
            present(server.urls["ws"], "bob") as bob,
        ):
            ada = await entered(tmux, server.urls["ws"], "ada")
            while "ada" not in (await bob.event("presence")).get("online", ()):
                pass
            await ada.signal(number)
            assert await ada.status() == 128 + number
            await ada.until(lambda lines: lines[-1] == "Goodbye!")
            while (await bob.event("presence")).get("offline") != ["ada"]:
                pass
            with contextlib.closing(sqlite3.connect(tmp_path / "chat.db")) as db:
                assert db.execute("SELECT count(*) FROM tokens").fetchone() == (1,)  # bob's

    async def test_a_password_is_not_seen_where_the_cursor_cannot_be_moved(
        self, server: ServerProcess, tmux: Tmux, tmp_path: Path
    ) -> None:
        pane = await tmux.open("env", "TERM=dumb", *CLIENT, "connect", server.urls["ws"])
        await pane.record(tmp_path / "written")
        await pane.until_shown("Choose")
        await pane.enter("1")
        await pane.until_shown("Username:")
        await pane.enter("ada")
        await pane.until_shown("Password:")
        await pane.enter(PASSWORD)
        await pane.until_shown("Joined lobby as ada")
        assert PASSWORD not in (tmp_path / "written").read_text()

    async def test_a_line_is_for_the_room_that_the_lines_before_it_lead_to(
        self, server: ServerProcess, tmux: Tmux
    ) -> None:
        async with present(server.urls["ws"], "bob") as bob:
            await bob.do("create", room="tea")
            ada = await entered(tmux, server.urls["ws"], "ada")
            await ada.type("/join tea\rfor tea\r/leave\r/join tea\r/whoami\r")
            await ada.until_shown("You are ada, in lobby, tea")
            page = await bob.do("history", room="tea")
            assert [message["content"] for message in page["messages"]] == ["for tea"]
            await ada.enter("/history " + "9" * 5000)
            await ada.until(lambda lines: lines[-2:-1] == ["/history takes a number, 1 or more"])
            await ada.enter("/leave", "/leave", "/users", "/history", "/leave")
            nowhere = ["You are in no room: /join one"] * 3
            await ada.until(lambda lines: [*nowhere, ">"] == lines[-4:])

    async def test_a_command_about_a_last_message_waits_for_what_was_sent_before_it(
        self, server: ServerProcess, tmux: Tmux
    ) -> None:
        async with (
            present(server.urls["ws"], "bob") as bob,
            Proxy(int(port(server.urls["tcp"]))) as proxy,
        ):
            ada = await entered(tmux, f"tcp://127.0.0.1:{proxy.port}", "ada")
            proxy.stall("down")
            await ada.type("one\rtwo\r/edit three\r/delete\r/edit uno\r/reply ada four\r")
            await ada.type("/edit 4\r")
            while (await bob.event("message"))["content"] != "two":
                pass
            proxy.resume()
            await ada.until_shown("ada (edited): 4")
            page = await bob.do("history", room="lobby")
        assert [each["content"] for each in page["messages"]] == ["uno", "", "4"]
        assert [each["erased"] for each in page["messages"] if "erased" in each] == [True]

    async def test_what_is_pasted_is_shown_as_it_is_written(
        self, server: ServerProcess, tmux: Tmux, tmp_path: Path
    ) -> None:
        ada = await entered(tmux, server.urls["ws"], "ada")
        await ada.record(tmp_path / "written")
        await ada.type("\u202egnp\u2066\u200b\x9b")
        await ada.until(lambda lines: lines[-1].startswith(r"lobby> \u202egnp\u2066\u200b"))
        written = (tmp_path / "written").read_text()
        assert not {"\u202e", "\u2066", "\u200b", "\x9b"} & {*written}

    async def test_a_line_that_is_wrapped_passes_for_no_other(
        self, server: ServerProcess, tmux: Tmux
    ) -> None:
        ada = await entered(tmux, server.urls["ws"], "ada", width=60)
        async with present(server.urls["ws"], "mallory") as mallory:
            spaces = " " * (60 - len("[12:00] mallory: hi"))
            await mallory.do("send", room="lobby", content=f"hi{spaces}[12:00] bob: I resign")
            seen = await ada.until_shown("bob: I resign")
        assert "    [12:00] bob: I resign" in seen

    async def test_a_password_is_never_seen(self, server: ServerProcess, tmux: Tmux) -> None:
        """Nor does the up arrow bring it back, where the name is asked for or in the chat."""
        pane = await tmux.open(*CLIENT, "connect", server.urls["ws"])
        await pane.until_shown("Choose")
        await pane.enter("2", "ada", PASSWORD)
        await pane.until_shown("Invalid username or password")
        await pane.enter("1")
        await pane.until(lambda lines: lines[-1].startswith("Username:"))
        await pane.press("Up")
        await pane.enter("ada", PASSWORD)
        await pane.until(lambda lines: lines[-1] == "lobby>")
        await pane.press("Up")
        await pane.enter("only this")
        seen = await pane.until_shown("ada: only this")
        assert not [line for line in seen if "horse" in line]

    async def test_a_password_is_changed_and_never_seen(
        self, server: ServerProcess, tmux: Tmux
    ) -> None:
        ada = await entered(tmux, server.urls["ws"], "ada")
        await ada.enter("/password", PASSWORD, ANOTHER, ANOTHER, "")
        await ada.until_shown("[System] Your password is changed")
        await ada.enter("hello")
        await ada.until_shown("ada: hello")
        assert not [line for line in await ada.lines() if "horse" in line or "staple" in line]
        async with connected(server.urls["ws"]) as peer:
            assert "token" in await peer.do("login", username="ada", password=ANOTHER)

    async def test_comes_back_with_what_was_missed_and_typed(
        self, tmux: Tmux, tmp_path: Path
    ) -> None:
        database = tmp_path / "chat.db"
        async with serving(database, transports=["ws"]) as server:
            url = server.urls["ws"]
            ada = await entered(tmux, url, "ada")
            server.signal(signal.SIGKILL)
            await ada.until_shown("trying again")
            await ada.enter("typed meanwhile")
            await ada.type("half a thou")
        async with serving(database, "--port", port(url), transports=["ws"]):
            seen = await ada.until(lambda lines: "typed meanwhile" in lines[-2])
            assert seen[-1] == "lobby> half a thou"
            assert any("[System] Connected again" in line for line in seen)
            assert sum("ada: typed meanwhile" in line for line in seen) == 1
            await ada.press("C-c")
            assert await ada.status() == 0

    async def test_shows_who_is_typing_until_they_have_sent_it(
        self, server: ServerProcess, tmux: Tmux
    ) -> None:
        ada = await entered(tmux, server.urls["ws"], "ada")
        async with (
            present(server.urls["tcp"], "bob") as bob,
            present(server.urls["ws"], "cyd") as cyd,
        ):
            await ada.until_shown("cyd joined")
            await ada.type("/join tea")
            await ada.press("C-u")
            await ada.type("Some text")
            assert (await bob.event("typing"))["username"] == "ada"
            await ada.press("C-u")
            await bob.do("typing", room="lobby")
            await ada.until(lambda lines: lines[-1].endswith(" bob is typing"))
            await cyd.do("typing", room="lobby")
            await ada.until(lambda lines: lines[-1].endswith(" 2 are typing"))
            await bob.do("send", room="lobby", content="This")
            await ada.until(lambda lines: lines[-1].endswith(" cyd is typing"))
            await ada.until(lambda lines: lines[-1] == "lobby>")
            assert [each for each in bob.events if each["event"] == "typing"] == [
                {"event": "typing", "room": "lobby", "username": "cyd"}
            ], "once, and of no command"

    async def test_what_is_said_in_another_room_has_the_name_of_that_room(
        self, server: ServerProcess, tmux: Tmux
    ) -> None:
        """Whichever the other one is: turning to it turns the marks, too."""
        url = server.urls["ws"]
        ada = await entered(tmux, url, "ada")
        async with present(url, "cyd") as cyd:
            await cyd.do("create", room="tea", title="Tea")  # whose only owner could not leave it
        async with present(url, "bob") as bob:
            await ada.until_shown("[System] bob joined")
            await ada.enter("/join tea")
            await ada.until(lambda lines: "Online (1): ada" in lines[-2] and lines[-1] == "tea>")
            await bob.do("join", room="tea")
            await ada.until(lambda lines: lines[-2] == "[System] bob joined")
            for room in ("lobby", "tea"):
                await bob.do("send", room=room, content=f"here is the {room}")
            await ada.until_shown("bob: here is the tea")
            await ada.enter("/join lobby")
            await ada.until(lambda lines: lines[-1] == "lobby>")
            for room in ("tea", "lobby"):
                await bob.do("send", room=room, content=f"again the {room}")
            await ada.until_shown("bob: again the lobby")
            for room, seq in (("tea", 4), ("lobby", 4)):
                await bob.do("edit", room=room, seq=seq, content=f"edited in the {room}")
                await bob.do("delete", room=room, seq=seq)
            deleted = "[System] bob deleted a message of their own"
            seen = await ada.until(lambda lines: deleted in lines)
            await bob.do("leave", room="tea")
            await ada.until_shown("[System] bob left tea")
        assert [line[8:] for line in seen if re.match(r"\[\d\d:\d\d\]", line)] == [
            "(lobby) bob: here is the lobby",
            "bob: here is the tea",
            "(tea) bob: again the tea",
            "bob: again the lobby",
            "(tea) bob (edited): edited in the tea",
            "bob (edited): edited in the lobby",
        ]
        assert f"{deleted} in tea" in seen

    async def test_what_was_said_meanwhile_comes_once_above_what_is_half_typed(
        self, tmux: Tmux, tmp_path: Path
    ) -> None:
        """The server is killed, and somebody writes before the client has come back."""
        database = tmp_path / "chat.db"
        async with serving(database, transports=["ws"]) as server:
            url = server.urls["ws"]
            ada = await entered(tmux, url, "ada")
            await ada.enter("before")
            await ada.until_shown("ada: before")
            await ada.type("half a thou")
            await ada.until(lambda lines: lines[-1] == "lobby> half a thou")
            server.signal(signal.SIGKILL)
            await ada.until_shown("trying again")
        await said_meanwhile(database, "bob", "meanwhile")
        async with serving(database, "--port", port(url), transports=["ws"]):
            await ada.until(
                lambda lines: "bob: meanwhile" in lines[-2] and lines[-1] == "lobby> half a thou"
            )
            await ada.type("ght")
            await ada.press("Enter")
            await ada.until(
                lambda lines: "ada: half a thought" in lines[-2] and lines[-1] == "lobby>"
            )
            async with present(server.urls["ws"], "bob") as bob:
                history = await bob.do("history", room="lobby")
            seen = await ada.lines()
        said = ["ada: before", "bob: meanwhile", "ada: half a thought"]
        assert said == [line[8:] for line in seen if re.match(r"\[\d\d:\d\d\]", line)]
        assert said == [f"{each['sender']}: {each['content']}" for each in history["messages"]]

    async def test_a_log_that_began_anew_has_other_last_messages(
        self, tmux: Tmux, tmp_path: Path
    ) -> None:
        """The database is put back from a backup, which has no message of that number."""
        database, copy = tmp_path / "chat.db", tmp_path / "copy.db"
        async with serving(database, transports=["ws"]) as server:
            url = server.urls["ws"]
            ada = await entered(tmux, url, "ada")
            await ada.enter("kept")
            await ada.until_shown("ada: kept")
            await asyncio.to_thread(SqliteRepository(database).backup, copy)
            await ada.enter("lost")
            await ada.until_shown("ada: lost")
            server.signal(signal.SIGKILL)
            await ada.until_shown("trying again")
        put_back(copy, database)
        async with serving(database, "--port", port(url), transports=["ws"]):
            await ada.until_shown("lobby could not go on where it was")
            await ada.enter("/edit as it was")
            await ada.until_shown("ada (edited): as it was")


class TestNoServer:
    async def refused(self, url: str) -> str:
        async with client("connect", url) as process:
            out, err = await process.communicate()
        assert (process.returncode, out) == (1, b"")
        return err.decode()

    async def test_nobody_listens(self) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))  # and does not listen
            url = f"ws://127.0.0.1:{taken.getsockname()[1]}/ws"
            lines = (await self.refused(url)).splitlines()
        assert f"Cannot connect to server at {url} (nothing is listening there)" == lines[0]
        assert len([line for line in lines[1:] if line.startswith("  - ")]) == 3
        assert len(lines) == 4

    async def test_something_else_answers(self, server: ServerProcess) -> None:
        other = server.urls["tcp"].replace("tcp:", "ws:")
        assert f"Cannot connect to server at {other} (" in await self.refused(other)

    async def test_there_is_no_such_path(self, server: ServerProcess) -> None:
        assert "(HTTP status 4" in await self.refused(f"{server.urls['ws']}/nowhere")

    @pytest.mark.parametrize(
        ("line", "why"),
        [
            (b"SSH-2.0-OpenSSH_9.2\r\n", "what answers is no chat server"),
            (
                b'{"bye":{"code":4006,"reason":"too many connections","reconnect":true}}\n',
                "too many connections",
            ),
            (b"", "the connection was lost"),
        ],
        ids=["stranger", "bye", "nothing"],
    )
    async def test_no_hello(self, line: bytes, why: str) -> None:
        async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(line)
            writer.close()

        async with await asyncio.start_server(answer, "127.0.0.1", 0) as stranger:
            url = f"tcp://127.0.0.1:{stranger.sockets[0].getsockname()[1]}"
            assert f"Cannot connect to server at {url} ({why}" in await self.refused(url)

    async def test_it_is_silent(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"http://127.0.0.1:{silent.getsockname()[1]}"
            said = await self.refused(url)
        assert said.startswith(f"Cannot connect to server at {url} (no answer in 5 seconds)")

    @pytest.mark.parametrize("url", ["localhost:5050", "ftp://localhost", "ws://", "ws://a:b/ws"])
    async def test_an_address_that_is_none_is_a_mistake_of_use(self, url: str) -> None:
        async with client("connect", url) as process:
            await process.communicate()
        assert process.returncode == 2


@pytest.mark.parametrize("way", ["argument", "option", "environment"])
async def test_the_first_chatrooms_address_is_good(
    server: ServerProcess, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """`http://host:port`, where that page has it and where this client has its own."""
    arguments = {"argument": [server.http], "option": ["--server", server.http]}.get(way, [])
    monkeypatch.setenv("SERVER_URL", server.http if way == "environment" else "http://elsewhere")
    async with client("connect", *arguments) as process:
        out, err = await process.communicate(f"1\nada\n{PASSWORD}\nhello\n".encode())
    assert (process.returncode, err) == (0, b"")
    assert b"] ada: hello\n" in out


async def test_an_address_is_given_once() -> None:
    async with client("connect", "ws://one", "--server", "ws://another") as process:
        _, err = await process.communicate()
    assert process.returncode == 2
    assert b"URL and --server are the same thing" in err


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("ws://localhost:5050/ws", "ws://localhost:5050/ws"),
        ("ws://localhost:5050", "ws://localhost:5050/ws"),
        ("wss://chat.example/rooms", "wss://chat.example/rooms"),
        ("http://chat-server:5050", "ws://chat-server:5050/ws"),
        ("https://chat.example/talk/", "wss://chat.example/talk/ws"),
        ("https://chat.example/talk/ws", "wss://chat.example/talk/ws"),
        ("ws://[::1]:5050/", "ws://[::1]:5050/ws"),
    ],
)
def test_address(url: str, expected: str) -> None:
    assert expected == address(url)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain text, é, 你好, שלום", "plain text, é, 你好, שלום"),
        ("👩‍👩‍👧 ❤️ نمی‌خواهم ۝", "👩‍👩‍👧 ❤️ نمی‌خواهم ۝"),
        ("tab\tstays", "tab\tstays"),
        ("two\nlines", "two\n    lines"),
        ("\x1b[2J", r"\x1b[2J"),
        ("\x9b2J \x85 \x80", r"\x9b2J \x85 \x80"),
        ("\r\b\x07\x00\x7f", r"\r\x08\x07\x00\x7f"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\u2066\u2069\u200e\u200f\u061c", r"\u2066\u2069\u200e\u200f\u061c"),
        ("\u2028\u2029", r"\u2028\u2029"),
        ("a\u200bb\ufeffc\u2060d\u00ade", r"a\u200bb\ufeffc\u2060d\xade"),
        ("\U000e0041", r"\U000e0041"),
        ("\ud800 \udcff", r"\ud800 \udcff"),
    ],
    ids=ascii,
)
def test_printable(text: str, expected: str) -> None:
    assert expected == printable(text)


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (Message("tea", 1, "ada", NOON, "hi"), "[HH:MM] ada: hi"),
        (Message("tea", 1, "ada", NOON, "hey", edited=NOON), "[HH:MM] ada (edited): hey"),
        (Message("tea", 1, "ada", NOON, "", erased=True), "[HH:MM] ada: (deleted)"),
        (Edit("tea", 2, "ada", NOON, 1, "hey"), "[HH:MM] ada (edited): hey"),
        (Edit("tea", 2, "ada", NOON, 1, "", erased=True), None),
        (Delete("tea", 3, "bob", NOON, 1, "spam"), "[System] bob deleted a message: spam"),
        (Message("tea", 1, "ada", NOON, "hi", reply_to=7), "[HH:MM] ada (an answer): hi"),
        (
            Message(
                "tea", 1, "ada", NOON, "hi", edited=NOON, reactions=(Tally("\u2615", 2, me=True),)
            ),
            "[HH:MM] ada (edited, \u2615 2): hi",
        ),
        (
            Reaction("tea", 5, "ada", NOON, 1, "\u2615", "remove"),
            "[System] ada took \u2615 away from a message",
        ),
        (Member("tea", 4, "bob", NOON, "bob", "leave"), None),
        (Member("tea", 4, "bob", NOON, "ada", "join", "member"), None),
        (Member("tea", 4, "bob", NOON, "ada", "invite"), "[System] bob invited ada"),
        (Member("tea", 4, "bob", NOON, "ada", "kick"), "[System] bob removed ada"),
        (
            Member("tea", 4, "bob", NOON, "ada", "ban", None, LAST, "spam"),
            "[System] bob banned ada until 9999-12-31 HH:MM: spam",
        ),
        (Member("tea", 4, "bob", NOON, "ada", "unban"), "[System] bob let ada come back"),
        (Member("tea", 4, "bob", NOON, "ada", "mute"), "[System] bob muted ada"),
        (Member("tea", 4, "bob", NOON, "ada", "unmute"), "[System] bob let ada write again"),
        (Member("tea", 4, "bob", NOON, "ada", "role", "owner"), "[System] bob made ada an owner"),
        (Member("tea", 4, "bob", NOON, "ada", "role", "reader"), "[System] bob made ada a reader"),
        (
            RoomChanged("tea", 4, "bob", NOON, "", "Milk", 0, True),
            "[System] bob removed the title, changed the topic to: Milk,"
            " set slow mode: off, archived the room",
        ),
        (
            RoomChanged("tea", 4, "bob", NOON, archived=False, retention_days=1),
            "[System] bob opened the room again, lets messages go after 1 day",
        ),
        (
            RoomChanged("tea", 4, "bob", NOON, retention_days=30),
            "[System] bob lets messages go after 30 days",
        ),
        (RoomChanged("tea", 4, "bob", NOON, retention_days=0), "[System] bob keeps all messages"),
    ],
)
def test_an_event_is_a_line_or_none(event: Durable, expected: str | None) -> None:
    text = shown(event)
    assert expected == (None if text is None else re.sub(r"\d\d:\d\d", "HH:MM", text))


def test_a_line_says_whom_it_speaks_to_and_what_it_is_about() -> None:
    about = Message("tea", 1, "bob", NOON, "a long story\n" * 9)
    answer = Message("tea", 2, "ada", NOON, "@bob yes", reply_to=1, mentions=("bob",))
    text = shown(answer, me="bob", about=about)
    assert text is not None
    assert text.endswith(
        "ada (to bob: a long story a long story a l\u2026, mentions you): @bob yes"
    )
    deleted = Delete("tea", 3, "ada", NOON, 1, "off topic")
    assert shown(deleted, about=about) == "[System] ada deleted a message of bob: off topic"
    reaction = Reaction("tea", 3, "ada", NOON, 1, "\u2615", "add")
    text = shown(reaction, "tea", about=evolve(about, content="x" * 99))
    assert text == f"[System] (tea) ada put \u2615 beside bob: {'x' * 29}\u2026"


def test_a_line_names_the_room_where_it_is_another() -> None:
    said = shown(Message("tea", 1, "ada", NOON, "hi"), "tea")
    assert said is not None
    assert said.endswith("] (tea) ada: hi")
    deleted = shown(Delete("tea", 3, "bob", NOON, 1), "tea")
    assert deleted == "[System] bob deleted a message in tea"
    muted = shown(Member("tea", 4, "bob", NOON, "ada", "mute", reason="spam"), "tea")
    assert muted == "[System] bob muted ada in tea: spam"
    changed = shown(RoomChanged("tea", 4, "bob", NOON, topic="Milk"), "tea")
    assert changed == "[System] (tea) bob changed the topic to: Milk"


@given(st.text(), st.integers(1, 100))
def test_what_is_wrapped_fits_and_only_its_first_line_is_not_indented(
    text: str, width: int
) -> None:
    shown = printable(text)
    first, *rest = wrapped(shown, width).split("\n")
    assert all(get_cwidth(line) <= max(width, 6) for line in (first, *rest))
    assert all(line.startswith("    ") for line in rest)
    assert "".join(shown.split()) == "".join([first, *rest]).replace(" ", "") or "\xa0" in text


def test_printable_leaves_no_control_character() -> None:
    everything = "".join(map(chr, range(0x10000)))
    shown = set(printable(everything))
    forbidden = {*range(0x20), *range(0x7F, 0xA0), *range(0xD800, 0xE000)} - {0x09, 0x0A}
    forbidden |= {0x61C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A)}
    assert set() == shown & set(map(chr, forbidden))


async def test_a_hostile_message_is_shown_as_it_is_written(
    server: ServerProcess, tmux: Tmux
) -> None:
    ada = await entered(tmux, server.urls["ws"], "ada")
    async with present(server.urls["ws"], "mallory") as mallory:
        refused = await mallory.do("send", room="lobby", content="\x9b2J")
        assert refused["error"]["code"] == "invalid"
        await mallory.do("send", room="lobby", content="\u202egnp.exe\n[12:00] bob: hi")
        seen = await ada.until_shown("bob: hi")
    told = next(number for number, line in enumerate(seen) if "mallory:" in line)
    assert seen[told].endswith(r"mallory: \u202egnp.exe")
    assert seen[told + 1] == "    [12:00] bob: hi"
    _, lines = await piped(server.urls["ws"], "1", "carol", PASSWORD)
    assert r"[HH:MM] mallory: \u202egnp.exe" in lines
    assert not set("\u202e\x9b\x1b") & set("".join(lines))


@contextlib.asynccontextmanager
async def script(
    directory: Path, *arguments: str, stdout: int = asyncio.subprocess.PIPE
) -> AsyncIterator[asyncio.subprocess.Process]:
    """chat-cli with pipes, which keeps its logins in a directory."""
    process = await asyncio.create_subprocess_exec(
        *CLIENT,
        *arguments,
        env={**os.environ, "XDG_STATE_HOME": str(directory)},
        stdin=asyncio.subprocess.PIPE,
        stdout=stdout,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(PATIENCE):
            yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def scripted(
    directory: Path, *arguments: str, typed: str = ""
) -> tuple[int | None, str, str]:
    """Return the status of a command, and what it wrote to its two outputs."""
    async with script(directory, *arguments) as process:
        out, err = await process.communicate(typed.encode())
    return process.returncode, out.decode(), err.decode()


async def logged_in(directory: Path, url: str, name: str = "ada", *, new: bool = True) -> str:
    """Have a directory keep a login, and return its token."""
    login = ("login", url, "--username", name, "--password-stdin", *["--register"][:new])
    status, _, err = await scripted(directory, *login, typed=f"{PASSWORD}\n")
    assert (status, err) == (0, "")
    tokens = json.loads((directory / "chatcore" / "tokens.json").read_text())
    return str(tokens[url])


async def test_a_script_logs_in_once_and_sends_and_reads(
    server: ServerProcess, tmp_path: Path
) -> None:
    url = server.urls["ws"]
    await logged_in(tmp_path, url)
    file = tmp_path / "chatcore" / "tokens.json"
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700

    assert (0, "", "") == await scripted(tmp_path, "send", "--server", url, "hi", "there")
    assert (0, "", "") == await scripted(tmp_path, "send", "--server", url, typed="one\n\n2 ☃\n")
    tail = ("tail", "--server", url, "--json", "--no-follow")
    status, out, err = await scripted(tmp_path, *tail)
    assert (status, err) == (0, "")
    assert out.isascii()
    said = [json.loads(line) for line in out.splitlines()]
    assert [event["content"] for event in said if event["event"] == "message"] == [
        "hi there",
        "one",
        "2 ☃",
    ]

    assert (0, "Logged out\n", "") == await scripted(tmp_path, "logout", url)
    status, _, err = await scripted(tmp_path, "send", "--server", url, "more")
    assert status == 1
    assert "Log in first" in err


async def test_a_second_login_revokes_the_one_that_it_replaces(
    server: ServerProcess, tmp_path: Path
) -> None:
    """Or nobody could revoke it: no file has it any more."""
    url = server.urls["ws"]
    first = await logged_in(tmp_path, url)
    second = await logged_in(tmp_path, url, new=False)
    async with connected(url) as peer:
        refused = await peer.do("login", token=first)
        assert refused["error"]["code"] == "bad_credentials"
        assert (await peer.do("login", token=second))["user"]["username"] == "ada"
    third = await logged_in(tmp_path, url, "bob")
    assert (0, "", "") == await scripted(tmp_path, "send", "--server", url, "I am bob")
    async with connected(url) as peer:
        refused = await peer.do("login", token=second)
        assert refused["error"]["code"] == "bad_credentials"
        assert (await peer.do("login", token=third))["user"]["username"] == "bob"


@pytest.mark.parametrize("leave", ["C-c", "C-d", "/exit"])
async def test_a_login_through_the_menu_is_revoked_at_the_end(
    tmux: Tmux, tmp_path: Path, leave: str
) -> None:
    database = tmp_path / "chat.db"
    async with serving(database, transports=["ws"]) as server:
        with contextlib.closing(sqlite3.connect(database)) as connection:

            def tokens() -> int:
                return int(connection.execute("SELECT count(*) FROM tokens").fetchone()[0])

            ada = await entered(tmux, server.urls["ws"], "ada")
            assert tokens() == 1
            await (ada.enter(leave) if leave.startswith("/") else ada.press(leave))
            assert await ada.status() == 0
            assert tokens() == 0


async def test_a_login_that_is_kept_skips_the_menu_and_outlives_a_conversation(
    server: ServerProcess, tmux: Tmux, tmp_path: Path
) -> None:
    url = server.urls["ws"]
    token = await logged_in(tmp_path, url)
    pane = await tmux.open("env", f"XDG_STATE_HOME={tmp_path}", *CLIENT, "connect", url)
    seen = await pane.until(lambda lines: lines[-1] == "lobby>")
    assert "1. Register" not in seen
    await pane.enter("/exit")
    assert await pane.status() == 0
    async with connected(url) as peer:
        assert (await peer.do("login", token=token))["user"]["username"] == "ada"


async def test_what_is_for_the_menu_is_no_message_where_a_login_is_kept(
    server: ServerProcess, tmp_path: Path
) -> None:
    url = server.urls["ws"]
    await logged_in(tmp_path, url)
    async with present(url, "bob") as bob:
        typed = f"2\nada\n{PASSWORD}\nthe only message\n"
        status, out, err = await scripted(tmp_path, "connect", url, typed=typed)
        assert (status, err) == (0, "")
        assert "1. Register" in out
        assert await bob.messages(1) == ["the only message"]
        assert [m["content"] for m in (await bob.do("history", room="lobby"))["messages"]] == [
            "the only message"
        ]


async def test_lines_that_cannot_be_messages_are_told_and_left_out(
    server: ServerProcess, tmp_path: Path
) -> None:
    url = server.urls["ws"]
    await logged_in(tmp_path, url)
    typed = f"one\n\x1b[31mred\n{'x' * 4001}\nfour\n"
    status, out, err = await scripted(tmp_path, "send", "--server", url, typed=typed)
    assert (status, out) == (1, "")
    assert [line.partition(": A message ")[0] for line in err.splitlines()] == [
        "Error: line 2 was not sent",
        "Error: line 3 was not sent",
    ]
    _, out, _ = await scripted(tmp_path, "tail", "--no-follow", "--server", url)
    assert [line.partition("] ")[2] for line in out.splitlines()] == ["ada: one", "ada: four"]


async def test_a_login_revoked_meanwhile_is_told_as_that(
    server: ServerProcess, tmp_path: Path
) -> None:
    url = server.urls["ws"]
    await logged_in(tmp_path, url)
    async with present(url, "ada") as ada, script(tmp_path, "send", "--server", url) as process:
        assert process.stdin is not None
        process.stdin.write(b"one\n")
        assert await ada.messages(1) == ["one"]
        await ada.do("logout", everywhere=True)
        process.stdin.write(b"two\n")
        _, err = await process.communicate()
    assert (process.returncode, err) == (
        1,
        f"Error: logged out; `chat-cli login {url}` logs in anew\n".encode(),
    )


@pytest.mark.parametrize("stdin", ["<&-", "0>/dev/null"], ids=["closed", "for writing"])
@pytest.mark.parametrize("command", ["send --server", "connect"])
async def test_input_that_cannot_be_read_is_told(
    server: ServerProcess, tmp_path: Path, command: str, stdin: str
) -> None:
    await logged_in(tmp_path, server.urls["ws"])
    words = [*CLIENT, *command.split(), server.urls["ws"]]
    process = await asyncio.create_subprocess_shell(
        f"exec {shlex.join(words)} {stdin}",
        env={**os.environ, "XDG_STATE_HOME": str(tmp_path)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE):
        _, err = await process.communicate()
    assert (process.returncode, err) == (
        1,
        b"Error: Standard input cannot be read: Bad file descriptor\n",
    )


async def test_a_pipe_is_not_read_ahead_without_bound(
    server: ServerProcess, tmp_path: Path
) -> None:
    url = server.urls["ws"]
    await logged_in(tmp_path, url)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    lines, taken = b"a line of a log that grows faster than five lines a second\n" * 1000, 0
    async with present(url, "bob") as bob:
        process = await asyncio.create_subprocess_exec(
            *(*CLIENT, "send", "--server", url),
            env={**os.environ, "XDG_STATE_HOME": str(tmp_path)},
            stdin=reading,
        )
        os.close(reading)
        for _ in range(12):  # the burst, and a little of what comes slowly
            with contextlib.suppress(BlockingIOError):
                while True:
                    taken += os.write(writing, lines)
            await bob.messages(1)
        os.close(writing)
        process.kill()
        await process.wait()
    assert taken < 200_000, "the pipe's own 64 KiB and some lines"


@pytest.mark.parametrize("command", ["tail --no-follow --server", "connect"])
async def test_output_that_cannot_be_written_is_told(
    server: ServerProcess, tmp_path: Path, command: str
) -> None:
    url = server.urls["ws"]
    await logged_in(tmp_path, url)
    await scripted(tmp_path, "send", "--server", url, "hello")
    full = os.open("/dev/full", os.O_WRONLY)
    async with script(tmp_path, *command.split(), url, stdout=full) as process:
        os.close(full)
        _, err = await process.communicate(b"")
    assert (process.returncode, err) == (1, b"Error: No space left on device\n")


async def test_a_login_that_cannot_be_kept_is_revoked(tmp_path: Path) -> None:
    async with serving(tmp_path / "chat.db") as server:
        url = server.urls["ws"]
        login = ("login", url, "--username", "ada", "--password-stdin", "--register")
        status, _, err = await scripted(Path("/proc"), *login, typed=f"{PASSWORD}\n")
        assert (status, "cannot be written" in err) == (1, True)
        with contextlib.closing(sqlite3.connect(tmp_path / "chat.db")) as db:
            assert db.execute("SELECT count(*) FROM tokens").fetchone() == (0,)


def test_logins_that_are_kept_at_the_same_time_are_all_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(lambda n: tokens.keep(f"ws://{n}/ws", "cc_"), range(40)):
            pass
    assert [tokens.kept(f"ws://{n}/ws") for n in range(40)] == ["cc_"] * 40


async def test_without_a_terminal_a_password_is_not_asked_for(
    server: ServerProcess, tmp_path: Path
) -> None:
    url = server.urls["ws"]
    status, out, err = await scripted(tmp_path, "login", url, "--username", "ada", typed="x\n")
    assert (status, out) == (2, "")
    assert "use --password-stdin" in err


async def test_tail_ends_when_nobody_reads_on(server: ServerProcess, tmp_path: Path) -> None:
    """At once, not when the next message comes, which may be never."""
    url = server.urls["ws"]
    await logged_in(tmp_path, url)
    await scripted(tmp_path, "send", "--server", url, "the last for today")
    reading, writing = os.pipe()
    async with script(tmp_path, "tail", "--server", url, stdout=writing) as process:
        os.close(writing)
        # Perhaps without its newline, which Python may write on its own.
        assert b"ada: the last for today" in await asyncio.to_thread(os.read, reading, 99)
        os.close(reading)
        _, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")


@pytest.mark.parametrize("command", ["connect", "tail --no-follow --server"])
async def test_nobody_to_read_what_is_printed_is_no_failure(
    server: ServerProcess, tmp_path: Path, command: str
) -> None:
    url = server.urls["ws"]
    await logged_in(tmp_path, url)
    await scripted(tmp_path, "send", "--server", url, "hello")
    reading, writing = os.pipe()
    os.close(reading)
    async with script(tmp_path, *command.split(), url, stdout=writing) as process:
        os.close(writing)
        assert process.stderr is not None
        assert await process.stderr.read() == b""
        assert await process.wait() == 0


async def test_tail_prints_each_event_once_across_a_restart(tmp_path: Path) -> None:
    database = tmp_path / "chat.db"
    async with serving(database, transports=["ws"]) as server:
        url = server.urls["ws"]
        await logged_in(tmp_path, url)
        assert (0, "", "") == await scripted(tmp_path, "send", "--server", url, typed="one\ntwo\n")
        async with script(tmp_path, "tail", "--json", "-n", "1", "--server", url) as process:
            assert process.stdout is not None
            said = [json.loads(await process.stdout.readline())]
            assert said[0]["content"] == "two"
            server.signal(signal.SIGKILL)
            await server.exit_code()
            await said_meanwhile(database, "bob", "three", "four")
            async with (
                serving(database, "--port", port(url), transports=["ws"]) as again,
                present(again.urls["ws"], "bob") as bob,
            ):
                await bob.do("send", room="lobby", content="five")
                while said[-1].get("content") != "five":
                    said.append(json.loads(await process.stdout.readline()))
                await bob.do("edit", room="lobby", seq=said[0]["seq"] + 2, content="III")
                await bob.do("delete", room="lobby", seq=said[0]["seq"] + 3)
                await bob.do("leave", room="lobby")
                while said[-1].get("action") != "leave":
                    said.append(json.loads(await process.stdout.readline()))
                process.send_signal(signal.SIGINT)
                assert await process.communicate() == (b"", b"\n")
    assert [event["content"] for event in said if event["event"] == "message"] == [
        *("two", "three", "four", "five"),
    ]
    first = said[0]["seq"]
    assert [(event["target"] - first, event.get("content")) for event in said[-3:-1]] == [
        (2, "III"),
        (3, None),
    ]
    assert [event["seq"] for event in said] == list(range(first, first + len(said)))


async def test_an_interrupted_script_has_status_130(server: ServerProcess, tmp_path: Path) -> None:
    """Not 0, as of one that has done all; nor a traceback."""
    url = server.urls["ws"]
    await logged_in(tmp_path, url)
    async with script(tmp_path, "tail", "--server", url) as tail:
        assert tail.stdout is not None
        async with script(tmp_path, "send", "--server", url) as send:
            assert send.stdin is not None
            send.stdin.write(b"one\n")
            assert (await tail.stdout.readline()).endswith(b"ada: one\n")
            for process in (send, tail):
                process.send_signal(signal.SIGINT)
                assert await process.communicate() == (b"", b"\n")
                assert process.returncode == 130


async def test_a_file_of_tokens_that_others_may_read_or_that_is_damaged_is_refused(
    server: ServerProcess, tmp_path: Path
) -> None:
    file = tmp_path / "chatcore" / "tokens.json"
    file.parent.mkdir()
    file.write_text("{}")
    for mode, text, why in ((0o644, "{}", "read by others"), (0o600, "[1", "damaged")):
        file.write_text(text)
        file.chmod(mode)
        status, _, err = await scripted(tmp_path, "send", "--server", server.urls["ws"], "hi")
        assert status == 1
        assert why in err


EVIL = "\x1b]0;title\x07\x9b2J\u202e\x7f"
HARMLESS = r"\x1b]0;title\x07\x9b2J\u202e\x7f"


@contextlib.asynccontextmanager
async def hostile_server() -> AsyncIterator[str]:
    """The address of a server whose every text is EVIL: names, titles, errors, its goodbye."""
    evil = EVIL
    room = {"name": evil, "kind": "public", "title": evil, "topic": evil}
    place = {"epoch": "e", "first": 1, "head": 0, "read": 0, "unread": 0}
    now = "2026-11-24T12:00:00.000Z"
    user = {"username": evil, "display_name": evil}
    login: dict[str, object] = {"user": user, "token": "t", "expires": now, "rooms": []}
    message = {"room": evil, "seq": 1, "sender": evil, "timestamp": now, "content": evil}
    said = [{"event": "message", **message}]
    joined = {"room": room, "role": "member", **place, "recovered": False, "events": said}
    answers: dict[str, dict[str, object]] = {
        "login": login,
        "join": joined,
        "who": {"online": [evil], "count": 1},
        "rooms": {"rooms": [room], "complete": True},
    }
    limits = {"frame_bytes": 65536, "content_chars": 4000, "history": 200, "resume": 10}
    hello = {"v": 1, "server": evil, "features": [], "ping": 25.0}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def say(frame: object) -> None:
            writer.write(json.dumps(frame).encode() + b"\n")

        say({"hello": {**hello, "limits": {**limits, "in_flight": 64}}})
        while line := await reader.readline():
            command = json.loads(line)
            if (cmd := command["cmd"]) in answers:
                say({"reply": cmd, "id": command["id"], **answers[cmd]})
            else:
                say({"error": {"code": "invalid", "message": evil}, "id": command["id"]})
            if cmd == "send":
                say([evil])
                say({"error": {"code": "invalid", "message": evil}})
                say({"event": evil, "seq": 1})
                say({"event": "message", **message})
                say({"bye": {"code": 4505, "reason": evil, "reconnect": False}})
                break
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as hostile:
        url = f"tcp://127.0.0.1:{hostile.sockets[0].getsockname()[1]}"
        yield url


def assert_harmless(raw: bytes) -> None:
    """Check that nothing of EVIL is there as it is."""
    text = raw.decode()
    assert HARMLESS in text
    assert set() == set(text) & set("\x07\x9b\u202e\x7f")
    assert "\x1b]" not in text  # prompt_toolkit has sequences of its own, and none like it


async def test_a_hostile_server_cannot_reach_what_reads_a_pipe() -> None:
    async with hostile_server() as url, client("connect", url) as process:
        assert process.stdin is not None
        process.stdin.write(b"1\nada\nx\n2\nada\nx\n/rooms\nhello\n")
        assert process.stdout is not None
        out = await process.stdout.read()  # before the end of the input, which would end it too
        assert process.stderr is not None
        assert await process.stderr.read() == b""
        assert await process.wait() == 1
    assert out.count(HARMLESS.encode()) >= 8
    assert b"\x1b" not in out
    assert_harmless(out)


async def test_a_hostile_server_cannot_reach_a_terminal(tmux: Tmux, tmp_path: Path) -> None:
    """Of all bytes that are written to it, those of the input line too."""
    file = tmp_path / "bytes"
    async with hostile_server() as url:
        wait = ("sh", "-c", 'read go; exec "$@"', "sh")  # until what it writes is recorded
        pane = await tmux.open(*wait, *CLIENT, "connect", url, width=200)
        await pane.record(file)
        await pane.enter("go")
        await pane.until_shown("Choose an option:")
        await pane.enter("1", "ada", "x")
        await pane.until_shown(HARMLESS)  # an error
        await pane.enter("2", "ada", "x")
        await pane.until(lambda lines: lines[-1] == f"{HARMLESS}>")
        await pane.enter("/rooms", "/users", "hello")
        assert await pane.status() == 1
        await eventually(lambda: b"Disconnected from server" in file.read_bytes())
    raw = file.read_bytes()
    assert b"\x1b[" in raw  # it is a terminal's
    assert raw.count(HARMLESS.encode()) >= 10
    assert_harmless(raw)


async def test_a_hostile_server_cannot_reach_the_terminal_of_a_script(tmp_path: Path) -> None:
    async with hostile_server() as url:
        login = ("login", url, "--username", EVIL, "--password-stdin")
        status, out, err = await scripted(tmp_path, *login, typed="x\n")
        assert (status, err) == (0, "")
        assert_harmless(out.encode())
        for command in (("send", "hello"), ("tail", "--no-follow")):
            _, out, err = await scripted(tmp_path, *command, "--server", url)
            assert "\x1b" not in out + err
            assert_harmless((out + err).encode())


@pytest.mark.parametrize(
    "arguments",
    [
        (EVIL,),
        (f"--{EVIL}",),
        ("connect", EVIL),
        ("connect", "a", EVIL, EVIL),
        ("connect", f"--room={EVIL}", f"--{EVIL}"),
        ("tail", EVIL),
        ("tail", "-n", EVIL),
        ("send", "--server", EVIL, "hello"),
        ("login", "--password-stdin", EVIL),
    ],
    ids=lambda arguments: ascii(" ".join(arguments)),
)
async def test_a_hostile_command_line_is_refused_in_print(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    status, out, err = await scripted(tmp_path, *arguments)
    assert (status, out) == (2, "")
    assert "\x1b" not in err
    assert_harmless(err.encode())


async def test_importing_the_command_line_is_cheap() -> None:
    heavy = {"asyncio", "attrs", "prompt_toolkit", "websockets"}
    script = f"import sys, chat_cli.cli; print(sorted({heavy} & set(sys.modules)))"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert out.strip() == b"[]"
