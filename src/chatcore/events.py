"""What follows a command: durable events (with seq), personal and ephemeral ones, replies.

A class's name is its word on the wire (`reply`, `event`), as `commands.word` spells it
without the suffix `Reply`.  A field that holds None, or False where that is its default, is left
out of a frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from enum import IntEnum
from typing import Any, Self, TypeAlias, TypeVar

from attrs import asdict, field, frozen

from chatcore.errors import ChatError
from chatcore.model import (
    CHANGEABLE,
    FOREVER,
    Draft,
    Limits,
    Listed,
    Membership,
    RequestId,
    Restraint,
    Room,
    User,
)

# Durable events: every change of a room, numbered 1, 2, 3 … in commit order.


@frozen
class Tally:
    """How many have put an emoji beside a message, and whether whoever reads this has."""

    emoji: str
    count: int
    me: bool


def _usernames(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(names)


@frozen
class Message:
    room: str
    seq: int
    sender: str
    timestamp: datetime
    content: str
    edited: datetime | None = None
    """When the newest edit came that `content` is of; the log itself never has it."""
    erased: bool = False
    """Whether it was deleted: `content` is empty, and was something else once."""
    reply_to: int | None = None
    """The message that it answers, by its seq; that one may be deleted by now."""
    mentions: tuple[str, ...] = field(default=(), converter=_usernames)
    """The members whom it mentions."""
    reactions: tuple[Tally, ...] = ()
    """What is beside it, the most frequent first; the log itself never has it."""


@frozen
class Edit:
    """A message has another text now.  An edit of a message that was deleted is erased, too."""

    room: str
    seq: int
    sender: str
    timestamp: datetime
    target: int
    """The message's seq."""
    content: str
    erased: bool = False
    mentions: tuple[str, ...] = field(default=(), converter=_usernames)
    """The members whom the message mentions now."""


@frozen
class Delete:
    """A message was erased, and its edits with it."""

    room: str
    seq: int
    sender: str
    timestamp: datetime
    target: int
    """The message's seq."""
    reason: str | None = None


@frozen
class Reaction:
    """Somebody put an emoji beside a message, or took it away."""

    room: str
    seq: int
    sender: str
    timestamp: datetime
    target: int
    """The message's seq."""
    emoji: str
    action: str
    """`add` or `remove`."""


def _moment(value: str | datetime | None) -> datetime | None:
    """Return a moment as it is, or out of the log's words."""
    return datetime.fromisoformat(value) if isinstance(value, str) else value


@frozen
class Member:
    """Somebody's membership changed, or what they may do; `sender` is who did it.

    `role` is what they were given, where they were given one.
    """

    room: str
    seq: int
    sender: str
    timestamp: datetime
    username: str
    action: str
    """`join`, `leave`, `invite`, `kick`, `ban`, `unban`, `mute`, `unmute` or `role`."""
    role: str | None = None
    until: datetime | None = field(default=None, converter=_moment)
    """When a ban or a mute ends by itself."""
    reason: str | None = None

    @property
    def ends(self) -> bool:
        """Whether this is the last event of the room that `username` may see."""
        return self.action in ("leave", "kick", "ban")


@frozen
class RoomChanged:
    """What is to be said of a room is another now: all that is not None."""

    room: str
    seq: int
    sender: str
    timestamp: datetime
    title: str | None = None
    topic: str | None = None
    slow_mode: int | None = None
    archived: bool | None = None
    retention_days: int | None = None

    @property
    def changes(self) -> Mapping[str, Any]:
        """The fields of a Room that have another value."""
        return {name: value for name in CHANGEABLE if (value := getattr(self, name)) is not None}


Durable: TypeAlias = Message | Edit | Delete | Reaction | Member | RoomChanged

_D = TypeVar("_D", bound=Durable)


class Page(list[_D]):
    """Events that many may be given: whoever spells them keeps here what they have become."""

    __slots__ = ("spelled",)

    def __init__(self, events: Iterable[_D]) -> None:
        super().__init__(events)
        self.spelled: bytes | None = None


DURABLE: Mapping[str, type[Durable]] = {
    "message": Message,
    "edit": Edit,
    "delete": Delete,
    "reaction": Reaction,
    "member": Member,
    "room": RoomChanged,
}
"""By the word that the log and the wire have for them."""


def committed(draft: Draft, seq: int) -> Durable:
    """Return the event that a draft became when it was given its seq."""
    fields: Mapping[str, Any] = draft.body  # its kind's own
    return DURABLE[draft.kind](draft.room.name, seq, draft.sender, draft.timestamp, **fields)


@frozen
class Stands:
    """Where somebody stands in a room once an event has changed it."""

    role: str | None
    """What they are there, None for nothing any more."""
    read: int
    unread: int
    epoch: str
    """The room's."""


