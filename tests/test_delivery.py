"""Fan-out: slow readers, holes, ends, and personal and ephemeral events."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from attrs import frozen

from chatcore import feed, hub
from chatcore.chat import Chat
from chatcore.commands import Since
from chatcore.connection import serve
from chatcore.errors import NotFound
from chatcore.events import Durable, Edit, Message
from chatcore.model import Credentials, Limits, User
from chatcore.peer import MemoryLink
from chatcore.ports import Repository, Transport, Wire
from chatcore.repository.memory import MemoryRepository
from chatcore.testing import FaultyRepository, Hold, Transcript, connect, eventually, failing

LIMITS = Limits(messages=None, attempts=None, buffer_bytes=20_000)


@pytest.fixture(autouse=True, params=[hub.SLICE, 1])
def slices(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All here is so in small rooms, and in those that are too big to be written to at once."""
    monkeypatch.setattr(hub, "SLICE", request.param)


class CapriciousBus:
    """A Bus that a test can have lose, hold back and repeat."""

    def __init__(self) -> None:
        self._delivers: list[Callable[[Sequence[Durable]], None]] = []
        self.held: list[Sequence[Durable]] | None = None

    def publish(self, batch: Sequence[Durable]) -> None:
        if self.held is None:
            self.deliver(batch)
        else:
            self.held.append(batch)

    def deliver(self, batch: Sequence[Durable]) -> None:
        for deliver in self._delivers:
            deliver(batch)

    def subscribe(self, deliver: Callable[[Sequence[Durable]], None]) -> None:
        self._delivers.append(deliver)


@contextlib.asynccontextmanager
async def room(
    *names: str, bus: CapriciousBus | None = None, limits: Limits = LIMITS, window: int = 65_536
) -> AsyncIterator[tuple[Any, ...]]:
    """A chat, and peers who are in the lobby."""
    async with contextlib.AsyncExitStack() as stack:
        repository = FaultyRepository(MemoryRepository())
        chat = await stack.enter_async_context(
            Chat(repository, bus=bus, limits=limits, bcrypt_cost=4)
        )
        peers: list[Any] = [chat, repository]
        for name in names:
            talk, link = await stack.enter_async_context(connect(chat, window=window))
            await talk.do("register", username=name, password="correct horse")
            await talk.do("join", room="lobby")
            peers += [talk, link]
        yield tuple(peers)


async def texts(peer: Transcript, count: int) -> list[str]:
    return await peer.messages(count)


async def test_a_slow_reader_costs_a_bounded_buffer_and_misses_nothing() -> None:
    async with room("ada", "bob", window=1_000) as (_, repository, ada, _, bob, slow):
        said = [f"{number} ".ljust(500, "x") for number in range(600)]
        for text in said:
            await ada.do("send", room="lobby", content=text)
            ada.events.clear()
            assert slow.pending <= LIMITS.buffer_bytes + hub.JOINED_BYTES
        assert await texts(bob, 600) == said
        assert repository.calls["read"] > 0, "from the log, for memory does not reach so far back"


async def test_a_slow_reader_gets_each_event_once_and_is_live_again() -> None:
    async with room("ada", "bob", window=1_000) as (_, _, ada, _, bob, slow):
        for number in range(200):
            await ada.do("send", room="lobby", content=f"{number} ".ljust(500, "x"))
            ada.events.clear()
        got = [(await bob.event("message"))["seq"] for _ in range(200)]
        assert got == [*range(3, 203)]
        await eventually(lambda: slow.pending == 0)
        await ada.do("send", room="lobby", content="live")
        assert await texts(bob, 1) == ["live"]


async def test_nothing_more_is_read_from_a_slow_link() -> None:
    async with room("ada", "bob", window=1_000) as (_, _, ada, _, bob, slow):
        while slow.pending <= LIMITS.buffer_bytes:
            await ada.do("send", room="lobby", content="x" * 4_000)
            ada.events.clear()
        first = await bob.start("ping")  # the server was waiting for one more
        second = await bob.start("send", room="lobby", content="from the slow one")
        for _ in range(20):
            await asyncio.sleep(0)
        page = await ada.do("history", room="lobby", limit=1)
        assert page["messages"][0]["sender"] == "ada"
        await bob.answer(first)
        assert "seq" in await bob.answer(second)


async def test_a_slow_reader_gets_the_present_state_in_place_of_missed_presence() -> None:
    async with room("ada", "bob", window=1_000) as (chat, _, ada, _, bob, slow):
        while slow.pending <= LIMITS.buffer_bytes:
            await ada.do("send", room="lobby", content="x" * 4_000)
            ada.events.clear()
        async with connect(chat) as (cyd, _):
            await cyd.do("register", username="cyd", password="correct horse")
            await cyd.do("join", room="lobby")
            while "cyd" not in (await ada.event("presence"))["online"]:
                pass
        seen = await bob.event("presence")
        while seen["count"] != 3 and seen["online"] != ["ada", "bob"]:
            seen = await bob.event("presence")
        assert len(seen["online"]) == seen["count"], "all of them, to replace what was known"


