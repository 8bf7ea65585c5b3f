"""Searching: through a chat, and what SQLite's index keeps, costs and forgets."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from chatcore import Chat, MemoryRepository, SqliteRepository, User, searches, upkeep
from chatcore.commands import Command, Search
from chatcore.errors import (
    Banned,
    Forbidden,
    Invalid,
    NotFound,
    RateLimited,
    SchemaError,
    StorageFull,
    Unavailable,
)
from chatcore.events import Found, Stored
from chatcore.model import LOBBY, Limits, Room
from chatcore.peer import connect
from chatcore.query import parse
from chatcore.repository.sql import fts, searching
from chatcore.repository.sql import sqlite as database
from chatcore.repository.sql.fts import WordIndex
from chatcore.testing import PATIENCE, FaultyRepository, Hold, Refusal, eventually, failing
from chatcore.testing.drafts import NOW, delete, edit, member, react, say
from tests.database import statements

NO_RATES = Limits(messages=None)


@pytest.fixture(params=["memory", "sqlite"])
def repository(request: pytest.FixtureRequest, tmp_path: Path) -> FaultyRepository:
    if request.param == "memory":
        return FaultyRepository(MemoryRepository())
    return FaultyRepository(SqliteRepository(tmp_path / "chat.db"))


@contextlib.asynccontextmanager
async def talking(
    repository: FaultyRepository, limits: Limits = NO_RATES
) -> AsyncIterator[tuple[Chat, User, User]]:
    """A chat in which ada and bob have joined the lobby."""
    async with Chat(repository, limits=limits) as chat:
        ada, bob = [await chat.introduce(User(name, name.title())) for name in ("ada", "bob")]
        for user in (ada, bob):
            await chat.join(user, LOBBY)
        yield chat, ada, bob


async def found(chat: Chat, user: User, text: str, **more: object) -> list[tuple[str, int]]:
    reply = await chat.search(user, text, **more)  # type: ignore[arg-type] # some of its own
    return [(message.room, message.seq) for message in reply.messages]


async def test_all_that_was_acknowledged_is_found_at_once(repository: FaultyRepository) -> None:
    async with talking(repository) as (chat, ada, bob):
        for number in range(30):
            sent = await chat.send(ada, LOBBY, f"tea number {number}")
            assert await found(chat, bob, f"number {number}") == [(LOBBY, sent.seq)]
            await chat.edit(ada, LOBBY, sent.seq, f"coffee {number}")
            assert await found(chat, bob, f'"number {number}"') == []
            assert await found(chat, bob, f'"coffee {number}"') == [(LOBBY, sent.seq)]
            await chat.delete(ada, LOBBY, sent.seq)
            assert await found(chat, bob, f"coffee {number}") == []


async def test_a_message_is_as_history_has_it(repository: FaultyRepository) -> None:
    async with talking(repository) as (chat, ada, bob):
        first = (await chat.send(ada, LOBBY, "Tea?")).seq
        seq = (await chat.send(ada, LOBBY, "Tea, @ada!", reply_to=first)).seq
        await chat.edit(ada, LOBBY, seq, "Coffee, @bob?")
        for user, emoji in ((ada, "☕"), (bob, "☕"), (bob, "✅"), (ada, "❤")):
            await chat.react(user, LOBBY, seq, emoji)
        await chat.unreact(ada, LOBBY, seq, "❤")
        for user in (ada, bob):
            (hit,) = (await chat.search(user, "coffee")).messages
            *_, expected = (await chat.history(user, LOBBY)).messages
            assert hit == Found.of(expected, seq + 6)
            assert (hit.reply_to, hit.mentions, hit.edited is None) == (
                first,
                ("bob",),
                False,
            )
            beside = [(each.emoji, each.count, each.me) for each in hit.reactions]
            assert beside == [("☕", 2, True), ("✅", 1, user is bob)]


async def test_pages_have_each_message_once_while_others_write(
    repository: FaultyRepository,
) -> None:
    async with talking(repository) as (chat, ada, bob):
        sent = [(await chat.send(ada, LOBBY, f"tea {n}")).seq for n in range(25)]
        given: list[int] = []
        page = await chat.search(bob, "tea", limit=4)
        while True:
            given += [message.seq for message in page.messages]
            await chat.send(ada, LOBBY, "more tea")
            await chat.delete(ada, LOBBY, given[-1])
            if page.next is None:
                break
            page = await chat.search(bob, "tea", cursor=page.next, limit=4)
        assert given == sent[::-1]


async def test_a_page_keeps_to_one_frame() -> None:
    limits = Limits(messages=None, content_chars=20_000)
    async with talking(FaultyRepository(MemoryRepository()), limits) as (chat, ada, _):
        sent = [(await chat.send(ada, LOBBY, "tea " + "☃" * 19_000)).seq for _ in range(40)]
        async with connect(chat, ada) as peer:
            pages = [await peer.search("tea", limit=40)]
            while pages[-1].next is not None:
                pages.append(await peer.search("tea", cursor=pages[-1].next, limit=40))
        assert 1 < len(pages) < 5
        assert [message.seq for page in pages for message in page.messages] == sent[::-1]


async def test_what_is_no_search_says_why(repository: FaultyRepository) -> None:
    async with talking(repository) as (chat, ada, _):
        for text, more, error, sentence in (
            ("", {}, Invalid, "A search has a word in it, or says from:name"),
            ("tea", {"cursor": "x"}, Invalid, "cursor is what a page before said is next"),
            ("tea", {"cursor": "9" * 19}, Invalid, "cursor is what a page before said is next"),
            ("tea", {"cursor": "²"}, Invalid, "cursor is what a page before said is next"),
            ("tea", {"limit": 0}, Invalid, "limit is 1 or more"),
            ("tea in:lobby", {"room": "den"}, NotFound, "There is no such room"),
            ("tea in:den", {}, NotFound, "There is no such room"),
            ("tea in:den", {"room": LOBBY}, Invalid, "in: names another room than the one"),
        ):
            with pytest.raises(error, match=sentence):
                await chat.search(ada, text, **more)
        assert await found(chat, ada, "tea in:#LOBBY", room="Lobby") == []


async def test_a_room_that_one_may_not_read_is_not_there(repository: FaultyRepository) -> None:
    async with talking(repository) as (chat, ada, bob):
        await chat.create(ada, "den", kind="private")
        await chat.create(ada, "hall")
        for room in ("den", "hall"):
            await chat.send(ada, room, "tea")
        assert await found(chat, ada, "tea") == [("hall", 2), ("den", 2)]
        assert await found(chat, bob, "tea") == [("hall", 2)]
        with pytest.raises(NotFound, match="There is no such room"):
            await chat.search(bob, "tea in:den")
        with pytest.raises(NotFound, match="There is no such room"):
            await chat.search(bob, "tea", room="den")
        await chat.ban(ada, "hall", "bob")
        assert await found(chat, bob, "tea") == []
        with pytest.raises(Banned):
            await chat.search(bob, "tea", room="hall")


async def test_a_hosts_policy_is_asked_of_each_room() -> None:
    class Discreet:
        def check(self, actor: User, command: Command, room: Room | None) -> None:
            if isinstance(command, Search) and room is not None and room.name == "den":
                raise Forbidden("Nobody searches the den")

    async with Chat(MemoryRepository(), policy=Discreet()) as chat:
        ada = await chat.introduce(User("ada", "Ada"))
        for room in ("den", "tea"):
            await chat.create(ada, room)
            await chat.send(ada, room, "hello")
        assert await found(chat, ada, "hello") == [("tea", 2)]
        with pytest.raises(Forbidden, match="Nobody searches the den"):
            await chat.search(ada, "hello", room="den")


async def test_a_search_costs_of_the_rate() -> None:
    async with talking(FaultyRepository(MemoryRepository()), Limits()) as (chat, ada, _):
        asked = [chat.search(ada, "tea") for _ in range(20)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert sum(isinstance(answer, RateLimited) for answer in answers) == 10


@pytest.mark.parametrize("what", ["delete", "kick"])
async def test_what_ends_while_it_is_searched_for_is_not_given(
    repository: FaultyRepository, what: str
) -> None:
    """Whatever the snapshot had: the end was announced before the answer."""
    gate = threading.Event()
    async with talking(repository) as (chat, ada, bob):
        await chat.create(ada, "den", kind="private")
        await chat.invite(ada, "den", "bob")
        await chat.join(bob, "den")
        await chat.send(ada, "den", "tea")
        seq = (await chat.send(ada, "den", "tea again")).seq
        hits: list[list[int]] = []
        inside, search = repository.inside, repository.inside.search

        def held(*args: object) -> object:
            page = search(*args)  # type: ignore[arg-type] # its own
            hits.append([each.seq for _, each in page if each is not None])
            gate.wait()
            return page

        inside.search = held  # type: ignore[method-assign,assignment] # a Repository's
        asked = asyncio.create_task(found(chat, bob, "tea in:den"))
        await eventually(lambda: hits)
        if what == "delete":
            await chat.delete(ada, "den", seq)
        else:
            await chat.kick(ada, "den", "bob")
        gate.set()
        assert await asked == ([("den", seq - 1)] if what == "delete" else [])
        assert hits == [[seq, seq - 1]]


async def test_others_read_while_many_search(repository: FaultyRepository) -> None:
    """Of two threads that read, one searches, also when nobody waits for it any more."""
    gate = threading.Event()
    async with talking(repository) as (chat, ada, bob):
        await chat.send(ada, LOBBY, "tea")
        repository.scripts.append(failing("search", Hold(gate), times=2))
        asked = [asyncio.create_task(found(chat, bob, "tea")) for _ in range(4)]
        try:
            await eventually(lambda: repository.calls["search"])
            asked[0].cancel()
            async with asyncio.timeout(PATIENCE):
                for _ in range(5):
                    assert len(await chat.memberships(ada)) == 1
            assert repository.calls["search"] == 1
        finally:
            gate.set()
        cancelled, *rest = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(cancelled, asyncio.CancelledError)
        assert rest == [[(LOBBY, 3)]] * 3


async def test_an_index_that_is_far_behind_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a database that cannot be written to is no reason to find less."""
    monkeypatch.setattr(upkeep, "UPKEEP_SECONDS", 3_600)
    monkeypatch.setattr(searches, "INDEXED", 3)
    monkeypatch.setattr(searches, "TURNS", 2)
    repository = FaultyRepository(SqliteRepository(tmp_path / "chat.db"))
    async with talking(repository) as (chat, ada, _):
        for _ in range(10):
            await chat.send(ada, LOBBY, "tea")
        for _ in range(2):
            with pytest.raises(Unavailable, match="are being made ready for searching"):
                await chat.search(ada, "tea")
        assert len(await found(chat, ada, "tea")) == 10
        full = failing("index", Refusal(StorageFull("The storage is full")))
        repository.scripts.append(full)
        with pytest.raises(Unavailable, match="are being made ready for searching"):
            await chat.search(ada, "tea")