@frozen
class Stored:
    """What `Repository.append` made of one draft."""

    event: Durable
    first: int
    """The lowest seq that the room's log still has."""
    messages: int
    """How many `message` events the room has up to this one; what unread counts are made of."""
    stands: Stands | None = None
    """Of a `member` event: where whom it names stands now, if they were or are in the room."""


@frozen
class Marked:
    """Where a read marker is, once `Repository.mark_read` has moved it, or has not."""

    read: int
    unread: int
    """Messages above `read`, up to `head`."""
    unread_mentions: int
    """Those of them that mention the user."""
    head: int
    moved: bool
    other: str | None = None
    """In a direct room, who else is in it."""


@frozen
class Duplicate:
    """What `Repository.append` found in place of something to do.

    This user used the draft's txn_id before, or what it wants is so already.
    """

    seq: int
    timestamp: datetime


# Personal and ephemeral events.


@frozen
class MembershipChanged:
    """For one user's connections: a room was gained, lost, or changed its role for them."""

    room: Room
    change: str
    epoch: str
    first: int
    head: int
    read: int
    unread: int
    role: str | None = None


@frozen
class ProfileChanged:
    """Somebody has another display name: oneself, or who is in a room that one listens to."""

    username: str
    display_name: str


@frozen
class Read:
    """For one user's connections, and the other one's in a direct room: how far that user has read.

    A message of their own says the same, and then there is no such event.
    """

    room: str
    username: str
    """Who has read."""
    seq: int
    unread: int
    """Messages above `seq`, up to `head`."""
    unread_mentions: int
    """Those of them that mention the user."""
    head: int


@frozen
class Presence:
    """Who came and went in a room, and how many are online now.

    Where `online` has `count` names it is all of them, and replaces what was known.
    Of a crowd only `count` is told.
    """

    room: str
    count: int
    online: Sequence[str] | None = None
    offline: Sequence[str] | None = None


TYPING_SECONDS = 6.0
"""How long somebody is taken to be typing, unless they send a message or it is told again."""


@frozen
class Typing:
    """Somebody is writing something in a room; for TYPING_SECONDS, or until their message."""

    room: str
    username: str


Event: TypeAlias = Durable | MembershipChanged | ProfileChanged | Read | Presence | Typing


@frozen
class Other:
    """An event that this version has no name for; a client ignores it, but counts its seq."""

    room: str
    seq: int | None


# Notices: what a client that reconnects says of its connection, between the events.


@frozen
class Reconnecting:
    """The connection was lost, or could not be had again; the next try is in `delay` seconds."""

    reason: str
    delay: float


@frozen
class Connected:
    """The connection is back.  Each room's Resumed, Reset or Lost follows."""


@frozen
class Resumed:
    """A room goes on after the last event that was given; the `missed` ones follow."""

    room: str
    missed: int


@frozen
class Reset:
    """A room could not go on where it was: drop what you hold of it.

    `joined` has its newest messages, and the next event is `joined.head` + 1.
    """

    room: str
    joined: JoinReply


@frozen
class Lost:
    """The user is no longer in a room, and `error` says why."""

    room: str
    error: ChatError


Notice: TypeAlias = Reconnecting | Connected | Resumed | Reset | Lost

# Replies.


@frozen
class LoginReply:
    user: User
    token: str
    expires: datetime
    rooms: Sequence[Membership]


@frozen
class RegisterReply(LoginReply):
    pass


@frozen
class LogoutReply:
    pass


@frozen
class PasswordReply:
    pass


@frozen
class ProfileReply:
    user: User


@frozen
class RoomsReply:
    rooms: Sequence[Listed]
    complete: bool


@frozen
class CreateReply:
    room: Room


@frozen
class DirectReply:
    room: Room


@frozen
class JoinReply:
    room: Room
    role: str
    epoch: str
    first: int
    head: int
    read: int
    unread: int
    unread_mentions: int = field(default=0, kw_only=True)
    recovered: bool
    events: Sequence[Durable]


@frozen
class LeaveReply:
    room: str


@frozen
class Acknowledged:
    """A durable command was carried out, now or, for a `duplicate`, before."""

    room: str
    seq: int
    """Of the event that it became."""
    timestamp: datetime
    duplicate: bool = False


@frozen
class SendReply(Acknowledged):
    pass


@frozen
class EditReply(Acknowledged):
    pass


@frozen
class DeleteReply(Acknowledged):
    pass


@frozen
class ReactReply(Acknowledged):
    pass


@frozen
class UnreactReply(Acknowledged):
    pass


@frozen
class InviteReply(Acknowledged):
    pass


@frozen
class KickReply(Acknowledged):
    pass


@frozen
class BanReply(Acknowledged):
    pass


@frozen
class UnbanReply(Acknowledged):
    pass


@frozen
class MuteReply(Acknowledged):
    pass


