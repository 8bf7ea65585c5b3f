"""Taking part without a network: from a coroutine, and through a portal."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chatcore import Chat, MemoryRepository, SqliteRepository, User
from chatcore import peer as peer_module
from chatcore.errors import Forbidden, NotMember, RateLimited, SchemaError, Unavailable
from chatcore.events import (
    Delete,
    Edit,
    Event,
    Lost,
    Member,
    MembershipChanged,
    Message,
    Notice,
    Presence,
    Reset,
)
from chatcore.follower import EVENTS_HELD, EVENTS_MOST
from chatcore.model import Limits, Rate
from chatcore.peer import Peer, connect
from chatcore.portal import portal
from chatcore.testing import FaultyRepository, Refusal, failing

PASSWORD = "correct horse"
NO_RATES = Limits(messages=None)


@pytest.fixture
async def chat() -> AsyncIterator[Chat]:
    async with Chat(MemoryRepository(), limits=NO_RATES, bcrypt_cost=4) as chat:
        yield chat


async def next_message(peer: Peer) -> Message:
    async for event in peer:
        if isinstance(event, Message):
            return event
    raise AssertionError("the connection ended")


def held(peer: Peer) -> int:
    return len(peer._follower._waiting)  # noqa: SLF001 - memory is what is tested


async def test_two_take_part(chat: Chat) -> None:
    ada, bob = await chat.register("Ada", PASSWORD), await chat.register("bob", PASSWORD)
    async with connect(chat, ada) as first, connect(chat, bob) as second:
        assert first.user == ada
        with pytest.raises(NotMember, match="You must join the chat first"):
            await first.send("lobby", "anyone?")
        joined = await first.join("lobby")
        assert (joined.head, joined.recovered, list(joined.events)) == (1, False, [])
        assert (await second.join("lobby")).head == 2
        sent = await first.send("lobby", "hi, bob", txn_id="a1")
        heard = await next_message(second)
        assert (heard.seq, heard.sender, heard.content) == (sent.seq, "ada", "hi, bob")
        assert heard.timestamp == sent.timestamp
        assert (await first.send("lobby", "hi, bob", txn_id="a1")).duplicate
        assert list((await second.history("lobby")).messages) == [heard]
        edited = await first.edit("lobby", sent.seq, "hi, Bob", txn_id="a2")
        assert (edited.seq, edited.duplicate) == (sent.seq + 1, False)
        assert (await first.edit("lobby", sent.seq, "hi, Bob", txn_id="a2")).duplicate
        (now,) = (await second.history("lobby")).messages
        assert (now.content, now.edited) == ("hi, Bob", edited.timestamp)
        with pytest.raises(Forbidden, match="Only who sent a message may edit it"):
            await second.edit("lobby", sent.seq, "hi, me")
        assert (await first.delete("lobby", sent.seq, reason="done")).seq == edited.seq + 1
        (now,) = (await second.history("lobby")).messages
        assert (now.content, now.edited, now.erased) == ("", None, True)
        kept = await first.send("lobby", "Tea?")
        (found,) = (await second.search('"TEA" from:ada', room="lobby")).messages
        assert (found.seq, found.content, found.head) == (kept.seq, "Tea?", kept.seq)
        assert list((await first.who("lobby")).online) == ["ada", "bob"]
        assert [m.username for m in (await first.members("lobby")).members] == ["ada", "bob"]
        assert (await second.create("den", title="The den")).title == "The den"
        assert [room.name for room in (await first.rooms()).rooms] == ["den", "lobby"]
        await second.leave("lobby")
        await first.ping()


async def test_a_hosts_own_user_takes_part_at_once(chat: Chat) -> None:
    async with connect(chat, User("Ada", "Ada Lovelace")) as peer:
        assert peer.user == User("ada", "Ada Lovelace")
        await peer.join("lobby")
        assert (await peer.members("lobby")).members[0].display_name == "Ada Lovelace"


async def test_every_kind_of_event_is_an_object(chat: Chat) -> None:
    ada, bob = await chat.register("ada", PASSWORD), await chat.register("bob", PASSWORD)
    async with connect(chat, ada) as peer:
        await peer.join("lobby")
        await chat.join(bob, "lobby")
        said = await chat.send(bob, "lobby", "hello")
        await chat.edit(bob, "lobby", said.seq, "hello, ada")
        await chat.delete(bob, "lobby", said.seq)
        kinds: set[type[Event | Notice]] = set()
        async for event in peer:
            kinds.add(type(event))
            if kinds == {Delete, Edit, Member, MembershipChanged, Message, Presence}:
                break


async def test_what_was_said_ahead_commits_in_the_order_of_the_calls(chat: Chat) -> None:
    ada = await chat.register("ada", PASSWORD)
    async with connect(chat, ada) as peer:
        await peer.join("lobby")
        replies = await asyncio.gather(*(peer.send("lobby", str(n)) for n in range(200)))
        assert [reply.seq for reply in replies] == [*range(2, 202)]


async def test_rates_hold_for_it_as_for_anyone() -> None:
    limits = Limits(messages=Rate(0.001, 1))
    async with Chat(MemoryRepository(), limits=limits, bcrypt_cost=4) as chat:
        ada = await chat.register("ada", PASSWORD)
        async with connect(chat, ada) as peer:
            await peer.join("lobby")
            await peer.send("lobby", "one")
            with pytest.raises(RateLimited) as refused:
                await peer.send("lobby", "two")
            assert refused.value.retry_after is not None
            assert refused.value.retry_after > 1


async def test_one_that_takes_no_events_is_a_slow_reader_and_misses_nothing(chat: Chat) -> None:
    ada, bob = await chat.register("ada", PASSWORD), await chat.register("bob", PASSWORD)
    async with connect(chat, bob) as slow:
        await slow.join("lobby")
        await chat.join(ada, "lobby")
        count = 3_000
        for number in range(count):
            await chat.send(ada, "lobby", f"{number} ".ljust(200, "x"))
        assert held(slow) <= EVENTS_HELD
        reply = await slow.send("lobby", "a reply does not wait for events to be taken")
        assert reply.seq == count + 3
        seen = [(await next_message(slow)).seq for _ in range(count + 1)]
        assert seen == [*range(3, count + 4)]


async def test_one_that_sends_and_takes_no_events_holds_a_few_and_misses_nothing(
    chat: Chat,
) -> None:
    ada = await chat.register("ada", PASSWORD)
    async with connect(chat, ada) as peer:
        head = (await peer.join("lobby")).head
        count = EVENTS_MOST * 2
        sends = [await peer.send("lobby", str(n)) for n in range(count)]
        assert held(peer) <= EVENTS_MOST
        assert [reply.seq for reply in sends] == [*range(head + 1, head + 1 + count)]
        taken = [(await next_message(peer)).content for _ in range(count)]
        assert taken == [str(n) for n in range(count)]
        await peer.send("lobby", "live again")
        assert (await next_message(peer)).content == "live again"


async def test_one_that_comes_too_late_is_told_to_begin_anew() -> None:
    limits = Limits(messages=None, resume=100)
    async with Chat(MemoryRepository(), limits=limits, bcrypt_cost=4) as chat:
        ada = await chat.register("ada", PASSWORD)
        async with connect(chat, ada) as peer:
            await peer.join("lobby")
            sends = [await peer.send("lobby", str(n)) for n in range(EVENTS_MOST + 200)]
            last = sends[-1]
            seen: list[Event | Notice] = []
            async for event in peer:
                seen.append(event)
                if isinstance(event, Reset):
                    break
            assert isinstance(event, Reset)
            assert (event.joined.head, event.joined.events[-1].seq) == (last.seq, last.seq)
            await peer.send("lobby", "from here on")
            assert (await next_message(peer)).seq == last.seq + 1


async def test_taking_events_after_a_leave_does_not_undo_it(chat: Chat) -> None:
    ada, bob = await chat.register("ada", PASSWORD), await chat.register("bob", PASSWORD)
    async with connect(chat, ada) as peer:
        await peer.join("lobby")
        await chat.join(bob, "lobby")
        for number in range(EVENTS_MOST + 10):
            await chat.send(bob, "lobby", str(number))
            if number % 10 == 0:
                await peer.ping()  # which reads past the events
        leaving = asyncio.ensure_future(peer.leave("lobby"))
        taking = asyncio.ensure_future(_collect(peer))
        await leaving
        await peer.ping()
        assert [member.username for member in (await chat.members(bob, "lobby")).members] == ["bob"]
    assert all(event.seq <= EVENTS_MOST for event in await taking if isinstance(event, Message))


async def test_who_left_on_another_connection_is_not_made_a_member_again(chat: Chat) -> None:
    ada = await chat.register("ada", PASSWORD)
    async with connect(chat, ada) as peer, connect(chat, ada) as other:
        await peer.join("lobby")
        for number in range(EVENTS_MOST + 50):
            await peer.send("lobby", str(number))
        await other.leave("lobby")
        await peer.ping()
        async for event in peer:
            if isinstance(event, Lost):
                break
        assert list((await peer.members("lobby")).members) == []


async def test_a_room_that_cannot_be_joined_again_now_is_joined_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peer_module, "RETRY_SECONDS", 0.01)
    unavailable = Refusal(Unavailable("The server's database did not answer; try again"))
    repository = FaultyRepository(MemoryRepository())
    async with Chat(repository, limits=NO_RATES, bcrypt_cost=4) as chat:
        ada = await chat.register("ada", PASSWORD)
        async with connect(chat, ada) as peer:
            await peer.join("lobby")
            count = EVENTS_MOST + 100
            for number in range(count):
                await peer.send("lobby", str(number))
            before = repository.calls["membership"]
            repository.scripts.append(failing("membership", unavailable, times=2))
            taken = [(await next_message(peer)).content for _ in range(count)]
            assert taken == [str(n) for n in range(count)]
    assert repository.calls["membership"] > before + 2


async def test_the_end_is_told_to_all_who_wait(chat: Chat) -> None:
    ada = await chat.register("ada", PASSWORD)
    async with connect(chat, ada) as peer:
        await peer.join("lobby")
        waiting = asyncio.ensure_future(_collect(peer))
        await chat.close()
        assert all(not isinstance(event, Message) for event in await waiting)
        assert peer.bye is not None
        assert (peer.bye.code, peer.bye.reconnect) == (4001, True)
        with pytest.raises(Unavailable, match="The connection has ended: shutdown"):
            await peer.send("lobby", "too late")


async def _collect(peer: Peer) -> list[Event | Notice]:
    return [event async for event in peer]


async def test_leaving_the_block_hangs_up(chat: Chat) -> None:
    ada = await chat.register("ada", PASSWORD)
    async with connect(chat, ada) as peer:
        await peer.join("lobby")
        assert len(chat.roster) == 1
    assert len(chat.roster) == 0
    with pytest.raises(Unavailable):
        await peer.ping()


# Through a portal.


def test_a_script_takes_part(tmp_path: Path) -> None:
    chat = Chat(SqliteRepository(tmp_path / "chat.db"), bcrypt_cost=4)
    with portal(chat) as door:
        ada = door.call(chat.register, "ada", PASSWORD)
        with door.connect(ada) as peer:
            door.call(peer.join, "lobby")
            sent = door.call(peer.send, "lobby", "from a script", txn_id="s1")
            events = door.events(peer)
            message = next(event for event in events if isinstance(event, Message))
            assert (message.seq, message.content) == (sent.seq, "from a script")
            assert [type(event) for event in door.events(peer, timeout=0.3)] == [Presence]
        page = door.call(chat.history, ada, "lobby")
        assert [message.content for message in page.messages] == ["from a script"]
        bob = door.call(chat.register, "bob", PASSWORD)
        with pytest.raises(NotMember):
            door.call(chat.send, bob, "lobby", "not a member")
    assert threading.active_count() == 1


def test_many_threads_share_a_portal(tmp_path: Path) -> None:
    chat = Chat(SqliteRepository(tmp_path / "chat.db"), limits=NO_RATES, bcrypt_cost=4)
    with portal(chat) as door:
        ada = door.call(chat.register, "ada", PASSWORD)
        door.call(chat.join, ada, "lobby")

        def view(number: int) -> None:
            for each in range(20):
                door.call(chat.send, ada, "lobby", f"{number}:{each}")

        threads = [threading.Thread(target=view, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        page = door.call(chat.history, ada, "lobby", limit=200)
        texts = [message.content for message in page.messages]
        assert len(texts) == 160
        for number in range(8):
            mine = [text for text in texts if text.startswith(f"{number}:")]
            assert mine == [f"{number}:{each}" for each in range(20)]


def test_what_fails_is_raised_where_it_was_asked(tmp_path: Path) -> None:
    (tmp_path / "chat.db").write_text("no database" * 1_000)
    with (
        pytest.raises(SchemaError, match="Cannot open the database"),
        portal(Chat(SqliteRepository(tmp_path / "chat.db"))),
    ):
        pass
    assert threading.active_count() == 1


def test_on_the_loops_own_thread_it_refuses() -> None:
    chat = Chat(MemoryRepository(), bcrypt_cost=4)
    with portal(chat) as door:

        async def misuse() -> None:
            door.call(chat.register, "ada", PASSWORD)

        with pytest.raises(RuntimeError, match="for other threads"):
            door.call(misuse)
