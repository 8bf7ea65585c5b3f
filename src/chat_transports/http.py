"""The HTTP door: accounts, and rooms for programs that ask once and go.

The same use cases as any other door's, and the same words: the fields of a path, a query
or a body are read by the protocol's own codec.  `/register` and `/login` answer in the
form of the first chatroom, everything else `{"error": …}` with the protocol's codes;
what nobody was asked for, an unknown path say, is answered in both.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from math import ceil
from typing import Any, TypeAlias

import orjson
from attrs import evolve
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from chat_transports.endpoints import ENDPOINTS, Asked, Endpoint
from chat_transports.openapi import document
from chat_transports.visitor import credentials, same_origin
from chatcore import commands
from chatcore.accounts import Token
from chatcore.answering import answer
from chatcore.chat import Chat
from chatcore.commands import Command
from chatcore.errors import (
    ChatError,
    Conflict,
    Forbidden,
    Internal,
    Invalid,
    NotFound,
    TooLarge,
    Unauthenticated,
    Unavailable,
)
from chatcore.events import CreateReply, LoginReply, Reply, SendReply
from chatcore.model import User

Answering: TypeAlias = Callable[[Request], Awaitable[Response]]
LoggedIn: TypeAlias = Callable[[str, User, str], object]
"""Is told of a login: from which address, whose, and the token that was given."""

STATUS = {
    "invalid": 400,
    "unknown_command": 400,
    "unauthenticated": 401,
    "bad_credentials": 401,
    "forbidden": 403,
    "not_member": 403,
    "banned": 403,
    "muted": 403,
    "not_found": 404,
    "conflict": 409,
    "txn_conflict": 409,
    "too_large": 413,
    "rate_limited": 429,
    "internal": 500,
    "unavailable": 503,
    "storage_full": 507,
}
"""For each of the protocol's codes."""

logger = logging.getLogger("chat_transports.http")


def app(
    chat: Chat,
    *,
    allow_origins: Collection[str] = (),
    server: str = "chatcore",
    on_login: LoggedIn | None = None,
) -> Starlette:
    """Return an ASGI application with the HTTP endpoints, to serve or to mount anywhere.

    It does not start the chat: see `websocket.lifespan`.  A page in a browser may ask
    when it is of our own origin, or of one of `allow_origins`.
    """
    door = _Door(chat, allow_origins, server, on_login)
    routes = [
        Route("/", door.home),
        Route("/register", door.account(door.register, "Registration"), methods=["POST"]),
        Route("/login", door.account(door.login, "Login"), methods=["POST"]),
        Route("/logout", door.endpoint(door.logout), methods=["POST"]),
        Route("/password", door.endpoint(door.password), methods=["POST"]),
        *(
            Route(path, door.endpoint(door.commands(methods)), methods=[*methods])
            for path, methods in ENDPOINTS.items()
        ),
        Route("/openapi.json", door.openapi),
        Route("/healthz", door.healthz),
        Route("/readyz", door.endpoint(door.readyz)),
    ]
    cors = Middleware(
        CORSMiddleware,
        allow_origins=[*allow_origins],
        allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=["authorization", "content-type"],
        expose_headers=["retry-after"],
    )
    made = Starlette(
        routes=routes,
        middleware=[cors] if allow_origins else [],
        exception_handlers={HTTPException: _no_endpoint, Exception: _defect},
    )
    made.router.redirect_slashes = False  # an unknown path is unknown
    return made


