"""The Socket.IO door: the first chatroom's events, for its clients, in the lobby.

A client's event becomes a command of the protocol, or two, and what the chat tells
becomes an event; in between stands `connection.serve`, as behind any other door.

python-socketio keeps the sessions and the two transports.  It means well with every
peer, so what a peer sends is read here first: the library sees only packets that it
can take, in the form in which it would have written them.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Collection, Coroutine, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

import orjson
import socketio
from attrs import define, evolve, field
from engineio.packet import NOOP, Packet
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from chat_transports.framed import OUTLET, Outlet, message, texts
from chat_transports.inbox import Inbox
from chat_transports.visitor import credentials, deny, same_origin
from chatcore import events, names
from chatcore.chat import LINGER_SECONDS, Chat
from chatcore.commands import Request
from chatcore.connection import serve
from chatcore.errors import ChatError, Invalid, Unauthenticated, UnknownCommand
from chatcore.events import Bye, Close, Event, Hello, Reply
from chatcore.model import LOBBY, RequestId, User
from chatcore.ports import Transport, Wire

LOW_WATER = 65_536
PONG_SECONDS = 20.0
"""What a peer has to answer a ping; less where pings come faster."""
JOIN_SECONDS = 30.0
"""How long a login lets its address join without a token, under `--legacy-join`."""

logger = logging.getLogger("chat_transports.socketio")


def app(
    chat: Chat,
    *,
    allow_origins: Collection[str] = (),
    legacy_join: LegacyJoin | None = None,
    server: str = "chatcore",
) -> ASGIApp:
    """Return an ASGI application to mount where clients look for Socket.IO: `/socket.io`.

        Starlette(routes=[Mount("/socket.io", socketio.app(chat)), …])

    It does not start the chat: see `websocket.lifespan`.  A page in a browser may
    connect when it is of our own origin, or of one of `allow_origins`.
    """
    return _Door(chat, allow_origins, legacy_join, server)


class LegacyJoin:
    """Lets the first chatroom's clients join: by a login from their address, just before.

    Those log in by HTTP and then join by name alone.  Give `remember` to `http.app`
    as its `on_login`, and this to `app`: then one login is good for one `join` under
    that name, from the same address, within JOIN_SECONDS.  Whoever shares the
    address, behind one proxy for instance, may be quicker and have it.

    `clock` gives seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tokens: dict[tuple[str, str], tuple[str, float]] = {}

    def remember(self, peer: str, user: User, token: str) -> None:
        now = self._clock()
        self._tokens = {key: kept for key, kept in self._tokens.items() if kept[1] > now}
        self._tokens[peer, user.username] = token, now + JOIN_SECONDS

    def take(self, peer: str, username: str) -> str | None:
        """Return the token of a login, once."""
        try:
            token, until = self._tokens.pop((peer, names.username(username)))
        except (KeyError, Invalid):
            return None
        return token if self._clock() < until else None


# The events.


