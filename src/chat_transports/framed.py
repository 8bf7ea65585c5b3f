"""The WebSocket door on our own server: frames come and go straight, past ASGI."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Protocol

from chat_transports.inbox import Inbox
from chatcore.chat import LINGER_SECONDS
from chatcore.commands import Request
from chatcore.errors import ChatError
from chatcore.events import Bye, Close, Event, Hello, Reply
from chatcore.model import RequestId
from chatcore.ports import Transport, Wire

OUTLET = "chatcore.outlet"
"""An extension of the scope: the connection's `Outlet`."""


REASON_CHARACTERS = 100
"""A close frame has room for 123 bytes; ours are nearly all ASCII."""


class Receiver(Protocol):
    """Who gets what comes from a WebSocket."""

    def take(self, message: bytes) -> bool:
        """Take a text message; False asks to pause."""

    def refuse_binary(self) -> None:
        """Say that a message was not text."""

    def gone(self) -> None:
        """The peer left, or we have: nothing more will come, and nothing be taken."""


class Outlet(Protocol):
    """What our own server offers a WebSocket that was accepted, beyond ASGI."""

    def listen(self, receiver: Receiver) -> None:
        """Give it what comes from now on; ASGI's `receive` has nothing any more."""

    def resume(self) -> None:
        """Go on after `take` has asked to pause."""

    def go_on_with(self, life: Callable[[], Coroutine[object, object, None]]) -> None:
        """Run this once the application has returned, and keep the connection until it ends.

        Of all the frames between the server and an endpoint none is then kept.
        """

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

    async def close(self, code: int, reason: str) -> None:
        """Send a close frame as soon as the transport takes it; nothing where one was sent."""

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


def texts(data: bytes) -> Iterator[bytes]:
    """Take `message`s apart that were joined: give each one's text."""
    start = 0
    while start < len(data):
        size, start = data[start + 1], start + 2
        if size >= 126:
            digits = 2 if size == 126 else 8
            size, start = int.from_bytes(data[start : start + digits]), start + digits
        yield data[start : start + size]
        start += size


class FramedLink:
    """A Link on an `Outlet`.

    It ends when its peer has been silent for `silence` seconds.  Silent is not slow: a
    slow one has not taken all yet.
    """

    def __init__(self, wire: FramedWire, outlet: Outlet, *, silence: float) -> None:
        self.wire: Wire = wire
        self._outlet = outlet
        self._inbox = Inbox(outlet.resume)
        self._silence = silence
        self._listen_in(silence)
        self._closing = False
        self._changed: Callable[[], None] | None = None
        self._closed = asyncio.Event()
        self._farewell: asyncio.Task[None] | None = None
        outlet.listen(self)

    # What the outlet calls.

    def take(self, message: bytes) -> bool:
        return self._inbox.put(message)

    def refuse_binary(self) -> None:
        self._say_bye(Close.PROTOCOL, "a binary message; send text", reconnect=False)

    def gone(self) -> None:
        if self._closed.is_set():
            return
        self._end_writing()
        self._inbox.finish()
        self._closed.set()
        asyncio.get_running_loop().call_later(LINGER_SECONDS, self._outlet.abort)

    # What the core calls.

    async def receive(self) -> bytes:
        return await self._inbox.get()

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
            await self._outlet.close(code, reason[:REASON_CHARACTERS])
        finally:
            self._closed.set()

    def _say_bye(self, code: Close, reason: str, *, reconnect: bool) -> None:
        self.write(self.wire.encode(Bye(code, reason, reconnect)))
        self.close(code, reason)

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
