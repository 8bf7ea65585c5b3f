"""What the accounts and the log have of one person: handed out, or taken out, piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeAlias

import orjson

from chatcore.errors import ChatError, NotFound, NotMember
from chatcore.events import Delete, Durable, Member, Message, Reaction
from chatcore.model import Account, Draft, Room, rfc3339
from chatcore.ports import Clock, Outcome, Repository, Wire

BATCH = 500
"""Events in one step: so many go into one commit, and others' commits come in between."""

Step: TypeAlias = Sequence[Draft] | Callable[[], object]
"""Drafts to append, or a write of the repository to call."""


def exported(repository: Repository, username: str, wire: Wire) -> Iterator[bytes]:
    """Yield what there is of a user as lines of JSON, in pieces of many lines.

    The account, each membership, when each token expires, each report that the user made or
    that was made of a message of theirs, and then every event that the user sent, or that is
    about their membership or the deletion of their messages, as the wire has it, in the order
    in which they were stored.  Who reported a message is not theirs to know.  Raises NotFound.
    """
    account = repository.user(username)
    if account is None:
        raise NotFound("There is no such user")
    user = account.user
    lines: list[dict[str, object]] = [
        {
            "export": "account",
            "username": user.username,
            "display_name": user.display_name,
            "bot": user.bot,
            "status": account.status,
            "has_password": account.password_hash is not None,
        }
    ]
    lines += [
        {"export": "membership", "room": m.room.name, "role": m.role, "read": m.read}
        for m in repository.memberships(username)
    ]
    lines += [
        {"export": "token", "expires": rfc3339(expires)} for expires in repository.tokens(username)
    ]
    lines += [
        {
            "export": "report",
            "room": room,
            "seq": report.seq,
            **({"username": username} if report.username == username else {}),
            "reason": report.reason,
            "timestamp": rfc3339(report.timestamp),
        }
        for room, report in repository.reports_of(username)
    ]
    yield b"".join(orjson.dumps(line) + b"\n" for line in lines)
    after: int | None = 0
    while after is not None:
        events, after = repository.said(username, after, BATCH)
        if events:
            yield b"".join(map(wire.encode, events))


def departure(repository: Repository, account: Account, clock: Clock) -> Iterator[Step]:
    """Yield, step by step, what is still to be done for a deleted user.

    Take each step before the next is asked for.  It may be begun anew at any time: what is
    done already is not done again.
    """
    username, rooms = account.user.username, dict[str, Room | None]()

    def done(kind: str, room: str, body: dict[str, object]) -> Draft:
        if room not in rooms:
            rooms[room] = repository.room(room)
        found = rooms[room]
        assert found is not None, "whose log there is"
        return Draft(
            room=found, sender=username, kind=kind, body=body, timestamp=clock(), as_host=True
        )

    leaving: dict[str, object] = {"username": username, "action": "leave"}
    left = [done("member", each.room.name, leaving) for each in repository.memberships(username)]
    if left:
        yield left
    yield partial(repository.lift_restraints, username)
    if account.closing not in ("erase", "forget"):
        return
    after: int | None = 0
    while after is not None:
        events, after = repository.said(username, after, BATCH)
        undone = [done(kind, room, body) for kind, room, body in map(_undoing, events) if kind]
        if undone:
            yield undone
        reasons = [
            each for each in events if isinstance(each, Delete | Member) and each.reason is not None
        ]
        if reasons and account.closing == "forget":
            yield partial(repository.redact, reasons)
    more = account.closing == "forget"
    if more:  # when nothing of theirs can be reported any more
        yield partial(repository.redact_reports, username)

    def forget_some() -> None:
        nonlocal more
        more = repository.forget_txns(username, BATCH)

    while more:
        yield forget_some


def _undoing(event: Durable) -> tuple[str, str, dict[str, object]]:
    """Return what takes an event of a user back: a kind, which is none for most, room and body."""
    match event:
        case Message(erased=False):
            return "delete", event.room, {"target": event.seq}
        case Reaction(action="add"):  # where it is there no more, that changes nothing
            body = {"target": event.target, "emoji": event.emoji, "action": "remove"}
            return "reaction", event.room, body
    return "", event.room, {}


def check(outcomes: Sequence[Outcome]) -> None:
    """Raise the ChatError of a step that was not taken; what another has done meanwhile is done."""
    for outcome in outcomes:
        if isinstance(outcome, ChatError) and not isinstance(outcome, NotFound | NotMember):
            raise outcome
