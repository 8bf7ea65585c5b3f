"""What a chat has to do and nobody waits for: some at a time, where nothing else is to be done."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from chatcore.errors import ChatError

UPKEEP_SECONDS = 1.0

Job: TypeAlias = Callable[[], Awaitable[bool]]
"""Does some of a work, in one turn of the journal; says whether there is more."""


async def keep(jobs: Sequence[Job], is_idle: Callable[[], bool]) -> None:
    """Do every job again and again; while the journal is not idle, once a second.

    Runs until it is cancelled.
    """
    while True:
        await asyncio.sleep(UPKEEP_SECONDS)
        for job in jobs:
            with contextlib.suppress(ChatError):  # it is as well done later
                while await job() and is_idle():
                    pass
