"""The WebSocket door: a route for any ASGI application, or an application of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from chat_transports.inbox import Inbox
from chat_transports.visitor import credentials, deny, same_origin
from chatcore.chat import LINGER_SECONDS, Chat
from chatcore.connection import serve
from chatcore.events import Bye, Close
from chatcore.model import MAX_FRAME
from chatcore.ports import Wire

SUBPROTOCOL = "chat.v1"
SILENT_FOR = "chatcore.silent_for"
"""An extension of our server's scope: says for how many seconds nothing has come from the
peer, not even a pong, though it has taken all that was sent; 0 while it has not."""
LOW_WATER = 65_536
REASON_CHARACTERS = 100
"""A close frame has room for 123 bytes; ours are nearly all ASCII."""

logger = logging.getLogger("chat_transports.websocket")


def app(chat: Chat, *, allow_origins: Collection[str] = (), server: str = "chatcore") -> Starlette:
    """Return an ASGI application with the chat at `/ws`, to serve or to mount anywhere.

    It does not start the chat, for nobody runs the lifespan of what is mounted: give
    your application `lifespan(chat)`, or enter the chat in the lifespan that it has.
    """
    return Starlette(
        routes=[
            route(chat, allow_origins=allow_origins, server=server),
            nothing_here("/ws"),  # else the answer would be 403
        ]
    )


def lifespan(chat: Chat) -> Callable[[object], AbstractAsyncContextManager[None]]:
    """Return a lifespan for Starlette or FastAPI that runs a chat."""

    @asynccontextmanager
    async def running(_: object) -> AsyncIterator[None]:
        async with chat:
            yield

    return running


def route(
    chat: Chat, path: str = "/ws", *, allow_origins: Collection[str] = (), server: str = "chatcore"
) -> WebSocketRoute:
    """Return the WebSocket's route, for an application that has its own.

    A browser comes from the same origin, or from one of `allow_origins`
    (`https://example.org`), or is refused with 403 (RFC 6455, section 10.2).
    """

    async def endpoint(websocket: WebSocket) -> None:
        if not same_origin(websocket, allow_origins):
            logger.info("refused a page from %s", websocket.headers["origin"])
            await deny(
                websocket,
                403,
                "This page's origin is not allowed: see allow_origins (--allow-origin)",
            )
            return
        try:
            chat.check_started()
        except RuntimeError as error:
            logger.error("%s", error)  # noqa: TRY400 - one line
            await deny(websocket, 503, str(error))
            return
        if chat.closing:
            await deny(websocket, 503, "The server is shutting down; come back soon")
            return
        offered = websocket.scope.get("subprotocols", [])
        await websocket.accept(subprotocol=SUBPROTOCOL if SUBPROTOCOL in offered else None)
        link = WebSocketLink(websocket, chat.wire)
        link.end_silent(2 * chat.limits.ping)
        await serve(chat, link, credentials(websocket), server=server)

    return WebSocketRoute(path, endpoint)


def nothing_here(*paths: str) -> WebSocketRoute:
    """Return a route that stands after all others: 404, and where the chat is."""

    async def endpoint(websocket: WebSocket) -> None:
        await deny(websocket, 404, f"There is nothing here; the chat is at {' and '.join(paths)}")

    return WebSocketRoute("/{path:path}", endpoint)


class WebSocketLink:
    """A Link through plain ASGI: one task brings messages in, one takes them out."""

    def __init__(self, websocket: WebSocket, wire: Wire) -> None:
        self.wire = wire
        self._websocket = websocket
        self._room = asyncio.Event()
        self._inbox = Inbox(self._room.set)
        self._waiting: list[bytes] = []
        self._pending = 0
        self._written = asyncio.Event()
        self._drained = asyncio.Event()
        self._drained.set()
        self._close: tuple[int, str] | None = None
        self._watching: asyncio.TimerHandle | None = None
        self._reader = asyncio.ensure_future(self._read())
        self._writer = asyncio.ensure_future(self._write())

    async def _read(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):  # see _write
            await self._read_on()

    async def _read_on(self) -> None:
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                self._gone()
                return
            text = message.get("text")
            if text is None:
                self._say_bye(Close.PROTOCOL, "a binary message; send text", reconnect=False)
            elif len(text) > MAX_FRAME:  # a server that has no bound of its own
                self.close(1009, "message too big")
            elif not self._inbox.put(text.encode()):
                self._room.clear()
                await self._room.wait()

    async def _write(self) -> None:
        try:
            while self._close is None or self._waiting:
                await self._written.wait()
                self._written.clear()
                waiting, self._waiting = self._waiting, []
                for data in waiting:
                    # The wire's frames end in a newline and have none inside.
                    for frame in data.splitlines():
                        await self._websocket.send_text(frame.decode())
                    self._pending -= len(data)
                    if self._pending <= LOW_WATER:
                        self._drained.set()
            code, reason = self._close
            await self._websocket.close(code, reason[:REASON_CHARACTERS])
        except (WebSocketDisconnect, RuntimeError):
            pass  # the peer, or the server, was quicker
        except asyncio.CancelledError:
            pass  # kept in the task, it would hold the task, and all this, in a circle
        finally:
            self._pending = 0
            self._drained.set()

    def end_silent(self, seconds: float) -> None:
        """Say bye to a peer that has been silent for so long, where the server can tell.

        Silent is not slow: a slow one has not taken all yet.
        """
        silent_for = self._websocket.scope.get("extensions", {}).get(SILENT_FOR)
        if silent_for is None:
            return
        left = seconds - silent_for()
        if left <= 0:
            self._say_bye(Close.SILENT, "silent for too long", reconnect=True)
        elif self._close is None and not self._writer.done():
            loop = asyncio.get_running_loop()
            self._watching = loop.call_later(max(left, seconds / 8), self.end_silent, seconds)

    def _say_bye(self, code: Close, reason: str, *, reconnect: bool) -> None:
        self.write(self.wire.encode(Bye(code, reason, reconnect)))
        self.close(code, reason)

    def _gone(self) -> None:
        """The peer left: nothing that waits will be taken."""
        self._inbox.finish()
        self._writer.cancel()

    @property
    def pending(self) -> int:
        return self._pending

    async def receive(self) -> bytes:
        return await self._inbox.get()

    def write(self, data: bytes) -> None:
        if self._close is not None or self._writer.done():
            return
        self._waiting.append(data)
        self._pending += len(data)
        if self._pending > LOW_WATER:
            self._drained.clear()
        self._written.set()

    async def drained(self) -> None:
        await self._drained.wait()

    def close(self, code: int, reason: str) -> None:
        if self._close is not None:
            return
        self._close = (code, reason)
        self._inbox.close()
        self._written.set()
        asyncio.get_running_loop().call_later(LINGER_SECONDS, self._writer.cancel)

    async def closed(self) -> None:
        await asyncio.wait([self._writer])
        if self._watching is not None:
            self._watching.cancel()
        self._reader.cancel()
        await asyncio.wait([self._reader])