async def test_a_lost_batch_is_read_from_the_log() -> None:
    bus = CapriciousBus()
    async with room("ada", "bob", bus=bus) as (_, repository, ada, _, bob, _):
        bus.held = []
        for number in range(5):
            await ada.do("send", room="lobby", content=f"lost {number}")
        bus.held = None
        await ada.do("send", room="lobby", content="found")
        assert await texts(bob, 6) == [*(f"lost {number}" for number in range(5)), "found"]
        assert repository.calls["read"] == 1, "once for all"


async def test_repeated_and_reordered_batches_come_once_and_in_order() -> None:
    bus = CapriciousBus()
    async with room("ada", "bob", bus=bus) as (_, _, ada, _, bob, _):
        bus.held = []
        for number in range(8):
            await ada.do("send", room="lobby", content=str(number))
        held, bus.held = bus.held, None
        for batch in [held[3], held[1], held[3], held[0], *reversed(held)]:
            bus.deliver(batch)
        assert await texts(bob, 8) == [str(number) for number in range(8)]
        await ada.do("send", room="lobby", content="end")
        assert await texts(bob, 1) == ["end"]


async def test_a_read_for_a_joiner_stops_at_what_was_announced() -> None:
    """Else the log overtakes the announcement, and an event comes twice."""
    bus = CapriciousBus()
    async with room("ada", "bob", bus=bus) as (chat, _, ada, _, _, _):
        bus.held = []
        await ada.do("send", room="lobby", content="committed, not announced")
        async with connect(chat) as (cyd, _):
            await cyd.do("login", username="bob", password="correct horse")
            joined = await cyd.do("join", room="lobby")
            assert (joined["head"], joined["events"]) == (2, [])
            held, bus.held = bus.held, None
            bus.deliver(held[0])
            assert (await cyd.event("message"))["seq"] == 3


async def test_the_reply_comes_before_the_event() -> None:
    async with room("ada") as (_, _, ada, link):
        id = await ada.start("send", room="lobby", content="mine")
        await eventually(lambda: sum(b'"seq":2' in frame for frame in link.frames) == 2)
        kinds = [frame[2:7] for frame in link.frames if b'"seq":2' in frame]
        assert kinds == [b"reply", b"event"]
        await ada.answer(id)


def holding(method: str, *, times: int | None = None) -> tuple[FaultyRepository, threading.Event]:
    """Return a repository that holds this method's calls until the event is set, as it is now."""
    gate = threading.Event()
    gate.set()
    return FaultyRepository(MemoryRepository(), failing(method, Hold(gate), times=times)), gate


class NotedLink(MemoryLink):
    """A link in this process that keeps each write apart."""

    def __init__(self, wire: Wire) -> None:
        super().__init__(wire)
        self.written: list[bytes] = []
        """What was written while it was open, at whatever time."""
        self.on_write: Callable[[bytes], object] = lambda _: None

    def write(self, data: bytes) -> None:
        if self.code is None:
            self.take(data)
        super().write(data)

    def take(self, data: bytes) -> None:
        self.written.append(data)
        self.on_write(data)


class StraightMemoryLink(NotedLink):
    """One that may be written to without being looked at first."""

    def __init__(self, wire: Wire) -> None:
        super().__init__(wire)
        self._changed: Callable[[], None] | None = None

    @property
    def sent(self) -> list[bytes]:
        """The messages that came, either way."""
        return [data for data in self.written if b'"message"' in data]

    @property
    def straight(self) -> Transport | None:
        return Straight(self) if self.code is None else None

    def watch(self, changed: Callable[[], None] | None) -> None:
        self._changed = changed

    def close(self, code: int, reason: str) -> None:
        super().close(code, reason)
        if self._changed is not None:
            self._changed()


@frozen
class Straight:
    """A transport that is still open, for what it was told to close after has to be flushed."""

    link: StraightMemoryLink

    def write(self, data: bytes) -> None:
        self.link.take(data)

    def is_closing(self) -> bool:
        return False


def soon_after(word: bytes, call: Callable[[], object]) -> Callable[[bytes], None]:
    """Return an `on_write`: each write of this word has a call before the next slice."""

    def on_write(data: bytes) -> None:
        if word in data:
            asyncio.get_running_loop().call_soon(call)

    return on_write


