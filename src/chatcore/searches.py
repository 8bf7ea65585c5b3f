"""Finding messages: the index brought up to date, asked, and what came meanwhile left out."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime

from attrs import define, field

from chatcore import query
from chatcore.errors import Invalid, StorageFull, Unavailable
from chatcore.events import Delete, Durable, Found, Member, SearchReply
from chatcore.feed import InTurn, OffLoop
from chatcore.model import User
from chatcore.ports import Repository

INDEXED = 1_000
"""Events indexed in one turn of the journal's writer: some 10 ms."""
TURNS = 20
"""What a search waits for; there is more to be done only where the index is new."""
_INTEGERS = 1 << 63


@define(eq=False)
class _Meanwhile:
    """What was announced since a search was asked for."""

    erased: set[tuple[str, int]] = field(factory=set)
    ended: set[tuple[str, str]] = field(factory=set)

    def spares(self, found: Found, username: str) -> bool:
        return (found.room, found.seq) not in self.erased and (
            found.room,
            username,
        ) not in self.ended


class Searches:
    def __init__(
        self,
        repository: Repository,
        off_loop: OffLoop,
        in_turn: InTurn,
        fit: Callable[[Sequence[Found]], Sequence[Found]],
    ) -> None:
        self._repository = repository
        self._off_loop = off_loop
        self._in_turn = in_turn
        self._fit = fit
        self._under_way: set[_Meanwhile] = set()
        self._turn = asyncio.Lock()
        """Of the threads that read for everybody, one at most is searching."""

    async def find(
        self,
        user: User,
        asked: query.Query,
        cursor: str | None,
        limit: int,
        now: datetime,
        allows: Callable[[str], Awaitable[bool]],
    ) -> SearchReply:
        """Return a page of what is found in the rooms that `allows` is true of.

        All that was acknowledged before is found.  Nothing is given that was erased by
        then, or is of a room that the user may not read any more.
        """
        before = _place(cursor)
        await self._catch_up()
        meanwhile = _Meanwhile()
        self._under_way.add(meanwhile)
        try:
            hits = await self._search(user.username, asked, before, limit + 1, now)
            rooms = {found.room for _, found in hits if found is not None}
            open_rooms = {room for room in rooms if await allows(room)}
        finally:
            self._under_way.remove(meanwhile)
        # Nothing is awaited from here on.
        page = [
            (place, found)
            for place, found in hits[:limit]
            if found is not None
            and found.room in open_rooms
            and meanwhile.spares(found, user.username)
        ]
        messages = self._fit([found for _, found in page])
        if len(messages) < len(page):
            return SearchReply(messages, str(page[len(messages) - 1][0]))
        return SearchReply(messages, str(hits[limit - 1][0]) if len(hits) > limit else None)

    async def _search(
        self, username: str, asked: query.Query, before: int | None, limit: int, now: datetime
    ) -> Sequence[tuple[int, Found | None]]:
        await self._turn.acquire()
        search = self._repository.search
        read = asyncio.ensure_future(self._off_loop(search, username, asked, before, limit, now))
        # Whoever does not wait any more leaves a thread that goes on searching.
        read.add_done_callback(lambda _: self._turn.release())
        return await asyncio.shield(read)

    async def index(self) -> bool:
        """Take some of what is new into the index; say whether there may be more."""
        return await self._in_turn(self._repository.index, INDEXED) == INDEXED

    async def _catch_up(self) -> None:
        with contextlib.suppress(StorageFull):
            for _ in range(TURNS):
                if not await self.index():
                    return
        raise Unavailable(
            "The messages are being made ready for searching; try again", retry_after=5.0
        )

    def heed(self, batch: Sequence[Durable]) -> None:
        """Take note of what was announced."""
        for meanwhile in self._under_way:
            for event in batch:
                match event:
                    case Delete():
                        meanwhile.erased.add((event.room, event.target))
                    case Member(ends=True):
                        meanwhile.ended.add((event.room, event.username))


def _place(cursor: str | None) -> int | None:
    if cursor is None:
        return None
    if cursor.isascii() and cursor.isdecimal() and len(cursor) < 20 and int(cursor) < _INTEGERS:
        return int(cursor)
    raise Invalid("cursor is what a page before said is next")
