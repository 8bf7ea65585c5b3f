"""What readers who stop reading cost: the server's memory, and the others' time.

In turn, a thousand people who read, and a thousand of whom some have stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import cast

import orjson

from benchmarks.report import Goal, Options, Report, Row, Table, command, quantile, ratios
from benchmarks.server import Server, loop_factory, populate, serving, token, usernames
from chatcore.model import LOBBY

PEOPLE, STALLED = 1_000, 200
FILL = 1_500
"""Messages that are sent first, so that every buffer of who does not read is full."""
MEASURED, PER_SECOND = 150, 10
CHARACTERS = 3_000
GROWTH = "growth MiB"
"""Of the server's memory, from before the messages to after them."""


class Reader(asyncio.Protocol):
    """Somebody in the lobby: `connected` is set when they have joined.  Reads, or has stopped."""

    def __init__(self, token: str, latencies: list[float] | None) -> None:
        self.connected = asyncio.Event()
        self.stop = False
        self.bytes = 0
        self._token = token
        self.latencies = latencies
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.say({"cmd": "login", "id": "login", "token": self._token})
        self.say({"cmd": "join", "id": "join", "room": "lobby", "history": 0})

    def say(self, command: dict[str, object]) -> None:
        self.transport.write(orjson.dumps(command, option=orjson.OPT_APPEND_NEWLINE))

    def data_received(self, data: bytes) -> None:
        self.bytes += len(data)
        if self.latencies is None and self.connected.is_set():
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if b'"reply":"join"' in line:
                self.connected.set()
                if self.stop:
                    self.transport.pause_reading()
            elif self.latencies is not None and line.startswith(b'{"event":"message"'):
                sent = orjson.loads(line)["content"].partition(" ")[0]
                self.latencies.append(time.monotonic() - float(sent))


async def join(server: Server, secret: str, latencies: list[float] | None, *, stop: bool) -> Reader:
    reader = Reader(secret, None if stop else latencies)
    reader.stop = stop
    sock = socket.socket()
    if stop:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    sock.connect(("127.0.0.1", server.ports["tcp"]))
    sock.setblocking(False)
    await asyncio.get_running_loop().create_connection(lambda: reader, sock=sock)
    await reader.connected.wait()
    return reader


@contextlib.asynccontextmanager
async def joined(
    server: Server, tokens: Sequence[str], stalled: int, latencies: list[float]
) -> AsyncIterator[list[Reader]]:
    """Have everybody in the lobby.  The first one sends, and one in ten measures."""
    live = len(tokens) - stalled
    readers = [
        await join(server, token, None if number % 10 else latencies, stop=number >= live)
        for number, token in enumerate(tokens)
    ]
    try:
        yield readers
    finally:
        for reader in readers:
            reader.transport.abort()


async def measure(
    database: Path, names: Sequence[str], stalled: int, fill: int, messages: int
) -> dict[str, float]:
    latencies: list[float] = []
    with serving(database) as server:
        async with joined(server, [token(name) for name in names], stalled, latencies) as readers:
            sender, live = readers[0], len(readers) - stalled
            probes = sum(reader.latencies is not None for reader in readers)
            await asyncio.sleep(0.5)  # the last of who is online has been told
            before = server.resident()

            async def send(count: int, pause: float) -> None:
                """Send to all, and return when all who measure have it."""
                heard = len(latencies) + count * probes
                for _ in range(count):
                    text = f"{time.monotonic()} ".ljust(CHARACTERS, "x")
                    sender.say({"cmd": "send", "id": 1, "room": "lobby", "content": text})
                    await asyncio.sleep(pause)
                while len(latencies) < heard:  # noqa: ASYNC110 - a clock would say no more
                    await asyncio.sleep(0.01)

            await send(fill, 0.02)
            latencies.clear()
            cpu = server.cpu_seconds()
            await send(messages, 1 / PER_SECOND)
            cpu = server.cpu_seconds() - cpu
            growth = server.resident() - before
    return {
        "p50 ms": 1_000 * quantile(latencies, 0.5),
        "p99 ms": 1_000 * quantile(latencies, 0.99),
        "µs CPU": 1e6 * cpu / (messages * live),
        GROWTH: growth / 2**20,
    }


def run(options: Options) -> Report:
    people, stalled, fill, messages = PEOPLE, STALLED, FILL, MEASURED
    if options.quick:
        people, stalled, fill, messages = 20, 4, 5, 5
    database, names = options.directory / "chat.db", usernames(people)
    everybody, some = Row({"": "all read"}), Row({"": f"{stalled} stalled"})
    for _ in options.turns():
        for row, without in ((everybody, 0), (some, stalled)):
            populate(database, {LOBBY: names})
            with asyncio.Runner(loop_factory=loop_factory) as runner:
                row.add(runner.run(measure(database, names, without, fill, messages)))
    slower = ratios(some.figures["p99 ms"], everybody.figures["p99 ms"])
    growth = zip(some.figures[GROWTH], everybody.figures[GROWTH], strict=True)
    each = [(b - a) * 1_024 / stalled for b, a in growth]
    return Report(
        [Table(f"{people:,} people in a room, of whom {stalled} stop reading", [everybody, some])],
        [
            Goal("p99 of the others to p99 of all", slower, at_most=2),
            Goal("KiB for each stalled one", each, at_most=320),
        ],
    )


if __name__ == "__main__":
    command(run)
