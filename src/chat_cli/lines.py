"""What is shown of a room's events: a line for each, or none."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import datetime

from chat_cli.screen import clock
from chatcore.events import Delete, Durable, Edit, Member, Message, Reaction, RoomChanged

EXCERPT = 30
"""Characters of a message that another one is about."""


def line(
    event: Durable, where: str = "", *, me: str = "", about: Message | None = None
) -> str | None:
    """Return an event as people read it; `where` names a room that is not the one on the screen.

    `me` is who reads it, and `about` the message that it answers, is a reaction to or
    deletes, where that is known.
    """
    before = f"({where}) " if where else ""
    match event:
        case Message(erased=True):
            return f"[{clock(event.timestamp)}] {before}{event.sender}: (deleted)"
        case Edit(erased=True):
            return None  # its message is shown as deleted
        case Message() | Edit():
            return f"[{clock(event.timestamp)}] {before}{_said(event, me, about)}"
        case Reaction():
            verb = "put {} beside" if event.action == "add" else "took {} away from"
            what = _short(about) if about is not None else "a message"
            return f"[System] {before}{event.sender} {verb.format(event.emoji)} {what}"
    done = _done(event, about)
    if done is None:
        return None
    if isinstance(event, RoomChanged):
        return f"[System] {before}{event.sender} {done}"
    there = f" in {where}" if where else ""
    why = f": {event.reason}" if event.reason else ""
    return f"[System] {event.sender} {done}{there}{why}"


def dated(message: Message, where: str = "", *, me: str = "", about: Message | None = None) -> str:
    """Return a message that need not be today's, as `line` does one of today."""
    before = f"({where}) " if where else ""
    return f"[{moment(message.timestamp)}] {before}{_said(message, me, about)}"


def _said(event: Message | Edit, me: str, about: Message | None) -> str:
    notes = ", ".join(_notes(event, me, about))
    noted = f"{event.sender} ({notes})" if notes else event.sender
    return f"{noted}: {event.content}"


def _notes(event: Message | Edit, me: str, about: Message | None) -> Iterator[str]:
    """Say of a message what its text does not."""
    if isinstance(event, Edit) or event.edited is not None:
        yield "edited"
    if isinstance(event, Message) and event.reply_to is not None:
        yield f"to {_short(about)}" if about is not None else "an answer"
    if me in event.mentions:
        yield "mentions you"
    if isinstance(event, Message):
        yield from (f"{each.emoji} {each.count}" for each in event.reactions)


def _short(message: Message) -> str:
    text = " ".join(message.content.split())
    return f"{message.sender}: {text if len(text) <= EXCERPT else text[: EXCERPT - 1] + '…'}"


def moment(when: datetime) -> str:
    """Return a moment that need not be today's, as people here read it."""
    with contextlib.suppress(OverflowError):  # the end of all time is not everywhere the same
        when = when.astimezone()
    return f"{when:%Y-%m-%d %H:%M}"


def _done(event: Durable, about: Message | None) -> str | None:
    """Say what somebody did; None for what is told otherwise: who comes and goes."""
    match event:
        case Delete():
            return f"deleted a message{_whose(event, about)}"
        case Member(action="role"):
            article = "an" if event.role == "owner" else "a"
            return f"made {event.username} {article} {event.role}"
        case Member(action="unban"):
            return f"let {event.username} come back"
        case Member(action="unmute"):
            return f"let {event.username} write again"
        case Member() if event.action in _VERBS:
            until = f" until {moment(event.until)}" if event.until else ""
            return f"{_VERBS[event.action]} {event.username}{until}"
        case RoomChanged():
            return ", ".join(_changes(event))
    return None


def _whose(event: Delete, about: Message | None) -> str:
    if about is None:
        return ""
    return f" of {'their own' if about.sender == event.sender else about.sender}"


_VERBS = {"invite": "invited", "kick": "removed", "ban": "banned", "mute": "muted"}


KEPT = "keeps all messages"


def _changes(event: RoomChanged) -> list[str]:
    changes = []
    for what, text in (("title", event.title), ("topic", event.topic)):
        if text is not None:
            changes.append(f"changed the {what} to: {text}" if text else f"removed the {what}")
    if event.slow_mode is not None:
        slow = f"one message in {event.slow_mode} seconds" if event.slow_mode else "off"
        changes.append(f"set slow mode: {slow}")
    if event.archived is not None:
        changes.append("archived the room" if event.archived else "opened the room again")
    if event.retention_days is not None:
        days = "1 day" if event.retention_days == 1 else f"{event.retention_days} days"
        changes.append(f"lets messages go after {days}" if event.retention_days else KEPT)
    return changes
