"""What happens between two slices, or two runs, of what is written to a room."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, TypeAlias, TypeVar

import orjson
import pytest

from chatcore import hub
from chatcore.codec import JsonLines
from chatcore.errors import Unavailable
from chatcore.events import (
    Bye,
    Close,
    Delete,
    Event,
    Hello,
    Member,
    Message,
    Presence,
    ProfileChanged,
    Typing,
)
from chatcore.feed import Feed, Listener
from chatcore.model import LOBBY, Limits, Room, User
from chatcore.ports import Wire
from chatcore.presence import Presence as Attendance
from chatcore.repository.memory import MemoryRepository
from chatcore.testing import eventually
from tests.test_delivery import NotedLink, StraightMemoryLink, holding, soon_after, straight_room

T = TypeVar("T")
Kind: TypeAlias = type[NotedLink]

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ROOMS = (LOBBY, "attic", "cellar", "garden")
WIRE = JsonLines(Limits())
ANOTHER = JsonLines(Limits())
"""Spells alike, and is encoded for apart, as a WebSocket's is from TCP's."""


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each member be a slice, and each event a run."""
    monkeypatch.setattr(hub, "SLICE", 1)
    monkeypatch.setattr(hub, "JOINED_BYTES", 1)
    monkeypatch.setattr(hub, "PRESENCE_SECONDS", 0.0)


@pytest.fixture(params=[NotedLink, StraightMemoryLink])
def kind(request: pytest.FixtureRequest) -> Kind:
    """Links that are looked at before each write, and those that are not."""
    return request.param  # type: ignore[no-any-return] # one of the above


class NotedAttendance(Attendance):
    asked = 0
    """How often the changes were taken, to be told."""

    def changes(self) -> Iterator[Presence]:
        self.asked += 1
        return super().changes()


class Lobby:
    """A hub with nothing behind it, and one room: what is announced is all that there is."""

    feed: Feed

    def __init__(self) -> None:
        self.attendance = NotedAttendance()
        self.readable = asyncio.Event()
        """While it is not set, reads of the log wait."""
        self.readable.set()
        self.listeners: dict[str, Listener] = {}
        log = MemoryRepository()
        for name in ROOMS:
            log.add_room(Room(name))
        self.hub = hub.Hub(log, self._read, self.attendance, Limits())

    async def _read(self, read: Callable[..., T], /, *args: Any, **options: Any) -> T:
        await self.readable.wait()
        return read(*args, **options)

    async def enter(self, username: str, link: NotedLink, room: str = LOBBY) -> None:
        """Have somebody listen from the head on; at once, where somebody does already."""
        listener = self.listeners[username] = self.hub.listen(username, link, lambda *_: None)
        self.hub.release(listener)
        async with self.hub.feed(room) as self.feed:
            self.hub.subscribe(listener, self.feed, self.feed.head, self.feed.head)

    async def written(self) -> None:
        """Return once nothing is left to write."""
        await eventually(lambda: self.feed.waiting is None)


@asynccontextmanager
async def lobby(**people: NotedLink) -> AsyncIterator[Lobby]:
    """A lobby that is written to in this order, and has nothing to tell."""
    room = Lobby()
    try:
        for username, link in people.items():
            await room.enter(username, link)
        await eventually(lambda: all(len(people) in counts(link) for link in people.values()))
        await room.written()
        yield room
    finally:
        await room.hub.close()


def text(seq: int, content: str = "text", room: str = LOBBY) -> Message:
    return Message(room, seq, "ada", NOW, content)


def told(link: NotedLink) -> list[dict[str, Any]]:
    return [orjson.loads(line) for data in link.written for line in data.splitlines()]


def seqs_in(data: bytes) -> list[int]:
    return [event["seq"] for event in map(orjson.loads, data.splitlines()) if "seq" in event]


def seqs(link: NotedLink) -> list[int]:
    return seqs_in(b"".join(link.written))


def counts(link: NotedLink) -> list[int]:
    """How many were said to be online, each time."""
    return [event["count"] for event in told(link) if event["event"] == "presence"]


