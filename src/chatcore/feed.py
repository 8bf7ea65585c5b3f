"""A room that somebody listens to on this node, who listens, and how far each one is."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, Protocol, TypeAlias, TypeVar

from attrs import define, field

from chatcore.events import (
    Close,
    Durable,
    MembershipChanged,
    Message,
    Page,
    Presence,
    ProfileChanged,
    Read,
)
from chatcore.folding import deleted, fold, without
from chatcore.ports import Link, Wire, is_straight

T = TypeVar("T")
E = TypeVar("E", bound=Durable)

OPENING = 64
"""Events read into a feed when it opens."""
TAIL = 128
"""Events a feed keeps in memory."""
RUNS = 8
"""Runs a feed keeps while somebody is behind there."""
PAGES = 8
"""Pages a feed keeps while it is held: who lost their connections together may differ a little."""


class OffLoop(Protocol):
    """Runs a read of the repository in a thread."""

    async def __call__(self, read: Callable[..., T], /, *args: Any, **options: Any) -> T: ...


class InTurn(Protocol):
    """Runs a write of the repository in the writer's thread, in its turn."""

    async def __call__(self, write: Callable[..., T], /, *args: Any) -> T: ...


Personal: TypeAlias = MembershipChanged | ProfileChanged | Read
"""Events for one user's connections, which are never dropped."""

Run: TypeAlias = tuple[int, bytes]
"""Events that are one write, as one wire spells them, and the seq of the last."""

Way: TypeAlias = "tuple[Callable[[bytes], None], Callable[[], bool], Subscription]"
"""How to write to a transport, how to ask whether it is closing, and for whom that is."""


@define(eq=False)
class Listener:
    """One connection that has logged in."""

    username: str
    link: Link
    end: Callable[[Close, str], None]
    subscriptions: dict[str, Subscription] = field(factory=dict)
    owed: dict[tuple[str, ...], Personal] = field(factory=dict)
    """What could not be told yet: of each room the latest, and of no room one's own profile."""
    held: bool = True
    """Until the login is answered nothing personal may pass."""
    task: asyncio.Task[None] | None = None
    straight: tuple[Callable[[bytes], None], Callable[[], bool]] | None = None
    """Its transport's `write` and `is_closing`, while there is nothing else to look at first."""

    def look(self) -> None:
        transport = self.link.straight if is_straight(self.link) else None
        self.straight = (transport.write, transport.is_closing) if transport is not None else None


@define(eq=False)
class Subscription:
    listener: Listener
    feed: Feed
    cursor: int | None = None
    """The last seq given, of a subscription that is behind; None for a live one."""
    end: int | None = None
    """The last seq that it may be given, once its user's membership has ended."""
    missed: bool = False
    """Whether an ephemeral event was dropped."""


@define(eq=False)
class Audience:
    """Those subscriptions of a feed that want events spelled in one way."""

    straight: dict[Subscription, Way] = field(factory=dict)
    """Live ones that a write serves: of a thousand, each object looked at is a cache miss."""
    others: dict[Subscription, None] = field(factory=dict)

    def __len__(self) -> int:
        return len(self.straight) + len(self.others)


