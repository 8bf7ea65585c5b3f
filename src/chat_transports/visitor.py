"""Who is at a web door: what a request or a handshake says of its sender."""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.websockets import WebSocket

from chatcore.model import Credentials

_SCHEMES = {"ws": "http", "wss": "https"}


def same_origin(connection: HTTPConnection, allowed: Collection[str]) -> bool:
    """Say whether no page, a page of our own origin, or one of the allowed ones is asking."""
    origin = connection.headers.get("origin")
    if origin is None or origin in allowed:  # only browsers have one
        return True
    here = connection.headers.get("host", "")
    scheme = connection.scope["scheme"]
    try:
        return urlsplit(origin.lower())[:2] == (_SCHEMES.get(scheme, scheme), here.lower())
    except ValueError:  # no browser's
        return False


def credentials(connection: HTTPConnection) -> Credentials:
    scheme, _, bearer = connection.headers.get("authorization", "").partition(" ")
    subprotocols = tuple(connection.scope.get("subprotocols", ()))
    token = bearer.strip() if scheme.lower() == "bearer" else None
    for offered in subprotocols:
        if offered.startswith("bearer."):
            token = offered.removeprefix("bearer.")
    return Credentials(
        token=token,
        headers=dict(connection.headers),
        cookies=connection.cookies,
        subprotocols=subprotocols,
        peer=connection.client.host if connection.client else "",
    )


async def deny(websocket: WebSocket, status: int, text: str) -> None:
    """Answer a handshake with an HTTP status, where the server can; else with 403."""
    if "websocket.http.response" in websocket.scope.get("extensions", {}):
        await websocket.send_denial_response(PlainTextResponse(text, status))
    else:
        await websocket.close()
