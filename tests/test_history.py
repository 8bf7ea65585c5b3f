"""The checker of histories: a right one has no violation, and each planted fault is named."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeAlias, TypeVar

import hypothesis.strategies as st
import pytest
from attrs import define, evolve, field
from hypothesis import given

from chatcore import Chat, Member, Message, Since, SqliteRepository, User
from chatcore import connect as join_in
from chatcore.commands import Command
from chatcore.errors import Forbidden, NotFound, NotMember, RateLimited, Unavailable
from chatcore.events import (
    Delete,
    DeleteReply,
    Durable,
    Edit,
    EditReply,
    Event,
    JoinReply,
    Lost,
    Notice,
    Reset,
    SendReply,
)
from chatcore.folding import fold, without
from chatcore.follower import EVENTS_MOST
from chatcore.model import Draft, Limits, Rate, Room
from chatcore.participant import Participant, R
from chatcore.repository.memory import MemoryRepository
from chatcore.testing import (
    Log,
    Reading,
    Record,
    Recorded,
    Sent,
    Violation,
    check_history,
    connect,
    read_logs,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PASSWORD = "correct horse"
USERS = ("ada", "bob", "cyd")
ROOMS = ("lobby", "tea")


def message(seq: int, sender: str, text: str, room: str = "lobby") -> Message:
    return Message(room, seq, sender, NOW, text)


def arrival(seq: int, who: str, room: str = "lobby") -> Member:
    return Member(room, seq, who, NOW, who, "join", "member")


def reply(head: int, *events: Durable, room: str = "lobby", **more: object) -> JoinReply:
    fields = {"epoch": "e", "recovered": False, **more}
    return JoinReply(
        room=Room(room),
        role="member",
        first=1,
        head=head,
        read=0,
        unread=0,
        events=events,
        **fields,  # type: ignore[arg-type] # epoch and recovered
    )


def answered(sent: Sent, seq: int, *, duplicate: bool = False) -> None:
    sent.acknowledged(SendReply(sent.room, seq, NOW, duplicate))


# One small history, and one fault planted in it.


@define
class Story:
    """Ada sends four messages, the third unanswered; bob hears them all, and then comes again."""

    ada: Record = field(factory=lambda: Record("ada"))
    bob: Record = field(factory=lambda: Record("bob"))
    events: list[Durable] = field(factory=list)
    head: int | None = None

    def __attrs_post_init__(self) -> None:
        self.events += [arrival(1, "bob"), arrival(2, "ada")]
        self.bob.joined(reply(1))
        self.bob.saw(self.events[1])
        for seq, text in enumerate(("one", "two", "three", "four"), 3):
            sent = self.ada.sending("lobby", text)
            self.events.append(message(seq, "ada", text))
            self.bob.saw(self.events[-1])
            if text != "three":
                answered(sent, seq)
        self.bob.joined(reply(6, *self.events[2:], recovered=True), Since("e", 2))

    @property
    def heard(self) -> list[Durable]:
        return self.bob.readings["lobby"][0].seen

    def log(self) -> Log:
        head = self.events[-1].seq if self.head is None else self.head
        return Log(self.events, head, 1, "e")

    def violations(self) -> list[tuple[str, str, str]]:
        found = check_history([self.ada, self.bob], {"lobby": self.log()}, caught_up=True)
        assert {"lobby"} >= {violation.room for violation in found}
        return [(violation.kind, violation.who, violation.detail) for violation in found]


def test_a_right_story_has_no_violation() -> None:
    assert [] == Story().violations()


def test_lost_at_the_end() -> None:
    story = Story()
    for _ in range(4):
        story.bob.readings["lobby"][-1].seen.pop()
    del story.heard[-1], story.events[-1]
    story.bob.readings["lobby"][-1].head = 5
    assert ("lost", "ada", "'four' was acknowledged as 6, and is not there") in story.violations()


def test_lost_because_it_is_stored_as_another() -> None:
    story = Story()
    answered(story.ada.sends[2], 4)
    assert [("lost", "ada", "'three' was acknowledged as 4 and is 5")] == story.violations()


def test_two_sends_acknowledged_as_one() -> None:
    story = Story()
    answered(story.ada.sending("lobby", "four"), 6)
    assert [("lost", "ada", "'four' was acknowledged as 6, and is not there")] == story.violations()


@pytest.mark.parametrize(("number", "text"), [(0, "one"), (2, "three")])
def test_a_send_stored_twice(number: int, text: str) -> None:
    story = Story()
    assert story.ada.sends[number].content == text
    story.events.append(message(7, "ada", text))
    story.heard.append(story.events[-1])
    story.bob.readings["lobby"][-1].seen.append(story.events[-1])
    assert [("duplicated", "ada", f"'{text}' is stored once more as 7")] == story.violations()


def test_a_retry_stored_twice() -> None:
    story = Story()
    first = story.ada.sending("lobby", "again", "t1")
    answered(first, 7)
    answered(story.ada.sending("lobby", "again", "t1"), 8)
    for seq in (7, 8):
        story.events.append(message(seq, "ada", "again"))
        story.heard.append(story.events[-1])
        story.bob.readings["lobby"][-1].seen.append(story.events[-1])
    assert [("duplicated", "ada", "'again' is stored as 7 and 8")] == story.violations()


def test_a_retry_acknowledged_as_something_else() -> None:
    story = Story()
    answered(story.ada.sending("lobby", "again", "t1"), 7)
    answered(story.ada.sending("lobby", "again", "t1"), 9)
    story.events.append(message(7, "ada", "again"))
    story.heard.append(story.events[-1])
    story.bob.readings["lobby"][-1].seen.append(story.events[-1])
    assert [("lost", "ada", "'again' was acknowledged as 9 too")] == story.violations()


def test_a_retry_answered_with_the_first_ones_seq_is_right() -> None:
    story = Story()
    story.ada.sending("lobby", "again", "t1")
    story.ada.sending("lobby", "after it")
    answered(story.ada.sending("lobby", "again", "t1"), 7, duplicate=True)
    for seq, text in ((7, "again"), (8, "after it")):
        story.events.append(message(seq, "ada", text))
        story.heard.append(story.events[-1])
        story.bob.readings["lobby"][-1].seen.append(story.events[-1])
    assert [] == story.violations()


def test_seen_twice() -> None:
    story = Story()
    story.heard.insert(3, story.heard[2])
    assert [("duplicated", "bob", "4 was seen again, after 4")] == story.violations()


def test_seen_again_from_before_the_join() -> None:
    story = Story()
    story.heard.append(story.events[0])
    assert [("duplicated", "bob", "1 was seen again, after 6")] == story.violations()


def test_stored_against_the_senders_order() -> None:
    story = Story()
    story.ada.sends[0], story.ada.sends[1] = story.ada.sends[1], story.ada.sends[0]
    expected = "'two' is stored as 4, after what was sent later"
    assert [("reordered", "ada", expected)] == story.violations()


def test_two_connections_have_no_common_order() -> None:
    story = Story()
    late, early = story.ada.sends[1], story.ada.sends[0]
    story.ada.sends[:2] = [late]
    other = Record("ada", [early])
    assert [] == check_history([story.ada, story.bob, other], {"lobby": story.log()})


def test_seen_out_of_order() -> None:
    story = Story()
    story.heard[1], story.heard[2] = story.heard[2], story.heard[1]
    assert [("reordered", "bob", "3 was seen after 4")] == story.violations()


def test_stored_though_nobody_sent_it() -> None:
    story = Story()
    for sender in ("ada", "eve"):
        story.events.append(message(story.events[-1].seq + 1, sender, "boo"))
        story.heard.append(story.events[-1])
        story.bob.readings["lobby"][-1].seen.append(story.events[-1])
    assert [
        ("phantom", "ada", "'boo' is stored as 7, and nobody sent it"),
        ("phantom", "eve", "'boo' is stored as 8, and nobody sent it"),
    ] == story.violations()


def test_stored_though_it_was_refused() -> None:
    story = Story()
    story.ada.sends[2].failed(Unavailable("perhaps"))
    assert [] == story.violations()
    story.ada.sends[2].failed(RateLimited("no"))
    assert [("phantom", "ada", "'three' was refused, and is stored as 5")] == story.violations()


def test_seen_and_not_stored() -> None:
    story = Story()
    story.heard.append(message(7, "ada", "boo"))
    assert [("phantom", "bob", "7 was seen, and is not stored")] == story.violations()


def test_told_a_head_that_is_not_there() -> None:
    story = Story()
    story.bob.readings["lobby"][-1].head = 9
    assert [("phantom", "bob", "the head was told as 9, and is 6")] == story.violations()


def test_told_to_have_gone_on_though_nothing_was_asked_for() -> None:
    story = Story()
    story.bob.joined(reply(6, *story.events, recovered=True))
    assert [("gap", "bob", "went on after 0 in epoch e, which is another")] == story.violations()


def test_seen_without_having_joined() -> None:
    story = Story()
    eve = Record("eve")
    for event in story.events[3:]:
        eve.saw(event)
    assert [
        Violation("phantom", "eve", "lobby", "4 was seen without having joined")
    ] == check_history([story.ada, eve], {"lobby": story.log()})


def test_seen_after_having_left() -> None:
    story = Story()
    story.bob.left("lobby")
    story.events += [message(7, "ada", "later")]
    answered(story.ada.sending("lobby", "later"), 7)
    story.heard.append(story.events[-1])
    assert [] == story.violations(), "and what was not seen is no gap"
    story.bob.saw(story.events[-1])
    assert [("phantom", "bob", "7 was seen without having joined")] == story.violations()


def test_left_by_an_event_of_ones_own() -> None:
    story = Story()
    leaving = Member("lobby", 7, "bob", NOW, "bob", "leave")
    story.events += [leaving, message(8, "ada", "later")]
    story.heard.append(leaving)
    answered(story.ada.sending("lobby", "later"), 8)
    story.bob.saw(leaving)
    story.bob.readings["lobby"].pop(0)
    assert [] == story.violations()


@pytest.mark.parametrize("how", ["leave", "kick", "ban"])
def test_stored_of_somebody_who_was_gone(how: str) -> None:
    story = Story()
    story.events += [Member("lobby", 7, "bob", NOW, "ada", how), message(8, "ada", "five")]
    answered(story.ada.sending("lobby", "five"), 8)
    for reading in story.bob.readings["lobby"]:
        reading.seen += story.events[-2:]
    assert [("trespass", "ada", "8 is stored, after 7 ended it")] == story.violations()
    story.events[7:7] = [arrival(8, "ada")]
    story.events[8] = message(9, "ada", "five")
    story.ada.sends[-1].seq = 9
    for reading in story.bob.readings["lobby"]:
        reading.seen[-1:] = story.events[-2:]
    assert [] == story.violations(), "who has come back may"


def test_seen_by_somebody_who_was_gone() -> None:
    story = Story()
    kicked = Member("lobby", 7, "ada", NOW, "bob", "kick")
    story.events += [kicked, message(8, "ada", "five"), arrival(9, "bob")]
    answered(story.ada.sending("lobby", "five"), 8)
    reading = story.bob.readings["lobby"][-1]
    reading.seen += story.events[6:8]
    assert [("trespass", "bob", "8 was seen, after 7 ended it")] == [
        each for each in story.violations() if each[0] != "gap"
    ]
    reading.seen.pop()
    reading.ended = True
    story.heard.clear()
    story.bob.joined(reply(9, *story.events[7:], recovered=True), Since("e", 7))
    assert [] == story.violations(), "who has come back may read what was said meanwhile"


@pytest.mark.parametrize("until", [None, NOW + timedelta(seconds=1), NOW])
def test_stored_of_somebody_who_was_muted(until: datetime | None) -> None:
    story = Story()
    mute = Member("lobby", 7, "bob", NOW, "ada", "mute", until=until)
    story.events += [mute, message(8, "ada", "five")]
    answered(story.ada.sending("lobby", "five"), 8)
    for reading in story.bob.readings["lobby"]:
        reading.seen += story.events[-2:]
    muted = [("trespass", "ada", "8 is stored, after 7 muted them")]
    assert ([] if until == NOW else muted) == story.violations()
    story.events[7:7] = [Member("lobby", 8, "bob", NOW, "ada", "unmute")]
    story.events[8] = message(9, "ada", "five")
    story.ada.sends[-1].seq = 9
    for reading in story.bob.readings["lobby"]:
        reading.seen[-1:] = story.events[-2:]
    assert [] == story.violations()


@pytest.mark.parametrize("place", [0, 2])
def test_a_gap_that_nobody_told(place: int) -> None:
    story = Story()
    seq = story.heard.pop(place).seq
    assert [
        ("gap", "bob", f"nothing was seen between {seq - 1} and {seq + 1}")
    ] == story.violations()


def test_what_the_end_lacks_is_a_gap_for_who_should_have_it() -> None:
    story = Story()
    story.bob.readings["lobby"][-1].seen.pop()
    assert [("gap", "bob", "nothing was seen between 5 and 7")] == story.violations()
    assert [] == check_history([story.ada, story.bob], {"lobby": story.log()})


def test_a_gap_that_was_told_is_none() -> None:
    story = Story()
    del story.heard[1:]
    story.bob.joined(reply(6, *story.events[2:]))
    assert [] == story.violations()


def test_going_on_in_another_epoch_is_a_gap() -> None:
    story = Story()
    story.bob.joined(reply(6, *story.events[2:], recovered=True), Since("before", 2))
    assert [("gap", "bob", "went on after 2 in epoch e, which is another")] == story.violations()


def test_another_epochs_events_are_not_compared_with_this_ones() -> None:
    story = Story()
    story.bob.readings["lobby"].insert(0, Reading(7, "before", 7))
    story.bob.readings["lobby"][0].seen += [message(8, "ada", "of old"), message(9, "ada", "too")]
    assert [] == story.violations()
    story.bob.readings["lobby"][0].seen.pop(0)
    assert [("gap", "bob", "nothing was seen between 7 and 9")] == story.violations()


@pytest.mark.parametrize(
    ("reading", "kind", "detail"),
    [
        (Reading(6, "e", 5, resumed=Since("e", 6)), "gap", "went on after 6 with the head 5"),
        (Reading(6, "e", 6, [message(7, "ada", "5")]), "phantom", "gave 7, above its head 6"),
    ],
    ids=["above the head", "too much"],
)
def test_a_join_that_contradicts_itself(reading: Reading, kind: str, detail: str) -> None:
    story = Story()
    story.events += [message(seq, "ada", str(seq - 2)) for seq in range(7, 11)]
    for seq in range(7, 11):
        story.ada.sending("lobby", str(seq - 2))
    assert [] == check_history([story.ada, story.bob], {"lobby": story.log()})
    story.bob.readings["lobby"].append(reading)
    found = check_history([story.ada, story.bob], {"lobby": story.log()})
    assert any(each.kind == kind and detail in each.detail for each in found)


def test_an_epoch_that_was_not_told_is_a_gap_for_who_should_have_it() -> None:
    story = Story()
    story.bob.readings["lobby"].append(Reading(9, "before", 9))
    assert [("gap", "bob", "was told of epoch before, and not of e")] == story.violations()
    assert [] == check_history([story.ada, story.bob], {"lobby": story.log()})


def test_a_hole_in_what_is_stored() -> None:
    story = Story()
    del story.events[1]
    assert ("gap", "", "nothing is stored between 1 and 3") in story.violations()
    story = Story(head=8)
    assert ("gap", "", "nothing is stored between 6 and 9") in story.violations()


def test_what_is_wrong_with_the_log_by_itself() -> None:
    story = Story()
    story.events.insert(1, story.events[0])
    assert [("duplicated", "", "1 is stored twice")] == story.violations()
    story = Story()
    story.events[0], story.events[1] = story.events[1], story.events[0]
    assert [("reordered", "", "1 is stored after 2")] == story.violations()
    story = Story(head=5)
    assert ("phantom", "", "6 is stored, above the head 5") in story.violations()


def test_stored_with_another_text() -> None:
    story = Story()
    story.events[2] = message(3, "ada", "won")
    assert [
        ("altered", "ada", "3 was 'one' and is 'won'"),
        ("altered", "bob"),
        ("altered", "bob"),
    ] == [story.violations()[0], *(each[:2] for each in story.violations()[1:])]


def test_seen_otherwise_than_stored() -> None:
    story = Story()
    story.heard[1] = message(3, "ada", "won")
    ((kind, who, detail),) = story.violations()
    assert (kind, who) == ("altered", "bob")
    assert detail.startswith("3 was seen as Message(")


def test_what_a_fresh_join_gives_is_compared_too() -> None:
    story = Story()
    wrong = [message(4, "ada", "two"), message(3, "ada", "won"), message(3, "ada", "won")]
    story.bob.joined(reply(6, *wrong))
    assert [
        ("reordered", "the join gave 3 after 4"),
        ("reordered", "the join gave 3 after 4"),
    ] == [(kind, detail) for kind, _, detail in story.violations() if kind != "altered"]
    assert 2 == sum(kind == "altered" for kind, _, _ in story.violations())


def test_what_retention_removed_is_not_missed() -> None:
    story = Story()
    log = Log(story.events[4:], 6, 5, "e")
    assert [] == check_history([story.ada, story.bob], {"lobby": log}, caught_up=True)


def test_a_text_is_compared_as_it_is_stored() -> None:
    ada = Record("ada")
    answered(ada.sending("#Lobby", "cafe\u0301\r\nau lait"), 1)
    log = Log([message(1, "ada", "caf\xe9\nau lait")], 1)
    assert [] == check_history([ada], {"lobby": log})


# Edits and deletions.


def test_what_was_seen_before_its_deletion_may_be_stored_erased() -> None:
    story = Story()
    story.events.append(Delete("lobby", 7, "ada", NOW, 4))
    story.ada.deleting("lobby", 4)
    for reading in story.bob.readings["lobby"]:
        reading.seen.append(story.events[-1])
    assert ("altered", "", "4 has its text still, and 7 deleted it") in story.violations()
    story.events[3] = Message("lobby", 4, "ada", NOW, "", erased=True)
    assert [] == story.violations()
    story.bob.readings["lobby"][-1].head = 7
    ((kind, who, detail),) = story.violations()
    assert (kind, who) == ("altered", "bob")
    assert detail.startswith("4 was seen as Message("), "who joins after a deletion gets no text"
    story.bob.readings["lobby"][-1].seen[1] = story.events[3]
    assert [] == story.violations()


def test_an_erased_message_that_nobody_acknowledged_is_one_that_was_sent() -> None:
    story = Story()
    del story.bob.readings["lobby"][:]
    story.events[4] = Message("lobby", 5, "ada", NOW, "", erased=True)
    story.events.append(Delete("lobby", 7, "ada", NOW, 5))
    story.ada.deleting("lobby", 5)
    assert [] == story.violations()
    story.ada.sends[2].failed(RateLimited("no"))
    assert [
        ("phantom", "ada", "an erased one is stored as 5, and nobody sent it")
    ] == story.violations()


def test_a_retry_of_an_edit_is_stored_once() -> None:
    story = Story()
    story.ada.editing("lobby", 3, "uno", "t1")
    again = story.ada.editing("lobby", 3, "uno", "t1")
    again.acknowledged(EditReply("lobby", 7, NOW, duplicate=True))
    story.events.append(Edit("lobby", 7, "ada", NOW, 3, "uno"))
    for reading in story.bob.readings["lobby"]:
        reading.seen.append(story.events[-1])
    assert [] == story.violations()
    story.events.append(Edit("lobby", 8, "ada", NOW, 3, "uno"))
    for reading in story.bob.readings["lobby"]:
        reading.seen.append(story.events[-1])
    expected = "the edit of 3 to 'uno' is stored once more as 8"
    assert [("duplicated", "ada", expected)] == story.violations()


# Many histories.


@define
class World:
    """A chat that keeps its promises, and what each of several clients knows of it."""

    chance: random.Random
    records: list[Record] = field(factory=lambda: [Record(who) for who in (*USERS, "ada")])
    logs: dict[str, list[Durable]] = field(factory=lambda: {room: [] for room in ROOMS})
    positions: dict[tuple[int, str], int] = field(factory=dict)
    texts: int = 0

    def live(self, steps: int) -> None:
        for number, record in enumerate(self.records):
            for room in ROOMS:
                self.store(arrival(len(self.logs[room]) + 1, record.who, room))
                self.join(number, room)
        for number in range(len(self.records)):
            for how in ("answered", "unanswered"):
                self.send(self.records[number], self.fresh(), "answered", "lobby")
                self.edit(number, "lobby", how)
                self.hear(number, "lobby")
                self.delete(number, "lobby", how)
            self.send(self.records[number], self.fresh(), "answered", "lobby")
            self.edit(number, "lobby", "answered")
        for _ in range(3):
            for record in self.records:
                self.send(record, self.fresh(), "answered", "lobby")
                self.send(record, self.fresh(), "unanswered", "lobby")
        actions = [self.send_any, self.send_any, self.retry, self.hear, self.hear, self.join]
        actions += [self.edit, self.delete]
        for _ in range(steps):
            number, room = self.chance.randrange(len(self.records)), self.chance.choice(ROOMS)
            action = self.chance.choice(actions)
            action(number, room)
        for number in range(len(self.records)):
            for room in ROOMS:
                self.hear(number, room, 1_000)

    def fresh(self) -> str:
        self.texts += 1
        return f"text {self.texts}"

    def store(self, event: Durable) -> int:
        self.logs[event.room].append(event)
        return event.seq

    def put(self, record: Record, text: str, room: str) -> int:
        return self.store(message(len(self.logs[room]) + 1, record.who, text, room))

    def send(self, record: Record, text: str, how: str, room: str, txn: str | None = None) -> int:
        sent = record.sending(room, text, txn)
        seq = self.put(record, text, room) if how in ("answered", "unanswered") else 0
        if how == "answered":
            answered(sent, seq)
        if how == "refused":
            sent.failed(RateLimited("no"))
        return seq

    def send_any(self, number: int, room: str) -> None:
        text = self.chance.choice((f"ok {number}", f"yes {number}", self.fresh(), self.fresh()))
        how = self.chance.choice(("answered", "answered", "unanswered", "vanished", "refused"))
        self.send(self.records[number], text, how, room)

    def retry(self, number: int, room: str) -> None:
        """Send with a txn_id, and perhaps something else, and again until it is answered."""
        record, text, txn = self.records[number], self.fresh(), f"txn {self.texts}"
        seq = self.send(record, text, self.chance.choice(("unanswered", "vanished")), room, txn)
        if self.chance.random() < 0.5:
            self.send_any(number, room)
        again = record.sending(room, text, txn)
        answered(again, seq or self.put(record, text, room), duplicate=seq > 0)

    def edit(self, number: int, room: str, how: str | None = None) -> None:
        record, message_ = self.records[number], self.one_of(number, room)
        if message_ is None:
            return
        how = how or self.chance.choice(("answered", "unanswered", "vanished", "refused"))
        sent = record.editing(room, message_.seq, self.fresh())
        seq = 0
        if how in ("answered", "unanswered"):
            seq = len(self.logs[room]) + 1
            self.store(Edit(room, seq, record.who, NOW, message_.seq, sent.content))
        if how == "answered":
            sent.acknowledged(EditReply(room, seq, NOW))
        if how == "refused":
            sent.failed(NotFound("no"))

    def delete(self, number: int, room: str, how: str | None = None) -> None:
        """Delete something, and perhaps once more."""
        record, message_ = self.records[number], self.one_of(number, room)
        if message_ is None:
            return
        how = how or self.chance.choice(("answered", "unanswered", "vanished", "refused"))
        sent = record.deleting(room, message_.seq)
        if how == "refused":
            sent.failed(Forbidden("no"))
        if how not in ("answered", "unanswered"):
            return
        seq = len(self.logs[room]) + 1
        self.store(Delete(room, seq, record.who, NOW, message_.seq))
        self.logs[room][:] = without({message_.seq}, self.logs[room])
        if how == "answered":
            sent.acknowledged(DeleteReply(room, seq, NOW))
        if self.chance.random() < 0.5:
            again = self.chance.choice(self.records).deleting(room, message_.seq)
            again.acknowledged(DeleteReply(room, seq, NOW, duplicate=True))

    def one_of(self, number: int, room: str) -> Message | None:
        """Return the newest of somebody's messages that is not deleted."""
        who = self.records[number].who
        mine = [each for each in fold(self.logs[room]) if each.sender == who and not each.erased]
        return mine[-1] if mine else None

    def join(self, number: int, room: str) -> None:
        log, record = self.logs[room], self.records[number]
        head = len(log)
        if self.chance.random() < 0.5:
            start = self.chance.randint(0, head)
            page = log[start : start + 3]
            told = reply(head, *page, room=room, recovered=True)
            record.joined(told, Since("e", start))
            self.positions[number, room] = start + len(page)
        else:
            recent = fold(log)[-5:]
            record.joined(reply(head, *recent, room=room))
            self.positions[number, room] = head

    def hear(self, number: int, room: str, most: int = 5) -> None:
        position = self.positions[number, room]
        for event in self.logs[room][position : position + most]:
            self.records[number].saw(event)
            self.positions[number, room] += 1

    def check(self) -> list[Violation]:
        logs = {
            room: Log(log, max((event.seq for event in log), default=0), 1, "e")
            for room, log in self.logs.items()
        }
        return check_history(self.records, logs, caught_up=True)

    # What a fault may be planted in.

    def reading(self, least: int) -> Reading:
        """Return what one client saw, of so many events or more: the first one is such."""
        found = [
            reading
            for record in self.records
            for readings in record.readings.values()
            for reading in readings
            if len(reading.seen) >= least
        ]
        return self.chance.choice(found)

    def sent(self, *, acknowledged: bool) -> Sent:
        """Return a send of the lobby that is stored and whose text is nobody else's."""
        found = [
            sent
            for record in self.records
            for sent in record.sends
            if (sent.room, sent.txn_id, sent.refused) == ("lobby", None, "")
            and sent.content.startswith("text")
            and (sent.seq is not None) == acknowledged
            and self.row(sent.content) is not None
        ]
        return self.chance.choice(found)

    def row(self, text: str) -> Message | None:
        rows = (each for each in self.logs["lobby"] if isinstance(each, Message))
        return next((each for each in rows if each.content == text), None)

    def alter(self, seq: int, text: str) -> None:
        event = self.logs["lobby"][seq - 1]
        assert isinstance(event, Message)
        self.logs["lobby"][seq - 1] = evolve(event, content=text)