@contextlib.asynccontextmanager
async def present(chat: Chat, name: str, link: MemoryLink) -> AsyncIterator[Transcript]:
    """Somebody new, in the lobby by this link."""
    user = await chat.register(name, "correct horse")
    serving = asyncio.create_task(serve(chat, link, Credentials(user=user)))
    try:
        peer = Transcript(link.send, link.next)
        await peer.do("join", room="lobby", history=0)
        yield peer
    finally:
        link.hang_up()
        await serving


@contextlib.asynccontextmanager
async def straight_room(
    *names: str, repository: Repository | None = None
) -> AsyncIterator[tuple[Chat, list[StraightMemoryLink]]]:
    """A chat, and people in the lobby, each on a link that is written to in their order."""
    async with contextlib.AsyncExitStack() as stack:
        chat = await stack.enter_async_context(
            Chat(repository or MemoryRepository(), limits=LIMITS, bcrypt_cost=4)
        )
        links = [StraightMemoryLink(chat.wire) for _ in names]
        for name, link in zip(names, links, strict=True):
            await stack.enter_async_context(present(chat, name, link))
        yield chat, links


async def test_who_joins_again_while_an_event_is_written_to_others_gets_it_in_the_reply() -> None:
    async with straight_room("ada", "bob", "cyd") as (chat, links):
        ada, bob, cyd = links
        lobby = chat.hub._feeds["lobby"]  # noqa: SLF001 - to do it between two slices
        (again,) = (each for each in lobby.subscriptions if each.listener.link is cyd)
        seen: list[int] = []

        def join() -> None:
            if not cyd.sent:
                seen.append(lobby.head)
            chat.hub.subscribe(again.listener, lobby, lobby.head, lobby.head)

        ada.on_write = soon_after(b'"message"', join)
        reply = await chat.send(User("ada", "ada"), "lobby", "one")
        await eventually(lambda: lobby.waiting is None and bool(bob.sent))
        assert seen == [reply.seq] * (hub.SLICE == 1), "the reply to it had this head"
        assert [len(link.sent) for link in links] == [1, 1, 0 if seen else 1]
        ada.on_write = lambda _: None
        await chat.send(User("ada", "ada"), "lobby", "two")
        await eventually(lambda: lobby.waiting is None and b"two" in b"".join(cyd.sent))
        assert [len(link.sent) for link in links] == [2, 2, 1 if seen else 2]


async def test_nothing_is_written_to_who_is_closed_while_an_event_is_written_to_others() -> None:
    async with straight_room("ada", "bob", "cyd") as (chat, links):
        ada, bob, cyd = links
        lobby = chat.hub._feeds["lobby"]  # noqa: SLF001 - as above

        def close() -> None:
            cyd.close(4001, "shutdown")

        ada.on_write = soon_after(b'"message"', close)
        await chat.send(User("ada", "ada"), "lobby", "one")
        await eventually(lambda: lobby.waiting is None and bool(bob.sent))
        assert [len(link.sent) for link in links] == [1, 1, 0 if hub.SLICE == 1 else 1]


async def test_what_commits_together_is_one_write_of_replies_and_one_of_events() -> None:
    gate = threading.Event()
    repository = FaultyRepository(MemoryRepository())
    async with contextlib.AsyncExitStack() as stack:
        chat = await stack.enter_async_context(Chat(repository, limits=LIMITS, bcrypt_cost=4))
        link = NotedLink(chat.wire)
        talk = await stack.enter_async_context(present(chat, "ada", link))
        stack.callback(gate.set)
        await talk.event("presence")
        repository.scripts.append(failing("append", Hold(gate), times=1))
        before = repository.calls["append"]
        asked = [await talk.start("send", room="lobby", content="alone")]
        await eventually(lambda: repository.calls["append"] > before)
        asked += [await talk.start("send", room="lobby", content=f"{n}") for n in range(4)]
        waiting = chat._journal._queue  # noqa: SLF001 - they are to be there together
        await eventually(lambda: waiting.qsize() == 4)
        link.written.clear()
        gate.set()
        for id in asked:
            await talk.answer(id)
        await talk.messages(5)
        assert [data.count(b'"reply"') for data in link.written] == [1, 0, 4, 0]
        assert [data.count(b'"event"') for data in link.written] == [0, 1, 0, 4]


