"""A connection to a server: commands up with their replies, frames down in order."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.typing import Subprotocol

CONNECT_SECONDS = 5
FRAME_BYTES = (1 << 20) + (1 << 16)
"""The protocol's MiB, and some room."""

Frame: TypeAlias = dict[str, Any]  # whatever the server sends


class CannotConnect(Exception):
    """No chat server answers there; the text says why in a few words."""


class Refused(Exception):
    """The server did not do what a command asked; the text is its own sentence."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Lines:
    """A TCP connection, one frame a line, with the methods of a WebSocket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def recv(self) -> bytes:
        return await self._reader.readuntil(b"\n")

    async def send(self, message: bytes, *, text: bool) -> None:
        self._writer.write(message + b"\n")
        await self._writer.drain()

    async def close(self) -> None:
        self._writer.close()


_GONE = (ConnectionClosed, OSError, EOFError, asyncio.LimitOverrunError)


def address(url: str) -> str:
    """Return the ws, wss or tcp address that a URL means.  Raises ValueError.

    The first chatroom was given `http://host`; here its WebSocket is at `/ws`.
    """
    parts = urlsplit(url)
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    if scheme not in ("ws", "wss", "tcp") or not parts.hostname or parts.port == 0:
        raise ValueError(f"{url!r} is not like ws://localhost:5050/ws or tcp://localhost:5051")
    path = parts.path.rstrip("/")
    if not path.endswith("/ws") and (not path or scheme != parts.scheme):
        path += "/ws"
    return parts._replace(scheme=scheme, path=path).geturl()


async def dial(target: str) -> Wire:
    """Connect to an `address` and read its hello, in CONNECT_SECONDS.  Raises CannotConnect."""
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            link = await _open(target)
            try:
                hello = _frame(await link.recv())
            except BaseException:
                await link.close()
                raise
    except (*_GONE, WebSocketException, ImportError) as error:  # ImportError: no SOCKS here
        raise CannotConnect(_why(error)) from error
    match hello:
        case {"hello": {"v": 1}}:
            return Wire(link)
        case {"bye": {"reason": str(why)}}:
            pass
        case _:
            why = "what answers is no chat server that this client understands"
    await link.close()
    raise CannotConnect(why)


async def _open(target: str) -> ClientConnection | Lines:
    parts = urlsplit(target)
    if parts.scheme == "tcp":
        port = parts.port or 5051
        return Lines(*await asyncio.open_connection(parts.hostname, port, limit=FRAME_BYTES))
    return await connect(
        target,
        subprotocols=[Subprotocol("chat.v1")],
        compression=None,
        max_size=FRAME_BYTES,
        open_timeout=CONNECT_SECONDS,
        close_timeout=2,
    )


def _why(error: Exception) -> str:
    match error:
        case TimeoutError():
            return f"no answer in {CONNECT_SECONDS} seconds"
        case ConnectionRefusedError() | OSError(errno=None):  # None: asyncio tried several
            return "nothing is listening there"
        case OSError(strerror=str(words)):
            return words
        case InvalidStatus(response=response):
            return f"HTTP status {response.status_code}"
        case ConnectionClosed() | EOFError():
            return "it hung up at once"
    return str(error)


def _frame(data: str | bytes) -> Frame:
    """Read one frame; what is not an object becomes one that nobody knows, to be ignored."""
    try:
        frame = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return frame if isinstance(frame, dict) else {}


class Wire:
    def __init__(self, link: ClientConnection | Lines) -> None:
        self.farewell = ""
        """Why the server ended the connection, once `frames` has ended."""
        self._link = link
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Frame]] = {}

    async def request(self, cmd: str, **fields: object) -> Frame:
        """Send a command, in the order of the calls, and return its reply.  Raises Refused.

        Replies are found by whoever iterates over `frames`.  So is the connection's
        end: a command that it left without a reply waits until it is cancelled.
        """
        id = next(self._ids)
        reply: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        self._waiting[id] = reply
        command = json.dumps({"cmd": cmd, "id": id, **fields}, ensure_ascii=False)
        with contextlib.suppress(*_GONE):
            # Bytes that are no text come from a terminal as half surrogates; JSON has none.
            await self._link.send(command.encode(errors="replace"), text=True)
        match await reply:
            case {"error": {"message": str(message), "retry_after": int(seconds) | float(seconds)}}:
                raise Refused(message, seconds)
            case {"error": {"message": str(message)}}:
                raise Refused(message)
            case frame:
                return frame

    async def frames(self) -> AsyncIterator[Frame]:
        """Yield every frame after the hello, replies too, until the connection ends."""
        while True:
            try:
                frame = _frame(await self._link.recv())
            except _GONE:
                return
            match frame:
                case {"id": int(id)} if id in self._waiting:
                    self._waiting.pop(id).set_result(frame)
                case {"bye": {"reason": str(reason)}}:
                    self.farewell = reason
            yield frame

    async def close(self) -> None:
        await self._link.close()