Planted: TypeAlias = Callable[[World], None]
E = TypeVar("E", bound=Durable)


def lost(world: World) -> None:
    sent = world.sent(acknowledged=True)
    sent.seq = len(world.logs["lobby"]) + world.chance.randint(1, 9)


def stored_twice(world: World) -> None:
    sent = world.sent(acknowledged=world.chance.random() < 0.5)
    row = world.row(sent.content)
    assert row is not None
    world.store(evolve(row, seq=len(world.logs["lobby"]) + 1))


def seen_twice(world: World) -> None:
    seen = world.reading(1).seen
    place = world.chance.randrange(len(seen))
    seen.insert(world.chance.randint(place, len(seen)), seen[place])


def stored_in_another_order(world: World) -> None:
    record = world.chance.choice(world.records)
    mine = [
        place
        for place, sent in enumerate(record.sends)
        if sent.content.startswith("text") and world.row(sent.content) and not sent.txn_id
    ]
    first, second = sorted(world.chance.sample(mine, 2))
    record.sends[first], record.sends[second] = record.sends[second], record.sends[first]


def seen_in_another_order(world: World) -> None:
    seen = world.reading(2).seen
    place = world.chance.randrange(len(seen) - 1)
    seen[place], seen[place + 1] = seen[place + 1], seen[place]


