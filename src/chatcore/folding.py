"""What a room's messages say now: edits and deletions taken into them, in this one place."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TypeVar

from attrs import evolve

from chatcore.events import Delete, Durable, Edit, Member, Message

E = TypeVar("E", bound=Durable)

ERASED: Mapping[str, object] = {"content": "", "erased": True}
"""What stands in an event's body in place of its text."""


def fold(events: Iterable[Durable]) -> list[Message]:
    """Return the messages among events of one room, each with the text it has after all of them.

    The events come in seq order, or at least each message before its edits, and those in
    theirs.  Messages that are folded already go on from what they are.  An edit or a
    deletion whose message is not there is ignored, and so is every other event.
    """
    messages: dict[int, Message] = {}
    for event in events:
        match event:
            case Message():
                messages[event.seq] = event
            case Edit() | Delete():
                message = messages.get(event.target)
                if message is None or message.erased:
                    continue
                if isinstance(event, Delete) or event.erased:
                    messages[event.target] = erased(message)
                else:
                    messages[event.target] = evolve(
                        message, content=event.content, edited=event.timestamp
                    )
    return [*messages.values()]


def erased(event: E) -> E:
    """Return a message or an edit without its text; any other event as it is."""
    match event:
        case Message():
            return evolve(event, content="", edited=None, erased=True, reply_to=None)
        case Edit():
            return evolve(event, content="", erased=True)
    return event


def redacted(event: E) -> E:
    """Return an event without the reason that somebody gave for it."""
    return evolve(event, reason=None) if isinstance(event, Delete | Member) else event


def deleted(events: Iterable[Durable]) -> set[int]:
    """Return the messages, by seq, that these events delete."""
    return {event.target for event in events if isinstance(event, Delete)}


def without(targets: Collection[int], events: Iterable[E]) -> list[E]:
    """Return events with those messages, and their edits, erased."""
    return [erased(event) if _concerned(event) in targets else event for event in events]


def _concerned(event: Durable) -> int:
    """The message that an event is, or is of."""
    return event.target if isinstance(event, Edit) else event.seq
