"""The steps lead from nothing to the schema, and back."""

from __future__ import annotations

import contextlib
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from chatcore import auth
from chatcore.chat import Chat
from chatcore.errors import NotFound, SchemaError
from chatcore.events import Duplicate, Stored
from chatcore.model import Draft, Limits, Room, User
from chatcore.query import parse
from chatcore.repository.sql import SqliteRepository
from chatcore.repository.sql.migrate import (
    NEWEST,
    VERSION_TABLE,
    VERSIONS,
    downgrade,
    migrate,
    upgrade,
)
from chatcore.repository.sql.schema import metadata
from chatcore.testing import FakeClock
from chatcore.testing.drafts import LOBBY, NOW, THUMB, all_stored, member, react, say, upon
from chatcore.testing.retention import expire
from tests.database import refusing_commits


@pytest.fixture
def connection() -> Iterator[sa.Connection]:
    engine = sa.create_engine("sqlite://")
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def things(connection: sa.Connection) -> dict[str, str]:
    """Every table, index and view by its name, and the SQL that would make it."""
    rows = connection.execute(sa.text("SELECT name, sql FROM sqlite_master WHERE sql NOT NULL"))
    return {name: re.sub(r"\s+", "", sql) for name, sql in rows}


def version(connection: sa.Connection) -> object:
    return connection.execute(sa.text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()


def is_of_the_schema(name: str | None, *_: object) -> bool:
    """Whether it is no part of the index of words, which SQLite makes and no other database."""
    return name is None or name.partition("_")[0] != "words"


def test_the_steps_make_the_schema(connection: sa.Connection) -> None:
    migrate(connection, "test.db")
    opts = {"version_table": "chatcore_version", "include_name": is_of_the_schema}
    context = MigrationContext.configure(connection, opts=opts)
    assert compare_metadata(context, metadata) == []


def test_to_the_letter_and_nothing_beside_it_but_a_view(connection: sa.Connection) -> None:
    migrate(connection, "test.db")
    migrated = things(connection)
    assert {"messages", "chatcore_version"} == {*filter(is_of_the_schema, migrated)} - {
        *metadata.tables,
        *(index.name for table in metadata.tables.values() for index in table.indexes),
    }
    engine = sa.create_engine("sqlite://")
    with engine.connect() as fresh:
        metadata.create_all(fresh)
        expected = things(fresh)
    engine.dispose()
    assert expected == {name: migrated[name] for name in expected}


def test_the_version_stands_in_a_table_of_our_own(connection: sa.Connection) -> None:
    connection.execute(sa.text("CREATE TABLE alembic_version (version_num TEXT)"))
    connection.execute(sa.text("INSERT INTO alembic_version VALUES ('the host''s')"))
    migrate(connection, "test.db")
    assert version(connection) == NEWEST
    hosts = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    assert hosts == "the host's"


def test_newest_is_the_head_of_one_line() -> None:
    config = Config()
    config.set_main_option("script_location", "chatcore.repository.sql:migrations")
    assert ScriptDirectory.from_config(config).get_heads() == [NEWEST]


def test_down_and_up_again(connection: sa.Connection) -> None:
    upgrade(connection, "head")
    made = things(connection)
    downgrade(connection, "base")
    assert {"chatcore_version"} == {*things(connection)}
    assert version(connection) is None
    upgrade(connection, "head")
    assert made == things(connection)


def test_after_the_way_down_it_may_be_opened_again(connection: sa.Connection) -> None:
    upgrade(connection, "head")
    downgrade(connection, "base")
    migrate(connection, "test.db")
    assert version(connection) == NEWEST


def test_migrating_twice_changes_nothing(connection: sa.Connection) -> None:
    migrate(connection, "test.db")
    made = things(connection)
    migrate(connection, "test.db")
    assert made == things(connection)


@pytest.mark.parametrize("table", sorted({*metadata.tables, "messages"}))
def test_a_table_of_ours_without_our_version_is_somebody_elses(
    connection: sa.Connection, table: str
) -> None:
    connection.execute(sa.text(f"CREATE TABLE {table} (id INTEGER)"))
    with pytest.raises(SchemaError, match=r"test\.db belongs to another application"):
        migrate(connection, "test.db")
    assert {table} == {*things(connection)}


def test_beside_a_hosts_own_tables_ours_are_made(connection: sa.Connection) -> None:
    connection.execute(sa.text("CREATE TABLE customers (id INTEGER)"))
    migrate(connection, "test.db")
    assert {"customers", "events"} < {*things(connection)}


def test_a_step_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """Opening is one transaction: another process sees all of a schema or none of it."""
    path = tmp_path / "chat.db"
    repository = SqliteRepository(path)
    with refusing_commits(), pytest.raises(SchemaError):
        repository.open()
    with contextlib.closing(sqlite3.connect(path)) as plain:
        assert plain.execute("SELECT name FROM sqlite_master").fetchall() == []
        repository.open()
        found = plain.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchall()
        assert found == [(NEWEST,)]
    repository.close()


def test_opening_what_is_up_to_date_does_not_load_alembic(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from chatcore import SqliteRepository\n"
        "repository = SqliteRepository(sys.argv[1])\n"
        "repository.open()\n"
        "repository.close()\n"
        "print('alembic' in sys.modules)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "chat.db")]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in "12"]
    assert [run.stdout for run in runs] == ["True\n", "False\n"]


# From one step to the next, with data.


ACCOUNTS = """
INSERT INTO users VALUES (1, 'ada', 'hash', 'Ada', 'ada', 0), (2, 'bob', NULL, 'Bob', 'bob', 0),
  (3, 'cyd', 'hash', 'Cyd', 'cyd', 0), (4, 'dan', 'hash', 'Dan', 'dan', 0);
"""


def test_accounts_go_up_and_who_is_out_stays_out_on_the_way_back(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        upgrade(connection, "0003")
        before = things(connection)
    with contextlib.closing(sqlite3.connect(path)) as plain:
        plain.executescript(ACCOUNTS)
    everyone = rows(path, "SELECT * FROM users")

    repository = SqliteRepository(path)
    repository.open()
    assert {(a.status, a.closing, a.user.bot) for a in repository.users("", 9)} == {
        ("active", None, False)
    }
    repository.set_profile(User("ada", "Ada", bot=True))
    for username in ("bob", "cyd"):
        assert repository.disable(username)
    assert repository.close_account("dan", "erase") is not None
    repository.close()

    with engine.begin() as connection:
        downgrade(connection, "0003")
        assert before == things(connection)
    assert [row[:4] for row in rows(path, "SELECT * FROM users")] == [
        everyone[0][:4],
        (2, "bob", "disabled:", "Bob"),
        (3, "cyd", "disabled:hash", "Cyd"),
        (4, "dan", "deleted:erase", "Deleted user"),
    ], "with what is no hash of a password"

    repository.open()
    found = [(a.user.username, a.status, a.password_hash) for a in repository.users("", 9)]
    assert found == [
        ("ada", "active", "hash"),
        ("bob", "disabled", None),
        ("cyd", "disabled", "hash"),
        ("dan", "deleted", None),
    ]
    assert [(a.user.username, a.closing) for a in repository.closing_accounts()] == [
        ("dan", "erase")
    ]
    repository.close()
    engine.dispose()


FIRST = """
INSERT INTO users VALUES (1, 'ada', 'hash', 'Ada', 'ada', 0), (2, 'bob', 'hash', 'Bob', 'bob', 0);
INSERT INTO rooms VALUES (1, 'lobby', 'lobby', 'public', 'Lobby', '', 'e1', 1, 4, 2);
INSERT INTO events VALUES
  (1, 1, 1, 'member', 1, 1000, 0, 11, '{"username":"ada","action":"join","role":"member"}'),
  (2, 1, 2, 'member', 2, 2000, 0, 12, '{"username":"bob","action":"join","role":"member"}'),
  (3, 1, 3, 'message', 1, 3000, 1, 13, '{"content":"three"}'),
  (4, 1, 4, 'message', 2, 4000, 2, 14, '{"content":"four"}');
INSERT INTO members VALUES (1, 1, 'member', 3, 1), (1, 2, 'member', 4, 2);
"""


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def test_a_database_of_the_first_step_goes_up_and_back_with_its_data(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        upgrade(connection, "0001")
        first = things(connection)
    with contextlib.closing(sqlite3.connect(path)) as plain:
        plain.executescript(FIRST)
    everything = "SELECT seq, kind, sender_id, timestamp, messages, draft, body FROM events"
    before, shown = rows(path, everything), rows(path, "SELECT * FROM messages")

    repository = SqliteRepository(path)
    repository.open()
    assert (before, shown) == (rows(path, everything), rows(path, "SELECT * FROM messages"))
    assert [event.seq for event in repository.read("lobby", 0, 9, 9)] == [1, 2, 3, 4]
    room = repository.room("lobby")
    assert room is not None

    def draft(sender: str, kind: str, **body: object) -> Draft:
        return Draft(
            room=room,
            sender=sender,
            kind=kind,
            body=body,
            timestamp=datetime(2026, 1, 1, tzinfo=UTC),
        )

    outcomes = repository.append(
        [
            draft("ada", "edit", target=3, content="III"),
            draft("ada", "edit", target=3, content="3"),
            draft("bob", "delete", target=4),
        ]
    )
    assert all(isinstance(outcome, Stored) for outcome in outcomes)
    repository.close()

    with engine.begin() as connection:
        downgrade(connection, "0001")
        assert first == things(connection)
        assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []
    assert [(*row[:2], row[-1]) for row in rows(path, everything)] == [
        *((*row[:2], row[-1]) for row in before[:2]),
        (3, "message", '{"content":"3"}'),
        (4, "message", '{"content":""}'),
        (5, "member", '{"username":"ada","action":"edit"}'),
        (6, "member", '{"username":"ada","action":"edit"}'),
        (7, "member", '{"username":"bob","action":"delete"}'),
    ], "each has its place, and what it says now"
    assert rows(path, "SELECT username, content FROM messages") == [("ada", "3"), ("bob", "")]
    engine.dispose()
    repository = SqliteRepository(path)
    repository.open()
    assert [event.seq for event in repository.read("lobby", 0, 9, 9)] == [1, 2, 3, 4, 5, 6, 7]
    repository.close()


SECOND = (
    FIRST.replace("}')", "}', NULL)")
    + """
INSERT INTO events VALUES
  (5, 1, 5, 'edit', 1, 5000, 2, 15, '{"target":3,"content":"III"}', 3),
  (6, 1, 6, 'delete', 2, 6000, 2, 16, '{"target":4,"reason":"spam"}', 4);
UPDATE events SET body = '{"content":"","erased":true}' WHERE seq = 4;
UPDATE rooms SET head = 6;
UPDATE members SET role = 'owner' WHERE user_id = 1;
"""
)


def test_a_database_of_the_fourth_step_goes_up_and_back_with_its_data(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        upgrade(connection, "0002")
    with contextlib.closing(sqlite3.connect(path)) as plain:
        plain.executescript(SECOND)
    with engine.begin() as connection:
        upgrade(connection, "0004")
        fourth = things(connection)
    everything = "SELECT seq, kind, sender_id, timestamp, messages, draft, body, target FROM events"
    before, shown = rows(path, everything), rows(path, "SELECT * FROM messages")

    repository = SqliteRepository(path, check="always")
    repository.claim()
    repository.open()
    assert (before, shown) == (rows(path, everything), rows(path, "SELECT * FROM messages"))
    lobby = Room("lobby", title="Lobby")
    outcomes = repository.append(
        [
            say("ada", "back", lobby),
            say("ada", "an answer", lobby, reply_to=7),
            react("ada", 7, room=lobby),
            react("ada", 7, "\u2615", room=lobby),
            react("ada", 7, room=lobby, adds=False),
        ]
    )
    assert all(isinstance(outcome, Stored) for outcome in outcomes)
    repository.close()

    with engine.begin() as connection:
        downgrade(connection, "0004")
        assert fourth == things(connection)
    assert rows(path, everything)[:6] == before
    member = '{"username":"ada","action":"reaction"}'
    assert [(row[0], row[1], row[6], row[7]) for row in rows(path, everything)[6:]] == [
        (7, "message", '{"content":"back"}', None),
        (8, "message", '{"content":"an answer"}', None),
        *((seq, "member", member, None) for seq in (9, 10, 11)),
    ], "each has its place, and nothing that was not known"
    engine.dispose()
    repository = SqliteRepository(path)
    repository.open()
    assert [event.seq for event in repository.read("lobby", 0, 99, 99)] == [*range(1, 12)]
    page = repository.messages("lobby", 6, 99, 9, newest=True, upto=99)
    assert [getattr(each, "reactions", None) for each in page] == [(), ()]
    repository.close()


def test_a_database_of_the_second_step_goes_up_and_back_with_its_data(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        upgrade(connection, "0002")
        second = things(connection)
    with contextlib.closing(sqlite3.connect(path)) as plain:
        plain.executescript(SECOND)
    everything = "SELECT seq, kind, sender_id, timestamp, messages, draft, body, target FROM events"
    before, shown = rows(path, everything), rows(path, "SELECT * FROM messages")

    repository = SqliteRepository(path, check="always")
    repository.claim()
    repository.open()
    assert (before, shown) == (rows(path, everything), rows(path, "SELECT * FROM messages"))
    room = repository.room("lobby")
    assert room == Room("lobby", title="Lobby")
    assert repository.place("lobby", "ada") == ("owner", None)
    assert repository.add_user(User("cyd", "Cyd"), None)
    at = datetime(2026, 1, 1, tzinfo=UTC)

    def draft(kind: str, **body: object) -> Draft:
        return Draft(room=room, sender="ada", kind=kind, body=body, timestamp=at)

    until = "2030-01-01T00:00:00.000Z"
    outcomes = repository.append(
        [
            draft("room", title="Hall", slow_mode=9, archived=True, retention_days=99),
            draft("member", username="bob", action="role", role="moderator"),
            draft("member", username="bob", action="ban", until=until, reason="spam"),
            draft("member", username="cyd", action="invite"),
        ]
    )
    assert all(isinstance(outcome, Stored) for outcome in outcomes)
    assert repository.report("lobby", 3, "cyd", "rude", at)
    repository.close()

    with engine.begin() as connection:
        downgrade(connection, "0002")
        assert second == things(connection)
        assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []
    assert rows(path, everything)[:6] == before
    assert [(row[0], row[1], row[6]) for row in rows(path, everything)[6:]] == [
        (7, "member", '{"username":"ada","action":"update"}'),
        (8, "member", '{"username":"bob","action":"role","role":"moderator"}'),
        (9, "member", '{"username":"bob","action":"ban"}'),
        (10, "member", '{"username":"cyd","action":"invite"}'),
    ], "each has its place, and nothing that was not known"
    assert rows(path, "SELECT user_id, role FROM members") == [(1, "owner")]
    assert rows(path, "SELECT title FROM rooms") == [("Hall",)]
    engine.dispose()
    repository = SqliteRepository(path)
    repository.open()
    assert [event.seq for event in repository.read("lobby", 0, 99, 99)] == [*range(1, 11)]
    assert repository.room("lobby") == Room("lobby", title="Hall")
    assert repository.place("lobby", "bob") == (None, None), "who is banned no more"
    repository.close()


def test_a_database_of_the_fifth_step_is_searched_and_goes_back(tmp_path: Path) -> None:
    """Its messages are indexed by and by; nothing of the log is another."""
    path = tmp_path / "chat.db"
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        upgrade(connection, "0002")
    with contextlib.closing(sqlite3.connect(path)) as plain:
        plain.executescript(SECOND)
    with engine.begin() as connection:
        upgrade(connection, "0005")
        fifth = things(connection)
    everything = "SELECT * FROM events"
    before = rows(path, everything)
    with contextlib.closing(SqliteRepository(path)) as repository:
        repository.open()
        while repository.index(2):
            pass
        now = datetime(2026, 1, 1, tzinfo=UTC)
        (found,) = repository.search("ada", parse("iii"), None, 9, now)
        assert found[1] is not None
        assert (found[1].seq, found[1].content, found[1].head) == (3, "III", 6)
        assert repository.search("ada", parse("from:bob"), None, 9, now) == [], "it was deleted"
    with engine.begin() as connection:
        downgrade(connection, "0005")
        assert fifth == things(connection)
    assert before == rows(path, everything)
    engine.dispose()


def test_by_what_somebody_is_banned_is_found_in_the_log(tmp_path: Path) -> None:
    """Of a database of the ninth step."""
    path = tmp_path / "chat.db"
    banned = upon("ada", "ban", "bob", until="2030-01-01T00:00:00.000Z", reason="spam")
    with contextlib.closing(SqliteRepository(path)) as repository:
        repository.open()
        repository.add_room(LOBBY)
        for name in ("ada", "bob", "cyd"):
            repository.add_user(User(name, name), None)
        drafts = [
            upon("ada", "ban", "bob"),
            banned,
            upon("ada", "mute", "bob"),
            upon("ada", "mute", "cyd"),
            upon("ada", "unmute", "cyd"),
        ]
        all_stored(repository.append([member("ada", "join", role="owner"), *drafts]))
        places = [repository.place("lobby", name) for name in ("bob", "cyd")]
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        downgrade(connection, "0009")
    engine.dispose()
    with contextlib.closing(SqliteRepository(path)) as repository:
        repository.open()
        assert [repository.place("lobby", name) for name in ("bob", "cyd")] == places
        assert places[0][1] is not None
        assert (places[0][1].ban, places[0][1].mute) == (3, 4)
        assert repository.append([banned]) == [Duplicate(3, NOW)]


def test_a_room_goes_back_without_its_retention(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    with contextlib.closing(SqliteRepository(path)) as repository:
        repository.open()
        repository.add_user(User("ada", "Ada"), None)
        room, old = Room("den"), datetime(2026, 1, 1, tzinfo=UTC)

        def draft(kind: str, at: datetime, **body: object) -> Draft:
            creates = body.get("action") == "join"
            return Draft(
                room=room, sender="ada", kind=kind, body=body, timestamp=at, creates=creates
            )

        repository.append(
            [
                draft("member", old, username="ada", action="join", role="owner"),
                draft("message", old, content="gone"),
                draft("room", datetime(2026, 2, 1, tzinfo=UTC), topic="Tea", retention_days=7),
            ]
        )
        now = datetime(2026, 2, 2, tzinfo=UTC)
        assert repository.due(now, 99) == ("den", 3)
        repository.expire("den", 3, now)
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        downgrade(connection, "0006")
        assert connection.exec_driver_sql("SELECT seq, body FROM events").all() == [
            (3, '{"topic":"Tea"}')
        ]
    engine.dispose()
    with contextlib.closing(SqliteRepository(path, check="always")) as repository:
        repository.claim()
        repository.open()
        assert repository.head("den", 9)[:2] == (3, 3)
        assert repository.room("den") == Room("den", topic="Tea")


# All the way, with all that there is.


PASSWORD = "correct horse"
TOKEN = "cc_" + "a" * 43
LIMITS = Limits(messages=None, attempts=None, changes=None)


@contextlib.contextmanager
def stepping(path: Path) -> Iterator[sa.Connection]:
    """One step; afterwards SQLite has nothing to say against the file."""
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        connection.exec_driver_sql("PRAGMA foreign_keys = ON")
        yield connection
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []
        assert connection.exec_driver_sql("PRAGMA integrity_check").all() == [("ok",)]
    engine.dispose()


def climb(path: Path) -> None:
    """Go up from the first schema, each step by itself; what comes out is what a new file has."""
    for step in VERSIONS[1:]:
        with stepping(path) as connection:
            upgrade(connection, step)
    with stepping(path) as connection:
        climbed = things(connection)
    engine = sa.create_engine("sqlite://")
    with engine.connect() as fresh:
        migrate(fresh, "test.db")
        assert things(fresh) == climbed
    engine.dispose()


def of_the_first_schema(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """What every schema can hold and no step may change, whichever of them the file has."""
    return {
        query: rows(path, query)
        for query in (
            "SELECT id, username, skeleton, created FROM users ORDER BY id",
            "SELECT * FROM tokens ORDER BY digest",
            "SELECT id, name, skeleton, kind, title, topic, epoch, first, head, messages"
            " FROM rooms ORDER BY id",
            "SELECT id, room_id, seq, sender_id, timestamp, messages, draft FROM events ORDER BY 1",
            "SELECT * FROM members WHERE role <> 'invited' ORDER BY 1, 2",
            "SELECT * FROM txns ORDER BY 1, 2, 3",
            "SELECT * FROM messages WHERE content <> '' ORDER BY id",
        )
    }


async def test_what_the_first_schema_held_is_there_in_the_newest(tmp_path: Path) -> None:
    path, epoch = tmp_path / "chat.db", datetime(1970, 1, 1, tzinfo=UTC)
    with stepping(path) as connection:
        upgrade(connection, "0001")
    with contextlib.closing(sqlite3.connect(path)) as plain:
        plain.executescript(FIRST)
        hashes = [(auth.hashed(PASSWORD, 4), name) for name in ("ada", "bob")]
        plain.executemany("UPDATE users SET password_hash = ? WHERE username = ?", hashes)
        plain.execute("INSERT INTO tokens VALUES (?, 2, 9000000000000)", [auth.digest(TOKEN)])
        plain.executescript(
            """
            INSERT INTO users VALUES (3, 'cyd', NULL, 'Cyd', 'cyd', 5);
            INSERT INTO txns VALUES (1, 1, 'laptop:1', 3, 3000, 3531652881177065246);
            INSERT INTO rooms VALUES (2, 'den', 'den', 'private', 'Den', 'Tea', 'e2', 1, 3, 1);
            INSERT INTO events VALUES
              (5, 2, 1, 'member', 2, 5000, 0, 15,
               '{"username":"bob","action":"join","role":"owner"}'),
              (6, 2, 2, 'message', 2, 6000, 1, 16, '{"content":"alone"}'),
              (7, 2, 3, 'member', 3, 7000, 1, 17, '{"username":"cyd","action":"leave"}');
            INSERT INTO members VALUES (2, 2, 'owner', 3, 1);
            """
        )
    before = of_the_first_schema(path)
    climb(path)
    assert before == of_the_first_schema(path)

    clock = FakeClock(datetime(2026, 1, 1, tzinfo=UTC))
    async with Chat(SqliteRepository(path, check="always"), clock=clock) as chat:
        ada = await chat.login("ada", PASSWORD)
        bob, _ = await chat.recognise(TOKEN)
        assert (User("ada", "Ada"), User("bob", "Bob")) == (ada, bob)
        stands = {
            user.username: [
                (each.room.name, each.role, each.epoch, each.head, each.read, each.unread)
                for each in await chat.memberships(user)
            ]
            for user in (ada, bob)
        }
        assert stands == {
            "ada": [("lobby", "member", "e1", 4, 3, 1)],
            "bob": [("den", "owner", "e2", 3, 3, 0), ("lobby", "member", "e1", 4, 4, 0)],
        }
        lobby = await chat.history(ada, "lobby")
        assert [(each.seq, each.sender, each.content) for each in lobby.messages] == [
            (3, "ada", "three"),
            (4, "bob", "four"),
        ]
        assert [each.timestamp - epoch for each in lobby.messages] == [
            timedelta(seconds=3),
            timedelta(seconds=4),
        ]
        den = await chat.history(bob, "den", types=["message", "member"])
        assert [each.content for each in den.messages] == ["alone"]
        assert [each.seq for each in den.events] == [1, 3]
        with pytest.raises(NotFound):
            await chat.history(ada, "den")
        assert [each.username for each in (await chat.members(ada, "lobby")).members] == [
            "ada",
            "bob",
        ]
        again = await chat.send(ada, "lobby", "three", txn_id="laptop:1")
        assert (3, True) == (again.seq, again.duplicate)
        found = await chat.search(bob, "alone")
        assert [each.seq for each in found.messages] == [2]
        assert (await chat.edit(ada, "lobby", 3, "III")).seq == 5


async def fill(path: Path) -> None:
    """Have some of everything that the newest schema knows."""
    clock = FakeClock(datetime(2026, 1, 1, tzinfo=UTC))
    repository = SqliteRepository(path)
    async with Chat(repository, limits=LIMITS, clock=clock, bcrypt_cost=4) as chat:
        ada, bob, cyd, dan, eve, fay = [
            await chat.register(name, PASSWORD)
            for name in ("ada", "bob", "cyd", "dan", "eve", "fay")
        ]
        await chat.create(ada, "hall", title="Hall", topic="Tea")
        for user in (bob, cyd, dan, eve):
            await chat.join(user, "hall")
        await chat.send(bob, "hall", "long ago")  # 6
        await chat.update(ada, "hall", retention_days=10, slow_mode=1)
        clock.advance(20 * 86_400)
        await chat.send(bob, "hall", "one")  # 8
        await chat.edit(bob, "hall", 8, "I @cyd")
        await chat.edit(bob, "hall", 8, "1 @ada")
        await chat.send(cyd, "hall", "two", txn_id="phone:1")  # 11
        await chat.send(dan, "hall", "three", reply_to=8)
        await chat.send(eve, "hall", "four")
        await chat.report(cyd, "hall", 13, "rude")
        await chat.delete(ada, "hall", 13, reason="it was")
        await chat.react(cyd, "hall", 8, THUMB)
        await chat.react(eve, "hall", 8, THUMB)
        await chat.unreact(cyd, "hall", 8, THUMB)
        await chat.mark_read(ada, "hall", 11)
        await chat.set_role(ada, "hall", "cyd", "moderator")
        await chat.set_role(ada, "hall", "bob", "reader")
        until = clock() + timedelta(days=1)
        await chat.mute(ada, "hall", "bob", until=until, reason="loud")
        await chat.ban(cyd, "hall", "eve", until=until, reason="rude")
        await chat.kick(ada, "hall", "dan")
        await chat.invite(ada, "hall", "fay")
        await chat.create(bob, "den", kind="private")
        await chat.invite(bob, "den", "cyd")
        await chat.send(bob, "den", "alone")
        await chat.update(bob, "den", archived=True)
        between = await chat.direct(ada, "bob")
        await chat.send(ada, between.name, "between us")
        for user in (ada, bob, cyd, dan, eve):
            await chat.issue_token(user)
        await chat.change_profile(ada, display_name="Countess", bot=True)
        await chat.disable(eve)
        await chat.delete_account(dan, messages="erase")
        await chat.forget(fay)
        assert [each.seq for each in (await chat.search(cyd, "two")).messages] == [11]
    with contextlib.closing(SqliteRepository(path)) as repository:
        repository.open()
        while expire(repository, clock()):  # unless the chat did it
            pass
        assert repository.head("hall", 0)[0] == 8


async def test_all_that_there_is_goes_down_to_the_first_schema_and_comes_up(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    await fill(path)
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        filled = things(connection)
        for table in {*metadata.tables} - {"indexing"}:
            count = connection.scalar(sa.text(f"SELECT count(*) FROM {table}"))
            assert count, f"nothing in {table}"
    engine.dispose()
    before = of_the_first_schema(path)
    log = "SELECT room_id, seq, iif(kind = 'message', kind, 'member') FROM events ORDER BY 1, 2"
    kinds = rows(path, log)

    for step in reversed(VERSIONS[:-1]):
        with stepping(path) as connection:
            downgrade(connection, step)
        assert before == of_the_first_schema(path), step
    assert kinds == rows(path, log)
    assert set(rows(path, "SELECT DISTINCT kind FROM events")) == {("message",), ("member",)}
    climb(path)
    assert before == of_the_first_schema(path)
    with stepping(path) as connection:
        assert filled == things(connection)

    clock = FakeClock(datetime(2026, 1, 22, tzinfo=UTC))
    repository = SqliteRepository(path, check="always")
    async with Chat(repository, limits=LIMITS, clock=clock) as chat:
        ada, bob, cyd = [await chat.login(name, PASSWORD) for name in ("ada", "bob", "cyd")]
        assert User("ada", "Countess") == ada, "nobody is a bot any more"
        hall = await chat.history(cyd, "hall", types=["message", "member", "room"])
        assert (8, 25) == (hall.first, hall.head)
        assert [(each.seq, each.sender, each.content) for each in hall.messages] == [
            (8, "bob", "1 @ada"),
            (11, "cyd", "two"),
            (12, "dan", ""),
            (13, "eve", ""),
        ]
        assert [*range(8, 26)] == sorted(each.seq for each in (*hall.messages, *hall.events))
        assert {
            user.username: [
                (each.room.kind, each.role, each.read, each.unread)
                for each in await chat.memberships(user)
            ]
            for user in (ada, bob, cyd)
        } == {
            "ada": [("direct", "member", 3, 0), ("public", "owner", 11, 2)],
            "bob": [
                ("private", "owner", 3, 0),
                ("direct", "member", 1, 1),
                ("public", "reader", 8, 3),
            ],
            "cyd": [("public", "moderator", 11, 2)],
        }
        assert ["disabled", "deleted", "deleted"] == [
            account.status for account in map(repository.user, ("eve", "dan", "fay")) if account
        ]
        again = await chat.send(cyd, "hall", "two", txn_id="phone:1")
        assert (11, True) == (again.seq, again.duplicate)
        assert [each.seq for each in (await chat.search(cyd, "ada")).messages] == [8]
        await chat.join(await chat.register("gus", PASSWORD), "hall")
