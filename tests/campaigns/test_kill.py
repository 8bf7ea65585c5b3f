"""SIGKILL in mid-stream, again and again: what was acknowledged is there, once, in order.

It proves nothing about power loss: the kernel outlives the process, and what it was
given it keeps.  For that, see what SQLite is asked for (synchronous=FULL).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from attrs import define, field

from chatcore.errors import LinkClosed
from chatcore.testing import Transcript
from tests.support import PASSWORD, ServerProcess, connected, start_server, stop

SENDERS = 6
AHEAD = 20


@define
class Sender:
    """One person: what they sent, in order, and what was acknowledged as which seq."""

    username: str
    sent: list[str] = field(factory=list)
    acknowledged: dict[str, int] = field(factory=dict)

    async def talk(self, url: str) -> None:
        """Send as fast as answers come, up to AHEAD in flight, until the server is gone."""
        with contextlib.suppress(LinkClosed, OSError):
            async with connected(url) as peer:
                await peer.do("login", username=self.username, password=PASSWORD)
                reply = await peer.do("join", room="lobby")
                assert "head" in reply, reply
                asked: list[tuple[int, str]] = []
                while True:
                    while len(asked) < AHEAD:
                        text = f"{self.username} {len(self.sent)}"
                        self.sent.append(text)
                        asked.append((await peer.start("send", room="lobby", content=text), text))
                    await self._answered(peer, *asked.pop(0))

    async def _answered(self, peer: Transcript, id: int, text: str) -> None:
        reply = await peer.answer(id)
        assert "seq" in reply, reply
        self.acknowledged[text] = reply["seq"]
        peer.events.clear()


@pytest.mark.timeout(900)
async def test_nothing_acknowledged_is_lost_when_the_server_is_killed(
    tmp_path: Path, cycles: int, figures: Callable[[str], None]
) -> None:
    database = tmp_path / "chat.db"
    senders = [Sender(f"user{number}") for number in range(SENDERS)]
    server = await start_server(database, "--limits", "none")
    for sender in senders:
        async with connected(server.urls["tcp"]) as peer:
            await peer.do("register", username=sender.username, password=PASSWORD)
    for _ in range(cycles):
        await _one_life(server, senders, doors=("ws", "tcp"))
        assert not any("Traceback" in line for line in server.log)
        check(database, senders)
        server = await start_server(database, "--limits", "none")
    # And after all that it serves.
    async with connected(server.urls["ws"]) as peer:
        await peer.do("login", username="user0", password=PASSWORD)
        assert (await peer.do("history", room="lobby"))["messages"]
    await stop(server)
    assert sum(len(sender.acknowledged) for sender in senders) > cycles
    figures(f"{cycles} kills: {_count(senders)}")


async def _one_life(server: ServerProcess, senders: list[Sender], doors: tuple[str, ...]) -> None:
    talking = [
        asyncio.create_task(sender.talk(server.urls[doors[number % len(doors)]]))
        for number, sender in enumerate(senders)
    ]
    before = sum(len(sender.acknowledged) for sender in senders)
    more = random.randint(1, 600)
    async with asyncio.timeout(30):
        while sum(len(sender.acknowledged) for sender in senders) < before + more:
            for task in talking:
                if task.done():
                    task.result()
                    raise AssertionError("a sender gave up")
            await asyncio.sleep(0.001)
    server.signal(signal.SIGKILL)
    await server.exit_code()
    await asyncio.gather(*talking)


def check(database: Path, senders: list[Sender]) -> None:
    """Acknowledged ⊆ stored ⊆ sent, each once, under the seq that was told, in each one's order."""
    with contextlib.closing(sqlite3.connect(database)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        rows = db.execute(
            "SELECT seq, kind, json_extract(body, '$.content') FROM events ORDER BY seq"
        ).fetchall()
        assert [seq for seq, _, _ in rows] == [*range(1, len(rows) + 1)], "dense"
        assert db.execute("SELECT head FROM rooms WHERE name = 'lobby'").fetchone() == (len(rows),)
    texts = [text for _, kind, text in rows if kind == "message"]
    stored = {text: seq for seq, kind, text in rows if kind == "message"}
    assert len(texts) == len(stored), "each once"
    sent = {text for sender in senders for text in sender.sent}
    assert not stored.keys() - sent, "nothing that nobody sent"
    for sender in senders:
        lost = {t: seq for t, seq in sender.acknowledged.items() if stored.get(t) != seq}
        assert not lost, f"acknowledged, and not there: {lost}"
        mine = [text for text in texts if text.startswith(f"{sender.username} ")]
        kept = set(mine)
        assert mine == [text for text in sender.sent if text in kept], "each one's order"


def _count(senders: list[Sender]) -> str:
    sent = sum(len(sender.sent) for sender in senders)
    acknowledged = sum(len(sender.acknowledged) for sender in senders)
    return f"{sent} sent, {acknowledged} acknowledged, 0 lost, 0 repeated, 0 reordered"
