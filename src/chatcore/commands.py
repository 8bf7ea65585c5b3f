"""The verbs a client may send, one frozen class each; Command is their union.

A class's name is its `cmd` on the wire in lower case, its fields are the command's
fields, and a field with a default may be left out.  What can be judged from the
values alone is judged here, at birth, with Invalid.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from attrs import Attribute, field, frozen

from chatcore.errors import ChatError, Invalid
from chatcore.model import INTEGERS, RequestId


def _txn_id(_: object, attribute: Attribute[Any], value: str | None) -> None:
    if value is not None and not (1 <= len(value) <= 64 and value.isprintable()):
        raise Invalid(f"{attribute.name} has 1 to 64 printable characters")


def _positive(_: object, attribute: Attribute[Any], value: int | None) -> None:
    if value is not None and value < 1:
        raise Invalid(f"{attribute.name} is 1 or more")


def _natural(_: object, attribute: Attribute[Any], value: int | None) -> None:
    if value is not None and not 0 <= value < INTEGERS:
        raise Invalid(f"{attribute.name} is 0 or more, and below 2^53")


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


@frozen
class Edit:
    """Give a message of one's own another text."""

    room: str
    seq: int = field(validator=_natural)
    content: str
    txn_id: str | None = field(default=None, validator=_txn_id)


@frozen
class Delete:
    """Erase a message: its text, and that of its edits."""

    room: str
    seq: int = field(validator=_natural)
    reason: str | None = None
    txn_id: str | None = field(default=None, validator=_txn_id)


@frozen
class History:
    room: str
    before: int | None = field(default=None, validator=_natural)
    after: int | None = field(default=None, validator=_natural)
    around: int | None = field(default=None, validator=_natural)
    limit: int | None = field(default=None, validator=_positive)

    def __attrs_post_init__(self) -> None:
        if sum(edge is not None for edge in (self.before, self.after, self.around)) > 1:
            raise Invalid("history takes one of before, after and around")


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


Durable: TypeAlias = Send | Edit | Delete | Leave
"""Become an event of the room's log, in the order they came, without waiting for one another."""

Immediate: TypeAlias = (
    Register | Login | Logout | Rooms | Create | Join | History | Who | Members | Ping
)
"""Answered one at a time, after all that came before them."""

Command: TypeAlias = Durable | Immediate


@frozen
class Request:
    """A frame, read: the command in it, or why there is none."""

    id: RequestId | None
    command: Command | ChatError
