"""The codes are the protocol's, and the tree is the one that is drawn."""

from __future__ import annotations

import re

import pytest

from chatcore import errors
from chatcore.errors import ChatError, OutcomeUnknown, Unavailable

CODES = (
    "invalid unknown_command unauthenticated bad_credentials forbidden not_found not_member"
    " banned muted conflict txn_conflict too_large rate_limited unavailable storage_full internal"
).split()
"""As protocol.md lists them; never reused, so never shortened."""


def family(parent: type[ChatError] = ChatError) -> list[type[ChatError]]:
    """All that descend from it, here."""
    children = [each for each in parent.__subclasses__() if each.__module__ == errors.__name__]
    return [each for child in children for each in (child, *family(child))]


def test_the_codes_are_the_protocols_each_once() -> None:
    assert sorted(CODES) == sorted(each.code for each in family())


def test_what_may_be_repeated_is_what_was_not_the_clients_doing() -> None:
    assert {each.code for each in family() if each.retryable} == {
        "rate_limited",
        "storage_full",
        "unavailable",
    }


def test_the_tree_is_the_one_that_is_drawn() -> None:
    assert errors.__doc__ is not None
    drawn, parents = {}, ["ChatError"]
    for branch, name in re.findall(r"^([│ ]*[├└]── )(\w+)", errors.__doc__, re.MULTILINE):
        depth = len(branch) // 4
        drawn[name] = parents[depth - 1]
        parents[depth:] = [name]
    assert {each.__name__: each.__bases__[0].__name__ for each in family()} == drawn


def test_every_error_is_drawn() -> None:
    assert errors.__doc__ is not None
    classes = [each for each in vars(errors).values() if isinstance(each, type)]
    named = {each.__name__ for each in classes if issubclass(each, Exception)}
    first = re.findall(r"^(?:[│ ]*[├└]── )?([A-Z]\w+)(?=$|  )", errors.__doc__, re.MULTILINE)
    assert sorted(named) == sorted(first)


@pytest.mark.parametrize("error", family())
def test_an_error_is_its_message(error: type[ChatError]) -> None:
    assert str(error("What happened, and what to do")) == "What happened, and what to do"
    assert error("x").retry_after is None
    assert error("x", retry_after=1.5).retry_after == 1.5
    assert error("x").message == "x"


def test_an_unknown_outcome_keeps_what_to_look_for_and_what_to_say() -> None:
    unknown = OutcomeUnknown([1, 2], Unavailable("The disk is gone"))
    assert (unknown.outcomes, str(unknown)) == ([1, 2], "The disk is gone")
    assert isinstance(unknown.error, Unavailable)
    assert not isinstance(unknown, ChatError), "nobody is told of it as it is"
