"""The WebSocket door on our own server: frames are made once, and go straight to each transport."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from starlette.websockets import WebSocket, WebSocketDisconnect

from chat_transports.inbound import Inbound
from chatcore.chat import LINGER_SECONDS
from chatcore.commands import Request
from chatcore.errors import ChatError
from chatcore.events import Bye, Close, Event, Hello, Reply
from chatcore.model import RequestId
from chatcore.ports import Transport, Wire

OUTLET = "chatcore.outlet"
"""An extension of the scope: the connection's `Outlet`."""


class Outlet(Protocol):
    """What our own server offers a WebSocket beyond ASGI."""

    @property
    def pending(self) -> int:
        """Bytes that the kernel has not taken yet."""

    @property
    def straight(self) -> Transport | None:
        """What takes frames after all that ASGI has sent; None while much waits, or it closes."""

    def watch(self, changed: Callable[[], None] | None) -> None:
        """Have `changed` called, at once, each time that `straight` is another."""

    def write(self, data: bytes) -> None:
        """Take whole WebSocket frames, after all that ASGI has sent; nothing once it is closing."""

    async def drained(self) -> None:
        """Return when little is pending, or the connection is gone."""

    def silent_for(self) -> float:
        """Return for how many seconds nothing has come from the peer, not even a pong.

        0 while it has yet to take something.
        """

    def abort(self) -> None:
        """Be gone at once."""


class FramedWire:
    """Another wire's frames, each made a WebSocket's text message (RFC 6455, section 5.2).

    Unmasked, whole and uncompressed, so that many joined are as good as one.
    """

    def __init__(self, protocol: Wire) -> None:
        self._protocol = protocol

    def decode(self, frame: bytes) -> Request:
        return self._protocol.decode(frame)

    def encode(self, item: Hello | Event | Bye) -> bytes:
        return message(self._protocol.encode(item))

    def reply(self, answer: Reply | ChatError, id: RequestId | None) -> bytes:
        return message(self._protocol.reply(answer, id))


def message(line: bytes) -> bytes:
    """Return a line, without its end, as one text message."""
    size = len(line) - 1
    if size < 126:
        return b"\x81%c%b" % (size, line[:-1])
    if size < 65_536:
        return b"\x81\x7e%b%b" % (size.to_bytes(2), line[:-1])
    return b"\x81\x7f%b%b" % (size.to_bytes(8), line[:-1])


class FramedLink(Inbound):
    """A Link that writes to an `Outlet`; what comes, comes through ASGI.

    It ends when its peer has been silent for `silence` seconds.  Silent is not slow: a
    slow one has not taken all yet.
    """

    def __init__(
        self, websocket: WebSocket, wire: FramedWire, outlet: Outlet, *, silence: float
    ) -> None:
        super().__init__(websocket, wire)
        self._outlet = outlet
        self._silence = silence
        self._listen_in(silence)
        self._closing = False
        self._changed: Callable[[], None] | None = None
        self._closed = asyncio.Event()
        self._farewell: asyncio.Task[None] | None = None

    @property
    def pending(self) -> int:
        return 0 if self._closed.is_set() else self._outlet.pending

    @property
    def straight(self) -> Transport | None:
        return None if self._closing else self._outlet.straight

    def watch(self, changed: Callable[[], None] | None) -> None:
        self._changed = changed
        self._outlet.watch(changed)

    def _end_writing(self) -> None:
        self._closing = True
        if self._changed is not None:
            self._changed()

    def write(self, data: bytes) -> None:
        if not self._closing:
            self._outlet.write(data)

    async def drained(self) -> None:
        await self._outlet.drained()

    def close(self, code: int, reason: str) -> None:
        if self._closing:
            return
        self._end_writing()
        self._inbox.close()
        self._farewell = asyncio.ensure_future(self._say_goodbye(code, reason))
        asyncio.get_running_loop().call_later(LINGER_SECONDS, self._outlet.abort)

    async def _say_goodbye(self, code: int, reason: str) -> None:
        try:
            await self._send_close(code, reason)
        except (WebSocketDisconnect, RuntimeError):
            pass  # the peer, or the server, was quicker
        finally:
            self._closed.set()

    def _listen_in(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._listening = loop.call_later(seconds, self._end_silent)

    def _end_silent(self) -> None:
        left = self._silence - self._outlet.silent_for()
        if left <= 0:
            self._say_bye(Close.SILENT, "silent for too long", reconnect=True)
        else:
            self._listen_in(max(left, self._silence / 8))

    async def closed(self) -> None:
        await self._closed.wait()
        self._listening.cancel()
        await self._end_reading()

    def _gone(self) -> None:
        self._end_writing()
        self._inbox.finish()
        self._closed.set()
        asyncio.get_running_loop().call_later(LINGER_SECONDS, self._outlet.abort)
