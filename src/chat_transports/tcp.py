"""The TCP door: one JSON object a line, on the standard library alone."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Any, cast

from chat_transports.inbox import Inbox
from chatcore.chat import LINGER_SECONDS, Chat
from chatcore.connection import serve
from chatcore.events import Close
from chatcore.model import MAX_FRAME, Credentials, Limits
from chatcore.ports import Wire

HIGH_WATER = 65_536
"""Bytes that asyncio may hold before `drained` waits, until a quarter is left."""

UNSENT_BYTES = 16_384
"""What the kernel takes for one connection beyond what is on its way; else it takes megabytes."""

BACKLOG = 2_048
"""Connections that the kernel keeps until they are accepted.

One too many is not refused: its SYN is dropped, and comes again after 1 s, 2 s, 4 s.
"""

HANDSHAKE_SECONDS = 10.0
"""What whoever connects has for what comes before the chat: TLS, or a WebSocket's request."""

logger = logging.getLogger("chat_transports.tcp")


async def listen(
    chat: Chat,
    host: str = "127.0.0.1",
    port: int = 5051,
    *,
    sock: socket.socket | None = None,
    ssl: ssl.SSLContext | None = None,
    server: str = "chatcore",
) -> asyncio.Server:
    """Serve a running Chat to whoever connects, on host and port or on a socket that listens.

    The socket may be a Unix socket; its peers have no address, and are not counted by it.

    Close what is returned to let nobody in any more.  The connections end with the
    chat.  Raises OSError, and RuntimeError where the chat is not running.
    """
    chat.check_started()
    tasks: set[asyncio.Task[None]] = set()

    async def life(link: TcpLink, peer: str) -> None:
        try:
            await serve(chat, link, Credentials(peer=peer), server=server)
        except RuntimeError as error:  # the chat is not running any more
            logger.error("a connection was refused: %s", error)  # noqa: TRY400 - one line
            link.close(Close.SHUTDOWN, "shutdown")

    def begin(link: TcpLink, peer: str) -> None:
        task = asyncio.ensure_future(life(link, peer))
        tasks.add(task)  # the loop itself would let go of it
        task.add_done_callback(tasks.discard)

    def accept() -> TcpLink:
        return TcpLink(chat.limits, chat.wire, begin)

    if sock is not None:
        return await open_server(accept, sock=sock, ssl=ssl)
    return await open_server(accept, host, port, ssl=ssl)


async def open_server(
    accept: Callable[[], asyncio.Protocol],
    *address: Any,
    ssl: ssl.SSLContext | None,
    **options: Any,
) -> asyncio.Server:
    """Create a server with asyncio, with BACKLOG, and HANDSHAKE_SECONDS for TLS, not a minute."""
    if ssl is not None:
        options["ssl_handshake_timeout"] = HANDSHAKE_SECONDS
    loop = asyncio.get_running_loop()
    return await loop.create_server(accept, *address, ssl=ssl, backlog=BACKLOG, **options)


def tune(sock: socket.socket, ping: float) -> None:
    """Have the kernel send at once, find out who is gone, and keep little for who is slow.

    Gone, within twice `ping` seconds, is who acknowledges nothing and takes nothing: a
    slow reader is not, as long as it takes a little (RFC 5482; Linux counts a closed
    window too).  Nothing for a Unix socket: there the kernel knows.

    At once, whatever is still unacknowledged: uvloop has that so, and asyncio only where
    the socket was made with a protocol's number.
    """
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_NODELAY", 1),
        ("TCP_KEEPIDLE", max(1, round(ping))),
        ("TCP_KEEPINTVL", max(1, round(ping / 4))),
        ("TCP_KEEPCNT", 4),
        ("TCP_USER_TIMEOUT", round(2000 * ping)),
        ("TCP_NOTSENT_LOWAT", UNSENT_BYTES),
    ):
        option = getattr(socket, name, None)
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


class TcpLink(asyncio.Protocol):
    """A Link on one TCP connection; `begin` is called with it, and its peer's address."""

    def __init__(self, limits: Limits, wire: Wire, begin: Callable[[TcpLink, str], object]) -> None:
        self.wire = wire
        self._limits = limits
        self._begin = begin
        self._inbox = Inbox(self._resume_reading)
        self._line = bytearray()
        self._skipping = False
        self._drained = asyncio.Event()
        self._drained.set()
        self._closed = asyncio.Event()
        self._closing = False
        self._changed: Callable[[], None] | None = None

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(HIGH_WATER)
        if (sock := transport.get_extra_info("socket")) is not None:
            tune(sock, self._limits.ping)
        peer = transport.get_extra_info("peername")
        self._begin(self, str(peer[0]) if isinstance(peer, tuple) else "")

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        scanned = len(self._line)
        self._line += data
        start = 0
        while (end := self._line.find(b"\n", max(start, scanned))) >= 0:
            self._take(bytes(self._line[start:end]))
            start = end + 1
        del self._line[:start]
        if len(self._line) > MAX_FRAME:
            # The rest of the line is skipped, in no more memory than this.
            self._take(bytes(self._line[: MAX_FRAME + 1]))
            self._skipping = True
            self._line.clear()

    def _take(self, line: bytes) -> None:
        if self._skipping:
            self._skipping = False
        elif not self._inbox.put(line.removesuffix(b"\r")):
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def eof_received(self) -> bool:
        # Half-closed, as `printf … | nc` does: what was asked is still answered.  TLS cannot.
        self._inbox.finish()
        return self._transport.get_extra_info("sslcontext") is None

    def pause_writing(self) -> None:
        self._drained.clear()
        self._tell_changed()

    def resume_writing(self) -> None:
        self._drained.set()
        self._tell_changed()

    def _tell_changed(self) -> None:
        if self._changed is not None:
            self._changed()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        self._tell_changed()
        self._inbox.finish()
        self._drained.set()
        self._closed.set()

    # What the core calls.

    @property
    def pending(self) -> int:
        return 0 if self._closing else self._transport.get_write_buffer_size()

    @property
    def straight(self) -> asyncio.Transport | None:
        return None if self._closing or not self._drained.is_set() else self._transport

    def watch(self, changed: Callable[[], None] | None) -> None:
        self._changed = changed

    async def receive(self) -> bytes:
        return await self._inbox.get()

    def write(self, data: bytes) -> None:
        if not self._closing:
            self._transport.write(data)

    async def drained(self) -> None:
        await self._drained.wait()

    def close(self, code: int, reason: str) -> None:
        if self._closing:
            return
        self._closing = True
        self._tell_changed()
        self._inbox.close()
        self._drained.set()
        self._transport.close()
        asyncio.get_running_loop().call_later(LINGER_SECONDS, self._transport.abort)

    async def closed(self) -> None:
        await self._closed.wait()
