"""What any repository must do about replies."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from chatcore.errors import NotFound, TxnConflict
from chatcore.events import Duplicate, Message, Stored
from chatcore.ports import Repository
from chatcore.testing.drafts import NOW, SECRET, delete, edit, member, say, types_of


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


MESSAGES: Sequence[Callable[[Repository], None]] = (_replies,)