async def test_leave_is_the_last_event_for_whoever_left_even_within_a_batch() -> None:
    repository, commits = holding("append")
    async with Chat(repository, limits=LIMITS, bcrypt_cost=4) as chat, connect(chat) as (bob, _):
        ada = await chat.register("ada", "correct horse")
        await bob.do("register", username="bob", password="correct horse")
        await chat.join(ada, "lobby")
        await bob.do("join", room="lobby")
        commits.clear()
        before = repository.calls["append"]
        first = asyncio.ensure_future(chat.send(ada, "lobby", "first"))
        await eventually(lambda: repository.calls["append"] == before + 1)
        rest = asyncio.gather(
            chat.send(ada, "lobby", "before"),
            chat.leave(User("bob", "bob"), "lobby"),
            chat.send(ada, "lobby", "after"),
        )
        for _ in range(5):
            await asyncio.sleep(0)
        commits.set()
        await asyncio.gather(first, rest)
        assert repository.calls["append"] == before + 2, "one batch for the rest"
        assert await texts(bob, 2) == ["first", "before"]
        assert (await bob.event("member"))["action"] == "leave"
        # Not `event("membership")`, which would skip what must not be there.
        assert (await bob.event("message", "membership"))["event"] == "membership"
        await bob.do("ping")
        assert not [event for event in bob.events if event["event"] == "message"]


async def test_nothing_personal_comes_before_the_login_is_answered() -> None:
    repository, listing = holding("memberships", times=1)
    async with Chat(repository, limits=LIMITS, bcrypt_cost=4) as chat, connect(chat) as (ada, _):
        user = await chat.register("ada", "correct horse")
        secret = (await chat.issue_token(user)).secret
        listing.clear()
        asked = await ada.start("login", token=secret)
        await eventually(lambda: repository.calls["memberships"] == 1)
        await chat.join(user, "lobby")
        listing.set()
        assert "token" in await ada.answer(asked)
        assert not ada.events
        assert (await ada.event())["room"]["name"] == "lobby"


async def test_a_slow_reader_who_left_gets_up_to_the_end_and_nothing_after() -> None:
    async with room("ada", "bob", window=1_000) as (chat, _, ada, _, bob, slow):
        while slow.pending <= LIMITS.buffer_bytes:
            await ada.do("send", room="lobby", content="x" * 4_000)
        await ada.do("send", room="lobby", content="before")
        await chat.leave(User("bob", "bob"), "lobby")
        await ada.do("send", room="lobby", content="after")
        got = [await bob.event("message", "member")]
        while got[-1]["event"] != "member":
            got.append(await bob.event("message", "member"))
        assert (got[-2]["content"], got[-1]["action"]) == ("before", "leave")
        await bob.do("ping")
        assert not [event for event in bob.events if event["event"] == "message"]


async def test_all_of_a_users_connections_hear_of_a_room() -> None:
    async with room("ada") as (chat, _, ada, _), connect(chat) as (other, _):
        await other.do("login", username="ada", password="correct horse")
        await ada.do("create", room="den", title="The den")
        told = await other.event("membership")
        assert told["room"] == {"name": "den", "kind": "public", "title": "The den", "topic": ""}
        assert (told["change"], told["role"], told["head"], told["unread"]) == (
            "join",
            "owner",
            1,
            0,
        )


async def test_a_slow_link_is_owed_the_latest_of_each_room_and_gets_it() -> None:
    async with room("ada", "bob", window=1_000) as (chat, _, ada, _, bob, slow):
        user = User("bob", "bob")
        await chat.create(User("ada", "ada"), "hall")
        await chat.join(user, "hall")
        assert (await bob.event("membership"))["room"]["name"] == "lobby"
        assert (await bob.event("membership"))["room"]["name"] == "hall"
        while slow.pending <= LIMITS.buffer_bytes:
            await ada.do("send", room="lobby", content="x" * 4_000)
            ada.events.clear()
        before = slow.pending
        await chat.create(user, "den")
        for _ in range(5):
            await chat.leave(user, "hall")
            await chat.join(user, "hall")
        assert slow.pending == before, "nothing is queued for it"
        told = [await bob.event("membership") for _ in range(2)]
        assert {each["room"]["name"]: (each["change"], each["head"]) for each in told} == {
            "den": ("join", 1),
            "hall": ("join", 12),
        }
        await bob.do("ping")
        assert not [event for event in bob.events if event["event"] == "membership"]


async def test_presence_is_of_people_not_of_connections() -> None:
    async with room("ada", "bob") as (chat, _, ada, _, _, link):
        while "bob" not in (await ada.event("presence"))["online"]:
            pass
        async with connect(chat) as (other, _):
            await other.do("login", username="bob", password="correct horse")
            await other.do("join", room="lobby")
            link.hang_up()
            await eventually(lambda: len(chat.roster) == 2)
            assert (await ada.do("who", room="lobby"))["online"] == ["ada", "bob"]
        while (seen := await ada.event("presence"))["offline"] != ["bob"]:
            pass
        assert seen["count"] == 1


