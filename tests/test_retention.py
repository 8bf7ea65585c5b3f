"""Retention: what a room lets go of is gone, and nobody who listens there is misled."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from chatcore import Chat, MemoryRepository, Since, SqliteRepository, User, chat, upkeep
from chatcore.errors import StorageFull, Unavailable
from chatcore.events import Stored
from chatcore.model import LOBBY, Limits, Room
from chatcore.query import parse
from chatcore.testing import (
    FakeClock,
    FaultyRepository,
    Refusal,
    connect,
    eventually,
    failing,
)
from chatcore.testing.drafts import NOW, edit, member, react, say, update
from chatcore.testing.retention import expire
from tests.database import statements

DAY = timedelta(days=1)
LIMITS = Limits(messages=None, buffer_bytes=2_000, history=5)


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "UPKEEP_SECONDS", 0.01)
    monkeypatch.setattr(chat, "EXPIRED", 3)


@pytest.fixture(params=["memory", "sqlite"])
def repository(request: pytest.FixtureRequest, tmp_path: Path) -> FaultyRepository:
    if request.param == "memory":
        return FaultyRepository(MemoryRepository())
    return FaultyRepository(SqliteRepository(tmp_path / "chat.db"))


@contextlib.asynccontextmanager
async def hall(
    repository: FaultyRepository,
) -> AsyncIterator[tuple[Chat, FakeClock, User, User]]:
    """A room of ada's, with bob in it, that keeps events for ten days."""
    clock = FakeClock(datetime(2026, 11, 22, tzinfo=UTC))
    async with Chat(repository, limits=LIMITS, clock=clock) as talk:
        ada, bob = [await talk.introduce(User(name, name.title())) for name in ("ada", "bob")]
        await talk.create(ada, "hall")
        await talk.join(bob, "hall")
        await talk.update(ada, "hall", retention_days=10)
        yield talk, clock, ada, bob


async def until_first(talk: Chat, user: User, first: int) -> None:
    """Return once the log begins there, which is some moments after it is said to."""

    async def begins() -> int:
        (membership,) = await talk.memberships(user)
        return membership.first

    while await begins() != first:
        pass
    assert (await talk.history(user, "hall", limit=1)).first == first


async def test_what_is_old_goes_by_itself_and_history_is_complete(
    repository: FaultyRepository,
) -> None:
    """A failure of the database puts it off, and nothing else."""
    repository.scripts.append(failing("expire", Refusal(Unavailable("busy")), times=3))
    repository.scripts.append(failing("expire", Refusal(StorageFull("full")), skip=3, times=3))
    async with hall(repository) as (talk, clock, ada, bob):
        sent = []
        for day in range(12):
            sent.append((await talk.send(ada, "hall", f"day {day}")).seq)
            clock.advance(86_400)
        first = sent[2]
        await until_first(talk, ada, first)
        page = await talk.history(bob, "hall", before=first + 3)
        assert [message.seq for message in page.messages] == [first, first + 1, first + 2]
        assert (page.complete, page.first, page.head) == (True, first, sent[-1])
        assert (await talk.history(bob, "hall", after=0)).messages[0].seq == first
        assert not (await talk.history(bob, "hall", after=0)).complete
        around = await talk.history(bob, "hall", around=1)
        assert [message.seq for message in around.messages] == [first, first + 1, first + 2]
        (membership,) = await talk.memberships(bob)
        assert (membership.first, membership.read, membership.unread) == (first, first - 1, 10)
        assert len((await talk.search(bob, "day", limit=5)).messages) == 5
        assert (await talk.search(bob, '"day 1"')).messages == []

        # A position is good as long as nothing after it has gone.
        epoch = page.epoch
        resumed = await talk.join(bob, "hall", since=Since(epoch, first - 1))
        assert (resumed.recovered, resumed.first, resumed.events[0].seq) == (True, first, first)
        fresh = await talk.join(bob, "hall", since=Since(epoch, first - 2))
        assert (fresh.recovered, fresh.first) == (False, first)

        clock.advance(99 * 86_400)
        await until_first(talk, ada, sent[-1] + 1)
        empty = await talk.history(bob, "hall")
        assert (empty.messages, empty.complete) == ([], True)
        assert (empty.first, empty.head) == (sent[-1] + 1, sent[-1])
        joined = await talk.join(bob, "hall")
        assert (joined.events, joined.head, joined.unread) == ([], sent[-1], 0)
        assert (await talk.send(bob, "hall", "Anybody?")).seq == sent[-1] + 1


