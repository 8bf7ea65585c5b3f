"""Who is connected, how many of whom, and a way to end them."""

from __future__ import annotations

import asyncio

import pytest

from chatcore.errors import RateLimited
from chatcore.events import Close
from chatcore.model import Limits, User
from chatcore.roster import Roster

ADA, BOB = User("ada", "Ada"), User("bob", "Bob")


class Connection:
    """What the roster has to know of one."""

    def __init__(self, peer: str = "") -> None:
        self.peer = peer
        self.user: User | None = None
        self.digest: bytes | None = None
        self.ended: list[tuple[Close, str, float | None]] = []

    def end(self, code: Close, reason: str, retry_after: float | None = None) -> None:
        self.ended.append((code, reason, retry_after))


def test_an_address_may_have_so_many() -> None:
    roster = Roster(Limits(address_connections=2))
    first, second, third = (Connection("192.0.2.1") for _ in range(3))
    roster.add(first)
    roster.add(second)
    with pytest.raises(RateLimited, match="2 connections"):
        roster.add(third)
    assert len(roster) == 2
    roster.add(Connection("192.0.2.2"))
    roster.remove(first)
    roster.add(third)


def test_who_has_no_address_is_not_counted() -> None:
    roster = Roster(Limits(address_connections=1))
    for _ in range(5):
        roster.add(Connection())
    assert len(roster) == 5


def test_a_user_may_have_so_many() -> None:
    roster = Roster(Limits(user_connections=2))
    connections = [Connection() for _ in range(4)]
    for connection in connections:
        roster.add(connection)
    roster.identify(connections[0], ADA)
    roster.identify(connections[1], ADA)
    with pytest.raises(RateLimited, match="2 connections"):
        roster.identify(connections[2], ADA)
    assert connections[2].user is None
    roster.identify(connections[2], BOB)
    roster.remove(connections[0])
    roster.identify(connections[3], ADA)


def test_no_limit_is_none() -> None:
    roster = Roster(Limits.none())
    for _ in range(300):
        connection = Connection("192.0.2.1")
        roster.add(connection)
        roster.identify(connection, ADA)
    assert len(roster) == 300


def test_those_whom_a_predicate_picks_are_ended_and_stay_until_they_go() -> None:
    roster = Roster(Limits())
    connections = [Connection() for _ in range(3)]
    for connection in connections:
        roster.add(connection)
    roster.identify(connections[1], ADA)
    roster.end(lambda each: each.user == ADA, Close.REVOKED, "logged out")
    assert [each.ended for each in connections] == [[], [(Close.REVOKED, "logged out", None)], []]
    assert len(roster) == 3


def test_each_one_ended_gets_the_next_delay() -> None:
    roster = Roster(Limits())
    connections = [Connection() for _ in range(3)]
    for connection in connections:
        roster.add(connection)
    roster.end(lambda _: True, Close.SHUTDOWN, "shutdown", iter([0.5, 0.7, 0.9, 1.1]))
    expected = [[(Close.SHUTDOWN, "shutdown", delay)] for delay in (0.5, 0.7, 0.9)]
    assert expected == [each.ended for each in connections]


def test_a_connection_may_go_while_others_are_being_ended() -> None:
    roster = Roster(Limits())

    class Hasty(Connection):
        def end(self, code: Close, reason: str, retry_after: float | None = None) -> None:
            roster.remove(self)

    for _ in range(3):
        roster.add(Hasty())
    roster.end(lambda _: True, Close.SHUTDOWN, "shutdown")
    assert len(roster) == 0


async def test_it_is_empty_once_the_last_one_has_gone() -> None:
    roster = Roster(Limits())
    await roster.emptied()
    first, second = Connection(), Connection()
    roster.add(first)
    roster.add(second)
    emptied = asyncio.ensure_future(roster.emptied())
    roster.remove(first)
    await asyncio.sleep(0)
    assert not emptied.done()
    roster.remove(second)
    await emptied
