"""Pages of a room's log: from memory where it reaches, cut to what one frame may carry."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Hashable, Sequence
from functools import partial
from typing import TypeVar

from chatcore.commands import History, Since
from chatcore.events import Delete, Durable, Edit, Member, Message, RoomChanged
from chatcore.feed import Feed, OffLoop
from chatcore.folding import fold
from chatcore.model import MAX_FRAME, Limits
from chatcore.ports import Repository, Wire

E = TypeVar("E", bound=Durable)

PAGE_BYTES = MAX_FRAME - 65_536
"""What a page's events may come to, so that the reply around them is under MAX_FRAME."""

_CHARACTER_BYTES = 4
_EVENT_BYTES = 1_000
"""More than an event has beside its content: names, a number, a timestamp."""


class Pages:
    """Reads on behalf of one who may read.  None goes beyond the feed's announced head."""

    def __init__(
        self, repository: Repository, off_loop: OffLoop, wire: Wire, limits: Limits
    ) -> None:
        self._repository = repository
        self._off_loop = off_loop
        self._wire = wire
        self._limits = limits

    def fit(self, page: Sequence[E]) -> Sequence[E]:
        """Cut a page at its end to what one frame may carry."""
        return self._fit(page)

    def clamp(self, limit: int | None) -> int:
        """Return how many of something a page has, for what was asked."""
        if limit is None:
            return min(50, self._limits.history)
        return max(1, min(limit, self._limits.history))

    async def missed(
        self, feed: Feed, epoch: str, since: Since | None, head: int
    ) -> Sequence[Durable] | None:
        """Return the first page after a position, or None where there is no way from it."""
        if since is None or since.epoch != epoch:
            return None
        if not max(feed.first - 1, head - self._limits.resume) <= since.seq <= head:
            return None
        after = since.seq
        first = feed.first

        async def read() -> Sequence[Durable]:
            page = feed.after(after, head, self._limits.history)
            if page is None:
                page = await feed.read(
                    self._off_loop, self._repository.read, after, head, self._limits.history
                )
            return self._fit(page)

        page = await self._shared(feed, ("after", after, head, first), read)
        return page if first == feed.first else await self.missed(feed, epoch, since, head)

    async def newest(self, feed: Feed, head: int, limit: int, reader: str) -> Sequence[Message]:
        """Return the newest messages up to a head, folded as of it."""
        limit = min(limit, self._limits.history)
        first = feed.first

        async def read(reader: str) -> Sequence[Message]:
            page = feed.newest(head, limit, reader)
            if page is None:
                page = await self._messages(
                    feed, head, reader, first - 1, head + 1, limit, newest=True
                )
            return self._fit(page, keep_last=True)

        page = await self._shared(feed, ("newest", limit, head, first), partial(read, ""))
        if any(message.reactions for message in page):
            page = await read(reader)  # which of them are theirs
        # Where the log's beginning goes meanwhile, what was read may have some of it.
        return page if first == feed.first else await self.newest(feed, head, limit, reader)

    async def _shared(
        self, feed: Feed, asked: Hashable, read: Callable[[], Awaitable[Sequence[E]]]
    ) -> Sequence[E]:
        """Return a page that a crowd may ask for at once: one reads it, and all get the same."""
        page = feed.pages.get(asked)
        if page is None:
            async with feed.paging:
                page = feed.pages.get(asked)
                if page is None:
                    page = feed.keep(asked, await read())
        return page

    async def history(
        self, feed: Feed, head: int, asked: History, reader: str
    ) -> tuple[Sequence[Durable], bool]:
        """Return a page of events, and whether there are no more in the direction asked for.

        Messages are folded as of the head: what was not announced yet is in none of them.
        Nothing is below the feed's first, as it is when this returns.
        """
        first = feed.first
        page, complete = await self._history(feed, head, asked, reader)
        if first != feed.first:  # the page may be short, though others follow
            return await self.history(feed, head, asked, reader)
        fitting = self._fit(page, keep_last=asked.after is None)
        return fitting, complete and len(fitting) == len(page)

    async def _history(
        self, feed: Feed, head: int, asked: History, reader: str
    ) -> tuple[Sequence[Durable], bool]:
        limit = self.clamp(asked.limit)
        find = partial(self._find, feed, head, reader, asked.types or ("message",))
        # One more than is wanted tells whether there are more.
        if asked.around is not None:
            older, newer, middle = limit // 2, limit - limit // 2, min(asked.around, head + 1)
            before = await find(0, middle, older + 1, newest=True)
            after = await find(middle - 1, head + 1, newer + 1, newest=False)
            page = [*before[max(0, len(before) - older) :], *after[:newer]]
            complete = len(before) <= older and len(after) <= newer
        elif asked.after is not None:
            found = await find(asked.after, head + 1, limit + 1, newest=False)
            page, complete = [*found[:limit]], len(found) <= limit
        else:
            edge = head + 1 if asked.before is None else min(asked.before, head + 1)
            found = await find(0, edge, limit + 1, newest=True)
            page, complete = [*found[-limit:]], len(found) <= limit
        return page, complete

    async def _find(
        self,
        feed: Feed,
        head: int,
        reader: str,
        kinds: Collection[str],
        after: int,
        before: int,
        limit: int,
        *,
        newest: bool,
    ) -> Sequence[Durable]:
        """Return the newest events of these kinds in a window, or the oldest, in seq order."""
        found: list[Durable] = []
        after = max(after, feed.first - 1)  # what is below may go at any moment
        if "message" in kinds:
            found += await self._messages(feed, head, reader, after, before, limit, newest=newest)
        others = [kind for kind in kinds if kind != "message"]
        if others:
            read = self._repository.events
            found += await feed.read(
                self._off_loop, read, others, after, before, limit, newest=newest
            )
            found.sort(key=lambda event: event.seq)
        return found[max(0, len(found) - limit) :] if newest else found[:limit]

    async def _messages(
        self,
        feed: Feed,
        head: int,
        reader: str,
        after: int,
        before: int,
        limit: int,
        *,
        newest: bool,
    ) -> Sequence[Message]:
        found = await feed.read(
            self._off_loop,
            self._repository.messages,
            after,
            before,
            limit,
            newest=newest,
            upto=head,
            reader=reader,
        )
        return fold(found)

    def _fit(self, page: Sequence[E], *, keep_last: bool = False) -> Sequence[E]:
        """Cut a page to PAGE_BYTES, at its end, or at its beginning to keep the last."""
        characters = sum(map(_characters, page))
        if characters * _CHARACTER_BYTES + len(page) * _EVENT_BYTES <= PAGE_BYTES:
            return page  # surely, and nearly always
        left, kept = PAGE_BYTES, 0
        for event in reversed(page) if keep_last else page:
            left -= len(self._wire.encode(event))
            if left < 0:
                break
            kept += 1
        return page[len(page) - kept :] if keep_last else page[:kept]


def _characters(event: Durable) -> int:
    match event:
        case Message():
            beside = sum(len(each.emoji) + 16 for each in event.reactions)
            return len(event.content) + _characters_of(event.mentions) + beside
        case Edit():
            return len(event.content) + _characters_of(event.mentions)
        case Delete(reason=str(reason)) | Member(reason=str(reason)):
            return len(reason)
        case RoomChanged():
            return len(event.title or "") + len(event.topic or "")
    return 0


def _characters_of(names: Sequence[str]) -> int:
    return sum(len(name) + 3 for name in names)
