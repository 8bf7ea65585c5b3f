"""What any repository must do about replies, reactions, mentions and read markers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta

from chatcore.errors import Forbidden, NotFound, TxnConflict
from chatcore.events import Duplicate, Edit, Marked, Message, Reaction, Stored, Tally
from chatcore.folding import fold
from chatcore.model import Limits, Room, User
from chatcore.names import direct_room
from chatcore.ports import Repository
from chatcore.testing.drafts import (
    NOW,
    SECRET,
    THUMB,
    all_stored,
    delete,
    edit,
    member,
    react,
    say,
    types_of,
    upon,
)


def _replies(repository: Repository) -> None:
    repository.append(
        [
            member("ada", "join"),
            member("bob", "join"),
            say("ada", "three"),
            say("ada", "four"),
            member("ada", "join", SECRET, creates=True, role="owner"),
            delete("ada", 4),
        ]
    )
    outcomes = repository.append(
        [
            say("bob", "six", reply_to=3, txn_id="t"),
            say("bob", "six", reply_to=3, txn_id="t"),
            say("bob", "six", txn_id="t"),
            say("bob", "deleted", reply_to=4),
            say("bob", "no message", reply_to=1),
            say("bob", "not there yet", reply_to=7),
            say("bob", "below all", reply_to=0),
            say("ada", "elsewhere", SECRET, reply_to=3),
            say("ada", "seven", reply_to=6),
            say("ada", "eight"),
            say("bob", "to what this batch has", reply_to=8),
            edit("bob", 6, "VI"),
            delete("ada", 8),
            say("bob", "too late", reply_to=8),
        ]
    )
    assert types_of(outcomes) == [
        Stored,
        Duplicate,
        TxnConflict,
        *[NotFound] * 5,
        *[Stored] * 5,
        NotFound,
    ]
    repository.append([delete("ada", 3), delete("bob", 9)])
    assert [
        (each.seq, each.content, each.reply_to)
        for each in repository.read("lobby", 5, 99, 99)
        if isinstance(each, Message)
    ] == [(6, "six", 3), (7, "seven", 6), (8, "", None), (9, "", None)]
    page = repository.messages("lobby", 5, 7, 9, newest=True, upto=99)
    assert page[0] == Message("lobby", 6, "bob", NOW, "six", reply_to=3)


def _reactions(repository: Repository) -> None:
    repository.append(
        [
            *(member(name, "join") for name in ("ada", "bob", "cyd")),
            say("ada", "four"),
            say("ada", "five"),
            delete("ada", 5),
        ]
    )
    few = Limits(reactions=2)
    outcomes = repository.append(
        [
            react("bob", 4, txn_id="t", limits=few),
            react("bob", 4, txn_id="t", limits=few),
            react("bob", 4, TEA, txn_id="t", limits=few),
            react("bob", 4, limits=few),
            react("bob", 4, TEA, limits=few),
            react("cyd", 4, "\u2764", limits=few),
            react("cyd", 4, TEA, limits=few),
            react("ada", 4, adds=False, txn_id="u"),
            react("ada", 4, limits=few, txn_id="u"),
            react("ada", 5),
            react("ada", 3),
            react("ada", 99),
            react("ada", 4, limits=few),
            react("bob", 4, adds=False),
            react("bob", 4, adds=False),
        ]
    )
    assert types_of(outcomes) == [
        Stored,
        Duplicate,
        TxnConflict,
        Duplicate,
        Stored,
        Forbidden,
        Stored,
        Duplicate,
        TxnConflict,
        *[NotFound] * 3,
        Stored,
        Stored,
        Duplicate,
    ]
    assert outcomes[3] == Duplicate(7, NOW), "what added it"
    assert outcomes[14] == outcomes[7] == Duplicate(4, NOW), "it has not been there: the message"
    told = [
        Reaction("lobby", 7, "bob", NOW, 4, THUMB, "add"),
        Reaction("lobby", 8, "bob", NOW, 4, TEA, "add"),
        Reaction("lobby", 9, "cyd", NOW, 4, TEA, "add"),
        Reaction("lobby", 10, "ada", NOW, 4, THUMB, "add"),
        Reaction("lobby", 11, "bob", NOW, 4, THUMB, "remove"),
    ]
    assert [*repository.read("lobby", 6, 99, 99)] == told

    def beside(upto: int, reader: str = "") -> tuple[tuple[str, int, bool], ...]:
        page = repository.messages("lobby", 0, 99, 9, newest=True, upto=upto, reader=reader)
        (four, five) = (each for each in page if isinstance(each, Message))
        assert five.reactions == ()
        return tuple((each.emoji, each.count, each.me) for each in four.reactions)

    assert beside(99, "ada") == ((TEA, 2, False), (THUMB, 1, True))
    assert beside(10, "bob") == ((TEA, 2, True), (THUMB, 2, True)), "as of a head"
    assert beside(9, "cyd") == ((TEA, 2, True), (THUMB, 1, False))
    assert beside(7, "bob") == ((THUMB, 1, True),)
    assert beside(6) == ()
    ada = repository.membership("lobby", "ada")
    assert ada is not None
    assert (ada.unread, ada.read) == (0, 5), "a reaction is no message, and reads nothing"

    again = repository.append([react("bob", 4), react("bob", 4), react("ada", 4, adds=False)])
    assert types_of(again) == [Stored, Duplicate, Stored]
    assert again[1] == Duplicate(12, NOW)
    outcomes = repository.append(
        [react("cyd", 4), delete("ada", 4), react("ada", 4), react("bob", 4, adds=False)]
    )
    assert types_of(outcomes) == [Stored, Stored, NotFound, NotFound]
    assert beside(99) == beside(10) == (), "what is deleted has none, whatever the head"
    assert [*repository.read("lobby", 6, 11, 99)] == told, "and the log has what happened"


def _reactions_within_a_batch(repository: Repository) -> None:
    """To what the batch itself has brought, and taken away."""
    outcomes = repository.append(
        [
            member("ada", "join"),
            say("ada", "two"),
            react("ada", 2),
            react("ada", 2, TEA),
            react("ada", 2, adds=False),
            react("ada", 2),
            react("ada", 2, adds=False),
        ]
    )
    assert types_of(outcomes) == [Stored] * 7
    page = repository.messages("lobby", 0, 99, 9, newest=True, upto=99, reader="ada")
    assert page == [Message("lobby", 2, "ada", NOW, "two", reactions=(Tally(TEA, 1, me=True),))]


def _edit_window(repository: Repository) -> None:
    repository.append([member("ada", "join"), say("ada", "two"), say("ada", "three")])
    hour = Limits(edit_seconds=3_600)

    def late(seconds: float, limits: Limits) -> list[object]:
        (outcome,) = repository.append(
            [edit("ada", 2, "II", timestamp=NOW + timedelta(seconds=seconds), limits=limits)]
        )
        return [type(outcome), getattr(outcome, "message", None)]

    assert late(3_600, hour) == [Stored, None]
    refused = "A message can be edited for {} after it was sent"
    assert late(3_600.001, hour) == [Forbidden, refused.format("1 hour")]
    assert late(1e6, Limits(edit_seconds=90)) == [Forbidden, refused.format("90 seconds")]
    assert late(1e6, Limits(edit_seconds=259_200)) == [Forbidden, refused.format("3 days")]
    refused = "A message stays as it is here; it cannot be edited"
    assert late(0, Limits(edit_seconds=0)) == [Forbidden, refused]
    assert late(-5, hour) == [Stored, None], "a clock that was set back"
    assert late(1e8, Limits()) == [Stored, None], "for ever, where nobody says how long"
    outcome = repository.append([delete("ada", 2)])
    assert types_of(outcome) == [Stored], "and it may be taken back at any time"


def _read_markers(repository: Repository) -> None:
    assert repository.mark_read({}) == {}
    pair = Room(direct_room("ada", "bob"), "direct", epoch="e9")
    repository.append(
        [
            member("ada", "join"),
            member("bob", "join"),
            *(say("ada", text) for text in "3456"),
            delete("ada", 4),
            react("ada", 5),
            upon("ada", "join", "bob", pair, role="member", creates=True),
            upon("ada", "join", "ada", pair, role="member", creates=True),
            say("bob", "hello", pair),
        ]
    )

    def mark(username: str, seq: int, room: str = "lobby") -> Marked | None:
        return repository.mark_read({(room, username): seq}).get((room, username))

    def stands(username: str, room: str = "lobby") -> tuple[int, int]:
        found = repository.membership(room, username)
        assert found is not None
        return found.read, found.unread

    assert stands("bob") == (2, 4), "what was deleted counts, too"
    assert mark("bob", 4) == Marked(4, 2, 0, 8, moved=True)
    assert mark("bob", 4) == mark("bob", 3) == mark("bob", 0) == Marked(4, 2, 0, 8, moved=False)
    assert stands("bob") == (4, 2)
    assert mark("bob", 99) == Marked(8, 0, 0, 8, moved=True), "it is at most at the head"
    repository.append([say("ada", "9"), say("ada", "10")])
    assert stands("bob") == (8, 2)
    assert stands("ada") == (10, 0), "sending has read"
    assert mark("ada", 7) == Marked(10, 0, 0, 10, moved=False)
    marked = repository.mark_read(
        {("lobby", "bob"): 9, (pair.name, "ada"): 3, ("lobby", "cyd"): 9, ("nowhere", "ada"): 1}
    )
    assert marked == {
        ("lobby", "bob"): Marked(9, 1, 0, 10, moved=True),
        (pair.name, "ada"): Marked(3, 0, 0, 3, moved=True, other="bob"),
    }, "in one go; whoever is in no room has read nothing there"
    repository.append([upon("bob", "invite", "cyd"), member("ada", "leave", pair)])
    assert mark("cyd", 9) is None
    assert mark("bob", 4, pair.name) == Marked(4, 0, 0, 4, moved=True), "the other one is not there"
    repository.append([edit("ada", 10, "X"), say("ada", "13")])
    assert stands("bob") == (9, 2), "what comes later is unread"


def _mentions(repository: Repository) -> None:
    for name in ("ada.b", "dee"):
        repository.add_user(User(name, name), None)
    repository.append([member(name, "join") for name in ("ada", "bob", "cyd", "ada.b")])
    at = repository.head("lobby", 0)[1]

    def counted(username: str, upto: int | None = None) -> tuple[int, int]:
        found = repository.membership("lobby", username, upto)
        assert found is not None
        return found.unread, found.unread_mentions

    repository.append(
        [
            say("ada", "@Bob, @BOB and @cyd: hello @dee and @ada", txn_id="t"),
            say("ada", "@ada.b. @ada."),
            say("ada", "nobody: bob@example.org, @bob@example.org"),
            say("ada", "@bob"),
        ]
    )
    log = repository.read("lobby", at, 99, 99)
    told = [each.mentions for each in log if isinstance(each, Message)]
    assert told == [("bob", "cyd", "ada"), ("ada.b", "ada"), (), ("bob",)], "members, as they are"
    again = say("ada", "@Bob, @BOB and @cyd: hello @dee and @ada", txn_id="t")
    assert repository.append([again]) == [Duplicate(at + 1, NOW)], "whoever was mentioned then"
    assert (counted("bob"), counted("cyd"), counted("ada.b")) == ((4, 2), (4, 1), (4, 1))
    assert counted("ada") == (0, 0), "what one has said oneself is read"
    assert counted("bob", at + 3) == (3, 1), "as of a seq"
    assert [each.unread_mentions for each in repository.memberships("bob")] == [2]

    # An edit says anew whom its message mentions, and a deletion that it mentions nobody.
    (edited,) = all_stored(repository.append([edit("ada", at + 3, "@cyd @cyd")]))
    assert isinstance(edited, Edit)
    assert edited.mentions == ("cyd",)
    repository.append([edit("ada", at + 1, "for @cyd alone")])
    assert (counted("bob"), counted("cyd")) == ((4, 1), (4, 2))
    page = fold(repository.messages("lobby", at, at + 4, 9, newest=True, upto=99))
    assert [each.mentions for each in page] == [("cyd",), ("ada.b", "ada"), ("cyd",)]
    repository.append([delete("ada", at + 3)])
    assert counted("cyd") == (4, 1), "it is unread, and mentions nobody"
    (gone,) = fold(repository.messages("lobby", at + 2, at + 4, 9, newest=True, upto=99))
    assert (gone.erased, gone.mentions) == (True, ())

    # What is read is not counted, nor what was said before somebody came.
    marked = repository.mark_read({("lobby", "bob"): at + 3, ("lobby", "cyd"): at})
    assert marked["lobby", "bob"] == Marked(at + 3, 1, 1, at + 7, moved=True)
    assert marked["lobby", "cyd"].unread_mentions == 1
    repository.append([member("bob", "leave"), say("ada", "@bob"), member("bob", "join")])
    assert counted("bob") == (0, 0)
    repository.append([edit("ada", at + 4, "@bob again"), say("ada", "@bob is here")])
    assert counted("bob") == (1, 1)
    repository.append([say("bob", "I am")])
    assert counted("bob") == (0, 0), "sending has read"

    within = repository.append(
        [
            say("ada", "@bob"),
            edit("ada", repository.head("lobby", 0)[1] + 1, "nobody"),
            say("ada", "@bob"),
            delete("ada", repository.head("lobby", 0)[1] + 3),
            say("ada", "@bob @cyd"),
        ]
    )
    assert types_of(within) == [Stored] * 5
    assert counted("bob") == (3, 1)


TEA = "\u2615"

MESSAGES: Sequence[Callable[[Repository], None]] = (
    _replies,
    _reactions,
    _reactions_within_a_batch,
    _edit_window,
    _read_markers,
    _mentions,
)
