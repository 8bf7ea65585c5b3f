"""The first chatroom's database: its users and messages come into the lobby, each once."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sqlite3
import stat
import sys
from collections.abc import Iterable
from pathlib import Path

import aiohttp
import bcrypt
import pytest

from chat_transports.server import first_chatroom
from chat_transports.server.importing import BATCH, Import
from chatcore import SqliteRepository
from chatcore.chat import prepare
from chatcore.errors import Unavailable
from chatcore.testing import PATIENCE, FaultyRepository, Refusal, failing
from tests.support import (
    CHAT_SERVE,
    PASSWORD,
    connected,
    fails_to_start,
    present,
    run_here,
    serving,
)

# What SQLAlchemy made of that page's tables.
OLD = """
CREATE TABLE users (
    id INTEGER NOT NULL,
    username VARCHAR(50) NOT NULL,
    password_hash VARCHAR(255) NOT NULL,
    PRIMARY KEY (id),
    UNIQUE (username)
);
CREATE TABLE messages (
    id INTEGER NOT NULL,
    username VARCHAR(50) NOT NULL,
    content TEXT NOT NULL,
    timestamp DATETIME NOT NULL,
    PRIMARY KEY (id)
);
"""
NOON = "2024-05-01 12:00:00.000000"


def hashed(password: str) -> str:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()


def old_database(
    path: Path,
    users: Iterable[tuple[object, object]],
    messages: Iterable[tuple[object, object, object]],
    *,
    schema: str = OLD,
) -> Path:
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.executescript(schema)
        db.executemany("INSERT INTO users (username, password_hash) VALUES (?, ?)", users)
        add_messages(db, messages)
    return path


def add_messages(db: sqlite3.Connection, messages: Iterable[tuple[object, ...]]) -> None:
    db.executemany("INSERT INTO messages (username, content, timestamp) VALUES (?, ?, ?)", messages)


async def chat_serve(*arguments: str | Path) -> tuple[int, list[str], str]:
    """Return the status, the lines of the report, and what standard error had."""
    process = await asyncio.create_subprocess_exec(
        *CHAT_SERVE,
        *map(str, arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE):
        out, err = await process.communicate()
    return process.returncode or 0, out.decode().splitlines(), err.decode()


async def imported(old: Path, new: Path) -> list[str]:
    status, said, err = await run_here("import", old, "--database", f"sqlite:///{new}")
    assert status == 0, err
    return said.splitlines()


def messages_of(path: Path) -> list[tuple[str, str, str]]:
    with contextlib.closing(sqlite3.connect(path)) as db:
        return db.execute(
            "SELECT username, content, timestamp FROM messages ORDER BY id"
        ).fetchall()


def files(directory: Path) -> list[str]:
    return [path.name for path in listed(directory)]


def listed(directory: Path, but: str = "") -> list[Path]:
    return sorted(path for path in directory.iterdir() if path.name != but)


def log_of(path: Path) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(path)) as db:
        return db.execute(
            "SELECT seq, username, kind, body, messages FROM events"
            " JOIN users ON users.id = sender_id ORDER BY seq"
        ).fetchall()


async def log_in(http: str, username: str, password: str) -> int:
    async with aiohttp.ClientSession(http) as session:
        given = {"username": username, "password": password}
        async with session.post("/login", json=given) as answer:
            return answer.status


async def test_users_log_in_as_before_and_read_what_was_said(tmp_path: Path) -> None:
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    old_database(
        old,
        [("Ada", hashed("abc")), ("bob", hashed("def")), ("quiet", hashed("q"))],
        [
            ("bob", "first", NOON),
            ("Ada", "second\nline", "2024-05-01 12:00:01"),
            ("bob", "3", NOON),
        ],
    )
    before = old.read_bytes()
    report = await imported(old, new)
    assert report == [
        "Accounts: 3 came in, 0 were there already.",
        "Messages: 3 came in, 0 were there already, 0 could not come.",
    ]
    assert before == old.read_bytes()
    assert ["new.db", "new.db.lock", "old.db"] == files(tmp_path)
    assert stat.S_IMODE(new.stat().st_mode) == 0o600
    assert messages_of(new) == [
        ("bob", "first", "2024-05-01 12:00:00.000000"),
        ("ada", "second\nline", "2024-05-01 12:00:01.000000"),
        ("bob", "3", "2024-05-01 12:00:00.000000"),
    ]
    async with serving(new, "--limits", "none") as server:
        # A password of three characters could not be chosen any more.
        assert await log_in(server.http, "Ada", "abc") == 200
        assert await log_in(server.http, "ada", "abc") == 200
        assert await log_in(server.http, "ada", "def") == 401
        async with present(server.urls["tcp"], "newcomer") as newcomer:
            page = (await newcomer.do("history", room="lobby"))["messages"]
            assert [each["content"] for each in page] == ["first", "second\nline", "3"]
            members = (await newcomer.do("members", room="lobby"))["members"]
            shown = {each["username"]: each["display_name"] for each in members}
            assert shown["ada"] == "Ada"
    with contextlib.closing(sqlite3.connect(new)) as db:
        unread = dict(
            db.execute(
                "SELECT username, 3 - read_messages FROM members JOIN users ON users.id = user_id"
            )
        )
    # Read is what came before somebody's last message; who never wrote has read all.
    assert {"ada": 1, "bob": 0, "quiet": 0}.items() <= unread.items()


async def test_twice_changes_nothing_and_later_brings_what_is_new(tmp_path: Path) -> None:
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    texts = [("ada" if n % 2 else "stranger", f"text {n}", NOON) for n in range(20)]
    old_database(old, [("ada", hashed("abc")), ("Ada", hashed("x"))], texts)
    first, log = await imported(old, new), log_of(new)
    again = await imported(old, new)
    assert log == log_of(new)
    renames = [
        "  'Ada' is ada-2 now: ada is, or looks like, somebody else's",
        "  'stranger' had no account: the messages are stranger's, who cannot log in",
    ]
    assert first == [
        "Accounts: 3 came in, 0 were there already.",
        *renames,
        "Messages: 20 came in, 0 were there already, 0 could not come.",
    ]
    assert again == [
        "Accounts: 0 came in, 3 were there already.",
        *renames,
        "Messages: 0 came in, 20 were there already, 0 could not come.",
    ]
    # Meanwhile the password of one was changed here, and the old chatroom went on.
    with contextlib.closing(sqlite3.connect(new)) as db, db:
        db.execute("UPDATE users SET password_hash = 'another' WHERE username = 'ada-2'")
    with contextlib.closing(sqlite3.connect(old)) as db, db:
        add_messages(db, [("Ada", "new", NOON), ("ada", "text 1", NOON)])
    assert (await imported(old, new))[-1] == (
        "Messages: 2 came in, 20 were there already, 0 could not come."
    )
    assert [("ada-2", "new"), ("ada", "text 1")] == [row[:2] for row in messages_of(new)[20:]]
    with contextlib.closing(sqlite3.connect(new)) as db:
        assert db.execute("SELECT count(*) FROM users").fetchone() == (3,)


async def test_an_account_is_known_again_whatever_became_of_it(tmp_path: Path) -> None:
    """In the old chatroom: one who had none has one, another's password is new, one is gone."""
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    old_database(
        old,
        [("ada", hashed("forgotten")), ("bob", hashed("b"))],
        [("stranger", " ", NOON), ("stranger", "hi", NOON), ("ada", "a", NOON), ("bob", "b", NOON)],
    )
    await imported(old, new)
    log = log_of(new)
    with contextlib.closing(sqlite3.connect(old)) as db, db:
        db.execute(
            "INSERT INTO users (username, password_hash) VALUES ('stranger', ?)", [hashed("s")]
        )
        db.execute("UPDATE users SET password_hash = ? WHERE username = 'ada'", [hashed("new")])
        db.execute("DELETE FROM users WHERE username = 'bob'")
    assert await imported(old, new) == [
        "Accounts: 0 came in, 3 were there already.",
        "Messages: 0 came in, 3 were there already, 1 could not come.",
        "  1 of them: Message cannot be empty",
    ]
    assert log == log_of(new)
    async with serving(new, "--limits", "none") as server:
        assert await log_in(server.http, "stranger", "s") == 200
        assert await log_in(server.http, "ada", "forgotten") == 200, "passwords are kept here now"
        assert await log_in(server.http, "bob", "b") == 200


