"""What was erased is in no part of the database's file, wherever SQLite had moved it."""

from __future__ import annotations

import contextlib
import random
import sqlite3
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TypeAlias

import pytest

from chatcore.events import Stored
from chatcore.model import Room, User
from chatcore.repository.sql import SqliteRepository, sqlite
from chatcore.testing.drafts import LOBBY, NOW, delete, member, say, update

DEN = Room("den", epoch="e2")
DAYS = 30

Texts: TypeAlias = Mapping[tuple[str, int], str]
"""What was said, by room and seq."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chat.db"


@pytest.fixture
def repository(path: Path) -> Iterator[SqliteRepository]:
    with opened(SqliteRepository(path)) as repository:
        yield repository


@contextlib.contextmanager
def opened(repository: SqliteRepository) -> Iterator[SqliteRepository]:
    """Have ada in two rooms, one of which keeps what is said for a day."""
    with contextlib.closing(repository):
        repository.open()
        repository.add_user(User("ada", "Ada"), None)
        repository.add_room(LOBBY)
        begun = [
            member("ada", "join", role="owner"),
            member("ada", "join", DEN, creates=True, role="owner"),
            update("ada", DEN, retention_days=1),
        ]
        assert all(isinstance(outcome, Stored) for outcome in repository.append(begun))
        yield repository


def fill(repository: SqliteRepository, chance: random.Random) -> Texts:
    """Have the rooms grow side by side."""
    texts: dict[tuple[str, int], str] = {}
    for day in range(DAYS):
        drafts = [
            say(
                "ada",
                f"<{chance.getrandbits(64):016x}>" * chance.randint(1, 20),
                chance.choice((LOBBY, DEN)),
                timestamp=NOW + timedelta(days=day),
            )
            for _ in range(40)
        ]
        for draft, outcome in zip(drafts, repository.append(drafts), strict=True):
            assert isinstance(outcome, Stored)
            texts[draft.room.name, outcome.event.seq] = str(draft.body["content"])
        repository.index(1_000)
    return texts


def erase(repository: SqliteRepository, texts: Texts) -> None:
    """First by retention in the one room, and then by deletion in the other."""
    now = NOW + timedelta(days=99)
    while due := repository.due(now, 50):
        repository.expire(*due, now)
    seqs = [seq for room, seq in texts if room == LOBBY.name]
    for start in range(0, len(seqs), 50):
        repository.append([delete("ada", seq) for seq in seqs[start : start + 50]])


def wipe(repository: SqliteRepository) -> None:
    while repository.purge():
        pass


def left(path: Path, texts: Texts) -> set[str]:
    """Return those texts that the files have anything of."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)
    everything = b"".join(each.read_bytes() for each in path.parent.iterdir())
    return {text for text in texts.values() if text[5:17].encode() in everything}


def stale(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        (count,) = connection.execute("SELECT stale FROM indexing").fetchone()
    return int(count)


@pytest.mark.parametrize("seed", range(3))
def test_no_copy_is_left_where_rows_were_moved(
    repository: SqliteRepository, path: Path, seed: int
) -> None:
    """What the one room lets go of leaves pages half empty, which SQLite makes fewer of."""
    texts = fill(repository, random.Random(seed))
    assert left(path, texts) == {*texts.values()}
    erase(repository, texts)
    assert left(path, texts), "else this test would be in vain"
    wipe(repository)
    assert left(path, texts) == set()
    assert stale(path) == 0
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_large_file_is_left_to_whoever_has_the_time(path: Path) -> None:
    with opened(SqliteRepository(path, vacuum_bytes=100_000)) as repository:
        texts = fill(repository, random.Random(0))
        erase(repository, texts)
        wipe(repository)
    assert left(path, texts)
    assert stale(path)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("VACUUM")
    assert left(path, texts) == set()


def test_a_file_is_written_anew_once_in_a_while(
    repository: SqliteRepository, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often something is erased; what is erased later counts for the next time."""
    monkeypatch.setattr(sqlite, "RESTS", 1_000_000)
    for seq, count in ((2, 0), (4, 1), (6, 2)):
        repository.append([say("ada", "tea"), delete("ada", seq)])
        wipe(repository)
        assert stale(path) == count
    with contextlib.closing(SqliteRepository(path)) as another:
        another.open()
        wipe(another)
    assert stale(path) == 0


def test_a_file_that_somebody_reads_is_written_anew_once_more(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For what they read is in it until they are done."""
    monkeypatch.setattr(sqlite, "RESTS", 0)
    with opened(SqliteRepository(path, busy_seconds=0.01)) as repository:
        repository.append([say("ada", "lighthouse")])
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM events").fetchone()
            repository.append([delete("ada", 2)])
            wipe(repository)
            assert stale(path) == 1
        wipe(repository)
        assert stale(path) == 0
