"""A room of python-socketio's.

python -m benchmarks.peers.room PORT
"""

from __future__ import annotations

import sys
from typing import Any

import socketio
import uvicorn

server = socketio.AsyncServer(async_mode="asgi", cors_allowed_origins="*", http_compression=False)


async def connect(sid: str, _: object, __: object = None) -> None:
    await server.enter_room(sid, "lobby")


async def send(_: str, data: dict[str, Any]) -> None:
    said = {"event": "message", "room": "lobby", "content": data["content"]}
    await server.emit("new_message", said, room="lobby")


server.on("connect", connect)
server.on("send_message", send)

if __name__ == "__main__":
    uvicorn.run(
        socketio.ASGIApp(server),
        port=int(sys.argv[1]),
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        loop="uvloop",
        log_level="warning",
    )
