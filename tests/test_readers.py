"""Reads run in threads, and each one's answer comes on the loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from chatcore.readers import Readers
from tests.support import alive, collector_off


@pytest.fixture
async def readers() -> AsyncIterator[Readers]:
    pool = Readers(2)
    yield pool
    pool.close()


async def test_what_a_read_returns_or_raises_comes_to_whoever_asked(readers: Readers) -> None:
    asked = [readers.read(divmod, 7, number) for number in (2, 0, 3)]
    one, failed, other = await asyncio.gather(*asked, return_exceptions=True)
    assert [(3, 1), (2, 1)] == [one, other]
    assert isinstance(failed, ZeroDivisionError)


async def test_two_run_at_once_and_none_on_the_loop(readers: Readers) -> None:
    both = threading.Barrier(2, timeout=5)
    names = await asyncio.gather(*(readers.read(_met, both) for _ in range(2)))
    assert len({*names, threading.current_thread().name}) == 3


def _met(barrier: threading.Barrier) -> str:
    barrier.wait()
    return threading.current_thread().name


async def test_one_that_is_cancelled_before_its_turn_is_not_called(readers: Readers) -> None:
    gate, called = threading.Event(), list[str]()
    busy = [asyncio.ensure_future(readers.read(gate.wait, 5)) for _ in range(2)]
    waiting = asyncio.ensure_future(readers.read(called.append, "cancelled"))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    last = asyncio.ensure_future(readers.read(called.append, "asked for"))
    gate.set()
    await asyncio.gather(*busy, last)
    assert called == ["asked for"]


async def test_one_that_is_cancelled_in_its_turn_disturbs_nobody(readers: Readers) -> None:
    begun, gate = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        gate.wait(5)

    holding = asyncio.ensure_future(readers.read(hold))
    await asyncio.sleep(0)
    assert begun.wait(5)
    holding.cancel()
    await asyncio.wait([holding])
    gate.set()
    assert await readers.read(int) == 0


async def test_what_was_asked_for_before_the_end_is_answered() -> None:
    readers = Readers(2)
    asked = [asyncio.ensure_future(readers.read(abs, -number)) for number in range(100)]
    await asyncio.sleep(0)
    readers.close()
    assert [*range(100)] == await asyncio.gather(*asked)


async def test_an_error_leaves_nothing_for_the_collector(readers: Readers) -> None:
    with collector_off():
        for _ in range(2):  # of the last one a thread may have a trace yet
            with pytest.raises(_FailedError):
                await readers.read(_fail)
        await readers.read(int)
        assert not alive(_FailedError)


class _FailedError(Exception):
    pass


def _fail() -> None:
    raise _FailedError
