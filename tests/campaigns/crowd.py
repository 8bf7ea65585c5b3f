"""People who talk without a pause, each of them recorded, through whatever befalls the server."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from chat_transports.client import Backoff, connect
from chatcore.errors import StorageFull
from chatcore.events import Lost, Reset, Resumed
from chatcore.model import LOBBY
from chatcore.testing import Record, Recorded, check_history, read_logs
from tests.support import PASSWORD

AHEAD = 4
"""Sends of one person that are under way at once."""
MOST_BEHIND = 2_000
"""Events that the slowest may have yet to see while others talk."""
PATIENCE = 60.0


async def say(chat: Recorded, room: str, text: str, mine: list[int], chance: random.Random) -> int:
    """Send a text, or give it to one of `mine`, or delete that; return the seq of it.

    `mine` are messages that nobody else does this to; one of them is taken out meanwhile.
    """
    if len(mine) < 10 or chance.random() < 0.7:
        seq = (await chat.send(room, text)).seq
        mine.append(seq)
        return seq
    target = mine.pop(chance.randrange(len(mine)))
    if chance.random() < 0.4:
        return (await chat.delete(room, target)).seq
    seq = (await chat.edit(room, target, text)).seq
    mine.append(target)
    return seq


class Crowd:
    """So many people in the lobby, through the client library; to be entered.

    They talk until `finish`, or until each has sent `most` messages, edits and deletions,
    and listen to the end.  Each has `ahead` of them under way: one where the server puts
    them off, for those behind one may then be stored before it.
    """

    def __init__(
        self,
        urls: Sequence[str],
        people: int = 6,
        *,
        ahead: int = AHEAD,
        most: int | None = None,
    ) -> None:
        self.records = [Record(f"user{number}") for number in range(people)]
        self.full = 0
        """Sends that were refused for want of space."""
        self.missed = 0
        """Events that were missed, and made good."""
        self.resumed = 0
        """How often a room went on where it was left."""
        self._urls = urls
        self._ahead = ahead
        self._most = most
        self._quiet = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._living = [
            asyncio.create_task(self._live(record, self._urls[number % len(self._urls)]))
            for number, record in enumerate(self.records)
        ]
        await self.until(lambda: all(record.acknowledged for record in self.records))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._living:
            task.cancel()
        await asyncio.gather(*self._living, return_exceptions=True)

    @property
    def acknowledged(self) -> int:
        return sum(record.acknowledged for record in self.records)

    def is_full(self, times: int) -> bool:
        """Say whether so many sends have been refused for want of space."""
        return self.full >= times

    async def until(self, condition: Callable[[], object], patience: float = PATIENCE) -> None:
        """Return once something is so.  Raises what any of the people failed of."""
        async with asyncio.timeout(patience):
            while not condition():
                for task in self._living:
                    if task.done():
                        task.result()
                        raise AssertionError("somebody left")
                await asyncio.sleep(0.005)

    async def talk(self, more: int) -> None:
        """Return when so many more messages have been acknowledged."""
        goal = self.acknowledged + more
        await self.until(lambda: self.acknowledged >= goal)

    async def finish(self, database: Path) -> None:
        """Have all that is under way answered and seen, and check everything against the log."""
        self._quiet.set()
        await self.until(
            lambda: all(
                sent.seq is not None or sent.refused
                for record in self.records
                for sent in record.sends
            )
        )
        log = read_logs(database, [LOBBY])
        await self.until(lambda: all(_seen(record) == log[LOBBY].head for record in self.records))
        assert check_history(self.records, log, caught_up=True) == []

    def __str__(self) -> str:
        sends = sum(len(record.sends) for record in self.records)
        seen = sum(len(r.seen) for record in self.records for r in record.readings[LOBBY])
        return f"{sends} sends, {self.acknowledged} acknowledged, {seen} events seen, no violation"

    async def _live(self, record: Record, url: str) -> None:
        async with contextlib.AsyncExitStack() as stack:
            client = await stack.enter_async_context(connect(url, backoff=Backoff(0.05, 0.5)))
            await client.register(record.who, PASSWORD)
            chat = Recorded(client, record)
            await chat.join(LOBBY, history=0)
            listening = asyncio.create_task(self._listen(chat))
            stack.callback(listening.cancel)
            mine: list[int] = []
            await asyncio.gather(listening, *(self._talk(chat, mine) for _ in range(self._ahead)))
            raise AssertionError(f"{record.who} was turned away: {client.error}")

    async def _talk(self, chat: Recorded, mine: list[int]) -> None:
        record, chance = chat.record, random.Random(chat.record.who)
        while not self._quiet.is_set() and len(record.sends) != self._most:
            # Whoever falls behind limits.resume is told to begin anew, and rightly so.
            while not self._quiet.is_set() and self._behind() > MOST_BEHIND:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            try:
                await say(chat, LOBBY, f"{record.who} {len(record.sends)}", mine, chance)
            except StorageFull:
                self.full += 1
                await asyncio.sleep(0.01)

    async def _listen(self, chat: Recorded) -> None:
        async for event in chat:
            match event:
                case Resumed():
                    self.resumed += 1
                    self.missed += event.missed
                case Reset() | Lost():
                    raise AssertionError(f"{chat.record.who} was told {event!r:.200}")

    def _behind(self) -> int:
        seen = [_seen(record) for record in self.records]
        return max(seen) - min(seen)


def _seen(record: Record) -> int:
    reading = record.reading(LOBBY)
    return reading.due - 1 if reading is not None and reading.due else 0
