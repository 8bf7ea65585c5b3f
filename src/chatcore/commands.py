"""The verbs a client may send, one frozen class each; Command is their union.

A class's name is its `cmd` on the wire, as `word` spells it, its fields are the command's
fields, and a field with a default may be left out.  What can be judged from the
values alone is judged here, at birth, with Invalid.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TypeAlias

from attrs import Attribute, field, frozen

from chatcore.errors import ChatError, Invalid
from chatcore.model import CHANGEABLE, INTEGERS, RequestId

LOGGED = ("message", "edit", "delete", "reaction", "member", "room")
"""The kinds of events that a room's log has, and `history` can be asked for."""

SLOWEST = 86_400
"""Seconds of slow mode at most."""
LONGEST = 36_500
"""Days that a room may keep its events, where it does not keep them for ever."""


def word(class_: type) -> str:
    """Return a class's name as the wire has it: `set_role` for SetRole."""
    return re.sub("(?<=[a-z])(?=[A-Z])", "_", class_.__name__).lower()


def _txn_id(_: object, attribute: Attribute[Any], value: str | None) -> None:
    if value is not None and not (1 <= len(value) <= 64 and value.isprintable()):
        raise Invalid(f"{attribute.name} has 1 to 64 printable characters")


def _positive(_: object, attribute: Attribute[Any], value: int | None) -> None:
    if value is not None and value < 1:
        raise Invalid(f"{attribute.name} is 1 or more")


def _natural(_: object, attribute: Attribute[Any], value: int | None) -> None:
    if value is not None and not 0 <= value < INTEGERS:
        raise Invalid(f"{attribute.name} is 0 or more, and below 2^53")


def _zoned(_: object, attribute: Attribute[Any], value: datetime | None) -> None:
    try:
        if value is None or value.astimezone(UTC) == value:  # one without a zone equals none
            return
    except OverflowError:  # before the first year, or after the last
        pass
    raise Invalid(f"{attribute.name} is a moment with its zone: 2026-11-22T08:00:00Z")


@frozen
class Register:
    username: str
    password: str = field(repr=False)


@frozen
class Login:
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)

    def __attrs_post_init__(self) -> None:
        if self.token is None and (self.username is None or self.password is None):
            raise Invalid("Username and password are required")
        if self.token is not None and (self.username is not None or self.password is not None):
            raise Invalid("Log in with a token, or with username and password, not with both")


@frozen
class Logout:
    everywhere: bool = False


@frozen
class Password:
    """Change one's own."""

    old: str = field(repr=False)
    new: str = field(repr=False)
    end_others: bool = False


@frozen
class Profile:
    """Change one's own."""

    display_name: str


@frozen
class Rooms:
    after: str | None = None
    limit: int | None = field(default=None, validator=_positive)


@frozen
class Create:
    room: str
    kind: str = "public"
    title: str = ""
    topic: str = ""

    def __attrs_post_init__(self) -> None:
        if self.kind not in ("public", "private"):
            raise Invalid("kind is public or private")


@frozen
class Direct:
    """Open the room of two people: oneself and another."""

    username: str


@frozen
class Update:
    """Change what is to be said of a room; what is left out stays."""

    room: str
    title: str | None = None
    topic: str | None = None
    slow_mode: int | None = None
    """Seconds, 0 for none."""
    archived: bool | None = None
    retention_days: int | None = None
    """0 to keep everything."""
    txn_id: str | None = field(default=None, validator=_txn_id)

    def __attrs_post_init__(self) -> None:
        if not self.changes:
            raise Invalid("update takes a title, a topic, slow_mode, archived or retention_days")
        if self.slow_mode is not None and not 0 <= self.slow_mode <= SLOWEST:
            raise Invalid(f"slow_mode has 0 to {SLOWEST} seconds")
        if self.retention_days is not None and not 0 <= self.retention_days <= LONGEST:
            raise Invalid(f"retention_days has 0 to {LONGEST} days")

    @property
    def changes(self) -> Mapping[str, Any]:
        """The fields of a Room that are to have another value."""
        return {name: value for name in CHANGEABLE if (value := getattr(self, name)) is not None}


@frozen
class Since:
    """A position in one life of a room's log."""

    epoch: str
    seq: int = field(validator=_natural)


@frozen
class Join:
    room: str
    since: Since | None = None
    history: int = field(default=50, validator=_natural)


@frozen
class Leave:
    room: str


@frozen
class Send:
    room: str
    content: str
    txn_id: str | None = field(default=None, validator=_txn_id)
    reply_to: int | None = field(default=None, validator=_natural)
    """The seq of the message that is answered."""


@frozen
class Edit:
    """Give a message of one's own another text."""

    room: str
    seq: int = field(validator=_natural)
    content: str
    txn_id: str | None = field(default=None, validator=_txn_id)


