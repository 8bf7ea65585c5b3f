"""Peers without a network, whose tests read as a conversation."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

import orjson

from chatcore.chat import Chat
from chatcore.connection import serve
from chatcore.model import Credentials
from chatcore.peer import MemoryLink
from chatcore.testing.clock import PATIENCE
from chatcore.testing.record import Record, Tap


class Transcript:
    """A client for tests that read as a conversation.

    `do` sends a command and returns its answer; events that come meanwhile wait in
    `events`, in order.  What is sent and received goes into `record` too, where there
    is one.
    """

    def __init__(
        self,
        send: Callable[[bytes], object],
        receive: Callable[[], Any],
        record: Record | None = None,
    ) -> None:
        self._send = send
        self._receive = receive
        self._tap = Tap(record) if record is not None else None
        self._id = 0
        self.hello: dict[str, Any] = {}
        self.bye: dict[str, Any] | None = None
        self.events: deque[dict[str, Any]] = deque()
        self.answers: dict[object, dict[str, Any]] = {}

    async def do(self, cmd: str, **fields: object) -> dict[str, Any]:
        """Send a command and return its reply or error."""
        return await self.answer(await self.start(cmd, **fields))

    async def start(self, cmd: str, **fields: object) -> int:
        """Send a command and return its id, to ask `answer` for."""
        self._id += 1
        await self.raw(orjson.dumps({"cmd": cmd, "id": self._id, **fields}))
        return self._id

    async def raw(self, frame: bytes) -> None:
        """Send any bytes as a frame."""
        if self._tap is not None:
            self._tap.sent(frame)
        sent = self._send(frame)
        if asyncio.iscoroutine(sent):
            await sent

    async def answer(self, id: object) -> dict[str, Any]:
        while id not in self.answers:
            await self._read()
        return self.answers.pop(id)

    async def event(self, *words: str) -> dict[str, Any]:
        """Return the next event, or the next that is one of `words`, skipping others."""
        while True:
            while not self.events:
                await self._read()
            event = self.events.popleft()
            if not words or event["event"] in words:
                return event

    async def messages(self, count: int) -> list[str]:
        """Return the texts of the next `count` messages."""
        return [(await self.event("message"))["content"] for _ in range(count)]

    async def goodbye(self) -> dict[str, Any]:
        """Read until the server says bye."""
        while self.bye is None:
            await self._read()
        return self.bye

    async def _read(self) -> None:
        async with asyncio.timeout(PATIENCE):
            received = await self._receive()
        if self._tap is not None:
            self._tap.told(received)
        frame = orjson.loads(received)
        if "event" in frame:
            self.events.append(frame)
        elif "hello" in frame:
            self.hello = frame["hello"]
        elif "bye" in frame:
            self.bye = frame["bye"]
        else:
            self.answers[frame.get("id")] = frame


@contextlib.asynccontextmanager
async def connect(
    chat: Chat,
    credentials: Credentials | None = None,
    *,
    window: int = 65_536,
    record: Record | None = None,
) -> AsyncIterator[tuple[Transcript, MemoryLink]]:
    """Serve a peer in this process; it hangs up at the end."""
    link = MemoryLink(chat.wire, window)
    task = asyncio.create_task(serve(chat, link, credentials))
    try:
        yield Transcript(link.send, link.next, record), link
    finally:
        link.hang_up()
        await task
