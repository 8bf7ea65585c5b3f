"""Fan-out on this node, and the cursor of every subscriber.

A room that somebody listens to has a Feed here: the head that was announced, and the
newest events.  A subscription is live, and then gets each batch as it is announced,
or it has a cursor, and then one task of its connection reads the log after it until
it meets the head.  Joining late, resuming, and having been slow are the same thing.

No read for a subscriber goes beyond a feed's head, and that moves only with what was
announced, with the hole before it, and with what another process wrote: else the log
would overtake an announcement, and an event come twice or before its reply.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Protocol

from chatcore import events
from chatcore.errors import ChatError, NotMember, Unavailable
from chatcore.events import (
    Close,
    Durable,
    Member,
    MembershipChanged,
    ProfileChanged,
    Read,
    Typing,
)
from chatcore.feed import OPENING, Feed, Listener, OffLoop, Personal, Run, Subscription
from chatcore.folding import without
from chatcore.model import Limits
from chatcore.ports import Link, Repository, Wire, is_straight
from chatcore.turns import Turns

JOINED_BYTES = 65_536
"""Frames joined into one write, so that one batch does not overshoot a link's buffer."""
PRESENCE_SECONDS = 0.1
"""How long changes of presence are gathered before they are told."""
RETRY_SECONDS = 0.5
SLICE = 400
"""Members written to at a time, so that big rooms, or many, hold the loop for milliseconds only."""
SLICE_BYTES = 4 << 20
"""What they may get in all: fewer at a time where each gets much."""
CATCHING_UP = 10
"""Connections that are behind and written to at a time."""
PAUSE_SECONDS = 0.05
"""How long a big room rests at most between two runs that are written to it."""
UNSAID = 10
"""Changes of a room's presence that may wait for a hole in its log; the whole state is one."""
_DONE = object()

logger = logging.getLogger("chatcore.hub")


class Attendance(Protocol):
    """Who is where, as `presence.Presence` keeps it."""

    def enter(self, room: str, username: str) -> None: ...

    def leave(self, room: str, username: str, *, lingers: bool = False) -> None: ...

    def dismiss(self, room: str, username: str) -> None: ...

    def is_crowd(self, room: str) -> bool: ...

    def state(self, room: str) -> events.Presence: ...

    def changes(self) -> Iterable[events.Presence]: ...

    def due(self) -> float | None: ...


