"""Who is where, and what is told of it."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatcore import events, presence
from chatcore.presence import NAMED, Presence


def told(here: Presence) -> list[events.Presence]:
    return list(here.changes())


def test_coming_and_going_is_told_once() -> None:
    here = Presence()
    here.enter("lobby", "bob")
    here.enter("lobby", "ada")
    assert [events.Presence("lobby", 2, ["ada", "bob"], [])] == told(here)
    assert told(here) == []
    here.leave("lobby", "ada")
    assert [events.Presence("lobby", 1, [], ["ada"])] == told(here)
    assert told(here) == []


def test_two_connections_of_one_user_are_one_person() -> None:
    here = Presence()
    here.enter("lobby", "ada")
    told(here)
    here.enter("lobby", "ada")
    assert told(here) == []
    assert events.Presence("lobby", 1, ["ada"], []) == here.state("lobby")
    here.leave("lobby", "ada")
    assert told(here) == []
    here.leave("lobby", "ada")
    assert [events.Presence("lobby", 0, [], ["ada"])] == told(here)


def test_who_left_and_came_back_in_between_did_neither() -> None:
    here = Presence()
    here.enter("lobby", "ada")
    told(here)
    here.leave("lobby", "ada")
    here.enter("lobby", "ada")
    assert told(here) == []
    here.enter("lobby", "bob")
    here.leave("lobby", "bob")
    assert told(here) == []


def test_rooms_are_apart() -> None:
    here = Presence()
    here.enter("lobby", "ada")
    here.enter("den", "ada")
    here.leave("den", "ada")
    here.enter("den", "bob")
    assert [
        events.Presence("lobby", 1, ["ada"], []),
        events.Presence("den", 1, ["bob"], []),
    ] == told(here)
    assert (here.online("lobby"), here.online("den"), here.online("x")) == (["ada"], ["bob"], [])


def test_a_room_that_nobody_is_in_has_nobody_in_it() -> None:
    here = Presence()
    assert events.Presence("lobby", 0, [], []) == here.state("lobby")
    here.enter("lobby", "ada")
    here.leave("lobby", "ada")
    assert events.Presence("lobby", 0, [], []) == here.state("lobby")
    assert here.online("lobby") == []
    with pytest.raises(KeyError):  # forgotten, not kept with nobody in it
        here.leave("lobby", "ada")


def test_of_a_crowd_only_the_number_is_told() -> None:
    here = Presence()
    crowd = [f"user{number:03}" for number in range(NAMED)]
    for name in crowd:
        here.enter("lobby", name)
    assert [events.Presence("lobby", 200, crowd, [])] == told(here)
    assert events.Presence("lobby", 200, crowd, []) == here.state("lobby")
    here.enter("lobby", "ada")
    here.leave("lobby", "user000")
    here.enter("lobby", "bob")
    assert [events.Presence("lobby", 201)] == told(here)
    assert events.Presence("lobby", 201) == here.state("lobby")
    assert len(here.online("lobby")) == 201, "who asks is told"


# Who may be back.


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def lingering(seconds: float = 5.0) -> tuple[Presence, Clock]:
    clock = Clock()
    return Presence(seconds, clock), clock


def test_who_is_back_in_time_did_not_go() -> None:
    here, clock = lingering()
    here.enter("lobby", "ada")
    here.enter("lobby", "bob")
    told(here)
    here.leave("lobby", "ada", lingers=True)
    clock.now += 4.9
    assert told(here) == []
    assert here.online("lobby") == ["ada", "bob"]
    assert events.Presence("lobby", 2, ["ada", "bob"], []) == here.state("lobby")
    here.enter("lobby", "ada")
    clock.now += 60
    assert told(here) == []
    assert here.due() is None


def test_who_is_not_back_in_time_is_gone() -> None:
    here, clock = lingering()
    here.enter("lobby", "ada")
    here.enter("lobby", "ada")
    told(here)
    here.leave("lobby", "ada", lingers=True)
    clock.now += 60
    assert told(here) == [], "another device is there"
    here.leave("lobby", "ada", lingers=True)
    assert here.due() == 5.0
    clock.now += 3
    assert (told(here), here.due()) == ([], 2.0)
    clock.now += 2
    assert [events.Presence("lobby", 0, [], ["ada"])] == told(here)
    assert here.due() is None
    assert here.online("lobby") == []


def test_each_one_has_a_time_of_their_own() -> None:
    here, clock = lingering()
    for name in ("ada", "bob", "cyd"):
        here.enter("lobby", name)
    told(here)
    for name in ("ada", "bob"):
        here.leave("lobby", name, lingers=True)
        clock.now += 2
    here.enter("lobby", "ada")
    here.leave("lobby", "ada", lingers=True)
    clock.now += 3
    assert [events.Presence("lobby", 2, [], ["bob"])] == told(here)
    assert here.due() == 2.0
    clock.now += 2
    assert [events.Presence("lobby", 1, [], ["ada"])] == told(here)


def test_who_leaves_for_good_is_gone_at_once() -> None:
    here, _ = lingering()
    for name in ("ada", "bob", "cyd"):
        here.enter("lobby", name)
    told(here)
    here.leave("lobby", "ada")
    here.leave("lobby", "bob", lingers=True)
    here.dismiss("lobby", "bob")
    here.dismiss("lobby", "cyd")  # who is there, and whose connection will say when it goes
    here.dismiss("den", "bob")
    assert [events.Presence("lobby", 1, [], ["ada", "bob"])] == told(here)


def test_a_crowd_is_told_of_now_and_then() -> None:
    here, clock = lingering()
    for number in range(NAMED + 1):
        here.enter("lobby", f"user{number}")
    assert [events.Presence("lobby", 201)] == told(here)
    assert here.due() is None
    here.enter("lobby", "ada")
    assert told(here) == []
    assert here.due() == presence.CROWD_SECONDS
    clock.now += presence.CROWD_SECONDS / 2
    here.enter("lobby", "bob")
    assert told(here) == []
    clock.now += presence.CROWD_SECONDS / 2
    assert [events.Presence("lobby", 203)] == told(here)
    clock.now += presence.CROWD_SECONDS
    here.enter("lobby", "cyd")
    here.leave("lobby", "bob")
    assert told(here) == [], "as many as before"
    for name in ("ada", "cyd"):
        here.leave("lobby", name)
    here.leave("lobby", "user0", lingers=True)
    clock.now += 5
    (thinned,) = told(here)
    assert (thinned.count, thinned.online) == (200, sorted(f"user{n}" for n in range(1, 201)))


def test_ten_thousand_who_come_one_by_one_are_not_ten_thousand_events() -> None:
    """Told of every tenth of a second, as the hub does, for a minute."""
    here, clock = lingering()
    seen = 0
    for number in range(10_000):
        here.enter("lobby", f"user{number}")
        if number % 17 == 0:
            clock.now += 0.1
            seen += len(told(here))
    assert 201 / 17 <= seen <= 201 / 17 + 60 / presence.CROWD_SECONDS + 2


def followed(known: set[str], event: events.Presence) -> set[str]:
    """What a client knows after an event, by the rule that events.Presence states."""
    if event.online is None or event.offline is None:
        return set()
    if len(event.online) == event.count:
        return set(event.online)
    return (known | set(event.online)) - set(event.offline)


STEPS = st.lists(
    st.sampled_from("abcdef").map(str) | st.sampled_from(["tell", "wait", "A", "B"]), max_size=40
)


def check_a_client_can_follow(steps: list[str], named: int) -> None:
    """Each letter comes where it is away, and goes where it is there; a capital is out for good."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(presence, "NAMED", named)
        (here, clock), online = lingering(3), Counter[str]()
        known, there = set[str](), set[str]()
        for step in [*steps, "wait", "tell"]:
            clock.now += 1 if step != "wait" else 60
            if step.isupper():
                here.dismiss("lobby", step.lower())
                continue
            if step not in ("tell", "wait"):
                if online[step]:
                    here.leave("lobby", step, lingers=len(steps) % 2 == 0)
                else:
                    here.enter("lobby", step)
                online[step] ^= 1
                continue
            for event in here.changes():
                known = followed(known, event)
            there = {name for name in online if online[name]}
            assert there <= {*here.online("lobby")}
            assert len(here.online("lobby")) == here.state("lobby").count
            if here.due() is None and here.state("lobby").count <= named:
                assert there == known == set(here.state("lobby").online or ())
        assert {*here.online("lobby")} == there


@given(STEPS)
@settings(max_examples=200)
def test_a_client_that_follows_the_changes_knows_who_is_there(steps: list[str]) -> None:
    check_a_client_can_follow(steps, named=6)


@given(STEPS)
@settings(max_examples=200)
def test_so_it_does_again_when_a_crowd_has_thinned(steps: list[str]) -> None:
    check_a_client_can_follow(steps, named=3)
