"""What a room's messages say now: what became of them taken into them, in this one place."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TypeVar

from attrs import evolve

from chatcore.events import Delete, Durable, Edit, Member, Message, Reaction, Tally

E = TypeVar("E", bound=Durable)

ERASED: Mapping[str, object] = {"content": "", "erased": True}
"""What stands in an event's body in place of its text."""


def fold(events: Iterable[Durable], me: str | None = None) -> list[Message]:
    """Return the messages among events of one room, each as it is after all of them.

    The events come in seq order, or at least each message before its edits and reactions,
    and those in theirs.  Messages that are folded already go on from what they are.  What
    is of a message that is not there is ignored, and so is every other event.  `me` is
    the username of whoever reads, for `Tally.me`.
    """
    messages: dict[int, Message] = {}
    for event in events:
        match event:
            case Message():
                messages[event.seq] = event
            case Edit() | Delete() | Reaction():
                message = messages.get(event.target)
                if message is None or message.erased:
                    continue
                messages[event.target] = _after(message, event, me)
    return [*messages.values()]


def _after(message: Message, event: Edit | Delete | Reaction, me: str | None) -> Message:
    match event:
        case Reaction():
            return evolve(message, reactions=_with(message.reactions, event, me))
        case Edit(erased=False):
            return evolve(
                message,
                content=event.content,
                edited=event.timestamp,
                mentions=event.mentions,
            )
    return erased(message)


def ranked(tallies: Iterable[Tally]) -> tuple[Tally, ...]:
    """Return what is beside a message in the order in which it is told."""
    return tuple(
        sorted(
            (each for each in tallies if each.count > 0), key=lambda each: (-each.count, each.emoji)
        )
    )


def before(
    tallies: Iterable[Tally], reactions: Sequence[Reaction], me: str | None
) -> tuple[Tally, ...]:
    """Return what was beside a message before its newest reactions, which are given in order."""
    was = tuple(tallies)
    for reaction in reversed(reactions):
        undone = evolve(reaction, action="remove" if reaction.action == "add" else "add")
        was = _with(was, undone, me)
    return was


def _with(tallies: Iterable[Tally], reaction: Reaction, me: str | None) -> tuple[Tally, ...]:
    by_emoji = {each.emoji: each for each in tallies}
    was = by_emoji.get(reaction.emoji, Tally(reaction.emoji, 0, me=False))
    adds = reaction.action == "add"
    by_emoji[reaction.emoji] = Tally(
        reaction.emoji,
        was.count + (1 if adds else -1),
        me=adds if reaction.sender == me else was.me,
    )
    return ranked(by_emoji.values())


def erased(event: E) -> E:
    """Return a message or an edit without its text; any other event as it is."""
    match event:
        case Message():
            return evolve(
                event,
                content="",
                edited=None,
                erased=True,
                reply_to=None,
                mentions=(),
                reactions=(),
            )
        case Edit():
            return evolve(event, content="", erased=True, mentions=())
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
