"""The WebSocket door keeps its promises on ASGI servers that offer no way round ASGI."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

import hypercorn
import hypercorn.asyncio
import pytest
import websockets
from starlette.applications import Starlette

from chat_transports import websocket
from chatcore import Chat, MemoryRepository
from chatcore.testing import Transcript, check_link, eventually
from tests.support import Frames, free_port, present
from tests.test_links import websocket_link


@contextlib.asynccontextmanager
async def on_hypercorn(app: Starlette) -> AsyncIterator[int]:
    over = asyncio.Event()
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    config = hypercorn.Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.errorlog = None
    serving = hypercorn.asyncio.serve(app, config, shutdown_trigger=over.wait)  # type: ignore[arg-type] # its own types of ASGI
    task = asyncio.create_task(serving)
    try:
        yield port
    finally:
        over.set()
        await task


async def test_a_link_keeps_the_contract_on_hypercorn() -> None:
    await check_link(partial(websocket_link, on_hypercorn))


@contextlib.asynccontextmanager
async def chat_on_hypercorn(_: Path) -> AsyncIterator[int]:
    async with (
        Chat(MemoryRepository(), bcrypt_cost=4) as chat,
        on_hypercorn(websocket.app(chat)) as port,
    ):
        yield port


HOSTED = """
from starlette.applications import Starlette
from chat_transports import websocket
from chatcore import Chat, MemoryRepository

chat = Chat(MemoryRepository(), bcrypt_cost=4)
app = Starlette(routes=[websocket.route(chat)], lifespan=websocket.lifespan(chat))
"""


@contextlib.asynccontextmanager
async def chat_on_granian(folder: Path) -> AsyncIterator[int]:
    """In a process of its own: what embeds it is still an experiment."""
    (folder / "hosted.py").write_text(HOSTED)
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "granian", "--interface", "asgi", "--port", str(port)),
        *("--working-dir", str(folder), "hosted:app"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        await eventually(partial(_is_open, port))
        yield port
    finally:
        process.terminate()
        said, _ = await process.communicate()
    assert b"Traceback" not in said, said.decode()


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("serving", [chat_on_hypercorn, chat_on_granian])
async def test_people_talk_and_are_told_why_it_ends(
    tmp_path: Path, serving: Callable[[Path], AbstractAsyncContextManager[int]]
) -> None:
    async with serving(tmp_path) as port:
        url = f"ws://127.0.0.1:{port}/ws"
        async with present(url, "ada") as ada, present(url, "bob") as bob:
            texts = [str(number) for number in range(8)]
            for text in texts:
                await ada.start("send", room="lobby", content=text)
            assert texts == await bob.messages(8)
        async with websockets.connect(url) as client:
            peer = Frames(client)
            talk = Transcript(peer.send, peer.receive)
            assert "reply" in await talk.do("ping")
            await client.send(b"no text")
            assert (await talk.goodbye())["code"] == 4505
            await client.wait_closed()
            assert (4505, "a binary message; send text") == (client.close_code, client.close_reason)