def never_sent(world: World) -> None:
    world.put(world.chance.choice([*world.records, Record("eve")]), "boo", "lobby")


def refused(world: World) -> None:
    world.sent(acknowledged=False).failed(RateLimited("no"))


def never_stored(world: World) -> None:
    seen = world.reading(1).seen
    seen.append(evolve(seen[-1], seq=1_000))


def left_out(world: World) -> None:
    seen = world.reading(2).seen
    del seen[world.chance.randrange(len(seen) - 1)]


def removed(world: World) -> None:
    del world.logs["lobby"][world.chance.randrange(len(world.logs["lobby"]) - 1)]


def restored(world: World) -> None:
    readings = world.records[0].readings["lobby"]
    start = readings[-1].seen[0].seq - 1 if readings[-1].seen else len(world.logs["lobby"])
    readings.append(Reading(start, "e", resumed=Since("before", start)))
    readings[-1].seen += world.logs["lobby"][start:]


def stored_altered(world: World) -> None:
    seq = world.sent(acknowledged=True).seq
    assert seq is not None
    world.alter(seq, "something else")


def seen_altered(world: World) -> None:
    seen = world.reading(1).seen
    place = world.chance.randrange(len(seen))
    seen[place] = evolve(seen[place], sender="eve")


def edit_lost(world: World) -> None:
    sent = world.records[0].editing("lobby", 1, "never there")
    sent.acknowledged(EditReply("lobby", len(world.logs["lobby"]) + 1, NOW))


