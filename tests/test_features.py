"""Each feature can be switched off by the host, and with it nothing else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import pytest

from chatcore import Chat, Limits, MemoryRepository, Participant, Room, User, connect
from chatcore.commands import (
    Bans,
    Command,
    Create,
    Delete,
    Direct,
    Edit,
    MarkRead,
    Members,
    React,
    Report,
    Reports,
    Rooms,
    Search,
    Send,
    Typing,
    Update,
    Upon,
    Who,
)
from chatcore.errors import Forbidden, Unavailable
from chatcore.testing.drafts import THUMB

PASSWORD = "correct horse"

Feature: TypeAlias = tuple[Callable[[Command], bool], Callable[[Participant], Awaitable[object]]]
"""Which commands are of it, and how one of them is given."""

FEATURES: dict[str, Feature] = {
    "edits": (
        lambda command: isinstance(command, Edit),
        lambda peer: peer.edit("lobby", 4, "good day"),
    ),
    "deletions": (
        lambda command: isinstance(command, Delete),
        lambda peer: peer.delete("lobby", 4),
    ),
    "replies": (
        lambda command: isinstance(command, Send) and command.reply_to is not None,
        lambda peer: peer.send("lobby", "and to you", reply_to=4),
    ),
    "reactions": (
        lambda command: isinstance(command, React),
        lambda peer: peer.react("lobby", 4, THUMB),
    ),
    "typing": (
        lambda command: isinstance(command, Typing),
        lambda peer: peer.typing("lobby"),
    ),
    "rooms of two": (
        lambda command: isinstance(command, Direct),
        lambda peer: peer.direct("bob"),
    ),
    "reports": (
        lambda command: isinstance(command, Report),
        lambda peer: peer.report("lobby", 4, "spam"),
    ),
    "read markers": (
        lambda command: isinstance(command, MarkRead),
        lambda peer: peer.mark_read("lobby", 4),
    ),
    "who is there": (
        lambda command: isinstance(command, Who | Members),
        lambda peer: peer.who("lobby"),
    ),
    "search": (
        lambda command: isinstance(command, Search),
        lambda peer: peer.search("morning"),
    ),
    "private rooms": (
        lambda command: isinstance(command, Create) and command.kind == "private",
        lambda peer: peer.create("den", kind="private"),
    ),
    "changes of a room": (
        lambda command: isinstance(command, Update),
        lambda peer: peer.update("tea", topic="Green"),
    ),
    "lists for moderators": (
        lambda command: isinstance(command, Reports | Bans),
        lambda peer: peer.bans("tea"),
    ),
    "keeping order": (
        lambda command: isinstance(command, Upon),
        lambda peer: peer.invite("tea", "bob"),
    ),
}


@pytest.mark.parametrize("feature", FEATURES)
async def test_each_feature_can_be_switched_off(feature: str) -> None:
    """And with it nothing else: it is there where nobody refuses it."""
    is_of_it, attempt = FEATURES[feature]
    off = True

    class Without:
        def check(self, actor: User, command: Command, room: Room | None) -> None:
            if off and is_of_it(command):
                raise Forbidden("Not here")

    repository = MemoryRepository()
    async with Chat(repository, policy=Without(), bcrypt_cost=4) as chat:
        ada, bob = [await chat.register(name, PASSWORD) for name in ("ada", "bob")]
        await chat.create(ada, "tea")
        for user in (ada, bob):
            await chat.join(user, "lobby")
        async with connect(chat, ada) as peer:
            await peer.join("lobby")
            for text in ("good morning", "good evening"):
                await peer.send("lobby", text)
            before = repository.head("lobby", 99), repository.head("tea", 99)
            with pytest.raises(Forbidden, match="Not here"):
                await attempt(peer)
            assert before == (repository.head("lobby", 99), repository.head("tea", 99))
            assert [room.name for room in (await peer.rooms()).rooms] == ["lobby", "tea"]
            off = False
            await attempt(peer)


async def test_what_a_host_shows_of_its_rooms_is_its_own_business() -> None:
    class Secretive:
        def check(self, actor: User, command: Command, room: Room | None) -> None:
            if isinstance(command, Rooms):
                raise Forbidden("Not here")
            if isinstance(command, Search) and room is not None and room.name == "tea":
                raise Unavailable("Not now")

    async with Chat(MemoryRepository(), policy=Secretive(), bcrypt_cost=4) as chat:
        ada = await chat.register("ada", PASSWORD)
        await chat.create(ada, "tea")
        await chat.join(ada, "lobby")
        for room in ("lobby", "tea"):
            await chat.send(ada, room, "good morning")
        with pytest.raises(Forbidden, match="Not here"):
            await chat.rooms(ada)
        assert [each.room for each in (await chat.search(ada, "morning")).messages] == ["lobby"]


async def test_mentions_can_be_switched_off() -> None:
    async with Chat(MemoryRepository(), limits=Limits(mentions=0), bcrypt_cost=4) as chat:
        ada, bob = [await chat.register(name, PASSWORD) for name in ("ada", "bob")]
        for user in (ada, bob):
            await chat.join(user, "lobby")
        sent = await chat.send(ada, "lobby", "@bob")
        await chat.edit(ada, "lobby", sent.seq, "@bob, @ada")
        (message,) = (await chat.history(bob, "lobby")).messages
        assert (message.content, message.mentions) == ("@bob, @ada", ())
        (membership,) = await chat.memberships(bob)
        assert (membership.unread, membership.unread_mentions) == (1, 0)
