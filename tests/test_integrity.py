"""A database that is damaged is refused, with what is wrong, and stays as it is."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from chatcore import SqliteRepository
from chatcore.errors import SchemaError
from chatcore.events import Stored
from tests.support import fails_to_start, present, serving
from tests.test_backup import filled, saying
from tests.test_server import one_sentence

PAGE = 4096
Harm: TypeAlias = Callable[[bytearray, random.Random], object]


def flip_a_bit(data: bytearray, chance: random.Random) -> None:
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def spoil_some_bytes(data: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(data) - 16)
    data[at : at + 16] = chance.randbytes(16)


def zero_a_page(data: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(data) // PAGE) * PAGE
    data[at : at + PAGE] = bytes(PAGE)


def swap_two_pages(data: bytearray, chance: random.Random) -> None:
    one, other = (at * PAGE for at in chance.sample(range(1, len(data) // PAGE), 2))
    data[one : one + PAGE], data[other : other + PAGE] = (
        data[other : other + PAGE],
        data[one : one + PAGE],
    )


def cut_the_end_off(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(1, len(data)) :]


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return filled(tmp_path_factory.mktemp("intact") / "chat.db", messages=60).read_bytes()


@pytest.mark.parametrize(
    ("harm", "times", "undetected"),
    [  # How much of it is in texts, or where pages are alike, is chance; not that none is found.
        (flip_a_bit, 40, 39),
        (spoil_some_bytes, 30, 29),
        (zero_a_page, 8, 0),
        (swap_two_pages, 8, 7),
        (cut_the_end_off, 8, 0),
    ],
)
def test_damage_is_found_or_does_no_harm(
    tmp_path: Path, intact: bytes, harm: Harm, times: int, undetected: int, seed: int
) -> None:
    """What is not found is inside a text, which has no checksum, or where nothing is."""
    chance = random.Random(seed)
    harmless = 0
    for number in range(times):
        data = bytearray(intact)
        harm(data, chance)
        path = tmp_path / f"{number}.db"
        path.write_bytes(data)
        repository = SqliteRepository(path)
        with contextlib.closing(repository):
            said = refused(repository)
            if said is not None:
                assert [said] == said.splitlines()
                assert bytes(data) == path.read_bytes(), "it is as it was"
                continue
            harmless += 1
            check_use(repository)
    assert harmless <= undetected


def check_use(repository: SqliteRepository) -> None:
    """Everything can be read, and the log goes on."""
    assert repository.user("ada") is not None
    for number in range(3):
        name = f"room{number}"
        room = repository.room(name)
        assert room is not None
        events = repository.read(name, 0, 1_000, 1_000)
        assert [*range(1, 62)] == [event.seq for event in events]
        assert {"ada"} == {event.sender for event in events}
        membership = repository.membership(name, "ada")
        assert membership is not None
        assert membership.head == 61
        if room.kind == "public":
            (outcome,) = repository.append([saying(room, "more")])
            assert isinstance(outcome, Stored), outcome


EDITS = {
    "UPDATE rooms SET head = head - 1 WHERE id = 2": (
        "the room 'room1' should have the events 1 to 60, and its log has 1 to 61"
    ),
    "UPDATE rooms SET first = 3 WHERE id = 2": (
        "the room 'room1' should have the events 3 to 61, and its log has 1 to 61"
    ),
    "UPDATE rooms SET messages = 7 WHERE id = 2": (
        "the room 'room1' should have 7 messages, and its log counts 60"
    ),
    "DELETE FROM events WHERE room_id = 2 AND seq = 61": (
        "the room 'room1' should have the events 1 to 61, and its log has 1 to 60"
    ),
    "DELETE FROM events WHERE room_id = 2": (
        "the room 'room1' should have the events 1 to 61, and its log has 62 to 0"
    ),
}
WITHIN = {
    "DELETE FROM events WHERE room_id = 2 AND seq BETWEEN 5 AND 7": (
        "the log of the room 'room1' has a hole: 3 events are missing"
    ),
    "UPDATE events SET body = '{\"content\"' WHERE room_id = 2 AND seq = 9": (
        "the event 9 of the room 'room1' cannot be read"
    ),
    'UPDATE events SET body = \'{"contents":""}\' WHERE room_id = 2 AND seq = 9': (
        "the event 9 of the room 'room1' cannot be read"
    ),
    "UPDATE events SET kind = 'massage' WHERE room_id = 2 AND seq = 9": (
        "the event 9 of the room 'room1' cannot be read"
    ),
    "UPDATE events SET timestamp = 1 << 61 WHERE room_id = 2 AND seq = 9": (
        "the event 9 of the room 'room1' cannot be read"
    ),
    'UPDATE events SET kind = \'member\', body = \'{"username":"ada","action":"leave"}\''
    " WHERE room_id = 2 AND seq = 9": (
        "the room 'room1' has not as many messages as its log counts"
    ),
    "UPDATE users SET display_name = CAST(x'41ff' AS TEXT)": (
        "a text in the table users is no UTF-8"
    ),
    "UPDATE events SET sender_id = 9 WHERE room_id = 2 AND seq = 9": (
        "a row of the table events belongs to none of the table users"
    ),
    "UPDATE rooms SET kind = 'publik' WHERE id = 2": (
        "the room 'room1' is of no kind that there is"
    ),
    "UPDATE rooms SET archived = 2 WHERE id = 2": "the room 'room1' is of no kind that there is",
    "UPDATE members SET role = 'membet' WHERE room_id = 2": (
        "ada has no role in the room 'room1' that there is"
    ),
    "INSERT INTO restraints (room_id, user_id, banned, reader) VALUES (2, 1, 1e20, 0)": (
        "what holds ada back in the room 'room1' cannot be read"
    ),
}


@pytest.mark.parametrize(("edit", "wrong"), [*EDITS.items(), *WITHIN.items()])
def test_what_was_edited_by_hand_is_named(tmp_path: Path, edit: str, wrong: str) -> None:
    path = filled(tmp_path / "chat.db", messages=60)
    edited(path, edit)
    assert refusal(path) == (
        f"The database {path} is damaged, and stays as it is: {wrong}; put a backup in its place"
    )


def test_a_room_whose_log_has_lost_its_beginning_or_all_by_rule_is_whole(tmp_path: Path) -> None:
    path = filled(tmp_path / "chat.db", messages=60)
    edited(path, "DELETE FROM events WHERE room_id = 1 AND seq < 40")
    edited(path, "UPDATE rooms SET first = 40 WHERE id = 1")
    edited(path, "DELETE FROM events WHERE room_id = 2")
    edited(path, "UPDATE rooms SET first = head + 1 WHERE id = 2")
    assert refusal(path) is None


def edited(path: Path, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute(statement)


def refusal(path: Path, **options: str) -> str | None:
    repository = SqliteRepository(path, **options)  # type: ignore[arg-type] # `check`
    with contextlib.closing(repository):
        return refused(repository)


def refused(repository: SqliteRepository) -> str | None:
    """Return what is said against a database, None where it opens."""
    try:
        repository.claim()
        repository.open()
    except SchemaError as error:
        return str(error)
    return None


# When the whole file is read.


def test_a_file_that_is_as_it_was_left_is_not_read_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="chatcore.repository")
    path = filled(tmp_path / "chat.db", messages=60)
    assert refusal(path) is None
    assert refusal(path) is None
    assert caplog.messages == []
    assert refusal(path, check="always") is None
    edited(path, "UPDATE users SET display_name = 'Countess'")
    assert refusal(path) is None
    assert [f"checking {path}, which is not as a server left it"] * 2 == caplog.messages
    before = path.stat()
    edited(path, next(iter(WITHIN)))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert refusal(path, check="never") is None
    assert "has a hole" in str(refusal(path)), "who did not check says nothing of it"
    assert "has a hole" in str(refusal(path)), "nor did who refused it"
    path.with_name("chat.db.lock").unlink()
    assert "has a hole" in str(refusal(path))


def test_the_ends_of_the_logs_are_looked_at_each_time(tmp_path: Path) -> None:
    path = filled(tmp_path / "chat.db", messages=60)
    before = path.stat()
    edited(path, "UPDATE rooms SET head = head - 1 WHERE id = 2")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert "should have the events 1 to 60" in str(refusal(path))
    assert refusal(path, check="never") is None


def test_an_empty_file_is_a_new_database_unless_it_was_none(tmp_path: Path) -> None:
    path = filled(tmp_path / "chat.db", messages=60)
    path.write_bytes(b"")
    assert "is damaged, and stays as it is: it is empty, and was not" in str(refusal(path))
    assert path.read_bytes() == b""
    path.with_name("chat.db.lock").unlink()
    assert refusal(path) is None
    path.write_bytes(b"")
    path.with_name("chat.db-wal").write_bytes(b"the last hour's messages")
    for _ in range(2):
        with pytest.raises(SchemaError, match=r"it is empty, and chat\.db-wal is not"):
            SqliteRepository(path).claim()
    assert path.with_name("chat.db-wal").read_bytes() == b"the last hour's messages"


# The server.


@pytest.mark.parametrize("harm", [zero_a_page, cut_the_end_off])
async def test_the_server_says_in_a_sentence_what_is_wrong(
    tmp_path: Path, intact: bytes, harm: Harm
) -> None:
    path = tmp_path / "chat.db"
    data = bytearray(intact)
    harm(data, random.Random(5))
    path.write_bytes(data)
    code, said = await fails_to_start("--port", "0", "--database", f"sqlite:///{path}")
    assert code == 1
    assert f"The database {path} is damaged, and stays as it is: " in one_sentence(said)
    assert bytes(data) == path.read_bytes()


async def test_after_a_kill_the_file_is_read_before_it_is_written_to(tmp_path: Path) -> None:
    """SQLite would bring the -wal file into the database as soon as somebody closes it."""
    path = filled(tmp_path / "chat.db", messages=60)
    wal = path.with_name("chat.db-wal")
    async with serving(path) as server, present(server.urls["tcp"], "grace") as grace:
        assert not any("checking" in line for line in server.log)
        await grace.do("send", room="lobby", content="hi")
        server.signal(signal.SIGKILL)
        await server.exit_code()
    whole, rest = path.read_bytes(), wal.read_bytes()
    assert b'"content":"hi"' in rest
    data = bytearray(whole)
    at = data.rindex(b"text 30 ") // PAGE * PAGE
    data[at : at + PAGE] = bytes(PAGE)
    path.write_bytes(data)
    code, said = await fails_to_start("--port", "0", "--database", f"sqlite:///{path}")
    assert (code, "is damaged" in one_sentence(said)) == (1, True)
    assert (bytes(data), rest) == (path.read_bytes(), wal.read_bytes())
    path.write_bytes(whole)
    async with serving(path) as server, present(server.urls["tcp"], "grace") as grace:
        assert any("which is not as a server left it" in line for line in server.log)
        page = (await grace.do("history", room="lobby"))["messages"]
        assert ["hi"] == [message["content"] for message in page]


def test_damage_that_shows_while_it_is_served_is_looked_for_at_the_next_start(
    tmp_path: Path,
) -> None:
    path = filled(tmp_path / "chat.db", messages=600)
    before = path.stat()
    data = bytearray(path.read_bytes())
    at = data.rindex(b"text 300 ") // PAGE * PAGE
    data[at : at + 8] = b"\xff" * 8
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    repository = SqliteRepository(path)
    with contextlib.closing(repository):
        repository.claim()
        repository.open()
        with contextlib.suppress(Exception):
            for number in range(3):
                repository.read(f"room{number}", 0, 1_000, 1_000)
    assert "is damaged" in str(refusal(path))


def test_a_backup_of_what_is_damaged_is_none(tmp_path: Path, intact: bytes) -> None:
    path = tmp_path / "chat.db"
    data = bytearray(intact)
    at = data.rindex(b"text 30 ") // PAGE * PAGE
    data[at : at + PAGE] = bytes(PAGE)
    path.write_bytes(data)
    with pytest.raises(SchemaError, match="is damaged, and stays as it is"):
        SqliteRepository(path).backup(tmp_path / "backup.db")
    assert ["chat.db"] == [each.name for each in tmp_path.iterdir()]
    assert bytes(data) == path.read_bytes()
