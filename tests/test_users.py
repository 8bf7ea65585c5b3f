"""chat-serve user, with no server and beside one that runs."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from chatcore import Chat, SqliteRepository
from chatcore.chat import prepare
from chatcore.repository.sql.migrate import downgrade
from chatcore.testing import PATIENCE
from tests.support import CHAT_SERVE, PASSWORD, connected, present, run_here, serving
from tests.terminal import Tmux

ANOTHER = "battery staple"


async def user(
    database: Path | str, *arguments: str, typed: str = PASSWORD, status: int = 0
) -> str:
    """Run chat-serve user, and return what it prints: to people, where it fails."""
    where = database if isinstance(database, str) else f"sqlite:///{database}"
    command = ("--bcrypt-cost", "4", "user", *arguments, "--database", where)
    found, out, err = await run_here(*command, typed=f"{typed}\n")
    assert found == status, err
    if status:
        assert out == ""
    else:
        assert err == ""
    return err if status else out


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "chat.db"
    repository = SqliteRepository(path)
    prepare(repository)
    repository.close()
    return path


def listing(directory: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in directory.iterdir()}


def listed(printed: str) -> list[list[str]]:
    return [line.split("\t") for line in printed.splitlines()]


# Without a server.


async def test_an_account_from_its_beginning_to_its_end(database: Path) -> None:
    said = await user(database, "add", "Ada", "--password-stdin")
    assert said == "ada is there, shown as Ada.\n"
    said = await user(database, "add", "r2", "--bot", "--display-name", "R2 D2", "--password-stdin")
    assert said == "r2 is there, shown as R2 D2.\n"
    assert await user(database, "role", "ada", "owner") == "ada is owner of lobby.\n"
    assert await user(database, "disable", "Ada") == "ada is disabled.\n"
    assert listed(await user(database, "list")) == [
        ["ada", "disabled", "Ada"],
        ["r2", "active, bot", "R2 D2"],
    ]
    assert await user(database, "enable", "ada") == "ada is enabled.\n"
    said = await user(database, "passwd", "ada", "--password-stdin", typed=ANOTHER)
    assert said == "ada has another password; nobody is logged in with the old one.\n"
    exported = [json.loads(line) for line in (await user(database, "export", "ada")).splitlines()]
    assert [each.get("export") or each["event"] for each in exported] == [
        *("account", "membership", "member")
    ]
    said = await user(database, "delete", "ada", "--yes")
    assert said == "ada is deleted: rooms left 1, messages erased 0.\n"
    assert listed(await user(database, "list"))[0] == ["ada", "deleted", "Deleted user"]


async def test_what_was_reported_in_rooms_of_two_people_is_for_the_operator(database: Path) -> None:
    async with Chat(SqliteRepository(database), bcrypt_cost=4) as chat:
        ada, bob = [await chat.register(name, PASSWORD) for name in ("ada", "bob")]
        two = (await chat.direct(ada, "bob")).name
        for user_ in (ada, bob):
            await chat.join(user_, "lobby")
        spam = await chat.send(bob, two, "Buy\tmy\nwatches")
        gone = await chat.send(ada, "lobby", "a secret")
        await chat.report(ada, two, spam.seq, "spam")
        await chat.report(bob, "lobby", gone.seq, "rude")
        await chat.delete(ada, "lobby", gone.seq)
    printed = listed(await user(database, "reports"))
    assert [[*line[:4], *line[5:]] for line in printed] == [
        [two, str(spam.seq), "bob", "ada", "spam", "Buy my watches"],
        ["lobby", str(gone.seq), "ada", "bob", "rude", ""],
    ]
    assert listed(await user(database, "reports", "--room", "Lobby")) == printed[1:]
    assert "no room" in await user(database, "reports", "--room", "nowhere", status=1)


async def test_the_password_that_was_given_is_good(database: Path) -> None:
    await user(database, "add", "ada", "--password-stdin")
    await user(database, "add", "bob", "--password-stdin")
    await user(database, "passwd", "bob", "--password-stdin", typed=ANOTHER)
    async with (
        serving(database) as server,
        connected(server.urls["ws"]) as ada,
        connected(server.urls["ws"]) as bob,
    ):
        assert "token" in await ada.do("login", username="ada", password=PASSWORD)
        assert "error" in await bob.do("login", username="bob", password=PASSWORD)
        assert "token" in await bob.do("login", username="bob", password=ANOTHER)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["add", "ada"], "There is a user ada already"),
        (["add", "\u0430da"], "looks like another user's"),
        (["add", "admin"], "The username admin is reserved"),
        (["add", "b b"], "characters that are not allowed"),
        (["add", "bob", "--display-name", "admin"], "reserved"),
        (["passwd", "bob"], "There is no user bob"),
        (["passwd", "gone"], "gone was deleted"),
        (["role", "bob", "owner"], "There is no user bob"),
        (["role", "gone", "owner"], "gone was deleted"),
        (["role", "ada", "owner", "--room", "den"], "There is no room den"),
        (["disable", "gone"], "gone was deleted"),
        (["enable", "bob"], "There is no user bob"),
        (["delete", "bob", "--yes"], "There is no user bob"),
        (["export", "bob"], "There is no user bob"),
    ],
)
async def test_what_cannot_be_done_is_told_in_a_sentence(
    database: Path, arguments: list[str], says: str
) -> None:
    async with Chat(SqliteRepository(database), bcrypt_cost=4) as chat:
        await chat.register("ada", PASSWORD)
        await chat.delete_account(await chat.register("gone", PASSWORD))
    if arguments[0] in ("add", "passwd"):
        arguments = [*arguments, "--password-stdin"]
    assert says in await user(database, *arguments, status=1)


async def test_a_room_of_two_people_gets_no_third_and_no_owner(database: Path) -> None:
    async with Chat(SqliteRepository(database), bcrypt_cost=4) as chat:
        ada, _, cyd = [await chat.register(name, PASSWORD) for name in ("ada", "bob", "cyd")]
        room = (await chat.direct(ada, "bob")).name
    for name, role in (("cyd", "member"), ("ada", "owner")):
        said = await user(database, "role", name, role, "--room", room, status=1)
        assert said == (
            "Error: A direct room is of two people: nobody else gets in, nor is its owner\n"
        )
    async with Chat(SqliteRepository(database)) as chat:
        assert [each.role for each in await chat.memberships(ada)] == ["member"]
        assert [each.role for each in await chat.memberships(cyd)] == []


async def test_a_password_that_cannot_be_one_is_refused(database: Path) -> None:
    said = await user(database, "add", "ada", "--password-stdin", typed="short", status=1)
    assert said == "Error: A password has at least 8 characters\n"
    assert await user(database, "list") == ""


async def test_a_password_is_never_an_argument_nor_taken_from_a_pipe_unasked(
    database: Path,
) -> None:
    said = await user(database, "add", "ada", status=2)
    assert "there is no terminal to ask in; use --password-stdin" in said
    assert "unexpected extra argument" in await user(database, "add", "ada", PASSWORD, status=2)


async def test_a_password_is_asked_for_and_not_shown(database: Path) -> None:
    with tempfile.TemporaryDirectory() as directory:  # a socket's path must be short
        tmux = Tmux(Path(directory))
        pane = await tmux.open(
            *(*CHAT_SERVE, "--bcrypt-cost", "4", "user", "add", "ada"),
            *("--database", f"sqlite:///{database}"),
        )
        await pane.until_shown("Password:")
        await pane.enter(PASSWORD)
        await pane.until_shown("Repeat for confirmation:")
        await pane.enter(PASSWORD)
        seen = await pane.until_shown("ada is there, shown as ada.")
        assert await pane.status() == 0
        await tmux.close()
    assert not [line for line in seen if "horse" in line]


async def test_a_deletion_is_asked_about(database: Path) -> None:
    await user(database, "add", "ada", "--password-stdin")
    process = await asyncio.create_subprocess_exec(
        *(*CHAT_SERVE, "user", "delete", "ada", "--database", f"sqlite:///{database}"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate(b"n\n")
    assert (process.returncode, b"Delete ada for ever (their messages stay)?" in out) == (1, True)
    assert listed(await user(database, "list")) == [["ada", "active", "ada"]]


@pytest.mark.parametrize("command", ["list", "export", "add"])
async def test_only_a_database_that_a_server_has_made_is_worked_on(
    tmp_path: Path, command: str
) -> None:
    arguments = [command, *(["ada"] if command != "list" else [])]
    said = await user(tmp_path / "none.db", *arguments, status=1)
    assert said == f"Error: There is no database {tmp_path / 'none.db'}\n"
    assert listing(tmp_path) == {}
    assert "memory: keeps nothing" in await user("memory:", *arguments, status=2)


async def test_nobody_migrates_what_another_may_serve(database: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{database}")
    with engine.begin() as connection:
        downgrade(connection, "0003")
    engine.dispose()
    before = listing(database.parent)
    said = await user(database, "list", status=1)
    assert "is of an older version of chatcore: start this one's server on it once" in said
    assert before == listing(database.parent)


# Beside a server.


async def test_a_running_server_takes_notice(database: Path) -> None:
    async with (
        serving(database) as server,
        present(server.urls["ws"], "ada") as ada,
        present(server.urls["tcp"], "bob") as bob,
        present(server.urls["ws"], "cyd") as cyd,
    ):
        assert await user(database, "role", "ada", "owner") == "ada is owner of lobby.\n"
        role = await bob.event("member")
        while role["action"] != "role":
            role = await bob.event("member")
        assert (role["sender"], role["username"], role["role"]) == ("ada", "ada", "owner")
        assert await user(database, "role", "ada", "owner") == "ada is owner of lobby already.\n"
        told = await ada.event("membership")
        while told["change"] != "role":
            told = await ada.event("membership")
        assert (told["room"]["name"], told["role"]) == ("lobby", "owner")
        said = await bob.do("send", room="lobby", content="something rude")
        assert "seq" in await ada.do("delete", room="lobby", seq=said["seq"]), "as owners may"

        await user(database, "add", "dan", "--password-stdin")
        async with connected(server.urls["ws"]) as dan:
            assert "token" in await dan.do("login", username="dan", password=PASSWORD)
            await user(database, "disable", "dan")
            assert (await dan.goodbye())["code"] == 4502
        async with connected(server.urls["ws"]) as dan:
            refused = await dan.do("login", username="dan", password=PASSWORD)
            assert refused["error"]["message"] == "This account is disabled"

        await user(database, "passwd", "cyd", "--password-stdin", typed=ANOTHER)
        assert (await cyd.goodbye())["code"] == 4502

        said = await bob.do("send", room="lobby", content="<bob's secret>")
        done = await user(database, "delete", "bob", "--messages", "erase", "--yes")
        assert done == "bob is deleted: rooms left 1, messages erased 1.\n"
        assert (await bob.goodbye())["code"] == 4502
        while (gone := await ada.event("delete"))["target"] != said["seq"]:
            pass
        page = await ada.do("history", room="lobby")
        assert [message["content"] for message in page["messages"]] == ["", ""]
        assert (await ada.do("history", room="lobby"))["head"] == gone["seq"]


async def test_what_a_killed_deletion_has_left_the_next_one_does(
    database: Path,
) -> None:
    async with serving(database, "--limits", "none") as server:
        async with present(server.urls["ws"], "ada") as ada:
            for number in range(1_200):
                await ada.start("send", room="lobby", content=f"<secret {number}>")
            await ada.messages(1_200)
        process = await asyncio.create_subprocess_exec(
            *(*CHAT_SERVE, "user", "delete", "ada", "--forget", "--yes"),
            *("--database", f"sqlite:///{database}"),
            stdout=asyncio.subprocess.DEVNULL,
        )

        def count(query: str) -> int:
            with closing(sqlite3.connect(database)) as connection:
                return int(connection.execute(query).fetchone()[0])

        erased = "SELECT count(*) FROM events WHERE kind = 'delete'"
        async with asyncio.timeout(PATIENCE):
            while not count(erased):  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        await process.wait()
        await user(database, "delete", "ada", "--yes")
        assert count(erased) == 1_200
        assert count("SELECT count(*) FROM events WHERE body LIKE '%secret%'") == 0
        assert count("SELECT count(*) FROM users WHERE closing IS NOT NULL") == 0
