"""uvicorn's WebSockets, with our bounds on each connection, and a way round ASGI.

ASGI hands over one message at a time, in either direction, and each costs a task's turn.
The application finds in the scope's extensions an `Outlet`, which writes to the transport
at once, and gives it at once what comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

from chat_transports import tcp
from chat_transports.framed import OUTLET, Receiver

NEEDED: dict[type, tuple[str, ...]] = {
    WebSocketsSansIOProtocol: (
        *("connection_made", "data_received", "pause_writing", "resume_writing", "shutdown"),
        *("handle_ping", "handle_cont", "send_receive_event_to_app", "handle_parser_exception"),
        *("run_asgi", "send"),
        *("app", "config", "conn", "loop", "queue", "request", "response", "scope", "transport"),
        *("close_sent", "handshake_complete", "handshake_initiated", "read_paused", "writable"),
        *("curr_msg_data_type", "frames"),
    ),
}
"""What `Frames` stands on, of uvicorn's internals."""


class _Ending:
    """Stands in uvicorn's queue's place where nobody asks ASGI: only the end comes there."""

    __slots__ = ("_receiver",)

    def __init__(self, receiver: Receiver | None) -> None:
        self._receiver = receiver

    def put_nowait(self, _: object) -> None:
        if self._receiver is not None:
            self._receiver.gone()


_NOBODY = _Ending(None)


class Frames(WebSocketsSansIOProtocol):
    """uvicorn's WebSockets, for peers who mean it no good; and the `Outlet` of each."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._rest = bytearray()
        self._pong = b""
        """Of the last ping that came while nothing could be written."""
        self._heard = self.loop.time()
        self._changed: Callable[[], None] | None = None
        self._receiver: Receiver | None = None
        self._life: Callable[[], Coroutine[object, object, None]] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        # TLS would have it at 512 KiB, and `drained` come before the hub has room.
        transport.set_write_buffer_limits(tcp.HIGH_WATER)
        super().connection_made(transport)

    async def run_asgi(self) -> None:
        extensions: dict[str, Any] = self.scope["extensions"]
        extensions[OUTLET] = self
        self.app = self._run
        try:
            await super().run_asgi()
        finally:
            # Else circles would keep all of it.
            extensions.pop(OUTLET, None)
            self.app = self.config.loaded_app
            if self._receiver is not None:
                self._receiver, self.queue = None, _NOBODY  # type: ignore[assignment]

    async def _run(self, *given: Any) -> None:
        """Run the application, and then what it wants to go on with."""
        await self.config.loaded_app(*given)
        if self._life is not None:
            life, self._life = self._life(), None
            # For the handshake alone, and this may be a long life.
            del given, self.request, self.response
            self.scope = {}  # type: ignore[typeddict-item]
            await life

    # The outlet.

    def listen(self, receiver: Receiver) -> None:
        came, self._receiver = self.queue, receiver
        self.queue = _Ending(receiver)  # type: ignore[assignment]
        self.resume()
        while not came.empty():
            message: Any = came.get_nowait()
            if message["type"] == "websocket.disconnect":
                receiver.gone()
            else:
                text = message.get("text")
                self._hear(receiver, None if text is None else text.encode())

    def _hear(self, receiver: Receiver, message: bytes | None) -> None:
        """Hand over a text; None is for a message that was none."""
        if message is None:
            receiver.refuse_binary()
        elif not receiver.take(message) and not self.read_paused:
            self.read_paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()

    def go_on_with(self, life: Callable[[], Coroutine[object, object, None]]) -> None:
        self._life = life

    @property
    def pending(self) -> int:
        return self.transport.get_write_buffer_size()

    @property
    def straight(self) -> asyncio.Transport | None:
        is_clear = self.writable.is_set() and not self.close_sent
        return self.transport if is_clear else None

    def watch(self, changed: Callable[[], None] | None) -> None:
        self._changed = changed

    def pause_writing(self) -> None:
        super().pause_writing()
        self._tell()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._pong:
            pong, self._pong = self._pong, b""
            self.write(pong)
        self._tell()

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == "websocket.close":
            self._tell()

    def _tell(self) -> None:
        if self._changed is not None:
            self._changed()

    def write(self, data: bytes) -> None:
        # Nothing may follow a close frame, the peer's or uvicorn's own.
        if not self.close_sent and not self.transport.is_closing():
            self.transport.write(data)

    async def drained(self) -> None:
        await self.writable.wait()

    def silent_for(self) -> float:
        if self.read_paused:
            return 0.0  # it is we who do not listen
        if self.pending or _untaken(self.transport):
            return 0.0  # whether it takes that is the kernel's to say (tcp.tune)
        return self.loop.time() - self._heard

    async def close(self, code: int, reason: str) -> None:
        with contextlib.suppress(OSError, RuntimeError):  # the peer, or uvicorn, was quicker
            await self.send({"type": "websocket.close", "code": code, "reason": reason})

    def abort(self) -> None:
        self.transport.abort()

    # What uvicorn does otherwise.

    def data_received(self, data: bytes) -> None:
        self._heard = self.loop.time()
        super().data_received(data)
        if not self.handshake_initiated and self.conn.handshake_exc is not None:
            self.transport.abort()  # a handshake that cannot be read gets no answer

    def shutdown(self) -> None:
        if not self.handshake_complete:
            self.transport.abort()
        elif not self.transport.is_closing():  # else a close frame is out, and none may follow
            super().shutdown()

    def handle_ping(self) -> None:
        if self.writable.is_set() or self.conn.close_rcvd is not None:
            super().handle_ping()
        elif pongs := self.conn.data_to_send():  # one read may have brought many pings
            # They would wait without bound, and only the last ping wants its pong (RFC 6455,
            # section 5.5.3); that one has to come, or its peer thinks us dead.
            self._pong = pongs[-1]

    def handle_cont(self, event: Frame) -> None:
        # One buffer: a fragment may have one byte or none, and a list of those has no bound.
        self._rest += event.data
        if event.fin:
            self.frames.append(bytes(self._rest))
            self._rest.clear()
            self.send_receive_event_to_app()

    def send_receive_event_to_app(self) -> None:
        text = self.curr_msg_data_type == "text"
        data = b"".join(self.frames)
        if text and not self.close_sent and not _is_text(data):
            # uvicorn would log it, with a traceback, and fail where a close frame is behind it.
            self.conn.fail(1007, "a text that is not UTF-8")
            self.handle_parser_exception()
        elif self._receiver is None or self.close_sent:
            super().send_receive_event_to_app()
        else:
            self.frames = []
            self._hear(self._receiver, data if text else None)


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _untaken(transport: asyncio.Transport) -> int:
    """Return how many bytes the kernel has that the peer's has not acknowledged."""
    with contextlib.suppress(ImportError, OSError, ValueError):  # where it is not told, or closed
        import fcntl
        import termios

        descriptor = transport.get_extra_info("socket").fileno()
        return int.from_bytes(fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    return 0
