"""The client library against real servers, and against one that follows a script."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import orjson
import pytest
import websockets

from chat_transports.client import Backoff, CannotConnect, Client, connect
from chatcore import Delete, Edit, Message, User, follower
from chatcore.errors import (
    BadCredentials,
    ChatError,
    Conflict,
    Internal,
    Invalid,
    NotMember,
    RateLimited,
    TooLarge,
    Unavailable,
)
from chatcore.events import (
    Connected,
    Event,
    Lost,
    Notice,
    ProfileChanged,
    Reconnecting,
    Reset,
    Resumed,
)
from chatcore.testing import PATIENCE
from tests.support import PASSWORD, serving

SOON = Backoff(first=0.05, most=0.2)


async def until(chat: Client, wanted: Callable[[Event | Notice], object]) -> list[Event | Notice]:
    """Take events up to the first that is wanted, and return them all."""
    seen: list[Event | Notice] = []
    async with asyncio.timeout(PATIENCE):
        async for event in chat:
            seen.append(event)
            if wanted(event):
                return seen
    raise AssertionError(f"the client closed: {chat.error}, after {seen}")


def texts(events: list[Event | Notice]) -> list[str]:
    return [event.content for event in events if isinstance(event, Message)]


def port(url: str) -> str:
    return url.removesuffix("/ws").rpartition(":")[2]


# With a real server.


@pytest.mark.parametrize("door", ["ws", "tcp"])
async def test_it_is_a_participant_over_each_door(door: str) -> None:
    async with serving() as server, connect(server.urls[door]) as chat:
        assert (chat.state, chat.user) == ("connected", None)
        user = await chat.register("Ada", PASSWORD)
        assert (user.username, chat.user) == ("ada", user)
        joined = await chat.join("lobby")
        replies = await asyncio.gather(*(chat.send("lobby", str(n)) for n in range(5)))
        assert [joined.head + n for n in range(1, 6)] == [reply.seq for reply in replies]
        events = await until(chat, lambda event: isinstance(event, Message) and event.seq == 6)
        assert ["0", "1", "2", "3", "4"] == texts(events)
        page = await chat.search("from:ada", limit=3)
        assert [found.content for found in page.messages] == ["4", "3", "2"]
        page = await chat.search("from:ada", cursor=page.next)
        assert [(found.content, found.head) for found in page.messages] == [("1", 6), ("0", 6)]
        with pytest.raises(Invalid, match="A search has a word in it"):
            await chat.search("?")
        with pytest.raises(Conflict):
            await chat.register("bob", PASSWORD)
        await chat.logout()
        assert [event async for event in chat] == []
        assert (chat.state, chat.error) == ("closed", None)
        with pytest.raises(Unavailable, match="The client is closed"):
            await chat.ping()


async def test_it_logs_in_with_a_password_or_a_token(tmp_path: Path) -> None:
    async with serving(tmp_path / "chat.db") as server:
        url = server.urls["ws"].replace("ws://", "http://").removesuffix("/ws")
        async with connect(url) as chat:
            await chat.register("ada", PASSWORD)
            await chat.join("lobby")
        async with connect(url, username="ada", password=PASSWORD) as chat:
            assert chat.user is not None
            assert chat.token is not None
            token = chat.token
        async with connect(url, token=token) as chat:
            assert [membership.room.name for membership in chat.memberships] == ["lobby"]
        with pytest.raises(BadCredentials, match="Invalid username or password"):
            async with connect(url, username="ada", password="wrong horse"):
                pass
        with pytest.raises(BadCredentials):
            async with connect(url, token="cc_none"):
                pass


async def test_it_comes_back_and_shows_what_was_missed(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(tmp_path / "chat.db"))
        chat = await stack.enter_async_context(connect(server.urls["tcp"], backoff=SOON))
        await chat.register("ada", PASSWORD)
        joined = await chat.join("lobby")
        server.signal(signal.SIGKILL)
        await until(chat, lambda event: isinstance(event, Reconnecting))
        assert chat.state == "reconnecting"
        unsent = asyncio.create_task(chat.send("lobby", "while away"))

        again = await stack.enter_async_context(
            serving(tmp_path / "chat.db", "--tcp-port", port(server.urls["tcp"]))
        )
        async with connect(again.urls["ws"]) as other:
            await other.register("bob", PASSWORD)
            await other.join("lobby")
            await other.send("lobby", "hello?")
            assert not (await unsent).duplicate
            seen = await until(chat, lambda event: "hello?" in texts([event]))
            if "while away" not in texts(seen):
                seen += await until(chat, lambda event: "while away" in texts([event]))
    assert sum(isinstance(event, Connected) for event in seen) == 1
    (resumed,) = (event for event in seen if isinstance(event, Resumed))
    assert resumed.room == "lobby"
    seqs = [seq for event in seen if (seq := getattr(event, "seq", None)) is not None]
    assert list(range(joined.head + 1, joined.head + 1 + len(seqs))) == seqs


@pytest.mark.parametrize("door", ["ws", "tcp"])
async def test_what_became_of_old_messages_while_away_arrives_too(
    tmp_path: Path, door: str
) -> None:
    """An edit and a deletion of messages far before what a join would show; the server restarts."""
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(tmp_path / "chat.db", "--limits", "none"))
        bob = await stack.enter_async_context(connect(server.urls["tcp"], backoff=SOON))
        await bob.register("bob", PASSWORD)
        await bob.join("lobby")
        first, second = [(await bob.send("lobby", text)).seq for text in ("one", "two")]
        await asyncio.gather(*(bob.send("lobby", f"more {number}") for number in range(300)))
        chat = await stack.enter_async_context(connect(server.urls[door], backoff=SOON))
        await chat.register("ada", PASSWORD)
        head = (await chat.join("lobby")).head
        held = (await chat.history("lobby", around=second, limit=3)).messages

        server.signal(signal.SIGKILL)
        await until(chat, lambda event: isinstance(event, Reconnecting))
        await server.exit_code()
        ports = ("--port", port(server.urls["ws"]), "--tcp-port", port(server.urls["tcp"]))
        away = asyncio.gather(
            bob.edit("lobby", first, "uno"),
            bob.delete("lobby", second, reason="a mistake"),
            bob.send("lobby", "the end"),
        )
        again = await stack.enter_async_context(
            serving(tmp_path / "chat.db", "--limits", "none", *ports)
        )
        edited, deleted, said = await away
        seen = await until(chat, lambda event: "the end" in texts([event]))
        told = [event for event in seen if isinstance(event, Edit | Delete)]
        assert told == [
            Edit("lobby", head + 1, "bob", edited.timestamp, first, "uno"),
            Delete("lobby", head + 2, "bob", deleted.timestamp, second, "a mistake"),
        ]
        assert (edited.seq, deleted.seq, said.seq) == (head + 1, head + 2, head + 3)
        assert sum(isinstance(event, Resumed) for event in seen) == 1

        again.signal(signal.SIGTERM)
        await until(chat, lambda event: isinstance(event, Reconnecting))
        await again.exit_code()
        await stack.enter_async_context(serving(tmp_path / "chat.db", "--limits", "none", *ports))
        page = (await chat.history("lobby", around=second, limit=3)).messages
        assert [(each.seq, each.content, each.erased) for each in page][:2] == [
            (first, "uno", False),
            (second, "", True),
        ]
        assert page[0].edited == edited.timestamp
        assert chat.fold([*held, *told]) == [*page], "what is held goes on as the server's does"


async def test_a_log_that_began_anew_is_told(tmp_path: Path) -> None:
    """Another database behind the same address: what was held is worth nothing."""
    for name in ("old.db", "new.db"):
        async with serving(tmp_path / name) as server, connect(server.urls["tcp"]) as chat:
            await chat.register("ada", PASSWORD)
            await chat.join("lobby")
    async with serving(tmp_path / "old.db") as server:
        door = port(server.urls["tcp"])
        async with connect(
            server.urls["tcp"], username="ada", password=PASSWORD, backoff=SOON
        ) as chat:
            joined = await chat.join("lobby")
            server.signal(signal.SIGKILL)
            await server.exit_code()
            async with serving(tmp_path / "new.db", "--tcp-port", door):
                seen = await until(chat, lambda event: isinstance(event, Reset))
    reset = seen[-1]
    assert isinstance(reset, Reset)
    assert reset.joined.epoch != joined.epoch


async def test_a_room_left_elsewhere_meanwhile_is_lost_and_not_joined_again(tmp_path: Path) -> None:
    database = tmp_path / "chat.db"
    async with serving(database) as server:
        door = port(server.urls["tcp"])
        async with connect(server.urls["tcp"], backoff=SOON) as chat:
            await chat.register("ada", PASSWORD)
            await chat.join("lobby")
            server.signal(signal.SIGKILL)
            await server.exit_code()
            async with (
                serving(database, transports=("ws",)) as between,
                connect(between.urls["ws"], token=chat.token) as other,
            ):
                await other.leave("lobby")
            async with serving(database, "--tcp-port", door):
                seen = await until(chat, lambda event: isinstance(event, Lost))
                assert [
                    room.room.name for room in chat.memberships if room.room.name == "lobby"
                ] == []
                with pytest.raises(NotMember):
                    await chat.send("lobby", "am I here?")
    assert isinstance(seen[-1], Lost)


async def test_it_logs_in_again_with_the_password_that_it_has_changed(tmp_path: Path) -> None:
    """Where its token is none any more by the time that it comes back."""
    database = tmp_path / "chat.db"
    async with serving(database) as server:
        door = port(server.urls["tcp"])
        async with connect(server.urls["tcp"]) as chat:
            await chat.register("ada", PASSWORD)
        as_ada = partial(connect, username="ada", password=PASSWORD)
        async with (
            as_ada(server.urls["tcp"], backoff=SOON) as chat,
            as_ada(server.urls["ws"]) as other,
        ):
            assert await chat.change_profile(display_name="Ada L.") == User("ada", "Ada L.")
            assert chat.user == User("ada", "Ada L.")
            await until(other, lambda event: event == ProfileChanged("ada", "Ada L."))
            assert other.user == chat.user
            await chat.change_password(PASSWORD, "battery staple", end_others=True)
            assert [event async for event in other] == []
            assert isinstance(other.error, BadCredentials)

            chat.token = "cc_expired"
            server.signal(signal.SIGKILL)
            await server.exit_code()
            async with serving(database, "--tcp-port", door):
                await until(chat, lambda event: isinstance(event, Connected))
                assert chat.token != "cc_expired"


async def test_who_cannot_connect_is_told_why(unused_tcp_port: int) -> None:
    with pytest.raises(CannotConnect, match="nothing is listening there"):
        async with connect(f"tcp://127.0.0.1:{unused_tcp_port}"):
            pass
    with pytest.raises(ValueError, match="is not like ws://"):
        async with connect("localhost:5050"):
            pass
    with pytest.raises(Invalid, match="Username and password are required"):
        async with connect("tcp://localhost", username="ada"):
            pass


async def test_what_cannot_be_sent_is_refused_here() -> None:
    async with serving() as server, connect(server.urls["tcp"]) as chat:
        await chat.register("ada", PASSWORD)
        await chat.join("lobby")
        with pytest.raises(Invalid, match="surrogate"):
            await chat.send("lobby", "\ud800")
        with pytest.raises(TooLarge, match="65536 bytes"):
            await chat.send("lobby", "x" * 70_000)
        await chat.ping()


async def test_sends_keep_to_the_servers_rate() -> None:
    async with serving() as server, connect(server.urls["tcp"]) as chat:
        await chat.register("ada", PASSWORD)
        await chat.join("lobby")
        sent, edited = await asyncio.gather(
            asyncio.gather(*(chat.send("lobby", str(n)) for n in range(9))),
            asyncio.gather(*(chat.edit("lobby", 2, str(n)) for n in range(5))),
        )
        seqs = [*(reply.seq for reply in sent), *(reply.seq for reply in edited)]
        assert [*range(seqs[0], seqs[0] + 14)] == seqs


async def test_who_does_not_iterate_misses_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(follower, "EVENTS_HELD", 4)
    monkeypatch.setattr(follower, "EVENTS_MOST", 8)
    async with (
        serving(tmp_path / "chat.db", "--limits", "none") as server,
        connect(server.urls["tcp"]) as chat,
        connect(server.urls["ws"]) as other,
    ):
        await chat.register("ada", PASSWORD)
        joined = await chat.join("lobby")
        await other.register("bob", PASSWORD)
        await other.join("lobby")
        for n in range(50):
            await other.send("lobby", str(n))
            await chat.ping()  # reads past the events
        seen = await until(chat, lambda event: "49" in texts([event]))
    assert [str(n) for n in range(50)] == texts(seen)
    seqs = [seq for event in seen if (seq := getattr(event, "seq", None)) is not None]
    assert list(range(joined.head + 1, joined.head + 1 + len(seqs))) == seqs


async def test_reading_on_after_a_leave_does_not_undo_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(follower, "EVENTS_HELD", 4)
    monkeypatch.setattr(follower, "EVENTS_MOST", 8)
    async with (
        serving(tmp_path / "chat.db", "--limits", "none") as server,
        connect(server.urls["tcp"]) as chat,
        connect(server.urls["ws"]) as other,
    ):
        await chat.register("ada", PASSWORD)
        await chat.join("lobby")
        await other.register("bob", PASSWORD)
        await other.join("lobby")
        for n in range(20):
            await other.send("lobby", str(n))
            await chat.ping()
        leaving = asyncio.create_task(chat.leave("lobby"))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.3):
                async for _ in chat:
                    pass
        await leaving
        members = await other.members("lobby")
    assert ["bob"] == [member.username for member in members.members]


# With a server that follows a script.

Frame: TypeAlias = dict[str, Any]
Script: TypeAlias = Callable[
    [Callable[[str], Awaitable[Frame]], Callable[..., None]], Awaitable[None]
]

ADA = {"username": "ada", "display_name": "Ada"}
LIMITS = {"frame_bytes": 65536, "content_chars": 4000, "history": 200, "resume": 10000}
HELLO = {
    "v": 1,
    "server": "script",
    "features": [],
    "ping": 25.0,
    "limits": {**LIMITS, "in_flight": 64, "messages": None},
}
LOBBY = {"name": "lobby", "kind": "public", "title": "Lobby", "topic": ""}


def login(id: int) -> Frame:
    membership = {"room": LOBBY, "role": "member", "epoch": "e", "first": 1}
    return {
        "reply": "login",
        "id": id,
        "user": ADA,
        "token": "cc_1",
        "expires": "2030-01-01T00:00:00.000Z",
        "rooms": [{**membership, "head": 1, "read": 1, "unread": 0}],
    }


def joined(id: int, head: int, *events: Frame, recovered: bool = False) -> Frame:
    return {
        "reply": "join",
        "id": id,
        "room": LOBBY,
        "role": "member",
        "epoch": "e",
        "first": 1,
        "head": head,
        "read": 1,
        "unread": 0,
        "recovered": recovered,
        "events": events,
    }


def message(seq: int) -> Frame:
    return {
        "event": "message",
        "room": "lobby",
        "seq": seq,
        "sender": "bob",
        "timestamp": "2026-01-01T00:00:00.000Z",
        "content": str(seq),
    }


@contextlib.asynccontextmanager
async def following(*scripts: Script) -> AsyncIterator[str]:
    """Serve one connection after another, each by its script, and hang up at its end."""
    rest = list(scripts)
    failures: list[BaseException] = []

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def say(*frames: Frame) -> None:
            writer.write(b"".join(orjson.dumps(frame) + b"\n" for frame in frames))

        async def hear(cmd: str) -> Frame:
            frame: Frame = orjson.loads(await reader.readuntil())
            assert frame["cmd"] == cmd
            return frame

        try:
            await rest.pop(0)(hear, say)
        except (EOFError, OSError):
            pass
        except Exception as error:  # noqa: BLE001 - raised below, where a test sees it
            failures.append(error)
        finally:
            writer.close()

    server = await asyncio.start_server(connection, "127.0.0.1", 0)
    async with server:
        yield f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    assert failures == []


async def test_a_hole_is_asked_for_again_and_unknown_events_count() -> None:
    async def script(hear: Any, say: Any) -> None:
        say({"hello": HELLO})
        say(login((await hear("login"))["id"]))
        say(joined((await hear("join"))["id"], 1))
        say(message(2), {"event": "poll", "room": "lobby", "seq": 3}, message(4), message(6))
        again = await hear("join")
        assert again["since"] == {"epoch": "e", "seq": 4}
        say(message(7), joined(again["id"], 7, message(5), message(6), recovered=True), message(7))
        await hear("nothing more")

    async with following(script) as url, connect(url, token="cc_1") as chat:
        await chat.join("lobby")
        seen = await until(chat, lambda event: "7" in texts([event]))
    assert ["2", "4", "5", "6", "7"] == texts(seen)


async def test_who_was_removed_meanwhile_does_not_accept_an_invitation_by_coming_back() -> None:
    async def cut(hear: Any, say: Any) -> None:
        say({"hello": HELLO})
        say(login((await hear("login"))["id"]))
        say(joined((await hear("join"))["id"], 1))

    async def invited(hear: Any, say: Any) -> None:
        say({"hello": HELLO})
        reply = login((await hear("login"))["id"])
        reply["rooms"][0]["role"] = "invited"
        say(reply)
        await hear("nothing more")

    async with following(cut, invited) as url, connect(url, token="c", backoff=SOON) as chat:
        await chat.join("lobby")
        seen = await until(chat, lambda event: isinstance(event, Lost))
        assert isinstance(seen[-1], Lost)
        assert (seen[-1].room, seen[-1].error.code) == ("lobby", "not_member")
        assert [each.role for each in chat.memberships] == ["invited"]


async def test_slow_mode_is_told_and_holds_up_nothing_else() -> None:
    async with (
        serving(transports=["tcp"]) as server,
        connect(server.urls["tcp"]) as ada,
        connect(server.urls["tcp"]) as bob,
    ):
        await ada.register("ada", PASSWORD)
        await bob.register("bob", PASSWORD)
        for room in ("slow", "quick"):
            await ada.create(room)
            await bob.join(room)
        await ada.update("slow", slow_mode=600)
        await bob.send("slow", "one")
        with pytest.raises(RateLimited, match="slow mode") as refused:
            await bob.send("slow", "two")
        assert refused.value.retry_after is not None
        assert 590 < refused.value.retry_after <= 600
        assert (await bob.send("quick", "at once")).seq == 3
        assert (await ada.send("slow", "an owner")).seq == 5
        assert (await ada.send("slow", "need not wait")).seq == 6


async def test_unanswered_commands_are_asked_again_in_order_and_others_fail() -> None:
    sent: list[Frame] = []

    async def cut(hear: Any, say: Any) -> None:
        say({"hello": HELLO})
        say(login((await hear("login"))["id"]))
        sent.extend([await hear(cmd) for cmd in ("create", "send", "edit", "delete")])

    async def answers(hear: Any, say: Any) -> None:
        say({"hello": HELLO})
        say(login((await hear("login"))["id"]))
        for seq, cmd in ((2, "send"), (3, "edit"), (4, "delete")):
            again = await hear(cmd)
            sent.append(again)
            say(
                {
                    "reply": cmd,
                    "id": again["id"],
                    "room": "lobby",
                    "seq": seq,
                    "timestamp": "2026-01-01T00:00:00.000Z",
                    "duplicate": True,
                }
            )
        await hear("nothing more")

    async with following(cut, answers) as url, connect(url, token="c", backoff=SOON) as chat:
        created = asyncio.create_task(chat.create("tea"))
        durable = asyncio.gather(
            chat.send("lobby", "one"), chat.edit("lobby", 1, "two"), chat.delete("lobby", 1)
        )
        with pytest.raises(Unavailable, match="whether this was done is not known"):
            await created
        assert [2, 3, 4] == [reply.seq for reply in await durable]
    assert sent[1:4] == sent[4:]
    assert 3 == len({frame["txn_id"] for frame in sent[4:]}), "each has one, and the same again"


@pytest.mark.parametrize("code", ["not_member", "not_found", "banned"])
async def test_a_room_is_left_by_a_leave_whose_first_answer_was_lost(code: str) -> None:
    """Whatever the room is by then for who is not in it: not there, where it is private."""

    def refusal(asked: Frame) -> Frame:
        return {
            "error": {"code": code, "message": "No", "retryable": False},
            "id": asked["id"],
        }

    async def cut(hear: Any, say: Any) -> None:
        say({"hello": HELLO})
        say(login((await hear("login"))["id"]))
        say(joined((await hear("join"))["id"], 1))
        say(refusal(await hear("leave")))
        await hear("leave")

    async def answers(hear: Any, say: Any) -> None:
        say({"hello": HELLO})
        say({**login((await hear("login"))["id"]), "rooms": []})
        say(refusal(await hear("leave")))
        await hear("nothing more")

    async with following(cut, answers) as url, connect(url, token="c", backoff=SOON) as chat:
        await chat.join("lobby")
        with pytest.raises(ChatError) as first:
            await chat.leave("lobby")
        assert first.value.code == code, "what was asked once alone is answered as it is"
        await chat.leave("lobby")


async def test_a_refusal_that_will_pass_is_waited_for() -> None:
    async def script(hear: Any, say: Any) -> None:
        say({"hello": HELLO})
        say(login((await hear("login"))["id"]))
        heard = []
        for code in ("rate_limited", "unavailable"):
            heard.append(refused := await hear("send"))
            error = {"code": code, "message": "Later", "retryable": True, "retry_after": 0.05}
            say({"error": error, "id": refused["id"]})
        done = await hear("send")
        assert heard == [done, done]
        say(
            {
                "reply": "send",
                "id": done["id"],
                "room": "lobby",
                "seq": 2,
                "timestamp": "2026-01-01",
            }
        )
        await hear("nothing more")

    async with following(script) as url, connect(url, token="cc_1") as chat:
        assert (await chat.send("lobby", "hi")).seq == 2


async def test_a_server_that_answers_something_else_costs_one_call() -> None:
    async def script(hear: Any, say: Any) -> None:
        say({"hello": HELLO})
        say(login((await hear("login"))["id"]))
        say(joined((await hear("send"))["id"], 1))
        say({"reply": "newer", "id": (await hear("who"))["id"]})
        say([], {"event": "newer"}, {"event": "message", "room": "lobby"}, {"reply": "ping"})
        say({"reply": "ping", "id": (await hear("ping"))["id"]})
        await hear("nothing more")

    async with following(script) as url, connect(url, token="cc_1") as chat:
        with pytest.raises(Internal, match="something else"):
            await chat.send("lobby", "hi")
        with pytest.raises(Internal, match="cannot be understood"):
            await chat.who("lobby")
        await chat.ping()


async def test_a_hole_that_stays_is_no_reason_to_ask_for_ever() -> None:
    async def holes(hear: Any, say: Any) -> None:
        say({"hello": HELLO})
        say(login((await hear("login"))["id"]))
        say(joined((await hear("join"))["id"], 1), message(3))
        say(joined((await hear("join"))["id"], 3, message(3), recovered=True))
        await hear("nothing more")

    async with following(holes) as url, connect(url, token="cc_1") as chat:
        await chat.join("lobby")
        seen = await until(chat, lambda event: isinstance(event, Reconnecting))
    assert isinstance(seen[-1], Reconnecting)
    assert seen[-1].reason == "lobby has a hole after 1"


async def test_a_server_that_takes_nothing_more_is_left_too() -> None:
    """Even a goodbye finds no room in a full buffer."""
    stuck = asyncio.Event()

    async def deaf(connection: websockets.ServerConnection) -> None:
        limits = {**LIMITS, "in_flight": 1000, "messages": None}
        hello = {**HELLO, "ping": 0.2, "limits": limits}
        await connection.send(orjson.dumps({"hello": hello}).decode())
        said = orjson.loads(await connection.recv())
        await connection.send(orjson.dumps(login(said["id"])).decode())
        connection.transport.pause_reading()
        await stuck.wait()

    async with websockets.serve(deaf, "127.0.0.1", 0, ping_interval=None, close_timeout=0) as door:
        url = f"ws://127.0.0.1:{next(iter(door.sockets)).getsockname()[1]}/ws"
        async with connect(url, token="c", backoff=SOON) as chat:
            sends = [asyncio.create_task(chat.send("lobby", "x" * 60_000)) for _ in range(200)]
            await until(chat, lambda event: isinstance(event, Connected))
            stuck.set()
        assert {type(error) for error in await asyncio.gather(*sends, return_exceptions=True)} == {
            Unavailable
        }


async def test_a_silent_server_is_left() -> None:
    hello = {"hello": {**HELLO, "ping": 0.1}}

    async def silent(hear: Any, say: Any) -> None:
        say(hello)
        say(login((await hear("login"))["id"]))
        await hear("ping")
        await hear("nothing more")

    async def alive(hear: Any, say: Any) -> None:
        say({"hello": HELLO})
        say(login((await hear("login"))["id"]))
        await hear("nothing more")

    async with following(silent, alive) as url, connect(url, token="c", backoff=SOON) as chat:
        seen = await until(chat, lambda event: isinstance(event, Connected))
    assert isinstance(seen[0], Reconnecting)
    assert seen[0].reason == "the server has fallen silent"


async def test_it_waits_as_long_as_bye_says_and_ends_where_it_says_so() -> None:
    async def shutdown(hear: Any, say: Any) -> None:
        say({"hello": HELLO})
        say(login((await hear("login"))["id"]))
        say({"bye": {"code": 4001, "reason": "shutdown", "reconnect": True, "retry_after": 0.3}})

    async def revoked(hear: Any, say: Any) -> None:
        say({"hello": HELLO})
        say(login((await hear("login"))["id"]))
        say({"bye": {"code": 4502, "reason": "logged out", "reconnect": False}})

    async with following(shutdown, revoked) as url, connect(url, token="c", backoff=SOON) as chat:
        notices = [notice async for notice in chat]
        assert isinstance(notices[0], Reconnecting)
        assert notices[0].reason == "shutdown"
        assert 0.3 <= notices[0].delay <= 0.35
        assert (chat.state, str(chat.error)) == ("closed", "logged out")


async def test_what_is_no_chat_server_is_recognised() -> None:
    async def something(_: Any, say: Any) -> None:
        say({"welcome": "to another world"})

    async def nothing(hear: Any, say: Any) -> None:
        pass

    for script in (something, nothing):
        with pytest.raises(Unavailable, match=r"no chat server|the connection was lost"):
            async with following(script) as url, connect(url):
                pass


async def test_a_cancelled_call_is_not_sent_later(tmp_path: Path) -> None:
    async with (
        serving(tmp_path / "chat.db") as server,
        connect(server.urls["tcp"], backoff=SOON) as chat,
    ):
        await chat.register("ada", PASSWORD)
        await chat.join("lobby")
        server.signal(signal.SIGKILL)
        await until(chat, lambda event: isinstance(event, Reconnecting))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await chat.send("lobby", "never mind")
        async with serving(tmp_path / "chat.db", "--tcp-port", port(server.urls["tcp"])):
            await chat.send("lobby", "this")
            page = await chat.history("lobby")
    assert ["this"] == [message.content for message in page.messages]