async def test_who_listens_hears_on_and_who_has_fallen_behind_is_told(
    repository: FaultyRepository,
) -> None:
    async with hall(repository) as (talk, clock, ada, bob):
        token = (await talk.issue_token(bob)).secret
        async with connect(talk) as (quick, _), connect(talk, window=1_000) as (slow, _):
            for each in (quick, slow):
                await each.do("login", token=token)
                await each.do("join", room="hall")
            for number in range(20):
                await talk.send(ada, "hall", f"{number}".ljust(300, "."))
            assert len(await quick.messages(20)) == 20  # and the slow one reads nothing
            clock.advance(11 * 86_400)
            head = (await talk.send(ada, "hall", "today")).seq
            await until_first(talk, ada, head)
            assert await quick.messages(1) == ["today"]
            bye = await slow.goodbye()
            assert (bye["code"], bye["reconnect"]) == (4004, True)
            seqs = [event["seq"] for event in slow.events if event["event"] == "message"]
            assert seqs == [*range(seqs[0], seqs[0] + len(seqs))], "and without a hole until then"
            assert seqs[-1] < head - 1
        async with connect(talk) as (again, _):
            await again.do("login", token=token)
            joined = await again.do("join", room="hall")
            assert [event["seq"] for event in joined["events"]] == [head]


@pytest.mark.parametrize(
    ("edges", "new"), [({}, 3), ({"before": 99}, 3), ({"after": 0}, 9), ({"around": 6}, 9)]
)
async def test_a_page_that_is_read_meanwhile_has_no_more_and_no_less(
    repository: FaultyRepository, edges: dict[str, int], new: int
) -> None:
    """What went while the log was read is not in it, and all that follows is."""
    may_go, has_gone = threading.Event(), threading.Event()
    not_yet = failing("expire", Refusal(Unavailable("busy")), when=lambda _: not may_go.is_set())
    repository.scripts.append(not_yet)
    async with hall(repository) as (talk, clock, ada, bob):
        for _ in range(4):
            await talk.send(ada, "hall", "old")
        clock.advance(11 * 86_400)
        first = (await talk.send(ada, "hall", "new")).seq
        for _ in range(new - 1):
            await talk.send(ada, "hall", "new")
        inside, messages = repository.inside, repository.inside.messages
        calls: list[list[int]] = []

        def overtaken(*args: Any, **options: Any) -> Any:
            page = messages(*args, **options)
            calls.append([event.seq for event in page])
            may_go.set()
            has_gone.wait()
            return page

        inside.messages = overtaken  # type: ignore[method-assign] # of this one repository
        asked = asyncio.create_task(talk.history(bob, "hall", limit=5, **edges))  # type: ignore[arg-type] # edges
        await eventually(lambda: calls)
        feed = talk.hub._feeds["hall"]  # noqa: SLF001 - which is open, for somebody reads
        await eventually(lambda: feed.first == first)
        has_gone.set()
        page = await asked
        seqs = [message.seq for message in page.messages]
        length = 5 if "after" in edges else 3  # of what is around something, the newer half
        assert seqs == [*range(first, first + length)]
        assert (page.first, page.complete) == (first, new == 3)
        assert min(calls[0]) < first, "it was read before"


async def test_what_a_room_is_told_to_keep_meanwhile_is_kept_and_given(
    repository: FaultyRepository,
) -> None:
    """An acknowledged update counts, whatever was due before."""
    seen, told = threading.Event(), threading.Event()
    async with (
        hall(repository) as (talk, clock, ada, bob),
        talk.hub.feed("hall") as feed,  # as where somebody listens
    ):
        sent = [(await talk.send(ada, "hall", f"{n}")).seq for n in range(5)]
        due = repository.inside.due

        def overtaken(now: datetime, limit: int, after: str = "") -> tuple[str, int] | None:
            found = due(now, limit, after)
            if found is not None and not told.is_set():
                seen.set()
                told.wait()
            return found

        repository.inside.due = overtaken  # type: ignore[method-assign] # of this one
        clock.advance(99 * 86_400)
        await eventually(seen.is_set)
        await talk.update(ada, "hall", retention_days=0)
        told.set()
        await eventually(lambda: repository.calls["expire"])
        await eventually(lambda: feed.first == 1 and not talk.hub._firsts)  # noqa: SLF001
        page = await talk.history(bob, "hall")
        assert [message.seq for message in page.messages] == sent
        assert page.first == 1
        assert page.complete


async def test_a_room_that_cannot_let_go_keeps_no_other_from_it(
    repository: FaultyRepository, caplog: pytest.LogCaptureFixture
) -> None:
    """And nobody who reads there misses what is kept still."""
    repository.scripts.append(
        failing(
            "expire", Refusal(ValueError("torn")), when=lambda call: call.arguments[0] == "hall"
        )
    )
    async with hall(repository) as (talk, clock, ada, bob):
        await talk.create(ada, "inn")
        await talk.update(ada, "inn", retention_days=10)
        sent = await talk.send(ada, "hall", "old")
        await talk.send(ada, "inn", "old")
        clock.advance(11 * 86_400)
        async with talk.hub.feed("hall") as feed, talk.hub.feed("inn") as inn:
            await eventually(lambda: inn.first == 4)
            await eventually(lambda: repository.calls["expire"] > 5)
            await eventually(lambda: feed.first == 1)
            page = await talk.history(bob, "hall")
            assert [message.seq for message in page.messages] == [sent.seq]
    assert [record.getMessage() for record in caplog.records] == [
        "some upkeep has failed, and is tried again"
    ], "told once"


# SQLite.


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chat.db"


