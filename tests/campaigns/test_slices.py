"""A room too big for one go: written to a few members at a time, and nothing else may show it.

The size of a slice is the only thing that is changed, so that ten people are many.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from chat_transports import tcp
from chatcore import Chat, Limits, SqliteRepository, hub
from chatcore.testing import Proxy, random_faults
from tests.campaigns.crowd import Crowd

PEOPLE = 10
MOST_BYTES = 40_000


@pytest.mark.parametrize("size", [1, 4])
async def test_each_member_sees_one_order_whatever_the_slices(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    sends: int,
    seed: int,
    figures: Callable[[str], None],
) -> None:
    """Some are slow, some are cut off and come back, and all of them talk."""
    monkeypatch.setattr(hub, "SLICE", size)
    database = tmp_path / "chat.db"
    limits = Limits(messages=None, attempts=None, buffer_bytes=2_000, resume=1_000_000)
    async with Chat(SqliteRepository(database), limits=limits, bcrypt_cost=4) as chat:
        server = await tcp.listen(chat, port=0)
        port = server.sockets[0].getsockname()[1]
        async with Proxy(port) as proxy:
            urls = [f"tcp://127.0.0.1:{each}" for each in (port, proxy.port)]
            async with Crowd(urls, PEOPLE) as crowd:
                proxy.script = random_faults(random.Random(seed), MOST_BYTES, 0.05)
                proxy.cut_now()
                await crowd.talk(sends)
                await crowd.finish(database)
            figures(f"{crowd}; {crowd.missed} events missed and made good, {proxy.cuts} cuts")
        server.close()
