"""The server's life: take the ports, start the chat, open the doors, and drain at the end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import os
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any

import uvicorn
from attrs import frozen
from starlette.applications import Starlette
from starlette.routing import BaseRoute, Mount
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

import chatcore
from chat_transports import http, tcp, websocket
from chatcore.chat import LINGER_SECONDS, Chat
from chatcore.errors import ChatError, RateLimited, SchemaError
from chatcore.events import Close
from chatcore.model import MAX_FRAME, Limits, User
from chatcore.ports import Repository
from chatcore.roster import Roster

SERVER = f"chatcore/{chatcore.__version__}"
SWITCH_SECONDS = 0.0001
"""The journal's thread waits so long for the interpreter lock beside a busy loop; not 5 ms.

The wait begins anew whenever the loop polls, so it has to be shorter than a turn of the
loop: beside turns of 0.2 ms, a limit of 0.5 ms made a thread wait 0.36 s at worst, one
of 0.1 ms 8 ms.
"""

HANG_UP_SECONDS = 0.05
"""After the drain: all is answered by then, and uvicorn gives no more than twice as much."""
BODY_SECONDS = 30.0
"""What a request's body may take; it has at most 64 KiB."""
WEB = {"ws": ("ws", "/ws"), "socketio": ("http", "/socket.io/")}
"""The doors that share the web server's port, with HTTP: scheme and path."""

logger = logging.getLogger("chat_transports.server")


class ServerError(Exception):
    """The server cannot start, or had to stop; the text is one sentence that says why."""


@frozen(kw_only=True)
class Options:
    transports: Collection[str]
    host: str
    port: int
    tcp_port: int
    repository: Repository
    database: str
    tls: ssl.SSLContext | None
    allow_origins: Collection[str]
    forwarded_allow_ips: str
    limits: Limits
    token_days: float
    bcrypt_cost: int
    legacy_join: bool


def run(options: Options) -> None:
    """Serve until a signal.  Raises ServerError, SchemaError."""
    sys.setswitchinterval(SWITCH_SECONDS)
    # Of a chat's objects nearly all die young, and those of the start-up never.
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(options))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        from uvloop import new_event_loop
    except ImportError:  # there is none for Windows
        return asyncio.new_event_loop
    return new_event_loop


async def _serve(options: Options) -> None:
    stop = _stop_on_signals()
    chat = Chat(
        options.repository,
        limits=options.limits,
        token_days=options.token_days,
        bcrypt_cost=options.bcrypt_cost,
    )
    with contextlib.ExitStack() as sockets:
        ws = _listen(options, sockets, WEB, options.port)
        lines = _listen(options, sockets, {"tcp"}, options.tcp_port)
        try:
            await chat.__aenter__()
        except ChatError as error:
            raise ServerError(f"Cannot use the database {options.database}: {error}") from error
        try:
            await _open_doors(options, chat, ws, lines, stop)
        finally:
            await chat.close()
        if isinstance(chat_error := chat.failure, SchemaError):
            raise chat_error
        if chat_error is not None:
            raise ServerError(f"The journal failed, all service ended: {chat_error!r}")
    logger.info("stopped")


async def _open_doors(
    options: Options,
    chat: Chat,
    ws: list[socket.socket],
    lines: list[socket.socket],
    stop: asyncio.Event,
) -> None:
    logger.info("%s, database %s", SERVER, options.database)
    if options.limits.messages is None:
        logger.warning("no limits: rates and connection counts are lifted")
    web = _Web(options, _web_app(options, chat))
    try:
        servers = [
            await tcp.listen(chat, sock=each, ssl=options.tls, server=SERVER) for each in lines
        ]
        await web.open(ws)
    except OSError as error:
        raise ServerError(f"Cannot open a door: {error.strerror or error}") from error
    serving = asyncio.create_task(web.serve(ws)) if ws else None
    doors = [(*WEB[each], ws) for each in WEB if each in options.transports]
    for scheme, path, listeners in (*doors, ("tcp", "", lines)):
        for listener in listeners:
            logger.info("listening on %s", _url(scheme, listener, path, options.tls is not None))
    ended = [asyncio.ensure_future(stop.wait()), asyncio.ensure_future(chat.failed())]
    await asyncio.wait([*ended, *([serving] if serving else [])], return_when="FIRST_COMPLETED")
    for waiting in ended:
        waiting.cancel()

    # Nobody new, then drain, and only then may uvicorn close what it has, with its own code.
    logger.info("stopping; connected: %d", len(chat.roster))
    for server in [*servers, *web.servers]:
        server.close()
    await chat.close()
    if serving is not None:
        # All is said: what a peer has not taken by now it will not.
        web.should_exit = web.force_exit = True
        await serving


