"""What is SQLite's own: pragmas, locks, full disks, files of others, plain SQL."""

from __future__ import annotations

import contextlib
import os
import random
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from chatcore.errors import OutcomeUnknown, SchemaError, StorageFull, Unavailable
from chatcore.events import Stored
from chatcore.model import Draft, Limits, Room, User
from chatcore.repository.sql import SqliteRepository
from chatcore.testing.drafts import NOW, react
from tests.database import refusing_commits, statements

AT = datetime(2026, 11, 22, 9, 42, 13, 123_000, tzinfo=UTC)
LOBBY = Room("lobby", title="Lobby", epoch="e1")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chat.db"


@pytest.fixture
def repository(path: Path) -> Iterator[SqliteRepository]:
    repository = opened(path)
    yield repository
    repository.close()


def opened(path: Path) -> SqliteRepository:
    """A repository with a room that ada is in."""
    repository = SqliteRepository(path)
    repository.open()
    repository.add_user(User("ada", "Ada"), "hash of ada")
    repository.add_room(LOBBY)
    assert isinstance(repository.append([member("join", role="member")])[0], Stored)
    return repository


def draft(kind: str, body: dict[str, object], timestamp: datetime = AT, **more: Any) -> Draft:
    return Draft(room=LOBBY, sender="ada", kind=kind, body=body, timestamp=timestamp, **more)


def say(text: str, **more: Any) -> Draft:
    return draft("message", {"content": text}, **more)


def edit(target: int, text: str) -> Draft:
    return draft("edit", {"target": target, "content": text})


def delete(target: int) -> Draft:
    return draft("delete", {"target": target})


def member(action: str, **body: object) -> Draft:
    return draft("member", {"username": "ada", "action": action, **body})


def upon(username: str, action: str, **more: Any) -> Draft:
    return draft("member", {"username": username, "action": action}, **more)


