"""What a participant's user gets, whatever the server says twice, late or not at all."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from chatcore import follower
from chatcore.commands import Join, Leave, Since
from chatcore.errors import Forbidden, Internal, NotMember, Unavailable
from chatcore.events import (
    Connected,
    Durable,
    Event,
    JoinReply,
    Lost,
    Member,
    MembershipChanged,
    Message,
    Notice,
    Other,
    Presence,
    Read,
    Reconnecting,
    Reset,
    Resumed,
)
from chatcore.follower import Follower
from chatcore.model import Room, utcnow

NOW = utcnow()
LOBBY = Room("lobby", epoch="e")


def said(seq: int) -> Message:
    return Message("lobby", seq, "bob", NOW, str(seq))


def left(seq: int, username: str = "ada") -> Member:
    return Member("lobby", seq, username, NOW, username, "leave")


def changed(room: Room, head: int) -> MembershipChanged:
    return MembershipChanged(room, "join", room.epoch, 1, head, 0, 0, "member")


def read(username: str, seq: int) -> Read:
    return Read("lobby", username, seq, 0, 0, seq)


def reply(head: int, *events: Durable, recovered: bool = False, epoch: str = "e") -> JoinReply:
    return JoinReply(LOBBY, "member", epoch, 1, head, 0, 0, recovered, events)


@pytest.fixture
def ada() -> Follower:
    """In the lobby, at seq 3."""
    ada = Follower()
    ada.username = "ada"
    ada.joined(Join("lobby"), reply(3))
    return ada


def taken(ada: Follower) -> Sequence[Event | Notice]:
    seen = []
    while (event := ada.take()) is not None:
        seen.append(event)
    return seen


def hear(ada: Follower, *events: Event | Other) -> None:
    for event in events:
        ada.hear(event)


def test_each_event_is_given_once_and_in_order(ada: Follower) -> None:
    hear(ada, said(3), said(4), said(4), Other("lobby", 5), said(6), said(5))
    hear(ada, Message("elsewhere", 1, "bob", NOW, "not joined"))
    assert [said(4), said(6)] == taken(ada)
    assert ada.again(()) == []


def test_a_hole_is_asked_for_once_and_then_is_a_defect(ada: Follower) -> None:
    hear(ada, said(4), said(6), said(7))
    again = Join("lobby", Since("e", 4))
    assert [again] == ada.again(())
    assert ada.again(()) == []
    hear(ada, said(8))  # before the reply
    ada.joined_again(again, reply(8, said(5), said(6), recovered=True))
    hear(ada, said(7), said(8))
    assert [said(number) for number in range(4, 9)] == taken(ada)

    hear(ada, said(10))
    (again,) = ada.again(())
    ada.joined_again(again, reply(10, recovered=True))
    with pytest.raises(Internal, match="lobby has a hole after 8"):
        hear(ada, said(10))


def test_what_has_no_room_is_asked_for_when_there_is(
    ada: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "EVENTS_MOST", 2)
    tea = Room("tea")
    hear(ada, said(4), said(5), said(6), Presence("lobby", 2, ["bob"], ["eve"]))
    hear(ada, changed(LOBBY, 4), changed(tea, 5), changed(LOBBY, 6))
    hear(ada, Presence("lobby", 3, ["eve", "kim"], []), Presence("lobby", 2, [], ["bob"]))
    assert [
        *(said(4), said(5), changed(LOBBY, 6), changed(tea, 5)),
        Presence("lobby", 2, ["eve", "kim"], ["bob"]),
    ] == taken(ada)
    assert [Join("lobby", Since("e", 5))] == ada.again(())


def test_of_a_crowd_the_last_that_was_told_counts(
    ada: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "EVENTS_MOST", 0)
    for told, expected in (
        ([Presence("lobby", 201), Presence("lobby", 202, ["bob"], [])], Presence("lobby", 202)),
        ([Presence("lobby", 3, ["bob"], []), Presence("lobby", 201)], Presence("lobby", 201)),
        ([Presence("lobby", 201), whole := Presence("lobby", 1, ["ada"], [])], whole),
    ):
        hear(ada, *told)
        assert [expected] == taken(ada)


OUT = [("leave", None), ("ban", None), ("invite", "invited")]


@pytest.mark.parametrize(("change", "role"), OUT)
def test_a_room_that_is_behind_is_not_joined_again_for_who_is_out_of_it(
    ada: Follower, change: str, role: str | None
) -> None:
    """They left on another connection, say; and who is invited is asked, not taken."""
    out = MembershipChanged(LOBBY, change, "e", 1, 7, 0, 0, role)
    hear(ada, said(6), out)
    assert ada.again(()) == []
    seen = taken(ada)
    assert seen[0] == out
    assert isinstance(seen[1], Lost)
    hear(ada, said(7))
    assert taken(ada) == []


def test_nor_where_it_falls_behind_once_they_are_out(
    ada: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To a slow link the membership is told before what is left of the log."""
    monkeypatch.setattr(follower, "EVENTS_MOST", 2)
    hear(ada, MembershipChanged(LOBBY, "leave", "e", 1, 9, 0, 0), said(4), said(5), said(6))
    assert ada.again(()) == []
    assert isinstance(taken(ada)[-1], Lost)
    ada.joined(Join("lobby"), reply(10))
    monkeypatch.setattr(follower, "EVENTS_MOST", 0)
    hear(ada, changed(LOBBY, 10), said(11))
    assert [Join("lobby", Since("e", 10))] == ada.again(())