@frozen
class UnmuteReply(Acknowledged):
    pass


@frozen
class SetRoleReply(Acknowledged):
    pass


@frozen
class UpdateReply(Acknowledged):
    pass


@frozen
class MarkReadReply:
    read: int
    unread: int
    """Messages above `read`, up to `head`."""
    unread_mentions: int
    """Those of them that mention the user."""
    head: int


@frozen
class ReportReply:
    pass


@frozen
class ReportItem:
    """What somebody told a room's moderators of a message."""

    number: int
    """Counts a room's reports, from 1."""
    seq: int
    """The message's."""
    username: str
    """Who told."""
    reason: str
    timestamp: datetime


@frozen
class ReportsReply:
    reports: Sequence[ReportItem]
    complete: bool


@frozen
class Sanction:
    """A ban or a mute that holds; but for its end, as far as the log still has what gave it."""

    until: datetime | None = None
    """None where it has no end."""
    seq: int | None = None
    sender: str | None = None
    """Who gave it."""
    timestamp: datetime | None = None
    reason: str | None = None


@frozen
class BanItem:
    username: str
    ban: Sanction | None = None
    mute: Sanction | None = None

    @classmethod
    def of(
        cls, username: str, restraint: Restraint, told: Iterable[Durable], now: datetime
    ) -> Self:
        """Say what holds somebody back now; `told` has what banned and muted them, if it can."""
        events = {event.seq: event for event in told}

        def sanction(end: datetime | None, seq: int | None) -> Sanction | None:
            if end is None or end <= now:
                return None
            event, until = events.get(seq or 0), None if end == FOREVER else end
            if not isinstance(event, Member):
                return Sanction(until)
            return Sanction(until, event.seq, event.sender, event.timestamp, event.reason)

        ban, mute = restraint.ban, restraint.mute
        return cls(username, sanction(restraint.banned, ban), sanction(restraint.muted, mute))


@frozen
class BansReply:
    bans: Sequence[BanItem]
    complete: bool


@frozen
class HistoryReply:
    messages: Sequence[Message]
    epoch: str
    first: int
    head: int
    complete: bool
    events: Sequence[Durable] = ()
    """What was asked for beside messages, as the log has it."""


@frozen
class TypingReply:
    pass


@frozen
class Found(Message):
    """A message that was searched for, folded as of its room's `head`."""

    head: int = field(kw_only=True)

    @classmethod
    def of(cls, message: Message, head: int) -> Self:
        return cls(**asdict(message, recurse=False), head=head)


@frozen
class SearchReply:
    messages: Sequence[Found]
    """The newest first."""
    next: str | None = None
    """The next page's cursor; None where there is none."""


@frozen
class WhoReply:
    online: Sequence[str]
    count: int


@frozen
class MemberItem:
    username: str
    display_name: str
    role: str
    bot: bool = False


@frozen
class MembersReply:
    members: Sequence[MemberItem]
    complete: bool


@frozen
class PingReply:
    pass


DurableReply: TypeAlias = (
    LeaveReply
    | SendReply
    | EditReply
    | DeleteReply
    | ReactReply
    | UnreactReply
    | InviteReply
    | KickReply
    | BanReply
    | UnbanReply
    | MuteReply
    | UnmuteReply
    | SetRoleReply
    | UpdateReply
)
"""To what is a command of `commands.Durable`."""

Reply: TypeAlias = (
    RegisterReply
    | LoginReply
    | LogoutReply
    | PasswordReply
    | ProfileReply
    | RoomsReply
    | CreateReply
    | DirectReply
    | JoinReply
    | DurableReply
    | MarkReadReply
    | ReportReply
    | ReportsReply
    | BansReply
    | HistoryReply
    | TypingReply
    | SearchReply
    | WhoReply
    | MembersReply
    | PingReply
)

# The first and the last word of a connection.


class Close(IntEnum):
    """Why the server ended a connection; below 4500 it may come back."""

    SHUTDOWN = 4001
    TOKEN_EXPIRED = 4002
    SILENT = 4003
    LOST_POSITION = 4004
    FLOOD = 4005
    TOO_MANY_CONNECTIONS = 4006
    LOGIN_TIMEOUT = 4007
    BAD_TOKEN = 4500
    REVOKED = 4502
    PROTOCOL = 4505


@frozen
class Hello:
    v: int
    server: str
    features: Sequence[str]
    ping: float
    limits: Limits
    user: User | None = None
    rooms: Sequence[Membership] | None = None


@frozen
class Bye:
    code: int
    reason: str
    reconnect: bool
    retry_after: float | None = field(default=None)


# What a client is told.


@frozen
class Answer:
    """What became of the command with this id; None for an error that belongs to no command."""

    id: RequestId | None
    outcome: Reply | ChatError


Told: TypeAlias = Hello | Answer | Event | Other | Bye