def deletion_lost(world: World) -> None:
    sent = world.records[0].deleting("lobby", 1)
    sent.acknowledged(DeleteReply("lobby", world.chance.choice([2, 1_000]), NOW))


def one(world: World, kind: type[E], *, erased: bool = False) -> E:
    """Return an event of the lobby."""
    log = world.logs["lobby"]
    found = [
        each for each in log if isinstance(each, kind) and getattr(each, "erased", erased) == erased
    ]
    return world.chance.choice(found)


def edited_twice(world: World) -> None:
    world.store(evolve(one(world, Edit), seq=len(world.logs["lobby"]) + 1))


def edited_by_nobody(world: World) -> None:
    target = one(world, Message)
    seq = len(world.logs["lobby"]) + 1
    world.store(Edit("lobby", seq, target.sender, NOW, target.seq, "boo"))


def deleted_twice(world: World) -> None:
    world.store(evolve(one(world, Delete), seq=len(world.logs["lobby"]) + 1))


def deleted_by_nobody(world: World) -> None:
    target, seq = one(world, Message), len(world.logs["lobby"]) + 1
    world.store(Delete("lobby", seq, "eve", NOW, target.seq))
    world.logs["lobby"][:] = without({target.seq}, world.logs["lobby"])


def edit_altered(world: World) -> None:
    edit = one(world, Edit)
    world.logs["lobby"][edit.seq - 1] = evolve(edit, content="something else")


