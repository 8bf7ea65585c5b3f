"""LocalBus: one node, in the same process, nothing lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from chatcore.events import Durable


class LocalBus:
    """A Bus that delivers at once, in the caller's own task."""

    def __init__(self) -> None:
        self._delivers: list[Callable[[Sequence[Durable]], None]] = []

    def publish(self, batch: Sequence[Durable]) -> None:
        for deliver in self._delivers:
            deliver(batch)

    def subscribe(self, deliver: Callable[[Sequence[Durable]], None]) -> None:
        self._delivers.append(deliver)
