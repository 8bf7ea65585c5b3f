"""Accounts: changed by their users, switched off, deleted and exported by the host."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Literal

import orjson
import pytest

from chatcore import (
    Chat,
    Credentials,
    MemoryRepository,
    Message,
    Peer,
    Rate,
    SqliteRepository,
    User,
    dossier,
    fold,
)
from chatcore import connect as take_part
from chatcore.auth import digest
from chatcore.commands import Command, Password, Profile
from chatcore.errors import (
    BadCredentials,
    ChatError,
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    RateLimited,
    StorageFull,
    Unavailable,
)
from chatcore.events import Durable, ProfileChanged, Reaction
from chatcore.model import TOMBSTONE, Limits, Room
from chatcore.ports import Repository
from chatcore.repository.sql import repository as sql
from chatcore.testing import (
    PATIENCE,
    FaultyRepository,
    Refusal,
    Transcript,
    connect,
    eventually,
    failing,
)
from chatcore.testing.drafts import THUMB

TEA = "\u2615"
PASSWORD, ANOTHER = "correct horse", "battery staple"
NO_RATES = Limits.none()


@pytest.fixture
async def chat() -> AsyncIterator[Chat]:
    async with Chat(MemoryRepository(), limits=NO_RATES, bcrypt_cost=4) as chat:
        yield chat


@contextlib.asynccontextmanager
async def logged_in(
    chat: Chat, username: str, token: str | None = None
) -> AsyncIterator[Transcript]:
    async with connect(chat) as (peer, _):
        proof = {"token": token} if token else {"username": username, "password": PASSWORD}
        assert "token" in await peer.do("login", **proof)
        yield peer


async def reason_at_the_end(peer: Peer) -> str | None:
    async with asyncio.timeout(PATIENCE):
        async for _ in peer:
            pass
    return peer.bye.reason if peer.bye else None


async def is_good(chat: Chat, token: str) -> bool:
    try:
        await chat.recognise(token)
    except BadCredentials:
        return False
    return True


# One's own password.


async def test_a_new_password_is_the_one_that_counts(chat: Chat) -> None:
    ada = await chat.register("ada", PASSWORD)
    await chat.change_password(ada, PASSWORD, ANOTHER)
    with pytest.raises(BadCredentials):
        await chat.login("ada", PASSWORD)
    assert await chat.login("ada", ANOTHER) == ada


async def test_other_logins_stay_where_nothing_is_said(chat: Chat) -> None:
    await chat.register("ada", PASSWORD)
    async with logged_in(chat, "ada") as one, logged_in(chat, "ada") as other:
        assert await one.do("password", old=PASSWORD, new=ANOTHER) == {"reply": "password", "id": 2}
        assert (await other.do("ping"))["reply"] == "ping"
        assert other.bye is None


async def test_other_logins_end_where_that_is_asked_for(chat: Chat) -> None:
    """With the tokens that nobody holds just now; who asked goes on, on all that token's links."""
    ada = await chat.register("ada", PASSWORD)
    bob = await chat.register("bob", PASSWORD)
    mine, lost, bobs = [(await chat.issue_token(user)).secret for user in (ada, ada, bob)]
    async with (
        logged_in(chat, "ada", mine) as one,
        logged_in(chat, "ada", mine) as same,
        logged_in(chat, "ada") as other,
        take_part(chat, ada) as inside,
    ):
        reply = await one.do("password", old=PASSWORD, new=ANOTHER, end_others=True)
        assert reply["reply"] == "password"
        bye = await other.goodbye()
        assert (bye["code"], bye["reason"]) == (4502, "the password was changed")
        assert await reason_at_the_end(inside) == "the password was changed"
        for peer in (one, same):
            assert (await peer.do("ping"))["reply"] == "ping"
    assert [await is_good(chat, token) for token in (mine, lost, bobs)] == [True, False, True]


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("wrong horse", ANOTHER, BadCredentials),
        ("", ANOTHER, BadCredentials),
        (PASSWORD, "short", Invalid),
        (PASSWORD, "x" * 73, Invalid),
        (PASSWORD, "with a \0 in it", Invalid),
    ],
)
async def test_a_password_is_not_changed(
    chat: Chat, old: str, new: str, error: type[ChatError]
) -> None:
    ada = await chat.register("ada", PASSWORD)
    token = await chat.issue_token(ada)
    with pytest.raises(error):
        await chat.change_password(ada, old, new, end_others=True)
    assert await chat.login("ada", PASSWORD) == ada
    assert await is_good(chat, token.secret)


