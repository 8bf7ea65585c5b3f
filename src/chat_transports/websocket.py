"""The WebSocket door: a route for any ASGI application, or an application of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial

from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from chat_transports.framed import OUTLET, REASON_CHARACTERS, FramedLink, FramedWire, Outlet
from chat_transports.inbox import Inbox
from chat_transports.visitor import credentials, deny, same_origin
from chatcore.chat import LINGER_SECONDS, Chat
from chatcore.connection import serve
from chatcore.events import Bye, Close
from chatcore.model import MAX_FRAME
from chatcore.ports import Wire

SUBPROTOCOL = "chat.v1"
LOW_WATER = 65_536

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
    framed = FramedWire(chat.wire)

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
        outlet: Outlet | None = websocket.scope.get("extensions", {}).get(OUTLET)
        if outlet is None:
            link = WebSocketLink(websocket, chat.wire)
            await serve(chat, link, credentials(websocket), server=server)
        else:
            framed_link = FramedLink(framed, outlet, silence=2 * chat.limits.ping)
            outlet.go_on_with(
                partial(serve, chat, framed_link, credentials(websocket), server=server)
            )

    return WebSocketRoute(path, endpoint)


def nothing_here(*paths: str) -> WebSocketRoute:
    """Return a route that stands after all others: 404, and where the chat is."""

    async def endpoint(websocket: WebSocket) -> None:
        await deny(websocket, 404, f"There is nothing here; the chat is at {' and '.join(paths)}")

    return WebSocketRoute("/{path:path}", endpoint)


class WebSocketLink:
    """A Link through plain ASGI: a task brings messages in, and one takes each out by itself."""

    def __init__(self, websocket: WebSocket, wire: Wire) -> None:
        self.wire = wire
        self._websocket = websocket
        self._room = asyncio.Event()
        self._inbox = Inbox(self._room.set)
        self._reader = asyncio.ensure_future(self._read())
        self._waiting: list[bytes] = []
        self._pending = 0
        self._written = asyncio.Event()
        self._drained = asyncio.Event()
        self._drained.set()
        self._close: tuple[int, str] | None = None
        self._writer = asyncio.ensure_future(self._write())

    async def _read(self) -> None:
        # Kept in the task, a cancellation would hold the task, and all this, in a circle.
        with suppress(asyncio.CancelledError):
            await self._read_on()

    async def _read_on(self) -> None:
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                self._inbox.finish()
                self._writer.cancel()  # nothing that waits will be taken
                return
            text = message.get("text")
            if text is None:
                bye = Bye(Close.PROTOCOL, "a binary message; send text", reconnect=False)
                self.write(self.wire.encode(bye))
                self.close(bye.code, bye.reason)
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
            pass  # as in _read
        finally:
            self._pending = 0
            self._drained.set()

    async def receive(self) -> bytes:
        return await self._inbox.get()

    @property
    def pending(self) -> int:
        return self._pending

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
        self._reader.cancel()
        await asyncio.wait([self._reader])