def _web_app(options: Options, chat: Chat) -> Starlette:
    """Return what the web server serves: the doors that were asked for, and HTTP."""
    routes: list[BaseRoute] = []
    on_login = None
    if "ws" in options.transports:
        routes.append(websocket.route(chat, allow_origins=options.allow_origins, server=SERVER))
    if "socketio" in options.transports:
        from chat_transports import socketio  # an extra of its own

        legacy_join = socketio.LegacyJoin() if options.legacy_join else None
        if legacy_join is not None:
            on_login = legacy_join.remember
            logger.warning("legacy join: a name is proved by a login from the same address")
        door = socketio.app(
            chat, allow_origins=options.allow_origins, legacy_join=legacy_join, server=SERVER
        )
        routes.append(Mount("/socket.io", door))
    paths = [path for door, (_, path) in WEB.items() if door in options.transports]
    routes.append(websocket.nothing_here(*paths))
    web = http.app(chat, allow_origins=options.allow_origins, server=SERVER, on_login=on_login)
    return Starlette(routes=[*routes, Mount("/", web)])


class _Requests(HttpToolsProtocol):
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


class _Frames(WebSocketsSansIOProtocol):
    """uvicorn's WebSockets, for peers who mean it no good."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._rest = bytearray()
        self._heard = self.loop.time()

    async def run_asgi(self) -> None:
        extensions: dict[str, Any] = self.scope["extensions"]
        extensions[websocket.SILENT_FOR] = self._silent_for
        await super().run_asgi()

    def _silent_for(self) -> float:
        if self.transport.get_write_buffer_size() or _untaken(self.transport):
            return 0.0  # whether it takes that is the kernel's to say (tcp.keep_alive)
        return self.loop.time() - self._heard

    def data_received(self, data: bytes) -> None:
        self._heard = self.loop.time()
        super().data_received(data)
        if not self.handshake_initiated and self.conn.handshake_exc is not None:
            self.transport.abort()  # a handshake that cannot be read gets no answer

    def shutdown(self) -> None:
        if self.handshake_complete:
            super().shutdown()
        else:
            self.transport.abort()

    def handle_ping(self) -> None:
        if self.writable.is_set():
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


def _untaken(transport: asyncio.Transport) -> int:
    """Return how many bytes the kernel has that the peer's has not acknowledged."""
    with contextlib.suppress(ImportError, OSError):  # a system that does not tell
        import fcntl
        import termios

        descriptor = transport.get_extra_info("socket").fileno()
        return int.from_bytes(fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    return 0


class _Web(uvicorn.Server):
    """uvicorn, without its hold on signals: ours drain first."""

    servers: list[asyncio.base_events.Server]

    def __init__(self, options: Options, app: Starlette) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                ws=_Frames,
                ws_max_size=MAX_FRAME,
                ws_per_message_deflate=False,
                ws_ping_interval=options.limits.ping,
                # A pong waits in line behind what a slow reader has yet to read, so its
                # lateness alone proves nothing; the door asks `_silent_for`.
                ws_ping_timeout=None,
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                forwarded_allow_ips=options.forwarded_allow_ips,
                timeout_graceful_shutdown=1,
            )
        )
        self.config.load()
        self.config.ssl = options.tls
        self.servers = []
        self._roster = Roster(options.limits)
        """Of those who have no WebSocket: they ask by HTTP, or have not asked yet."""

    async def open(self, sockets: list[socket.socket]) -> None:
        """Let people in.  Raises OSError."""
        protocol = partial(
            _Requests,
            self._roster,
            config=self.config,
            server_state=self.server_state,
            app_state={},
        )
        for sock in sockets:
            self.servers.append(await tcp.open_server(protocol, sock=sock, ssl=self.config.ssl))

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().call_later(HANG_UP_SECONDS, self._hang_up)
        await super().shutdown(sockets)

    def _hang_up(self) -> None:
        """Let go of who is in the middle of asking, for a request that is cancelled makes noise."""
        for connection in [*self.server_state.connections]:
            if not isinstance(connection, WebSocketsSansIOProtocol):
                connection.transport.abort()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _stop_on_signals() -> asyncio.Event:
    """Return an event that the first SIGINT or SIGTERM sets; a second one ends it all now."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, on_signal, number)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda n, _: loop.call_soon_threadsafe(on_signal, n))
    return stop


def _listen(
    options: Options, stack: contextlib.ExitStack, doors: Collection[str], port: int
) -> list[socket.socket]:
    """Take a port on every address of the host.  Raises ServerError."""
    if not set(doors) & set(options.transports):
        return []
    taken: list[socket.socket] = []
    try:
        addresses = socket.getaddrinfo(
            options.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, _, _, _, address in dict.fromkeys(addresses):
            listener = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            # Linux hands these on to what connects; the TCP door sets them itself besides.
            tcp.keep_alive(listener, options.limits.ping)
            listener.bind(address)
            listener.listen(2048)
            listener.setblocking(False)
            taken.append(listener)
    except OSError as error:
        why = (
            "is in use; stop what has it, or choose another"
            if error.errno == errno.EADDRINUSE
            else f"cannot be opened: {error.strerror or error}"
        )
        option = "--tcp-port" if "tcp" in doors else "--port"
        raise ServerError(f"{options.host} port {port} {why} ({option})") from error
    return taken


def _url(scheme: str, listener: socket.socket, path: str, tls: bool) -> str:
    host, port = listener.getsockname()[:2]
    bracketed = f"[{host}]" if ":" in host else host
    return f"{scheme}{'s' if tls else ''}://{bracketed}:{port}{path}"
