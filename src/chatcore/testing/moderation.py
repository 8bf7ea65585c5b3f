"""What any repository must do about roles, bans and mutes, rooms that change, and reports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from chatcore import policy
from chatcore.errors import (
    Banned,
    ChatError,
    Conflict,
    Forbidden,
    Muted,
    NotFound,
    NotMember,
    RateLimited,
    TxnConflict,
)
from chatcore.events import (
    BanItem,
    Duplicate,
    Member,
    ReportItem,
    RoomChanged,
    Sanction,
    Stands,
    Stored,
)
from chatcore.model import FOREVER, Draft, Limits, Listed, Restraint, Room, User, rfc3339
from chatcore.names import direct_room
from chatcore.ports import Outcome, Repository
from chatcore.testing.drafts import (
    NOW,
    SECRET,
    all_stored,
    delete,
    edit,
    member,
    react,
    say,
    types_of,
    update,
    upon,
)

PAIR = direct_room("ada", "bob")


def _soon(seconds: float) -> str:
    return rfc3339(NOW + timedelta(seconds=seconds))


def _codes(outcomes: Sequence[Outcome]) -> list[str]:
    return [outcome.code if isinstance(outcome, ChatError) else "yes" for outcome in outcomes]


def _the_table(repository: Repository) -> None:
    """Of each role each action, as the table says; each in a room of its own."""
    people = ("owner", "moderator", "member", "reader", "invited", "stranger", "banned")
    for name in (*people, "other", "last"):
        repository.add_user(User(name, name), None)
    for action, cells in policy.MAY.items():
        if action in ("read", "audit", "mark_read", "typing", "report", "reports", "bans"):
            continue  # which the chat asks for
        for who in people:
            room = Room(f"{action}-{who}", epoch="e")
            repository.append(furnished(room, action))
            (outcome,) = repository.append([_attempt(action, who, room)])
            again = action == "join" and who in policy.ROLES  # there is nothing to be done
            assert ["conflict" if again else cells[who]] == _codes([outcome]), (action, who)
        private = Room(f"{action}-private", "private", epoch="e")
        repository.append(furnished(private, action))
        for who in ("stranger", "banned"):
            (outcome,) = repository.append([_attempt(action, who, private)])
            assert [cells["outsider"]] == _codes([outcome]), (action, who)
        for name, code in (("muted", "muted"), ("archived", "forbidden")):
            room = Room(f"{action}-{name}", "private", epoch="e")
            repository.append(furnished(room, action))
            if name == "muted":
                repository.append([upon("owner", "mute", "member", room)])
            else:
                repository.append([update("owner", room, archived=True)])
            (outcome,) = repository.append([_attempt(action, "member", room)])
            expected = code if action in policy.WRITING else cells["member"]
            expected = "conflict" if action == "join" else expected
            assert [expected] == _codes([outcome]), (action, name)


def furnished(room: Room, action: str) -> Sequence[Draft]:
    """Fill a new room with one of each role, and with somebody to do this action to.

    Their names are what they are.  There are `other` and `last` beside them.
    """
    drafts = [
        member("owner", "join", room, creates=True, role="owner"),
        say("owner", "two", room),
        *(upon("owner", "invite", name, room) for name in ("moderator", "member", "reader")),
        *(member(name, "join", room) for name in ("moderator", "member", "reader")),
        say("moderator", "nine", room),
        say("member", "ten", room),
        say("reader", "eleven", room),
        upon("owner", "role", "moderator", room, role="moderator"),
        upon("owner", "role", "reader", room, role="reader"),
        upon("owner", "invite", "invited", room),
        upon("owner", "ban", "banned", room),
        upon("owner", "invite", "last", room),
        member("last", "join", room),
        upon("owner", "role", "last", room, role="owner"),
        upon("owner", "ban" if action == "unban" else "mute", "other", room),
    ]
    if action in ("kick", "set_role"):
        drafts += [upon("owner", "invite", "other", room), member("other", "join", room)]
    return drafts


OWN = {"owner": 2, "moderator": 9, "member": 10, "reader": 11}
"""The message of each, in a room that is furnished."""


def _attempt(action: str, who: str, room: Room) -> Draft:
    seq = OWN.get(who, 2)
    match action:
        case "join" | "leave":
            return member(who, action, room)
        case "send":
            return say(who, "hello", room)
        case "edit":
            return edit(who, seq, "hello", room)
        case "delete":
            return delete(who, seq, room)
        case "react" | "unreact":
            return react(who, seq, room=room, adds=action == "react")
        case "delete_any":
            return delete(who, 2 if who != "owner" else 9, room)
        case "update":
            return update(who, room, topic="Tea")
        case "archive":
            return update(who, room, archived=True)
        case "set_role":
            return upon(who, "role", "other", room, role="reader")
    return upon(who, action, "other", room)


def _ranks(repository: Repository) -> None:
    """Who may act upon whom, and make them what; and there is an owner always."""
    owner, moderator = "ada", "bob"
    for name in ("dee", "eve", "fay"):
        repository.add_user(User(name, name), None)
    repository.append(
        [
            member("ada", "join", role="owner"),
            *(member(name, "join") for name in ("bob", "cyd", "dee", "eve")),
            upon("ada", "role", "bob", role="moderator"),
            upon("ada", "role", "dee", role="moderator"),
            upon("ada", "role", "eve", role="reader"),
        ]
    )
    refused = repository.append(
        [
            *(upon(moderator, action, owner) for action in ("kick", "ban", "mute", "unmute")),
            *(upon(moderator, action, "dee") for action in ("kick", "ban", "mute")),
            upon(moderator, "role", owner, role="member"),
            upon(moderator, "role", "dee", role="member"),
            upon(moderator, "role", "cyd", role="moderator"),
            upon(moderator, "role", "cyd", role="owner"),
            upon(moderator, "role", moderator, role="owner"),
            *(upon(moderator, action, moderator) for action in ("kick", "ban", "mute", "unmute")),
            *(upon(owner, action, owner) for action in ("kick", "ban", "mute", "invite")),
            upon("cyd", "role", "cyd", role="reader"),
        ]
    )
    assert {Forbidden} == {*types_of(refused)}, refused
    assert _codes(
        repository.append(
            [
                upon(moderator, "role", "cyd", role="reader"),
                upon(moderator, "role", "eve", role="member"),
                upon(moderator, "kick", "eve"),
                upon(moderator, "ban", "fay"),
                upon(moderator, "role", "fay", role="reader"),
                upon(moderator, "role", "nobody", role="reader"),
                upon(moderator, "kick", "eve"),
                upon(moderator, "unban", "cyd"),
                upon(moderator, "unmute", "cyd"),
                upon(moderator, "role", "cyd", role="reader"),
                upon(moderator, "invite", "cyd"),
                upon(moderator, "invite", "fay"),
                upon(moderator, "role", moderator, role="member"),
                upon(moderator, "kick", "cyd"),
            ]
        )
    ) == [*["yes"] * 4, *["not_found"] * 3, *["conflict"] * 5, "yes", "forbidden"]

    last = repository.append(
        [
            member(owner, "leave"),
            upon(owner, "role", owner, role="member"),
            upon(owner, "role", "cyd", role="owner"),
            upon("cyd", "role", owner, role="moderator"),
            member("cyd", "leave"),
            upon("cyd", "role", owner, role="owner"),
            member("cyd", "leave"),
            member(owner, "leave"),
        ]
    )
    conflicts = [each for each, outcome in enumerate(last) if isinstance(outcome, Conflict)]
    assert conflicts == [0, 1, 4, 7], "the last owner stays one"
    assert types_of(last).count(Stored) == 4
    assert "set_role" in str(last[0]), "which says what to do"
    many = Limits(rooms_owned=1)
    repository.append([member("dee", "join", Room("dees"), creates=True, role="owner")])
    handed = upon(owner, "role", "dee", role="owner", limits=many)
    assert _codes(repository.append([handed])) == ["forbidden"], "who owns too many already"


def _bans_and_mutes(repository: Repository) -> None:
    """They end by the clock, hold for who is no member, and are told as they are."""
    repository.append([member("ada", "join", role="owner"), member("bob", "join")])
    assert repository.place("lobby", "bob") == ("member", None)
    assert repository.place("lobby", "cyd") == (None, None)
    assert repository.place("nowhere", "cyd") == (None, None)
    ban = upon("ada", "ban", "bob", until=_soon(60), reason="spam", txn_id="b")
    (told,) = repository.append([ban])
    end = NOW + timedelta(seconds=60)
    assert isinstance(told, Stored)
    assert told.event == Member("lobby", 3, "ada", NOW, "bob", "ban", None, end, "spam")
    assert told.stands == Stands(None, 0, 0, "e1")
    assert repository.place("lobby", "bob") == (None, Restraint(banned=end, ban=3))

    outcomes = repository.append(
        [
            say("bob", "four"),
            member("bob", "join"),
            upon("ada", "invite", "bob"),
            upon("ada", "ban", "bob", until=_soon(60), reason="spam", txn_id="b"),
            upon("ada", "ban", "bob", until=_soon(61), reason="spam", txn_id="b"),
            upon("ada", "mute", "cyd", until=_soon(60)),
            member("cyd", "join"),
            say("cyd", "in vain"),
            edit("cyd", 99, "in vain", timestamp=NOW),
        ]
    )
    assert types_of(outcomes) == [
        Banned,
        Banned,
        Conflict,
        Duplicate,
        TxnConflict,
        Stored,
        Stored,
        Muted,
        Muted,
    ]
    assert "until 2026" in str(outcomes[0])
    muted = outcomes[5]
    assert isinstance(muted, Stored)
    assert muted.stands is None, "who is not in the room is told nothing of it"

    later = NOW + timedelta(seconds=60)
    outcomes = repository.append(
        [
            say("cyd", "almost", timestamp=later - timedelta(milliseconds=1)),
            say("cyd", "now", timestamp=later),
            member("bob", "join", timestamp=later - timedelta(milliseconds=1)),
            member("bob", "join", timestamp=later),
            upon("ada", "unban", "bob", timestamp=later),
            upon("ada", "unmute", "cyd", timestamp=later),
        ]
    )
    assert types_of(outcomes) == [Muted, Stored, Banned, Stored, Conflict, Conflict]

    # For ever, until they are lifted; a mute outlives leaving, and so does being a reader.
    repository.append([upon("ada", "unban", "bob")])  # which it is not yet, by this clock
    outcomes = repository.append(
        [
            upon("ada", "mute", "bob"),
            member("bob", "leave"),
            member("bob", "join"),
            say("bob", "in vain"),
            upon("ada", "unmute", "bob"),
            say("bob", "thank you"),
            upon("ada", "role", "bob", role="reader"),
            member("bob", "leave"),
            member("bob", "join"),
            say("bob", "in vain"),
            upon("ada", "role", "bob", role="member"),
            say("bob", "thank you"),
            upon("ada", "ban", "bob"),
            upon("ada", "unban", "bob"),
            member("bob", "join"),
        ]
    )
    assert _codes(outcomes) == [*["yes"] * 3, "muted", *["yes"] * 5, "forbidden", *["yes"] * 5]
    again = outcomes[8]
    assert isinstance(again, Stored)
    assert isinstance(again.event, Member)
    assert again.event.role == "reader", "as what they come back"
    assert again.event in repository.read("lobby", 0, 99, 99)
    assert repository.place("lobby", "bob") == ("member", Restraint())
    repository.append([upon("ada", "ban", "cyd")])
    held = Restraint(banned=FOREVER, muted=end, ban=repository.head("lobby", 0)[1], mute=4)
    assert repository.place("lobby", "cyd") == (None, held)


def _said_once_more(repository: Repository) -> None:
    """Who is banned or muted just so already is not once more, whoever asks; in one batch, too."""
    repository.add_user(User("dee", "Dee"), None)
    repository.append(
        [
            member("ada", "join", role="owner"),
            member("cyd", "join"),
            upon("ada", "role", "cyd", role="moderator"),
        ]
    )
    for action, undo, days in (("ban", "unban", 2), ("mute", "unmute", 4)):
        first = repository.head("lobby", 0)[1] + 1
        for_a_minute: dict[str, Any] = {"until": _soon(60), "reason": "spam"}
        later = NOW + timedelta(seconds=59)
        outcomes = repository.append(
            [
                upon("ada", action, "bob", **for_a_minute),
                upon("ada", action, "bob", timestamp=later, **for_a_minute),
                upon("cyd", action, "bob", txn_id=action, **for_a_minute),
            ]
        )
        known = Duplicate(first, NOW)
        assert [known, known] == outcomes[1:]
        assert repository.append([upon("cyd", action, "bob", **for_a_minute)]) == [known]
        # What was a duplicate is one for ever.
        repository.append([upon("ada", undo, "bob")])
        again = upon("cyd", action, "bob", txn_id=action, **for_a_minute)
        assert repository.append([again]) == [known]
        others = [
            upon("ada", action, "bob", **for_a_minute),
            upon("ada", action, "bob", until=_soon(61), reason="spam"),
            upon("ada", action, "bob", until=_soon(61), reason="Spam"),
            upon("ada", action, "bob", until=_soon(61)),
            upon("ada", action, "bob"),
            upon("ada", action, "bob"),
            upon("ada", action, "bob", reason="spam"),
            upon("ada", action, "dee"),
        ]
        kinds = [*[Stored] * 5, Duplicate, Stored, Stored]
        assert types_of(repository.append(others)) == kinds, "each is another than the one before"
        ended = upon("ada", action, "dee", until=_soon(60), timestamp=NOW + timedelta(seconds=60))
        assert types_of(repository.append([ended, ended])) == [Stored, Stored], "it is over"
        back = member("dee", "join", timestamp=NOW + timedelta(seconds=60))
        anew = upon("ada", action, "dee", until=_soon(60))
        outcomes = repository.append([back, anew])
        expected = [Stored, Stored if action == "ban" else Duplicate]
        assert types_of(outcomes) == expected, "whoever came back is removed, by any clock"
        # What the log has let go of nobody is told any more, so it is said anew.
        repository.append([upon("ada", action, "bob"), update("ada", retention_days=1)])
        much_later = NOW + timedelta(days=days)
        repository.expire("lobby", repository.head("lobby", 0)[1] + 1, much_later)
        again = upon("ada", action, "bob", timestamp=much_later)
        assert types_of(repository.append([again, again])) == [Stored, Duplicate]
        repository.append([update("ada", retention_days=0)])


def _what_is_theirs_goes_no_further(repository: Repository) -> None:
    """In one batch, too: nothing of somebody is stored above the event that ended it."""
    outcomes = repository.append(
        [
            member("ada", "join", role="owner"),
            member("bob", "join"),
            say("bob", "three"),
            upon("ada", "kick", "bob"),
            say("bob", "five"),
            edit("bob", 3, "five"),
            delete("bob", 3),
            member("bob", "leave"),
            member("bob", "join"),
            say("bob", "six"),
        ]
    )
    assert types_of(outcomes) == [*[Stored] * 4, *[NotMember] * 4, Stored, Stored]
    stands = [each.stands for each in outcomes if isinstance(each, Stored)]
    assert stands[3:5] == [Stands(None, 0, 0, "e1"), Stands("member", 5, 0, "e1")]
    repository.append([say("ada", "seven"), upon("ada", "mute", "bob")])
    (told,) = repository.append([upon("ada", "role", "bob", role="moderator")])
    assert isinstance(told, Stored)
    assert told.stands == Stands("moderator", 6, 1, "e1"), "a role reads nothing"


def _invitations(repository: Repository) -> None:
    few = Limits(rooms_joined=1)
    (_, invited) = repository.append(
        [
            member("ada", "join", SECRET, creates=True, role="owner"),
            upon("ada", "invite", "bob", SECRET, limits=few),
        ]
    )
    assert isinstance(invited, Stored)
    assert invited.event == Member("secret", 2, "ada", NOW, "bob", "invite")
    assert invited.stands == Stands("invited", 2, 0, "e2")
    assert [(room.name, room.role) for room in repository.rooms("bob", "", 9)] == [
        ("lobby", None),
        ("secret", "invited"),
    ]
    assert repository.rooms("ada", "lobby", 9) == [
        Listed("secret", "private", epoch="e2", role="owner")
    ]
    (membership,) = repository.memberships("bob")
    assert (membership.room, membership.role) == (SECRET, "invited")
    assert [each.username for each in repository.members("secret", "", 9)] == ["ada"]
    outcomes = repository.append(
        [
            say("bob", "not yet", SECRET),
            upon("ada", "invite", "bob", SECRET),
            upon("ada", "invite", "nobody", SECRET),
            member("ada", "join", Room("den", epoch="e3"), creates=True, role="owner"),
            upon("ada", "invite", "bob", Room("den"), limits=few),
            member("bob", "leave", SECRET),
            member("bob", "join", SECRET),
            upon("ada", "invite", "bob", Room("den"), limits=few),
            upon("ada", "invite", "bob", SECRET),
            upon("ada", "kick", "bob", SECRET),
            member("bob", "join", SECRET),
            upon("ada", "invite", "bob", SECRET),
            member("bob", "join", SECRET, limits=few),
            member("bob", "join", Room("den"), limits=few),
        ]
    )
    assert _codes(outcomes) == [
        "not_member",
        "conflict",
        "not_found",
        "yes",
        "forbidden",  # one is invited to as many rooms as one may be in
        "yes",  # which declines
        "not_found",
        "yes",
        "yes",
        "yes",  # which withdraws
        "not_found",
        "yes",
        "yes",
        "forbidden",  # which is one room too many
    ]
    assert repository.place("den", "bob") == ("invited", None)


def _direct_rooms(repository: Repository) -> None:
    """Born of whoever comes first, and the same for both."""

    def enters(sender: str, username: str, epoch: str, **more: Any) -> Draft:
        room = Room(PAIR, "direct", "ada, bob", epoch=epoch)
        return upon(sender, "join", username, room, role="member", creates=True, **more)

    outcomes = repository.append(
        [
            enters("ada", "nobody", "e0"),
            enters("ada", "bob", "e1"),
            enters("bob", "ada", "e2"),
            enters("ada", "ada", "e1"),
            enters("bob", "bob", "e2"),
            say("bob", "three", Room(PAIR)),
        ]
    )
    assert _codes(outcomes) == ["not_found", "yes", "yes", "conflict", "conflict", "yes"]
    room = repository.room(PAIR)
    assert room is not None
    assert (room.kind, room.title, room.epoch) == ("direct", "ada, bob", "e0")
    second = outcomes[2]
    assert isinstance(second, Stored)
    assert second.stands == Stands("member", 2, 0, "e0"), "and not what its own draft had"
    assert [each.username for each in repository.members(PAIR, "", 9)] == ["ada", "bob"]
    outcomes = repository.append(
        [
            *(upon("ada", action, "cyd", room) for action in ("invite", "ban", "mute")),
            update("ada", room, topic="Tea"),
            member("cyd", "join", room),
            member("bob", "leave", room),
            member("bob", "join", room),
            enters("bob", "bob", "e3", limits=Limits(rooms_joined=0)),
            enters("ada", "bob", "e4"),
        ]
    )
    assert _codes(outcomes) == [
        *["forbidden"] * 4,
        "not_found",
        "yes",
        "not_found",
        "forbidden",
        "yes",
    ]
    assert repository.room(PAIR) == room


def _rooms_change(repository: Repository) -> None:
    repository.append([member("ada", "join", role="owner"), member("bob", "join")])
    (told, *_) = repository.append([update("ada", title="Hall", topic="☃"), say("bob", "4")])
    assert isinstance(told, Stored)
    assert told.event == RoomChanged("lobby", 3, "ada", NOW, "Hall", "☃")
    assert repository.room("lobby") == Room("lobby", title="Hall", topic="☃", epoch="e1")
    outcomes = repository.append(
        [
            update("ada", slow_mode=30),
            update("ada", title="Lobby", archived=True),
            say("bob", "in vain"),
            say("ada", "in vain"),
            delete("bob", 4),
            update("ada", archived=False),
        ]
    )
    assert _codes(outcomes) == ["yes", "yes", "forbidden", "forbidden", "yes", "yes"]
    changed = Room("lobby", title="Lobby", topic="☃", epoch="e1", slow_mode=30)
    assert repository.room("lobby") == changed
    membership = repository.membership("lobby", "bob")
    assert membership is not None
    assert membership.room == changed
    assert repository.rooms("cyd", "", 9) == [
        Listed("lobby", title="Lobby", topic="☃", epoch="e1", slow_mode=30)
    ]
    assert all_stored([told])[0] == repository.read("lobby", 2, 3, 9)[0]

    same = update("ada", title="Lobby", topic="☃", slow_mode=30, archived=False, retention_days=0)
    (_, tea) = repository.append([same, update("ada", title="Lobby", topic="Tea", txn_id="t")])
    assert isinstance(tea, Stored)
    assert tea.event == RoomChanged("lobby", 9, "ada", NOW, topic="Tea"), "and nothing else did"
    outcomes = repository.append(
        [
            same,
            same,
            update("ada", title="Lobby", topic="Tea", txn_id="t"),
            update("ada", topic="Tea", txn_id="t"),
            update("bob", title="Lobby"),
        ]
    )
    assert types_of(outcomes) == [Stored, Conflict, Duplicate, TxnConflict, Forbidden]
    assert repository.head("lobby", 0)[1] == 10


def _slow_mode(repository: Repository) -> None:
    """A message every so many seconds, for those who keep no order; also in one batch."""
    repository.append([member("ada", "join", role="owner"), member("bob", "join")])

    def at(seconds: float, sender: str = "bob", **more: Any) -> Draft:
        moment = NOW + timedelta(seconds=seconds)
        return say(sender, f"at {seconds}", timestamp=moment, **more)

    outcomes = repository.append(
        [
            at(-5),
            update("ada", slow_mode=10),
            at(0, txn_id="t"),
            at(4),
            at(0, txn_id="t"),
            edit("bob", 5, "an edit waits for no turn"),
            at(1, "ada"),
            at(2, "ada"),
        ]
    )
    assert _codes(outcomes) == ["yes", "yes", "yes", "rate_limited", "yes", "yes", "yes", "yes"]
    refused = outcomes[3]
    assert isinstance(refused, RateLimited)
    assert (refused.retryable, refused.retry_after) == (True, 6)
    assert _codes(repository.append([at(9.999), at(10), at(11)])) == [
        "rate_limited",
        "yes",
        "rate_limited",
    ], "in another batch"
    again = [member("bob", "leave"), member("bob", "join"), at(12)]
    assert _codes(repository.append(again)) == ["yes", "yes", "rate_limited"], "also who comes back"
    assert _codes(repository.append([at(-3600)])) == ["yes"], "a clock that was set back"
    off = [update("ada", slow_mode=0), at(13), at(13)]
    assert _codes(repository.append(off)) == ["yes", "yes", "yes"]


def _audit(repository: Repository) -> None:
    """The events that are no messages, in pages."""
    repository.append(
        [
            member("ada", "join", role="owner"),
            member("bob", "join"),
            say("bob", "three"),
            edit("bob", 3, "3"),
            upon("ada", "mute", "bob"),
            update("ada", topic="Tea"),
            say("ada", "seven"),
            delete("ada", 3),
            upon("ada", "kick", "bob"),
        ]
    )

    def seqs(
        kinds: Sequence[str], after: int, before: int, limit: int, *, newest: bool
    ) -> list[int]:
        found = repository.events("lobby", kinds, after, before, limit, newest=newest)
        return [event.seq for event in found]

    assert seqs(["member"], 0, 99, 9, newest=True) == [1, 2, 5, 9]
    assert seqs(["member", "room"], 0, 99, 2, newest=True) == [6, 9]
    assert seqs(["member", "room"], 2, 99, 2, newest=False) == [5, 6]
    assert seqs(["edit", "delete"], 0, 8, 9, newest=True) == [4]
    assert seqs(["edit", "delete"], 3, 99, 9, newest=False) == [4, 8]
    assert seqs(["room"], 0, 99, 0, newest=True) == []
    log = repository.read("lobby", 0, 99, 99)
    kinds = ["edit", "delete", "member", "room"]
    expected = [event for event in log if event.seq not in (3, 7)]
    assert repository.events("lobby", kinds, 0, 99, 99, newest=False) == expected


def _reports(repository: Repository) -> None:
    repository.append(
        [
            member("ada", "join", role="owner"),
            say("ada", "two"),
            say("ada", "three"),
            member("ada", "join", SECRET, creates=True, role="owner"),
            say("ada", "two", SECRET),
            delete("ada", 3),
        ]
    )
    assert repository.reports("lobby", 0, 9) == []
    assert repository.report("lobby", 2, "bob", "spam ☃", NOW)
    assert repository.report("lobby", 2, "cyd", "rude", NOW)
    assert repository.report("secret", 2, "cyd", "elsewhere", NOW)
    later = NOW + timedelta(seconds=1)
    assert repository.report("lobby", 2, "bob", "once more", later), "the first one counts"
    for seq in (0, 1, 3, 4, 99):
        assert not repository.report("lobby", seq, "bob", "no message", NOW)
    first = ReportItem(1, 2, "bob", "spam ☃", NOW)
    second = ReportItem(2, 2, "cyd", "rude", NOW)
    assert repository.reports("lobby", 0, 9) == [first, second]
    assert repository.reports("lobby", 0, 1) == [first]
    assert repository.reports("lobby", 1, 9) == [second]
    assert repository.reports("secret", 0, 9) == [ReportItem(1, 2, "cyd", "elsewhere", NOW)]


def _who_is_held_back(repository: Repository) -> None:
    """Who is banned or muted now, in pages, with what did it as long as the log has that."""
    for name in ("dee", "eve", "fay"):
        repository.add_user(User(name, name), None)
    later = NOW + timedelta(seconds=61)
    repository.append(
        [
            member("ada", "join", role="owner"),
            update("ada", slow_mode=5, retention_days=1),
            member("cyd", "join"),
            say("cyd", "four"),  # who is in slow mode, and not held back
            upon("ada", "ban", "fay", until=_soon(60)),
            upon("ada", "mute", "eve", reason="loud"),
            upon("ada", "ban", "eve", until=_soon(90), reason="spam"),
            upon("ada", "ban", "bob"),
            upon("ada", "mute", "dee", until=_soon(60)),
            upon("ada", "mute", "dee", until=_soon(90), timestamp=later),
            member("ada", "join", SECRET, creates=True, role="owner"),
            upon("ada", "ban", "cyd", SECRET),
            upon("ada", "ban", "dee", SECRET),
            upon("ada", "unban", "dee", SECRET),
        ]
    )
    end = NOW + timedelta(seconds=90)
    bob = BanItem("bob", Sanction(None, 8, "ada", NOW))
    dee = BanItem("dee", None, Sanction(end, 10, "ada", later))
    muted = Sanction(None, 6, "ada", NOW, "loud")
    eve = BanItem("eve", Sanction(end, 7, "ada", NOW, "spam"), muted)
    fay = BanItem("fay", Sanction(NOW + timedelta(seconds=60), 5, "ada", NOW))
    assert repository.bans("lobby", "", 9, NOW) == [bob, dee, eve, fay]
    assert repository.bans("lobby", "", 3, NOW) == [bob, dee, eve]
    assert repository.bans("lobby", "eve", 3, NOW) == [fay]
    assert repository.bans("lobby", "", 3, later) == [bob, dee, eve], "fay may come back"
    assert repository.bans("lobby", "bob", 3, end) == [BanItem("eve", None, muted)]
    assert repository.bans("secret", "", 9, NOW) == [
        BanItem("cyd", Sanction(None, 2, "ada", NOW)),
    ]
    repository.append([upon("ada", "ban", "bob", timestamp=later, reason="rude")])
    repository.expire("lobby", 10, later + timedelta(days=1))
    assert repository.bans("lobby", "", 9, NOW) == [
        BanItem("bob", Sanction(None, 11, "ada", later, "rude")),
        dee,
        BanItem("eve", Sanction(end), Sanction()),
        BanItem("fay", Sanction(NOW + timedelta(seconds=60))),
    ], "the ban outlives its event"
    repository.close_account("eve", "keep")
    repository.lift_restraints("eve")
    assert [each.username for each in repository.bans("lobby", "", 9, NOW)] == ["bob", "dee", "fay"]


def _who_is_disabled(repository: Repository) -> None:
    """They are given nothing more; what takes something from them works as ever."""
    repository.append(
        [
            member("ada", "join", role="owner"),
            member("bob", "join"),
            member("ada", "join", SECRET, creates=True, role="owner"),
            upon("ada", "role", "bob", role="moderator"),
            say("ada", "four"),
        ]
    )
    pair = Room(PAIR, "direct", epoch="p")
    assert repository.disable("bob")
    assert _codes(
        repository.append(
            [
                upon("ada", "invite", "bob", SECRET),
                upon("ada", "join", "bob", pair, role="member", creates=True),
                upon("ada", "role", "bob", role="owner"),
                upon("ada", "role", "bob", role="member"),
                upon("ada", "mute", "bob"),
                upon("ada", "kick", "bob"),
                upon("ada", "ban", "bob"),
            ]
        )
    ) == [*["forbidden"] * 3, *["yes"] * 4]
    assert repository.room(PAIR) is None
    for name in ("bob", "nobody"):
        assert not repository.report("lobby", 4, name, "spam", NOW)
    assert repository.reports("lobby", 0, 9) == []


def _who_is_deleted(repository: Repository) -> None:
    """They are nobody any more, also while they are still taken out of their rooms."""
    repository.append(
        [
            *(member(name, "join", role="owner") for name in ("ada", "dee")),
            member("bob", "join"),
            upon("ada", "ban", "cyd"),
            upon("ada", "mute", "cyd"),
            say("ada", "five"),
        ]
    )
    pair = Room(PAIR, "direct", epoch="p")
    assert repository.report("lobby", 5, "bob", "rude", NOW)
    for name in ("bob", "cyd"):
        repository.close_account(name, "keep")
        assert not repository.report("lobby", 5, name, "spam", NOW)
    assert [each.username for each in repository.reports("lobby", 0, 9)] == ["bob"]
    all_upon = [
        *(upon("ada", action, "bob") for action in ("kick", "ban", "mute", "unban", "unmute")),
        *(upon("ada", action, "cyd") for action in ("ban", "mute", "unban", "unmute", "invite")),
        upon("ada", "role", "bob", role="reader"),
        upon("ada", "role", "bob", role="owner", as_host=True),
        upon("ada", "join", "bob", pair, role="member", creates=True),
        upon("ada", "join", "cyd", role="member", as_host=True),
    ]
    assert _codes(repository.append(all_upon)) == ["not_found"] * len(all_upon)
    assert repository.room(PAIR) is None
    assert _codes(repository.append([member("bob", "leave", as_host=True)])) == ["yes"]
    repository.lift_restraints("cyd")
    assert _codes(repository.append([upon("bob", "ban", "ada")])) == ["forbidden"]
    assert _codes(repository.append([upon("ada", "ban", "cyd")])) == ["not_found"]
    assert repository.place("lobby", "cyd") == (None, None), "and nothing new holds them back"


def _what_a_host_does(repository: Repository) -> None:
    """In the name of anybody, whatever they are there."""
    repository.append(
        [
            member("ada", "join", SECRET, creates=True, role="owner"),
            *(upon("ada", "invite", name, SECRET) for name in ("bob", "cyd")),
            upon("ada", "ban", "cyd", SECRET),
            say("ada", "five", SECRET),
        ]
    )
    leave = member("bob", "leave", SECRET, as_host=True)
    assert types_of(repository.append([leave, leave])) == [Stored, NotMember], "an invitation too"
    assert types_of(
        repository.append(
            [
                upon("ada", "role", "ada", SECRET, role="reader", as_host=True),
                upon("bob", "role", "bob", SECRET, role="owner", as_host=True),
                delete("ada", 5, SECRET, as_host=True),
                upon("cyd", "join", "cyd", SECRET, role="owner", as_host=True),
                upon("cyd", "role", "cyd", SECRET, role="owner", as_host=True),
                member("cyd", "leave", SECRET, as_host=True),
                upon("ada", "role", "ada", SECRET, role="owner", as_host=True),
                upon("ada", "invite", "cyd", SECRET),
            ]
        )
    ) == [Stored, NotFound, Stored, Stored, Conflict, Stored, Stored, Stored], (
        "who was banned is not any more, and a room may be without an owner"
    )


def _what_goes_with_a_person(repository: Repository) -> None:
    repository.append(
        [
            member("ada", "join", role="owner"),
            *(member(name, "join") for name in ("bob", "cyd")),
            say("bob", "four"),
            say("cyd", "five"),
            upon("ada", "mute", "bob", reason="rude"),
            upon("ada", "mute", "cyd", reason="loud"),
            upon("ada", "ban", "bob", reason="still rude"),
        ]
    )
    about = [event for event in repository.said("bob", 0, 9)[0] if isinstance(event, Member)]
    assert [(event.sender, event.action, event.reason) for event in about] == [
        ("bob", "join", None),
        ("ada", "mute", "rude"),
        ("ada", "ban", "still rude"),
    ]
    repository.redact(about)
    log = [event for event in repository.read("lobby", 0, 99, 99) if isinstance(event, Member)]
    assert [event.reason for event in log if event.username == "bob"] == [None] * 3
    assert [event.reason for event in log if event.username == "cyd"] == [None, "loud"]

    assert repository.report("lobby", 4, "cyd", "by cyd of bob", NOW)
    assert repository.report("lobby", 5, "bob", "by bob of cyd", NOW)
    assert repository.report("lobby", 5, "ada", "by ada of cyd", NOW)
    of_bob = [
        ("lobby", ReportItem(1, 4, "cyd", "by cyd of bob", NOW)),
        ("lobby", ReportItem(2, 5, "bob", "by bob of cyd", NOW)),
    ]
    assert repository.reports_of("bob") == of_bob
    assert (repository.reported("", 9), repository.reported("lobby", 9)) == (["lobby"], [])
    assert repository.reports_of("nobody") == []
    repository.redact_reports("bob")
    assert [each.reason for each in repository.reports("lobby", 0, 9)] == ["", "", "by ada of cyd"]

    assert repository.place("lobby", "bob") == (
        None,
        Restraint(banned=FOREVER, muted=FOREVER, ban=8, mute=6),
    )
    repository.lift_restraints("bob")
    assert repository.place("lobby", "bob")[1] in (None, Restraint())
    assert repository.place("lobby", "cyd") == ("member", Restraint(muted=FOREVER, mute=7))


MODERATION: Sequence[Callable[[Repository], None]] = (
    _the_table,
    _ranks,
    _bans_and_mutes,
    _said_once_more,
    _what_is_theirs_goes_no_further,
    _invitations,
    _direct_rooms,
    _rooms_change,
    _slow_mode,
    _audit,
    _reports,
    _who_is_held_back,
    _who_is_disabled,
    _who_is_deleted,
    _what_a_host_does,
    _what_goes_with_a_person,
)
