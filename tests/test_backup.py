"""chat-serve backup and restored: a copy of a database in use, and what clients are told."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import re
import shutil
import signal
import sqlite3
import stat
import subprocess
from pathlib import Path

import pytest

from chat_transports.client import connect
from chatcore import SqliteRepository
from chatcore.errors import SchemaError
from chatcore.events import JoinReply, Message, Reset, Resumed
from chatcore.model import Draft, Room, User, utcnow
from chatcore.repository.sql import backup, migrate
from tests.strace import needs_strace
from tests.support import CHAT_SERVE, PASSWORD, present, serving
from tests.test_client import SOON, port, texts, until
from tests.test_import import chat_serve, files


def filled(path: Path, messages: int = 300, rooms: int = 3) -> Path:
    """A database with rooms that ada has written in."""
    with contextlib.closing(SqliteRepository(path)) as repository:
        repository.claim()
        repository.open()
        repository.add_user(User("ada", "Ada"), "hash")
        for number in range(rooms):
            room = Room(f"room{number}")
            repository.add_room(room)
            repository.append([joining(room)])
            repository.append([saying(room, f"text {n} ".ljust(200, "x")) for n in range(messages)])
    return path


def joining(room: Room) -> Draft:
    body = {"username": "ada", "action": "join", "role": "member"}
    return Draft(room=room, sender="ada", kind="member", body=body, timestamp=utcnow())


def saying(room: Room, text: str) -> Draft:
    body = {"content": text}
    return Draft(room=room, sender="ada", kind="message", body=body, timestamp=utcnow())


def epochs(path: Path) -> dict[str, str]:
    with contextlib.closing(sqlite3.connect(path)) as db:
        return dict(db.execute("SELECT name, epoch FROM rooms"))


def log(path: Path) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(path)) as db:
        return db.execute("SELECT room_id, seq, body FROM events ORDER BY room_id, seq").fetchall()


def url(path: Path) -> str:
    return f"sqlite:///{path}"


async def test_a_backup_is_one_file_with_all_that_was_there_and_new_epochs(tmp_path: Path) -> None:
    path, copy = filled(tmp_path / "chat.db"), tmp_path / "backup.db"
    before = path.read_bytes()
    status, lines, err = await chat_serve("backup", copy, "--database", url(path))
    assert (status, err) == (0, "")
    assert lines == [f"{copy}: rooms 3, messages 900, bytes {copy.stat().st_size}."]
    assert before == path.read_bytes(), "the source is as it was"
    assert ["backup.db", "chat.db", "chat.db.lock"] == files(tmp_path)
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert b"\x01\x01" == copy.read_bytes()[18:20], "it asks for no WAL"
    assert log(path) == log(copy)
    old, new = epochs(path), epochs(copy)
    assert old.keys() == new.keys()
    assert len({*old.values(), *new.values()}) == 6, "each room has one of its own"
    assert all(len(epoch) == 8 for epoch in new.values())


async def test_a_running_server_goes_on_and_what_it_stored_before_is_in_the_copy(
    tmp_path: Path,
) -> None:
    path, copy = tmp_path / "chat.db", tmp_path / "backup.db"
    async with (
        serving(path, "--limits", "none") as server,
        present(server.urls["tcp"], "ada") as ada,
    ):
        said: list[str] = []
        copying = asyncio.create_task(chat_serve("backup", copy, "--database", url(path)))
        for number in range(100):
            said.append(f"before {number}")
            await ada.do("send", room="lobby", content=said[-1])
        while not copying.done():
            said.append(f"while {len(said)}")
            assert "seq" in await ada.do("send", room="lobby", content=said[-1])
        status, _, err = await copying
        assert (status, err) == (0, "")
        with contextlib.closing(sqlite3.connect(copy)) as db:
            kept = [text for (text,) in db.execute("SELECT content FROM messages ORDER BY id")]
        assert said[: len(kept)] == kept
        server.signal(signal.SIGTERM)
        assert await server.exit_code() == 0


def test_it_ends_though_somebody_writes_at_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that began anew at each commit would do so for ever."""
    monkeypatch.setattr(backup, "STEP_PAGES", 8)
    path = filled(tmp_path / "chat.db")
    before = log(path)
    done: list[int] = []
    with contextlib.closing(SqliteRepository(path)) as other:
        other.open()
        room = other.room("room1")
        assert room is not None

        def write(pages: int, _: int) -> None:
            done.append(pages)
            assert len(done) < 100, "it does not end"
            other.append([saying(room, "meanwhile")])

        SqliteRepository(path).backup(tmp_path / "backup.db", write)
    assert len(done) > 3, "or nobody came between"
    assert sorted(done) == done
    assert before == log(tmp_path / "backup.db"), "one moment's state"