@pytest.mark.parametrize("wire", [WIRE, ANOTHER], ids=["same wire", "another wire"])
async def test_who_comes_between_two_runs_gets_those_that_follow(kind: Kind, wire: Wire) -> None:
    ada, bob = kind(WIRE), kind(wire)
    async with lobby(ada=ada) as room:
        room.hub.deliver([text(seq) for seq in (1, 2, 3, 4)])
        await room.enter("bob", bob)
        assert (seqs(ada), seqs(bob)) == ([1], [])
        await room.written()
    assert (seqs(ada), seqs(bob)) == ([1, 2, 3, 4], [2, 3, 4])


@pytest.mark.parametrize("wire", [WIRE, ANOTHER], ids=["same wire", "another wire"])
async def test_who_comes_between_two_runs_may_leave_in_one_that_follows(
    kind: Kind, wire: Wire
) -> None:
    ada, bob = kind(WIRE), kind(wire)
    async with lobby(ada=ada) as room:
        leaving = Member(LOBBY, 3, "bob", NOW, "bob", "leave")
        room.hub.deliver([text(1), text(2), leaving, text(4)])
        await room.enter("bob", bob)
        await room.written()
        room.hub.deliver([text(5)])
        await room.written()
    assert (seqs(ada), seqs(bob)) == ([1, 2, 3, 4, 5], [2, 3])


@pytest.mark.parametrize("target", [1, 2], ids=["being written", "still to be written"])
async def test_a_text_is_written_to_nobody_once_its_deletion_was_heard_of(
    kind: Kind, target: int
) -> None:
    links = [kind(WIRE), kind(WIRE), kind(ANOTHER)]
    ada, bob, cyd = links
    async with lobby(ada=ada, bob=bob, cyd=cyd) as room:
        room.hub.deliver([text(seq, "secret" if seq == target else "text") for seq in (1, 2, 3)])
        assert [seqs(link) for link in links] == [[1], [], []]
        room.hub.deliver([Delete(LOBBY, 4, "ada", NOW, target)])
        await room.written()
        assert "secret" not in str(room.feed.tail)
    assert [seqs(link) for link in links] == [[1, 2, 3, 4]] * 3
    got_it = [b"secret" in b"".join(link.written) for link in links]
    assert got_it == [target == 1, False, False], "the first had it already"


async def test_presence_from_before_a_feed_opened_is_not_told_later(kind: Kind) -> None:
    ada, bob = kind(WIRE), kind(WIRE)
    async with lobby(ada=ada) as room:
        room.readable.clear()
        room.hub.forget(room.listeners["ada"])  # the last one, so that the feed is closed
        asked = room.attendance.asked
        coming = asyncio.create_task(room.enter("bob", bob))
        await eventually(lambda: room.attendance.asked > asked)
        room.readable.set()
        await coming
        await eventually(lambda: counts(bob) == [1])
        room.hub.deliver([text(1), text(2)])
        await room.written()
    assert seqs(bob) == [1, 2]
    assert counts(bob) == [1], "and not 0, as it was between the two"


async def test_of_much_that_waits_to_be_told_of_presence_only_the_state_is_left(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "UNSAID", 2)
    ada, late = kind(WIRE), [kind(WIRE) for _ in range(5)]
    async with lobby(ada=ada) as room:
        before = len(counts(ada))
        room.hub.deliver([text(seq) for seq in range(1, 2_001)])
        for number, link in enumerate(late):
            asked = room.attendance.asked
            await room.enter(f"user{number}", link)
            await eventually(lambda asked=asked: room.attendance.asked > asked)  # type: ignore[misc]
        assert seqs(ada)[-1] < 2_000, "it is still being written"
        assert counts(ada)[before:] == []
        await eventually(lambda: room.feed.waiting is None)
        heard = [event for event in told(ada) if event["event"] == "presence"][before:]
    assert 0 < len(heard) <= 2
    assert len(heard[0]["online"]) > 2, "all who are there"
    assert heard[-1]["count"] == 6


async def test_who_moves_between_two_slices_of_presence_hears_of_it(kind: Kind) -> None:
    ada, bob, cyd, dan = (kind(WIRE) for _ in range(4))
    async with lobby(ada=ada, bob=bob, cyd=cyd) as room:

        def move() -> None:
            room.hub.subscribe(room.listeners["cyd"], room.feed, room.feed.head, room.feed.head)

        ada.on_write = soon_after(b'"presence"', move)
        await room.enter("dan", dan)
        await eventually(lambda: counts(dan) == [4])
        await eventually(lambda: counts(cyd)[-1] == 4)


