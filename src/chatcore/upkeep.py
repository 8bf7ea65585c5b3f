"""What a chat has to do and nobody waits for: some at a time, where nothing else is to be done."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from chatcore.errors import ChatError

UPKEEP_SECONDS = 1.0
TOLD = 100
"""Defects that are told apart, so that one that comes every second is told once."""

Job: TypeAlias = Callable[[], Awaitable[bool]]
"""Does some of a work, in one turn of the journal; says whether there is more."""

logger = logging.getLogger("chatcore.upkeep")


async def keep(jobs: Sequence[Job], is_idle: Callable[[], bool]) -> None:
    """Do every job again and again; while the journal is not idle, once a second.

    Runs until it is cancelled.  A job that fails is tried again a second later; a defect
    goes to the log.
    """
    told: set[str] = set()
    while True:
        await asyncio.sleep(UPKEEP_SECONDS)
        for job in jobs:
            try:
                with contextlib.suppress(ChatError):  # it is as well done later
                    while await job() and is_idle():
                        pass
            except Exception as error:  # whatever it is, the other jobs are to be done
                if repr(error) not in told and len(told) < TOLD:
                    told.add(repr(error))
                    logger.exception("some upkeep has failed, and is tried again")
