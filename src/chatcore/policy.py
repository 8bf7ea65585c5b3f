"""Who may do what, and how often.

One table says who may do what in a room.  A cell has `yes`, or the code of the error
that one gets.  The log asks it inside the transaction, the chat before it reads.

A stranger is somebody who is not in a public room, and an outsider who is not in a
private or a direct one, banned or not: for them it is not there.  Who is invited to a
public room may do besides what a stranger may.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Protocol

from attrs import define

from chatcore.commands import Command
from chatcore.errors import (
    Banned,
    ChatError,
    Forbidden,
    Muted,
    NotFound,
    NotMember,
    RateLimited,
)
from chatcore.model import FOREVER, INVITED, Rate, Restraint, Room, User, rfc3339


def _table(text: str) -> Mapping[str, Mapping[str, str]]:
    (_, *columns), *rows = (line.split() for line in text.strip().splitlines())
    return {action: dict(zip(columns, cells, strict=True)) for action, *cells in rows}


MAY = _table("""
    action      owner     moderator  member     reader     invited     stranger    banned  outsider
    read        yes       yes        yes        yes        not_member  yes         banned  not_found
    audit       yes       yes        forbidden  forbidden  not_member  not_member  banned  not_found
    join        yes       yes        yes        yes        yes         yes         banned  not_found
    leave       yes       yes        yes        yes        yes         not_member  banned  not_found
    send        yes       yes        yes        forbidden  not_member  not_member  banned  not_found
    edit        yes       yes        yes        forbidden  not_member  not_member  banned  not_found
    typing      yes       yes        yes        forbidden  not_member  not_member  banned  not_found
    delete      yes       yes        yes        yes        not_member  not_member  banned  not_found
    delete_any  yes       yes        forbidden  forbidden  not_member  not_member  banned  not_found
    react       yes       yes        yes        forbidden  not_member  not_member  banned  not_found
    unreact     yes       yes        yes        yes        not_member  not_member  banned  not_found
    mark_read   yes       yes        yes        yes        not_member  not_member  banned  not_found
    report      yes       yes        yes        yes        not_member  not_member  banned  not_found
    reports     yes       yes        forbidden  forbidden  not_member  not_member  banned  not_found
    bans        yes       yes        forbidden  forbidden  not_member  not_member  banned  not_found
    invite      yes       yes        forbidden  forbidden  not_member  not_member  banned  not_found
    kick        yes       yes        forbidden  forbidden  not_member  not_member  banned  not_found
    ban         yes       yes        forbidden  forbidden  not_member  not_member  banned  not_found
    unban       yes       yes        forbidden  forbidden  not_member  not_member  banned  not_found
    mute        yes       yes        forbidden  forbidden  not_member  not_member  banned  not_found
    unmute      yes       yes        forbidden  forbidden  not_member  not_member  banned  not_found
    set_role    yes       yes        forbidden  forbidden  not_member  not_member  banned  not_found
    update      yes       yes        forbidden  forbidden  not_member  not_member  banned  not_found
    archive     yes       forbidden  forbidden  forbidden  not_member  not_member  banned  not_found
""")
"""Who may do what.

