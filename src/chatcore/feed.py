"""A room that somebody listens to on this node, who listens, and how far each one is."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, Protocol, TypeVar

from attrs import define, field

from chatcore.events import Close, Durable, MembershipChanged, Message
from chatcore.ports import Link, Wire

T = TypeVar("T")

OPENING = 64
"""Events read into a feed when it opens."""
TAIL = 128
"""Events a feed keeps in memory."""


class OffLoop(Protocol):
    """Runs a read of the repository in a thread."""

    async def __call__(self, read: Callable[..., T], /, *args: Any, **options: Any) -> T: ...


@define(eq=False)
class Listener:
    """One connection that has logged in."""

    username: str
    link: Link
    end: Callable[[Close, str], None]
    subscriptions: dict[str, Subscription] = field(factory=dict)
    owed: dict[str, MembershipChanged] = field(factory=dict)
    """What could not be told yet: of each room the latest."""
    held: bool = True
    """Until the login is answered nothing personal may pass."""
    task: asyncio.Task[None] | None = None


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
    """Announced while the log is being read for what came before; None when it is not."""
    noticed: int = 0
    """A head that nobody announced, and that another process has written."""
    opened: asyncio.Task[None] | None = None
    ended: dict[str, int] = field(factory=dict)
    """Whose membership ended at which seq, while somebody is about to subscribe."""
    awaited: list[asyncio.Event] = field(factory=list)
    """Set each time the head has moved."""

    wires: dict[Wire, int] = field(factory=dict)
    """How those who listen want events spelled, and how many of them do."""

    def add(self, subscription: Subscription) -> None:
        self.subscriptions[subscription] = None
        wire = subscription.listener.link.wire
        self.wires[wire] = self.wires.get(wire, 0) + 1

    def remove(self, subscription: Subscription) -> None:
        del self.subscriptions[subscription]
        wire = subscription.listener.link.wire
        self.wires[wire] -= 1
        if not self.wires[wire]:
            del self.wires[wire]

    def after(self, cursor: int, upto: int, limit: int) -> Sequence[Durable] | None:
        """Return events with cursor < seq <= upto from memory; None where it does not reach."""
        if not self.tail or self.tail[0].seq > cursor + 1:
            return None
        start = cursor + 1 - self.tail[0].seq
        return [*islice(self.tail, start, start + min(limit, upto - cursor))]

    def newest(self, upto: int, limit: int) -> Sequence[Message] | None:
        """Return the newest messages with seq <= upto; None where memory does not reach."""
        found = [e for e in self.tail if e.seq <= upto and isinstance(e, Message)]
        complete = upto < self.first or (self.tail and self.tail[0].seq <= self.first)
        if len(found) < limit and not complete:
            return None
        return found[-limit:] if limit else []