class _Door:
    def __init__(
        self, chat: Chat, allow_origins: Collection[str], server: str, on_login: LoggedIn | None
    ) -> None:
        self._chat = chat
        self._allow_origins = allow_origins
        self._server = server
        self._on_login = on_login

    # How any endpoint is called, and how it says what went wrong.

    def endpoint(self, asked: Answering) -> Answering:
        async def call(request: Request) -> Response:
            try:
                self._check_open(request)
                return await asked(request)
            except ChatError as error:
                return self._error(error)

        return call

    def account(self, asked: Answering, action: str) -> Answering:
        async def call(request: Request) -> Response:
            try:
                self._check_open(request)
                return await asked(request)
            except ChatError as error:
                status, message = _status(error), error.message
                if status >= 500 and error.retry_after is None:  # the database's failures
                    status, message = 500, f"{action} failed: {error.message}"
                return _json({"success": False, "message": message}, status, _headers(error))

        return call

    def _check_open(self, request: Request) -> None:
        reads = request.method in ("GET", "HEAD")
        if not reads and not same_origin(request, self._allow_origins):
            raise Forbidden("This page's origin is not allowed: see allow_origins (--allow-origin)")
        if self._chat.closing:
            raise Unavailable("The server is shutting down; come back soon", retry_after=1.0)
        try:
            self._chat.check_started()
        except RuntimeError as error:
            logger.error("%s", error)  # noqa: TRY400 - one line
            raise Unavailable("The server is not running", retry_after=1.0) from None

    def _error(self, error: ChatError) -> Response:
        return _respond(self._chat.wire.reply(error, None), _status(error), _headers(error))

    # Accounts.

    async def register(self, request: Request) -> Response:
        known = await self._let_in(request)
        if known is not None:
            raise Conflict(f"Logged in as {known.username}; log out first")
        username, password = await self._name_and_password(request)
        await self._chat.register(username, password, peer=credentials(request).peer)
        return _json({"success": True, "message": "Registration successful"}, 201)

    async def login(self, request: Request) -> Response:
        known = await self._let_in(request)
        username, password = await self._name_and_password(request)
        peer = credentials(request).peer
        user = await self._chat.login(username, password, peer=peer)
        if known is not None and known.username != user.username:
            raise Conflict(f"Logged in as {known.username}; log out first")
        token = await self._chat.issue_token(user)
        if self._on_login is not None:
            self._on_login(peer, user, token.secret)
        fields = self._fields(LoginReply(user, token.secret, token.expires, []))
        return _json(
            {
                "success": True,
                "message": "Login successful",
                "token": token.secret,
                "username": user.username,
                "expires": fields["expires"],
            }
        )

    async def _let_in(self, request: Request) -> User | None:
        """Return whom the host knows, as of a connection; a token has no say in it.

        Raises what the host does where it lets no strangers in.
        """
        known = await self._chat.authenticate(evolve(credentials(request), token=None))
        return known[0] if known is not None else None

    async def _name_and_password(self, request: Request) -> tuple[str, str]:
        fields = await self._given(request)
        if not fields:
            raise Invalid("No data provided")
        if type(fields) is not dict:
            raise Invalid("The body is not a JSON object")
        given = [fields.get(name) for name in ("username", "password")]
        if not all(given):
            raise Invalid("Username and password are required")
        match given:
            case [str(username), str(password)]:
                return username, password
        raise Invalid("Username and password are strings")

    async def logout(self, request: Request) -> Response:
        user, token = await self._who(request)
        command = self._command("logout", await self._body(request))
        assert isinstance(command, commands.Logout)
        await self._chat.logout(token, user, everywhere=command.everywhere)
        return _json({"success": True, "message": "Logged out"})

    async def password(self, request: Request) -> Response:
        user, token = await self._who(request)
        command = self._command("password", await self._body(request))
        assert isinstance(command, commands.Password)
        await self._chat.change_password(
            user, command.old, command.new, end_others=command.end_others, token=token
        )
        return _json({"success": True, "message": "Password changed"})

    async def _who(self, request: Request) -> tuple[User, Token | None]:
        known = await self._chat.authenticate(credentials(request))
        if known is None:
            raise Unauthenticated("Log in first, and send the token as Authorization: Bearer")
        return known

    # Whatever is a command and no more.

    def commands(self, methods: Mapping[str, Endpoint]) -> Answering:
        async def call(request: Request) -> Response:
            user, _ = await self._who(request)
            endpoint = methods["GET" if request.method == "HEAD" else request.method]
            if endpoint.in_query:
                if await _has_body(request):
                    raise Invalid(f"{request.method} takes no body: its fields are in the query")
                fields = endpoint.read(request.query_params)
            else:
                fields = await self._body(request)
            command = self._command(endpoint.word, fields, **endpoint.read(request.path_params))
            assert isinstance(command, Asked)
            return self._reply(await answer(self._chat, user, command))

        return call

    # What is asked about the server itself.

    async def home(self, request: Request) -> Response:
        root = request.scope.get("root_path", "")
        return _json({"server": self._server, "api": f"{root}/openapi.json"})

    async def openapi(self, request: Request) -> Response:
        return _json(document(self._server, request.scope.get("root_path", "") or "/"))

    async def healthz(self, request: Request) -> Response:
        """The process answers; whether it can do anything is `readyz`'s to say."""
        return _json({"status": "alive"})

    async def readyz(self, request: Request) -> Response:
        if self._chat.failure is not None:
            raise Unavailable("The journal failed; nothing can be stored")
        await self._chat.rooms(_NOBODY, limit=1)  # the database answers
        return _json({"status": "ready"})

    # Bodies and replies.

    async def _body(self, request: Request) -> dict[str, Any]:
        """Return a body's fields, none where there is no body.  Raises Invalid, TooLarge."""
        if request.query_params:
            raise Invalid(f"{request.method} takes no query: its fields are in the body")
        fields = await self._given(request)
        if type(fields) is not dict:  # nor what is as good as nothing: it may be a mistake
            raise Invalid("The body is not a JSON object")
        return fields

    async def _given(self, request: Request) -> Any:
        """Return what a body says, `{}` where there is none.  Raises Invalid, TooLarge."""
        most = self._chat.limits.frame_bytes
        body = bytearray()
        async for part in _parts(request):
            body += part
            if len(body) > most:
                raise TooLarge(f"A request's body has at most {most} bytes")
        if not body:
            return {}
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _JSON:
            raise _NotJson(f"Send the body as Content-Type: {_JSON}")
        try:
            return orjson.loads(bytes(body))
        except orjson.JSONDecodeError:
            raise Invalid("The body is not JSON") from None

    def _command(self, cmd: str, fields: Mapping[str, Any], **path: Any) -> Command:
        """Have the protocol's codec read a command's fields.  Raises Invalid."""
        if extra := {"cmd", "id", *path} & fields.keys():
            raise Invalid(f"{cmd}: there is no field {min(extra)!r}")
        try:
            frame = orjson.dumps({"cmd": cmd, **fields, **path})
        except orjson.JSONEncodeError:  # it reads deeper than it writes
            raise Invalid(f"{cmd}: a field is nested too deeply") from None
        request = self._chat.wire.decode(frame)
        if isinstance(request.command, ChatError):
            raise request.command
        return request.command

    def _reply(self, reply: Reply) -> Response:
        sent = isinstance(reply, SendReply) and not reply.duplicate
        created = sent or isinstance(reply, CreateReply)
        return _json(self._fields(reply), 201 if created else 200)

    def _fields(self, reply: Reply) -> dict[str, Any]:
        """Return a reply's fields, which are those of the other doors."""
        fields: dict[str, Any] = orjson.loads(self._chat.wire.reply(reply, None))
        del fields["reply"], fields["id"]
        return fields


