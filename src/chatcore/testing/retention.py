"""Contract checks: what a Repository lets go of, and what it keeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from attrs import evolve

from chatcore.commands import LOGGED
from chatcore.errors import Forbidden, NotFound
from chatcore.events import Delete, Duplicate, Marked, Message, Stored, Tally
from chatcore.model import Draft, Room
from chatcore.ports import Repository
from chatcore.testing.drafts import (
    LOBBY,
    NOW,
    THUMB,
    delete,
    edit,
    member,
    react,
    say,
    types_of,
    update,
)
from chatcore.testing.searching import find, learn

DAY = timedelta(days=1)


def on(day: float, text: str, sender: str = "ada", **more: Any) -> Draft:
    return say(sender, text, timestamp=NOW + day * DAY, **more)


def expire(repository: Repository, now: datetime, limit: int = 99) -> tuple[str, int] | None:
    """Have one room let go of what is due; return it, and what it now begins with."""
    due = repository.due(now, limit)
    if due is not None:
        repository.expire(*due, now)
        repository.expire(*due, now)
    return due


def kept(repository: Repository, room: str = "lobby") -> list[int]:
    """Return the seqs that a log has, by all ways of reading it."""
    first, head, newest = repository.head(room, 99)
    seqs = [event.seq for event in repository.read(room, 0, 99, 99)]
    assert seqs == [event.seq for event in newest] == [*range(first, head + 1)]
    assert seqs[-3:-1] == [event.seq for event in repository.read(room, head - 3, head - 1, 99)]
    messages = repository.messages(room, 0, 99, 99, newest=True, upto=99)
    kinds = [kind for kind in LOGGED if kind != "message"]
    others = repository.events(room, kinds, 0, 99, 99, newest=False)
    assert {each.seq for each in (*messages, *others)} == {*seqs}
    return seqs


def _a_prefix_goes(repository: Repository) -> None:
    """Up to what is younger, some at a time; numbers and counts go on as they were."""
    repository.append(
        [
            member("ada", "join", role="owner"),
            member("bob", "join"),
            on(0, "three", txn_id="three"),
            on(1, "four"),
            on(2, "five"),
            edit("ada", 3, "III", timestamp=NOW + 2 * DAY),
            on(1, "seven, by a clock that was set back"),
            on(3, "eight"),
        ]
    )
    learn(repository)
    assert expire(repository, NOW + 999 * DAY) is None, "for nothing says so"
    (outcome,) = repository.append([update("ada", retention_days=1)])
    assert isinstance(outcome, Stored)
    room = repository.room("lobby")
    assert room is not None
    assert room.retention_days == 1

    assert expire(repository, NOW + DAY) is None, "a day old is not older than that"
    assert kept(repository) == [*range(1, 10)]
    moment = NOW + 1.5 * DAY
    assert expire(repository, moment, 2) == ("lobby", 3)
    assert expire(repository, moment, 2) == ("lobby", 4)
    assert expire(repository, moment, 2) is None
    assert kept(repository) == [4, 5, 6, 7, 8, 9]
    assert expire(repository, NOW + 2.5 * DAY) == ("lobby", 5)
    assert expire(repository, NOW + 2.5 * DAY) is None, "five is younger, and before seven"
    assert [seq for _, seq in find(repository, "from:ada")] == [8, 7, 5]
    assert find(repository, "three") == find(repository, "iii") == []

    # Who had read nothing of it has none of it unread.
    for username, read, unread in (("ada", 8, 0), ("bob", 4, 3)):
        (membership,) = repository.memberships(username)
        assert membership == repository.membership("lobby", username)
        assert (membership.first, membership.head, membership.read) == (5, 9, read)
        assert membership.unread == unread
    outcomes = repository.append(
        [
            on(0, "three", txn_id="three"),
            edit("ada", 3, "III"),
            delete("ada", 4),
            on(3, "ten"),
        ]
    )
    assert types_of(outcomes) == [Duplicate, NotFound, NotFound, Stored]
    ten = outcomes[3]
    assert isinstance(ten, Stored)
    assert (ten.event.seq, ten.first, ten.messages) == (10, 5, 6)
    as_of_nine = repository.membership("lobby", "bob", 9)
    assert as_of_nine is not None
    assert as_of_nine.unread == 3


def _all_of_it_goes(repository: Repository) -> None:
    """Also from a room that nobody has written to since, while others go on."""
    den = Room("den", epoch="e3")
    repository.append(
        [
            member("ada", "join", den, creates=True, role="owner"),
            update("ada", den, retention_days=2),
            member("ada", "join", role="owner"),
            member("bob", "join"),
            update("ada", retention_days=1),
            on(0, "six"),
            say("ada", "three", den),
        ]
    )
    learn(repository)
    moment = NOW + 3 * DAY
    firsts = [expire(repository, moment), expire(repository, moment)]
    assert {*firsts} == {("den", 4), ("lobby", 5)}
    assert expire(repository, moment) is None
    assert kept(repository) == kept(repository, "den") == []
    assert repository.head("lobby", 9) == (5, 4, [])
    (membership,) = repository.memberships("bob")
    assert (membership.first, membership.head, membership.read) == (5, 4, 4)
    assert membership.unread == 0
    outcomes = repository.append([on(3, "five"), on(3, "four", "ada", room=den)])
    assert [each.event.seq for each in outcomes if isinstance(each, Stored)] == [5, 4]
    learn(repository)
    assert find(repository, "from:ada") == [("den", 4), ("lobby", 5)]
    (membership,) = repository.memberships("bob")
    assert (membership.first, membership.unread) == (5, 1)
    assert kept(repository) == [5]


def _what_is_beside_a_message_goes_with_it(repository: Repository) -> None:
    """Reactions, mentions, why it was reported; what answers it stays, and says so still."""
    repository.append(
        [
            member("ada", "join", role="owner"),
            member("bob", "join"),
            on(0, "@bob, three"),
            on(0, "@ada, four", "bob"),
            react("bob", 3),
            on(0, "@bob, six"),
            edit("ada", 6, "nobody, six"),
            on(3, "@bob, eight", reply_to=4),
            on(3, "nine"),
            edit("ada", 9, "nine, @bob"),
            react("ada", 8),
            react("bob", 8),
            update("ada", retention_days=1),
        ]
    )
    learn(repository)
    for seq in (3, 8):
        assert repository.report("lobby", seq, "bob", f"{seq} is rude", NOW)
    before = repository.membership("lobby", "bob")
    assert before is not None
    assert (before.read, before.unread, before.unread_mentions) == (4, 3, 2)
    assert expire(repository, NOW + 2 * DAY) == ("lobby", 8)
    assert kept(repository) == [*range(8, 14)]
    told = [(each.seq, each.reason) for each in repository.reports("lobby", 0, 9)]
    assert told == [(3, ""), (8, "8 is rude")]
    bob = repository.membership("lobby", "bob")
    assert bob is not None
    assert (bob.first, bob.read, bob.unread, bob.unread_mentions) == (8, 7, 2, 2)
    marks = repository.mark_read({("lobby", "bob"): 5, ("lobby", "ada"): 3})
    assert marks["lobby", "bob"] == Marked(7, 2, 2, 13, moved=False)
    assert marks["lobby", "ada"] == Marked(9, 0, 0, 13, moved=False)

    page = repository.messages("lobby", 0, 99, 9, newest=True, upto=99, reader="bob")
    shown = {each.seq: each for each in page if isinstance(each, Message)}
    assert [*shown] == [8, 9]
    assert shown[8].reply_to == 4
    assert shown[8].reactions == (Tally(THUMB, 2, me=True),)
    assert find(repository, "three") == find(repository, "six") == []
    assert find(repository, "bob") == [("lobby", 9), ("lobby", 8)]

    outcomes = repository.append(
        [
            on(3, "to what has gone", reply_to=4),
            react("ada", 3),
            react("bob", 3, adds=False),
            react("bob", 8, adds=False),
            on(3, "@bob, fifteen", reply_to=8),
        ]
    )
    assert types_of(outcomes) == [NotFound, NotFound, NotFound, Stored, Stored]
    assert repository.mark_read({("lobby", "bob"): 8})["lobby", "bob"] == Marked(
        8, 2, 2, 15, moved=True
    )
    while expire(repository, NOW + 99 * DAY, 3) is not None:
        pass
    assert kept(repository) == []
    assert repository.mark_read({("lobby", "bob"): 15})["lobby", "bob"] == Marked(
        15, 0, 0, 15, moved=False
    )
    repository.append([on(99, "@bob, @ada, sixteen")])
    for username, read, unread in (("ada", 16, 0), ("bob", 15, 1)):
        now = repository.membership("lobby", username)
        assert now is not None
        assert (now.read, now.unread, now.unread_mentions) == (read, unread, unread)


def _it_is_looked_at_once_more(repository: Repository) -> None:
    """What a room is told meanwhile counts, and a room is not told of by itself."""
    repository.append(
        [
            member("ada", "join", role="owner"),
            *(on(day, f"{day}") for day in range(4)),
            update("ada", retention_days=1),
        ]
    )
    now = NOW + 3.5 * DAY
    assert repository.due(now, 99) == ("lobby", 5)
    repository.append([update("ada", retention_days=2)])
    repository.expire("lobby", 5, now)
    assert kept(repository) == [4, 5, 6, 7]
    repository.append([update("ada", retention_days=0)])
    repository.expire("lobby", 9, now + 99 * DAY)
    assert kept(repository)[0] == 4


def _rooms_take_turns(repository: Repository) -> None:
    rooms = [Room(name, epoch="e") for name in ("aft", "bow", "cabin", "deck")]
    for room in rooms:
        begun = [member("ada", "join", room, creates=True, role="owner")]
        if room.name != "cabin":
            begun.append(update("ada", room, retention_days=1))
        repository.append(begun)
    now = NOW + 2 * DAY
    turns = [("", "aft"), ("aft", "bow"), ("bow", "deck"), ("deck", "aft"), ("b", "bow")]
    for after, name in turns:
        assert repository.due(now, 1, after) == (name, 2)
    while expire(repository, now):
        pass
    assert repository.due(now, 9, "aft") is None


def _why_it_was_deleted_goes_with_a_message(repository: Repository) -> None:
    """Whoever is forgotten later could not be known for its sender any more."""
    repository.append(
        [
            member("ada", "join", role="owner"),
            on(0, "two"),
            on(1, "three"),
            evolve(delete("ada", 2, reason="rude"), timestamp=NOW + 2 * DAY),
            evolve(delete("ada", 3, reason="dull"), timestamp=NOW + 2 * DAY),
            update("ada", retention_days=1),
        ]
    )
    assert expire(repository, NOW + 1.5 * DAY) == ("lobby", 3)
    log = repository.read("lobby", 0, 99, 99)
    assert [(each.target, each.reason) for each in log if isinstance(each, Delete)] == [
        (2, None),
        (3, "dull"),
    ]


def _only_owners_say_for_how_long(repository: Repository) -> None:
    repository.append(
        [member("ada", "join", role="owner"), member("bob", "join", role="moderator")]
    )
    outcomes = repository.append(
        [
            update("bob", retention_days=1),
            update("bob", topic="Tea"),
            update("ada", retention_days=7),
            update("ada", retention_days=0),
        ]
    )
    assert types_of(outcomes) == [Forbidden, Stored, Stored, Stored]
    assert repository.room("lobby") == Room("lobby", title=LOBBY.title, topic="Tea")
    assert expire(repository, NOW + 999 * DAY) is None


RETENTION: Sequence[Callable[[Repository], None]] = (
    _a_prefix_goes,
    _all_of_it_goes,
    _what_is_beside_a_message_goes_with_it,
    _why_it_was_deleted_goes_with_a_message,
    _it_is_looked_at_once_more,
    _rooms_take_turns,
    _only_owners_say_for_how_long,
)
