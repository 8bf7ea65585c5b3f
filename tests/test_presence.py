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


def followed(known: set[str], event: events.Presence) -> set[str]:
    """What a client knows after an event, by the rule that events.Presence states."""
    if event.online is None or event.offline is None:
        return set()
    if len(event.online) == event.count:
        return set(event.online)
    return (known | set(event.online)) - set(event.offline)


STEPS = st.lists(st.sampled_from("abcdef").map(str) | st.just("tell"), max_size=40)


def check_a_client_can_follow(steps: list[str], named: int) -> None:
    """Each letter comes where it is away, and goes where it is there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(presence, "NAMED", named)
        here, online = Presence(), Counter[str]()
        known: set[str] = set()
        for step in [*steps, "tell"]:
            if step != "tell":
                (here.leave if online[step] else here.enter)("lobby", step)
                online[step] ^= 1
                continue
            for event in here.changes():
                known = followed(known, event)
            there = {name for name in online if online[name]}
            assert len(there) == here.state("lobby").count
            if len(there) <= named:
                assert there == known == set(here.state("lobby").online or ())


@given(STEPS)
@settings(max_examples=200)
def test_a_client_that_follows_the_changes_knows_who_is_there(steps: list[str]) -> None:
    check_a_client_can_follow(steps, named=6)


@given(STEPS)
@settings(max_examples=200)
def test_so_it_does_again_when_a_crowd_has_thinned(steps: list[str]) -> None:
    check_a_client_can_follow(steps, named=3)
