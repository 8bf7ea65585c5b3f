"""Acknowledgements that never arrive: what is sent again is stored once."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from attrs import define

from chatcore.model import LOBBY
from chatcore.testing import read_logs
from tests.campaigns.crowd import Crowd
from tests.support import serving

PEOPLE = 10
ACKNOWLEDGEMENTS = tuple(b'{"reply":"%s"' % cmd for cmd in (b"send", b"edit", b"delete"))


@define
class Taker:
    """Between a client and the TCP door: takes some acknowledgements, and the line with them."""

    target: int
    share: float
    chance: random.Random
    passed: int = 0
    taken: int = 0

    async def __call__(self, below: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        above, onward = await asyncio.open_connection("127.0.0.1", self.target, limit=1 << 21)
        both = [asyncio.ensure_future(self._up(below, onward))]
        both.append(asyncio.ensure_future(self._down(above, back)))
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in both:
                each.cancel()
            await asyncio.gather(*both, return_exceptions=True)
            for writer in (onward, back):
                writer.transport.abort()

    async def _up(self, below: asyncio.StreamReader, onward: asyncio.StreamWriter) -> None:
        while data := await below.read(65_536):
            onward.write(data)
            await onward.drain()

    async def _down(self, above: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        while line := await above.readline():
            if line.startswith(ACKNOWLEDGEMENTS):
                if self.chance.random() < self.share:
                    self.taken += 1
                    return
                self.passed += 1
            back.write(line)
            await back.drain()


@contextlib.asynccontextmanager
async def taking(taker: Taker) -> AsyncIterator[str]:
    server = await asyncio.start_server(taker, "127.0.0.1", 0)
    async with server:
        yield f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.timeout(900)
async def test_a_send_whose_acknowledgement_is_lost_is_stored_once(
    tmp_path: Path, sends: int, seed: int, figures: Callable[[str], None]
) -> None:
    database = tmp_path / "chat.db"
    async with serving(database, "--limits", "none") as server:
        port = int(server.urls["tcp"].rpartition(":")[2])
        taker = Taker(port, 0.3, random.Random(seed))
        async with taking(taker) as url, Crowd([url], PEOPLE, most=sends // PEOPLE) as crowd:
            await crowd.until(lambda: crowd.acknowledged == sends, 800)
            taker.share = 0.0
            await crowd.finish(database)
    rows = len(read_logs(database, [LOBBY])[LOBBY].events)
    share = taker.taken / (taker.taken + taker.passed)
    figures(f"{taker.taken} acknowledgements taken, {share:.0%}: {crowd}")
    assert rows == sends + PEOPLE, "what each of them sent, and each one's joining"
    assert share > 0.2
