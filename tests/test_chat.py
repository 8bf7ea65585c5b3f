"""Chat from a host's own code: accounts, pages, observers, policies."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from chatcore import Chat, ChatError, MemoryRepository, Since, SqliteRepository, User
from chatcore.commands import Command, Delete, Edit, Send
from chatcore.errors import (
    BadCredentials,
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    NotMember,
    RateLimited,
    SchemaError,
    TooLarge,
    TxnConflict,
)
from chatcore.events import Durable, Message
from chatcore.model import MAX_FRAME, Credentials, Limits, Rate, Room
from chatcore.testing import FakeClock, connect, eventually

PASSWORD = "correct horse"
NO_RATES = Limits(messages=None)


@pytest.fixture
async def chat() -> AsyncIterator[Chat]:
    async with Chat(MemoryRepository(), limits=NO_RATES, bcrypt_cost=4) as chat:
        yield chat


@pytest.mark.parametrize(
    ("typed", "username", "display_name"),
    [
        ("Ada", "ada", "Ada"),
        ("Zo\u0308e", "zöe", "Zöe"),
        ("\u039dick", "νick", "νick"),  # a Greek capital Nu would show as Nick
    ],
)
async def test_a_name_is_shown_as_typed_where_that_is_what_it_is(
    chat: Chat, typed: str, username: str, display_name: str
) -> None:
    assert await chat.register(typed, PASSWORD) == User(username, display_name)
    assert await chat.login(username, PASSWORD) == User(username, display_name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a b",
        "x" * 51,
        "admin",
        "moderat0r",
        "\u0430dmin",
        "Everyone",
        "a/b",
        "a@b",
        "#a",
        "\u202eabc",
        "...",
    ],
)
async def test_names_that_nobody_can_have(chat: Chat, name: str) -> None:
    with pytest.raises(Invalid):
        await chat.register(name, PASSWORD)


async def test_one_name_one_account_however_it_is_written(chat: Chat) -> None:
    await chat.register("ada", PASSWORD)
    for other in ("ADA", "\uff21\uff24\uff21", "\u0430da"):
        with pytest.raises(Conflict, match="Username already exists"):
            await chat.register(other, PASSWORD)
    assert await chat.login("ADA", PASSWORD) == User("ada", "ada")
    for name, password in [("ada", "wrong horse"), ("nobody", PASSWORD), ("a b", PASSWORD)]:
        with pytest.raises(BadCredentials, match="Invalid username or password"):
            await chat.login(name, password)


async def test_two_at_once_cannot_have_one_name(chat: Chat) -> None:
    both = await asyncio.gather(
        chat.register("ada", PASSWORD), chat.register("ADA", PASSWORD), return_exceptions=True
    )
    assert {type(each) for each in both} == {User, Conflict}


async def test_a_hosts_own_user_is_introduced_as_often_as_one_likes(chat: Chat) -> None:
    with pytest.raises(NotFound, match="There is no such user"):
        await chat.join(User("ada", "Ada"), "lobby")
    for _ in range(2):
        assert await chat.introduce(User("ADA", " Ada Lovelace ")) == User("ada", "Ada Lovelace")
    await chat.join(User("ada", "Ada"), "lobby")
    with pytest.raises(BadCredentials):
        await chat.login("ada", PASSWORD)
    with pytest.raises(Conflict, match="already exists"):
        await chat.register("ada", PASSWORD)
    with pytest.raises(Conflict, match="looks like another's"):
        await chat.introduce(User("\u0430da", "Ada"))
    with pytest.raises(Invalid):
        await chat.introduce(User("a b", "Ada"))


async def test_around_has_its_message_in_the_middle(chat: Chat) -> None:
    ada = await chat.register("ada", PASSWORD)
    await chat.join(ada, "lobby")
    for number in range(2, 12):
        await chat.send(ada, "lobby", str(number))

    async def seqs(**edges: int) -> tuple[list[int], bool]:
        page = await chat.history(ada, "lobby", types=["message"], **edges)
        assert page.head == 11
        return [message.seq for message in page.messages], page.complete

    assert await seqs(around=6, limit=4) == ([4, 5, 6, 7], False)
    assert await seqs(around=6, limit=1) == ([6], False)
    assert await seqs(around=6, limit=100) == ([*range(2, 12)], True)
    assert await seqs(around=99, limit=2) == ([11], False)
    assert await seqs(before=4) == ([2, 3], True)
    assert await seqs(before=5, limit=2) == ([3, 4], False)
    assert await seqs(before=0) == ([], True)
    assert await seqs(after=9) == ([10, 11], True)
    assert await seqs(after=3, limit=2) == ([4, 5], False)
    assert await seqs(after=11) == ([], True)
    assert await seqs(limit=3) == ([9, 10, 11], False)


async def test_a_page_keeps_to_one_frame() -> None:
    limits = Limits(messages=None, content_chars=20_000, frame_bytes=200_000, history=100)
    async with (
        Chat(MemoryRepository(), limits=limits, bcrypt_cost=4) as chat,
        connect(chat, window=1 << 30) as (peer, link),
    ):
        ada = await chat.register("ada", PASSWORD)
        await peer.do("login", username="ada", password=PASSWORD)
        epoch = (await peer.do("join", room="lobby"))["epoch"]
        text = "\U0001f600" * 20_000  # 80,000 bytes
        for _ in range(20):
            await chat.send(ada, "lobby", text)
        for seq in range(2, 22):
            await chat.edit(ada, "lobby", seq, text)
        asked: list[tuple[str, dict[str, object]]] = [
            ("history", {}),
            ("history", {"after": 0}),
            ("join", {}),
            ("join", {"since": {"epoch": epoch, "seq": 0}}),
            ("join", {"since": {"epoch": epoch, "seq": 21}}),
        ]
        for cmd, fields in asked:
            peer.events.clear()
            link.frames.clear()
            id = await peer.start(cmd, room="lobby", **fields)
            await eventually(lambda: any(b'"reply"' in frame for frame in link.frames))
            assert all(len(frame) <= MAX_FRAME for frame in link.frames)
            answer = await peer.answer(id)
            page = answer["messages" if cmd == "history" else "events"]
            assert 10 <= len(page) < 20
            seqs = [event["seq"] for event in page]
            assert seqs == [*range(seqs[0], seqs[-1] + 1)]
            if fields:
                assert seqs[0] in (1, 2, 22), "what comes later to its reader is cut"
            else:
                assert seqs[-1] == 21
            assert answer.get("complete", False) is False


async def test_a_position_that_cannot_be_resumed_is_told(chat: Chat) -> None:
    ada = await chat.register("ada", PASSWORD)
    joined = await chat.join(ada, "lobby")
    for number in range(5):
        await chat.send(ada, "lobby", str(number))
    good = await chat.join(ada, "lobby", since=Since(joined.epoch, 3))
    assert good.recovered
    assert [event.seq for event in good.events] == [4, 5, 6]
    assert (await chat.join(ada, "lobby", since=Since(joined.epoch, 6))).recovered
    for since in (Since("another", 3), Since(joined.epoch, 7)):
        fresh = await chat.join(ada, "lobby", since=since, history=2)
        assert not fresh.recovered
        assert [event.seq for event in fresh.events] == [5, 6]
    short = Limits(messages=None, resume=2)
    async with Chat(MemoryRepository(), limits=short, bcrypt_cost=4) as other:
        bob = await other.register("bob", PASSWORD)
        epoch = (await other.join(bob, "lobby")).epoch
        for number in range(5):
            await other.send(bob, "lobby", str(number))
        assert (await other.join(bob, "lobby", since=Since(epoch, 4))).recovered
        assert not (await other.join(bob, "lobby", since=Since(epoch, 3))).recovered


async def test_private_rooms_are_not_there_for_others(chat: Chat) -> None:
    ada, bob = await chat.register("ada", PASSWORD), await chat.register("bob", PASSWORD)
    await chat.create(ada, "den", kind="private")
    for attempt in (
        chat.join(bob, "den"),
        chat.send(bob, "den", "hello?"),
        chat.edit(bob, "den", 1, "hello?"),
        chat.delete(bob, "den", 1),
        chat.leave(bob, "den"),
        chat.history(bob, "den"),
        chat.who(bob, "den"),
        chat.members(bob, "den"),
    ):
        with pytest.raises(NotFound, match="There is no such room"):
            await attempt
    assert [room.name for room in (await chat.rooms(bob)).rooms] == ["lobby"]
    assert [room.name for room in (await chat.rooms(ada)).rooms] == ["den", "lobby"]


async def test_no_refusal_tells_that_a_private_room_is_there() -> None:
    limits = Limits(messages=Rate(0.001, 4))
    async with Chat(MemoryRepository(), limits=limits, bcrypt_cost=4) as chat:
        ada, bob = await chat.register("ada", PASSWORD), await chat.register("bob", PASSWORD)
        cyd = await chat.register("cyd", PASSWORD)
        await chat.create(ada, "den", kind="private")
        asked: list[tuple[str, str | None]] = [(" ", None), ("x" * 5_000, None), ("x", None)]
        asked += [("x", "t1"), ("x", "t2"), ("x", None), ("x", None), ("x", "t3")]
        codes: list[list[str]] = []
        for user, room in ((bob, "den"), (cyd, "nowhere")):
            codes.append([])
            for text, txn_id in asked:
                with pytest.raises(ChatError) as refused:
                    await chat.send(user, room, text, txn_id=txn_id)
                codes[-1].append(refused.value.code)
        assert codes[0] == codes[1]
        assert {"invalid", "too_large", "not_found", "rate_limited"} == set(codes[0])


async def test_changes_have_a_rate_of_their_own_and_leaving_has_none() -> None:
    limits = Limits(changes=Rate(0.001, 5), messages=Rate(0.001, 1))
    async with Chat(MemoryRepository(), limits=limits, bcrypt_cost=4) as chat:
        ada = await chat.register("ada", PASSWORD)
        await chat.create(ada, "den")
        await chat.update(ada, "den", topic="tea")
        await chat.update(ada, "den", topic="cake", txn_id="t")
        assert (await chat.update(ada, "den", topic="cake", txn_id="t")).duplicate
        for _ in range(2):
            await chat.join(ada, "lobby")
            await chat.join(ada, "lobby")  # a member already
            await chat.leave(ada, "lobby")
        for refused in (
            chat.join(ada, "lobby"),
            chat.create(ada, "attic"),
            chat.ban(ada, "den", "bob"),
        ):
            with pytest.raises(RateLimited, match="too many changes"):
                await refused
        await chat.send(ada, "den", "hello")


async def test_public_rooms_may_be_read_by_all_and_written_by_members(chat: Chat) -> None:
    ada, bob = await chat.register("ada", PASSWORD), await chat.register("bob", PASSWORD)
    await chat.join(ada, "lobby")
    await chat.send(ada, "lobby", "hello")
    assert len((await chat.history(bob, "lobby")).messages) == 1
    with pytest.raises(NotMember, match="You must join the chat first"):
        await chat.send(bob, "lobby", "hello")


async def test_lists_come_in_pages(chat: Chat) -> None:
    ada = await chat.register("ada", PASSWORD)
    for number in range(5):
        await chat.create(ada, f"room{number}")
    first = await chat.rooms(ada, limit=4)
    assert ([room.name for room in first.rooms], first.complete) == (
        ["lobby", "room0", "room1", "room2"],
        False,
    )
    rest = await chat.rooms(ada, after="room2", limit=4)
    assert ([room.name for room in rest.rooms], rest.complete) == (["room3", "room4"], True)
    for name in ("bob", "cyd"):
        await chat.join(await chat.register(name, PASSWORD), "room0")
    listed = await chat.members(ada, "room0", limit=2)
    assert ([member.username for member in listed.members], listed.complete) == (
        ["ada", "bob"],
        False,
    )


async def test_observers_see_every_event_and_disturb_nobody(chat: Chat) -> None:
    seen: list[Durable] = []
    ada = await chat.register("ada", PASSWORD)
    reported: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reported.append(str(context["exception"])))

    def broken(_: Durable) -> None:
        raise ValueError("an observer's own mistake")

    chat.subscribe(broken)
    stop = chat.subscribe(seen.append)
    await chat.join(ada, "lobby")
    await chat.send(ada, "lobby", "seen")
    await eventually(lambda: len(seen) == 2)
    assert [event.seq for event in seen] == [1, 2]
    stop()
    await chat.send(ada, "lobby", "not seen")
    assert len(seen) == 2
    assert reported[:2] == ["an observer's own mistake"] * 2


async def test_a_policy_says_no() -> None:
    class Polite:
        def check(self, actor: User, command: Command, room: Room | None) -> None:
            if isinstance(command, Send | Edit) and "damn" in command.content:
                raise Forbidden(f"{actor.username}, not in the {room.name if room else ''}")
            if isinstance(command, Delete):
                raise Forbidden("what is said is said")

    async with Chat(MemoryRepository(), policy=Polite(), bcrypt_cost=4) as chat:
        ada = await chat.register("ada", PASSWORD)
        await chat.join(ada, "lobby")
        for txn_id in (None, "t1"):
            with pytest.raises(Forbidden, match="ada, not in the lobby"):
                await chat.send(ada, "lobby", "damn", txn_id=txn_id)
            with pytest.raises(Forbidden, match="ada, not in the lobby"):
                await chat.edit(ada, "lobby", 2, "damn", txn_id=txn_id)
            with pytest.raises(Forbidden, match="what is said is said"):
                await chat.delete(ada, "lobby", 2, txn_id=txn_id)
        assert (await chat.send(ada, "lobby", "good morning", txn_id="t2")).seq == 2
        assert (await chat.edit(ada, "lobby", 2, "good day", txn_id="t3")).seq == 3


async def test_cancelling_a_send_does_not_undo_it(chat: Chat) -> None:
    ada = await chat.register("ada", PASSWORD)
    await chat.join(ada, "lobby")
    sending = asyncio.ensure_future(chat.send(ada, "lobby", "on its way"))
    await asyncio.sleep(0)
    sending.cancel()
    await asyncio.wait([sending])
    page = await chat.history(ada, "lobby")
    while not page.messages:
        page = await chat.history(ada, "lobby")
    assert [message.content for message in page.messages] == ["on its way"]


async def test_a_chat_runs_once_and_leaves_no_threads(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    before = threading.active_count()
    chat = Chat(SqliteRepository(tmp_path_factory.mktemp("db") / "chat.db"), bcrypt_cost=4)
    async with chat:
        ada = await chat.register("ada", PASSWORD)
        await chat.join(ada, "lobby")
        assert threading.active_count() > before
    assert threading.active_count() == before
    with pytest.raises(RuntimeError, match="runs once"):
        async with chat:
            pass
    await chat.close()


async def test_what_fails_at_the_start_leaves_nothing_behind(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.mktemp("db") / "chat.db"
    async with Chat(SqliteRepository(path), bcrypt_cost=4):
        with pytest.raises(SchemaError, match="Another server"):
            async with Chat(SqliteRepository(path), bcrypt_cost=4):
                pass
    async with Chat(SqliteRepository(path), bcrypt_cost=4):
        pass


async def test_what_another_serves_is_not_migrated(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.mktemp("db") / "chat.db"
    other = SqliteRepository(path)
    other.claim()
    before = path.read_bytes()
    with pytest.raises(SchemaError, match="Another server"):
        async with Chat(SqliteRepository(path), bcrypt_cost=4):
            pass
    assert before == path.read_bytes()
    other.close()


async def test_in_the_log_and_told_are_the_same(chat: Chat) -> None:
    ada = await chat.register("ada", PASSWORD)
    await chat.join(ada, "lobby")
    told: list[Durable] = []
    chat.subscribe(told.append)
    await chat.send(ada, "lobby", "e\u0301 in two code points")
    page = await chat.history(ada, "lobby")
    await eventually(lambda: told)
    assert list(page.messages) == told
    assert isinstance(told[0], Message)
    assert told[0].content.startswith("é ")


async def test_a_retry_may_end_its_lines_otherwise(chat: Chat) -> None:
    ada = await chat.register("ada", PASSWORD)
    await chat.join(ada, "lobby")
    first = await chat.send(ada, "lobby", "one\r\ntwo", txn_id="t")
    again = await chat.send(ada, "lobby", "one\ntwo", txn_id="t")
    assert (again.seq, again.duplicate) == (first.seq, True)
    page = await chat.history(ada, "lobby")
    assert [message.content for message in page.messages] == ["one\ntwo"]


async def test_rooms_are_remembered_up_to_a_number(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatcore.chat.ROOMS_CACHED", 3)
    ada = await chat.register("ada", PASSWORD)
    for number in range(6):
        await chat.create(ada, f"room{number}")
    for _ in range(2):
        for number in range(6):
            assert (await chat.send(ada, f"room{number}", "hi")).room == f"room{number}"
            assert len(chat._rooms) <= 3  # noqa: SLF001 - memory is what is tested


async def test_nobody_is_in_more_rooms_than_a_frame_can_tell_of() -> None:
    limits = Limits(rooms_joined=3, rooms_owned=2)
    async with Chat(MemoryRepository(), limits=limits, bcrypt_cost=4) as chat:
        ada, bob = await chat.register("ada", PASSWORD), await chat.register("bob", PASSWORD)
        for name in ("one", "two"):
            await chat.create(ada, name)
        with pytest.raises(Forbidden, match="You own 2 rooms"):
            await chat.create(ada, "three")
        await chat.create(bob, "four")
        await chat.join(ada, "four")
        with pytest.raises(Forbidden, match="You are in 3 rooms; leave one first"):
            await chat.join(ada, "lobby")
        assert (await chat.join(ada, "four")).role == "member", "one that it is in already"
        await chat.leave(ada, "four")
        assert (await chat.join(ada, "lobby")).role == "member"


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_nobody_gets_past_it_with_many_commands_at_once(
    tmp_path_factory: pytest.TempPathFactory, kind: str
) -> None:
    path = tmp_path_factory.mktemp("db") / "chat.db"
    repository = MemoryRepository() if kind == "memory" else SqliteRepository(path)
    limits = Limits(rooms_joined=5, rooms_owned=2)
    async with Chat(repository, limits=limits, bcrypt_cost=4) as chat:
        ada, bob = await chat.register("ada", PASSWORD), await chat.register("bob", PASSWORD)
        made = await asyncio.gather(
            *(chat.create(ada, f"ada{number}") for number in range(6)),
            *(chat.create(bob, f"bob{number}") for number in range(2)),
            return_exceptions=True,
        )
        rooms = [each.name for each in made if isinstance(each, Room)]
        assert rooms == ["ada0", "ada1", "bob0", "bob1"]
        listed = [room.name for room in (await chat.rooms(ada)).rooms]
        assert listed == [*rooms, "lobby"], "what was refused is not left behind"
        for number in range(4):
            other = await chat.register(f"cyd{number}", PASSWORD)
            await chat.create(other, f"cyd{number}")
        joined = await asyncio.gather(
            *(chat.join(ada, f"cyd{number}") for number in range(4)), return_exceptions=True
        )
        refused = [each for each in joined if isinstance(each, BaseException)]
        assert [type(each) for each in refused] == [Forbidden]
        assert len(await chat.memberships(ada)) == 5
        assert (await chat.create(await chat.register("dee", PASSWORD), "ada5")).name == "ada5"


# Rooms that change, and what keeps order in them; the state machine has the rest.


async def test_two_people_have_one_room_also_when_both_ask_at_once(chat: Chat) -> None:
    ada, bob = await chat.register("ada", PASSWORD), await chat.register("bob", PASSWORD)
    asked = [chat.direct(ada, "Bob"), chat.direct(bob, "ada"), chat.direct(ada, "bob")]
    first, *others = await asyncio.gather(*asked)
    assert others == [first] * 2
    assert (first.kind, first.title) == ("direct", "ada, bob")
    for user in (ada, bob):
        (membership,) = await chat.memberships(user)
        assert (membership.room, membership.role) == (first, "member")
    assert (await chat.send(bob, first.name, "hi")).seq == 3, "each joined once"
    with pytest.raises(Invalid, match="somebody else"):
        await chat.direct(ada, "ADA")
    for nobody in ("nobody", "no body", ""):
        with pytest.raises(NotFound, match="There is no such user"):
            await chat.direct(ada, nobody)
    for taken in (first.name, "direct.tea", "d\u0456rect.tea"):
        with pytest.raises(Invalid, match="choose another"):
            await chat.create(ada, taken)
    with pytest.raises(NotFound):
        await chat.join(await chat.register("cyd", PASSWORD), first.name)


async def test_nobody_opens_a_room_with_somebody_who_is_in_too_many() -> None:
    limits = Limits(rooms_joined=1)
    async with Chat(MemoryRepository(), limits=limits, bcrypt_cost=4) as chat:
        ada, bob = await chat.register("ada", PASSWORD), await chat.register("bob", PASSWORD)
        await chat.join(bob, "lobby")
        with pytest.raises(Forbidden, match="bob is in 1 rooms, as many as one may be in"):
            await chat.direct(ada, "bob")
        with pytest.raises(Forbidden, match="You are in 1 rooms; leave one first"):
            await chat.direct(bob, "ada")
        assert await chat.memberships(ada) == [], "and no room is left behind"


async def test_what_a_room_is_called_now_is_told_everywhere(chat: Chat) -> None:
    ada, bob = await chat.register("ada", PASSWORD), await chat.register("bob", PASSWORD)
    await chat.create(ada, "tea", title="Tea")
    async with connect(chat, Credentials(user=bob)) as (talk, _):
        assert (await talk.do("join", room="tea"))["room"]["title"] == "Tea"
        changed = await chat.update(ada, "#Tea", title=" Coffee ", slow_mode=5)
        assert (await talk.event("room"))["title"] == "Coffee"
        again = await talk.do("join", room="tea")
        assert (again["room"]["title"], again["room"]["slow_mode"]) == ("Coffee", 5)
        await chat.mute(ada, "tea", "bob")
        told = await talk.event("membership")
        while told["change"] != "mute":
            told = await talk.event("membership")
        assert (told["room"]["title"], told["role"]) == ("Coffee", "member")
    assert changed.seq == 3
    for wrong in ({"title": "x" * 101}, {"topic": "two\nlines"}, {"slow_mode": -1}, {}):
        with pytest.raises(Invalid):
            await chat.update(ada, "tea", **wrong)


async def test_a_ban_in_the_past_is_none_but_its_retry_is(chat: Chat) -> None:
    ada = await chat.register("ada", PASSWORD)
    await chat.register("bob", PASSWORD)
    await chat.create(ada, "tea")
    past = datetime(2020, 1, 1, tzinfo=UTC)
    with pytest.raises(Invalid, match="until is in the past"):
        await chat.ban(ada, "tea", "bob", until=past)
    with pytest.raises(NotFound, match="There is no such room"):
        await chat.ban(ada, "nowhere", "bob", until=past)


async def test_a_ban_that_is_over_is_still_acknowledged() -> None:
    clock = FakeClock()
    async with Chat(MemoryRepository(), clock=clock, bcrypt_cost=4) as chat:
        ada, bob = await chat.register("ada", PASSWORD), await chat.register("bob", PASSWORD)
        await chat.create(ada, "tea")
        end = clock() + timedelta(minutes=1)
        first = await chat.ban(ada, "tea", "bob", until=end, txn_id="b")
        clock.advance(60)
        again = await chat.ban(ada, "tea", "bob", until=end, txn_id="b")
        assert (again.seq, again.duplicate) == (first.seq, True)
        assert (await chat.join(bob, "tea")).role == "member"


async def test_a_report_has_a_reason_and_a_message_and_costs_of_the_rate() -> None:
    limits = Limits(messages=Rate(0.001, 5))
    async with Chat(MemoryRepository(), limits=limits, bcrypt_cost=4) as chat:
        ada, bob = await chat.register("ada", PASSWORD), await chat.register("bob", PASSWORD)
        await chat.create(ada, "tea")
        await chat.join(bob, "tea")
        await chat.send(ada, "tea", "one")
        for reason in (" ", "two\nlines"):
            with pytest.raises(Invalid, match="reason"):
                await chat.report(bob, "tea", 3, reason)
        with pytest.raises(NotFound, match="There is no such message"):
            await chat.report(bob, "tea", 2, "no message")
        for _ in range(2):
            await chat.report(bob, "tea", 3, " rude ")
        (report,) = (await chat.reports(ada, "tea")).reports
        assert (report.number, report.seq, report.reason) == (1, 3, "rude")
        with pytest.raises(RateLimited):
            await chat.report(bob, "tea", 3, "rude")


async def test_a_hosts_policy_does_not_tell_that_a_private_room_is_there() -> None:
    """It is asked about every command, and heard by those who may know of the room."""

    class Strict:
        def check(self, actor: User, command: Command, room: Room | None) -> None:
            if actor.username != "ada":
                raise Forbidden("not you")

    async with Chat(MemoryRepository(), policy=Strict(), bcrypt_cost=4) as chat:
        ada, bob = await chat.register("ada", PASSWORD), await chat.register("bob", PASSWORD)
        await chat.create(ada, "den", kind="private")

        def attempts(room: str) -> list[Coroutine[Any, Any, object]]:
            return [
                chat.join(bob, room),
                chat.leave(bob, room),
                chat.send(bob, room, "hi"),
                chat.edit(bob, room, 1, "hi"),
                chat.delete(bob, room, 1),
                chat.history(bob, room),
                chat.who(bob, room),
                chat.members(bob, room),
                chat.invite(bob, room, "ada"),
                chat.kick(bob, room, "ada"),
                chat.ban(bob, room, "ada"),
                chat.unban(bob, room, "ada"),
                chat.mute(bob, room, "ada"),
                chat.unmute(bob, room, "ada"),
                chat.set_role(bob, room, "ada", "member"),
                chat.update(bob, room, topic="Tea"),
                chat.report(bob, room, 1, "spam"),
                chat.reports(bob, room),
                chat.bans(bob, room),
            ]

        for room in ("den", "nowhere"):
            for attempt in attempts(room):
                with pytest.raises(NotFound, match="There is no such room"):
                    await attempt
        await chat.invite(ada, "den", "bob")
        with pytest.raises(Forbidden, match="not you"):
            await chat.join(bob, "den")
        with pytest.raises(Forbidden, match="not you"):
            await chat.direct(bob, "ada")


# Edits and deletions.


async def test_an_edit_is_checked_and_stored_as_a_message_is(chat: Chat) -> None:
    ada = await chat.register("ada", PASSWORD)
    await chat.join(ada, "lobby")
    await chat.send(ada, "lobby", "one")
    refusals: list[tuple[str, type[ChatError]]] = [
        (" ", Invalid),
        ("a\0b", Invalid),
        ("x" * 5_000, TooLarge),
    ]
    for text, refusal in refusals:
        with pytest.raises(refusal):
            await chat.edit(ada, "#Lobby", 2, text)
    edited = await chat.edit(ada, "#Lobby", 2, "e\u0301\r\n", txn_id="t")
    again = await chat.edit(ada, "lobby", 2, "\xe9\n", txn_id="t")
    assert (edited.room, edited.seq, edited.duplicate) == ("lobby", 3, False)
    assert (again.seq, again.timestamp, again.duplicate) == (3, edited.timestamp, True)
    for other in (
        chat.send(ada, "lobby", "\xe9\n", txn_id="t"),
        chat.edit(ada, "lobby", 2, "another text", txn_id="t"),
        chat.delete(ada, "lobby", 2, txn_id="t"),
    ):
        with pytest.raises(TxnConflict):
            await other
    (message,) = (await chat.history(ada, "lobby")).messages
    assert (message.content, message.edited, message.erased) == ("\xe9\n", edited.timestamp, False)


async def test_an_edit_counts_as_a_message_for_the_rate_and_a_deletion_does_not() -> None:
    limits = Limits(messages=Rate(0.001, 3))
    async with Chat(MemoryRepository(), limits=limits, bcrypt_cost=4) as chat:
        ada = await chat.register("ada", PASSWORD)
        await chat.join(ada, "lobby")
        await chat.send(ada, "lobby", "one")
        await chat.edit(ada, "lobby", 2, "two", txn_id="t")
        assert (await chat.edit(ada, "lobby", 2, "two", txn_id="t")).duplicate, "which is free"
        await chat.edit(ada, "lobby", 2, "three")
        for txn_id in (None, "another"):
            with pytest.raises(RateLimited):
                await chat.edit(ada, "lobby", 2, "four", txn_id=txn_id)
        assert (await chat.edit(ada, "lobby", 2, "two", txn_id="t")).duplicate
        assert (await chat.delete(ada, "lobby", 2, txn_id="d")).seq == 5
        for _ in range(3):  # a duplicate of what costs nothing gives nothing back
            assert (await chat.delete(ada, "lobby", 2, txn_id="d")).duplicate
        with pytest.raises(RateLimited):
            await chat.send(ada, "lobby", "five")


async def test_a_rooms_owner_deletes_what_others_sent(chat: Chat) -> None:
    ada, bob = await chat.register("ada", PASSWORD), await chat.register("bob", PASSWORD)
    await chat.create(ada, "tea")
    await chat.join(bob, "tea")
    await chat.send(bob, "tea", "spam")
    await chat.send(ada, "tea", "no spam here")
    with pytest.raises(Forbidden, match="Only who sent a message may edit it"):
        await chat.edit(ada, "tea", 3, "ham")
    with pytest.raises(Forbidden, match="or a moderator, may delete it"):
        await chat.delete(bob, "tea", 4)
    for reason in ("two\nlines", "x" * 501):
        with pytest.raises(Invalid, match="reason"):
            await chat.delete(ada, "tea", 3, reason=reason)
    first = await chat.delete(ada, "tea", 3, reason=" off  topic ")
    again = await chat.delete(bob, "tea", 3)
    assert (again.seq, again.timestamp, again.duplicate) == (first.seq, first.timestamp, True)
    with pytest.raises(NotFound, match="This message was deleted"):
        await chat.edit(bob, "tea", 3, "ham")
    with pytest.raises(NotFound, match="There is no such message"):
        await chat.delete(ada, "tea", first.seq)
    await chat.leave(bob, "tea")
    with pytest.raises(NotMember):
        await chat.delete(bob, "tea", 3)


async def test_unread_counts_messages_whatever_becomes_of_them(chat: Chat) -> None:
    ada, bob = await chat.register("ada", PASSWORD), await chat.register("bob", PASSWORD)
    for user in (ada, bob):
        await chat.join(user, "lobby")
    for number in range(3):
        await chat.send(ada, "lobby", str(number))
    await chat.edit(ada, "lobby", 3, "edited")
    await chat.delete(ada, "lobby", 4)
    (membership,) = await chat.memberships(bob)
    assert (membership.unread, membership.head, membership.read) == (3, 7, 2)
    (membership,) = await chat.memberships(ada)
    assert (membership.unread, membership.read) == (0, 5)