@frozen
class React:
    """Put an emoji beside a message."""

    room: str
    seq: int = field(validator=_natural)
    emoji: str
    txn_id: str | None = field(default=None, validator=_txn_id)


@frozen
class Unreact:
    """Take one's own emoji away."""

    room: str
    seq: int = field(validator=_natural)
    emoji: str
    txn_id: str | None = field(default=None, validator=_txn_id)


@frozen
class Delete:
    """Erase a message: its text, and that of its edits."""

    room: str
    seq: int = field(validator=_natural)
    reason: str | None = None
    txn_id: str | None = field(default=None, validator=_txn_id)


@frozen
class Invite:
    room: str
    username: str
    txn_id: str | None = field(default=None, validator=_txn_id)


@frozen
class Kick:
    """End somebody's membership, or their invitation; they may come back."""

    room: str
    username: str
    txn_id: str | None = field(default=None, validator=_txn_id)


@frozen
class Ban:
    """End somebody's membership, and let them back in not before `until`, or never."""

    room: str
    username: str
    until: datetime | None = field(default=None, validator=_zoned)
    reason: str | None = None
    txn_id: str | None = field(default=None, validator=_txn_id)


@frozen
class Unban:
    room: str
    username: str
    txn_id: str | None = field(default=None, validator=_txn_id)


@frozen
class Mute:
    """Let somebody write nothing before `until`, or ever."""

    room: str
    username: str
    until: datetime | None = field(default=None, validator=_zoned)
    reason: str | None = None
    txn_id: str | None = field(default=None, validator=_txn_id)


@frozen
class Unmute:
    room: str
    username: str
    txn_id: str | None = field(default=None, validator=_txn_id)


@frozen
class SetRole:
    room: str
    username: str
    role: str
    txn_id: str | None = field(default=None, validator=_txn_id)

    def __attrs_post_init__(self) -> None:
        if self.role not in ("owner", "moderator", "member", "reader"):
            raise Invalid("role is owner, moderator, member or reader")


@frozen
class MarkRead:
    """Say how far one has read."""

    room: str
    seq: int = field(validator=_natural)


@frozen
class Report:
    """Tell a room's moderators of a message."""

    room: str
    seq: int = field(validator=_natural)
    reason: str


@frozen
class Reports:
    room: str
    after: int | None = field(default=None, validator=_natural)
    """A report's number."""
    limit: int | None = field(default=None, validator=_positive)


@frozen
class Bans:
    """List who is banned or muted."""

    room: str
    after: str | None = None
    limit: int | None = field(default=None, validator=_positive)


@frozen
class History:
    room: str
    before: int | None = field(default=None, validator=_natural)
    after: int | None = field(default=None, validator=_natural)
    around: int | None = field(default=None, validator=_natural)
    limit: int | None = field(default=None, validator=_positive)
    types: tuple[str, ...] | None = None
    """Kinds of events; None for messages alone."""

    def __attrs_post_init__(self) -> None:
        if self.types is not None and not (self.types and {*self.types} <= {*LOGGED}):
            raise Invalid(f"types has one or more of {', '.join(LOGGED)}")
        if sum(edge is not None for edge in (self.before, self.after, self.around)) > 1:
            raise Invalid("history takes one of before, after and around")


@frozen
class Typing:
    """Tell the others that one is writing something."""

    room: str


@frozen
class Search:
    """Find messages, in one room or in all that one may read; `query` says which."""

    query: str
    room: str | None = None
    cursor: str | None = None
    """What the page before said is `next`."""
    limit: int | None = field(default=None, validator=_positive)


@frozen
class Who:
    room: str


@frozen
class Members:
    room: str
    after: str | None = None
    limit: int | None = field(default=None, validator=_positive)


@frozen
class Ping:
    pass


Upon: TypeAlias = Invite | Kick | Ban | Unban | Mute | Unmute | SetRole
"""What somebody does to another's membership, or may keep them from."""

Rated: TypeAlias = Send | Edit | React
"""Counted by `limits.messages`; to take something back is free."""

Changing: TypeAlias = Upon | Update
"""Counted by `limits.changes`, as joining and creating a room are; to leave is free."""

Durable: TypeAlias = Send | Edit | Delete | React | Unreact | Leave | Upon | Update
"""Become an event of the room's log, in the order they came, without waiting for one another."""

Bound: TypeAlias = Register | Login | Logout | Password | Ping
"""Of a connection: who is there, and by what."""

Plain: TypeAlias = (
    Profile
    | Rooms
    | Create
    | Direct
    | Join
    | History
    | Typing
    | Search
    | Who
    | Members
    | MarkRead
    | Report
    | Reports
    | Bans
)
"""Of a user, through whatever door they come."""

Immediate: TypeAlias = Bound | Plain
"""Answered one at a time, after all that came before them."""

Command: TypeAlias = Durable | Immediate


@frozen
class Request:
    """A frame, read: the command in it, or why there is none."""

    id: RequestId | None
    command: Command | ChatError
