"""SIGKILL in mid-stream, again and again: what was acknowledged is there, once, in order.

Those who talk listen too, and go on after each kill from the last event that they saw.

It proves nothing about power loss: the kernel outlives the process, and what it was
given it keeps.  For that, see what SQLite is asked for (synchronous=FULL).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from chatcore.errors import LinkClosed
from chatcore.testing import Record, Transcript
from tests.support import (
    PASSWORD,
    ServerProcess,
    check_database,
    connected,
    start_server,
    stop,
)

SENDERS = 6
AHEAD = 20


@contextlib.asynccontextmanager
async def resumed(url: str, record: Record) -> AsyncIterator[Transcript]:
    """Log in, and join the lobby where the last connection left it."""
    async with connected(url, record) as peer:
        await peer.do("login", username=record.who, password=PASSWORD)
        reading = record.reading("lobby")
        since = {}
        if reading is not None and reading.due is not None:
            since = {"since": {"epoch": reading.epoch, "seq": reading.due - 1}}
        reply = await peer.do("join", room="lobby", **since)
        assert reply["recovered"] is bool(since), reply
        yield peer


async def talk(url: str, record: Record) -> None:
    """Send as fast as answers come, up to AHEAD in flight, until the server is gone."""
    with contextlib.suppress(LinkClosed, OSError):
        async with resumed(url, record) as peer:
            asked = deque[int]()
            while True:
                while len(asked) < AHEAD:
                    text = f"{record.who} {len(record.sends)}"
                    asked.append(await peer.start("send", room="lobby", content=text))
                reply = await peer.answer(asked.popleft())
                assert "seq" in reply, reply
                peer.events.clear()


async def catch_up(url: str, record: Record, head: int) -> None:
    async with resumed(url, record) as peer:
        reading = record.reading("lobby")
        assert reading is not None
        while reading.due != head + 1:
            await peer.event()


@pytest.mark.timeout(900)
async def test_nothing_acknowledged_is_lost_when_the_server_is_killed(
    tmp_path: Path, cycles: int, figures: Callable[[str], None]
) -> None:
    database = tmp_path / "chat.db"
    records = [Record(f"user{number}") for number in range(SENDERS)]
    server = await start_server(database, "--limits", "none")
    for record in records:
        async with connected(server.urls["tcp"]) as peer:
            await peer.do("register", username=record.who, password=PASSWORD)
    for _ in range(cycles):
        await _one_life(server, records, doors=("ws", "tcp"))
        assert not any("Traceback" in line for line in server.log)
        check_database(database, ["lobby"], records)
        server = await start_server(database, "--limits", "none")
    # And after all that it serves.
    async with connected(server.urls["ws"]) as peer:
        await peer.do("login", username="user0", password=PASSWORD)
        page = await peer.do("history", room="lobby")
        assert page["messages"]
    for record in records:
        await catch_up(server.urls["tcp"], record, page["head"])
    await stop(server)
    check_database(database, ["lobby"], records, caught_up=True)
    assert acknowledged(records) > cycles
    figures(
        f"{cycles} kills: {sum(len(record.sends) for record in records)} sent,"
        f" {acknowledged(records)} acknowledged, {seen(records)} events seen; 0 lost,"
        " 0 duplicated, 0 reordered, 0 phantom, 0 gaps, 0 altered"
    )


async def _one_life(server: ServerProcess, records: list[Record], doors: tuple[str, ...]) -> None:
    talking = [
        asyncio.create_task(talk(server.urls[doors[number % len(doors)]], record))
        for number, record in enumerate(records)
    ]
    before, more = [len(record.sends) for record in records], random.randint(1, 600)

    def answered() -> int:
        new = (record.sends[start:] for record, start in zip(records, before, strict=True))
        return sum(sent.seq is not None for sends in new for sent in sends)

    async with asyncio.timeout(30):
        while answered() < more:
            for task in talking:
                if task.done():
                    task.result()
                    raise AssertionError("a sender gave up")
            await asyncio.sleep(0.001)
    server.signal(signal.SIGKILL)
    await server.exit_code()
    await asyncio.gather(*talking)


def acknowledged(records: Sequence[Record]) -> int:
    return sum(record.acknowledged for record in records)


def seen(records: Sequence[Record]) -> int:
    return sum(len(reading.seen) for each in records for reading in each.readings["lobby"])