async def test_a_position_that_the_log_has_let_go_of_is_told() -> None:
    """As retention will: the log's beginning is gone when a slow reader comes to it."""
    async with room("ada", "bob", window=1_000) as (_, repository, ada, _, bob, slow):
        while slow.pending <= LIMITS.buffer_bytes:
            await ada.do("send", room="lobby", content="x" * 4_000)
        for _ in range(feed.TAIL + 10):
            await ada.do("send", room="lobby", content="more")
            ada.events.clear()
        log = repository.inside._logs["lobby"]  # noqa: SLF001 - no method removes events yet
        now = datetime(2026, 1, 1, tzinfo=UTC)
        repository.read = lambda *_: [Message("lobby", log.head, "ada", now, "more")]
        assert (await bob.goodbye())["code"] == 4004


@pytest.mark.parametrize("size", [1, 3])
async def test_a_feed_lives_as_long_as_someone_listens(size: int) -> None:
    async with room(*("ada", "bob", "cyd")[:size]) as (chat, *_):
        assert list(chat.hub._feeds) == ["lobby"]  # noqa: SLF001 - memory is what is tested
    assert not chat.hub._feeds  # noqa: SLF001 - as above


async def test_who_joins_behind_a_hole_has_their_own_joining_in_the_head() -> None:
    """Another process appended, and nobody told this one."""
    bus = CapriciousBus()
    async with room("ada", "bob", bus=bus) as (chat, repository, ada, _, _, _):
        bus.held = []
        await ada.do("send", room="lobby", content="unheard of")
        bus.held = None
        async with connect(chat) as (cyd, _):
            await cyd.do("register", username="cyd", password="correct horse")
            joined = await cyd.do("join", room="lobby")
            assert (joined["head"], repository.calls["read"]) == (4, 1)
            assert [event["content"] for event in joined["events"]] == ["unheard of"]
        assert [(await ada.event("message", "member"))["seq"] for _ in range(3)] == [2, 3, 4]


async def test_who_joins_need_not_wait_for_a_bus_that_lost_it() -> None:
    bus = CapriciousBus()
    async with room("ada", "bob", bus=bus) as (chat, _, ada, _, _, _), connect(chat) as (cyd, _):
        await cyd.do("register", username="cyd", password="correct horse")
        bus.held = []
        joined = await cyd.do("join", room="lobby")
        assert joined["head"] == 3
        bus.held = None
        await ada.do("send", room="lobby", content="next")
        assert (await cyd.event("message", "member"))["seq"] == 4