class _NotJson(Invalid):
    """The protocol has one code for all that it cannot read; HTTP has a status for this."""


_JSON = "application/json"
_NOBODY = User("", "")


async def _has_body(request: Request) -> bool:
    async for part in _parts(request):
        if part:
            return True
    return False


async def _parts(request: Request) -> AsyncIterator[bytes]:
    try:
        async for part in request.stream():
            yield part
    except ClientDisconnect:
        raise Invalid("The body is not whole") from None


def _status(error: ChatError) -> int:
    if isinstance(error, _NotJson):
        return 415
    return STATUS.get(error.code, 403)  # a code of a host's own policy


def _headers(error: ChatError) -> dict[str, str]:
    headers: dict[str, str] = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(ceil(error.retry_after))
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, TooLarge):
        headers["Connection"] = "close"  # the rest of the body is not read
    return headers


def _json(
    fields: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    return _respond(orjson.dumps(fields), status, headers)


def _respond(body: bytes, status: int, headers: Mapping[str, str] | None = None) -> Response:
    sent = {"Cache-Control": "no-store", **(headers or {})}
    return Response(body, status, media_type=_JSON, headers=sent)


async def _no_endpoint(_: Request, error: Exception) -> Response:
    """Answer for a path or a method that there is not, in both forms."""
    assert isinstance(error, HTTPException)
    match error.status_code:
        case 404:
            code, text = NotFound.code, "Not found"
        case 405:
            code, text = Invalid.code, "Method not allowed"
        case _:
            code, text = Invalid.code, error.detail
    return _json(_both(code, text), error.status_code, error.headers)


async def _defect(_: Request, __: Exception) -> Response:
    """Answer for a defect; Starlette raises it once more, for the server's log."""
    return _json(_both(Internal.code, "Internal server error"), 500)


def _both(code: str, text: str) -> dict[str, Any]:
    error = {"code": code, "message": text, "retryable": False}
    return {"success": False, "message": text, "error": error}
