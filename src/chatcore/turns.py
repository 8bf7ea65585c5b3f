"""The loop's turns, shared out among those who have much to write."""

from __future__ import annotations

import asyncio
from collections import deque


class Turns:
    """In each turn of the loop so many of those who wait go on, the first ones first."""

    def __init__(self, each: int) -> None:
        self._each = each
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def next(self) -> None:
        """Let others have the loop, and return when one may go on.  Safe to cancel."""
        turn: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append(turn)
        if len(self._waiting) == 1:
            self._loop.call_soon(self._go_on)
        await turn

    def _go_on(self) -> None:
        for _ in range(min(self._each, len(self._waiting))):
            turn = self._waiting.popleft()
            if not turn.cancelled():
                turn.set_result(None)
        if self._waiting:
            self._loop.call_soon(self._go_on)