async def test_what_is_announced_while_a_big_room_rests_is_joined(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under load: somebody who writes now and then waits for nothing."""
    monkeypatch.setattr(hub, "JOINED_BYTES", 65_536)
    people = {f"user{number}": kind(WIRE) for number in range(300)}
    *_, last = people.values()
    async with lobby(**people) as room:
        room.hub.deliver([text(1)])
        room.hub.deliver([text(2)])
        while seqs(last) != [1]:  # noqa: ASYNC110 - each turn of the loop counts
            await asyncio.sleep(0)
        room.hub.deliver([text(3)])
        await room.written()
        writes = [[seqs_in(data) for data in link.written[-2:]] for link in people.values()]
        assert writes == [[[1], [2, 3]]] * len(people)
        room.hub.deliver([text(4)])
        await room.written()
        room.hub.deliver([text(5)])
        assert seqs(people["user0"])[-1] == 5, "at once"


@asynccontextmanager
async def many_rooms(kind: Kind) -> AsyncIterator[tuple[Lobby, dict[str, NotedLink]]]:
    """Each with one member."""
    links = {room: kind(WIRE) for room in ROOMS}
    hall = Lobby()
    try:
        for room, link in links.items():
            await hall.enter(f"in-{room}", link, room)
        await eventually(lambda: all(counts(link) == [1] for link in links.values()))
        yield hall, links
    finally:
        await hall.hub.close()


async def test_rooms_too_many_for_a_turn_of_the_loop_come_in_those_that_follow(kind: Kind) -> None:
    async with many_rooms(kind) as (hall, links):
        hall.hub.deliver([text(1, room=room) for room in ROOMS])
        got: list[list[list[int]]] = []
        while not got or got[-1] != [[1]] * len(ROOMS):
            got.append([seqs(link) for link in links.values()])
            await asyncio.sleep(0)
        sizes = [sum(map(len, each)) for each in got]
        assert (sizes[0], {*sizes}) == (1, {1, 2, 3, 4})
        hall.hub.deliver([text(seq, room=room) for room in ROOMS for seq in (2, 3)])
        hall.hub.deliver([text(seq, room=room) for room in ROOMS for seq in (4, 5)])
        await eventually(lambda: all(len(seqs(link)) == 5 for link in links.values()))
        assert [seqs(link) for link in links.values()] == [[1, 2, 3, 4, 5]] * len(ROOMS)


async def test_a_room_that_waits_for_its_turn_hears_of_deletions_and_of_presence(
    kind: Kind,
) -> None:
    async with many_rooms(kind) as (hall, links):
        *_, deleted, last = ROOMS
        await hall.enter("more", kind(WIRE), last)
        await eventually(lambda: counts(links[last]) == [1, 2])
        asked = hall.attendance.asked
        hall.hub.forget(hall.listeners["more"])
        hall.hub.deliver([text(1, "secret", room) for room in ROOMS])
        hall.hub.deliver([Delete(deleted, 2, "ada", NOW, 1)])
        while hall.attendance.asked == asked:  # noqa: ASYNC110 - each turn of the loop counts
            await asyncio.sleep(0)
        assert seqs(links[last]) == [], "it waits for its turn"
        await eventually(lambda: counts(links[last]) == [1, 2, 1])
        assert (seqs(links[deleted]), seqs(links[last])) == ([1, 2], [1])
        got_it = [b"secret" in b"".join(link.written) for link in links.values()]
        assert got_it == [True, True, False, True]


async def test_history_has_all_that_was_acknowledged_though_it_is_still_being_written() -> None:
    names = [f"user{number}" for number in range(6)]
    async with straight_room(*names) as (chat, _):
        for number in range(3):  # one alone, then several in one commit
            texts = [f"{number}-{each}" for each in range(2 * number + 1)]
            sending = (chat.send(User(names[0], names[0]), LOBBY, text) for text in texts)
            heads = [reply.seq for reply in await asyncio.gather(*sending)]
            page = await chat.history(User(names[1], names[1]), LOBBY)
            assert page.head >= max(heads)
            assert [message.content for message in page.messages][-len(texts) :] == texts


async def test_history_that_waits_for_what_is_being_written_ends_with_the_hub() -> None:
    ada, bob = NotedLink(WIRE), NotedLink(WIRE)
    async with lobby(ada=ada, bob=bob) as room:
        room.readable.clear()
        room.hub.deliver([text(2)])  # and the one before it was lost, and cannot be read now
        waiting = asyncio.create_task(room.hub.reach(room.feed, room.feed.announced))
        await eventually(lambda: bool(room.feed.awaited))
        await room.hub.close()
        with pytest.raises(Unavailable):
            await waiting


async def test_all_slices_are_written_before_a_shutdown_ends_the_connections() -> None:
    repository, commits = holding("append")
    names = [f"user{number}" for number in range(12)]
    async with straight_room(*names, repository=repository) as (chat, links):
        before = repository.calls["append"]
        commits.clear()
        sending = asyncio.create_task(chat.send(User(names[0], names[0]), LOBBY, "last"))
        await eventually(lambda: repository.calls["append"] > before)
        closing = asyncio.create_task(chat.close())
        await eventually(lambda: chat.closing)
        commits.set()
        await asyncio.gather(sending, closing)
    assert [len(link.sent) for link in links] == [1] * len(names)


class CountingWire(JsonLines):
    """Counts how often each event was encoded."""

    def __init__(self) -> None:
        super().__init__(Limits())
        self.encoded: Counter[int] = Counter()

    def encode(self, item: Hello | Event | Bye) -> bytes:
        if isinstance(item, Message):
            self.encoded[item.seq] += 1
        return super().encode(item)


async def test_those_who_are_behind_together_are_written_to_some_at_a_time_and_encoded_for_once(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "SLICE", 400)
    monkeypatch.setattr(hub, "JOINED_BYTES", 65_536)
    wire = CountingWire()
    people = {f"user{number}": kind(wire) for number in range(30)}
    async with lobby(**people) as room:
        room.readable.clear()  # all of it is in memory
        for listener in room.listeners.values():
            room.hub.subscribe(listener, room.feed, room.feed.head, room.feed.head)
        room.hub.deliver([text(seq) for seq in range(1, 11)])
        await room.written()
        wire.encoded.clear()
        written = [len(link.written) for link in people.values()]
        for listener in room.listeners.values():
            room.hub.subscribe(listener, room.feed, 4, room.feed.head)
        most = 0
        while room.feed.behind:
            before, written = written, [len(link.written) for link in people.values()]
            most = max(most, sum(written) - sum(before))
            await asyncio.sleep(0)
        assert most <= hub.CATCHING_UP
        assert set(wire.encoded.values()) == {1}
        assert not room.feed.runs
    assert [seqs(link) for link in people.values()] == [[*range(1, 11), *range(5, 11)]] * 30


async def test_a_text_that_is_deleted_is_in_no_run_that_is_kept(kind: Kind) -> None:
    ada, bob = kind(WIRE), kind(WIRE)
    async with lobby(ada=ada, bob=bob) as room:
        room.hub.deliver([text(1, "secret"), text(2), text(3)])
        await room.written()
        for listener in room.listeners.values():
            room.hub.subscribe(listener, room.feed, 0, room.feed.head)
        while not room.feed.runs:  # noqa: ASYNC110 - each turn of the loop counts
            await asyncio.sleep(0)
        assert b"secret" in b"".join(data for _, data in room.feed.runs.values())
        room.hub.deliver([Delete(LOBBY, 4, "ada", NOW, 1)])
        assert b"secret" not in b"".join(data for _, data in room.feed.runs.values())
        await eventually(lambda: seqs(bob)[-1] == 4)


async def test_written_waits_for_what_was_announced_while_something_was_written(kind: Kind) -> None:
    links = [kind(WIRE) for _ in range(5)]
    async with lobby(**{f"user{number}": link for number, link in enumerate(links)}) as room:
        for seq in (1, 2, 3):
            room.hub.deliver([text(seq)])
        await room.hub.written(5)
        assert [seqs(link) for link in links] == [[1, 2, 3]] * 5


class Broken(Exception):
    """A defect of a link's."""


@pytest.mark.parametrize("word", [b'"message"', b'"member"'], ids=["event", "end"])
@pytest.mark.parametrize("place", [0, 1, 2], ids=["first", "middle", "last"])
async def test_a_link_that_cannot_be_written_to_costs_nobody_else_anything(
    kind: Kind, place: int, word: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    links = [kind(WIRE) for _ in range(3)]

    def fail(data: bytes) -> None:
        if word in data:
            raise Broken

    async with lobby(ada=links[0], bob=links[1], cyd=links[2]) as room:
        ended: list[Close] = []
        *_, broken = [*room.listeners.values()][: place + 1]
        broken.end = lambda code, _: ended.append(code)
        links[place].on_write = fail
        room.hub.deliver([text(1)])
        room.hub.deliver([Member(LOBBY, 2, "dan", NOW, broken.username, "kick"), text(3)])
        await room.written()
        room.hub.deliver([text(4), text(5)])
        await room.written()
        assert not broken.subscriptions
        await eventually(lambda: ended == [Close.SHUTDOWN])
    others = [link for link in links if link is not links[place]]
    assert [seqs(link) for link in others] == [[1, 2, 3, 4, 5]] * 2
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.exc_info is not None
    assert record.exc_info[0] is Broken


class ForgetfulWire(JsonLines):
    """Cannot encode one event."""

    def encode(self, item: Hello | Event | Bye) -> bytes:
        if isinstance(item, Message) and item.content == "unspeakable":
            raise Broken
        return super().encode(item)


async def test_an_event_that_cannot_be_encoded_does_not_silence_its_room(
    kind: Kind, caplog: pytest.LogCaptureFixture
) -> None:
    ada, bob = kind(WIRE), kind(ForgetfulWire(Limits()))
    async with lobby(ada=ada, bob=bob) as room:
        ended: list[Close] = []
        room.listeners["bob"].end = lambda code, _: ended.append(code)
        room.hub.deliver([text(1, "unspeakable")])
        room.hub.deliver([text(2)])
        await eventually(lambda: seqs(ada) == [1, 2])
        await eventually(lambda: ended == [Close.SHUTDOWN])
        room.hub.deliver([text(3)])
        await eventually(lambda: seqs(ada) == [1, 2, 3])
    assert seqs(bob) == []
    assert {record.exc_info[0] for record in caplog.records if record.exc_info} == {Broken}


async def test_who_is_removed_by_what_cannot_be_told_gets_nothing_after_it(kind: Kind) -> None:
    ada, bob = kind(WIRE), kind(ForgetfulWire(Limits()))
    async with lobby(ada=ada, bob=bob) as room:
        room.listeners["bob"].end = lambda *_: None
        kick = Member(LOBBY, 2, "cyd", NOW, "ada", "kick")
        room.hub.deliver([text(1, "unspeakable"), kick, text(3)])
        await eventually(lambda: not room.listeners["ada"].subscriptions)
        room.hub.deliver([text(4)])
        await room.written()
    assert seqs(ada) == [1, 2]


async def test_a_defect_of_the_hub_ends_the_connections_of_its_room(
    kind: Kind, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """They come back for what they miss, and the other rooms hear nothing of it."""
    async with many_rooms(kind) as (hall, links):
        ended: list[str] = []
        for name, listener in hall.listeners.items():
            listener.end = lambda *_, name=name: ended.append(name)
        write = hall.hub._write  # noqa: SLF001 - there is no other way to have one

        def failing(feed: Feed, *given: Any) -> Iterator[None]:
            if feed.room in ROOMS[1:3]:  # one of them in this turn of the loop, one in another
                raise Broken
            return write(feed, *given)

        monkeypatch.setattr(hall.hub, "_write", failing)
        hall.hub.deliver([text(1, room=room) for room in ROOMS])
        await eventually(lambda: len(ended) == 2)
        monkeypatch.undo()
        hall.hub.deliver([text(2, room=room) for room in ROOMS])
        others = [links[ROOMS[0]], links[ROOMS[3]]]
        await eventually(lambda: [seqs(link) for link in others] == [[1, 2]] * 2)
    assert ended == [f"in-{room}" for room in ROOMS[1:3]]
    assert {record.exc_info[0] for record in caplog.records if record.exc_info} == {Broken}


async def test_a_hint_goes_to_nobody_who_was_removed_meanwhile(kind: Kind) -> None:
    links = [kind(WIRE) for _ in range(3)]
    ada, bob, cyd = links
    async with lobby(ada=ada, bob=bob, cyd=cyd) as room:
        room.hub.hint("ada", Typing(LOBBY, "ada"), [LOBBY])
        assert [b'"typing"' in b"".join(link.written) for link in links] == [False, True, True]
        room.hub.hint("ada", ProfileChanged("ada", "Ada"), [LOBBY])
        room.hub.deliver([Member(LOBBY, 1, "ada", NOW, "cyd", "kick")])
        await room.written()
        await asyncio.sleep(0.01)
    told_of_it = [b'"profile"' in b"".join(link.written) for link in links]
    assert told_of_it == [False, True, False]


async def test_nobody_is_said_to_be_typing_before_their_joining_is_told(kind: Kind) -> None:
    links = [kind(WIRE) for _ in range(3)]
    async with lobby(**{f"user{number}": link for number, link in enumerate(links)}) as room:
        room.hub.deliver([Member(LOBBY, 1, "dan", NOW, "dan", "join", "member")])
        for _ in range(2):  # while it is written, and once it has been
            room.hub.hint("dan", Typing(LOBBY, "dan"), [LOBBY])
            await room.written()
    heard = [[event["event"] for event in told(link)] for link in links]
    kinds = [[kind for kind in each if kind != "presence"] for each in heard]
    assert kinds == [["member", "typing"]] * 3


async def test_one_reads_for_all_who_are_behind_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hub, "JOINED_BYTES", 65_536)
    names = [f"user{number}" for number in range(6)]
    repository, _ = holding("read")
    async with straight_room(*names, repository=repository) as (chat, links):
        for number in range(3):
            await chat.send(User(names[0], names[0]), LOBBY, str(number))
        feed = chat.hub._feeds[LOBBY]  # noqa: SLF001 - to have them all be behind at once
        await eventually(lambda: feed.waiting is None)
        before = repository.calls["read"]
        chat.hub.let_go()
        for subscription in [*feed.subscriptions]:
            chat.hub.subscribe(subscription.listener, feed, feed.head - 3, feed.head)
        await eventually(lambda: not feed.behind)
        assert repository.calls["read"] == before + 1
        assert [len(seqs(link)[-3:]) for link in links] == [3] * len(links)


@pytest.mark.parametrize("how", ["expired", "let go"])
async def test_what_is_not_to_be_given_any_more_is_in_no_run_that_was_being_read(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "JOINED_BYTES", 65_536)
    repository, reads = holding("read")
    async with straight_room("ada", "bob", repository=repository) as (chat, (_, bob)):
        ada = User("ada", "ada")
        for text in ("secret", "another"):
            await chat.send(ada, LOBBY, text)
        feed = chat.hub._feeds[LOBBY]  # noqa: SLF001 - to have somebody be behind there
        await eventually(lambda: feed.waiting is None)
        (his,) = (each for each in feed.subscriptions if each.listener.link is bob)
        ended: list[Close] = []
        his.listener.end = lambda code, _: ended.append(code)
        bob.written.clear()
        chat.hub.let_go()
        before = repository.calls["read"]
        reads.clear()
        chat.hub.subscribe(his.listener, feed, feed.head - 2, feed.head)
        await eventually(lambda: repository.calls["read"] == before + 1)
        if how == "expired":
            feed.expire(feed.head)
        else:
            chat.hub.let_go()
        reads.set()
        if how == "expired":
            await eventually(lambda: ended == [Close.LOST_POSITION])
            assert b"secret" not in b"".join(bob.written)
        else:
            await eventually(lambda: not feed.behind)
            assert repository.calls["read"] == before + 2, "it was read once more"


async def test_presence_of_many_rooms_comes_in_turns(kind: Kind) -> None:
    async with many_rooms(kind) as (hall, links):
        for room in ROOMS:
            await hall.enter(f"more-{room}", kind(WIRE), room)
        got: list[int] = []
        while not got or got[-1] < len(ROOMS):
            got.append(sum(counts(link)[-1] == 2 for link in links.values()))
            await asyncio.sleep(0)
        assert {*got} == {0, 1, 2, 3, 4}


async def test_who_gets_much_is_one_of_few_at_a_time(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "SLICE", 400)
    monkeypatch.setattr(hub, "SLICE_BYTES", 10_000)
    links = [kind(WIRE) for _ in range(4)]
    async with lobby(**{f"user{number}": link for number, link in enumerate(links)}) as room:
        room.hub.deliver([text(1)])
        assert [seqs(link) for link in links] == [[1]] * 4
        room.hub.deliver([text(2, "x" * 4_500)])
        assert [seqs(link)[-1] for link in links] == [2, 2, 1, 1]
        await room.written()
        assert [seqs(link)[-1] for link in links] == [2] * 4