async def test_two_old_chatrooms_have_different_people(tmp_path: Path) -> None:
    new = tmp_path / "new.db"
    for name, time in (("one", "00"), ("two", "01")):
        users = [("ada", hashed("same name")), ("bob", name)]
        said = [(who, "hello", f"2024-05-01 12:00:{time}") for who in ("ada", "bob", "stranger")]
        await imported(old_database(tmp_path / f"{name}.db", users, said), new)
    assert [username for username, *_ in messages_of(new)] == [
        *("ada", "bob", "stranger", "ada-2", "bob-2"),
        "stranger",  # of whom nobody knows who they were
    ]


async def test_who_has_left_the_lobby_is_not_brought_back(tmp_path: Path) -> None:
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    old_database(old, [("ada", hashed("correct horse"))], [("ada", "before", NOON)])
    await imported(old, new)
    async with serving(new) as server, connected(server.urls["tcp"]) as ada:
        await ada.do("login", username="ada", password=PASSWORD)
        assert "reply" in await ada.do("leave", room="lobby")
    with contextlib.closing(sqlite3.connect(old)) as db, db:
        add_messages(db, [("ada", "after", NOON)])
    assert (await imported(old, new))[1:] == [
        "Messages: 0 came in, 1 were there already, 1 could not come.",
        "  1 of them: ada has left the lobby here",
    ]


