"""A TCP proxy that cuts what goes through it, where and how a script says."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import sys
from collections.abc import AsyncIterator, Callable
from typing import Literal, Self, TypeAlias

from attrs import frozen


@frozen
class Cut:
    """The end of one connection: so many bytes go through in one direction, and no more.

    `close` delivers what was taken and ends both directions, `reset` ends both at once
    by RST, and `half-close` ends this direction alone: what goes the other way still
    arrives, until its sender ends it.
    """

    direction: Literal["up", "down"]
    after: int
    how: Literal["close", "reset", "half-close"] = "close"


Script: TypeAlias = Callable[[], Cut | None]
"""Asked once for each connection; None leaves it whole."""


def whole() -> None:
    """Cut nothing."""


def random_cuts(chance: random.Random, most: int) -> Script:
    """Return a script that cuts each connection within `most` bytes, at any of them.

    The logarithm is drawn, so that a handshake of a few hundred bytes has its share:
    of 65,536, a quarter of the cuts is in the first 256.
    """

    def script() -> Cut:
        return Cut(
            chance.choice(("up", "down")),
            int(most ** chance.triangular(0, 1, 1)) - 1,
            chance.choice(("close", "reset", "half-close")),
        )

    return script


class Cutter:
    """A port of this machine that leads to another, until the end of the block.

        async with Cutter(5051, lambda: Cut("down", 100)) as cutter:
            url = f"tcp://127.0.0.1:{cutter.port}"

    A connection is reset where nobody listens at the other end.  The script may be
    exchanged at any time, for the connections that come after.
    """

    def __init__(self, target: int, script: Script = whole) -> None:
        self.script = script
        self.cuts: list[Cut] = []
        """Those that were made, in order."""
        self._target = target
        self._carrying: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._carrying:
            task.cancel()
        await asyncio.gather(*self._carrying, return_exceptions=True)
        await self._server.wait_closed()

    def cut_now(self) -> None:
        """End all connections that there are, without counting them as cuts."""
        for task in self._carrying:
            task.cancel()

    @property
    def port(self) -> int:
        return int(self._server.sockets[0].getsockname()[1])

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._carry(reader, writer, self.script()))
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)

    async def _carry(
        self, from_below: asyncio.StreamReader, below: asyncio.StreamWriter, cut: Cut | None
    ) -> None:
        up = cut if cut and cut.direction == "up" else None
        down = cut if cut and cut.direction == "down" else None
        async with _closing(below):
            try:
                from_above, above = await asyncio.open_connection("127.0.0.1", self._target)
            except OSError:
                _reset(below)
                return
            async with _closing(above):
                await asyncio.gather(
                    self._pass(from_below, above, below, up),
                    self._pass(from_above, below, above, down),
                )

    async def _pass(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        back: asyncio.StreamWriter,
        cut: Cut | None,
    ) -> None:
        """Carry one direction to its end, or to the cut."""
        left = cut.after if cut else sys.maxsize
        with contextlib.suppress(OSError):  # the other direction's cut, or a peer that is gone
            while left and (data := await source.read(min(left, 65_536))):
                left -= len(data)
                sink.write(data)
                await sink.drain()
            if cut is None or left:
                sink.write_eof()
                return
            self.cuts.append(cut)
            match cut.how:
                case "close":
                    sink.close()
                    back.close()
                case "reset":
                    _reset(sink)
                    _reset(back)
                case "half-close":
                    sink.write_eof()
                    while await source.read(65_536):  # it is not told
                        pass


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
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
