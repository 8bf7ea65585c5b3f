"""The incoming half of a WebSocket's link: messages through ASGI into an inbox."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod

from starlette.websockets import WebSocket

from chat_transports.inbox import Inbox
from chatcore.events import Bye, Close
from chatcore.model import MAX_FRAME
from chatcore.ports import Wire

REASON_CHARACTERS = 100
"""A close frame has room for 123 bytes; ours are nearly all ASCII."""


class Inbound(ABC):
    """One task brings messages in; how they go out is for the link itself."""

    def __init__(self, websocket: WebSocket, wire: Wire) -> None:
        self.wire = wire
        self._websocket = websocket
        self._room = asyncio.Event()
        self._inbox = Inbox(self._room.set)
        self._reader = asyncio.ensure_future(self._read())

    async def receive(self) -> bytes:
        return await self._inbox.get()

    @abstractmethod
    def write(self, data: bytes) -> None: ...

    @abstractmethod
    def close(self, code: int, reason: str) -> None: ...

    @abstractmethod
    def _gone(self) -> None:
        """The peer left: nothing that waits will be taken."""

    async def _read(self) -> None:
        # Kept in the task, a cancellation would hold the task, and all this, in a circle.
        with contextlib.suppress(asyncio.CancelledError):
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

    async def _end_reading(self) -> None:
        self._reader.cancel()
        await asyncio.wait([self._reader])

    def _say_bye(self, code: Close, reason: str, *, reconnect: bool) -> None:
        self.write(self.wire.encode(Bye(code, reason, reconnect)))
        self.close(code, reason)

    async def _send_close(self, code: int, reason: str) -> None:
        await self._websocket.close(code, reason[:REASON_CHARACTERS])