class SocketIoWire:
    """Says in the first chatroom's events what the protocol says.

    A frame is one event's packet, `42["new_message", {…}]`, as a WebSocket has it.
    Commands are the protocol's, as `_commands` has made them; their `id` is the event's
    name.
    """

    def __init__(self, protocol: Wire) -> None:
        self._protocol = protocol

    def decode(self, frame: bytes) -> Request:
        return self._protocol.decode(frame)

    def encode(self, item: Hello | Event | Bye) -> bytes:
        match item:
            case events.Message(erased=False):
                return _event("new_message", _message(item))
            case events.Presence(online=online, offline=offline):
                came = [_coming("user_joined", name, "joined") for name in online or ()]
                went = [_coming("user_left", name, "left") for name in offline or ()]
                return b"".join([*came, *went])
            case events.MembershipChanged(change=change, room=room) if change in _REMOVED:
                # Other rooms are nothing to the first chatroom's clients.
                return _event("error", {"message": _REMOVED[change]}) if room.name == LOBBY else b""
            case events.Bye(reason=reason):
                return _event("error", {"message": f"The connection ends: {reason}"})
        return b""

    def reply(self, answer: Reply | ChatError, id: RequestId | None) -> bytes:
        match answer:
            case events.JoinReply(events=newest):
                messages = [
                    _message(each)
                    for each in newest
                    if isinstance(each, events.Message) and not each.erased
                ]
                return _event("message_history", {"messages": messages})
            case events.WhoReply(online=online):
                return _event("online_users", {"users": online})
            case Unauthenticated() if id == "join":
                return b""  # its login, just before, has been refused in so many words
            case Unauthenticated() if id == "enter":
                text = "Log in first: join takes the token that POST /login answers"
                return _event("error", {"message": text})
            case Unauthenticated() if id in ("send_message", "get_online_users"):
                return _event("error", {"message": "You must join the chat first"})
            case UnknownCommand():
                return _event("error", {"message": "There is no such event here"})
            case Invalid() if id is None:
                text = "An event has a name, and an object of its fields"
                return _event("error", {"message": text})
            case ChatError():
                return _event("error", {"message": answer.message})
        return b""


_REMOVED = {
    "kick": "You were removed from the chat",
    "ban": "You are banned from the chat",
    "mute": "You are muted: you may read, and not write",
}


def _event(name: str, payload: Mapping[str, object]) -> bytes:
    return message(b"%b%b\n" % (_EVENT, orjson.dumps([name, payload])))


def _message(message: events.Message) -> dict[str, object]:
    return {
        "username": message.sender,
        "content": message.content,
        "timestamp": _timestamp(message.timestamp),
    }


def _timestamp(moment: datetime) -> str:
    """The old clients split it at the space."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def _coming(event: str, username: str, verb: str) -> bytes:
    return _event(event, {"username": username, "message": f"{username} {verb} the chat"})


def _commands(event: str, payload: Mapping[str, Any], token: str | None) -> list[bytes]:
    """Return the protocol's frames that an event means."""
    enter = {"cmd": "join", "room": LOBBY}
    frames: list[dict[str, Any]]
    match event:
        case "join" if token is not None:
            frames = [{"cmd": "login", "id": "login", "token": token}, {**enter, "id": "join"}]
        case "join":
            frames = [{**enter, "id": "enter"}]
        case "send_message":
            given = {key: payload[key] for key in ("content", "txn_id") if key in payload}
            frames = [{"cmd": "send", "id": event, "room": LOBBY, "content": "", **given}]
        case "get_online_users":
            frames = [{"cmd": "who", "id": event, "room": LOBBY}]
        case "?":
            frames = [{}]  # what no client can say, and the protocol does not take
        case _:
            frames = [{"cmd": "?", "id": "?"}]
    return [orjson.dumps(frame) + b"\n" for frame in frames]


# The packets.

_PACKET = re.compile(
    r"4([012])"  # an Engine.IO message; a Socket.IO connect, disconnect or event
    r"(?:(/[\w./-]{0,100})(?:\?[^,]{0,1000})?,?)?"  # the namespace
    r"([0-9]{0,9})"  # the number of an acknowledgement
    r"(.*)",
    re.DOTALL | re.ASCII,
)
_EVENT = b"42"
_MALFORMED = '42["?"]'
_ENDS = "1"
_RESERVED = ("connect", "disconnect", "*")


