"""Upkeep goes on, whatever becomes of one of its jobs."""

from __future__ import annotations

import asyncio
import contextlib
import itertools

import pytest

from chatcore import upkeep
from chatcore.errors import StorageFull
from chatcore.testing import eventually


async def test_a_job_that_fails_keeps_no_other_from_being_done(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A defect is told once; what is a matter of the moment is not."""
    monkeypatch.setattr(upkeep, "UPKEEP_SECONDS", 0.001)
    turns, done = itertools.count(), []

    async def torn() -> bool:
        raise KeyError("torn" if next(turns) != 3 else "torn elsewhere")

    async def full() -> bool:
        raise StorageFull("The storage is full")

    async def good() -> bool:
        done.append(1)
        return False

    keeping = asyncio.create_task(upkeep.keep((torn, full, good), lambda: True))
    await eventually(lambda: len(done) > 9)
    keeping.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await keeping
    told = [str(record.exc_info[1]) for record in caplog.records if record.exc_info]
    assert told == ["'torn'", "'torn elsewhere'"]


async def test_more_is_done_while_nothing_else_is_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one job after the other; else each has its turn, and no more."""
    monkeypatch.setattr(upkeep, "UPKEEP_SECONDS", 0.001)
    is_idle, seen = True, list[str]()

    async def long() -> bool:
        seen.append("long")
        return len(seen) % 4 != 0

    async def short() -> bool:
        seen.append("short")
        return False

    keeping = asyncio.create_task(upkeep.keep((long, short), lambda: is_idle))
    await eventually(lambda: "short" in seen)
    assert seen[:5] == ["long"] * 4 + ["short"]
    is_idle = False
    start = len(seen) + 2
    await eventually(lambda: len(seen) > start + 6)
    keeping.cancel()
    rest = seen[start:]
    assert all(one != other for one, other in itertools.pairwise(rest))
