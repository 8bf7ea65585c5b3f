"""What readers who stop reading cost: the server's memory, and the others' time.

In turn, a thousand people who read, and a thousand of whom some have stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from statistics import median
from typing import cast

import orjson
from attrs import asdict, frozen

from benchmarks.server import Server, loop_factory, populate, serving

PEOPLE, STALLED = 1_000, 200
FILL = 1_500
"""Messages that are sent first, so that every buffer of who does not read is full."""
MEASURED, PER_SECOND = 150, 10
CHARACTERS = 3_000
LIMIT = 262_144
"""Bytes that may wait for one connection (`limits.buffer_bytes`)."""


@frozen
class Figures:
    p50_ms: float
    p99_ms: float
    cpu_us_per_delivery: float
    growth: int
    """Bytes of the server's memory, from before the messages to after them."""


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


async def join(server: Server, token: str, latencies: list[float] | None, *, stop: bool) -> Reader:
    reader = Reader(token, None if stop else latencies)
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
    database: Path, tokens: Sequence[str], stalled: int, fill: int, messages: int
) -> Figures:
    latencies: list[float] = []
    with serving(database) as server:
        async with joined(server, tokens, stalled, latencies) as readers:
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
    latencies.sort()
    return Figures(
        p50_ms=1_000 * latencies[len(latencies) // 2],
        p99_ms=1_000 * latencies[math.floor(len(latencies) * 0.99)],
        cpu_us_per_delivery=1e6 * cpu / (messages * live),
        growth=growth,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", type=Path, help="where the databases are made")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    parser.add_argument("--quick", action="store_true", help="see that it runs, and no more")
    options = parser.parse_args()
    people, stalled, fill, messages = PEOPLE, STALLED, FILL, MEASURED
    if options.quick:
        people, stalled, fill, messages = 20, 4, 5, 5
    rounds: list[dict[str, Figures]] = []
    print(f"{'':18}{'p50 ms':>8}{'p99 ms':>8}{'µs CPU':>8}{'growth MiB':>12}")
    for number in range(1 if options.quick else options.rounds):
        figures = {}
        for way, without in (("all read", 0), (f"{stalled} stalled", stalled)):
            with tempfile.TemporaryDirectory(dir=options.dir) as directory:
                database = Path(directory) / "chat.db"
                tokens = populate(database, people)
                with asyncio.Runner(loop_factory=loop_factory) as runner:
                    figures[way] = f = runner.run(
                        measure(database, tokens, without, fill, messages)
                    )
            print(
                f"{number + 1} {way:16}{f.p50_ms:8.1f}{f.p99_ms:8.1f}"
                f"{f.cpu_us_per_delivery:8.1f}{f.growth / 2**20:12.1f}",
                flush=True,
            )
        rounds.append(figures)
    ratios = [b.p99_ms / a.p99_ms for a, b in (figures.values() for figures in rounds)]
    each = [(b.growth - a.growth) / stalled for a, b in (figures.values() for figures in rounds)]
    goals = [
        {"goal": "p99 of the others to p99 of all", "at_most": 2.0, "measured": median(ratios)},
        {"goal": "KiB for each stalled one", "at_most": 320.0, "measured": median(each) / 1_024},
    ]
    for goal in goals:
        met = "met" if goal["measured"] <= goal["at_most"] else "NOT met"  # type: ignore[operator] # floats
        print(f"{goal['goal']}: {goal['measured']:.2f} of at most {goal['at_most']:.0f}, {met}")
    if options.json:
        report = {
            "rounds": [{way: asdict(f) for way, f in figures.items()} for figures in rounds],
            "goals": goals,
        }
        options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
