"""A room as tutorials have it: Starlette, and a send for each member.

python -m benchmarks.peers.naive PORT
"""

from __future__ import annotations

import sys

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

ROOM: dict[WebSocket, None] = {}


async def chat(websocket: WebSocket) -> None:
    await websocket.accept()
    ROOM[websocket] = None
    try:
        while True:
            content = orjson.loads(await websocket.receive_text())["content"]
            text = orjson.dumps({"event": "message", "room": "lobby", "content": content}).decode()
            for member in [*ROOM]:
                await member.send_text(text)
    except WebSocketDisconnect:
        pass
    finally:
        del ROOM[websocket]


if __name__ == "__main__":
    uvicorn.run(
        Starlette(routes=[WebSocketRoute("/", chat)]),
        port=int(sys.argv[1]),
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        loop="uvloop",
        log_level="warning",
    )