@pytest.mark.parametrize("state", ["idle", "ahead", "ahead in use", "crashed", "in use"])
async def test_an_old_database_is_read_in_any_state_and_nothing_of_it_changes(
    tmp_path: Path, state: str
) -> None:
    directory, new = tmp_path / "old", tmp_path / "new.db"
    directory.mkdir()
    old = old_database(directory / "old.db", [], [("ada", "hello", NOON)])
    with contextlib.closing(sqlite3.connect(old, isolation_level=None)) as user:
        if state.startswith("ahead"):
            user.execute("PRAGMA journal_mode = WAL")
            add_messages(user, [("ada", "and more", NOON)])
            if state == "ahead":
                user.close()
        elif state == "in use":
            user.execute("SELECT * FROM messages").fetchone()
        elif state == "crashed":  # in the middle of a transaction that was on its way to the file
            user.execute("PRAGMA cache_size = 1")
            user.execute("BEGIN")
            add_messages(user, [("ada", "x" * 9_000, NOON)] * 50)
            copied = tmp_path / "copied"
            shutil.copytree(directory, copied)
            user.execute("ROLLBACK")
            directory, old = copied, copied / "old.db"
            assert (copied / "old.db-journal").stat().st_size
        before = {path.name: path.read_bytes() for path in listed(directory, but="old.db-shm")}
        status, said = await fails_to_start("--database", f"sqlite:///{old}")
        assert (status, "Traceback" in said) == (1, False)
        await imported(old, new)
        after = {path.name: path.read_bytes() for path in listed(directory, but="old.db-shm")}
        assert before == after, "but for SQLite's own index of what is ahead"
    expected = ["hello", "and more"] if state.startswith("ahead") else ["hello"]
    assert expected == [content for _, content, _ in messages_of(new)]


async def test_one_that_was_ended_half_way_is_finished_by_the_next(tmp_path: Path) -> None:
    unavailable = Refusal(Unavailable("The server's database did not answer; try again"))
    people = ["ada", "Ada", "bob", "stranger"]
    texts = [(people[n % 4], f"text {n}", NOON) for n in range(4 * BATCH)]
    accounts = [("ada", hashed("abc")), ("Ada", hashed("x")), ("bob", hashed("b"))]
    old = old_database(tmp_path / "old.db", accounts, texts)
    at_once, in_parts = tmp_path / "at_once.db", tmp_path / "in_parts.db"
    with (
        first_chatroom.read(old) as chatroom,
        contextlib.closing(SqliteRepository(in_parts)) as repository,
    ):
        prepare(repository)
        faulty = FaultyRepository(repository, failing("append", unavailable, skip=2))
        with pytest.raises(Unavailable):
            Import(chatroom, faulty).run(lambda _: None)
    assert 0 < len(messages_of(in_parts)) < len(texts)
    await imported(old, in_parts)
    await imported(old, at_once)
    assert log_of(at_once) == log_of(in_parts)
    assert [text for _, text, _ in texts] == [text for _, text, _ in messages_of(at_once)]


