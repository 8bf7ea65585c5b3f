"""How often, by token buckets; and the table of who may do what."""

from __future__ import annotations

import weakref
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatcore.commands import Ping
from chatcore.errors import Banned, ChatError, Muted, RateLimited
from chatcore.model import FOREVER, Rate, Restraint, Room, User
from chatcore.policy import MAY, ROLES, OpenPolicy, Rates, check
from tests.test_errors import family


class Seconds:
    """A monotonic clock that stands still until it is told to go."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Seconds:
    return Seconds()


def wanted(rates: Rates, key: str) -> float | None:
    """Try once; None where it was let through, else how long to wait."""
    try:
        rates.take(key)
    except RateLimited as refused:
        return refused.retry_after
    return None


def taken(rates: Rates, key: str, tries: int) -> int:
    """Say how many of so many tries were let through."""
    return [wanted(rates, key) for _ in range(tries)].count(None)


def test_a_burst_goes_through_and_no_more(clock: Seconds) -> None:
    assert taken(Rates(Rate(5, 10), "Slow down", clock), "ada", 30) == 10


def test_tokens_come_back_at_the_rate_and_never_above_the_burst(clock: Seconds) -> None:
    rates = Rates(Rate(5, 10), "Slow down", clock)
    assert taken(rates, "ada", 30) == 10
    clock.now += 1
    assert taken(rates, "ada", 30) == 5
    clock.now += 0.1
    assert taken(rates, "ada", 30) == 0
    clock.now += 0.1
    assert taken(rates, "ada", 30) == 1, "halves add up"
    clock.now += 1_000_000
    assert taken(rates, "ada", 30) == 10


def test_a_refusal_says_what_and_when(clock: Seconds) -> None:
    rates = Rates(Rate(0.5, 1), "Slow down", clock)
    rates.take("ada")
    clock.now += 0.5
    for _ in range(2):  # being refused costs nothing
        with pytest.raises(RateLimited, match="Slow down") as refused:
            rates.take("ada")
        assert refused.value.retry_after == 1.5
    clock.now += 1.5
    rates.take("ada")


@given(
    st.floats(0.01, 100), st.integers(1, 20), st.lists(st.floats(0, 10), min_size=1, max_size=20)
)
@settings(max_examples=200)
def test_who_waits_as_told_gets_through(rate: float, burst: int, pauses: list[float]) -> None:
    clock = Seconds()
    rates = Rates(Rate(rate, burst), "Slow down", clock)
    for pause in pauses:
        clock.now += pause
        wait = wanted(rates, "ada")
        if wait is not None:
            assert 0 < wait <= 1 / rate
            clock.now += wait + 1e-6  # what floats lose
            assert wanted(rates, "ada") is None


def test_what_is_given_back_may_be_taken_again(clock: Seconds) -> None:
    rates = Rates(Rate(1, 2), "Slow down", clock)
    rates.give_back("ada")
    assert taken(rates, "ada", 5) == 2
    rates.give_back("ada")
    assert taken(rates, "ada", 5) == 1
    rates.give_back("ada")
    clock.now += 1_000
    assert taken(rates, "ada", 5) == 2, "and never more than the burst"


def test_each_key_has_its_own(clock: Seconds) -> None:
    rates = Rates(Rate(1, 2), "Slow down", clock)
    assert (taken(rates, "ada", 5), taken(rates, "bob", 5)) == (2, 2)


def test_no_rate_is_no_limit(clock: Seconds) -> None:
    assert taken(Rates(None, "Slow down", clock), "ada", 1000) == 1000


class Key(str):
    """A text that can be seen to be forgotten."""

    __slots__ = ("__weakref__",)


def test_who_has_been_quiet_is_forgotten(clock: Seconds) -> None:
    rates = Rates(Rate(1, 2), "Slow down", clock)
    remembered: weakref.WeakSet[Key] = weakref.WeakSet()
    most = 0
    for number in range(20_000):
        clock.now += 0.01
        key = Key(number)
        remembered.add(key)
        rates.take(key)
        most = max(most, len(remembered))
    assert most < 3000, "of twenty thousand, some hundred were not full again"


def test_who_has_not_been_quiet_is_not(clock: Seconds) -> None:
    rates = Rates(Rate(0.001, 1), "Slow down", clock)
    rates.take("ada")
    assert taken(rates, "ada", 1) == 0
    for number in range(5000):
        rates.take(str(number))
    assert taken(rates, "ada", 1) == 0


# The table.


def test_the_table_is_whole() -> None:
    columns = [*reversed(ROLES), "invited", "stranger", "banned", "outsider"]
    codes = {error.code for error in family(ChatError)}
    for action, cells in MAY.items():
        assert [*cells] == columns, action
        assert {*cells.values()} <= codes | {"yes"}
        assert cells["outsider"] == "not_found", "it is not there for them"
        assert cells["owner"] == "yes"
        ranked = [cells[role] for role in reversed(ROLES)]
        assert ranked == sorted(ranked, reverse=True), "who is higher may do no less"


def test_bans_and_mutes_are_over_at_their_end() -> None:
    room, end = Room("lobby"), datetime(2026, 1, 1, tzinfo=UTC)
    just_before = end - timedelta(milliseconds=1)
    for role, restraint, refusal in (
        (None, Restraint(banned=end), Banned),
        ("member", Restraint(muted=end), Muted),
    ):
        action = "join" if role is None else "send"
        with pytest.raises(refusal, match=r"until 2026-01-01T00:00:00\.000Z"):
            check(action, room, role, restraint, just_before)
        check(action, room, role, restraint, end)
    with pytest.raises(Banned) as refused:
        check("read", room, None, Restraint(banned=FOREVER), end)
    assert refused.value.message == "You are banned from this room", "without an end"


def test_the_open_policy_refuses_nothing() -> None:
    OpenPolicy().check(User("ada", "Ada"), Ping(), None)
