"""Take part in a chat from a coroutine: `connect(chat, user)`, without a network."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Self

from chatcore.chat import Chat
from chatcore.codec import JsonLines
from chatcore.commands import Command
from chatcore.connection import serve
from chatcore.errors import ChatError, LinkClosed, Unavailable
from chatcore.events import Answer, Bye, Event, Hello, Other, Reply
from chatcore.model import Credentials, Limits, Membership, RequestId, User
from chatcore.participant import Participant, R
from chatcore.ports import Wire

EVENTS_HELD = 256
"""Events that may wait for whoever iterates, before no more are read for their sake."""


@asynccontextmanager
async def connect(chat: Chat, user: User) -> AsyncIterator[Peer]:
    """Take part as a user of a running chat, until the end of the block.

    It is a connection like any other: the same rates and orders hold, the user is
    online where it has joined, and one that does not take its events is a slow
    reader, who misses nothing.
    """
    chat.check_started()
    link = MemoryLink(chat.wire)
    serving = asyncio.create_task(serve(chat, link, Credentials(user=user)))
    try:
        async with Peer(link, chat.limits) as peer:
            yield peer
    finally:
        link.hang_up()
        await serving


class Peer(Participant):
    """A participant in the chat's own process.

    Example:
        async with connect(chat, ada) as peer:
            await peer.join("lobby")
            async for event in peer:
                ...
    """

    def __init__(self, link: MemoryLink, limits: Limits) -> None:
        self.hello: Hello | None = None
        self.bye: Bye | None = None
        """Why the server ended the connection, where it said so."""
        self._link = link
        self._wire = JsonLines(limits)
        self._ids = itertools.count(1)
        self._answers: dict[RequestId, asyncio.Future[Reply]] = {}
        self._events: deque[Event] = deque()
        self._changed = asyncio.Event()
        self._ended = False

    async def __aenter__(self) -> Self:
        """Wait for the server's hello.  Raises Unavailable where there is only a bye."""
        self._reading = asyncio.create_task(self._read())
        while self.hello is None:
            if self._ended:
                raise self._gone()
            await self._change()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._reading.cancel()
        await asyncio.wait([self._reading])
        self._end()

    @property
    def user(self) -> User | None:
        return self.hello.user if self.hello else None

    @property
    def memberships(self) -> Sequence[Membership]:
        return (self.hello.rooms if self.hello else None) or ()

    # Events.

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        """Return the next event; the iteration ends with the connection."""
        while not self._events:
            if self._ended:
                raise StopAsyncIteration
            await self._change()
        event = self._events.popleft()
        self._changed.set()
        return event

    async def _ask(self, command: Command, expected: type[R]) -> R:
        if self._ended:
            raise self._gone()
        id = next(self._ids)
        answer = self._answers[id] = asyncio.get_running_loop().create_future()
        self._changed.set()
        try:
            self._link.send(self._wire.command(command, id))
            reply = await answer
        finally:
            del self._answers[id]
        assert isinstance(reply, expected)
        return reply

    # What the server says.

    async def _read(self) -> None:
        try:
            while True:
                # Answers come behind events: while one is awaited, reading goes on.
                while len(self._events) >= EVENTS_HELD and not self._answers:
                    await self._change()
                self._take(await self._link.next())
        except LinkClosed:
            self._end()

    def _take(self, frame: bytes) -> None:
        match self._wire.told(frame):
            case None | Other():
                return
            case Hello() as hello:
                self.hello = hello
            case Bye() as bye:
                self.bye = bye
            case Answer(id, outcome):
                answer = self._answers.get(id) if id is not None else None
                if answer is None or answer.done():
                    return
                if isinstance(outcome, ChatError):
                    answer.set_exception(outcome)
                else:
                    answer.set_result(outcome)
            case event:
                self._events.append(event)
        self._changed.set()

    def _end(self) -> None:
        self._ended = True
        self._changed.set()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(self._gone())

    def _gone(self) -> Unavailable:
        why = f": {self.bye.reason}" if self.bye else ""
        return Unavailable(
            f"The connection has ended{why}", retry_after=self.bye.retry_after if self.bye else None
        )

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()


class MemoryLink:
    """A Link whose other side is in the same process.

    The peer takes `window` bytes more than it has read, as a kernel's buffers would;
    what is beyond is `pending`.  A peer that does not read is a slow one.
    """

    def __init__(self, wire: Wire, window: int = 65_536) -> None:
        self.wire = wire
        self.frames: deque[bytes] = deque()
        """Written by the server and not read yet."""
        self.code: int | None = None
        """The close code, once the server closed."""
        self._window = window
        self._unread = 0
        self._drained = asyncio.Event()
        self._drained.set()
        self._incoming: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._arrived = asyncio.Event()
        self._closed = asyncio.Event()

    # The server's end.

    @property
    def pending(self) -> int:
        return 0 if self._closed.is_set() else max(0, self._unread - self._window)

    async def receive(self) -> bytes:
        frame = None if self._closed.is_set() else await self._incoming.get()
        if frame is None or self._closed.is_set():
            raise LinkClosed
        return frame

    def write(self, data: bytes) -> None:
        if self._closed.is_set():
            return
        self.frames.extend(data.splitlines(keepends=True))
        self._unread += len(data)
        self._arrived.set()
        if self.pending:
            self._drained.clear()

    async def drained(self) -> None:
        await self._drained.wait()

    def close(self, code: int, reason: str) -> None:
        if not self._closed.is_set():
            self.code = code
            self.hang_up()

    async def closed(self) -> None:
        await self._closed.wait()

    # The peer's end.

    def send(self, frame: bytes) -> None:
        """Have the server receive a frame."""
        self._incoming.put_nowait(frame)

    async def next(self) -> bytes:
        """Return the next frame from the server.  Raises LinkClosed; safe to cancel."""
        while not self.frames:
            if self._closed.is_set():
                raise LinkClosed
            self._arrived.clear()
            await self._arrived.wait()
        frame = self.frames.popleft()
        self._unread -= len(frame)
        if not self.pending:
            self._drained.set()
        return frame

    def hang_up(self) -> None:
        """Be gone."""
        self._closed.set()
        self._drained.set()
        self._arrived.set()
        self._incoming.put_nowait(None)
