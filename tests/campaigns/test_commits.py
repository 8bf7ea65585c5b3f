"""In the middle of the talk commits fail, or nobody knows whether they did; and a clock is set."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from chat_transports import tcp
from chatcore import Chat, Limits, SqliteRepository
from chatcore.errors import Unavailable
from chatcore.model import utcnow
from chatcore.testing import Call, Failure, FaultyRepository, LostOutcome, Refusal
from tests.campaigns.crowd import Crowd


def address(door: asyncio.Server) -> str:
    return f"tcp://127.0.0.1:{door.sockets[0].getsockname()[1]}"


@pytest.mark.timeout(300)
async def test_commits_fail_in_the_middle_of_batches_and_nothing_acknowledged_is_lost(
    tmp_path: Path, cycles: int, seed: int, figures: Callable[[str], None]
) -> None:
    """One in five: refused before anything is written, or with an outcome that nobody knows."""
    chance, failed = random.Random(seed), 0

    def script(call: Call) -> Failure | None:
        nonlocal failed
        if call.method != "append" or chance.random() > 0.2:
            return None
        failed += 1
        return chance.choice(
            (Refusal(Unavailable("busy", retry_after=0.01)), LostOutcome(True), LostOutcome(False))
        )

    database = tmp_path / "chat.db"
    repository = FaultyRepository(SqliteRepository(database))
    async with (
        Chat(repository, limits=Limits.none(), bcrypt_cost=4) as chat,
        await tcp.listen(chat, port=0) as door,
        Crowd([address(door)], 12, ahead=1) as crowd,
    ):
        repository.scripts.append(script)
        await crowd.until(lambda: failed >= cycles)
        repository.scripts.clear()
        await crowd.finish(database)
    figures(f"{failed} commits failed: {crowd}")


@pytest.mark.timeout(300)
async def test_a_clock_that_is_set_orders_nothing_anew(
    tmp_path: Path, cycles: int, figures: Callable[[str], None]
) -> None:
    """Back an hour and on a day, again and again: `timestamp` is for people."""
    offset = timedelta()
    seen: list[datetime] = []

    def clock() -> datetime:
        return utcnow() + offset

    database = tmp_path / "chat.db"
    async with Chat(
        SqliteRepository(database), limits=Limits.none(), clock=clock, bcrypt_cost=4
    ) as chat:
        chat.subscribe(lambda event: seen.append(event.timestamp))
        async with await tcp.listen(chat, port=0) as door, Crowd([address(door)]) as crowd:
            for number in range(cycles // 2):
                offset += timedelta(days=1) if number % 2 else timedelta(hours=-1)
                await crowd.talk(50)
            await crowd.finish(database)
    figures(f"set {cycles // 2} times: {crowd}")
    assert seen != sorted(seen)
