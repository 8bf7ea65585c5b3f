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

import uvicorn
from attrs import frozen
from starlette.applications import Starlette
from starlette.routing import BaseRoute, Mount

import chatcore
from chat_transports import http, tcp, websocket
from chat_transports.server import protocols
from chatcore.chat import Chat
from chatcore.errors import ChatError, SchemaError
from chatcore.model import MAX_FRAME, Limits
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
SLOW_READERS_PONG = 300.0
"""As the guide to embedding has it; a shorter wait would cut slow readers off."""
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
    gc.freeze()  # what the start-up has made never dies
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


class _Web(uvicorn.Server):
    """uvicorn, without its hold on signals: ours drain first."""

    servers: list[asyncio.base_events.Server]

    def __init__(self, options: Options, app: Starlette) -> None:
        frames = protocols.websockets()
        super().__init__(
            uvicorn.Config(
                app,
                ws=frames or "auto",
                ws_max_size=MAX_FRAME,
                ws_per_message_deflate=False,
                ws_ping_interval=options.limits.ping,
                # A pong waits in line behind what a slow reader has yet to read, so its
                # lateness alone proves nothing; the door asks `silent_for`, where it can.
                ws_ping_timeout=None if frames else SLOW_READERS_PONG,
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
        # Of those who have no WebSocket: they ask by HTTP, or have not asked yet.
        roster = Roster(options.limits)
        self._requests: Callable[..., asyncio.Protocol] = (
            protocols.requests(roster) or self.config.http_protocol_class
        )

    async def open(self, sockets: list[socket.socket]) -> None:
        """Let people in.  Raises OSError."""
        protocol = partial(
            self._requests,
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
        websockets = self.config.ws_protocol_class
        assert websockets is not None  # for they are installed with us
        for connection in [*self.server_state.connections]:
            if not isinstance(connection, websockets):
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
            tcp.tune(listener, options.limits.ping)
            listener.bind(address)
            listener.listen(tcp.BACKLOG)
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