def text_left(world: World) -> None:
    event = one(world, world.chance.choice((Message, Edit)), erased=True)
    assert isinstance(event, Message | Edit)
    world.logs["lobby"][event.seq - 1] = evolve(event, content="still here", erased=False)


def text_gone(world: World) -> None:
    event = one(world, Message)
    world.logs["lobby"][event.seq - 1] = evolve(event, content="", erased=True)


def text_told_after_its_deletion(world: World) -> None:
    event, head = one(world, Message, erased=True), len(world.logs["lobby"])
    told = evolve(event, content="still here", erased=False)
    world.chance.choice(world.records).joined(reply(head, told))


def joined_without_the_edit(world: World) -> None:
    edit = one(world, Edit)
    head, log = len(world.logs["lobby"]), world.logs["lobby"]
    world.chance.choice(world.records).joined(reply(head, log[edit.target - 1]))


PLANTED: dict[Planted, str] = {
    lost: "lost",
    stored_twice: "duplicated",
    seen_twice: "duplicated",
    stored_in_another_order: "reordered",
    seen_in_another_order: "reordered",
    never_sent: "phantom",
    refused: "phantom",
    never_stored: "phantom",
    left_out: "gap",
    removed: "gap",
    restored: "gap",
    stored_altered: "altered",
    seen_altered: "altered",
    edit_lost: "lost",
    deletion_lost: "lost",
    edited_twice: "duplicated",
    edited_by_nobody: "phantom",
    deleted_twice: "duplicated",
    deleted_by_nobody: "phantom",
    edit_altered: "altered",
    text_left: "altered",
    text_gone: "lost",
    text_told_after_its_deletion: "altered",
    joined_without_the_edit: "altered",
}