async def test_the_index_follows_by_itself_and_wipes_what_was_erased(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody need search; and a failure of the database is one of that moment."""
    monkeypatch.setattr(upkeep, "UPKEEP_SECONDS", 0.01)
    path = tmp_path / "chat.db"
    hiccup = failing(["index", "purge"], Refusal(Unavailable("busy")), times=3)
    repository = FaultyRepository(SqliteRepository(path), hiccup)
    async with talking(repository) as (chat, ada, _):
        seq = (await chat.send(ada, LOBBY, "lighthouse")).seq
        await eventually(lambda: "lighthouse" in vocabulary(path))
        await chat.delete(ada, LOBBY, seq)
        await eventually(lambda: not owed(path))
        assert "lighthouse" not in vocabulary(path)


async def test_what_another_process_appends_is_found(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    async with talking(FaultyRepository(SqliteRepository(path))) as (chat, ada, _):
        other = SqliteRepository(path)
        other.open()
        other.append([say("ada", "from elsewhere", Room(LOBBY))])
        other.close()
        assert len(await found(chat, ada, "elsewhere")) == 1


# SQLite's index.


def plain(path: Path) -> contextlib.closing[sqlite3.Connection]:
    return contextlib.closing(sqlite3.connect(path))


def vocabulary(path: Path) -> set[str]:
    with plain(path) as connection:
        connection.execute("CREATE VIRTUAL TABLE temp.terms USING fts5vocab(main, words, row)")
        return {term for (term,) in connection.execute("SELECT term FROM terms")}


def owed(path: Path) -> bool:
    with plain(path) as connection:
        return bool(connection.execute("SELECT owed FROM indexing").fetchone()[0])


def unchecked(path: Path) -> None:
    """Raise what SQLite finds wrong with the index."""
    with plain(path) as connection:
        connection.execute("INSERT INTO words (words) VALUES ('integrity-check')")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chat.db"


@pytest.fixture
def sqlite(path: Path) -> Iterator[SqliteRepository]:
    with contextlib.closing(SqliteRepository(path)) as repository:
        repository.open()
        repository.add_user(User("ada", "Ada"), None)
        repository.add_room(Room(LOBBY, epoch="e1"))
        repository.append([member("ada", "join", role="owner")])
        yield repository


def seqs(repository: SqliteRepository, text: str) -> list[int]:
    hits = repository.search("ada", parse(text), None, 9_999, NOW)
    return [each.seq for _, each in hits if each is not None]


def wipe(repository: SqliteRepository) -> None:
    while repository.purge():
        pass


@pytest.mark.parametrize("seed", range(4))
def test_a_deleted_text_is_nowhere_in_the_files(
    sqlite: SqliteRepository, path: Path, seed: int
) -> None:
    """In no row, no index and no free page, once the index was purged and the WAL written back."""
    chance = random.Random(seed)
    marks: dict[int, list[str]] = {}
    for _ in range(20):
        drafts = []
        head = sqlite.head(LOBBY, 0)[1]
        for seq in range(head + 1, head + chance.randint(2, 40)):
            mark = f"{chance.getrandbits(64):016x}"
            text = " ".join([mark] * chance.choice((1, 10, 200)))
            old = chance.choice([*marks]) if marks and chance.random() < 0.3 else None
            marks.setdefault(old or seq, []).append(mark)
            drafts.append(edit("ada", old, text) if old else say("ada", text))
        assert all(isinstance(outcome, Stored) for outcome in sqlite.append(drafts))
        if chance.random() < 0.8:
            sqlite.index(chance.choice((10, 1_000)))
    gone = chance.sample(sorted(marks), len(marks) // 2)
    for seq in gone:
        assert isinstance(sqlite.append([delete("ada", seq)])[0], Stored)
        if chance.random() < 0.1:
            sqlite.index(10)
    assert owed(path) == (not WordIndex.wipes_at_once)
    wipe(sqlite)
    assert not owed(path)
    while sqlite.index(1_000):
        pass
    with plain(path) as connection:
        assert connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)
    everything = b"".join(each.read_bytes() for each in sorted(path.parent.iterdir()))
    # FTS5 leaves out what a word has in common with the one before it: of these, little.
    told = {seq for seq, each in marks.items() if any(m[4:].encode() in everything for m in each)}
    assert told == {*marks} - {*gone}
    unchecked(path)
    current = {each[-1] for seq, each in marks.items() if seq not in gone}
    assert current == {word for word in vocabulary(path) if len(word) == 16}


@pytest.mark.skipif(WordIndex.wipes_at_once, reason="there is nothing to be purged")
def test_a_purge_ends_however_often_others_write_in_between(
    sqlite: SqliteRepository, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time it would begin anew; of steps that stay as small there is no end."""
    monkeypatch.setattr(fts, "MERGED_PAGES", 1)
    chance = random.Random(1)
    for _ in range(5):
        said = [f"{chance.getrandbits(64):x} {chance.getrandbits(64):x}" for _ in range(1_000)]
        sqlite.append([say("ada", text) for text in said])
        sqlite.index(1_000)
    sqlite.append([say("ada", "lighthouse"), delete("ada", 2)])
    sqlite.index(1_000)
    steps = 0
    while owed(path):
        sqlite.append([say("ada", "tea")])
        sqlite.index(1_000)
        sqlite.purge()
        steps += 1
        assert steps < 20
    assert steps > 5, "else it was done before anybody came between"
    unchecked(path)


def test_an_index_that_a_newer_sqlite_has_used_is_refused_where_it_cannot_be_read(
    sqlite: SqliteRepository, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sqlite.close()
    with plain(path) as connection:
        connection.execute("UPDATE words_config SET v = 5 WHERE k = 'version'")
        connection.commit()
    monkeypatch.setattr(WordIndex, "wipes_at_once", False)
    with pytest.raises(SchemaError, match=r"SQLite 3\.42 or a later one has used it, and this is"):
        sqlite.open()


def test_indexing_goes_on_where_it_was_after_a_crash(sqlite: SqliteRepository, path: Path) -> None:
    """Its place is in the transaction that moves it."""
    sqlite.append([say("ada", f"tea {number}") for number in range(10)])
    assert sqlite.index(4) == 4
    with contextlib.closing(SqliteRepository(path)) as second:  # the first one never closed
        second.open()
        assert seqs(second, "tea") == [4, 3, 2]
        while second.index(4):
            pass
        assert seqs(second, "tea") == [*range(11, 1, -1)]
    assert sqlite.index(4) == 0
    unchecked(path)


def test_a_batch_is_indexed_in_as_many_statements_whatever_its_size(
    sqlite: SqliteRepository,
) -> None:
    sqlite.append([say("ada", "tea")])
    sqlite.index(9)  # the first time SQLite looks at what there is

    def indexing(size: int) -> int:
        sqlite.append([say("ada", f"tea {number}") for number in range(size)])
        with statements() as asked:
            assert sqlite.index(1_000) == size
        return len(asked)

    assert indexing(1) == indexing(500) == 3


def test_each_step_of_a_search_is_by_an_index(sqlite: SqliteRepository, path: Path) -> None:
    sqlite.append([say("ada", "tea"), edit("ada", 2, "coffee"), react("ada", 2)])
    sqlite.index(9)
    with statements() as asked:
        assert seqs(sqlite, "coffee from:ada in:lobby after:2020-01-01") == [2]
        sqlite.append([say("ada", "tea")])
        sqlite.index(9)
        sqlite.append([delete("ada", 2)])
    plans = []
    with plain(path) as connection:
        for statement in asked:
            if statement.split()[0] not in ("SELECT", "DELETE") and "words" not in statement:
                continue
            if "'merge'" in statement or "total_changes" in statement:
                continue
            plan = connection.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()
            plans += [step[-1] for step in plan]
    scanned = {step for step in plans if step.startswith("SCAN")}
    # FTS5 is always said to be scanned; the digits say by what: M a match, = a row's id.
    allowed = ("SCAN words VIRTUAL TABLE INDEX 192:M2<", "SCAN words VIRTUAL TABLE INDEX 0:=")
    tables = {"events", "rooms", "users", "members", "restraints", "words", "message"}
    tables |= {"edits", "reactions", "tallies"}
    assert not {step for step in scanned if step.split()[1] in tables and step not in allowed}
    assert "SCAN each" not in scanned
    for step in (
        "SEARCH tallies USING PRIMARY KEY (room_id=? AND target=?)",
        "SEARCH reactions USING COVERING INDEX ix_reactions_user_id"
        " (user_id=? AND room_id=? AND target=?)",
        "SEARCH each USING COVERING INDEX ix_events_target (room_id=? AND target=? AND kind=?"
        " AND seq<?)",
    ):
        assert step in plans
    assert {*allowed} <= scanned
    assert "SEARCH events USING INTEGER PRIMARY KEY (rowid>?)" in plans


@pytest.mark.parametrize("text", ["tea", '"tea tea"', '"tea coffee"'])
def test_a_search_that_takes_too_long_comes_to_nothing(
    sqlite: SqliteRepository, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """Whether it finds much, or only looks through much; and the next one is as any other."""
    for _ in range(3):
        sqlite.append([say("ada", "tea tea, then coffee") for _ in range(1_000)])
        while sqlite.index(1_000):
            pass
    with monkeypatch.context() as patch:
        patch.setattr(searching, "SEARCH_SECONDS", 0.0)
        patch.setattr(database, "LOOKED_AT", 10)
        with pytest.raises(Unavailable, match="takes too long to find; ask for fewer or rarer"):
            seqs(sqlite, text)
    assert len(seqs(sqlite, text)) == (0 if "tea coffee" in text else 3_000)
    assert len(sqlite.read(LOBBY, 0, 9_999, 9_999)) == 3_001


def test_a_log_that_was_there_before_is_indexed_some_at_a_time(
    sqlite: SqliteRepository,
) -> None:
    """As a database is that another version wrote."""
    drafts = [
        say("ada", f"tea {number}", timestamp=NOW + timedelta(days=number)) for number in range(50)
    ]
    sqlite.append(drafts)
    assert seqs(sqlite, "tea") == []
    sizes = []
    while taken := sqlite.index(20):
        sizes.append(taken)
    assert sizes == [20, 20, 11]
    assert len(seqs(sqlite, "tea")) == 50
    assert seqs(sqlite, "tea after:2026-02-01 before:2026-02-04") == [35, 34]