class Hub:
    def __init__(
        self, repository: Repository, off_loop: OffLoop, attendance: Attendance, limits: Limits
    ) -> None:
        self._repository = repository
        self._off_loop = off_loop
        self._attendance = attendance
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._feeds: dict[str, Feed] = {}
        self._firsts: dict[str, int] = {}
        self._listeners: dict[str, dict[Listener, None]] = {}
        self._telling: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writing: set[asyncio.Task[None]] = set()
        """Of those, the ones that go on with what was announced."""
        self._later: deque[Feed] = deque()
        """Feeds whose waiting events have no hole before them, but a full slice."""
        self._closed = False
        self._slices = Turns(1)
        self._catch_ups = Turns(CATCHING_UP)

    async def close(self) -> None:
        """End every task; whoever still listens hears nothing more."""
        self._closed = True
        if self._telling is not None:
            self._telling.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for feed in self._feeds.values():
            feed.wake()

    async def written(self, seconds: float) -> None:
        """Return once all that was announced is written to who is live, or that time is over."""
        end = self._loop.time() + seconds
        while self._writing and (left := end - self._loop.time()) > 0:
            await asyncio.wait(self._writing, timeout=left)

    # Listeners.

    def listen(self, username: str, link: Link, end: Callable[[Close, str], None]) -> Listener:
        """Take in a connection.  It hears nothing before `release`."""
        listener = Listener(username, link, end)
        listener.look()
        if is_straight(link):
            link.watch(partial(self._look, listener))
        self._listeners.setdefault(username, {})[listener] = None
        return listener

    def release(self, listener: Listener) -> None:
        """Tell what was held back, now that the login is answered."""
        listener.held = False
        if listener.owed:
            self._wake(listener)

    def _look(self, listener: Listener) -> None:
        listener.look()
        for subscription in listener.subscriptions.values():
            subscription.feed.place(subscription)

    def forget(self, listener: Listener, *, lingers: bool = False) -> None:
        """Let a connection go, from every room; its user may be back at once on another."""
        if is_straight(listener.link):
            listener.link.watch(None)
        for subscription in list(listener.subscriptions.values()):
            self._unsubscribe(subscription, lingers=lingers)
        if listener.task is not None:
            listener.task.cancel()
        mine = self._listeners[listener.username]
        del mine[listener]
        if not mine:
            del self._listeners[listener.username]

    def let_go(self) -> None:
        """Keep no events in memory that the log may have otherwise by now."""
        for feed in self._feeds.values():
            feed.let_go()

    def rooms(self) -> Sequence[str]:
        """Return the rooms that somebody listens to."""
        return [*self._feeds]

    def tell(self, username: str, event: Personal) -> None:
        """Give a personal event to all of a user's connections; it is never dropped."""
        for listener in self._listeners.get(username, ()):
            if listener.held or listener.task or self._slow(listener.link):
                listener.owed[_about(event)] = event
                if not listener.held:
                    self._wake(listener)
            else:
                self._hand(listener, listener.link.wire.encode(event))

    def _hand(self, listener: Listener, data: bytes) -> None:
        """Write to one connection.  A defect of its link costs that one, and nobody else."""
        try:
            listener.link.write(data)
        except Exception as error:  # noqa: BLE001 - of whoever made the link
            self._break(listener, error)

    def _break(self, listener: Listener, error: Exception) -> None:
        logger.error("a connection cannot be written to", exc_info=error)
        self._drop(listener)

    def _drop(self, listener: Listener) -> None:
        """End a connection, which may come back for what it misses."""
        for subscription in [*listener.subscriptions.values()]:
            self._unsubscribe(subscription)
        self._loop.call_soon(listener.end, Close.SHUTDOWN, "the connection failed")

    def hint(self, username: str, event: ProfileChanged | Typing, rooms: Iterable[str]) -> None:
        """Give an ephemeral event of a user's to the others who listen to these rooms, once each.

        Who reads slowly does not get it, nor does a room with many people online.  Nor is
        anybody said to be typing where something is being written: that may be their joining.
        """
        is_typing = isinstance(event, Typing)
        heard = {
            subscription.listener: subscription
            for room in rooms
            if (feed := self._feeds.get(room)) and not self._attendance.is_crowd(room)
            if not (is_typing and feed.waiting is not None)
            for subscription in feed.subscriptions
            if subscription.cursor is None and subscription.listener.username != username
        }
        hinting = self._hint(event, [*heard.values()])
        if is_typing:
            for _ in hinting:  # in one turn, for in the next somebody may have been removed
                pass
        elif next(hinting, _DONE) is not _DONE:
            self._spawn(self._write_out(hinting))

    def _hint(
        self, event: ProfileChanged | Typing, subscriptions: Sequence[Subscription]
    ) -> Iterator[None]:
        frames: dict[Wire, bytes] = {}
        for number, subscription in enumerate(subscriptions, 1):
            listener, wire = subscription.listener, subscription.listener.link.wire
            if subscription in subscription.feed.subscriptions and not self._slow(listener.link):
                if wire not in frames:
                    frames[wire] = wire.encode(event)
                self._hand(listener, frames[wire])
            if number % SLICE == 0:
                yield

    async def _write_out(self, slices: Iterator[None]) -> None:
        """Go on writing, a slice in each turn of the loop."""
        await self._slices.next()
        for _ in slices:
            await self._slices.next()

    # Feeds.

    @asynccontextmanager
    async def feed(self, room: str) -> AsyncIterator[Feed]:
        """Hold a room's feed open.  Raises what reading the log raises."""
        feed = self._feeds.get(room)
        if feed is None:
            feed = self._feeds[room] = Feed(room, self._firsts.get(room, 1))
            feed.opened = self._spawn(self._open(feed))
        feed.holds += 1
        try:
            if feed.opened is not None:
                # Shielded: others wait for the same.
                await asyncio.shield(feed.opened)
            yield feed
        finally:
            feed.holds -= 1
            if not feed.holds:
                feed.ended.clear()
                feed.pages.clear()
            self._close_idle(feed)

    async def _open(self, feed: Feed) -> None:
        try:
            first, feed.head, newest = await self._off_loop(
                self._repository.head, feed.room, OPENING
            )
        except BaseException:
            self._feeds.pop(feed.room, None)
            raise
        feed.tail.extend(newest)
        feed.expire(first)
        feed.opened = None
        self._resume(feed)
        self._close_idle(feed)

    @contextmanager
    def expiring(self, room: str, first: int) -> Iterator[None]:
        """Within, the log lets go of what a room has below `first`.

        No feed gives any of it from now on, so that no page lacks what it should have.
        """
        self._firsts[room] = first  # for a feed that opens meanwhile
        feed = self._feeds.get(room)
        if feed is not None:
            feed.expire(first)
        try:
            yield
        finally:
            del self._firsts[room]

    def begins(self, room: str, first: int) -> None:
        """Take note of what the log begins with: it may have kept what it was to let go of."""
        feed = self._feeds.get(room)
        if feed is not None and first < feed.first:
            feed.first = first
            feed.pages.clear()

    async def _read(self, feed: Feed, after: int, upto: int) -> Sequence[Durable]:
        return await feed.read(
            self._off_loop, self._repository.read, after, upto, self._limits.history
        )

    def _close_idle(self, feed: Feed) -> None:
        if not feed.holds and not feed.subscriptions and feed.opened is None:
            self._feeds.pop(feed.room, None)

    # Subscriptions.

    def subscribe(self, listener: Listener, feed: Feed, cursor: int, member_at: int) -> None:
        """Give a connection all of a room's events after `cursor`, or move it there.

        `member_at` is the seq at which the user was known to be a member.  Raises
        NotMember where that has ended since.  Hold the feed.  Nothing is written
        before the caller next awaits.
        """
        self.check_member(feed, listener.username, member_at)
        subscription = listener.subscriptions.get(feed.room)
        if subscription is None:
            subscription = Subscription(listener, feed)
            listener.subscriptions[feed.room] = subscription
            feed.add(subscription)
            self._attendance.enter(feed.room, listener.username)
            self._tell_presence_soon()
        subscription.end = None
        if cursor == feed.head and not subscription.missed:
            feed.set_cursor(subscription, None)
        else:
            self._fall_behind(subscription, cursor)

    def check_member(self, feed: Feed, username: str, member_at: int) -> None:
        """Raise NotMember where a membership has ended since it was read.  Hold the feed."""
        if feed.ended.get(username, 0) > member_at:
            raise NotMember("You must join the chat first")

    def check_speaker(self, feed: Feed, username: str, member_at: int) -> None:
        """Raise NotMember likewise, and where that has been stored and waits to be told."""
        self.check_member(feed, username, member_at)
        changes = [
            event
            for event in feed.waiting or ()
            if isinstance(event, Member) and event.username == username
        ]
        if changes and max(changes, key=lambda event: event.seq).ends:
            raise NotMember("You must join the chat first")

    def _unsubscribe(self, subscription: Subscription, *, lingers: bool = False) -> None:
        feed, listener = subscription.feed, subscription.listener
        if subscription not in feed.subscriptions:
            return  # a defect of its link's was quicker
        feed.remove(subscription)
        del listener.subscriptions[feed.room]
        self._attendance.leave(feed.room, listener.username, lingers=lingers)
        self._tell_presence_soon()
        self._close_idle(feed)

    async def reach(self, feed: Feed, seq: int) -> None:
        """Return when a feed's head is at least `seq`, which was committed and answered.

        Where the bus has lost it, it is read from the log.  Raises Unavailable where the
        hub closes meanwhile.
        """
        if feed.head >= seq:
            return
        self.notice({feed.room: seq})
        reached = asyncio.Event()
        feed.awaited.append(reached)
        try:
            while feed.head < seq:
                if self._closed:
                    raise Unavailable("The server is shutting down; try again", retry_after=1.0)
                reached.clear()
                await reached.wait()
        finally:
            feed.awaited.remove(reached)

    # Delivery.

    def deliver(self, batch: Sequence[Durable]) -> None:
        """Take what was announced, in any order and any number of times."""
        rooms: dict[str, list[Durable]] = {}
        for event in batch:
            rooms.setdefault(event.room, []).append(event)
        written = 0
        for room, announced in rooms.items():
            feed = self._feeds.get(room)
            if feed is None:
                continue
            feed.announced = max(feed.announced, *(event.seq for event in announced))
            known = feed.erase(announced)
            if feed.waiting is not None:
                feed.waiting.extend(known)
            elif written < SLICE:
                written += len(feed.subscriptions)
                self._advance(feed, known)
            else:
                self._put_off(feed, known)

    def _put_off(self, feed: Feed, announced: Sequence[Durable]) -> None:
        feed.waiting = [*announced]
        self._later.append(feed)
        if len(self._later) == 1:
            self._go_on(self._write_later())

    async def _write_later(self) -> None:
        """Write to the rooms that were too many for one turn of the loop."""
        while self._later:
            await self._slices.next()
            written = 0
            while self._later and written < SLICE:
                feed = self._later.popleft()
                written += len(feed.subscriptions)
                if feed.unsaid:
                    self._go_on(self._fill(feed, feed.head))
                else:
                    self._resume(feed)

    def _go_on(self, writing: Awaitable[None]) -> None:
        task = self._spawn(writing)
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    def _resume(self, feed: Feed) -> None:
        """Go on with what was announced while the log was read."""
        waiting, feed.waiting = feed.waiting or [], None
        if waiting:
            self._advance(feed, feed.erase(sorted(waiting, key=lambda event: event.seq)))
        self._reach_noticed(feed)

    def _advance(self, feed: Feed, announced: Sequence[Durable]) -> None:
        """Write what follows the head; after it, or where there is a hole, the rest waits."""
        fresh: list[Durable] = []
        rest: list[Durable] = []
        expected = feed.head + 1
        for event in announced:
            if event.seq == expected:
                fresh.append(event)
                expected += 1
            elif event.seq > expected:
                rest = [event for event in announced if event.seq > expected]
                break
        self._run(feed, self._emit(feed, fresh), rest)

    def _run(self, feed: Feed, slices: Iterator[None], rest: list[Durable]) -> None:
        """Write, and go on later with what is left to write, or has a hole before it."""
        try:
            is_done = next(slices, _DONE) is _DONE
        except Exception as error:  # noqa: BLE001 - a defect, of one room
            self._give_up(feed, feed.head, error)
            return
        if rest or not is_done:
            feed.waiting = rest
            upto = rest[0].seq - 1 if rest else feed.head
            self._go_on(self._fill(feed, upto, slices))

    def notice(self, heads: Mapping[str, int]) -> None:
        """Take heads of rooms that nobody announced: another process has written.

        All that this one committed before they were read must have been announced.
        """
        for room, head in heads.items():
            feed = self._feeds.get(room)
            if feed is not None:
                feed.noticed = max(feed.noticed, head)
                self._reach_noticed(feed)

    def _reach_noticed(self, feed: Feed) -> None:
        if feed.waiting is None and feed.head < feed.noticed:
            feed.waiting = []
            self._spawn(self._fill(feed, feed.noticed, noticed=True))

    async def _fill(
        self, feed: Feed, upto: int, slices: Iterable[None] = (), *, noticed: bool = False
    ) -> None:
        """Write what is left to write, and what is missing up to there; the rest waits.

        Where that was `noticed`, whose membership has changed has not been told yet.
        """
        try:
            await self._write_rest(feed, upto, slices, noticed=noticed)
        except Exception as error:  # noqa: BLE001 - a defect, of one room
            self._give_up(feed, upto, error)
        self._resume(feed)

    def _give_up(self, feed: Feed, upto: int, error: Exception) -> None:
        """Have all who listen to a room come back for what they miss, and go on after that."""
        logger.error("%s cannot be written to", feed.room, exc_info=error)
        for subscription in [*feed.subscriptions]:
            self._drop(subscription.listener)
        feed.head, feed.moved = max(feed.head, upto), None
        feed.let_go()
        feed.wake()

    async def _write_rest(
        self, feed: Feed, upto: int, slices: Iterable[None], *, noticed: bool
    ) -> None:
        began = self._loop.time()
        for _ in slices:
            await self._slices.next()
        if feed.waiting:
            # Under load.  As long a pause as the writing took makes the next run twice as
            # long, and each delivery half as dear; and the load is gone sooner.
            await asyncio.sleep(min(PAUSE_SECONDS, self._loop.time() - began))
        while feed.head < upto:
            try:
                missing = await self._read(feed, feed.head, upto)
            except ChatError:
                await asyncio.sleep(RETRY_SECONDS)
                continue
            if missing and missing[0].seq == feed.head + 1:
                for _ in self._emit(feed, missing):
                    await self._slices.next()
                for event in missing:
                    if noticed and isinstance(event, Member) and event.username in self._listeners:
                        self._spawn(self._tell_membership(event))
            else:
                # The log has let go of it: whoever is live there has lost their position.
                self._pass_over(feed, upto)
                feed.tail.clear()
        while feed.unsaid:
            for _ in self._tell_all(feed, feed.unsaid.pop(0)):
                await self._slices.next()

    def _pass_over(self, feed: Feed, upto: int) -> None:
        """Go on after what cannot be told; whoever is live is to see for themselves."""
        for subscription in feed.subscriptions:
            if subscription.cursor is None:
                self._fall_behind(subscription, feed.head)
        feed.head = upto
        feed.wake()

    async def _tell_membership(self, event: Member) -> None:
        """Tell a user what they are in a room by now, where they are something there."""
        read = self._repository.membership
        try:
            found = await self._off_loop(read, event.room, event.username, None)
        except ChatError:
            return  # who listens there has the event itself
        if found is not None:
            change = MembershipChanged(
                found.room,
                change=event.action,
                epoch=found.epoch,
                first=found.first,
                head=found.head,
                read=found.read,
                unread=found.unread,
                role=found.role,
            )
            self.tell(event.username, change)

    def _emit(self, feed: Feed, batch: Sequence[Durable]) -> Iterator[None]:
        """Write a run of events to everybody who is live, joined, once encoded for each wire.

        Yields where others may have the loop; what is announced meanwhile must wait.
        """
        with feed.reading():  # so that what is deleted meanwhile is known
            rest = feed.erase(batch)
            while rest:
                before = feed.head
                try:
                    run, joined = _next_run(rest, [*feed.audiences])
                except Exception:
                    logger.exception("an event of %s cannot be encoded", feed.room)
                    self._pass_over(feed, rest[-1].seq)
                    feed.tail.extend(rest)
                    for event in rest:
                        if isinstance(event, Member) and event.ends:
                            self._end(feed, event, event.seq, {})  # nobody is live
                    return
                feed.head = run[-1].seq
                feed.tail.extend(run)
                if isinstance(run[-1], Member) and run[-1].ends:
                    self._end(feed, run[-1], before, joined)
                feed.wake()
                yield from self._write(feed, joined, before, run)
                if len(run) < len(rest):
                    yield
                rest = without(feed.erased, rest[len(run) :])

    def _write(
        self,
        feed: Feed,
        joined: Mapping[Wire, bytes],
        before: int | None,
        run: Sequence[Durable] = (),
    ) -> Iterator[None]:
        """Write to everybody who is live, some at a time.

        Who cannot take it is behind, from `before` on; None for what is not in the log.
        """
        audiences = [
            (wire, [*audience.straight.values()], [*audience.others])
            for wire, audience in feed.audiences.items()
        ]
        feed.moved, changes, erased = set(), feed.changes, len(feed.erased)
        is_first = True
        for wire, straight, others in audiences:
            size = max(1, min(SLICE, SLICE_BYTES // max(1, len(joined[wire]))))
            for start in range(0, len(straight) + len(others), size):
                if not is_first:
                    yield
                    if run and len(feed.erased) != erased:
                        erased, run = len(feed.erased), without(feed.erased, run)
                        joined = {each: _joined(each, run) for each in joined}
                is_first = False
                data = joined[wire]
                if feed.changes == changes:
                    for way in straight[start : start + size]:
                        try:
                            if not way[1]():
                                way[0](data)
                        except Exception as error:  # noqa: BLE001 - as in `_hand`
                            self._break(way[2].listener, error)
                else:
                    for way in straight[start : start + size]:
                        self._give(way[2], data, before)
                for subscription in others[
                    max(0, start - len(straight)) : max(0, start + size - len(straight))
                ]:
                    self._give(subscription, data, before)
        feed.moved = None

    def _give(self, subscription: Subscription, data: bytes, before: int | None) -> None:
        """Write to one who is live and has not moved meanwhile, or have them behind."""
        moved = subscription.feed.moved
        if moved and subscription in moved:
            if before is None and subscription in subscription.feed.subscriptions:
                subscription.missed = True
                self._wake(subscription.listener)
            return
        if subscription.cursor is not None:
            subscription.missed = subscription.missed or before is None
        elif not self._slow(subscription.listener.link):
            self._hand(subscription.listener, data)
        elif before is not None:
            self._fall_behind(subscription, before)
        else:
            subscription.missed = True
            self._wake(subscription.listener)

    def _end(self, feed: Feed, event: Member, before: int, joined: Mapping[Wire, bytes]) -> None:
        """Give a former member what goes up to the event that ended it, and then nothing."""
        if feed.holds:
            feed.ended[event.username] = event.seq
        self._attendance.dismiss(feed.room, event.username)
        self._tell_presence_soon()
        for listener in self._listeners.get(event.username, ()):
            subscription = listener.subscriptions.get(feed.room)
            if subscription is None:
                continue
            if subscription.cursor is None:
                self._give(subscription, joined[listener.link.wire], before)
            if subscription.cursor is None:
                self._unsubscribe(subscription)
            elif subscription.end is None:  # else they came back elsewhere, and not here
                subscription.end = event.seq

    # Those who are behind.

    def _slow(self, link: Link) -> bool:
        return link.pending > self._limits.buffer_bytes

    def _fall_behind(self, subscription: Subscription, cursor: int) -> None:
        subscription.feed.set_cursor(subscription, cursor)
        self._wake(subscription.listener)

    def _wake(self, listener: Listener) -> None:
        if listener.task is None:
            listener.task = self._spawn(self._catch_up(listener))

    async def _catch_up(self, listener: Listener) -> None:
        """Read the log for one connection until it is live in every room."""
        try:
            while True:
                await listener.link.drained()
                await self._catch_ups.next()
                self._pay(listener)
                behind = next(
                    (s for s in listener.subscriptions.values() if s.cursor is not None), None
                )
                if behind is None:
                    return
                await self._go_ahead(behind)
        except Exception as error:  # noqa: BLE001 - as in `_hand`
            self._break(listener, error)
        finally:
            listener.task = None

    def _pay(self, listener: Listener) -> None:
        owed, listener.owed = listener.owed, {}
        for event in owed.values():
            self._hand(listener, listener.link.wire.encode(event))
        for subscription in [*listener.subscriptions.values()]:
            if subscription.missed and subscription.cursor is None:
                self._tell_state(subscription)

    async def _go_ahead(self, behind: Subscription) -> None:
        """Write the run after a cursor, or make the subscription live at the head."""
        feed, cursor, listener = behind.feed, behind.cursor, behind.listener
        assert cursor is not None
        upto = feed.head if behind.end is None else behind.end
        if cursor >= upto:
            self._arrive(behind)
            return
        wire = listener.link.wire
        run = feed.runs.get((wire, cursor))
        if run is None:
            try:
                run = await self._run_after(feed, cursor, wire)
            except ChatError:
                await asyncio.sleep(RETRY_SECONDS)
                return
            if behind.cursor != cursor or behind not in feed.subscriptions:
                return  # moved, or gone, meanwhile
        if run is None:
            listener.end(Close.LOST_POSITION, "the log no longer has your position")
            self._unsubscribe(behind, lingers=True)
            return
        behind.cursor, data = run  # still behind, so nothing else changes
        self._hand(listener, data)

    async def _run_after(self, feed: Feed, cursor: int, wire: Wire) -> Run | None:
        """Return what is one write to all who are at a cursor; None where the log has it no more.

        It goes no further than anybody's end, for none of them comes in the middle of a run.
        """
        page = feed.after(cursor, feed.head, self._limits.history)
        if page is None:
            async with feed.catching_up:
                if (wire, cursor) in feed.runs:
                    return feed.runs[wire, cursor]
                forgotten = -1
                while forgotten != feed.forgotten:  # for what was read may be gone since
                    forgotten = feed.forgotten
                    page = await self._read(feed, cursor, feed.head)
        if not page or page[0].seq != cursor + 1 or cursor + 1 < feed.first:
            return None
        events, joined = _next_run(page, [wire])
        return feed.keep_run(wire, cursor, (events[-1].seq, joined[wire]))

    def _arrive(self, behind: Subscription) -> None:
        if behind.end is not None:
            self._unsubscribe(behind)
            return
        behind.feed.set_cursor(behind, None)
        if behind.missed:
            self._tell_state(behind)

    def _tell_state(self, subscription: Subscription) -> None:
        """Give somebody who has missed ephemeral events what they would know by them."""
        subscription.missed = False
        if not self._limits.presence:
            return
        listener = subscription.listener
        state = self._attendance.state(subscription.feed.room)
        self._hand(listener, listener.link.wire.encode(state))

    # Ephemeral events.

    def _tell_presence_soon(self) -> None:
        self._tell_presence_in(PRESENCE_SECONDS)

    def _tell_presence_in(self, seconds: float) -> None:
        at = self._loop.time() + seconds
        if self._telling is not None:
            if self._telling.when() <= at:
                return
            self._telling.cancel()
        self._telling = self._loop.call_at(at, self._tell_presence)

    def _tell_presence(self) -> None:
        self._telling = None
        written = 0
        for event in self._attendance.changes():
            feed = self._feeds.get(event.room)
            if feed is None or feed.opened is not None:  # nobody listens yet
                continue
            if not self._limits.presence:
                continue
            if feed.waiting is None and written < SLICE:
                written += len(feed.subscriptions)
                self._run(feed, self._tell_all(feed, event), [])
                continue
            feed.unsaid.append(event)
            if feed.waiting is None:
                self._put_off(feed, [])
            elif len(feed.unsaid) > UNSAID:
                feed.unsaid[:] = [self._attendance.state(feed.room)]
        due = self._attendance.due()
        if due is not None:
            self._tell_presence_in(max(PRESENCE_SECONDS, due))

    def _tell_all(self, feed: Feed, event: events.Presence) -> Iterator[None]:
        return self._write(feed, {wire: wire.encode(event) for wire in feed.audiences}, None)

    def _spawn(self, work: Awaitable[None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        # A ChatError goes to whoever waits for the task; anything else is a defect.
        if error is not None and not isinstance(error, ChatError):
            logger.error("a task of the hub failed", exc_info=error)


def _about(event: Personal) -> tuple[str, ...]:
    """Say of what a personal event is the latest."""
    match event:
        case MembershipChanged():
            return ("membership", event.room.name)
        case ProfileChanged():
            return ("profile",)
        case Read():
            return ("read", event.room, event.username)


def _next_run(
    batch: Sequence[Durable], wires: Sequence[Wire]
) -> tuple[Sequence[Durable], Mapping[Wire, bytes]]:
    """Return what of a batch is one write, small enough, and none past a member's end."""
    frames: dict[Wire, list[bytes]] = {wire: [] for wire in wires}
    size = 0
    for index, event in enumerate(batch):
        spelled = [wire.encode(event) for wire in wires]
        size += max(map(len, spelled), default=0)
        if index and size > JOINED_BYTES:
            batch = batch[:index]
            break
        for wire, frame in zip(wires, spelled, strict=True):
            frames[wire].append(frame)
        if isinstance(event, Member) and event.ends:
            batch = batch[: index + 1]
            break
    return batch, {wire: b"".join(of_wire) for wire, of_wire in frames.items()}


def _joined(wire: Wire, run: Sequence[Durable]) -> bytes:
    return b"".join(wire.encode(event) for event in run)