async def test_what_a_stopped_server_left_to_the_backup_is_brought_into_the_database(
    tmp_path: Path,
) -> None:
    """Else who then copies the stopped server's file, as one may, copies less than all."""
    path = filled(tmp_path / "chat.db")
    server = SqliteRepository(path)
    server.open()
    room = server.room("room1")
    assert room is not None
    server.append([saying(room, "last words")])

    def stop(_: int, __: int) -> None:
        server.close()

    SqliteRepository(path).backup(tmp_path / "backup.db", stop)
    assert ["backup.db", "chat.db", "chat.db.lock"] == files(tmp_path)
    shutil.copy(path, tmp_path / "copied.db")
    assert "last words" in str(log(tmp_path / "copied.db"))


async def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    path, copy = filled(tmp_path / "chat.db", 1), tmp_path / "backup.db"
    copy.write_text("precious")
    refusal = f"Error: {copy} is there already; name another file, or move that one away\n"
    assert await chat_serve("backup", copy, "--database", url(path)) == (1, [], refusal)
    assert copy.read_text() == "precious"
    assert ["backup.db", "chat.db", "chat.db.lock"] == files(tmp_path)

    def appear(_: int, __: int) -> None:
        (tmp_path / "late.db").write_text("precious")

    with pytest.raises(FileExistsError):
        SqliteRepository(path).backup(tmp_path / "late.db", appear)
    assert (tmp_path / "late.db").read_text() == "precious"


async def test_what_cannot_be_copied_says_so_in_a_sentence(tmp_path: Path) -> None:
    copy, nothing = tmp_path / "backup.db", tmp_path / "nothing.db"
    nothing.touch()
    foreign, text = tmp_path / "foreign.db", tmp_path / "text.db"
    with contextlib.closing(sqlite3.connect(foreign)) as db:
        db.execute("CREATE TABLE users (id INTEGER)")
    text.write_text("no database\n" * 1000)
    newer = filled(tmp_path / "newer.db", 1)
    with contextlib.closing(sqlite3.connect(newer)) as db, db:
        db.execute("UPDATE chatcore_version SET version_num = '9999'")
    gone = tmp_path / "gone.db"
    before = files(tmp_path)
    for path, why in (
        (gone, f"There is no database {gone}"),
        (nothing, f"The database {nothing} has nothing in it"),
        (foreign, f"The database {foreign} belongs to another application; name another file"),
        (text, f"Cannot open the database {text}: file is not a database"),
        (newer, f"The database {newer} was written by a newer version of chatcore"),
    ):
        with pytest.raises(SchemaError, match=f"^{re.escape(why)}"):
            SqliteRepository(path).backup(copy)
    status, lines, err = await chat_serve("backup", copy, "--database", url(gone))
    assert (status, lines, err) == (1, [], f"Error: There is no database {gone}\n")
    assert before == files(tmp_path), "and nothing was made"
    status, _, err = await chat_serve("restored", "--database", url(gone))
    assert (status, err) == (1, f"Error: There is no database {gone}\n")
    for command in (["backup", str(copy)], ["restored"]):
        status, _, err = await chat_serve(*command, "--database", "memory:")
        assert (status, "memory: keeps nothing" in err) == (2, True)


