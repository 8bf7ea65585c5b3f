"""Who is online and who is typing, as others are told of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from chatcore import Chat, Credentials, MemoryRepository, Rate, User
from chatcore import connect as take_part
from chatcore.commands import Command
from chatcore.errors import Banned, Forbidden, NotFound, NotMember, RateLimited
from chatcore.events import Typing
from chatcore.model import Limits, Room
from chatcore.testing import MemoryLink, Transcript, connect, eventually

PATIENT = Limits(offline_seconds=600)
HASTY = Limits(offline_seconds=0.05)


@asynccontextmanager
async def chatting(limits: Limits, *names: str) -> AsyncIterator[tuple[Chat, list[User]]]:
    async with Chat(MemoryRepository(), limits=limits, bcrypt_cost=4) as chat:
        users = [await chat.introduce(User(name, name)) for name in names]
        for user in users:
            await chat.join(user, "lobby")
        yield chat, users


@asynccontextmanager
async def present(chat: Chat, user: User) -> AsyncIterator[tuple[Transcript, MemoryLink]]:
    async with connect(chat, Credentials(user=user)) as (peer, link):
        await peer.do("join", room="lobby")
        yield peer, link


async def heard(peer: Transcript, name: str) -> dict[str, Any]:
    """Return the first presence event that names somebody."""
    while True:
        event = await peer.event("presence")
        if name in [*event["online"], *event["offline"]]:
            return event


# Online.


async def test_who_comes_back_soon_was_never_away() -> None:
    async with (
        chatting(PATIENT, "ada", "bob", "cyd") as (chat, (ada, bob, cyd)),
        present(chat, bob) as (peer, _),
    ):
        async with present(chat, ada):
            await heard(peer, "ada")
        assert (await chat.who(bob, "lobby")).online == ["ada", "bob"]
        async with present(chat, ada), present(chat, cyd):
            event = await peer.event("presence")
            assert (event["online"], event["offline"], event["count"]) == (["cyd"], [], 3)


async def test_who_does_not_is_told_of() -> None:
    async with (
        chatting(HASTY, "ada", "bob") as (chat, (ada, bob)),
        present(chat, bob) as (peer, _),
    ):
        async with present(chat, ada), present(chat, ada):
            await heard(peer, "ada")
        event = await heard(peer, "ada")
        assert (event["online"], event["offline"], event["count"]) == ([], ["ada"], 1)


async def test_the_last_one_is_gone_too_though_nobody_hears_of_it() -> None:
    async with chatting(HASTY, "ada") as (chat, (ada,)):
        async with present(chat, ada):
            assert (await chat.who(ada, "lobby")).count == 1
        await eventually(lambda: not chat._presence.online("lobby"))  # noqa: SLF001 - who awaits


@pytest.mark.parametrize("how", ["leave", "logout", "disable", "delete"])
async def test_who_does_not_mean_to_come_back_is_gone_at_once(how: str) -> None:
    async with (
        chatting(PATIENT, "ada", "bob") as (chat, (ada, bob)),
        present(chat, bob) as (peer, _),
        present(chat, ada) as (leaving, link),
    ):
        async with present(chat, ada):
            await heard(peer, "ada")
        match how:
            case "disable":
                await chat.disable(ada)
            case "delete":
                await chat.delete_account(ada)
            case _:
                await leaving.do(how, **({"room": "lobby"} if how == "leave" else {}))
        assert (await heard(peer, "ada"))["offline"] == ["ada"]
        link.hang_up()


async def test_who_leaves_the_room_from_elsewhere_lingers_no_more() -> None:
    async with (
        chatting(PATIENT, "ada", "bob") as (chat, (ada, bob)),
        present(chat, bob) as (peer, _),
    ):
        async with present(chat, ada):
            await heard(peer, "ada")
        await chat.leave(ada, "lobby")
        assert (await heard(peer, "ada"))["offline"] == ["ada"]


# Typing.


async def test_the_others_hear_who_is_typing() -> None:
    async with chatting(Limits(), "ada", "bob", "cyd") as (chat, (ada, bob, cyd)):
        async with (
            present(chat, ada) as (one, _),
            present(chat, ada) as (other, _),
            present(chat, bob) as (near, _),
            connect(chat, Credentials(user=cyd)) as (far, _),
        ):
            assert await one.do("typing", room="#Lobby") == {"reply": "typing", "id": 2}
            assert await near.event("typing") == {
                "event": "typing",
                "room": "lobby",
                "username": "ada",
            }
            for peer in (one, other, far):
                await peer.do("ping")
                assert [each for each in peer.events if each["event"] == "typing"] == []
        assert (await chat.history(ada, "lobby")).head == 3, "nothing is kept of it"


async def test_only_a_member_is_typing() -> None:
    async with chatting(Limits(typing=None), "ada", "bob") as (chat, (ada, bob)):
        await chat.create(ada, "den", kind="private")
        await chat.leave(ada, "lobby")
        with pytest.raises(NotMember):
            await chat.typing(ada, "lobby")
        for room in ("den", "nowhere"):
            with pytest.raises(NotFound):
                await chat.typing(bob, room)
        await chat.typing(ada, "den")


@pytest.mark.parametrize("action", ["kick", "ban"])
async def test_who_is_removed_is_gone_and_types_no_more(action: str) -> None:
    limits = Limits(typing=None, offline_seconds=600)
    async with chatting(limits, "ada", "bob") as (chat, (ada, bob)):
        await chat.create(ada, "den")
        async with take_part(chat, ada) as hers:
            await hers.join("den")
            async with take_part(chat, bob) as his:
                await his.join("den")
            assert [*(await hers.who("den")).online] == ["ada", "bob"], "who may be back"
            await (hers.kick if action == "kick" else hers.ban)("den", "bob")
            assert [*(await hers.who("den")).online] == ["ada"]
            with pytest.raises(NotMember if action == "kick" else Banned):
                await chat.typing(bob, "den")


async def test_it_is_told_no_more_once_a_leave_was_answered() -> None:
    """However the two overtake one another: what is read before may be told after."""
    limits = Limits(typing=None, messages=None)
    async with (
        chatting(limits, "ada", "bob") as (chat, (ada, bob)),
        present(chat, bob) as (peer, _),
    ):
        for _ in range(50):
            await peer.do("ping")
            peer.events.clear()
            typing = [asyncio.create_task(chat.typing(ada, "lobby")) for _ in range(3)]
            await chat.leave(ada, "lobby")
            await asyncio.gather(*typing, return_exceptions=True)
            await peer.do("ping")
            events = [event["event"] for event in peer.events]
            gone = events.index("member")
            assert "typing" not in events[gone:]
            await chat.join(ada, "lobby")


async def test_a_host_may_have_nobody_told_who_is_there() -> None:
    async with (
        chatting(Limits(presence=False, offline_seconds=0), "ada", "bob") as (chat, (ada, bob)),
        present(chat, ada) as (peer, _),
    ):
        async with take_part(chat, bob) as his:
            await his.join("lobby")
            assert [*(await his.who("lobby")).online] == ["ada", "bob"]
            await chat.send(bob, "lobby", "hello")
        await eventually(lambda: chat.hub._telling is None)  # noqa: SLF001 - it was time to tell
        await peer.do("ping")
        assert "message" in [event["event"] for event in peer.events]
        assert "presence" not in [event["event"] for event in peer.events]


async def test_it_cannot_flood() -> None:
    async with chatting(Limits(typing=Rate(0.001, 3)), "ada", "bob") as (chat, (ada, bob)):
        for _ in range(3):
            await chat.typing(ada, "lobby")
        with pytest.raises(RateLimited) as limited:
            await chat.typing(ada, "lobby")
        assert limited.value.retry_after == pytest.approx(1000, rel=0.01)
        await chat.typing(bob, "lobby")


async def test_a_crowd_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatcore.presence.NAMED", 1)
    async with (
        chatting(Limits(), "ada", "bob") as (chat, (ada, bob)),
        present(chat, bob) as (peer, _),
    ):
        await chat.typing(ada, "lobby")
        assert (await peer.event("typing"))["username"] == "ada"
        async with present(chat, ada) as (own, _):
            assert (await own.do("typing", room="lobby"))["reply"] == "typing"
            await peer.do("ping")
            assert [each for each in peer.events if each["event"] == "typing"] == []


async def test_who_reads_slowly_misses_it() -> None:
    limits = Limits(messages=None, typing=None, buffer_bytes=1_000)
    async with (
        chatting(limits, "ada", "bob") as (chat, (ada, bob)),
        connect(chat, Credentials(user=bob), window=1_000) as (slow, _),
    ):
        await slow.do("join", room="lobby")
        for number in range(20):
            await chat.send(ada, "lobby", f"{number}" * 300)
            await chat.typing(ada, "lobby")
        assert [text[:2] for text in await slow.messages(20)][-1] == "19"
        seen = [each["event"] for each in slow.events]
        assert "typing" not in seen
        await slow.do("ping")
        await chat.typing(ada, "lobby")
        await slow.event("typing")


async def test_a_policy_may_refuse_it() -> None:
    class Quiet:
        def check(self, actor: User, command: Command, room: Room | None) -> None:
            if type(command).__name__ == "Typing":
                raise Forbidden("Nobody types here")

    async with Chat(MemoryRepository(), policy=Quiet(), bcrypt_cost=4) as chat:
        ada = await chat.introduce(User("ada", "Ada"))
        await chat.join(ada, "lobby")
        with pytest.raises(Forbidden):
            await chat.typing(ada, "lobby")


async def test_a_participant_types_and_hears_it() -> None:
    async with (
        chatting(Limits(), "ada", "bob") as (chat, (ada, bob)),
        take_part(chat, ada) as one,
        take_part(chat, bob) as other,
    ):
        await other.join("lobby")
        await one.typing("lobby")
        async for event in other:
            if isinstance(event, Typing):
                assert event == Typing("lobby", "ada")
                break
