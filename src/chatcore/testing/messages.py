"""What any repository must do about replies and reactions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from chatcore.errors import Forbidden, NotFound, TxnConflict
from chatcore.events import Duplicate, Message, Reaction, Stored, Tally
from chatcore.model import Limits
from chatcore.ports import Repository
from chatcore.testing.drafts import (
    NOW,
    SECRET,
    THUMB,
    delete,
    edit,
    member,
    react,
    say,
    types_of,
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


TEA = "\u2615"

MESSAGES: Sequence[Callable[[Repository], None]] = (
    _replies,
    _reactions,
    _reactions_within_a_batch,
)