@contextlib.contextmanager
def plain(path: Path) -> Iterator[sqlite3.Connection]:
    """What anybody has who opens the file."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


@pytest.mark.parametrize("engine", ["reading", "writing"])
def test_every_commit_is_synced_and_every_key_is_checked(
    repository: SqliteRepository, engine: str
) -> None:
    with getattr(repository, engine)() as connection:
        names = ("journal_mode", "synchronous", "foreign_keys", "secure_delete", "busy_timeout")
        values = [connection.row(sa.text(f"PRAGMA {name}"))[0] for name in names]
    assert values == ["wal", 2, 1, 1, 5000]


def statements_for(repository: SqliteRepository, drafts: list[Draft]) -> list[str]:
    """Append, and return the statements that it took."""
    with statements() as seen:
        outcomes = repository.append(drafts)
    assert all(isinstance(outcome, Stored) for outcome in outcomes)
    return [re.sub(r"'(?:[^']|'')*'|\d+", "?", statement) for statement in seen]


def test_a_batch_takes_as_many_statements_whatever_its_size(repository: SqliteRepository) -> None:
    def batch(size: int) -> list[Draft]:
        head = repository.head("lobby", 0)[1]
        said = [say(f"text {number}", txn_id=f"{size}:{number}") for number in range(size)]
        edited = [edit(head + number, "edited") for number in range(1, size)]
        deleted = [delete(head + number) for number in range(1, size - 1)]
        reacted = [react("ada", head + number) for number in range(1, size)]
        taken_back = [react("ada", head + number, adds=False) for number in range(2, size)]
        return [
            *said,
            *edited,
            *reacted,
            *taken_back,
            *deleted,
            member("leave"),
            member("join", role="member"),
        ]

    few, many = (statements_for(repository, batch(size)) for size in (5, 300))
    assert few == many
    assert len(few) < 18


def test_so_does_a_batch_that_keeps_order(repository: SqliteRepository) -> None:
    names = [f"bob{number}" for number in range(100)]
    for name in names:
        repository.add_user(User(name, name), None)
    repository.append([member("leave"), member("join", role="owner")])

    def batch(people: list[str]) -> list[Draft]:
        return [
            done
            for number, name in enumerate(people)
            for done in (
                draft("room", {"topic": str(number), "slow_mode": number}),
                upon(name, "invite", limits=Limits()),
                *(upon(name, action) for action in ("mute", "kick", "ban", "unban")),
                upon(name, "invite"),
            )
        ]

    few, many = (statements_for(repository, batch(people)) for people in (names[:2], names[2:]))
    assert few == many
    assert len(few) < 10
    alone = statements_for(repository, [say("hello")])
    assert len(alone) == 4, "a message is judged, stored and counted, and its sender has read it"


# One server for each file.


def test_a_second_server_on_a_file_is_told_of_the_first(
    repository: SqliteRepository, path: Path
) -> None:
    repository.claim()
    second = SqliteRepository(path)
    with pytest.raises(SchemaError) as refused:
        second.claim()
    expected = (
        f"Another server (process {os.getpid()}) has the database {path} open;"
        " stop it first, or name another file"
    )
    assert expected == str(refused.value)
    repository.close()
    second.claim()
    second.close()


def test_so_is_one_in_another_process_and_a_kill_lets_go(path: Path) -> None:
    program = (
        "import sys\n"
        "from chatcore import SqliteRepository\n"
        "SqliteRepository(sys.argv[1]).claim()\n"
        "print('claimed', flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program, str(path)]
    repository = SqliteRepository(path)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"claimed\n"
        with pytest.raises(SchemaError, match=rf"process {other.pid}\b"):
            repository.claim()
        other.kill()
        other.wait()
        repository.claim()
    assert f"{os.getpid()}\n" == path.with_name("chat.db.lock").read_text(), "and nobody else"
    repository.close()


def test_the_lock_is_beside_the_database_and_others_may_use_that(
    repository: SqliteRepository, path: Path
) -> None:
    repository.claim()
    fcntl = pytest.importorskip("fcntl")
    lock = path.with_name("chat.db.lock")
    assert f"{os.getpid()}\n" == lock.read_text()
    with path.open("rb") as database:
        fcntl.flock(database, fcntl.LOCK_EX | fcntl.LOCK_NB)
    beside = SqliteRepository(path)  # another process may append, without serving
    beside.open()
    assert isinstance(beside.append([say("from beside")])[0], Stored)
    beside.close()
    with pytest.raises(SchemaError):  # and none of that has let go of the lock
        beside.claim()


# What cannot be opened.


def unchanged(path: Path) -> str:
    """Fail to open a file; return what was said, the file being as it was."""
    before = path.read_bytes()
    beside = {*path.parent.iterdir()}
    repository = SqliteRepository(path)
    with pytest.raises(SchemaError) as refused:
        repository.open()
    with pytest.raises(SchemaError):
        repository.claim()
    repository.close()
    assert before == path.read_bytes()
    assert beside == {*path.parent.iterdir()}
    return str(refused.value)


def test_a_file_that_is_no_database_is_left_as_it_is(path: Path) -> None:
    path.write_bytes(b"Dear diary, nobody must ever overwrite this.\n" * 40)
    assert f"Cannot open the database {path}: file is not a database" == unchanged(path)


def test_a_database_of_another_application_is_left_as_it_is(path: Path) -> None:
    with plain(path) as connection:
        connection.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT)")
    assert f"The database {path} belongs to another application; name another file" == unchanged(
        path
    )


def test_a_database_of_a_newer_version_is_left_as_it_is(path: Path) -> None:
    opened(path).close()
    with plain(path) as connection:
        connection.execute("UPDATE chatcore_version SET version_num = '9999'")
    said = unchanged(path)
    assert f"The database {path} was written by a newer version" in said
    assert "upgrade chatcore" in said


def test_a_path_where_nothing_can_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "missing" / "chat.db", tmp_path / "file" / "chat.db"):
        repository = SqliteRepository(path)
        with pytest.raises(SchemaError, match=r"^Cannot open the database .*: unable to open"):
            repository.open()
        repository.close()
        with pytest.raises(SchemaError, match=r"^Cannot open the database .*: unable to open"):
            repository.claim()
    (tmp_path / "chat.db.lock").mkdir()
    with pytest.raises(SchemaError, match=r"^Cannot write .*: Is a directory$"):
        SqliteRepository(tmp_path / "chat.db").claim()


def test_a_file_that_is_locked_for_long_is_refused(path: Path) -> None:
    opened(path).close()
    repository = SqliteRepository(path, busy_seconds=0.05)
    with plain(path) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(SchemaError, match=r"database is locked$"):
            repository.open()
    repository.open()
    repository.close()


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="Linux alone tells of locks")
def test_looking_at_a_database_that_is_open_here_drops_none_of_its_locks(path: Path) -> None:
    """Any closing of the file in this process would (POSIX), but for SQLite's own.

    Then the next process that closes it takes itself for the last, and the -wal file away.
    """
    opened(path).close()
    repository = SqliteRepository(path)
    repository.claim()
    repository.open()
    repository.room("lobby")  # a reader's connection, too

    def locks() -> list[str]:
        inode = f":{path.stat().st_ino} "
        return [line for line in Path("/proc/locks").read_text().splitlines() if inode in line]

    before = locks()
    assert before
    with pytest.raises(SchemaError):
        SqliteRepository(path).claim()
    with pytest.raises(SchemaError):
        SqliteRepository(path).renew_epochs()
    repository.backup(path.with_name("backup.db"))
    with pytest.raises(SchemaError):
        repository.renew_epochs()
    with pytest.raises(SchemaError, match="Another server"):
        SqliteRepository(path).claim()
    assert len(before) == len(locks())
    repository.close()


# What fails later.


def test_a_full_disk_is_storage_full_until_there_is_room(repository: SqliteRepository) -> None:
    def limit(pages: int) -> None:
        with repository.writing() as connection:
            connection.row(sa.text(f"PRAGMA max_page_count = {pages}"))

    big = [say("x" * 4000) for _ in range(100)]
    limit(1)  # which means: no more than there are
    with pytest.raises(StorageFull):
        repository.append(big)
    assert repository.head("lobby", 0)[1] == 1, "nothing was stored"
    limit(1_000_000)
    assert [
        outcome.event.seq
        for outcome in repository.append([say("room"), say("again")])
        if isinstance(outcome, Stored)
    ] == [2, 3]


@pytest.mark.parametrize("replaced", [False, True])
def test_nothing_is_stored_in_a_file_that_is_not_there_any_more(
    repository: SqliteRepository, path: Path, replaced: bool
) -> None:
    path.rename(path.with_name("moved.db"))
    if replaced:
        opened(path).close()
    for write in (
        lambda: repository.append([say("lost")]),
        lambda: repository.add_user(User("bob", "Bob"), None),
        lambda: repository.foreign_heads(["lobby"]),
    ):
        with pytest.raises(SchemaError, match=r"chat\.db was deleted or replaced"):
            write()
    if not replaced:
        path.with_name("moved.db").rename(path)
        assert isinstance(repository.append([say("back")])[0], Stored)


def test_another_process_that_writes_for_long_makes_it_unavailable(path: Path) -> None:
    opened(path).close()
    repository = SqliteRepository(path, busy_seconds=0.05)
    with plain(path) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable):
            repository.append([say("in vain")])
        with pytest.raises(Unavailable):
            repository.add_user(User("bob", "Bob"), None)
        assert repository.head("lobby", 9)[1] == 1, "reading goes on"
        with repository.reading() as connection:
            assert connection.row(sa.text("PRAGMA busy_timeout")) == (50,)
        other.execute("ROLLBACK")
    assert repository.user("bob") is None
    assert isinstance(repository.append([say("now")])[0], Stored)
    assert repository.head("lobby", 0)[1] == 2
    repository.close()


def test_a_commit_that_fails_is_an_unknown_outcome(
    repository: SqliteRepository,
) -> None:
    drafts = [say("perhaps")]
    with refusing_commits(), pytest.raises(OutcomeUnknown) as unknown:
        repository.append(drafts)
    assert isinstance(unknown.value.error, Unavailable)
    outcomes: list[Any] = [*unknown.value.outcomes]
    assert [*repository.stored(drafts, outcomes)] == [False]
    assert isinstance(repository.append(drafts)[0], Stored), "the next batch starts clean"


# What is erased.


def bytes_of(path: Path) -> bytes:
    return b"".join(each.read_bytes() for each in sorted(path.parent.iterdir()))


@pytest.mark.parametrize("seed", range(4))
def test_a_deleted_text_is_nowhere_in_the_files(
    repository: SqliteRepository, path: Path, seed: int
) -> None:
    """In no row, no index and no free page; the WAL lets go of it when it is written back."""
    chance = random.Random(seed)
    marks: dict[int, list[str]] = {}
    """Of each message what its text, and that of each of its edits, is made of."""
    for _ in range(20):
        drafts = []
        head = repository.head("lobby", 0)[1]
        for seq in range(head + 1, head + chance.randint(2, 40)):
            mark = f"<{seed}:{seq}>"
            text = mark * chance.choice((1, 10, 900))  # on one page, or on several
            old = chance.choice([*marks]) if marks and chance.random() < 0.3 else None
            marks.setdefault(old or seq, []).append(mark)
            drafts.append(edit(old, text) if old else say(text))
        assert all(isinstance(outcome, Stored) for outcome in repository.append(drafts))

    def found() -> set[int]:
        everything = bytes_of(path)
        return {seq for seq, each in marks.items() if any(m.encode() in everything for m in each)}

    assert found() == {*marks}
    gone = chance.sample(sorted(marks), len(marks) // 2)
    for seq in gone:
        assert isinstance(repository.append([delete(seq)])[0], Stored)
    while repository.purge():
        pass
    with plain(path) as connection:
        assert connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)
    assert found() == {*marks} - {*gone}


def test_what_is_of_a_message_is_found_by_an_index(
    repository: SqliteRepository, path: Path
) -> None:
    """However long the log is, wherever in it the edits are, and however many react."""
    repository.append([say("two"), edit(2, "II"), react("ada", 2)])
    with statements() as asked:
        for newest in (True, False):
            repository.messages("lobby", 0, 9, 9, newest=newest, upto=9)
        repository.append([edit(2, "2")])
        repository.append([react("ada", 2, "\u2615"), react("ada", 2, adds=False)])
        repository.append([delete(2)])
    by_target = "INDEX ix_events_target (room_id=? AND target=? AND kind=?"
    tables = ("events", "reactions", "tallies")
    found = 0
    with plain(path) as connection:
        for statement in asked:
            if statement.split()[0] not in ("SELECT", "UPDATE", "DELETE"):
                continue
            plan = connection.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()
            steps = [step[-1] for step in plan]
            assert not [step for step in steps if step in {f"SCAN {name}" for name in tables}]
            found += any(by_target in step for step in steps)
    assert found == 6, "two pages, what three batches load, and the edits that are erased"


def test_what_is_unread_is_counted_by_an_index_of_what_mentions_somebody(
    repository: SqliteRepository, path: Path
) -> None:
    """However many messages there are."""
    with statements() as asked:
        repository.membership("lobby", "ada")
        repository.memberships("ada")
        repository.mark_read({("lobby", "ada"): 1})
    by_key = "mentions USING PRIMARY KEY (user_id=? AND room_id=? AND seq>? AND seq<?)"
    with plain(path) as connection:
        plans = [
            [step[-1] for step in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
            for statement in asked
            if statement.startswith("SELECT")
        ]
    assert len(plans) == 3
    for plan in plans:
        assert [step for step in plan if by_key in step], plan
        assert not [step for step in plan if step in ("SCAN events", "SCAN mentions")], plan


def test_a_plain_message_takes_no_statement_for_what_it_has_not(
    repository: SqliteRepository,
) -> None:
    alone = statements_for(repository, [say("two")])
    assert len(alone) == len(statements_for(repository, [say("@nobody", mentions=(("nobody",),))]))


def test_what_was_done_in_a_room_and_who_owns_it_are_found_by_an_index(
    repository: SqliteRepository, path: Path
) -> None:
    """However many messages and members it has."""
    repository.append([say("two"), member("leave"), member("join", role="owner")])
    with statements() as asked:
        for newest in (True, False):
            repository.events("lobby", ["member", "room"], 0, 9, 9, newest=newest)
        repository.reports("lobby", 0, 9)
        repository.bans("lobby", "", 9, NOW)
        repository.place("lobby", "ada")
        repository.append([member("leave")])  # which needs another owner
        repository.append([say("five")])
    used = (
        "events USING INDEX ix_events_audit (room_id=? AND kind=? AND seq>? AND seq<?)",
        "members USING COVERING INDEX ix_members_owners (room_id=? AND role=?)",
        "reports USING PRIMARY KEY (room_id=? AND number>?)",
        "restraints USING PRIMARY KEY (room_id=? AND user_id=?)",
        "restraints USING COVERING INDEX ix_restraints_sanctions (room_id=?)",
        "sanctions USING INDEX sqlite_autoindex_events_1 (room_id=? AND seq=?)",
    )
    found = dict.fromkeys(used, 0)
    with plain(path) as connection:
        for statement in asked:
            plan = connection.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()
            steps = [step[-1] for step in plan]
            tables = ("events", "members", "reports", "restraints")
            assert not [step for step in steps if step in {f"SCAN {name}" for name in tables}]
            for each in used:
                found[each] += any(each in step for step in steps)
    assert [*found.values()] == [2, 1, 1, 3, 1, 2]


def test_pages_look_at_nothing_but_what_they_give(repository: SqliteRepository, path: Path) -> None:
    """However much of other kinds there is between: a night of reactions, or of coming and going.

    Each step of a statement is SQLite's, and so are those of its `LIMIT`: none are of a sort.
    """

    def pages() -> None:
        for newest in (True, False):
            (found,) = repository.messages("lobby", 0, 999, 1, newest=newest, upto=9_999)
            assert found.seq == (502 if newest else 2)
            kinds = ["member", "room", "room", "delete"]
            changes = repository.events("lobby", kinds, 2, 500, 1, newest=newest)
            assert [each.seq for each in changes] == [499 if newest else 4]
            for kind in ("edit", "room"):
                assert repository.events("lobby", [kind], 4, 500, 1, newest=newest) == []

    repository.append([say("two"), react("ada", 2)])
    for _ in range(248):
        repository.append([member("leave"), member("join", role="member")])
    repository.append([react("ada", 2, "\u2615"), react("ada", 2, "\u2764")])
    repository.append([say("five hundred and two")])
    with statements() as asked:
        pages()
    found = 0
    with plain(path) as connection:
        for statement in asked:
            steps = [step[-1] for step in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
            assert not [step for step in steps if step.startswith("USE TEMP B-TREE")]
            found += any(
                "INDEX ix_events_messages (room_id=? AND seq>? AND seq<?)" in s for s in steps
            )
            found += any("INDEX ix_events_audit (room_id=? AND kind=? AND seq" in s for s in steps)
    assert found == len(asked) == 8


# For who reads with plain SQL, as the first chatroom could be read.


def test_users_and_messages_have_the_columns_they_always_had(
    repository: SqliteRepository, path: Path
) -> None:
    later = AT.replace(second=59, microsecond=7_000)
    repository.append(
        [say("hi"), member("leave"), member("join", role="member"), say("☃", timestamp=later)]
    )
    with plain(path) as connection:
        users = connection.execute("SELECT id, username, password_hash FROM users").fetchall()
        messages = connection.execute(
            "SELECT id, username, content, timestamp FROM messages ORDER BY id"
        ).fetchall()
    assert users == [(1, "ada", "hash of ada")]
    assert messages == [
        (2, "ada", "hi", "2026-11-22 09:42:13.123000"),
        (5, "ada", "☃", "2026-11-22 09:42:59.007000"),
    ]


def test_the_view_of_messages_shows_them_as_they_are_now(
    repository: SqliteRepository, path: Path
) -> None:
    repository.append([say("two"), say("three"), say("four"), edit(2, "II"), edit(2, "2")])
    repository.append([edit(3, "III"), delete(3)])
    with plain(path) as connection:
        messages = connection.execute("SELECT content FROM messages ORDER BY id").fetchall()
    assert messages == [("2",), ("four",)]


def test_what_was_stored_is_there_when_the_file_is_opened_again(path: Path) -> None:
    first = opened(path)
    first.append([say("kept", txn_id="t1")])
    events = first.read("lobby", 0, 9, 9)
    first.close()
    again = SqliteRepository(path)
    again.open()
    assert events == again.read("lobby", 0, 9, 9)
    assert again.room("lobby") == LOBBY
    again.close()
    assert {"chat.db"} == {each.name for each in path.parent.iterdir()}, "and no WAL is left"
