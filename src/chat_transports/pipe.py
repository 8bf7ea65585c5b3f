"""The client's end of a connection: an address dialled, frames up, frames down."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Mapping
from typing import Protocol
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.typing import Subprotocol

from chatcore.errors import LinkClosed, Unavailable
from chatcore.model import MAX_FRAME

TCP_PORT = 5051

_READ_BYTES = MAX_FRAME + 65_536
"""The protocol's bound, and some room."""

_SCHEMES = {"http": "ws", "https": "wss"}
_TLS = ("wss", "tcps")


class CannotConnect(Unavailable):
    """No chat server answers there; the text says why in a few words."""


class Pipe(Protocol):
    async def send(self, frame: bytes) -> None:
        """Send one frame, once there is room for it.  What cannot be sent any more is dropped."""

    async def next(self) -> bytes:
        """Return the next frame.  Raises LinkClosed; safe to cancel."""

    async def close(self) -> None:
        """Say goodbye as the transport does, for a second at most, and close."""


def address(url: str) -> str:
    """Return the ws, wss, tcp or tcps address that a URL means.  Raises ValueError.

    `http://host` and `ws://host` mean the WebSocket that a chat server has at `/ws`.
    """
    parts = urlsplit(url)
    scheme = _SCHEMES.get(parts.scheme, parts.scheme)
    if scheme not in ("ws", "wss", "tcp", "tcps") or not parts.hostname or parts.port == 0:
        raise ValueError(f"{url!r} is not like ws://localhost:5050/ws or tcp://localhost:5051")
    path = parts.path.rstrip("/")
    if (
        scheme.startswith("ws")
        and not path.endswith("/ws")
        and (not path or scheme != parts.scheme)
    ):
        path += "/ws"
    return parts._replace(scheme=scheme, path=path).geturl()


async def dial(
    target: str, *, headers: Mapping[str, str] | None = None, tls: ssl.SSLContext | None = None
) -> Pipe:
    """Connect to an `address`.  Raises CannotConnect."""
    scheme = urlsplit(target).scheme
    if tls is None and scheme in _TLS:
        tls = ssl.create_default_context()
    try:
        if scheme in ("tcp", "tcps"):
            return await _dial_tcp(target, tls if scheme in _TLS else None)
        return WebSocketPipe(
            await connect(
                target,
                ssl=tls if scheme in _TLS else None,
                additional_headers=headers,
                subprotocols=[Subprotocol("chat.v1")],
                compression=None,
                max_size=_READ_BYTES,
                open_timeout=None,  # whoever dials has a patience of their own
                # A pong waits behind all that its reader has yet to take; `ping` is better.
                ping_interval=None,
                close_timeout=1,
            )
        )
    except (OSError, EOFError, WebSocketException, ImportError, ValueError) as error:
        # ImportError: no SOCKS here; ValueError: redirected to another scheme.
        raise CannotConnect(_why(error)) from error


def _why(error: Exception) -> str:
    match error:
        case ssl.SSLCertVerificationError():
            return f"its certificate is not to be trusted: {error.verify_message}"
        case ssl.SSLError():
            return "it does not speak TLS as this client does"
        case ConnectionRefusedError() | OSError(errno=None):  # None: asyncio tried several
            return "nothing is listening there"
        case OSError(strerror=str(words)):
            return words
        case InvalidStatus(response=response):
            return f"HTTP status {response.status_code}"
        case ConnectionClosed() | EOFError():
            return "it hung up at once"
    return str(error)


class WebSocketPipe:
    """A frame is a text message."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    async def send(self, frame: bytes) -> None:
        with contextlib.suppress(ConnectionClosed):
            await self._connection.send(frame.removesuffix(b"\n"), text=True)

    async def next(self) -> bytes:
        try:
            return await self._connection.recv(decode=False)
        except ConnectionClosed:
            raise LinkClosed from None

    async def close(self) -> None:
        try:
            async with asyncio.timeout(1):  # the library's own does not cover a full buffer
                await self._connection.close()
        except TimeoutError:
            self._connection.transport.abort()


async def _dial_tcp(target: str, tls: ssl.SSLContext | None) -> TcpPipe:
    parts = urlsplit(target)
    reader, writer = await asyncio.open_connection(
        parts.hostname, parts.port or TCP_PORT, limit=_READ_BYTES, ssl=tls
    )
    return TcpPipe(reader, writer)


class TcpPipe:
    """A frame is a line."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, frame: bytes) -> None:
        with contextlib.suppress(OSError):
            self._writer.write(frame)
            await self._writer.drain()

    async def next(self) -> bytes:
        try:
            return await self._reader.readuntil(b"\n")
        except (OSError, EOFError, asyncio.LimitOverrunError):
            raise LinkClosed from None

    async def close(self) -> None:
        self._writer.close()
        try:
            async with asyncio.timeout(1):
                await self._writer.wait_closed()
        except (OSError, TimeoutError):
            self._writer.transport.abort()
