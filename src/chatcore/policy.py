"""Who may do what, and how often."""

from __future__ import annotations

import time
from collections.abc import Callable

from attrs import define

from chatcore.commands import Command
from chatcore.errors import RateLimited
from chatcore.model import Rate, Room, User


class OpenPolicy:
    """The default Policy: what the protocol allows is allowed."""

    def check(self, actor: User, command: Command, room: Room | None) -> None:
        return


@define
class _Bucket:
    tokens: float
    filled: float


class Rates:
    """A token bucket for each key, forgotten once it is full again.

    `clock` gives seconds, monotonic.
    """

    def __init__(
        self, rate: Rate | None, text: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = rate
        self._text = text
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}
        self._sweep_at = 1024

    def take(self, key: str) -> None:
        """Take one token, or raise RateLimited with the seconds until there is one."""
        if self._rate is None:
            return
        now = self._clock()
        bucket = self._buckets.get(key)
        if bucket is None:
            self._sweep(now)
            bucket = self._buckets[key] = _Bucket(self._rate.burst, now)
        bucket.tokens = self._tokens(bucket, now)
        bucket.filled = now
        if bucket.tokens < 1:
            raise RateLimited(self._text, retry_after=(1 - bucket.tokens) / self._rate.rate)
        bucket.tokens -= 1

    def give_back(self, key: str) -> None:
        """Undo a `take` whose cause turned out to cost nothing."""
        bucket = self._buckets.get(key)
        if bucket is not None:  # else it is full, and forgotten
            bucket.tokens += 1

    def _tokens(self, bucket: _Bucket, now: float) -> float:
        assert self._rate is not None
        return min(self._rate.burst, bucket.tokens + (now - bucket.filled) * self._rate.rate)

    def _sweep(self, now: float) -> None:
        """Forget full buckets each time their number has doubled."""
        if self._rate is None or len(self._buckets) < self._sweep_at:
            return
        self._buckets = {
            key: bucket
            for key, bucket in self._buckets.items()
            if self._tokens(bucket, now) < self._rate.burst
        }
        self._sweep_at = max(1024, 2 * len(self._buckets))
