"""The proxy that cuts: what goes through it is whole up to the byte, and then ends as told."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

import pytest

from chatcore.testing import PATIENCE
from tests.cutter import Cut, Cutter, random_cuts

DATA = bytes(range(256)) * 1_000


@pytest.fixture
async def echo() -> AsyncIterator[int]:
    """The port of a server that sends everything back."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def said(port: int) -> tuple[bytes, bool]:
    """Return what comes back when all of DATA is sent, and whether that ended in a reset."""
    back = bytearray()
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(DATA)
            writer.write_eof()
            while data := await reader.read(65_536):
                back += data
        except ConnectionError:
            return bytes(back), True
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
    return bytes(back), False


async def test_passes_everything_on_both_ways(echo: int) -> None:
    async with Cutter(echo) as cutter:
        assert (DATA, False) == await said(cutter.port)
        assert cutter.cuts == []


@pytest.mark.parametrize("after", [0, 1, 100_000])
async def test_half_closes_at_the_byte(echo: int, after: int) -> None:
    for cut in (Cut("up", after, "half-close"), Cut("down", after, "half-close")):
        async with Cutter(echo, [cut].pop) as cutter:
            assert (DATA[:after], False) == await said(cutter.port)
            assert cutter.cuts == [cut]


@pytest.mark.parametrize("after", [0, 1, 100_000])
async def test_lets_no_byte_through_after_the_cut(echo: int, after: int) -> None:
    """Those before may be lost with it, as on any connection that breaks."""
    cuts = [Cut("up", after), Cut("down", after), Cut("up", after, "reset")]
    for cut in (*cuts, Cut("down", after, "reset")):
        async with Cutter(echo, [cut].pop) as cutter:
            back, reset = await said(cutter.port)
            assert DATA[: len(back)] == back
            assert len(back) <= after
            assert reset or cut.how == "close"
            assert cutter.cuts == [cut]


async def test_resets_a_connection_that_nobody_takes() -> None:
    async with await asyncio.start_server(lambda *_: None, "127.0.0.1", 0) as server:
        nobody = server.sockets[0].getsockname()[1]
    async with Cutter(nobody) as cutter:
        assert (b"", True) == await said(cutter.port)


def test_a_seed_makes_the_same_cuts() -> None:
    first, again = (random_cuts(random.Random(7), 65_536) for _ in range(2))
    cuts = [first() for _ in range(1_000)]
    assert cuts == [again() for _ in range(1_000)]
    afters = [cut.after for cut in cuts if cut]
    assert 0 <= min(afters) < 3
    assert 50_000 < max(afters) <= 65_536
    assert 200 < sum(after < 256 for after in afters) < 300
