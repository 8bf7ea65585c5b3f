"""Everybody comes back at once, after the server was killed."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from chat_transports.client import Backoff, connect
from chatcore.events import Message, Resumed
from chatcore.model import LOBBY
from chatcore.testing import Record, Recorded, Transcript, check_history, read_logs
from tests.support import PASSWORD, connected, free_port, present, start_server, stop

MISSED = 100
SECONDS = 15.0
BACKOFF = Backoff(first=1.0, most=5.0)
"""By default the last would come after half a minute, for they all try in vain before."""


@pytest.mark.timeout(900)
async def test_all_resume_in_time_and_miss_nothing(
    tmp_path: Path, storm: int, figures: Callable[[str], None]
) -> None:
    """Each is a connection of its own, with what the others said meanwhile yet to hear."""
    database = tmp_path / "chat.db"
    options = ("--limits", "none", "--tcp-port", str(free_port()))
    server = await start_server(database, *options, transports=["tcp"])
    records, said = [Record("ada") for _ in range(storm)], Record("bob")
    resumed: list[float] = []
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(lambda: stop(server))
        async with connected(server.urls["tcp"]) as ada:
            token = (await ada.do("register", username="ada", password=PASSWORD))["token"]
            await ada.do("join", room=LOBBY)
        listening = []

        async def say(bob: Transcript, text: str) -> None:
            sent = said.sending(LOBBY, text)
            sent.seq = (await bob.do("send", room=LOBBY, content=text))["seq"]

        async def listen(chat: Recorded) -> None:
            async for event in chat:
                if isinstance(event, Resumed):
                    resumed.append(time.monotonic())
                if isinstance(event, Message) and event.content == "the last":
                    return

        for record in records:
            client = await stack.enter_async_context(
                connect(server.urls["tcp"], token=token, backoff=BACKOFF)
            )
            chat = Recorded(client, record)
            await chat.join(LOBBY, history=0)
            listening.append(asyncio.create_task(listen(chat)))
        server.signal(signal.SIGKILL)
        await server.exit_code()
        # What they miss is said while the doors that they know are closed.
        other = await start_server(database, "--limits", "none", transports=["ws"])
        async with present(other.urls["ws"], "bob") as bob:
            for number in range(MISSED):
                await say(bob, f"missed {number}")
        other.signal(signal.SIGTERM)
        await other.exit_code()
        began = time.monotonic()
        server = await start_server(database, *options, transports=["tcp"])
        async with asyncio.timeout(120):
            while len(resumed) < storm:  # noqa: ASYNC110 - any of so many
                await asyncio.sleep(0.01)
        async with present(server.urls["tcp"], "bob") as bob:
            await say(bob, "the last")
            async with asyncio.timeout(120):
                await asyncio.gather(*listening)
        took = max(resumed) - began
        assert check_history([*records, said], read_logs(database, [LOBBY])) == []
    figures(f"{storm} clients came back in {took:.1f} s, each with {MISSED} events to make good")
    assert took < SECONDS