@given(seed=st.integers(0), steps=st.integers(0, 80))
def test_a_right_history_has_no_violation(seed: int, steps: int) -> None:
    world = World(random.Random(seed))
    world.live(steps)
    assert [] == world.check()


@pytest.mark.parametrize("fault", PLANTED, ids=lambda fault: fault.__name__)
@given(seed=st.integers(0), steps=st.integers(0, 80))
def test_a_planted_fault_is_found_and_named(fault: Planted, seed: int, steps: int) -> None:
    world = World(random.Random(seed))
    world.live(steps)
    fault(world)
    assert PLANTED[fault] in {violation.kind for violation in world.check()}


@pytest.mark.parametrize("text", ["text {}", "the same"])
def test_a_hundred_thousand_events_take_a_moment(text: str) -> None:
    """And so they do where all have one text and few were answered."""
    ada, bob = Record("ada"), Record("bob")
    bob.joined(reply(0))
    events: list[Durable] = []
    for number in range(100_000):
        sent = ada.sending("lobby", text.format(number))
        if number % 3:
            events.append(message(len(events) + 1, "ada", sent.content))
            bob.saw(events[-1])
            if number % 5 == 0:
                answered(sent, len(events))
    started = time.process_time()
    log = Log(events, len(events), 1, "e")
    assert [] == check_history([ada, bob], {"lobby": log}, caught_up=True)
    assert time.process_time() - started < 10


