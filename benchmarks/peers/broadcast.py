"""A room of the websockets library's: one frame, broadcast.

python -m benchmarks.peers.broadcast PORT
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

import orjson
from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed

from benchmarks.server import loop_factory

ROOM: set[ServerConnection] = set()


async def chat(websocket: ServerConnection) -> None:
    ROOM.add(websocket)
    try:
        with contextlib.suppress(ConnectionClosed):  # clients end without a close frame
            async for text in websocket:
                content = orjson.loads(text)["content"]
                said = {"event": "message", "room": "lobby", "content": content}
                broadcast(ROOM, orjson.dumps(said).decode())
    finally:
        ROOM.remove(websocket)


async def main(port: int) -> None:
    async with serve(chat, "127.0.0.1", port, compression=None, backlog=2_048) as server:
        await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main(int(sys.argv[1])))