async def test_who_has_no_password_here_is_told_so(chat: Chat) -> None:
    host = await chat.introduce(User("host", "A host's"))
    async with take_part(chat, host) as peer:
        with pytest.raises(Forbidden, match="Your password is not kept here"):
            await peer.change_password("", ANOTHER)


async def test_guesses_at_the_old_password_are_counted_wherever_they_come_from() -> None:
    limits = Limits(attempts=Rate(0.001, 2))
    async with Chat(MemoryRepository(), limits=limits, bcrypt_cost=4) as chat:
        ada = await chat.register("ada", PASSWORD)
        bob = await chat.register("bob", PASSWORD)
        for _ in range(2):
            async with take_part(chat, ada) as peer:
                with pytest.raises(BadCredentials):
                    await peer.change_password("wrong horse", ANOTHER)
        async with take_part(chat, ada) as peer:
            with pytest.raises(RateLimited):
                await peer.change_password(PASSWORD, ANOTHER)
        await chat.change_password(bob, PASSWORD, ANOTHER)


async def test_a_login_that_was_under_way_with_the_old_password_comes_to_nothing() -> None:
    reads = itertools.count()
    late = asyncio.Event()
    loop = asyncio.get_running_loop()

    def second(call: Any) -> None:
        if call.method == "user" and call.arguments == ("ada",) and next(reads) == 1:
            asyncio.run_coroutine_threadsafe(late.wait(), loop).result()

    repository = FaultyRepository(MemoryRepository())
    async with Chat(repository, limits=NO_RATES, bcrypt_cost=4) as chat:
        await chat.register("ada", PASSWORD)
        repository.scripts.append(second)
        login = asyncio.create_task(chat.login("ada", PASSWORD))
        await eventually(lambda: repository.calls["user"] >= 3)
        repository.inside.set_password("ada", "another's hash")
        late.set()
        with pytest.raises(BadCredentials):
            await login


# One's own profile.


async def test_a_display_name_is_seen_where_names_are_shown_and_by_whom_it_concerns(
    chat: Chat,
) -> None:
    ada, bob, cyd = [await chat.register(name, PASSWORD) for name in ("ada", "bob", "cyd")]
    for user in (ada, bob):
        await chat.join(user, "lobby")
    await chat.create(ada, "den")
    await chat.create(cyd, "tea")
    await chat.invite(cyd, "tea", "ada")  # who is nobody there yet
    async with (
        logged_in(chat, "ada") as one,
        logged_in(chat, "ada") as other,
        logged_in(chat, "bob") as near,
        logged_in(chat, "cyd") as far,
    ):
        for room in ("lobby", "den"):
            await near.do("join", room=room)
        await far.do("join", room="tea")
        reply = await one.do("profile", display_name="  Ada Lo\u0308velace ")
        expected = {"username": "ada", "display_name": "Ada L\xf6velace"}
        assert reply["user"] == expected
        for peer in (one, other, near):
            assert await peer.event("profile") == {"event": "profile", **expected}
        assert await one.do("profile", display_name="Ada L\xf6velace") == {
            **reply,
            "id": reply["id"] + 1,
        }
        for peer in (one, other, near, far):
            await peer.do("ping")
            assert [e for e in peer.events if e["event"] == "profile"] == [], "once, and not to all"
        members = (await near.do("members", room="lobby"))["members"]
        assert members[0]["display_name"] == "Ada L\xf6velace"
    async with connect(chat) as (peer, _):
        said = await peer.do("login", username="ada", password=PASSWORD)
        assert said["user"] == expected