class GatedRepository(MemoryRepository):
    """Lets each read of the log, and of messages, begin when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.permits: threading.Semaphore | None = None
        self.waiting = 0

    def _wait(self) -> None:
        if self.permits is not None:
            self.waiting += 1
            self.permits.acquire()
            self.waiting -= 1

    def read(self, room: str, after: int, upto: int, limit: int) -> Sequence[Durable]:
        self._wait()
        return super().read(room, after, upto, limit)

    def messages(self, *args: Any, **options: Any) -> Sequence[Message | Edit]:
        self._wait()
        return super().messages(*args, **options)


async def _long_lobby(chat: Chat, repository: GatedRepository) -> tuple[User, User]:
    """Fill the lobby beyond what is kept in memory; then hold all reads of it."""
    ada, bob = [await chat.register(name, "correct horse") for name in ("ada", "bob")]
    for user in (ada, bob):
        await chat.join(user, "lobby")
    for number in range(3, feed.TAIL * 3):
        await chat.send(ada, "lobby", str(number))
    repository.permits = threading.Semaphore(0)
    return ada, bob


async def test_a_page_for_a_position_that_has_moved_meanwhile_is_dropped() -> None:
    repository = GatedRepository()
    limits = Limits(messages=None, history=20)
    async with Chat(repository, limits=limits, bcrypt_cost=4) as chat, connect(chat) as (bob, _):
        await _long_lobby(chat, repository)
        assert repository.permits is not None
        head = repository.head("lobby", 0)[1]
        await bob.do("login", username="bob", password="correct horse")
        epoch = (await bob.do("join", room="lobby", history=5))["epoch"]
        first = await bob.start("join", room="lobby", since={"epoch": epoch, "seq": 10})
        repository.permits.release()  # for the reply's own page
        assert (await bob.answer(first))["events"][-1]["seq"] == 30
        await eventually(lambda: repository.waiting == 1)  # for the page after it
        bob.events.clear()
        again = await bob.do("join", room="lobby", since={"epoch": epoch, "seq": head - 2})
        assert [event["seq"] for event in again["events"]] == [head - 1, head]
        bob.events.clear()
        repository.permits.release(99)
        await eventually(lambda: repository.waiting == 0)
        await chat.send(User("ada", "ada"), "lobby", "next")
        assert (await bob.event("message"))["seq"] == head + 1


async def test_a_membership_that_ends_while_joining_ends_the_joining() -> None:
    repository = GatedRepository()
    limits = Limits(messages=None)
    async with Chat(repository, limits=limits, bcrypt_cost=4) as chat, connect(chat) as (late, _):
        ada, bob = await _long_lobby(chat, repository)
        assert repository.permits is not None
        await late.do("login", username="bob", password="correct horse")
        joining = await late.start("join", room="lobby", history=200)
        await eventually(lambda: repository.waiting == 1)
        await chat.leave(bob, "lobby")
        repository.permits.release(99)
        assert (await late.answer(joining))["error"]["code"] == "not_member"
        await chat.send(ada, "lobby", "not for bob")
        await late.do("ping")
        assert not [event for event in late.events if event["event"] == "message"]


async def test_who_left_while_behind_and_joins_again_gets_what_follows() -> None:
    repository = GatedRepository()
    limits = Limits(messages=None, history=20)
    async with Chat(repository, limits=limits, bcrypt_cost=4) as chat, connect(chat) as (peer, _):
        ada, bob = await _long_lobby(chat, repository)
        assert repository.permits is not None
        await peer.do("login", username="bob", password="correct horse")
        repository.permits.release()
        epoch = (await peer.do("join", room="lobby", since={"epoch": "?", "seq": 0}))["epoch"]
        behind = await peer.start("join", room="lobby", since={"epoch": epoch, "seq": 10})
        repository.permits.release()
        await peer.answer(behind)
        await eventually(lambda: repository.waiting == 1)
        await chat.leave(bob, "lobby")
        again = await peer.start("join", room="lobby", since={"epoch": epoch, "seq": 10})
        repository.permits.release(99)
        assert (await peer.answer(again))["events"][-1]["seq"] == 30
        peer.events.clear()
        await chat.send(ada, "lobby", "after all")
        while (await peer.event("message"))["content"] != "after all":
            pass


# Edits and deletions.


async def test_edits_and_deletions_come_in_order_like_all_events() -> None:
    async with room("ada", "bob") as (_, _, ada, _, bob, _):
        for number in range(2):
            await ada.do("send", room="lobby", content=f"text {number}")
        edited = await ada.do("edit", room="lobby", seq=3, content="edited")
        deleted = await ada.do("delete", room="lobby", seq=4, reason="twice")
        assert (edited["reply"], edited["seq"]) == ("edit", 5)
        assert (deleted["reply"], deleted["seq"]) == ("delete", 6)
        got = [await bob.event("message", "edit", "delete") for _ in range(4)]
        assert [event["seq"] for event in got] == [3, 4, 5, 6]
        assert (got[2]["target"], got[2]["content"]) == (3, "edited")
        assert (got[3]["target"], got[3]["reason"]) == (4, "twice")


async def test_a_slow_reader_gets_what_it_missed_without_the_text_that_is_gone() -> None:
    """An old message edited, another deleted, while it does not read."""
    async with room("ada", "bob", window=1_000) as (_, repository, ada, _, bob, slow):
        first = (await ada.do("send", room="lobby", content="old"))["seq"]
        second = (await ada.do("send", room="lobby", content="older than all pages"))["seq"]
        bob.events.clear()
        while slow.pending <= LIMITS.buffer_bytes:
            await ada.do("send", room="lobby", content="x" * 4_000)
        secret = (await ada.do("send", room="lobby", content="not for long"))["seq"]
        for _ in range(feed.TAIL + 10):
            await ada.do("send", room="lobby", content="more")
            ada.events.clear()
        for seq in (second, secret):
            await ada.do("delete", room="lobby", seq=seq)
        end = (await ada.do("edit", room="lobby", seq=first, content="edited"))["seq"]
        assert repository.calls["read"] == 0
        got: list[dict[str, Any]] = []
        while not got or got[-1]["seq"] < end:
            got.append(await bob.event("message", "edit", "delete"))
        assert repository.calls["read"] > 0
        assert [event["seq"] for event in got] == [*range(first, end + 1)]
        assert [event["target"] for event in got if event["event"] == "delete"] == [second, secret]
        assert [event["content"] for event in got if event["event"] == "edit"] == ["edited"]
        erased = [event["seq"] for event in got if event.get("erased")]
        assert erased == [secret], "the other was on its way already"
        assert "not for long" not in str(got)


async def test_what_is_kept_in_memory_lets_go_of_a_deleted_text() -> None:
    async with room("ada", "bob") as (chat, repository, ada, _, _, _):
        epoch = (await ada.do("join", room="lobby"))["epoch"]
        await ada.do("send", room="lobby", content="a secret")
        await ada.do("edit", room="lobby", seq=3, content="the secret")
        newest = (await ada.do("join", room="lobby", history=1))["events"]
        assert [(each["content"], "edited" in each) for each in newest] == [("the secret", True)]
        await ada.do("delete", room="lobby", seq=3)
        resumed = await ada.do("join", room="lobby", since={"epoch": epoch, "seq": 2})
        fresh = await ada.do("join", room="lobby", history=1)
        assert [event.get("erased") for event in resumed["events"]] == [True, True, None]
        assert [event.get("erased") for event in fresh["events"]] == [True]
        assert "secret" not in str(resumed) + str(fresh)
        assert (repository.calls["read"], repository.calls["messages"]) == (0, 0)
        assert "secret" not in str(chat.hub._feeds)  # noqa: SLF001 - memory is what is tested


async def test_an_edit_that_is_not_announced_yet_is_in_no_page() -> None:
    bus = CapriciousBus()
    async with room("ada", "bob", bus=bus) as (_, _, ada, _, bob, _):
        await ada.do("send", room="lobby", content="text")
        bus.held = []
        await ada.do("edit", room="lobby", seq=3, content="edited")
        page = await bob.do("history", room="lobby")
        assert (page["head"], page["messages"][0]["content"]) == (3, "text")
        held, bus.held = bus.held, None
        bus.deliver(held[0])
        page = await bob.do("history", room="lobby")
        assert (page["head"], page["messages"][0]["content"]) == (4, "edited")


async def test_a_deletion_is_in_every_page_from_the_moment_of_its_commit() -> None:
    bus = CapriciousBus()
    async with room("ada", "bob", bus=bus) as (_, _, ada, _, bob, _):
        await ada.do("send", room="lobby", content="text")
        bus.held = []
        await ada.do("delete", room="lobby", seq=3)
        page = await bob.do("history", room="lobby")
        assert (page["head"], page["messages"][0]["content"]) == (3, "")
        assert page["messages"][0]["erased"] is True


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (0, 2), (2, 0)])
async def test_what_waits_for_a_hole_lets_go_of_a_deleted_text(order: tuple[int, ...]) -> None:
    """However the batches come, nobody gets a text after its deletion was heard of here."""
    bus = CapriciousBus()
    async with room("ada", "bob", bus=bus) as (_, repository, ada, _, bob, _):
        gate = threading.Event()
        repository.scripts.append(failing("read", Hold(gate)))
        bus.held = []
        await ada.do("send", room="lobby", content="lost")
        bus.held = []
        await ada.do("send", room="lobby", content="a secret")
        await ada.do("edit", room="lobby", seq=4, content="the secret")
        await ada.do("delete", room="lobby", seq=4)
        held, bus.held = bus.held, None
        for number in order:
            bus.deliver(held[number])
        gate.set()
        got = [await bob.event("message", "edit", "delete") for _ in range(4)]
        assert [event["seq"] for event in got] == [3, 4, 5, 6]
        assert [event["content"] for event in got[:3]] == ["lost", "", ""]


async def test_a_crowd_that_comes_back_reads_the_log_once_for_each_position() -> None:
    """And each is given what is after their own."""
    crowd = ["ada", *(f"user{number}" for number in range(20))]
    repository, reading = holding("read")
    limits = Limits.none()
    async with Chat(repository, limits=limits, bcrypt_cost=4) as chat:
        users = [await chat.introduce(User(name, name)) for name in crowd]
        (epoch,) = {(await chat.join(user, "lobby")).epoch for user in users}
        for number in range(feed.OPENING):
            await chat.send(users[0], "lobby", f"{number}")
        reading.clear()
        positions = [1 + number % 2 for number in range(len(crowd))]
        coming = [
            asyncio.ensure_future(chat.join(user, "lobby", since=Since(epoch, position)))
            for user, position in zip(users, positions, strict=True)
        ]
        await eventually(lambda: repository.calls["read"])
        reading.set()
        replies = await asyncio.gather(*coming)
    head = len(crowd) + feed.OPENING
    assert [[event.seq for event in reply.events] for reply in replies] == [
        [*range(position + 1, head + 1)] for position in positions
    ]
    assert repository.calls["read"] == 2


async def test_memory_lets_go_of_a_text_as_soon_as_its_deletion_is_heard_of() -> None:
    """Though the event has to wait for a hole before it, and others are given the same page."""
    bus = CapriciousBus()
    async with (
        room("ada", "bob", bus=bus) as (chat, repository, ada, _, bob, _),
        chat.hub.feed("lobby"),
    ):
        gate = threading.Event()
        epoch = (await bob.do("join", room="lobby"))["epoch"]
        await ada.do("send", room="lobby", content="a secret")
        bus.held = []
        await ada.do("send", room="lobby", content="lost")
        await ada.do("delete", room="lobby", seq=3)
        held, bus.held = bus.held, None
        repository.scripts.append(failing("read", Hold(gate)))
        resumed = await bob.do("join", room="lobby", since={"epoch": epoch, "seq": 2})
        assert [event["content"] for event in resumed["events"]] == ["a secret"]
        bus.deliver(held[1])
        resumed = await bob.do("join", room="lobby", since={"epoch": epoch, "seq": 2})
        gate.set()
        assert (resumed["head"], len(resumed["events"])) == (3, 1)
        assert resumed["events"][0]["erased"] is True


async def test_memory_lets_go_of_a_text_whose_deletion_is_found_in_the_log() -> None:
    """The bus lost it, or another process deleted."""
    bus = CapriciousBus()
    async with room("ada", "bob", bus=bus) as (_, repository, ada, _, bob, _):
        epoch = (await bob.do("join", room="lobby"))["epoch"]
        await ada.do("send", room="lobby", content="a secret")
        bus.held = []
        await ada.do("delete", room="lobby", seq=3)
        bus.held = None
        await ada.do("send", room="lobby", content="after it")
        while (await bob.event("message"))["seq"] < 5:
            pass
        reads = repository.calls["read"]
        resumed = await bob.do("join", room="lobby", since={"epoch": epoch, "seq": 2})
        assert repository.calls["read"] == reads
        assert [event.get("erased") for event in resumed["events"]] == [True, None, None]


class Overtaken(MemoryRepository):
    """Holds what it has read until it is told to hand it over."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.holding = 0
        self.passing = 0
        """How many reads are not held."""

    def _hold(self) -> None:
        if self.passing and not self.gate.is_set():
            self.passing -= 1
            return
        self.holding += 1
        self.gate.wait()
        self.holding -= 1

    def read(self, room: str, after: int, upto: int, limit: int) -> Sequence[Durable]:
        found = super().read(room, after, upto, limit)
        self._hold()
        return found

    def messages(self, *args: Any, **options: Any) -> Sequence[Message | Edit]:
        found = super().messages(*args, **options)
        self._hold()
        return found


