"""A TCP proxy that delays, throttles, stalls and cuts, where and how a script says."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Literal, Self, TypeAlias

from attrs import frozen

Direction: TypeAlias = Literal["up", "down"]
"""Up is towards the server."""

PIECE = 65_536
"""Bytes that are carried at once, at most."""
TICK = 0.05
"""Seconds of its rate that a throttled connection may carry at once."""


@frozen
class Cut:
    """The end of a connection: so many bytes go through in one direction, and no more.

    `close` delivers what was taken and ends both directions, `reset` ends both at once
    by RST, and `half-close` ends this direction alone: what goes the other way still
    arrives, until its sender ends it.
    """

    direction: Direction
    after: int
    how: Literal["close", "reset", "half-close"] = "close"


@frozen
class Stall:
    """After so many bytes nothing more is carried in one direction, not even its end.

    It lasts until `Proxy.resume`, or for so many seconds.  Whoever sends meets a full
    buffer once the kernel's are full.
    """

    direction: Direction
    after: int
    seconds: float | None = None


@frozen
class Delay:
    """What goes in one direction arrives at least so many seconds late.

    Each piece is held by itself, and the next one is read after it: what comes
    meanwhile comes late twice.
    """

    direction: Direction
    seconds: float


@frozen
class Throttle:
    """One direction carries at most so many bytes a second."""

    direction: Direction
    rate: float


Fault: TypeAlias = Cut | Stall | Delay | Throttle

ProxyScript: TypeAlias = Callable[[], Sequence[Fault]]
"""Asked once for each connection what befalls it, which may be several things or none."""


def no_faults() -> Sequence[Fault]:
    """Leave each connection alone."""
    return ()


def in_turn(*faults: Fault | None) -> ProxyScript:
    """Return a script with one fault for each connection, in this order, and then none.

    None leaves a connection alone.
    """
    left = iter(faults)

    def script() -> Sequence[Fault]:
        fault = next(left, None)
        return () if fault is None else (fault,)

    return script


def random_cuts(chance: random.Random, most: int) -> ProxyScript:
    """Return a script that cuts each connection within `most` bytes, at any of them.

    The logarithm is drawn, so that a handshake of a few hundred bytes has its share:
    of 65,536, a quarter of the cuts is in the first 256.
    """
    return lambda: (_random_cut(chance, most),)


def random_faults(chance: random.Random, most: int, seconds: float = 0.5) -> ProxyScript:
    """Return a script that cuts each connection as `random_cuts` does, most after another fault.

    That is a stall or a delay of at most `seconds`, or a rate by which `most` bytes would
    take one to four times as long.
    """

    def script() -> Sequence[Fault]:
        direction: Direction = chance.choice(("up", "down"))
        cut = _random_cut(chance, most)
        match chance.randrange(4):
            case 0:
                return Stall(direction, _random_byte(chance, most), chance.random() * seconds), cut
            case 1:
                return Delay(direction, chance.random() * seconds), cut
            case 2:
                return Throttle(direction, most / seconds / chance.uniform(1, 4)), cut
            case _:
                return (cut,)

    return script


def _random_cut(chance: random.Random, most: int) -> Cut:
    return Cut(
        chance.choice(("up", "down")),
        _random_byte(chance, most),
        chance.choice(("close", "reset", "half-close")),
    )


def _random_byte(chance: random.Random, most: int) -> int:
    return int(most ** chance.triangular(0, 1, 1)) - 1


class Proxy:
    """A port of this machine that leads to another one, until the end of the block.

        async with Proxy(5051, in_turn(Cut("down", 100))) as proxy:
            url = f"tcp://127.0.0.1:{proxy.port}"

    A connection is reset where nobody listens at the other end, and where the other
    end is.  The script may be exchanged at any time, for the connections that come after.
    """

    def __init__(
        self, target: int, script: ProxyScript = no_faults, *, host: str = "127.0.0.1"
    ) -> None:
        self.script = script
        self.struck: list[Cut | Stall] = []
        """The cuts and stalls of the script that a connection came to, in order."""
        self._target = (host, target)
        self._carrying: set[asyncio.Task[None]] = set()
        self._held: set[Direction] = set()
        self._resumed = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut_now()
        await asyncio.gather(*self._carrying, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def port(self) -> int:
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def cuts(self) -> int:
        """How many connections the script has cut."""
        return sum(isinstance(fault, Cut) for fault in self.struck)

    def cut_now(self) -> None:
        """End all connections that there are."""
        for task in self._carrying:
            task.cancel()

    def stall(self, *directions: Direction) -> None:
        """Carry nothing on any connection, in these directions or in both, until `resume`."""
        self._held.update(directions or ("up", "down"))

    def resume(self) -> None:
        """End every stall, the script's too."""
        self._held.clear()
        self._resumed.set()
        self._resumed = asyncio.Event()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._carry(reader, writer, self.script()))
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)

    async def _carry(
        self,
        from_below: asyncio.StreamReader,
        below: asyncio.StreamWriter,
        faults: Sequence[Fault],
    ) -> None:
        async with _closing(below):
            try:
                from_above, above = await asyncio.open_connection(*self._target)
            except OSError:
                _reset(below)
                return
            async with _closing(above):
                ends = _Ends(below, above)
                await asyncio.gather(
                    self._pass("up", from_below, above, ends, faults),
                    self._pass("down", from_above, below, ends, faults),
                )

    async def _pass(
        self,
        direction: Direction,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        ends: _Ends,
        faults: Sequence[Fault],
    ) -> None:
        """Carry one direction to its end, or to the cut."""
        mine = [fault for fault in faults if fault.direction == direction]
        stops = sorted(
            (fault for fault in mine if isinstance(fault, Cut | Stall)),
            key=lambda fault: fault.after,
        )
        late = sum(fault.seconds for fault in mine if isinstance(fault, Delay))
        rate = min((fault.rate for fault in mine if isinstance(fault, Throttle)), default=None)
        piece = PIECE if rate is None else max(1, min(PIECE, int(rate * TICK)))
        passed = 0
        try:
            while True:
                while stops and stops[0].after <= passed:
                    stop = stops.pop(0)
                    self.struck.append(stop)
                    if isinstance(stop, Cut):
                        await ends.cut(stop, source, sink)
                        return
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(stop.seconds):
                            await self._resumed.wait()
                data = await source.read(min(piece, stops[0].after - passed) if stops else piece)
                await asyncio.sleep(late)
                while direction in self._held:
                    await self._resumed.wait()
                if not data:
                    sink.write_eof()
                    return
                sink.write(data)
                await sink.drain()
                passed += len(data)
                if rate is not None:
                    await asyncio.sleep(len(data) / rate)
        except OSError:  # one end is gone
            ends.lost()


class _Ends:
    """Both ends of a connection, which end together."""

    def __init__(self, below: asyncio.StreamWriter, above: asyncio.StreamWriter) -> None:
        self._both = (below, above)
        self._cut = False

    async def cut(self, cut: Cut, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        match cut.how:
            case "close":
                self._cut = True
                for end in self._both:
                    end.close()
            case "reset":
                self.lost()
            case "half-close":
                sink.write_eof()
                while await source.read(PIECE):  # it is not told
                    pass

    def lost(self) -> None:
        """Reset both, unless they are closing and what was taken is still being delivered."""
        if not self._cut:
            self._cut = True
            for end in self._both:
                _reset(end)


@contextlib.asynccontextmanager
async def _closing(writer: asyncio.StreamWriter) -> AsyncIterator[None]:
    """Close when all is written, or at once where the block was cancelled."""
    try:
        yield
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    finally:
        writer.transport.abort()


def _reset(writer: asyncio.StreamWriter) -> None:
    connection: socket.socket = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):  # closed already
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
