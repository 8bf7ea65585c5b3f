"""Drafts as the checks of a repository write them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from chatcore.events import Durable, Stored
from chatcore.mentions import mentioned
from chatcore.model import Draft, Limits, Room
from chatcore.ports import Outcome

LOBBY = Room("lobby", title="Lobby", epoch="e1")
SECRET = Room("secret", kind="private", epoch="e2")
NOW = datetime(2026, 1, 1, 12, 30, 15, 123_000, tzinfo=UTC)


def say(sender: str, text: str, room: Room = LOBBY, **more: Any) -> Draft:
    body: dict[str, object] = {"content": text}
    more.setdefault("mentions", mentioned(text, Limits().mentions))
    if "reply_to" in more:
        body["reply_to"] = more.pop("reply_to")
    at = more.pop("timestamp", NOW)
    return Draft(room=room, sender=sender, kind="message", body=body, timestamp=at, **more)


def edit(sender: str, target: int, text: str, room: Room = LOBBY, **more: Any) -> Draft:
    body = {"target": target, "content": text}
    more.setdefault("mentions", mentioned(text, Limits().mentions))
    at = more.pop("timestamp", NOW + timedelta(minutes=1))
    return Draft(room=room, sender=sender, kind="edit", body=body, timestamp=at, **more)


THUMB = "\U0001f44d"


def react(
    sender: str,
    target: int,
    emoji: str = THUMB,
    room: Room = LOBBY,
    *,
    adds: bool = True,
    **more: Any,
) -> Draft:
    body = {"target": target, "emoji": emoji, "action": "add" if adds else "remove"}
    at = more.pop("timestamp", NOW)
    return Draft(room=room, sender=sender, kind="reaction", body=body, timestamp=at, **more)


def delete(sender: str, target: int, room: Room = LOBBY, **more: Any) -> Draft:
    body: dict[str, object] = {"target": target}
    if "reason" in more:
        body["reason"] = more.pop("reason")
    at = NOW + timedelta(minutes=2)
    return Draft(room=room, sender=sender, kind="delete", body=body, timestamp=at, **more)


def member(username: str, action: str, room: Room = LOBBY, **more: Any) -> Draft:
    body = {"username": username, "action": action}
    if action == "join":
        body["role"] = more.pop("role", "member")
    at = more.pop("timestamp", NOW)
    return Draft(room=room, sender=username, kind="member", body=body, timestamp=at, **more)


def all_stored(outcomes: Sequence[Outcome]) -> list[Durable]:
    assert all(isinstance(outcome, Stored) for outcome in outcomes), outcomes
    return [outcome.event for outcome in outcomes if isinstance(outcome, Stored)]


def types_of(outcomes: Sequence[Outcome]) -> list[type]:
    return [type(outcome) for outcome in outcomes]


def upon(sender: str, action: str, username: str, room: Room = LOBBY, **more: Any) -> Draft:
    """Do something to another's membership; `role`, `until` and `reason` go into the body."""
    body: dict[str, object] = {"username": username, "action": action}
    body |= {name: more.pop(name) for name in ("role", "until", "reason") if name in more}
    at = more.pop("timestamp", NOW)
    return Draft(room=room, sender=sender, kind="member", body=body, timestamp=at, **more)


def update(sender: str, room: Room = LOBBY, *, txn_id: str | None = None, **fields: Any) -> Draft:
    return Draft(room=room, sender=sender, kind="room", body=fields, timestamp=NOW, txn_id=txn_id)