# What is recorded.


async def test_a_participants_doings_are_recorded() -> None:
    repository, ada, bob = MemoryRepository(), Record("ada"), Record("bob")
    limits = Limits(messages=Rate(0.001, 3))
    async with Chat(repository, limits=limits, bcrypt_cost=4) as chat:
        users = [await chat.register(name, PASSWORD) for name in ("ada", "bob")]
        async with join_in(chat, users[0]) as first, join_in(chat, users[1]) as second:
            speaking, listening = Recorded(first, ada), Recorded(second, bob)
            await listening.join("lobby")
            await speaking.join("Lobby", history=0)
            assert (speaking.user, len(speaking.memberships)) == (users[0], 0)
            for txn_id in (None, "t1", "t1", "t2"):
                await speaking.send("Lobby", f"hello {txn_id}", txn_id=txn_id)
            with pytest.raises(RateLimited):
                await speaking.send("lobby", "too much")
            async for event in listening:
                if isinstance(event, Message) and event.content == "hello t2":
                    break
            await listening.leave("lobby")
            while not bob.readings["lobby"][-1].ended:
                await anext(listening)
        logs = read_logs(repository, ROOMS)
    assert [
        ("lobby", "hello None", None, 3, False, ""),
        ("lobby", "hello t1", "t1", 4, False, ""),
        ("lobby", "hello t1", "t1", 4, True, ""),
        ("lobby", "hello t2", "t2", 5, False, ""),
        ("lobby", "too much", None, None, False, "rate_limited"),
    ] == [
        (sent.room, sent.content, sent.txn_id, sent.seq, sent.duplicate, sent.refused)
        for sent in ada.sends
    ]
    assert ada.acknowledged == 4
    (reading,) = bob.readings["lobby"]
    assert (reading.start, reading.epoch) == (1, logs["lobby"].epoch)
    assert reading.seen == logs["lobby"].events[1:]
    assert logs["tea"] == Log()
    assert [] == check_history([ada, bob], logs)


async def test_a_reset_begins_a_new_reading() -> None:
    limits = Limits(messages=None, resume=10)
    repository, bob = MemoryRepository(), Record("bob")
    async with Chat(repository, limits=limits, bcrypt_cost=4) as chat:
        ada = await chat.register("ada", PASSWORD)
        async with join_in(chat, await chat.register("bob", PASSWORD)) as peer:
            listening = Recorded(peer, bob)
            await listening.join("lobby")
            await chat.join(ada, "lobby")
            for number in range(EVENTS_MOST + 50):
                await chat.send(ada, "lobby", str(number))
                await listening.ping()  # while it takes no events
            async for event in listening:
                if isinstance(event, Reset):
                    break
        logs = read_logs(repository, ["lobby"])
    before, after = bob.readings["lobby"]
    assert (before.start, after.start) == (1, logs["lobby"].head)
    sender = Record("ada", [Sent("lobby", str(number)) for number in range(EVENTS_MOST + 50)])
    assert [] == check_history([bob, sender], logs)
    before.seen += logs["lobby"].events[len(before.seen) + 5 :]
    assert ["gap"] == [found.kind for found in check_history([bob, sender], logs)]