@pytest.mark.parametrize("ask", ["history", "around", "join"])
async def test_a_page_that_a_deletion_overtakes_has_no_text_either(ask: str) -> None:
    """Nor where it was read before, and what is around it is being read."""
    repository = Overtaken()
    repository.passing = 1 if ask == "around" else 0
    limits = Limits(messages=None, history=20)
    async with Chat(repository, limits=limits, bcrypt_cost=4) as chat, connect(chat) as (bob, _):
        ada = await chat.register("ada", "correct horse")
        await bob.do("register", username="bob", password="correct horse")
        await chat.join(ada, "lobby")
        epoch = (await bob.do("join", room="lobby", history=0))["epoch"]
        await chat.send(ada, "lobby", "a secret")
        await chat.edit(ada, "lobby", 3, "the secret")
        for _ in range(feed.TAIL):
            await chat.send(ada, "lobby", "more")
        fields: dict[str, dict[str, Any]] = {
            "history": {"after": 2, "limit": 1},
            "around": {"around": 4, "limit": 4},
            "join": {"since": {"epoch": epoch, "seq": 2}},
        }
        bob.events.clear()
        repository.gate.clear()
        command = "join" if ask == "join" else "history"
        asked = await bob.start(command, room="lobby", **fields[ask])
        await eventually(lambda: repository.holding == 1)
        await chat.delete(ada, "lobby", 3)
        repository.gate.set()
        answer = await bob.answer(asked)
        page = answer["events" if ask == "join" else "messages"]
        assert page[0]["seq"] == 3
        assert page[0]["erased"] is True
        assert "secret" not in str(answer)


@pytest.mark.parametrize("ask", ["members", "reports", "bans"])
async def test_who_was_removed_is_not_told_what_was_being_read(ask: str) -> None:
    repository, reading = holding(ask)
    async with Chat(repository, limits=LIMITS, bcrypt_cost=4) as chat:
        ada, bob = [await chat.register(name, "correct horse") for name in ("ada", "bob")]
        await chat.create(ada, "den", kind="private")
        await chat.invite(ada, "den", "bob")
        await chat.join(bob, "den")
        await chat.set_role(ada, "den", "bob", "moderator")
        reading.clear()
        asking = asyncio.create_task(getattr(chat, ask)(bob, "den"))
        await eventually(lambda: repository.calls[ask] == 1)
        await chat.kick(ada, "den", "bob")
        reading.set()
        with pytest.raises(NotFound):
            await asking