def test_one_of_an_older_version_is_left_to_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = filled(tmp_path / "chat.db", 1)
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE chatcore_version SET version_num = '0000'")
    with pytest.raises(SchemaError, match="is of no version of chatcore that there was"):
        SqliteRepository(path).backup(tmp_path / "backup.db")
    monkeypatch.setattr(migrate, "VERSIONS", ("0000", *migrate.VERSIONS))
    with pytest.raises(SchemaError, match="is of an older version of chatcore: back it up with"):
        SqliteRepository(path).backup(tmp_path / "backup.db")


async def test_where_nothing_can_be_written_a_sentence_says_so(tmp_path: Path) -> None:
    path = filled(tmp_path / "chat.db", 1)
    for copy, why in (
        (tmp_path / "no" / "folder.db", "No such file or directory"),
        (path / "within.db", "Not a directory"),
    ):
        assert await chat_serve("backup", copy, "--database", url(path)) == (
            *(1, []),
            f"Error: Cannot write {copy}: {why}. Nothing is left of it\n",
        )


@needs_strace
@pytest.mark.parametrize("when", [20, 60, 90])
def test_a_full_disk_is_a_sentence_and_leaves_nothing(tmp_path: Path, when: int) -> None:
    path, copy = filled(tmp_path / "chat.db"), tmp_path / "backup.db"
    done = tampered(path, copy, f"pwrite64:error=ENOSPC:when={when}+")
    assert (done.returncode, done.stderr.splitlines()) == (
        1,
        [f"Error: Cannot write {copy}: No space left on device. Nothing is left of it"],
    )
    assert ["chat.db", "chat.db.lock"] == files(tmp_path)


@needs_strace
@pytest.mark.parametrize(
    "fault", ["pwrite64:signal=KILL:when=1", "pwrite64:signal=KILL:when=90", "fsync:signal=KILL"]
)
def test_a_killed_backup_leaves_no_file_under_the_name(tmp_path: Path, fault: str) -> None:
    path, copy = filled(tmp_path / "chat.db"), tmp_path / "backup.db"
    done = tampered(path, copy, fault)
    assert done.returncode != 0
    assert not copy.exists()
    SqliteRepository(path).backup(copy)
    assert log(path) == log(copy)


@needs_strace
def test_one_that_is_told_to_end_tidies_up(tmp_path: Path) -> None:
    path, copy = filled(tmp_path / "chat.db"), tmp_path / "backup.db"
    assert tampered(path, copy, "pwrite64:signal=TERM:when=90").returncode == 143
    assert ["chat.db", "chat.db.lock"] == files(tmp_path)


@needs_strace
def test_all_of_it_is_on_the_disk_before_it_has_its_name(tmp_path: Path) -> None:
    path, copy = filled(tmp_path / "chat.db"), tmp_path / "backup.db"
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-y", "-o", str(trace), "-e", "trace=fsync,pwrite64,/rename"]
    command += [*CHAT_SERVE, "backup", str(copy), "--database", url(path)]
    subprocess.run(command, check=True, capture_output=True)
    calls = [
        call
        for line in trace.read_text().splitlines()
        if ((call := line.partition(" ")[2].strip().partition("(")[0]) and "backup.db" in line)
        or "fsync" in line
    ]
    (named,) = (number for number, call in enumerate(calls) if call.startswith("rename"))
    assert ["pwrite64", "fsync"] == calls[named - 2 : named]
    assert ["fsync"] == calls[named + 1 :], "and then the name itself"


def tampered(path: Path, copy: Path, fault: str) -> subprocess.CompletedProcess[str]:
    """Make a backup, where a system call does what it seldom does."""
    command = ["strace", "-f", "-o", os.devnull, "-e", f"inject={fault}"]
    command += [*CHAT_SERVE, "backup", str(copy), "--database", url(path)]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_a_person_sees_how_far_it_is(tmp_path: Path) -> None:
    path, copy = filled(tmp_path / "chat.db"), tmp_path / "backup.db"
    ours, theirs = pty.openpty()
    with open(ours, "rb", buffering=0) as terminal:  # noqa: PTH123 - a descriptor, no path
        command = [*CHAT_SERVE, "backup", str(copy), "--database", url(path)]
        subprocess.run(command, check=True, stderr=theirs, stdout=subprocess.DEVNULL)
        os.close(theirs)
        seen = terminal.read(10_000)
    assert b"Copying" in seen
    assert b"100%" in seen