def tame(packet: str, most: int) -> str:
    """Return an Engine.IO packet of a client in its plainest form; a malformed event for any other.

    Attachments, acknowledgements (none is ever asked for) and other namespaces' events
    are malformed too; so are the library's own events, and a packet of over `most`
    characters.
    """
    if packet in (_ENDS, "2probe", "3", "5"):
        return packet
    parts = _PACKET.fullmatch(packet) if len(packet) <= most else None
    if parts is None:
        return _MALFORMED
    kind, namespace, id, data = parts.groups()
    elsewhere = namespace not in (None, "/")
    try:
        fields = orjson.loads(data) if data else None
    except orjson.JSONDecodeError:
        return _MALFORMED
    match kind, fields:
        case "0", None | dict():
            auth = {"token": token} if (token := (fields or {}).get("token")) else {}
            return f"40{namespace + ',' if elsewhere else ''}{_plain(auth)}"
        case "1", None if not elsewhere:
            return "41"
        case "2", [str(name), *rest] if not elsewhere and name not in _RESERVED:
            match rest:
                case [] | [None, *_]:
                    return f"42{id}{orjson.dumps([name]).decode()}"
                case [dict(payload), *_]:
                    return f"42{id}[{orjson.dumps(name).decode()},{_plain(payload)}]"
    return _MALFORMED


def _plain(fields: Mapping[str, Any]) -> str:
    """Write an object without what may be nested in it: no field of ours is."""
    flat = {key: None if isinstance(value, dict | list) else value for key, value in fields.items()}
    return orjson.dumps(flat).decode()


# The door.


class _Server(socketio.AsyncServer):  # type: ignore[misc] # it has no types
    async def _handle_eio_message(self, eio_sid: str, data: Any) -> None:
        # The engine hands on what comes after its own end, when nothing is there to take it.
        if eio_sid in self.environ:
            await super()._handle_eio_message(eio_sid, data)


