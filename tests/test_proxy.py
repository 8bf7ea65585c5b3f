"""The proxy: what goes through it is whole up to the byte, and then suffers what was told."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import time
from collections.abc import AsyncIterator

import pytest
from attrs import define, field

from chatcore.testing import (
    PATIENCE,
    Cut,
    Delay,
    Fault,
    Proxy,
    Stall,
    Throttle,
    eventually,
    in_turn,
    random_cuts,
    random_faults,
)
from chatcore.testing.proxy import TICK

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
    async with Proxy(echo) as proxy:
        assert (DATA, False) == await said(proxy.port)
        assert proxy.struck == []


@pytest.mark.parametrize("after", [0, 1, 100_000])
async def test_half_closes_at_the_byte(echo: int, after: int) -> None:
    for cut in (Cut("up", after, "half-close"), Cut("down", after, "half-close")):
        async with Proxy(echo, in_turn(cut)) as proxy:
            assert (DATA[:after], False) == await said(proxy.port)
            assert proxy.struck == [cut]


@pytest.mark.parametrize("after", [0, 1, 100_000])
async def test_lets_no_byte_through_after_the_cut(echo: int, after: int) -> None:
    """Those before may be lost with it, as on any connection that breaks."""
    cuts = [Cut("up", after), Cut("down", after), Cut("up", after, "reset")]
    for cut in (*cuts, Cut("down", after, "reset")):
        async with Proxy(echo, in_turn(cut)) as proxy:
            back, reset = await said(proxy.port)
            assert DATA[: len(back)] == back
            assert len(back) <= after
            assert reset or cut.how == "close"
            assert proxy.struck == [cut]


async def test_resets_a_connection_that_nobody_takes() -> None:
    async with await asyncio.start_server(lambda *_: None, "127.0.0.1", 0) as server:
        nobody = server.sockets[0].getsockname()[1]
    async with Proxy(nobody) as proxy:
        assert (b"", True) == await said(proxy.port)


async def test_a_fault_befalls_one_connection_and_the_next_one_has_its_own(echo: int) -> None:
    async with Proxy(echo, in_turn(Cut("up", 1, "half-close"), None)) as proxy:
        assert (DATA[:1], False) == await said(proxy.port)
        assert (DATA, False) == await said(proxy.port)
        proxy.script = in_turn(Cut("up", 2, "half-close"))
        assert (DATA[:2], False) == await said(proxy.port)
        assert (DATA, False) == await said(proxy.port)
        assert proxy.cuts == 2


@define
class Caller:
    """A connection, and what came back on it."""

    writer: asyncio.StreamWriter
    back: bytearray = field(factory=bytearray)
    ended: str = ""

    async def read(self, reader: asyncio.StreamReader) -> None:
        try:
            while data := await reader.read(65_536):
                self.back += data
            self.ended = "closed"
        except ConnectionError:
            self.ended = "reset"

    async def has(self, data: bytes) -> None:
        await eventually(lambda: len(self.back) >= len(data))
        assert data == self.back


@contextlib.asynccontextmanager
async def calling(port: int) -> AsyncIterator[Caller]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    caller = Caller(writer)
    reading = asyncio.create_task(caller.read(reader))
    try:
        yield caller
    finally:
        writer.transport.abort()
        await reading


async def test_stalls_at_the_byte_until_it_is_told_to_go_on(echo: int) -> None:
    for stall in (Stall("up", 3), Stall("down", 3)):
        async with Proxy(echo, in_turn(stall)) as proxy, calling(proxy.port) as caller:
            caller.writer.write(b"abcdef")
            caller.writer.write_eof()
            await caller.has(b"abc")
            await eventually(lambda: proxy.struck == [stall])  # noqa: B023 - awaited here
            async with calling(proxy.port) as other:  # whom the stall does not concern
                other.writer.write(b"xyz")
                await other.has(b"xyz")
            assert (caller.back, caller.ended) == (bytearray(b"abc"), "")
            proxy.resume()
            await eventually(lambda: caller.ended)
            assert (caller.back, caller.ended) == (bytearray(b"abcdef"), "closed")


async def test_a_stall_may_have_an_end(echo: int) -> None:
    async with Proxy(echo, in_turn(Stall("up", 3, 0.05))) as proxy:
        started = time.monotonic()
        assert (DATA, False) == await said(proxy.port)
        assert time.monotonic() - started >= 0.05


async def test_stalls_all_connections_now(echo: int) -> None:
    """And a sender who is stalled meets full buffers, rather than a proxy that takes it all."""
    async with Proxy(echo) as proxy, calling(proxy.port) as caller:
        caller.writer.write(b"before")
        await caller.has(b"before")
        proxy.stall("down")
        sent = len(b"before")
        full = asyncio.Event()

        async def fill() -> None:
            nonlocal sent
            while True:
                caller.writer.write(DATA)
                sent += len(DATA)
                try:
                    async with asyncio.timeout(0.5):
                        await caller.writer.drain()
                except TimeoutError:
                    full.set()
                    return

        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(fill(), full.wait())
        assert caller.back == b"before"
        proxy.resume()
        await caller.has(b"before" + DATA * (sent // len(DATA)))


async def test_delays(echo: int) -> None:
    for delay in (Delay("up", 0.05), Delay("down", 0.05)):
        async with Proxy(echo, in_turn(delay)) as proxy, calling(proxy.port) as caller:
            started = time.monotonic()
            caller.writer.write(b"late")
            await caller.has(b"late")
            assert time.monotonic() - started >= 0.05


async def test_throttles(echo: int) -> None:
    for throttle in (Throttle("up", 1_000_000), Throttle("down", 1_000_000)):
        async with Proxy(echo, in_turn(throttle)) as proxy:
            started = time.monotonic()
            assert (DATA, False) == await said(proxy.port)
            # The last piece is not waited for.
            assert time.monotonic() - started >= len(DATA) / 1_000_000 - TICK


async def test_several_faults_befall_one_connection(echo: int) -> None:
    faults: list[Fault] = [Cut("up", 6, "half-close"), Stall("up", 3, 0.05), Delay("down", 0.05)]
    async with Proxy(echo, lambda: faults) as proxy:
        started = time.monotonic()
        assert (DATA[:6], False) == await said(proxy.port)
        assert time.monotonic() - started >= 0.1
        assert proxy.struck == [faults[1], faults[0]]


async def test_cuts_all_connections_now(echo: int) -> None:
    async with Proxy(echo) as proxy, calling(proxy.port) as caller:
        caller.writer.write(b"hello")
        await caller.has(b"hello")
        proxy.cut_now()
        await eventually(lambda: caller.ended)
        assert proxy.cuts == 0, "which are the script's"
        assert (DATA, False) == await said(proxy.port)


async def test_tells_one_end_that_the_other_was_reset() -> None:
    gone = asyncio.Event()

    async def wait_for_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read()
        gone.set()
        writer.close()

    async with (
        await asyncio.start_server(wait_for_the_end, "127.0.0.1", 0) as server,
        Proxy(server.sockets[0].getsockname()[1]) as proxy,
    ):
        _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"hello")
        await writer.drain()
        connection = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        async with asyncio.timeout(PATIENCE):
            await gone.wait()


def test_a_seed_makes_the_same_cuts() -> None:
    first, again = (random_cuts(random.Random(7), 65_536) for _ in range(2))
    cuts = [first() for _ in range(1_000)]
    assert cuts == [again() for _ in range(1_000)]
    afters = [cut.after for (cut,) in cuts if isinstance(cut, Cut)]
    assert 0 <= min(afters) < 3
    assert 50_000 < max(afters) <= 65_536
    assert 200 < sum(after < 256 for after in afters) < 300


def test_a_seed_makes_the_same_faults_of_every_kind() -> None:
    first, again = (random_faults(random.Random(7), 65_536, 0.5) for _ in range(2))
    drawn = [first() for _ in range(1_000)]
    assert drawn == [again() for _ in range(1_000)]
    assert all(isinstance(faults[-1], Cut) for faults in drawn)
    others = [fault for *faults, _ in drawn for fault in faults]
    assert {Stall, Delay, Throttle} == {type(fault) for fault in others}
    for fault in others:
        match fault:
            case Stall(_, after, seconds):
                assert 0 <= after <= 65_536
                assert seconds is not None
                assert 0 <= seconds <= 0.5
            case Delay(_, seconds):
                assert 0 <= seconds <= 0.5
            case Throttle(_, rate):
                assert 0.5 <= 65_536 / rate <= 2
