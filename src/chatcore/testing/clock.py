"""A clock that is told the time, and waiting for a condition."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

PATIENCE = 10.0
"""Seconds after which something awaited will not come any more."""


class FakeClock:
    """A Clock that stands still until it is told to go."""

    def __init__(self, now: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


async def eventually(condition: Callable[[], object], patience: float = PATIENCE) -> None:
    """Return once `condition()` is true.  Raises TimeoutError after `patience` seconds."""
    async with asyncio.timeout(patience):
        while not condition():  # noqa: ASYNC110 - any condition, not one that sets an event
            await asyncio.sleep(0.002)