class _Door:
    """The library's server behind a guard, and a link for each client that it lets in."""

    def __init__(
        self,
        chat: Chat,
        allow_origins: Collection[str],
        legacy_join: LegacyJoin | None,
        server: str,
    ) -> None:
        self._chat = chat
        self._allow_origins = allow_origins
        self._legacy_join = legacy_join
        self._name = server
        self._wire = SocketIoWire(chat.wire)
        self._clients: dict[str, _Client] = {}
        self._outlets: dict[str, Outlet | None] = {}
        """Of the WebSockets that polling sessions go on with, one each."""
        self._lives: set[asyncio.Task[None]] = set()
        library_log = logging.getLogger("chat_transports.socketio.library")
        library_log.setLevel(logging.ERROR)  # it warns of every mistake of every peer
        ping = max(1.0, chat.limits.ping)  # the engine announces whole seconds
        self._library = _Server(
            async_mode="asgi",
            always_connect=True,  # else the first events would overtake the acceptance
            async_handlers=False,  # events are taken in their order, and the next waits for room
            ping_interval=ping,
            ping_timeout=min(ping, PONG_SECONDS),
            max_http_buffer_size=chat.limits.frame_bytes,
            http_compression=False,
            cors_allowed_origins=lambda _, environ: same_origin(
                _connection(environ), allow_origins
            ),
            logger=library_log,
            engineio_logger=library_log,
        )
        self._library.on("connect", self._connect)
        self._library.on("disconnect", self._disconnect)
        self._library.on("*", self._event)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return
        first = await receive()
        if scope["type"] == "websocket":
            tamed: Receive = self._tamed(first, receive)
        else:
            body = await self._body(scope, first, receive)
            if body is None:
                await _refuse(scope, receive, send, 400, "The body is too long, or no text")
                return
            scope = _with_length(scope, len(body))
            tamed = _once({"type": "http.request", "body": body, "more_body": False}, receive)
        passing = self._pass(scope, tamed, first, receive, send)
        if scope["type"] == "websocket":
            await passing
        else:
            await self._answer(scope, passing, receive)

    async def _pass(
        self, scope: Scope, tamed: Receive, first: Message, receive: Receive, send: Send
    ) -> None:
        # From here to the library's own look at the session nothing else runs.
        refusal = self._refusal(scope)
        if refusal is not None:
            await _refuse(scope, _once(first, receive), send, *refusal)
            return
        sid = _sid(scope)
        if not sid or scope["type"] != "websocket":
            await self._library.handle_request(scope, tamed, send)
            return
        self._outlets[sid] = _outlet(scope)
        try:
            await self._library.handle_request(scope, tamed, send)
        finally:
            del self._outlets[sid]

    async def _answer(
        self, scope: Scope, passing: Coroutine[Any, Any, None], receive: Receive
    ) -> None:
        """Have a poll answered, and take a peer that hangs up on it for gone."""
        answering = asyncio.ensure_future(passing)
        listening = asyncio.ensure_future(receive())
        try:
            await asyncio.wait([answering, listening], return_when="FIRST_COMPLETED")
            session = self._session(scope)
            if not answering.done() and session is not None:
                await end(session)
            await answering
        finally:
            listening.cancel()

    def _session(self, scope: Scope) -> Any:
        return self._library.eio.sockets.get(_sid(scope))

    # The guard.

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Say why a request does not get to the library."""
        try:
            self._chat.check_started()
        except RuntimeError as error:
            logger.error("%s", error)  # noqa: TRY400 - one line
            return 503, str(error)
        if self._chat.closing:
            return 503, "The server is shutting down"
        if not same_origin(HTTPConnection(scope), self._allow_origins):
            return 403, "This page's origin is not allowed: see allow_origins (--allow-origin)"
        query = parse_qs(scope["query_string"].decode("ascii", "replace"))
        transport = "websocket" if scope["type"] == "websocket" else "polling"
        if query.get("transport", ["polling"])[0] != transport:
            return 400, "Another transport was announced"
        if query.get("EIO") != ["4"]:
            return 400, "Engine.IO 4 is spoken here: EIO=4"
        if "j" in query:
            return 400, "JSONP is not spoken here"
        if "sid" in query:
            session = self._session(scope)
            if not session or session.closed:
                return 400, "There is no such session"
            if transport == "websocket" and query["sid"][0] in self._outlets:
                return 400, "The session has a WebSocket already"
            return None
        most, peer = self._chat.limits.address_connections, _peer(scope)
        environs = self._library.environ.values()
        if most is not None and sum(_peer(each["asgi.scope"]) == peer for each in environs) >= most:
            return 429, f"Your address has {most} connections; close one first"
        return None

    def _tamed(self, first: Message, receive: Receive) -> Receive:
        once = _once(first, receive)

        async def tamed() -> Message:
            message = await once()
            if message["type"] == "websocket.receive":
                text = message.get("text") or ""
                return {**message, "bytes": None, "text": tame(text, self._most)}
            return message

        return tamed

    async def _body(self, scope: Scope, message: Message, receive: Receive) -> bytes | None:
        """Return the packets of a POST, tamed; None where they are too long, cut off or no text."""
        body = message.get("body", b"")
        while message.get("more_body") and len(body) <= self._most:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
        if scope["method"] != "POST" or not body:
            return b""
        try:
            packets = body.decode().split("\x1e")
        except UnicodeDecodeError:
            return None
        if len(body) > self._most or len(packets) > 16:
            return None
        plain = []
        for packet in packets:
            tamed = tame(packet, self._most)
            # Upgrading is for a WebSocket to do.
            plain.append(_MALFORMED if tamed in ("2probe", "5") else tamed)
            if tamed == _ENDS:
                break
        return "\x1e".join(plain).encode()

    @property
    def _most(self) -> int:
        return self._chat.limits.frame_bytes

    # What the library calls.

    async def _connect(self, sid: str, environ: Mapping[str, Any], auth: Any) -> None:
        known = credentials(_connection(environ))
        eio_sid = self._library.manager.eio_sid_from_sid(sid, "/")
        scope = environ["asgi.scope"]
        link = SocketIoLink(
            self._library,
            sid,
            eio_sid,
            self._wire,
            lambda: _outlet(scope) or self._outlets.get(eio_sid),
        )
        token = auth["token"] if auth and isinstance(auth["token"], str) else known.token
        self._clients[sid] = _Client(link, known.peer, token)
        # The token waits for `join`, so that nobody is anybody before it.
        life = asyncio.ensure_future(self._live(link, evolve(known, token=None)))
        self._lives.add(life)
        life.add_done_callback(self._lives.discard)

    async def _live(self, link: SocketIoLink, known: Any) -> None:
        try:
            await serve(self._chat, link, known, server=self._name)
        except RuntimeError as error:  # the chat is not running any more
            logger.error("a connection was refused: %s", error)  # noqa: TRY400 - one line
            link.close(Close.SHUTDOWN, "shutdown")

    async def _disconnect(self, sid: str, _: str) -> None:
        client = self._clients.pop(sid, None)
        if client is not None:
            client.link.gone()

    async def _event(self, event: str, sid: str, *payloads: dict[str, Any]) -> None:
        client = self._clients.get(sid)
        if client is None:
            return
        payload = payloads[0] if payloads else {}
        token = self._token(client, payload) if event == "join" else None
        for frame in _commands(event, payload, token):
            await client.link.take(frame)

    def _token(self, client: _Client, payload: Mapping[str, Any]) -> str | None:
        """Return what proves who joins."""
        token = payload.get("token")
        if isinstance(token, str):
            return token
        if client.token is None and self._legacy_join is not None:
            client.token = self._legacy_join.take(client.peer, str(payload.get("username")))
        return client.token


@define
class _Client:
    link: SocketIoLink
    peer: str
    token: str | None = field(repr=False)
    """To join with, where `join` brings none."""


class SocketIoLink:
    """A Link on one Socket.IO session: what comes is put into it, one task takes out.

    The library queues without bound, so no more is given to it than LOW_WATER beyond
    what the transport has taken.  Once there is an `outlet`, what is written goes there.
    """

    def __init__(
        self,
        library: Any,
        sid: str,
        eio_sid: str,
        wire: Wire,
        find_outlet: Callable[[], Outlet | None] = lambda: None,
    ) -> None:
        self.wire = wire
        self._find_outlet = find_outlet
        self._outlet: Outlet | None = None
        self._changed: Callable[[], None] | None = None
        self._library = library
        self._sid = sid
        self._eio_sid = eio_sid
        self._session = library.eio.sockets[eio_sid]
        self._room = asyncio.Event()
        self._inbox = Inbox(self._room.set)
        self._waiting: list[bytes] = []
        self._pending = 0
        self._written = asyncio.Event()
        self._drained = asyncio.Event()
        self._drained.set()
        self._close: int | None = None
        self._gone = False
        self._writer = asyncio.ensure_future(self._write())

    # What the library's events call.

    async def take(self, frame: bytes) -> None:
        """Take a frame from the peer, and return when there is room for another."""
        if not self._inbox.put(frame):
            self._room.clear()
            await self._room.wait()

    def gone(self) -> None:
        """The session is over: nothing that waits will be taken."""
        self._gone = True
        self._tell()
        self._inbox.finish()
        self._room.set()
        # The library would leave a poll that is open without an answer, for 45 seconds.
        self._session.queue.put_nowait(Packet(NOOP))
        if self._close is None:
            self._writer.cancel()

    # What the core calls.

    @property
    def pending(self) -> int:
        return self._pending if self._outlet is None else self._outlet.pending

    @property
    def straight(self) -> Transport | None:
        if self._outlet is None or self._close is not None or self._gone:
            return None
        return self._outlet.straight

    def watch(self, changed: Callable[[], None] | None) -> None:
        self._changed = changed
        if self._outlet is not None:
            self._outlet.watch(changed)

    def _tell(self) -> None:
        if self._changed is not None:
            self._changed()

    async def receive(self) -> bytes:
        return await self._inbox.get()

    def write(self, data: bytes) -> None:
        if self._close is not None or self._gone or not data:
            return
        if self._outlet is not None:
            self._outlet.write(data)
            return
        self._waiting.append(data)
        self._pending += len(data)
        if self._pending > LOW_WATER:
            self._drained.clear()
        self._written.set()

    async def drained(self) -> None:
        await (self._drained.wait() if self._outlet is None else self._outlet.drained())

    def close(self, code: int, reason: str) -> None:
        if self._close is not None:
            return
        self._close = code
        self._tell()
        self._inbox.close()
        self._room.set()
        self._written.set()
        asyncio.get_running_loop().call_later(LINGER_SECONDS, self._writer.cancel)

    async def closed(self) -> None:
        await asyncio.wait([self._writer])

    async def _write(self) -> None:
        try:
            while self._close is None or self._waiting:
                await self._written.wait()
                self._written.clear()
                outlet = self._find_outlet() if self._session.upgraded else None
                if outlet is not None and self._outlet is None:
                    await self._settle()
                    self._go_straight(outlet)
                waiting, self._waiting = self._waiting, []
                await self._give(waiting)
            if self._close >= Close.BAD_TOKEN and not self._gone:
                # Clients who hear it in so many words do not come back by themselves.
                await self._library.disconnect(self._sid)
                await self._session.queue.join()
        except asyncio.CancelledError:
            pass  # kept in the task, it would hold the task, and all this, in a circle
        finally:
            self.watch(None)
            self._outlet = None
            self._waiting.clear()
            self._pending = 0
            self._drained.set()
            await end(self._session)

    async def _settle(self) -> None:
        """Return once all that the library was given is with the WebSocket.

        The library takes what is queued at once, and what comes then when that is written:
        so with the second of two the first, and all before it, is.
        """
        for _ in range(2):
            self._session.queue.put_nowait(Packet(NOOP))
            await self._session.queue.join()

    def _go_straight(self, outlet: Outlet) -> None:
        waiting, self._waiting, self._pending = self._waiting, [], 0
        self._outlet = outlet
        self._drained.set()
        outlet.watch(self._changed)
        outlet.write(b"".join(waiting))
        self._tell()

    async def _give(self, waiting: list[bytes]) -> None:
        given = 0
        for data in waiting:
            for packet in texts(data):
                await self._library.eio.send(self._eio_sid, packet[1:].decode())
            given += len(data)
            if given >= LOW_WATER or data is waiting[-1]:
                await self._session.queue.join()  # the transport has taken all of it
                self._pending -= given
                given = 0
                if self._pending <= LOW_WATER:
                    self._drained.set()


async def end(session: Any) -> None:
    """End the library's session and its transport, without waiting for the peer."""
    if not session.closed:
        await session.close(wait=False, abort=True)
        session.queue.put_nowait(None)  # the library's word for an end


# Small change of ASGI.


def _connection(environ: Mapping[str, Any]) -> HTTPConnection:
    return HTTPConnection(environ["asgi.scope"])


def _sid(scope: Scope) -> str:
    """Return the session that a request names, or nothing."""
    query: dict[str, list[str]] = parse_qs(scope["query_string"].decode("ascii", "replace"))
    return query.get("sid", [""])[0]


def _outlet(scope: Scope) -> Outlet | None:
    found: Outlet | None = scope.get("extensions", {}).get(OUTLET)
    return found


def _peer(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else ""


def _once(first: Message, receive: Receive) -> Receive:
    """Return a `receive` that gives a message that was received already, and then goes on."""
    waiting = [first]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again


def _with_length(scope: Scope, length: int) -> Scope:
    kept = [header for header in scope["headers"] if header[0] != b"content-length"]
    return {**scope, "headers": [*kept, (b"content-length", str(length).encode())]}


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, text: str) -> None:
    if scope["type"] == "websocket":
        websocket = WebSocket(scope, receive, send)
        await websocket.receive()
        await deny(websocket, status, text)
    else:
        await JSONResponse({"message": text}, status)(scope, receive, send)