`edit` and `delete` are of one's own messages, `delete_any` is of anybody's; `update` is of
a room's title, topic and slow mode, `archive` of whether it is archived and of how long
it keeps what; `audit` is to
read of the log what is no message.
"""

WRITING = ("send", "edit", "react", "typing")
"""What nobody may do who is muted, and nobody in a room that is archived."""

ROLES = ("reader", "member", "moderator", "owner")
"""From the lowest to the highest."""

SLOWED = ("reader", "member")
"""Whom slow mode is for."""

_RANK = {role: rank for rank, role in enumerate(ROLES)}


class Place(Protocol):
    """What the table asks of a room."""

    @property
    def kind(self) -> str: ...

    @property
    def archived(self) -> bool: ...


def column(kind: str, role: str | None, restraint: Restraint | None, now: datetime) -> str:
    """Return what somebody is in a room of this kind, as the table has it."""
    if role is not None and role != INVITED:
        return role
    if role is None and kind != "public":
        return "outsider"
    if restraint is not None and restraint.banned is not None and restraint.banned > now:
        return "banned"
    return role or "stranger"


def check(
    action: str, place: Place, role: str | None, restraint: Restraint | None, now: datetime
) -> None:
    """Return where somebody may do this in a room, or raise what the table says.

    `role` is what they are there, None for nothing.
    """
    who = role if role in _RANK else column(place.kind, role, restraint, now)
    cell = MAY[action][who]
    if cell != "yes" and who == INVITED and place.kind == "public":
        cell = MAY[action]["stranger"]
    if cell != "yes":
        raise _refusal(cell, action, who, restraint)
    if action in WRITING:
        if place.archived:
            raise Forbidden("This room is archived: it can be read, and nobody writes there")
        if restraint is not None and restraint.muted is not None and restraint.muted > now:
            raise Muted(f"You are muted in this room{_until(restraint.muted)}")


def is_readable(place: Place, role: str | None, restraint: Restraint | None, now: datetime) -> bool:
    """Say whether somebody may read a room."""
    try:
        check("read", place, role, restraint, now)
    except ChatError:
        return False
    return True


def _refusal(code: str, action: str, who: str, restraint: Restraint | None) -> ChatError:
    match code:
        case "not_found":
            return NotFound("There is no such room")
        case "banned":
            until = restraint.banned if restraint else None
            return Banned(f"You are banned from this room{_until(until)}")
        case "not_member":
            return NotMember("You must join the chat first")
    if action in WRITING:
        return Forbidden(f"A {who} may only read here; a moderator may make you a member")
    if action == "delete_any":
        return Forbidden("Only who sent a message, or a moderator, may delete it")
    if action == "archive":
        return Forbidden("Only an owner may do that here")
    return Forbidden("Only an owner or a moderator may do that here")


def _until(end: datetime | None) -> str:
    return "" if end is None or end == FOREVER else f" until {rfc3339(end)}"


def outranks(role: str, other: str | None) -> bool:
    """Say whether somebody of one role may act upon somebody of another, or give it.

    An owner may do so to everybody, owners too; a moderator to who is below them.
    """
    return role == "owner" or _RANK[role] > _RANK.get(other or "", -1)


def raises(role: str | None, given: str) -> bool:
    """Say whether a role that somebody is given is above the one that they have."""
    return _RANK[given] > _RANK.get(role or "", -1)


def check_upon(action: str, role: str, other: str | None, given: str | None, *, own: bool) -> None:
    """Raise Forbidden where somebody may not act upon another, or `own` upon themselves.

    `other` is that one's role, and `given` the one that they are to have.
    """
    if own and action == "set_role":
        if _RANK[str(given)] > _RANK[role]:
            raise Forbidden(f"{_a(role)} may not become {_a(given)} by their own wish".capitalize())
    elif own:
        raise Forbidden(f"Nobody can {action} themselves")
    elif not outranks(role, other):
        raise Forbidden(f"{_a(role)} may not do that to {_a(other)}".capitalize())
    elif given is not None and not outranks(role, given):
        raise Forbidden(f"{_a(role)} may not make anybody {_a(given)}".capitalize())


def _a(role: str | None) -> str:
    return f"an {role}" if role == "owner" else f"a {role}"


class OpenPolicy:
    """The default Policy: what the protocol allows is allowed."""

    def check(self, actor: User, command: Command, room: Room | None) -> None:
        return


@define
class _Bucket:
    tokens: float
    filled: float


class Rates:
    """A token bucket for each key, forgotten once it is full again.

    `clock` gives seconds, monotonic.
    """

    def __init__(
        self, rate: Rate | None, text: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = rate
        self._text = text
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}
        self._sweep_at = 1024

    def take(self, key: str) -> None:
        """Take one token, or raise RateLimited with the seconds until there is one."""
        if self._rate is None:
            return
        now = self._clock()
        bucket = self._buckets.get(key)
        if bucket is None:
            self._sweep(now)
            bucket = self._buckets[key] = _Bucket(self._rate.burst, now)
        bucket.tokens = self._tokens(bucket, now)
        bucket.filled = now
        if bucket.tokens < 1:
            raise RateLimited(self._text, retry_after=(1 - bucket.tokens) / self._rate.rate)
        bucket.tokens -= 1

    def give_back(self, key: str) -> None:
        """Undo a `take` whose cause turned out to cost nothing."""
        bucket = self._buckets.get(key)
        if bucket is not None:  # else it is full, and forgotten
            bucket.tokens += 1

    def _tokens(self, bucket: _Bucket, now: float) -> float:
        assert self._rate is not None
        return min(self._rate.burst, bucket.tokens + (now - bucket.filled) * self._rate.rate)

    def _sweep(self, now: float) -> None:
        """Forget full buckets each time their number has doubled."""
        if self._rate is None or len(self._buckets) < self._sweep_at:
            return
        self._buckets = {
            key: bucket
            for key, bucket in self._buckets.items()
            if self._tokens(bucket, now) < self._rate.burst
        }
        self._sweep_at = max(1024, 2 * len(self._buckets))
