"""Frames that have come and were not asked for yet."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from chatcore.errors import LinkClosed

FULL = 32
"""Frames after which the transport is asked to pause."""
FULL_BYTES = 131_072
"""Or bytes, for a frame may be a MiB."""


class Inbox:
    """A queue between a transport that pushes and a `Link.receive` that pulls.

    `resume` is called when there is room again after `put` returned False.
    """

    def __init__(self, resume: Callable[[], None]) -> None:
        self._resume = resume
        self._frames: deque[bytes] = deque()
        self._arrived = asyncio.Event()
        self._bytes = 0
        self._paused = False
        self._finished = False

    def put(self, frame: bytes) -> bool:
        """Take a frame, until `finish` or `close`; False asks the transport to pause."""
        if self._finished:
            return True
        self._frames.append(frame)
        self._arrived.set()
        self._bytes += len(frame)
        self._paused = self._paused or len(self._frames) >= FULL or self._bytes >= FULL_BYTES
        return not self._paused

    def finish(self) -> None:
        """No more will come; what is here may still be asked for."""
        self._finished = True
        self._resume = _nothing  # a link's own method, and the link has this: a circle
        self._arrived.set()

    def close(self) -> None:
        """Nothing more is wanted."""
        self._frames.clear()
        self.finish()

    async def get(self) -> bytes:
        """Return the next frame.  Raises LinkClosed; safe to cancel."""
        while not self._frames:
            if self._finished:
                raise LinkClosed
            self._arrived.clear()
            await self._arrived.wait()
        frame = self._frames.popleft()
        self._bytes -= len(frame)
        if self._paused and not self._frames:
            self._paused = False
            self._resume()
        return frame


def _nothing() -> None:
    """Nobody is left who could send more."""