def test_a_room_is_not_joined_again_while_a_leave_is_under_way(ada: Follower) -> None:
    hear(ada, said(6))
    assert ada.again([Leave("lobby")]) == []
    assert len(ada.again([Join("tea")])) == 1


def test_what_waits_of_a_room_that_is_joined_anew_does_not_come_twice(ada: Follower) -> None:
    hear(ada, said(4), Message("tea", 1, "bob", NOW, "no"), said(5), Presence("lobby", 1))
    ada.joined(Join("lobby", Since("e", 3)), reply(5, said(4), recovered=True))
    hear(ada, said(5))
    assert [Presence("lobby", 1), said(5)] == taken(ada)


def test_a_leave_is_followed_to_its_event_and_no_room_is_joined_again_for_it(
    ada: Follower,
) -> None:
    ada.left("lobby")
    hear(ada, said(4), left(5, "bob"), left(6), said(7))
    assert [said(4), left(5, "bob"), left(6)] == taken(ada)
    for before in ((said(5),), ()):  # behind when it leaves, or from then on
        ada.joined(Join("lobby"), reply(3))
        hear(ada, *before)
        ada.left("lobby")
        hear(ada, said(6))
        assert ada.again(()) == []


def test_a_connection_goes_on_where_the_last_one_ended(ada: Follower) -> None:
    ada.joined(Join("tea"), JoinReply(Room("tea"), "member", "t", 1, 9, 0, 0, False, []))
    hear(ada, said(4))
    ada.part()
    ada.tell(Reconnecting("lost", 1.0))
    ada.tell(Reconnecting("still lost", 2.0))
    (again,) = ada.resume(["lobby"])
    assert again == Join("lobby", Since("e", 4))
    ada.joined_again(again, reply(6, said(5), recovered=True))
    hear(ada, said(6))
    seen = taken(ada)
    assert [said(4), Reconnecting("still lost", 2.0), Connected()] == seen[:3]
    assert isinstance(seen[3], Lost)
    assert (seen[3].room, type(seen[3].error)) == ("tea", NotMember)
    assert [Resumed("lobby", 2), said(5), said(6)] == seen[4:]


def test_of_read_markers_that_have_no_room_the_latest_are_told(
    ada: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    hear(ada, read("ada", 1))
    monkeypatch.setattr(follower, "EVENTS_MOST", 1)
    hear(ada, read("ada", 2), read("bob", 2), read("ada", 3))
    assert [read("ada", 1), read("ada", 3), read("bob", 2)] == taken(ada)


def test_connections_that_come_and_go_while_nobody_looks_are_told_as_one(ada: Follower) -> None:
    hear(ada, said(4))
    for number in range(100):
        ada.part()
        ada.tell(Reconnecting(f"lost {number}", 1.0))
        (again,) = ada.resume(["lobby"])
        ada.joined_again(again, reply(6, recovered=True))
    hear(ada, said(5))
    assert [
        *(said(4), Reconnecting("lost 99", 1.0), Connected(), Resumed("lobby", 2), said(5))
    ] == taken(ada)


def test_a_room_that_cannot_go_on_is_begun_anew_or_lost(ada: Follower) -> None:
    ada.part()
    anew = reply(20, said(20), epoch="another")
    (again,) = ada.resume(["lobby"])
    ada.joined_again(again, anew)
    hear(ada, said(4), said(21))
    assert [Connected(), Reset("lobby", anew), said(21)] == taken(ada)

    ada.part()
    (again,) = ada.resume(["lobby"])
    with pytest.raises(Unavailable):
        ada.joined_again(again, Unavailable("busy"))
    assert [again] == ada.again(())
    gone = Forbidden("banned")
    ada.joined_again(again, gone)
    assert [Connected(), Lost("lobby", gone)] == taken(ada)
    ada.joined_again(again, reply(30))
    assert taken(ada) == []