async def test_what_may_not_be_a_name_comes_under_another(tmp_path: Path) -> None:
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    names = [
        "Ada Lovelace",
        "ada!",
        "ada_lovelace",
        "BOB",
        "bob",
        "b0b",
        "\x1b[31mred",
        "\u202eevil",
        "!",
    ]
    names += ["", "x" * 60, "admin", "аda", "ada"]  # the last but one begins with a Cyrillic letter
    old_database(
        old,
        [(name, hashed(f"password {name}")) for name in names],
        [(name, f"from {name}", NOON) for name in names],
    )
    report = await imported(old, new)
    assert not any(ord(each) < 32 or each == "\u202e" for line in report for each in line)
    unfit = "a name has 1 to 50 letters, digits, . _ and -"
    assert report[1:-2] == [
        "  'bob' is bob-2 now: bob is, or looks like, somebody else's",
        "  'b0b' is b0b-3 now: b0b is, or looks like, somebody else's",
        "  'ada' is ada-2 now: ada is, or looks like, somebody else's",
        f"  'Ada Lovelace' is ada-lovelace now: {unfit}",
        f"  'ada!' is ada-3 now: {unfit}",
        f"  '\\x1b[31mred' is 31mred now: {unfit}",
        f"  '\\u202eevil' is evil now: {unfit}",
        f"  '!' is user now: {unfit}",
        f"  '' is user-2 now: {unfit}",
        f"  '{'x' * 60}' is {'x' * 50} now: {unfit}",
    ]
    assert [text for _, text, _ in messages_of(new)] == [
        f"from {name}".replace("\x1b", "\N{REPLACEMENT CHARACTER}") for name in names
    ]
    async with serving(new, "--limits", "none") as server:
        assert await log_in(server.http, "ada-lovelace", "password Ada Lovelace") == 200
        assert await log_in(server.http, "Bob", "password BOB") == 200
        assert await log_in(server.http, "bob-2", "password bob") == 200
        assert await log_in(server.http, "admin", "password admin") == 200


async def test_who_is_here_already_is_nobody_of_the_old_chatroom(tmp_path: Path) -> None:
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    async with serving(new) as server, present(server.urls["tcp"], "ada") as ada:
        await ada.do("send", room="lobby", content="mine")
    old_database(old, [("ada", hashed("abc"))], [("ada", "theirs", NOON)])
    report = await imported(old, new)
    assert "  'ada' is ada-2 now: ada is, or looks like, somebody else's" in report
    assert [("ada", "mine"), ("ada-2", "theirs")] == [row[:2] for row in messages_of(new)]
    assert report[1:] == (await imported(old, new))[1:-1] + report[-1:]


async def test_what_could_not_come_is_counted_with_the_reason(tmp_path: Path) -> None:
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    texts = [
        "be\x07ll",
        " ",
        "",
        "x" * 100_001,
        "x" * 100_000,
        b"\xff bytes",
        42,
        "e" + "\u0301" * 99,
    ]
    old_database(
        old,
        [("ada", hashed("abc")), ("plain", "secret"), ("blob", hashed("b").encode())],
        [
            *(("ada", text, NOON) for text in texts),
            ("ada", "when?", "never"),
            ("ada", "?", b"\xff"),
            ("ada", "before", "0001-01-01 00:00:00+14:00"),
            ("ada", "after", "9999-12-31 23:59:59-14:00"),
        ],
    )
    assert (await imported(old, new))[1:] == [
        "  plain cannot log in: the password's hash is none of bcrypt's",
        "Messages: 8 came in, 0 were there already, 4 could not come.",
        "  2 of them: Message cannot be empty",
        "  1 of them: A message has at most 100000 characters; this one has 100001",
        "  1 of them: A message has at most 30 marks on one character",
        "  1 had control characters, which are now \N{REPLACEMENT CHARACTER}",
        "  4 had no time that can be read, and have the one before theirs",
    ]
    assert {moment for _, _, moment in messages_of(new)} == {NOON}
    async with serving(new, "--limits", "none") as server:
        assert await log_in(server.http, "blob", "b") == 200
        assert await log_in(server.http, "plain", "secret") == 401
        async with present(server.urls["ws"], "bob") as bob:
            page = (await bob.do("history", room="lobby"))["messages"]
    assert [each["content"][:8] for each in page] == (
        [
            "be\N{REPLACEMENT CHARACTER}ll",
            "x" * 8,
            "\N{REPLACEMENT CHARACTER} bytes",
            "42",
            "when?",
            "?",
            "before",
            "after",
        ]
    )


