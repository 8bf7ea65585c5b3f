"""What uvicorn speaks on each connection, with our bounds on it, and a way round ASGI.

ASGI hands over one message at a time, in either direction, and each costs a task's turn.
The application finds in the scope's extensions an `Outlet`, which writes to the transport
at once, and gives it at once what comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState
from websockets.frames import Frame

from chat_transports import tcp
from chat_transports.framed import OUTLET, Receiver
from chatcore.chat import LINGER_SECONDS
from chatcore.errors import RateLimited
from chatcore.events import Close
from chatcore.model import User
from chatcore.roster import Roster

logger = logging.getLogger("chat_transports.server")

NEEDED = (
    *("transport", "writable", "close_sent", "read_paused", "queue", "frames"),
    *("curr_msg_data_type", "app", "scope", "request", "response"),
)
"""Of uvicorn's protocol, for an outlet."""
BODY_SECONDS = 30.0
"""What a request's body may take; it has at most 64 KiB."""


class Requests(HttpToolsProtocol):
    """uvicorn's HTTP, counted; and who does not ask, or not to the end, is there not for long.

    The head of a request has tcp.HANDSHAKE_SECONDS, from the connection's beginning or the
    head's own; its body has BODY_SECONDS.  What a request waits for here has no limit, and
    between two of them uvicorn's own holds.  A WebSocket is counted by its door as soon as
    it is one.
    """

    peer = ""
    user: User | None = None
    digest: bytes | None = None

    def __init__(self, roster: Roster, **given: Any) -> None:
        super().__init__(**given)
        self._roster = roster
        self._counted = False
        self._timer: asyncio.TimerHandle | None = None
        self._cycles: list[RequestResponseCycle] = []
        """Of the requests that are not answered: one, or more where they were pipelined."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # uvicorn's own
        super().connection_made(transport)
        proxy: ProxyHeadersMiddleware = self.config.loaded_app
        if self.client and self.client[0] not in proxy.trusted_hosts:
            self.peer = self.client[0]
        try:
            self._roster.add(self)
        except RateLimited:
            transport.abort()
        else:
            self._counted = True
            self._due_in(tcp.HANDSHAKE_SECONDS)

    def data_received(self, data: bytes) -> None:
        # Empty lines before a request begin none, and yet they end uvicorn's wait for one.
        if self._timer is None and all(each.response_complete for each in self._cycles):
            self._due_in(tcp.HANDSHAKE_SECONDS)
        super().data_received(data)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._timer is None:
            self._due_in(tcp.HANDSHAKE_SECONDS)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if self.cycle:  # type: ignore[truthy-bool] # None until a request has come
            unanswered = [each for each in self._cycles if not each.response_complete]
            self._cycles = [*unanswered, self.cycle]
        self._due_in(BODY_SECONDS)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._due_in(None)

    def _due_in(self, seconds: float | None) -> None:
        """Give the peer so long for what it has to say next; None where it is our turn."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(seconds, self._end_late) if seconds else None

    def _end_late(self) -> None:
        if self.flow.read_paused:  # it is we who do not listen
            self._due_in(BODY_SECONDS)
            return
        may_answer = self.scope is not None and not any(  # type: ignore[redundant-expr] # at first it is
            each.response_started if each.scope is self.scope else not each.response_complete
            for each in self._cycles
        )
        self._cut_off()
        if not may_answer:
            self.transport.abort()
            return
        self.transport.write(_TIMEOUT)
        self.transport.close()
        self.loop.call_later(LINGER_SECONDS, self.transport.abort)

    def end(self, code: Close, reason: str, retry_after: float | None = None) -> None:
        self.transport.close()

    def handle_websocket_upgrade(self) -> None:
        self._forget()
        super().handle_websocket_upgrade()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        self._cut_off()
        super().connection_lost(exc)

    def _cut_off(self) -> None:
        """Have nobody wait for this peer or write to it; uvicorn tells only the last request."""
        for cycle in self._cycles:
            cycle.disconnected = True
            cycle.message_event.set()

    def _forget(self) -> None:
        self._due_in(None)
        if self._counted:
            self._counted = False
            self._roster.remove(self)


_TIMEOUT = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


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
        if _known(self):
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
        try:
            super().data_received(data)
        except InvalidState:  # a text that is no UTF-8, and a close frame behind it
            self.transport.abort()
        if not self.handshake_initiated and self.conn.handshake_exc is not None:
            self.transport.abort()  # a handshake that cannot be read gets no answer

    def shutdown(self) -> None:
        if self.handshake_complete:
            super().shutdown()
        else:
            self.transport.abort()

    def handle_ping(self) -> None:
        if self.writable.is_set() or self.conn.close_rcvd is not None:
            super().handle_ping()
        else:
            # Only the last ping wants its pong (RFC 6455, section 5.5.3), and here they
            # would wait without bound.
            self.conn.data_to_send()

    def handle_cont(self, event: Frame) -> None:
        # One buffer: a fragment may have one byte or none, and a list of those has no bound.
        self._rest += event.data
        if event.fin:
            self.frames.append(bytes(self._rest))
            self._rest.clear()
            self.send_receive_event_to_app()

    def send_receive_event_to_app(self) -> None:
        if self._receiver is None or self.close_sent:
            super().send_receive_event_to_app()
            return
        data = b"".join(self.frames)
        if self.curr_msg_data_type == "text" and not _is_text(data):
            super().send_receive_event_to_app()  # which ends the connection with 1007
            return
        self.frames = []
        self._hear(self._receiver, data if self.curr_msg_data_type == "text" else None)


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


@functools.cache
def _warn(missing: str) -> None:
    logger.warning("uvicorn has no %s any more: WebSockets go through ASGI, slower", missing)


def _known(protocol: Frames) -> bool:
    """Say whether uvicorn still has what the outlet stands on."""
    missing = [name for name in NEEDED if not hasattr(protocol, name)]
    if missing:
        _warn(", ".join(missing))
    return not missing


def _untaken(transport: asyncio.Transport) -> int:
    """Return how many bytes the kernel has that the peer's has not acknowledged."""
    with contextlib.suppress(ImportError, OSError, ValueError):  # where it is not told, or closed
        import fcntl
        import termios

        descriptor = transport.get_extra_info("socket").fileno()
        return int.from_bytes(fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    return 0
