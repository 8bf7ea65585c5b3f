"""Taking part in a chat: every command as a method, and events to iterate over."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime
from typing import TypeVar

from attrs import evolve

from chatcore import commands
from chatcore.commands import Command, Since
from chatcore.events import (
    BanReply,
    BansReply,
    CreateReply,
    DeleteReply,
    DirectReply,
    Durable,
    EditReply,
    Event,
    HistoryReply,
    InviteReply,
    JoinReply,
    KickReply,
    LeaveReply,
    MarkReadReply,
    MembersReply,
    Message,
    MuteReply,
    Notice,
    PasswordReply,
    PingReply,
    ProfileChanged,
    ProfileReply,
    ReactReply,
    Reply,
    ReportReply,
    ReportsReply,
    RoomsReply,
    SearchReply,
    SendReply,
    SetRoleReply,
    Told,
    TypingReply,
    UnbanReply,
    UnmuteReply,
    UnreactReply,
    UpdateReply,
    WhoReply,
)
from chatcore.folding import fold
from chatcore.model import Membership, Room, User

R = TypeVar("R", bound=Reply)


def renamed(user: User | None, told: Told | None) -> User | None:
    """Return a participant's user as they are called after what was told."""
    match told:
        case ProfileChanged(username, name) if user is not None and username == user.username:
            return evolve(user, display_name=name)
    return user


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
        """Where the user stood in each of their rooms at the last login, and their invitations."""

    # Events.

    def __aiter__(self) -> AsyncIterator[Event | Notice]:
        return self

    @abstractmethod
    async def __anext__(self) -> Event | Notice:
        """Return the next event; the iteration ends with the connection."""

    def fold(self, events: Iterable[Durable]) -> list[Message]:
        """Return the messages among events of one room, as this user sees them after all of them.

        Messages of a join, or a page, and what has come since: `chatcore.fold` says how.
        """
        return fold(events, None if self.user is None else self.user.username)

    # Commands.

    async def change_password(self, old: str, new: str, *, end_others: bool = False) -> None:
        """Give oneself another password.

        With `end_others`, all other tokens of one's own are revoked, and the connections that
        hold one of those end.  Raises BadCredentials where `old` is not the present one,
        Invalid, RateLimited, and Forbidden for a host's user, whose password is not kept here.
        """
        await self._ask(commands.Password(old, new, end_others), PasswordReply)

    async def change_profile(self, *, display_name: str) -> User:
        """Give oneself another display name; return what one is now.  Raises Invalid."""
        return (await self._ask(commands.Profile(display_name), ProfileReply)).user

    async def rooms(self, *, after: str | None = None, limit: int | None = None) -> RoomsReply:
        """List the rooms that the user may see, by name."""
        return await self._ask(commands.Rooms(after, limit), RoomsReply)

    async def create(
        self, room: str, *, kind: str = "public", title: str = "", topic: str = ""
    ) -> Room:
        """Create a room, and own it.  Raises Invalid, Conflict, Forbidden."""
        return (await self._ask(commands.Create(room, kind, title, topic), CreateReply)).room

    async def direct(self, username: str) -> Room:
        """Return the room of the user and another, for ever the same, with both of them in it.

        To hear what is said there, join it.  Raises Invalid, NotFound, Forbidden.
        """
        return (await self._ask(commands.Direct(username), DirectReply)).room

    async def update(
        self,
        room: str,
        *,
        title: str | None = None,
        topic: str | None = None,
        slow_mode: int | None = None,
        archived: bool | None = None,
        retention_days: int | None = None,
        txn_id: str | None = None,
    ) -> UpdateReply:
        """Change what is to be said of a room; what is None stays.

        `slow_mode` is in seconds; in an archived room nobody writes; events older than
        `retention_days` go, and with 0 none does.
        """
        command = commands.Update(room, title, topic, slow_mode, archived, retention_days, txn_id)
        return await self._ask(command, UpdateReply)

    async def join(self, room: str, *, since: Since | None = None, history: int = 50) -> JoinReply:
        """Join a room, and get its events from now on, or from a position.

        The reply has the newest messages, or, where it is `recovered`, the first page
        after `since`; the iteration goes on from there.  Raises NotFound, Banned, Forbidden.
        """
        return await self._ask(commands.Join(room, since, history), JoinReply)

    async def leave(self, room: str) -> None:
        """End the membership in a room, or decline an invitation.

        Raises NotFound, NotMember, and Conflict for its only owner.
        """
        await self._ask(commands.Leave(room), LeaveReply)

    async def send(
        self,
        room: str,
        content: str,
        *,
        txn_id: str | None = None,
        reply_to: int | None = None,
    ) -> SendReply:
        """Store a message, an answer to another perhaps; when this returns it is durable.

        Raises Invalid, TooLarge, NotFound, NotMember, Forbidden, Muted, Banned, RateLimited,
        TxnConflict, StorageFull, and Unavailable, after which the same txn_id may be sent
        again.
        """
        return await self._ask(commands.Send(room, content, txn_id, reply_to), SendReply)

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

    async def react(
        self, room: str, seq: int, emoji: str, *, txn_id: str | None = None
    ) -> ReactReply:
        """Put an emoji beside a message; one that is there already is a `duplicate`.

        Raises as `edit` does, and Forbidden for one emoji too many on one message.
        """
        return await self._ask(commands.React(room, seq, emoji, txn_id), ReactReply)

    async def unreact(
        self, room: str, seq: int, emoji: str, *, txn_id: str | None = None
    ) -> UnreactReply:
        """Take one's own emoji away from a message; one that is not there is a `duplicate`."""
        return await self._ask(commands.Unreact(room, seq, emoji, txn_id), UnreactReply)

    async def history(
        self,
        room: str,
        *,
        before: int | None = None,
        after: int | None = None,
        around: int | None = None,
        limit: int | None = None,
        types: Sequence[str] | None = None,
    ) -> HistoryReply:
        """Return a page of messages in seq order, the newest where no edge is given.

        Each is as it is now, edited or erased.  With `types` the page has those kinds of
        events, as the log has them; all but `message` are for moderators.
        """
        kinds = tuple(types) if types is not None else None
        command = commands.History(room, before, after, around, limit, kinds)
        return await self._ask(command, HistoryReply)

    async def search(
        self,
        query: str,
        *,
        room: str | None = None,
        cursor: str | None = None,
        limit: int | None = None,
    ) -> SearchReply:
        """Find messages in the rooms that one may read, the newest first.

        Words, all of which must be there; "words in a row"; from:name, in:room,
        before:2026-11-22, after:2026-11-22.  The `next` of a page is the `cursor` of the
        one after it.  Raises Invalid, NotFound, RateLimited, Unavailable.
        """
        return await self._ask(commands.Search(query, room, cursor, limit), SearchReply)

    async def invite(self, room: str, username: str, *, txn_id: str | None = None) -> InviteReply:
        """Let somebody join a room who could not, and tell them so."""
        return await self._ask(commands.Invite(room, username, txn_id), InviteReply)

    async def kick(self, room: str, username: str, *, txn_id: str | None = None) -> KickReply:
        """End a membership or an invitation.  A public room may be joined again."""
        return await self._ask(commands.Kick(room, username, txn_id), KickReply)

    async def ban(
        self,
        room: str,
        username: str,
        *,
        until: datetime | None = None,
        reason: str | None = None,
        txn_id: str | None = None,
    ) -> BanReply:
        """Keep somebody out of a room, a member or not, until a moment or for ever."""
        return await self._ask(commands.Ban(room, username, until, reason, txn_id), BanReply)

    async def unban(self, room: str, username: str, *, txn_id: str | None = None) -> UnbanReply:
        """Let somebody join or be invited again."""
        return await self._ask(commands.Unban(room, username, txn_id), UnbanReply)

    async def mute(
        self,
        room: str,
        username: str,
        *,
        until: datetime | None = None,
        reason: str | None = None,
        txn_id: str | None = None,
    ) -> MuteReply:
        """Let somebody read and not write, until a moment or for ever, also when they come back."""
        return await self._ask(commands.Mute(room, username, until, reason, txn_id), MuteReply)

    async def unmute(self, room: str, username: str, *, txn_id: str | None = None) -> UnmuteReply:
        """Let somebody write again."""
        return await self._ask(commands.Unmute(room, username, txn_id), UnmuteReply)

    async def set_role(
        self, room: str, username: str, role: str, *, txn_id: str | None = None
    ) -> SetRoleReply:
        """Make a member `owner`, `moderator`, `member` or `reader`."""
        return await self._ask(commands.SetRole(room, username, role, txn_id), SetRoleReply)

    async def report(self, room: str, seq: int, reason: str) -> None:
        """Tell a room's moderators of a message."""
        await self._ask(commands.Report(room, seq, reason), ReportReply)

    async def reports(
        self, room: str, *, after: int | None = None, limit: int | None = None
    ) -> ReportsReply:
        """List what a room's moderators were told of, by number."""
        return await self._ask(commands.Reports(room, after, limit), ReportsReply)

    async def bans(
        self, room: str, *, after: str | None = None, limit: int | None = None
    ) -> BansReply:
        """List who is banned or muted in a room now, by username."""
        return await self._ask(commands.Bans(room, after, limit), BansReply)

    async def typing(self, room: str) -> None:
        """Tell the others that one is writing something; every three seconds will do.

        Raises NotFound, NotMember, RateLimited.
        """
        await self._ask(commands.Typing(room), TypingReply)

    async def mark_read(self, room: str, seq: int) -> MarkReadReply:
        """Note how far the user has read, on all their devices; it only grows, up to the head."""
        return await self._ask(commands.MarkRead(room, seq), MarkReadReply)

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