def filled(path: Path, chance: random.Random) -> tuple[dict[int, str], int]:
    """Make a room of twenty days; return each message's word, and the first of the tenth day."""
    marks: dict[int, str] = {}
    tenth = 0
    with contextlib.closing(SqliteRepository(path)) as repository:
        repository.open()
        repository.add_user(User("ada", "Ada"), None)
        repository.add_room(Room(LOBBY, epoch="e1"))
        repository.append([member("ada", "join", role="owner"), update("ada", retention_days=10)])
        for day in range(20):
            at = NOW + day * DAY
            seq = repository.head(LOBBY, 0)[1] + 1
            tenth = seq if day == 10 else tenth
            drafts = []
            for each in range(seq, seq + chance.randint(1, 9)):
                marks[each] = f"{chance.getrandbits(64):016x}"
                drafts.append(say("ada", marks[each] * chance.choice((1, 500)), timestamp=at))
            edited = chance.choice([*range(seq, seq + len(drafts))])
            drafts.append(edit("ada", edited, f"{marks[edited]} again", timestamp=at))
            # What a repository stores beside a message may be any text.
            drafts.append(react("ada", edited, f"{marks[edited]}!", timestamp=at))
            marks[seq + len(drafts)] = word = f"{chance.getrandbits(64):016x}"
            drafts.append(say("ada", f"@ada {word}", timestamp=at, reply_to=edited))
            assert all(isinstance(outcome, Stored) for outcome in repository.append(drafts))
            if chance.random() < 0.8:
                repository.index(1_000)
    return marks, tenth


@pytest.mark.parametrize("seed", range(4))
def test_what_has_gone_is_nowhere_in_the_files_whatever_crashed_meanwhile(
    path: Path, seed: int
) -> None:
    """Each batch is a transaction, after which a new process goes on."""
    chance = random.Random(seed)
    marks, tenth = filled(path, chance)
    now = NOW + 20 * DAY - timedelta(seconds=1)
    crashed = []
    while True:
        repository = SqliteRepository(path, check="always")  # which finds what is torn
        repository.open()
        crashed.append(repository)  # it is never closed, as if it had been killed
        if expire(repository, now, 4) is None:
            break
        if chance.random() < 0.5:
            repository.purge()
            repository.index(5)
    while repository.purge() or repository.index(1_000):
        pass
    assert repository.head(LOBBY, 0)[0] == tenth
    hits = repository.search("ada", parse("from:ada"), None, 9_999, now)
    assert {each.seq for _, each in hits if each} == {seq for seq in marks if seq >= tenth}
    for each in crashed:
        each.close()
    with contextlib.closing(SqliteRepository(path, check="always")) as last:
        last.claim()
        last.open()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)
    everything = b"".join(each.read_bytes() for each in sorted(path.parent.iterdir()))
    told = {seq for seq, mark in marks.items() if mark[4:].encode() in everything}
    assert told == {seq for seq in marks if seq >= tenth}


def test_what_another_is_numbered_again_is_indexed(path: Path) -> None:
    """The newest event of all may go, and SQLite then gives its row's id once more."""
    with contextlib.closing(SqliteRepository(path)) as repository:
        repository.open()
        repository.add_user(User("ada", "Ada"), None)
        repository.add_room(Room(LOBBY, epoch="e1"))
        repository.append([member("ada", "join", role="owner"), update("ada", retention_days=1)])
        for number in range(5):
            repository.append([say("ada", f"tea {number}", timestamp=NOW + number * 9 * DAY)])
            repository.index(9)
            assert len(repository.search("ada", parse("tea"), None, 9, NOW)) == 1
            while expire(repository, NOW + (number + 1) * 9 * DAY, 2):
                pass
            assert repository.search("ada", parse("tea"), None, 9, NOW) == []


def test_a_batch_is_as_many_statements_whatever_its_size_each_by_an_index(path: Path) -> None:
    filled(path, random.Random(1))
    with contextlib.closing(SqliteRepository(path)) as repository:
        repository.open()
        now = NOW + 15 * DAY
        with statements() as few:
            assert expire(repository, now, 1)
        with statements() as asked:
            assert expire(repository, now, 20)
        with statements() as idle:
            while expire(repository, now):
                idle.clear()
        assert len(few) == len(asked) < 12
        assert len(idle) == 1, "where there is nothing to do, it is one look"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        plans = [
            str(step[-1])
            for statement in (*asked, *idle)
            for step in connection.execute(f"EXPLAIN QUERY PLAN {statement}")
        ]
    tables = {"events", "rooms", "members", "reports"}
    scanned = {plan for plan in plans if plan.startswith("SCAN") and plan.split()[1] in tables}
    assert scanned == set()
    for step in (
        "SEARCH rooms USING INDEX ix_rooms_retention (retention_days>?)",
        "SEARCH events USING INDEX sqlite_autoindex_events_1 (room_id=? AND seq>? AND seq<?)",
        "SEARCH events USING INDEX sqlite_autoindex_events_1 (room_id=? AND seq<?)",
    ):
        assert step in plans
