"""Rows: those given, as the JSON parameter of a statement, and those taken, as what they mean."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from attrs import evolve

from chatcore import folding
from chatcore.events import DURABLE, Durable, Edit, Message, Reaction, Tally

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def given(rows: Iterable[object], by: str = "given") -> dict[str, str]:
    return {by: orjson.dumps(list(rows)).decode()}


def milliseconds(moment: datetime) -> int:
    past = moment - _EPOCH  # whose parts are integers, which a division of it is slow to find
    return (past.days * 86_400 + past.seconds) * 1_000 + past.microseconds // 1_000


def moment(milliseconds: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=milliseconds)


def events_of(room: str, found: list[list[Any]]) -> list[Durable]:
    return [
        DURABLE[kind](room, seq, sender, moment(timestamp), **body)
        for seq, kind, sender, timestamp, body in sorted(found)
    ]


def as_it_is(room: str, row: Sequence[Any], reader: str) -> tuple[Message, Edit | None]:
    """Return a message with what is beside it, and the edit that it has to be folded with.

    Of a row that `statements.as_they_are` selects.
    """
    seq, sender, at, body, edit_seq, edit_at, edit_body, counts, mine, later = row
    own = {emoji for (emoji,) in mine}
    now = folding.ranked(Tally(emoji, count, emoji in own) for emoji, count in counts)
    message = Message(room, seq, sender, moment(at), **body, reactions=now)
    if later and not message.erased:
        reacted = [each for each in events_of(room, later) if isinstance(each, Reaction)]
        message = evolve(message, reactions=folding.before(now, reacted, reader))
    if edit_seq is None:
        return message, None
    # Of who sent the message: nobody else may.
    return message, Edit(room, edit_seq, sender, moment(edit_at), **edit_body)
