"""SIGTERM under load, again and again: in time, with a goodbye to each, and nothing lost."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.campaigns.crowd import Crowd
from tests.support import PASSWORD, connected, free_port, start_server, stop

SECONDS = 5.0
WITNESSES = 10


@pytest.mark.timeout(900)
async def test_a_drain_under_load_is_quick_and_loses_nothing(
    tmp_path: Path, cycles: int, figures: Callable[[str], None]
) -> None:
    cycles = cycles // 4 if cycles <= 12 else cycles // 2
    database, took = tmp_path / "chat.db", list[float]()
    ports = {"ws": free_port(), "tcp": free_port()}
    options = ("--limits", "none", "--port", str(ports["ws"]), "--tcp-port", str(ports["tcp"]))
    server = await start_server(database, *options)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(lambda: stop(server))
        crowd = await stack.enter_async_context(Crowd([*server.urls.values()]))
        for _ in range(cycles):
            async with contextlib.AsyncExitStack() as peers:
                urls = [*server.urls.values()] * (WITNESSES // 2)
                witnesses = [await peers.enter_async_context(connected(url)) for url in urls]
                for number, witness in enumerate(witnesses):
                    await witness.do("login", username=f"user{number % 6}", password=PASSWORD)
                    if number % 4:  # some have not joined
                        assert "head" in await witness.do("join", room="lobby", history=0)
                await crowd.talk(100)
                began = time.monotonic()
                server.signal(signal.SIGTERM)
                byes = await asyncio.gather(*(witness.goodbye() for witness in witnesses))
                assert await server.exit_code() == 0
                took.append(time.monotonic() - began)
            assert took[-1] < SECONDS
            assert {bye["code"] for bye in byes} == {4001}
            delays = {bye["retry_after"] for bye in byes}
            assert min(delays) >= 0.5
            assert len(delays) > WITNESSES / 2, "spread"
            assert not any("Traceback" in line for line in server.log)
            server = await start_server(database, *options)
        await crowd.talk(100)
        await crowd.finish(database)
    figures(f"{cycles} drains: {crowd}; the longest took {max(took):.2f} s, exit status 0")