async def test_tables_named_after_their_classes_are_known_too(tmp_path: Path) -> None:
    old = tmp_path / "old.db"
    schema = OLD.replace("users", "user").replace("messages", "message")
    with contextlib.closing(sqlite3.connect(old)) as db, db:
        db.executescript(schema)
        db.execute("INSERT INTO user VALUES (1, 'ada', ?)", [hashed("abc")])
        db.execute("INSERT INTO message VALUES (1, 'ada', 'hello', ?)", [NOON])
    await imported(old, tmp_path / "new.db")
    assert messages_of(tmp_path / "new.db") == [("ada", "hello", NOON)]
    status, said = await fails_to_start("--database", f"sqlite:///{old}")
    assert (status, "is the first chatroom's" in said) == (1, True)


async def test_an_old_database_is_recognised_by_the_server_and_not_altered(tmp_path: Path) -> None:
    old = old_database(tmp_path / "an old.db", [("ada", hashed("abc"))], [("ada", "hello", NOON)])
    before = old.read_bytes()
    refusal = (
        f"Error: The database {old} is the first chatroom's, and stays as it is:"
        f" `chat-serve import '{old}'` brings what it has into another\n"
    )
    status, said = await fails_to_start("--database", f"sqlite:///{old}")
    assert (status, said) == (1, refusal)
    assert await chat_serve("import", old, "--database", f"sqlite:///{old}") == (1, [], refusal)
    assert before == old.read_bytes()
    assert ["an old.db"] == files(tmp_path)


async def test_what_cannot_be_imported_says_so_in_a_sentence(tmp_path: Path) -> None:
    old = old_database(tmp_path / "old.db", [], [])
    new = tmp_path / "new.db"
    await imported(old, new)
    text = tmp_path / "text.db"
    text.write_text("no database\n" * 1000)
    for other, why in (
        (new, f"{new} is not a database of the first chatroom"),
        (text, f"Cannot read {text}: file is not a database"),
    ):
        status, lines, err = await chat_serve("import", other, "--database", f"sqlite:///{new}")
        assert (status, lines, err) == (1, [], f"Error: {why}\n")
    status, _, err = await chat_serve("import", tmp_path / "gone.db")
    assert (status, "does not exist" in err) == (2, True)
    status, _, err = await chat_serve("import", old, "--database", "memory:")
    assert (status, "memory: keeps nothing" in err) == (2, True)
    async with serving(new):
        status, _, err = await chat_serve("import", old, "--database", f"sqlite:///{new}")
        assert (status, "stop it first" in err) == (1, True)


async def test_the_database_may_stand_before_the_command_too(tmp_path: Path) -> None:
    old = old_database(tmp_path / "old.db", [], [("ada", "hello", NOON)])
    new = f"sqlite:///{tmp_path / 'new.db'}"
    assert (await chat_serve("--database", new, "import", old))[0] == 0
    assert messages_of(tmp_path / "new.db") == [("ada", "hello", NOON)]


async def test_a_person_sees_how_far_it_is(tmp_path: Path) -> None:
    old = old_database(tmp_path / "old.db", [], [("ada", str(n), NOON) for n in range(3_000)])
    command = [*CHAT_SERVE, "import", str(old), "--database", f"sqlite:///{tmp_path / 'new.db'}"]
    script = "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]))"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script, *command), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert b"3000/3000" in out
    assert b"Messages: 3000 came in" in out