async def test_a_crowd_and_who_reads_slowly_are_not_told(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatcore.presence.NAMED", 1)
    ada, _ = [await chat.register(name, PASSWORD) for name in ("ada", "bob")]
    await chat.join(ada, "lobby")
    async with logged_in(chat, "bob") as peer:
        await peer.do("join", room="lobby")
        await chat.change_profile(ada, display_name="Ada L.")
        assert (await peer.event("profile"))["display_name"] == "Ada L."
        async with logged_in(chat, "ada") as own:
            await own.do("join", room="lobby")
            await chat.change_profile(ada, display_name="Ada the Second")
            await peer.do("ping")
            assert [each for each in peer.events if each["event"] == "profile"] == []
            assert (await own.event("profile"))["display_name"] == "Ada the Second"


async def test_ones_own_name_reaches_who_reads_slowly(chat: Chat) -> None:
    ada = await chat.register("ada", PASSWORD)
    await chat.join(ada, "lobby")
    credentials = Credentials(user=ada)
    async with connect(chat, credentials, window=100) as (slow, _):
        await slow.do("join", room="lobby")
        for _ in range(200):
            await chat.send(ada, "lobby", "x" * 3_000)
        for number in range(3):
            await chat.change_profile(ada, display_name=f"Ada {number}")
        assert (await slow.event("profile"))["display_name"] == "Ada 2", "the latest of them"


async def test_a_participant_knows_its_own_name(chat: Chat) -> None:
    ada = await chat.register("ada", PASSWORD)
    async with take_part(chat, ada) as one, take_part(chat, ada) as other:
        assert await one.change_profile(display_name="Ada L.") == User("ada", "Ada L.")
        assert await anext(other) == ProfileChanged("ada", "Ada L.")
        assert one.user == other.user == User("ada", "Ada L.")


@pytest.mark.parametrize("name", ["", "  ", "x" * 51, "a\nb", "a\u202eb", "Admin", "\u0430dmin"])
async def test_display_names_that_nobody_can_have(chat: Chat, name: str) -> None:
    ada = await chat.register("ada", PASSWORD)
    with pytest.raises(Invalid):
        await chat.change_profile(ada, display_name=name)


async def test_a_hosts_user_keeps_the_name_that_they_have_chosen(chat: Chat) -> None:
    host = await chat.introduce(User("Host", "A host's"))
    assert await chat.change_profile(host, display_name="Mine") == User("host", "Mine")
    assert await chat.introduce(User("Host", "A host's")) == User("host", "Mine")


async def test_a_bot_is_told_from_a_person(chat: Chat) -> None:
    robot = await chat.introduce(User("r2", "R2", bot=True))
    ada = await chat.register("ada", PASSWORD)
    for user in (ada, robot):
        await chat.join(user, "lobby")
    async with logged_in(chat, "ada") as peer:
        members = (await peer.do("members", room="lobby"))["members"]
        assert [each.get("bot") for each in members] == [None, True]
    assert await chat.change_profile(robot, bot=False) == User("r2", "R2")
    assert await chat.change_profile(ada, bot=True) == User("ada", "ada", bot=True)


async def test_who_is_deleted_meanwhile_gets_no_name_again() -> None:
    class Late(MemoryRepository):
        def set_profile(self, user: User) -> bool:
            self.close_account(user.username, "keep")
            return super().set_profile(user)

    repository = Late()
    async with Chat(repository, bcrypt_cost=4) as chat:
        ada, _ = [await chat.register(name, PASSWORD) for name in ("ada", "bob")]
        await chat.join(ada, "lobby")
        async with logged_in(chat, "bob") as peer:
            await peer.do("join", room="lobby")
            with pytest.raises(Forbidden, match="This account was deleted"):
                await chat.change_profile(ada, display_name="Ada L.")
            await peer.do("ping")
            assert [each for each in peer.events if each["event"] == "profile"] == []
        account = repository.user("ada")
        assert account is not None
        assert account.user.display_name == TOMBSTONE


async def test_a_policy_may_refuse_both() -> None:
    class Fixed:
        def check(self, actor: User, command: Command, room: Room | None) -> None:
            if isinstance(command, Password | Profile):
                raise Forbidden("Change that at the front desk")

    async with Chat(MemoryRepository(), policy=Fixed(), bcrypt_cost=4) as chat:
        ada = await chat.register("ada", PASSWORD)
        with pytest.raises(Forbidden, match="front desk"):
            await chat.change_password(ada, PASSWORD, ANOTHER)
        with pytest.raises(Forbidden, match="front desk"):
            await chat.change_profile(ada, display_name="Ada L.")
        assert (await chat.change_profile(ada, bot=True)).bot, "which is the host's to say"


# Switched off.


async def test_who_is_disabled_is_out_until_they_are_enabled(chat: Chat) -> None:
    ada = await chat.register("ada", PASSWORD)
    token = await chat.issue_token(ada)
    await chat.join(ada, "lobby")
    async with logged_in(chat, "ada") as peer, take_part(chat, ada) as inside:
        await chat.disable(ada)
        bye = await peer.goodbye()
        assert bye == {"code": 4502, "reason": "This account is disabled", "reconnect": False}
        assert await reason_at_the_end(inside) == "This account is disabled"
    await chat.disable(ada)
    assert not await is_good(chat, token.secret)
    with pytest.raises(Forbidden, match="This account is disabled"):
        await chat.login("ada", PASSWORD)
    with pytest.raises(BadCredentials):
        await chat.login("ada", "wrong horse")
    for refused in (
        chat.issue_token(ada),
        chat.introduce(ada),
        chat.send(ada, "lobby", "still here"),
        chat.create(ada, "den"),
        chat.change_password(ada, PASSWORD, ANOTHER),
        chat.change_profile(ada, display_name="Ada L."),
    ):
        with pytest.raises(Forbidden, match="This account is disabled"):
            await refused
    async with connect(chat, Credentials(user=ada)) as (peer, _):
        assert (await peer.goodbye())["code"] == 4502

    await chat.enable(ada)
    await chat.enable(ada)
    assert await chat.login("ada", PASSWORD) == ada
    assert not await is_good(chat, token.secret), "revoked is revoked"
    assert (await chat.send(ada, "lobby", "back")).seq == 2


async def test_only_who_is_there_is_switched_off_and_on(chat: Chat) -> None:
    ghost, ada = User("ghost", "Ghost"), await chat.register("ada", PASSWORD)
    for use_case in (chat.disable, chat.enable, chat.delete_account, chat.forget):
        with pytest.raises(NotFound):
            await use_case(ghost)
    with pytest.raises(NotFound):
        await anext(chat.export(ghost))
    await chat.delete_account(ada)
    for use_case in (chat.disable, chat.enable):
        with pytest.raises(Conflict, match="was deleted"):
            await use_case(ada)


@pytest.mark.parametrize("by_token", [True, False])
async def test_a_login_under_way_does_not_outlive_a_disabling(by_token: bool) -> None:
    """It is looked at once more when there is a connection that could have been found."""
    repository = FaultyRepository(MemoryRepository())
    async with Chat(repository, limits=NO_RATES, bcrypt_cost=4) as chat:
        ada = await chat.register("ada", PASSWORD)
        token = (await chat.issue_token(ada)).secret
        reached, go = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def late(call: Any) -> None:
            if call.method == "memberships":
                loop.call_soon_threadsafe(reached.set)
                asyncio.run_coroutine_threadsafe(go.wait(), loop).result()

        repository.scripts.append(late)
        known = Credentials(token=token) if by_token else Credentials(user=ada)
        async with connect(chat, known) as (peer, _):
            await reached.wait()
            await chat.disable(ada)
            go.set()
            assert (await peer.goodbye())["code"] == 4502


# Deleted.

Make = Callable[[Path], Repository]
BOTH = pytest.mark.parametrize("make", [lambda _: MemoryRepository(), SqliteRepository])


async def populated(chat: Chat) -> tuple[User, User]:
    """Have ada and bob talk in two rooms, one of which ada has left since."""
    ada, bob = [await chat.register(name, PASSWORD) for name in ("ada", "bob")]
    await chat.create(bob, "den")
    for user, room in ((ada, "lobby"), (bob, "lobby"), (ada, "den")):
        await chat.join(user, room)
    for number in range(7):
        await chat.send(ada, "lobby", f"<ada lobby {number}>", txn_id=f"t{number}")
        await chat.send(bob, "lobby", f"<bob lobby {number}>")
        sent = await chat.send(ada, "den", f"<ada den {number}>", txn_id=f"t{number}")
        await chat.send(bob, "den", f"<bob den {number}>")
        await chat.edit(ada, "den", sent.seq, f"<ada den {number} again>")
    await chat.delete(ada, "lobby", 3, reason="<ada's reason>")
    await chat.leave(ada, "den")
    return ada, bob


async def texts(chat: Chat, reader: User) -> dict[str, list[str]]:
    return {
        room: [m.content for m in (await chat.history(reader, room)).messages if m.content]
        for room in ("lobby", "den")
    }


@BOTH
async def test_a_deleted_account_leaves_its_messages_under_a_tombstone(
    make: Make, tmp_path: Path
) -> None:
    async with Chat(make(tmp_path / "chat.db"), limits=NO_RATES, bcrypt_cost=4) as chat:
        ada, bob = await populated(chat)
        before = await texts(chat, bob)
        async with logged_in(chat, "ada") as peer, logged_in(chat, "bob") as near:
            head = (await near.do("join", room="lobby"))["head"]
            await chat.delete_account(ada)
            bye = await peer.goodbye()
            assert bye == {"code": 4502, "reason": "This account was deleted", "reconnect": False}
            heard = await near.event("member")
            assert (heard["seq"], heard["username"], heard["action"]) == (head + 1, "ada", "leave")
        await chat.delete_account(ada)
        assert before == await texts(chat, bob)
        assert [m.username for m in (await chat.members(bob, "lobby")).members] == ["bob"]
        with pytest.raises(BadCredentials):
            await chat.login("ada", PASSWORD)
        with pytest.raises(Conflict):
            await chat.register("Ada", PASSWORD)
        with pytest.raises(Forbidden, match="This account was deleted"):
            await chat.introduce(ada)
        exported = [line async for line in lines(chat, ada)]
        assert exported[0] == {
            "export": "account",
            "username": "ada",
            "display_name": TOMBSTONE,
            "bot": False,
            "status": "deleted",
            "has_password": False,
        }
        assert len([each for each in exported if each.get("event") == "message"]) == 14


async def reacted(chat: Chat, ada: User, bob: User) -> None:
    """Have both react to what bob said, and ada take one back, and react to her own."""
    for user, seq, emoji in ((ada, 4, TEA), (ada, 4, THUMB), (bob, 4, TEA), (ada, 5, TEA)):
        await chat.react(user, "lobby", seq, emoji)
    await chat.unreact(ada, "lobby", 4, THUMB)
    await chat.react(ada, "lobby", 6, THUMB)


async def tallies(chat: Chat, reader: User) -> dict[int, list[tuple[str, int]]]:
    page = (await chat.history(reader, "lobby")).messages
    return {m.seq: [(each.emoji, each.count) for each in m.reactions] for m in page if m.reactions}


@BOTH
@pytest.mark.parametrize("how", ["keep", "erase", "forget"])
async def test_reactions_go_where_messages_go(
    make: Make, how: Literal["keep", "erase", "forget"], tmp_path: Path
) -> None:
    """Who listens hears each go, and has then what the server has."""
    async with Chat(make(tmp_path / "chat.db"), limits=NO_RATES, bcrypt_cost=4) as chat:
        ada, bob = await populated(chat)
        await reacted(chat, ada, bob)
        before = await tallies(chat, bob)
        assert before == {4: [(TEA, 2)], 5: [(TEA, 1)], 6: [(THUMB, 1)]}
        async with take_part(chat, bob) as peer:
            joined = await peer.join("lobby", history=99)
            await (chat.forget(ada) if how == "forget" else chat.delete_account(ada, messages=how))
            head = (await chat.history(bob, "lobby")).head
            heard = [joined.head]
            told: list[Durable] = []
            async with asyncio.timeout(PATIENCE):
                while heard[-1] < head:
                    event = await anext(peer)
                    if isinstance(event, Durable):
                        heard.append(event.seq)
                        told.append(event)
        gone = [(e.target, e.emoji, e.sender) for e in told if isinstance(e, Reaction)]
        if how == "keep":
            assert (gone, await tallies(chat, bob)) == ([], before)
        else:
            assert gone[0] == (4, TEA, "ada")
            assert await tallies(chat, bob) == {4: [(TEA, 1)]}
        messages = [each for each in joined.events if isinstance(each, Message)]
        assert fold([*messages, *told], "bob") == (await chat.history(bob, "lobby")).messages
        if how == "keep":  # and go when more is asked for
            await chat.forget(ada)
            assert await tallies(chat, bob) == {4: [(TEA, 1)]}


@BOTH
@pytest.mark.parametrize("how", ["erase", "forget"])
async def test_an_account_goes_with_its_messages_each_with_its_event(
    make: Make, how: Literal["erase", "forget"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dossier, "BATCH", 3)
    monkeypatch.setattr(sql, "WINDOW", 5)
    async with Chat(make(tmp_path / "chat.db"), limits=NO_RATES, bcrypt_cost=4) as chat:
        ada, bob = await populated(chat)
        async with logged_in(chat, "bob") as near:
            joined = await near.do("join", room="lobby")
            await (
                chat.delete_account(ada, messages="erase") if how == "erase" else chat.forget(ada)
            )
            heard = [await near.event("member", "delete") for _ in range(7)]
            # From memory too, which has what happened in the room just now.
            start = {"epoch": joined["epoch"], "seq": joined["head"] - 3}
            again = (await near.do("join", room="lobby", since=start))["events"]
        assert [each["seq"] for each in heard] == [joined["head"] + n for n in range(1, 8)]
        assert [each["event"] for each in heard] == ["member", *["delete"] * 6], "one was gone"
        assert await texts(chat, bob) == {
            room: [f"<bob {room} {number}>" for number in range(7)] for room in ("lobby", "den")
        }
        (reason,) = [e.get("reason") for e in again if e["event"] == "delete" and e["target"] == 3]
        assert reason == (None if how == "forget" else "<ada's reason>")


async def test_nothing_of_a_forgotten_person_is_in_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In no row, no index, no free page; the WAL lets go of it when it is written back."""
    monkeypatch.setattr(dossier, "BATCH", 4)
    path = tmp_path / "chat.db"
    async with Chat(SqliteRepository(path), limits=NO_RATES, bcrypt_cost=4) as chat:
        ada, bob = await populated(chat)
        await chat.change_profile(ada, display_name="<Lovelace>")
        for size in (10, 3_000, 9_000):
            await chat.send(bob, "lobby", "<bob stays>" * (size // 100 + 1))
            with contextlib.suppress(ChatError):
                await chat.send(ada, "lobby", "<ada big>" * (size // 9))
        await chat.send(ada, "lobby", "<ada big>" * 400)
        said = await chat.send(ada, "lobby", "<ada is reported>")
        await chat.report(bob, "lobby", said.seq, "<bob's report>")
        his = await chat.send(bob, "lobby", "<bob stays>")
        await chat.report(ada, "lobby", his.seq, "<ada's report>")
        await chat.ban(bob, "den", "ada", reason="<ada's ban>")
        await chat.delete(bob, "den", 6, reason="<of ada's message>")
        token = digest((await chat.issue_token(ada)).secret)

        def found(*marks: bytes) -> list[bytes]:
            files = b"".join(each.read_bytes() for each in sorted(tmp_path.iterdir()))
            return [mark for mark in marks if mark in files]

        (hash_,) = rows(path, "SELECT password_hash FROM users WHERE username = 'ada'")[0]
        marks = [b"<ada ", b"<ada's reason>", b"<Lovelace>", str(hash_).encode(), token]
        marks += [b"<bob's report>", b"<ada's report>", b"<ada's ban>", b"<of ada's message>"]
        assert found(*marks) == [*marks]
        assert rows(path, "SELECT count(*) FROM txns") == [(14,)]
        await chat.forget(ada)
        with contextlib.closing(sqlite3.connect(path)) as plain:
            assert plain.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)
        assert found(*marks, b"<bob stays>") == [b"<bob stays>"]
        assert rows(path, "SELECT count(*) FROM txns") == [(0,)]
        assert rows(path, "SELECT count(*) FROM restraints") == [(0,)]


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


@pytest.mark.parametrize("kept_by", ["the next start", "another call"])
@pytest.mark.parametrize("steps", range(19))
async def test_a_deletion_that_was_interrupted_goes_on(
    kept_by: str, steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After any number of commits: the last of all is what notes that it is done."""
    monkeypatch.setattr(dossier, "BATCH", 3)
    path, space = tmp_path / "chat.db", asyncio.Event()
    writes = (
        *("append", "lift_restraints", "redact", "redact_reports", "forget_txns"),
        "account_closed",
    )
    script = failing(
        writes, Refusal(StorageFull("full")), skip=steps, when=lambda _: space.is_set()
    )
    repository = FaultyRepository(SqliteRepository(path), script)
    async with Chat(repository, limits=NO_RATES, bcrypt_cost=4) as chat:
        ada, bob = await populated(chat)
        await reacted(chat, ada, bob)
        space.set()
        with pytest.raises(StorageFull):
            await chat.forget(ada)
        with pytest.raises(BadCredentials):
            await chat.login("ada", PASSWORD)
        if kept_by == "another call":
            space.clear()
            await chat.delete_account(ada)
    async with Chat(SqliteRepository(path), limits=NO_RATES, bcrypt_cost=4) as chat:
        await eventually(lambda: not rows(path, "SELECT 1 FROM users WHERE closing IS NOT NULL"))
        assert await texts(chat, bob) == {
            room: [f"<bob {room} {number}>" for number in range(7)] for room in ("lobby", "den")
        }
        assert rows(path, "SELECT count(*) FROM txns") == [(0,)]
        assert rows(path, "SELECT 1 FROM events WHERE body LIKE '%reason%'") == []
        assert await tallies(chat, bob) == {4: [(TEA, 1)]}
        assert rows(path, "SELECT target, emoji FROM reactions") == [(4, TEA)]
        assert rows(path, "SELECT target, emoji, count FROM tallies") == [(4, TEA, 1)]


async def test_a_deletion_goes_on_though_nobody_waits_for_it() -> None:
    go = asyncio.Event()
    loop = asyncio.get_running_loop()

    def late(call: Any) -> None:
        if call.method == "said":
            asyncio.run_coroutine_threadsafe(go.wait(), loop).result()

    repository = FaultyRepository(MemoryRepository(), late)
    async with Chat(repository, limits=NO_RATES, bcrypt_cost=4) as chat:
        ada, bob = await populated(chat)
        asked = asyncio.create_task(chat.delete_account(ada, messages="erase"))
        await eventually(lambda: repository.calls["said"])
        asked.cancel()
        await asyncio.wait([asked])
        go.set()
        await eventually(lambda: not repository.closing_accounts())
        assert all(text.startswith("<bob") for text in (await texts(chat, bob))["lobby"])


async def test_more_may_be_asked_for_while_it_is_under_way() -> None:
    repository = FaultyRepository(MemoryRepository())
    go = asyncio.Event()
    loop = asyncio.get_running_loop()

    def late(call: Any) -> None:
        if call.method == "memberships" and call.arguments == ("ada",):
            asyncio.run_coroutine_threadsafe(go.wait(), loop).result()

    async with Chat(repository, limits=NO_RATES, bcrypt_cost=4) as chat:
        ada, bob = await populated(chat)
        repository.scripts.append(late)
        first = asyncio.create_task(chat.delete_account(ada))
        await eventually(lambda: repository.calls["memberships"])
        then = asyncio.create_task(chat.forget(ada))
        await eventually(lambda: repository.calls["close_account"] == 2)
        go.set()
        await asyncio.gather(first, then)
        assert all(text.startswith("<bob") for text in (await texts(chat, bob))["lobby"])


async def test_closing_the_chat_leaves_the_rest_to_the_next_start() -> None:
    go = asyncio.Event()
    loop = asyncio.get_running_loop()

    def late(call: Any) -> None:
        if call.method == "said":
            asyncio.run_coroutine_threadsafe(go.wait(), loop).result()

    repository = FaultyRepository(MemoryRepository(), late)
    async with Chat(repository, limits=NO_RATES, bcrypt_cost=4) as chat:
        ada, _ = await populated(chat)
        deletion = asyncio.create_task(chat.forget(ada))
        await eventually(lambda: repository.calls["said"])
        closing = asyncio.create_task(chat.close())
        await eventually(lambda: chat.closing)
        go.set()
        await closing
        with pytest.raises(Unavailable):
            await deletion
    (account,) = repository.closing_accounts()
    assert account.closing == "forget"


# Exported.


async def lines(chat: Chat, user: User) -> AsyncIterator[dict[str, Any]]:
    async for piece in chat.export(user):
        assert piece.endswith(b"\n")
        for line in piece.splitlines():
            yield orjson.loads(line)


@BOTH
async def test_an_export_has_all_that_somebody_sent_and_no_secret(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dossier, "BATCH", 3)
    async with Chat(make(tmp_path / "chat.db"), limits=NO_RATES, bcrypt_cost=4) as chat:
        ada, _ = await populated(chat)
        token = await chat.issue_token(ada)
        exported = [line async for line in lines(chat, ada)]
        account, membership, login, *events = exported
        assert account == {
            "export": "account",
            "username": "ada",
            "display_name": "ada",
            "bot": False,
            "status": "active",
            "has_password": True,
        }
        assert (membership["export"], membership["room"]) == ("membership", "lobby")
        assert membership.keys() == {"export", "room", "role", "read"}
        assert login.keys() == {"export", "expires"}
        assert token.secret not in str(exported)
        assert {event["sender"] for event in events} == {"ada"}
        expected = [
            chat.wire.encode(event)
            for room in ("lobby", "den")
            for event in chat._repository.read(room, 0, 99, 99)  # noqa: SLF001
            if event.sender == "ada"
        ]
        assert sorted(expected) == sorted(orjson.dumps(event) + b"\n" for event in events)
        assert [e["content"] for e in events if e["event"] == "edit"][-1] == "<ada den 6 again>"


@BOTH
async def test_an_export_has_what_was_reported_and_deleted_but_not_who_reported_it(
    make: Make, tmp_path: Path
) -> None:
    async with Chat(make(tmp_path / "chat.db"), limits=NO_RATES, bcrypt_cost=4) as chat:
        ada, bob = await populated(chat)
        await chat.report(bob, "den", 3, "rude")
        await chat.report(ada, "lobby", 4, "dull")
        gone = await chat.delete(bob, "den", 6, reason="ruder")
        exported = [line async for line in lines(chat, ada)]
        reports = {
            (each["room"], each["seq"]): each for each in exported if each.get("export") == "report"
        }
        assert reports.keys() == {("den", 3), ("lobby", 4)}
        assert reports["den", 3].keys() == {"export", "room", "seq", "reason", "timestamp"}
        assert (reports["lobby", 4]["username"], reports["lobby", 4]["reason"]) == ("ada", "dull")
        deletion = exported[-1]
        assert (deletion["event"], deletion["seq"], deletion["reason"]) == (
            "delete",
            gone.seq,
            "ruder",
        )
