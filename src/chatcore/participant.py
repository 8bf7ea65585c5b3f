"""Taking part in a chat: every command as a method, and events to iterate over."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from typing import TypeVar

from chatcore import commands
from chatcore.commands import Command, Since
from chatcore.events import (
    CreateReply,
    DeleteReply,
    EditReply,
    Event,
    HistoryReply,
    JoinReply,
    LeaveReply,
    MembersReply,
    Notice,
    PingReply,
    Reply,
    RoomsReply,
    SendReply,
    WhoReply,
)
from chatcore.model import Membership, Room, User

R = TypeVar("R", bound=Reply)


class Participant(ABC):
    """One user's connection to a chat, in the same process or far away.

        async def greet(chat: Participant) -> None:
            await chat.join("lobby")
            async for event in chat:
                if isinstance(event, Member) and event.action == "join":
                    await chat.send("lobby", f"Welcome, {event.username}")

    Methods may be called at the same time; durable ones commit in the order of the
    calls.  They raise ChatError as the server answers, and Unavailable once the
    connection has ended.  Events come in order; a reply never waits for them to be taken.
    """

    @property
    @abstractmethod
    def user(self) -> User | None:
        """Who this is; None before a login."""

    @property
    @abstractmethod
    def memberships(self) -> Sequence[Membership]:
        """Where the user stood in each of their rooms at the last login."""

    # Events.

    def __aiter__(self) -> AsyncIterator[Event | Notice]:
        return self

    @abstractmethod
    async def __anext__(self) -> Event | Notice:
        """Return the next event; the iteration ends with the connection."""

    # Commands.

    async def rooms(self, *, after: str | None = None, limit: int | None = None) -> RoomsReply:
        """List the rooms that the user may see, by name."""
        return await self._ask(commands.Rooms(after, limit), RoomsReply)

    async def create(
        self, room: str, *, kind: str = "public", title: str = "", topic: str = ""
    ) -> Room:
        """Create a room, and own it.  Raises Invalid, Conflict, Forbidden."""
        return (await self._ask(commands.Create(room, kind, title, topic), CreateReply)).room

    async def join(self, room: str, *, since: Since | None = None, history: int = 50) -> JoinReply:
        """Join a room, and get its events from now on, or from a position.

        The reply has the newest messages, or, where it is `recovered`, the first page
        after `since`; the iteration goes on from there.  Raises NotFound, Forbidden.
        """
        return await self._ask(commands.Join(room, since, history), JoinReply)

    async def leave(self, room: str) -> None:
        """End the membership in a room.  Raises NotFound, NotMember."""
        await self._ask(commands.Leave(room), LeaveReply)

    async def send(self, room: str, content: str, *, txn_id: str | None = None) -> SendReply:
        """Store a message; when this returns it is durable.

        Raises Invalid, TooLarge, NotFound, NotMember, RateLimited, TxnConflict,
        StorageFull, and Unavailable, after which the same txn_id may be sent again.
        """
        return await self._ask(commands.Send(room, content, txn_id), SendReply)

    async def edit(
        self, room: str, seq: int, content: str, *, txn_id: str | None = None
    ) -> EditReply:
        """Give a message of one's own another text; when this returns it is durable.

        Raises as `send` does, NotFound too where there is no such message or it was
        deleted, and Forbidden where it is another's.
        """
        return await self._ask(commands.Edit(room, seq, content, txn_id), EditReply)

    async def delete(
        self, room: str, seq: int, *, reason: str | None = None, txn_id: str | None = None
    ) -> DeleteReply:
        """Erase a message: one's own, or as the room's owner or a moderator anybody's.

        When this returns its text is out of the log.  Raises Invalid, NotFound,
        NotMember, Forbidden, TxnConflict, StorageFull, and Unavailable, after which it
        may be asked for again.
        """
        return await self._ask(commands.Delete(room, seq, reason, txn_id), DeleteReply)

    async def history(
        self,
        room: str,
        *,
        before: int | None = None,
        after: int | None = None,
        around: int | None = None,
        limit: int | None = None,
    ) -> HistoryReply:
        """Return a page of messages in seq order, the newest where no edge is given.

        Each is as it is now, edited or erased.
        """
        command = commands.History(room, before, after, around, limit)
        return await self._ask(command, HistoryReply)

    async def who(self, room: str) -> WhoReply:
        """Return who is online in a room."""
        return await self._ask(commands.Who(room), WhoReply)

    async def members(
        self, room: str, *, after: str | None = None, limit: int | None = None
    ) -> MembersReply:
        """List a room's members, by username."""
        return await self._ask(commands.Members(room, after, limit), MembersReply)

    async def ping(self) -> None:
        """Return when the server has answered."""
        await self._ask(commands.Ping(), PingReply)

    @abstractmethod
    async def _ask(self, command: Command, expected: type[R]) -> R:
        """Give a command to the server and return its reply."""