@define(eq=False)
class Feed:
    """A room that somebody listens to on this node."""

    room: str
    first: int = 1
    head: int = 0
    tail: deque[Durable] = field(factory=lambda: deque(maxlen=TAIL))
    subscriptions: dict[Subscription, None] = field(factory=dict)
    holds: int = 0
    """Who is about to subscribe, or to read."""
    waiting: list[Durable] | None = field(factory=list)
    """Announced while what came before is being read, or written; None when it is not."""
    unsaid: list[Presence] = field(factory=list)
    """What is to be told once the run that is being written has been."""
    noticed: int = 0
    """A head that nobody announced, and that another process has written."""
    opened: asyncio.Task[None] | None = None
    ended: dict[str, int] = field(factory=dict)
    """Whose membership ended at which seq, while somebody is about to subscribe."""
    announced: int = 0
    """The highest seq that was announced: above the head while there is something to write."""
    awaited: list[asyncio.Event] = field(factory=list)
    """Set each time the head has moved."""
    reads: int = 0
    """How many reads of the log, and writings of what it has, are under way."""
    erased: set[int] = field(factory=set)
    """The messages that were deleted meanwhile: what is being read may have them still."""

    paging: asyncio.Lock = field(factory=asyncio.Lock)
    """Held while a page is read that others may want, too."""
    pages: dict[Hashable, Page[Any]] = field(factory=dict)
    """While the feed is held, what was given to whom, by what they asked for."""

    behind: int = 0
    """How many subscriptions have a cursor."""
    runs: dict[tuple[Wire, int], Run] = field(factory=dict)
    """While some do, what is written next to those who are at that cursor."""
    forgotten: int = 0
    """How often what was read before is not to be given any more."""
    catching_up: asyncio.Lock = field(factory=asyncio.Lock)
    """Held while the log is read for a run."""

    audiences: dict[Wire, Audience] = field(factory=dict)
    moved: set[Subscription] | None = None
    """Who moved or left while a run of events is being written, and is not to get it any more."""
    changes: int = 0
    """Grows with each change of who is live, and of the way to them."""

    def keep(self, asked: Hashable, events: Iterable[E]) -> Page[E]:
        """Return events as a page, and have it for who asks for the same: a crowd, coming back."""
        if len(self.pages) >= PAGES:
            self.pages.clear()
        page = self.pages[asked] = Page(events)
        return page

    def keep_run(self, wire: Wire, cursor: int, run: Run) -> Run:
        """Return a run, and have it for the others who are at that cursor."""
        if len(self.runs) >= RUNS:
            del self.runs[next(iter(self.runs))]
        self.runs[wire, cursor] = run
        return run

    def wake(self) -> None:
        """Have those look again who wait for the head to move."""
        for moved in self.awaited:
            moved.set()

    def erase(self, events: Sequence[Durable]) -> Sequence[Durable]:
        """Let go of the text that these events delete; return them without it, too.

        From when a deletion is heard of, nobody gets that text from here.
        """
        targets = deleted(events)
        if not targets:
            return events
        self.tail = deque(without(targets, self.tail), maxlen=self.tail.maxlen)
        self._forget_what_was_read()
        if self.reads:
            self.erased |= targets
        return without(targets, events)

    def let_go(self) -> None:
        """Let go of all events that are in memory."""
        self.tail.clear()
        self._forget_what_was_read()

    def _forget_what_was_read(self) -> None:
        self.forgotten += 1
        self.pages.clear()
        self.runs.clear()

    def expire(self, first: int) -> None:
        """Let go of what is below."""
        self.first = max(first, self.first)
        self._forget_what_was_read()
        while self.tail and self.tail[0].seq < self.first:
            self.tail.popleft()

    async def read(
        self, off_loop: OffLoop, read: Callable[..., Sequence[E]], *args: Any, **options: Any
    ) -> Sequence[E]:
        """Read events of the log, without the text of those that are deleted meanwhile."""
        with self.reading():
            page = await off_loop(read, self.room, *args, **options)
            return without(self.erased, page) if self.erased else page

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Within, `erased` has what is deleted meanwhile."""
        self.reads += 1
        try:
            yield
        finally:
            self.reads -= 1
            if not self.reads:
                self.erased.clear()

    def add(self, subscription: Subscription) -> None:
        self.subscriptions[subscription] = None
        self.audiences.setdefault(subscription.listener.link.wire, Audience())
        self.place(subscription)

    def remove(self, subscription: Subscription) -> None:
        self.set_cursor(subscription, None)
        del self.subscriptions[subscription]
        wire = subscription.listener.link.wire
        audience = self.audiences[wire]
        audience.straight.pop(subscription, None)
        audience.others.pop(subscription, None)
        if not audience:
            del self.audiences[wire]

    def set_cursor(self, subscription: Subscription, cursor: int | None) -> None:
        """Have a subscription be behind at a cursor, or live at the head."""
        self.behind += (cursor is not None) - (subscription.cursor is not None)
        if not self.behind:
            self.runs.clear()
        subscription.cursor = cursor
        self._move(subscription)
        self.place(subscription)

    def _move(self, subscription: Subscription) -> None:
        if self.moved is not None:
            self.moved.add(subscription)

    def place(self, subscription: Subscription) -> None:
        """Take note of whether a subscription is live, and of the way to it."""
        self.changes += 1
        audience = self.audiences[subscription.listener.link.wire]
        straight = subscription.listener.straight
        if straight is None or subscription.cursor is not None:
            audience.straight.pop(subscription, None)
            audience.others[subscription] = None
        else:
            audience.others.pop(subscription, None)
            audience.straight[subscription] = (*straight, subscription)

    def after(self, cursor: int, upto: int, limit: int) -> Sequence[Durable] | None:
        """Return events with cursor < seq <= upto from memory; None where it does not reach."""
        if not self.tail or self.tail[0].seq > cursor + 1:
            return None
        start = cursor + 1 - self.tail[0].seq
        return [*islice(self.tail, start, start + min(limit, upto - cursor))]

    def newest(self, upto: int, limit: int, reader: str) -> Sequence[Message] | None:
        """Return the newest messages, as of `upto`; None where memory does not reach."""
        # With all that came of them.
        found = fold((event for event in self.tail if event.seq <= upto), reader)
        complete = upto < self.first or (self.tail and self.tail[0].seq <= self.first)
        if len(found) < limit and not complete:
            return None
        return found[-limit:] if limit else []
