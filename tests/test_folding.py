"""What messages say after their edits and deletions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import hypothesis.strategies as st
from hypothesis import given

from chatcore import Delete, Edit, Member, Message, fold
from chatcore.events import Durable
from chatcore.folding import deleted, erased, without

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def said(seq: int, text: str) -> Message:
    return Message("lobby", seq, "ada", NOW, text)


def edit(seq: int, target: int, text: str) -> Edit:
    return Edit("lobby", seq, "ada", NOW + timedelta(seconds=seq), target, text)


def delete(seq: int, target: int) -> Delete:
    return Delete("lobby", seq, "ada", NOW, target)


def gone(seq: int) -> Message:
    return Message("lobby", seq, "ada", NOW, "", erased=True)


def test_the_newest_edit_counts_and_says_when() -> None:
    events: list[Durable] = [said(1, "a"), said(2, "b"), edit(3, 1, "A"), edit(4, 1, "AA")]
    expected = Message("lobby", 1, "ada", NOW, "AA", edited=NOW + timedelta(seconds=4))
    assert fold(events) == [expected, said(2, "b")]


def test_what_is_deleted_is_erased_whatever_comes_after() -> None:
    events: list[Durable] = [said(1, "a"), edit(2, 1, "A"), delete(3, 1)]
    events += [edit(4, 1, "AA"), delete(5, 1)]
    assert fold(events) == [gone(1)]


def test_an_erased_edit_is_of_a_message_that_was_deleted() -> None:
    assert fold([said(1, "a"), erased(edit(2, 1, "A"))]) == [gone(1)]


def test_all_other_events_are_left_out() -> None:
    joined = Member("lobby", 1, "ada", NOW, "ada", "join", "member")
    assert fold([joined, edit(3, 2, "of something older"), delete(4, 2)]) == []


def test_what_is_folded_goes_on_from_there() -> None:
    first = fold([said(1, "a"), edit(2, 1, "A")])
    assert fold([*first, delete(3, 1)]) == [gone(1)]
    assert [message.content for message in fold([*first, edit(3, 1, "AA")])] == ["AA"]


def test_erasing_takes_the_text_of_a_message_and_of_its_edits() -> None:
    events: list[Durable] = [said(1, "a"), said(2, "b"), edit(3, 1, "A"), delete(4, 1)]
    assert deleted(events) == {1}
    assert without({1}, events) == [gone(1), events[1], erased(events[2]), events[3]]
    assert erased(edit(3, 1, "A")) == Edit(
        "lobby", 3, "ada", NOW + timedelta(seconds=3), 1, "", erased=True
    )


@given(st.data())
def test_a_log_folds_alike_at_once_in_parts_and_with_the_text_gone(data: st.DataObject) -> None:
    events: list[Durable] = []
    for seq in range(1, data.draw(st.integers(1, 15))):
        target = data.draw(st.integers(1, seq))
        made: list[Durable] = [said(seq, str(seq)), edit(seq, target, str(seq))]
        made.append(delete(seq, target))
        events.append(data.draw(st.sampled_from(made)))
    # Only a message is edited or deleted, and only what is not deleted is edited.
    events = [
        event
        for place, event in enumerate(events)
        if not isinstance(event, Edit | Delete)
        or any(m.seq == event.target and not m.erased for m in fold(events[:place]))
    ]
    cut = data.draw(st.integers(0, len(events)))
    whole = fold(events)
    assert whole == fold([*fold(events[:cut]), *events[cut:]]), "as who joined at the cut has it"
    assert whole == fold(without(deleted(events), events)), "as the log has it by now"