# What clients are told of a database that was put back.


def said(reply: JoinReply) -> list[str]:
    return [event.content for event in reply.events if isinstance(event, Message)]


def put_back(copy: Path, path: Path) -> None:
    for each in path.parent.glob(f"{path.name}*"):
        each.unlink()
    shutil.copy(copy, path)


@pytest.mark.parametrize("way", ["backup", "copy and restored"])
async def test_a_client_that_has_seen_more_is_told_so(tmp_path: Path, way: str) -> None:
    path, copy = tmp_path / "chat.db", tmp_path / "copy.db"
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(path, "--limits", "none"))
        chat = await stack.enter_async_context(connect(server.urls["tcp"], backoff=SOON))
        await chat.register("ada", PASSWORD)
        await chat.join("lobby")
        await chat.send("lobby", "in the backup")
        if way == "backup":
            status, _, err = await chat_serve("backup", copy, "--database", url(path))
            assert (status, err) == (0, "")
        else:
            plain_copy(path, copy)
        await chat.send("lobby", "lost")
        await until(chat, lambda event: "lost" in texts([event]))
        server.signal(signal.SIGKILL)
        await server.exit_code()
        put_back(copy, path)
        if way != "backup":
            for _ in range(2):  # once too often does no harm
                status, lines, _ = await chat_serve("restored", "--database", url(path))
                assert (status, lines) == (
                    0,
                    ["New epochs: 1.  Clients that come back read these rooms afresh."],
                )
        door = port(server.urls["tcp"])
        again = await stack.enter_async_context(serving(path, "--tcp-port", door))
        # Before it comes back, somebody takes the number that the lost message had.
        async with present(again.urls["ws"], "bob") as bob:
            await bob.do("send", room="lobby", content="another")
        seen = await until(chat, lambda event: isinstance(event, Reset))
        reset = seen[-1]
        assert isinstance(reset, Reset)
        assert not reset.joined.recovered
        view = said(reset.joined)
        async with connect(again.urls["ws"], username="ada", password=PASSWORD) as other:
            now = said(await other.join("lobby"))
        assert ["in the backup", "another"] == now
        assert view == now[: len(view)], "what came later comes as an event"


def plain_copy(path: Path, copy: Path) -> None:
    """What a snapshot of the disk would have."""
    with (
        contextlib.closing(sqlite3.connect(path)) as db,
        contextlib.closing(sqlite3.connect(copy)) as other,
    ):
        db.backup(other)


async def test_restored_is_refused_while_a_server_has_the_database(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    async with serving(path) as server:
        before = epochs(path)
        status, _, err = await chat_serve("restored", "--database", url(path))
        assert status == 1
        assert f"Another server (process {server.process.pid}) has the database" in err
        assert before == epochs(path)


async def test_with_neither_a_client_may_be_told_nothing(tmp_path: Path) -> None:
    """What the guide warns of: a number that was given out twice looks like one."""
    path, copy = tmp_path / "chat.db", tmp_path / "copy.db"
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(path))
        chat = await stack.enter_async_context(connect(server.urls["tcp"], backoff=SOON))
        await chat.register("ada", PASSWORD)
        await chat.join("lobby")
        plain_copy(path, copy)
        await chat.send("lobby", "lost")
        await until(chat, lambda event: "lost" in texts([event]))
        server.signal(signal.SIGKILL)
        await server.exit_code()
        put_back(copy, path)
        async with (
            serving(path, transports=["ws"]) as between,
            present(between.urls["ws"], "bob") as bob,
        ):
            await bob.do("send", room="lobby", content="in its place")
        door = port(server.urls["tcp"])
        await stack.enter_async_context(serving(path, "--tcp-port", door))
        seen = await until(chat, lambda event: isinstance(event, Resumed | Reset))
        assert isinstance(seen[-1], Resumed), "though what it has seen is not what is stored"