async def test_events_that_overtake_a_joins_answer_are_recorded_after_it() -> None:
    """The task that iterates may run before the one that joined."""
    repository, bob = MemoryRepository(), Record("bob")
    async with Chat(repository, limits=Limits(messages=None), bcrypt_cost=4) as chat:
        ada = await chat.register("ada", PASSWORD)
        await chat.join(ada, "lobby")
        async with join_in(chat, await chat.register("bob", PASSWORD)) as peer:
            listening = Recorded(peer, bob)

            async def listen() -> None:
                async for event in listening:
                    if isinstance(event, Message) and event.content == "last":
                        return

            hearing = asyncio.create_task(listen())
            for number in range(20):
                joining = asyncio.create_task(listening.join("lobby", history=0))
                await chat.send(ada, "lobby", f"number {number}")
                await joining
            await chat.send(ada, "lobby", "last")
            await hearing
        logs = read_logs(repository, ["lobby"])
    sender = Record("ada", [Sent("lobby", f"number {number}") for number in range(20)])
    sender.sending("lobby", "last")
    assert len(bob.readings["lobby"]) == 20
    assert [] == check_history([bob, sender], logs, caught_up=True)


class Given(Participant):
    """A participant that is given these events, and cannot ask for anything."""

    user = None
    memberships = ()

    def __init__(self, *events: Event | Notice) -> None:
        self._events = iter(events)

    async def __anext__(self) -> Event | Notice:
        for event in self._events:
            return event
        raise StopAsyncIteration

    async def _ask(self, command: Command, expected: type[R]) -> R:
        raise Unavailable("no")


async def test_who_is_told_that_a_room_is_lost_misses_nothing_of_it() -> None:
    bob = Record("bob")
    bob.joined(reply(0))
    listening = Recorded(Given(arrival(1, "ada"), Lost("lobby", NotMember("no"))), bob)
    assert len([event async for event in listening]) == 2
    with pytest.raises(Unavailable):
        await listening.join("lobby")
    log = Log([arrival(1, "ada"), arrival(2, "cyd")], 2, 1, "e")
    assert [] == check_history([bob], {"lobby": log}, caught_up=True)
    with pytest.raises(Unavailable):
        await listening.send("not a name", "unanswered")
    assert [("not a name", None, "")] == [(each.room, each.seq, each.refused) for each in bob.sends]


async def test_a_transcripts_frames_are_recorded(tmp_path: Path) -> None:
    path, ada, bob = tmp_path / "chat.db", Record("ada"), Record("bob")
    async with (
        Chat(SqliteRepository(path), bcrypt_cost=4) as chat,
        connect(chat, record=ada) as (speaking, _),
        connect(chat, record=bob) as (listening, _),
    ):
        for name, peer in (("ada", speaking), ("bob", listening)):
            await peer.do("register", username=name, password=PASSWORD)
        await speaking.do("join", room="lobby")
        joined = await listening.do("join", room="lobby")
        for txn_id in ("t1", "t1"):
            await speaking.do("send", room="lobby", content="hello", txn_id=txn_id)
        await speaking.do("send", room="nowhere", content="refused")
        await speaking.raw(b'{"cmd": "send", "room": "lobby", "content": "unasked"}')
        await speaking.raw(b"nonsense")
        assert await listening.messages(2) == ["hello", "unasked"]
        since = {"epoch": joined["epoch"], "seq": 2}
        await listening.do("join", room="lobby", since=since)
        await listening.do("leave", room="lobby")
        await listening.event("member")
        logs = read_logs(path, ["lobby"])
    assert [("hello", 3), ("hello", 3), ("refused", None), ("unasked", None)] == [
        (sent.content, sent.seq) for sent in ada.sends
    ]
    assert ada.sends[2].refused == "not_found"
    first, second = bob.readings["lobby"]
    assert (first.start, second.start, second.ended) == (2, 2, True)
    assert first.seen == logs["lobby"].events[2:4]
    assert second.seen == logs["lobby"].events[2:]
    assert [] == check_history([ada, bob], logs)


def test_a_log_is_read_in_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatcore.testing.history.PAGE", 3)
    with contextlib.closing(SqliteRepository(tmp_path / "chat.db")) as repository:
        repository.open()
        repository.add_user(User("ada", "Ada"), None)
        repository.add_room(Room("lobby", epoch="e7"))
        join = {"username": "ada", "action": "join", "role": "member"}
        said = [("message", {"content": str(number)}) for number in range(9)]
        repository.append(
            [
                Draft(room=Room("lobby"), sender="ada", kind=kind, body=body, timestamp=NOW)
                for kind, body in (("member", join), *said)
            ]
        )
        log = read_logs(repository, ["lobby"])["lobby"]
    assert [*range(1, 11)] == [event.seq for event in log.events]
    assert (log.head, log.first, log.epoch) == (10, 1, "e7")
    assert log == read_logs(str(tmp_path / "chat.db"), ["lobby"])["lobby"]
    with pytest.raises(FileNotFoundError):
        read_logs(tmp_path / "nothing.db", ["lobby"])
    assert not (tmp_path / "nothing.db").exists()
