"""A room too big for one go: written to a few members at a time, and nothing else may show it.

The sizes of a slice, and of a run of events, are the only things that are changed, so that ten
people are many.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from chat_transports import tcp, websocket
from chat_transports.server.frames import Frames
from chatcore import Chat, Limits, SqliteRepository, hub
from chatcore.testing import Proxy, random_faults
from tests.campaigns.crowd import Crowd
from tests.test_links import uvicorn_serving

PEOPLE = 12
MOST_BYTES = 40_000
JOINED_BYTES = 1_000
"""Some six events: what commits together is often more."""


@pytest.mark.parametrize("size", [1, 4])
async def test_each_member_sees_one_order_whatever_the_slices(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    sends: int,
    seed: int,
    figures: Callable[[str], None],
) -> None:
    """Some are slow, some are cut off and come back, and all of them talk, by each door.

    The WebSocket is there on our own server, which has a wire of its own, and on another.
    """
    monkeypatch.setattr(hub, "SLICE", size)
    monkeypatch.setattr(hub, "JOINED_BYTES", JOINED_BYTES)
    database = tmp_path / "chat.db"
    limits = Limits(messages=None, attempts=None, buffer_bytes=2_000, resume=1_000_000)
    async with (
        Chat(SqliteRepository(database), limits=limits, bcrypt_cost=4) as chat,
        uvicorn_serving(websocket.app(chat), ws=Frames) as own,
        uvicorn_serving(websocket.app(chat)) as other,
        AsyncExitStack() as stack,
    ):
        server = await tcp.listen(chat, port=0)
        stack.callback(server.close)
        ports = [server.sockets[0].getsockname()[1], own, other]
        proxies = [await stack.enter_async_context(Proxy(port)) for port in ports]
        ports += [proxy.port for proxy in proxies]
        schemes = ["tcp://127.0.0.1:{}", "ws://127.0.0.1:{}/ws", "ws://127.0.0.1:{}/ws"]
        urls = [url.format(port) for url, port in zip(schemes * 2, ports, strict=True)]
        async with Crowd(urls, PEOPLE) as crowd:
            for proxy in proxies:
                proxy.script = random_faults(random.Random(seed), MOST_BYTES, 0.05)
                proxy.cut_now()
            await crowd.talk(sends)
            await crowd.finish(database)
        cuts = sum(proxy.cuts for proxy in proxies)
        figures(f"{crowd}; {crowd.missed} events missed and made good, {cuts} cuts")
