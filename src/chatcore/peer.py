"""Take part in a chat from a coroutine: `connect(chat, user)`, without a network."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Self

from attrs import define

from chatcore.chat import Chat
from chatcore.codec import JsonLines
from chatcore.commands import Command, Join, Leave
from chatcore.connection import serve
from chatcore.errors import ChatError, Internal, LinkClosed, Unavailable
from chatcore.events import Answer, Bye, Event, Hello, JoinReply, LeaveReply, Notice, Reply, Told
from chatcore.follower import Follower
from chatcore.model import Credentials, Limits, Membership, RequestId, User
from chatcore.participant import Participant, R, renamed
from chatcore.ports import Wire

RETRY_SECONDS = 0.5
"""Until a room is joined again whose log could not be read."""


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


@define(eq=False)
class _Asked:
    command: Command
    answer: asyncio.Future[Reply] | None
    """None for what the peer asks by itself."""


class Peer(Participant):
    """A participant in the chat's own process.

    What it holds for its iteration is bounded: whoever sends without taking events
    gets them from the log, when they are asked for.  The iteration has a Reset where
    that was too far behind, `limits.resume`.

    Example:
        async with connect(chat, ada) as peer:
            await peer.join("lobby")
            async for event in peer:
                ...
    """

    def __init__(self, link: MemoryLink, limits: Limits) -> None:
        self.hello: Hello | None = None
        self._user: User | None = None
        self.bye: Bye | None = None
        """Why the server ended the connection, where it said so."""
        self._link = link
        self._wire = JsonLines(limits)
        self._ids = itertools.count(1)
        self._asked: dict[RequestId, _Asked] = {}
        self._follower = Follower()
        self._changed = asyncio.Event()
        self._pausing = False
        self._ended = False
        self._why = ""

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
        return self._user

    @property
    def memberships(self) -> Sequence[Membership]:
        return (self.hello.rooms if self.hello else None) or ()

    # Events.

    async def __anext__(self) -> Event | Notice:
        """Return the next event; the iteration ends with the connection."""
        while (event := self._follower.take()) is None:
            if self._ended:
                raise StopAsyncIteration
            if not self._pausing:
                for join in self._follower.again(each.command for each in self._asked.values()):
                    self._give(join, None)
            await self._change()
        self._changed.set()
        return event

    # Asking.

    async def _ask(self, command: Command, expected: type[R]) -> R:
        if self._ended:
            raise self._gone()
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._give(command, answer)
        reply = await answer
        assert isinstance(reply, expected)
        return reply

    def _give(self, command: Command, answer: asyncio.Future[Reply] | None) -> None:
        id = next(self._ids)
        self._link.send(self._wire.command(command, id))
        self._asked[id] = _Asked(command, answer)
        self._changed.set()

    # What the server says.

    async def _read(self) -> None:
        try:
            while True:
                # Answers come behind events: while one is awaited, reading goes on.
                while self._follower.full and not self._asked:
                    await self._change()
                self._take(self._wire.told(await self._link.next()))
        except (LinkClosed, Internal) as error:
            self._end(str(error))

    def _take(self, told: Told | None) -> None:
        match told:
            case Hello():
                self.hello, self._user = told, told.user
                self._follower.username = told.user.username if told.user else None
            case Bye():
                self.bye = told
            case Answer(int(id), outcome) if id in self._asked:
                self._answered(self._asked.pop(id), outcome)
            case _:
                self._user = renamed(self._user, told)
                self._follower.hear(told)
        self._changed.set()

    def _answered(self, asked: _Asked, outcome: Reply | ChatError) -> None:
        match asked.command, outcome:
            case Join() as join, _ if asked.answer is None:
                self._joined_again(join, outcome)
            case Join() as join, JoinReply():
                self._follower.joined(join, outcome)
            case Leave(), LeaveReply(room):
                self._follower.left(room)
        if asked.answer is None or asked.answer.done():
            return
        if isinstance(outcome, ChatError):
            asked.answer.set_exception(outcome)
        else:
            asked.answer.set_result(outcome)

    def _joined_again(self, join: Join, outcome: Reply | ChatError) -> None:
        try:
            self._follower.joined_again(join, outcome)
        except ChatError:  # the log could not be read; soon once more
            self._pausing = True
            asyncio.get_running_loop().call_later(RETRY_SECONDS, self._go_on)

    def _go_on(self) -> None:
        self._pausing = False
        self._changed.set()

    def _end(self, why: str = "") -> None:
        self._ended, self._why = True, self.bye.reason if self.bye else why
        self._changed.set()
        for asked in self._asked.values():
            if asked.answer is not None and not asked.answer.done():
                asked.answer.set_exception(self._gone())

    def _gone(self) -> Unavailable:
        why = f": {self._why}" if self._why else ""
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
