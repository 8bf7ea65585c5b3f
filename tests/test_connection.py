"""A link's whole life: hello, order of answers, bad frames, and every goodbye."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any

import orjson
import pytest

from chatcore.chat import Chat
from chatcore.connection import serve
from chatcore.errors import LinkClosed, Unavailable
from chatcore.events import Close, Durable
from chatcore.model import MAX_FRAME, Credentials, Limits, Rate, User
from chatcore.repository.memory import MemoryRepository
from chatcore.testing import (
    Call,
    FakeClock,
    FaultyRepository,
    Hold,
    MemoryLink,
    Refusal,
    Transcript,
    connect,
    eventually,
    failing,
)

PASSWORD = "correct horse"


@contextlib.asynccontextmanager
async def one(
    limits: Limits | None = None, **options: Any
) -> AsyncIterator[tuple[Chat, Transcript, MemoryLink]]:
    async with (
        Chat(MemoryRepository(), limits=limits, bcrypt_cost=4, **options) as chat,
        connect(chat) as (peer, link),
    ):
        yield chat, peer, link


async def test_hello_comes_first_and_says_what_there_is() -> None:
    async with one() as (_, peer, _):
        await peer.do("ping")
        assert peer.hello.keys() == {"v", "server", "features", "ping", "limits"}
        assert {"send", "join", "history"} <= set(peer.hello["features"])
        assert peer.hello["limits"] == {
            "frame_bytes": 65_536,
            "content_chars": 4_000,
            "history": 200,
            "resume": 10_000,
            "in_flight": 64,
            "messages": {"rate": 5, "burst": 10},
            "edit_seconds": None,
            "reactions": 20,
        }


async def test_a_token_at_the_door_logs_in_before_hello() -> None:
    async with one() as (chat, peer, _):
        token = (await peer.do("register", username="ada", password=PASSWORD))["token"]
        await peer.do("join", room="lobby")
        async with connect(chat, Credentials(token=token)) as (other, _):
            await other.do("ping")
            assert other.hello["user"] == {"username": "ada", "display_name": "ada"}
            assert [each["room"]["name"] for each in other.hello["rooms"]] == ["lobby"]
            assert "seq" in await other.do("send", room="lobby", content="hi")
        async with connect(chat, Credentials(token="cc_nonsense")) as (stranger, link):
            bye = await stranger.goodbye()
            assert (bye["code"], bye["reconnect"], link.code) == (4500, False, 4500)


async def test_a_host_brings_its_own_users() -> None:
    class Host:
        async def authenticate(self, credentials: Credentials) -> User | None:
            name = credentials.cookies.get("session")
            return User(name, name.title()) if name else None

    async with one(authenticator=Host()) as (chat, peer, _):
        assert (await peer.do("send", room="lobby", content="x"))["error"]["code"] == (
            "unauthenticated"
        )
        for _ in range(2):  # the first visit makes the user
            async with connect(chat, Credentials(cookies={"session": "ada"})) as (ada, _):
                await ada.do("join", room="lobby")
                assert ada.hello["user"]["display_name"] == "Ada"
        refused = await peer.do("login", username="ada", password=PASSWORD)
        assert refused["error"]["code"] == "bad_credentials", "there is no password to guess"


FRAMES: Sequence[tuple[bytes, str, object]] = [
    (b"", "invalid", None),
    (b"hello", "invalid", None),
    (b"\xff\xfe", "invalid", None),
    (b"[]", "invalid", None),
    (b"{}", "invalid", None),
    (b'{"cmd":null,"id":7}', "invalid", 7),
    (b'{"cmd":"fly","id":"x"}', "unknown_command", "x"),
    (b'{"cmd":"send","id":7,"room":"lobby"}', "invalid", 7),
    (b'{"cmd":"send","id":7,"room":"lobby","content":"x","colour":"red"}', "invalid", 7),
    (b'{"cmd":"ping","id":true}', "invalid", None),
    (b'{"cmd":"ping","id":NaN}', "invalid", None),
    (b'{"cmd":"register","id":7,"username":"a","password":"short"}', "invalid", 7),
    (b'{"cmd":"login","id":7}', "invalid", 7),
    (b'{"cmd":"send","id":7,"room":"lobby","content":"hi"}', "unauthenticated", 7),
    (b'{"cmd":"ping","id":7,"pad":"' + b"x" * 70_000 + b'"}', "too_large", 7),
    (b"x" * (MAX_FRAME + 1), "too_large", None),
]


async def test_bad_frames_get_their_error_and_the_connection_lives(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with one() as (_, peer, _):
        for frame, code, id in FRAMES:
            await peer.raw(frame)
            error = (await peer.answer(id))["error"]
            assert (error["code"], error["retryable"]) == (code, False), frame
            assert len(error["message"]) > 10
            assert "reply" in await peer.do("ping"), "and a good one resets the count"
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


async def test_commands_that_are_wrong_now() -> None:
    async with one(Limits(messages=None)) as (_, peer, _):
        await peer.do("register", username="ada", password=PASSWORD)
        await peer.do("join", room="lobby")
        commands: list[tuple[str, str, dict[str, object]]] = [
            ("conflict", "register", {"username": "bob", "password": PASSWORD}),
            ("bad_credentials", "login", {"username": "ada", "password": "wrong horse"}),
            ("bad_credentials", "login", {"token": "cc_no"}),
            ("not_found", "join", {"room": "nowhere"}),
            ("not_found", "join", {"room": "no such room!"}),
            ("not_found", "history", {"room": "nowhere"}),
            ("invalid", "send", {"room": "lobby", "content": " \n "}),
            ("invalid", "send", {"room": "lobby", "content": "bell \u0007"}),
            ("invalid", "send", {"room": "lobby", "content": "x", "txn_id": ""}),
            ("invalid", "send", {"room": "lobby", "content": "x", "txn_id": "a\0b"}),
            ("too_large", "send", {"room": "lobby", "content": "x" * 4_001}),
            ("conflict", "create", {"room": "Lobby"}),
            ("conflict", "create", {"room": "l\u043ebby"}),
            ("invalid", "create", {"room": "a b"}),
            ("invalid", "create", {"room": "den", "kind": "secret"}),
            ("invalid", "history", {"room": "lobby", "before": 1, "after": 2}),
            ("invalid", "history", {"room": "lobby", "limit": 0}),
        ]
        for code, cmd, fields in commands:
            error = (await peer.do(cmd, **fields))["error"]
            assert error["code"] == code, (cmd, fields, error)
        assert (await peer.do("send", room="lobby", content="still here"))["seq"] == 2


async def test_the_fifth_malformed_frame_in_a_row_ends_the_connection() -> None:
    async with one() as (_, peer, link):
        for _ in range(4):
            await peer.raw(b"nonsense")
        await peer.raw(b'{"cmd":"fly"}')  # unknown is not malformed
        assert "reply" in await peer.do("ping")
        for _ in range(5):
            await peer.raw(b"nonsense")
        bye = await peer.goodbye()
        assert (bye["code"], bye["reconnect"], link.code) == (4505, False, 4505)


async def test_answers_come_in_the_order_of_the_commands() -> None:
    async with one(Limits(messages=Rate(0.001, 3))) as (_, peer, link):
        await peer.do("register", username="ada", password=PASSWORD)
        await peer.do("join", room="lobby")
        ids = [await peer.start("send", room="lobby", content=str(n)) for n in range(5)]
        ids += [await peer.start("history", room="lobby"), await peer.start("ping")]
        await peer.raw(b'{"cmd":"ping"}')  # no id, no reply
        ids.append(await peer.start("fly"))
        order: list[Any] = []
        while len(order) < len(ids):
            frame = orjson.loads(await link.next())
            if "event" not in frame:
                order.append(frame)
        assert [frame["id"] for frame in order] == ids
        assert ["error" in frame for frame in order] == [False] * 3 + [True] * 2 + [
            False,
            False,
            True,
        ]
        assert order[3]["error"]["retry_after"] > 0
        assert [m["seq"] for m in order[5]["messages"]] == [2, 3, 4], "history waited for the sends"


async def test_a_retry_is_answered_before_rates_are_looked_at() -> None:
    async with one(Limits(messages=Rate(0.001, 1))) as (_, peer, _):
        await peer.do("register", username="ada", password=PASSWORD)
        await peer.do("join", room="lobby")
        first = await peer.do("send", room="lobby", content="once", txn_id="t")
        again = await peer.do("send", room="lobby", content="once", txn_id="t")
        assert again == first | {"id": again["id"], "duplicate": True}
        fresh = await peer.do("send", room="lobby", content="twice", txn_id="u")
        assert fresh["error"]["code"] == "rate_limited"


async def test_a_retry_costs_nothing() -> None:
    async with one(Limits(messages=Rate(0.001, 2))) as (_, peer, _):
        await peer.do("register", username="ada", password=PASSWORD)
        await peer.do("join", room="lobby")
        for _ in range(20):
            assert (await peer.do("send", room="lobby", content="once", txn_id="t"))["seq"] == 2
        assert (await peer.do("send", room="lobby", content="twice"))["seq"] == 3
        again = await peer.do("send", room="lobby", content="once", txn_id="t")
        assert again["duplicate"], "with no token left"
        fresh = await peer.do("send", room="lobby", content="thrice", txn_id="u")
        assert fresh["error"]["code"] == "rate_limited"


class SlowRepository(FaultyRepository):
    """Holds every batch until it is let go."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        super().__init__(MemoryRepository(), failing("append", Hold(self.gate)))


async def test_with_too_much_in_flight_the_server_stops_reading() -> None:
    repository, batches = SlowRepository(), list[int]()

    def note(call: Call) -> None:
        if call.method == "append":
            batches.append(len(call.arguments[0]))  # type: ignore[arg-type] # the drafts

    repository.scripts.append(note)
    async with (
        Chat(repository, limits=Limits(messages=None, in_flight=4), bcrypt_cost=4) as chat,
        connect(chat) as (peer, link),
    ):
        await peer.do("register", username="ada", password=PASSWORD)
        await peer.do("join", room="lobby")
        repository.gate.clear()
        ids = [await peer.start("send", room="lobby", content=str(n)) for n in range(12)]
        for _ in range(50):
            await asyncio.sleep(0)
        assert link._incoming.qsize() == 12 - 4  # noqa: SLF001 - what was not read
        repository.gate.set()
        seqs = [(await peer.answer(id))["seq"] for id in ids]
        assert seqs == [*range(2, 14)]
        assert max(batches) <= 4


async def test_what_was_asked_before_hanging_up_is_stored() -> None:
    repository = SlowRepository()
    async with Chat(repository, limits=Limits(messages=None), bcrypt_cost=4) as chat:
        async with connect(chat) as (peer, link):
            await peer.do("register", username="ada", password=PASSWORD)
            await peer.do("join", room="lobby")
            repository.gate.clear()
            await peer.start("send", room="lobby", content="last words")
            for _ in range(20):
                await asyncio.sleep(0)
            repository.gate.set()
        assert repository.head("lobby", 1)[1] == 2
        assert len(chat.roster) == 0
        assert link.code is None, "the peer closed, not the server"


async def test_a_peer_that_closed_its_own_half_is_still_answered() -> None:
    """As `printf … | nc` does."""
    repository = SlowRepository()
    async with Chat(repository, limits=Limits(messages=None), bcrypt_cost=4) as chat:
        ada = await chat.register("ada", PASSWORD)
        await chat.join(ada, "lobby")
        token = (await chat.issue_token(ada)).secret
        async with connect(chat, Credentials(token=token)) as (peer, link):
            repository.gate.clear()
            asked = await peer.start("send", room="lobby", content="last words")
            link._incoming.put_nowait(None)  # noqa: SLF001 - the half that a MemoryLink has no word for
            for _ in range(20):
                await asyncio.sleep(0)
            repository.gate.set()
            assert (await peer.answer(asked))["seq"] == 2
            assert peer.bye is None


async def test_logout_ends_all_connections_with_that_token_and_no_others() -> None:
    async with one() as (chat, ada, _):
        token = (await ada.do("register", username="ada", password=PASSWORD))["token"]
        async with (
            connect(chat) as (same, _),
            connect(chat) as (other, _),
            connect(chat) as (late, late_link),
        ):
            await same.do("login", token=token)
            await other.do("login", username="ada", password=PASSWORD)
            assert (await ada.do("logout"))["reply"] == "logout"
            for peer in (ada, same):
                assert (await peer.goodbye())["code"] == 4502
            assert "reply" in await other.do("rooms")
            refused = await late.do("login", token=token)
            assert refused["error"]["code"] == "bad_credentials"
            await late.do("login", username="ada", password=PASSWORD)
            await other.do("logout", everywhere=True)
            assert (await late.goodbye())["reconnect"] is False
            assert late_link.code == 4502


async def test_nothing_is_done_after_goodbye() -> None:
    async with one(Limits(messages=None)) as (chat, ada, _):
        await ada.do("register", username="ada", password=PASSWORD)
        await ada.do("join", room="lobby")
        seen: list[Durable] = []
        chat.subscribe(seen.append)
        await ada.start("logout")
        await ada.start("send", room="lobby", content="after logout")
        await ada.goodbye()
        with contextlib.suppress(LinkClosed):
            while True:
                await ada.event()
        assert seen == []


async def test_login_again_renews_and_by_another_is_refused() -> None:
    async with one() as (_, peer, _):
        first = await peer.do("register", username="ada", password=PASSWORD)
        again = await peer.do("login", username="ADA", password=PASSWORD)
        assert again["token"] != first["token"]
        assert again["user"] == first["user"]
        await peer.do("logout")
    async with one() as (chat, peer, _):
        await chat.register("bob", PASSWORD)
        await peer.do("register", username="ada", password=PASSWORD)
        refused = await peer.do("login", username="bob", password=PASSWORD)
        assert refused["error"]["code"] == "conflict"


@pytest.mark.parametrize(("method", "skip"), [("token", 1), ("memberships", 0)])
async def test_a_logout_during_a_login_ends_that_connection_too(method: str, skip: int) -> None:
    """Just before its token is looked at for the second time, or just after."""
    gate = threading.Event()
    repository = FaultyRepository(MemoryRepository(), failing(method, Hold(gate), skip=skip))
    async with Chat(repository, bcrypt_cost=4) as chat, connect(chat) as (peer, _):
        ada = await chat.register("ada", PASSWORD)
        token = await chat.issue_token(ada)
        await peer.start("login", token=token.secret)
        await eventually(lambda: repository.calls[method] == skip + 1)
        await chat.logout(token, ada)
        gate.set()
        assert (await peer.goodbye())["code"] == 4502


async def test_a_login_that_fails_leaves_nobody_behind() -> None:
    busy = failing("memberships", Refusal(Unavailable("busy")), times=1)
    repository = FaultyRepository(MemoryRepository(), busy)
    limits = Limits(user_connections=1)
    async with (
        Chat(repository, limits=limits, bcrypt_cost=4) as chat,
        connect(chat) as (peer, _),
        connect(chat) as (other, _),
    ):
        token = (await chat.issue_token(await chat.register("ada", PASSWORD))).secret
        assert (await peer.do("login", token=token))["error"]["code"] == "unavailable"
        assert (await peer.do("rooms"))["error"]["code"] == "unauthenticated"
        assert "rooms" in await other.do("login", token=token)


async def test_who_does_not_log_in_is_asked_to_leave() -> None:
    async with one(Limits(login_seconds=0.05)) as (_, peer, _):
        bye = await peer.goodbye()
        assert (bye["code"], bye["reconnect"]) == (4007, True)


async def test_a_token_that_expires_ends_the_connection() -> None:
    clock = FakeClock()
    life = timedelta(seconds=0.2)
    async with one(clock=clock, token_days=life / timedelta(days=1)) as (chat, peer, _):
        token = (await peer.do("register", username="ada", password=PASSWORD))["token"]
        assert (await peer.goodbye())["code"] == 4002
        clock.advance(0.3)
        async with connect(chat, Credentials(token=token)) as (late, _):
            assert (await late.goodbye())["code"] == 4500


async def test_too_many_connections() -> None:
    limits = Limits(address_connections=2, user_connections=1)
    async with one(limits) as (chat, peer, _):
        token = (await peer.do("register", username="ada", password=PASSWORD))["token"]
        here = Credentials(peer="192.0.2.7")
        async with connect(chat, here) as (first, _), connect(chat, here) as (_, second):
            refused = await first.do("login", token=token)
            assert refused["error"]["code"] == "rate_limited"
            async with connect(chat, here) as (third, _):
                assert (await third.goodbye())["code"] == 4006
            second.hang_up()
            await eventually(lambda: len(chat.roster) == 2)
            async with connect(chat, here) as (fourth, _):
                assert "reply" in await fourth.do("ping")


async def test_attempts_to_log_in_are_counted_for_each_address() -> None:
    async with one(Limits(attempts=Rate(0.001, 2))) as (chat, _, _):
        async with connect(chat, Credentials(peer="192.0.2.7")) as (guesser, _):
            codes = [
                (await guesser.do("login", username="ada", password=f"guess {n}"))["error"]["code"]
                for n in range(3)
            ]
            assert codes == ["bad_credentials", "bad_credentials", "rate_limited"]
        async with connect(chat, Credentials(peer="192.0.2.8")) as (other, _):
            refused = await other.do("login", username="ada", password=PASSWORD)
            assert refused["error"]["code"] == "bad_credentials"


async def test_a_defect_costs_its_command_and_not_the_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken = FaultyRepository(MemoryRepository(), failing("members", Refusal(ZeroDivisionError())))
    async with (
        Chat(broken, bcrypt_cost=4) as chat,
        connect(chat) as (peer, _),
    ):
        await peer.do("register", username="ada", password=PASSWORD)
        error = (await peer.do("members", room="lobby"))["error"]
        assert (error["code"], error["retryable"]) == ("internal", False)
        assert "reply" in await peer.do("ping")
    assert [record.levelname for record in caplog.records] == ["ERROR"]


async def test_a_host_that_fails_to_say_who_it_is_is_noted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken:
        async def authenticate(self, credentials: Credentials) -> User | None:
            raise ValueError("a host's own mistake")

    async with (
        Chat(MemoryRepository(), authenticator=Broken(), bcrypt_cost=4) as chat,
        connect(chat) as (peer, _),
    ):
        bye = await peer.goodbye()
        assert (bye["code"], bye["reconnect"], bye["retry_after"]) == (4001, True, 5)
    assert [record.getMessage() for record in caplog.records] == ["authenticating failed"]


async def test_a_hosts_user_logs_out_of_all_connections_without_a_token() -> None:
    class Host:
        async def authenticate(self, credentials: Credentials) -> User | None:
            return User("ada", "Ada")

    async with (
        Chat(MemoryRepository(), authenticator=Host(), bcrypt_cost=4) as chat,
        connect(chat) as (one_, _),
        connect(chat) as (other, _),
    ):
        await other.do("ping")  # it has been let in
        assert (await one_.do("logout"))["reply"] == "logout"
        for peer in (one_, other):
            assert (await peer.goodbye())["code"] == 4502


async def test_shutdown_answers_what_came_before_and_says_goodbye_to_all() -> None:
    repository = SlowRepository()
    chat = Chat(repository, limits=Limits(messages=None), bcrypt_cost=4)
    async with chat, connect(chat) as (ada, link), connect(chat) as (nobody, _):
        await ada.do("register", username="ada", password=PASSWORD)
        await ada.do("join", room="lobby")
        repository.gate.clear()
        sent = await ada.start("send", room="lobby", content="on its way")
        for _ in range(20):
            await asyncio.sleep(0)
        closing = asyncio.ensure_future(chat.close())
        await asyncio.sleep(0)
        late = await ada.start("send", room="lobby", content="too late")
        for _ in range(20):
            await asyncio.sleep(0)
        repository.gate.set()
        await closing
        assert (await ada.answer(sent))["seq"] == 2
        error = (await ada.answer(late))["error"]
        assert (error["code"], error["retryable"]) == ("unavailable", True)
        for peer in (ada, nobody):
            bye = await peer.goodbye()
            assert (bye["code"], bye["reason"], bye["reconnect"]) == (4001, "shutdown", True)
            assert bye["retry_after"] >= 0.5
        assert link.code == 4001


async def test_shutdown_answers_logins_whose_turn_has_not_come() -> None:
    async with (
        Chat(MemoryRepository(), bcrypt_cost=10) as chat,
        contextlib.AsyncExitStack() as all_,
    ):
        peers = [(await all_.enter_async_context(connect(chat)))[0] for _ in range(20)]
        asked = [await each.start("login", username="ada", password=PASSWORD) for each in peers]
        await eventually(lambda: chat._passwords._running == len(peers))  # noqa: SLF001 - all wait
        began = asyncio.get_running_loop().time()
        await chat.close()
        assert asyncio.get_running_loop().time() - began < 1, "without doing that work first"
        for peer, id in zip(peers, asked, strict=True):
            error = (await peer.answer(id))["error"]
            assert (error["code"], error["retryable"]) == ("unavailable", True)
            assert (await peer.goodbye())["code"] == 4001


async def test_what_is_unanswered_when_a_connection_ends_is_answered_first() -> None:
    repository = SlowRepository()
    async with (
        Chat(repository, limits=Limits(messages=None), bcrypt_cost=4) as chat,
        connect(chat) as (ada, _),
    ):
        user = await chat.register("ada", PASSWORD)
        await ada.do("login", username="ada", password=PASSWORD)
        await ada.do("join", room="lobby")
        repository.gate.clear()
        sent = await ada.start("send", room="lobby", content="on its way", txn_id="t")
        for _ in range(20):
            await asyncio.sleep(0)
        chat.roster.end(lambda each: each.user == user, Close.REVOKED, "logged out")
        assert (await ada.answer(sent))["error"]["code"] == "unavailable"
        assert (await ada.goodbye())["code"] == 4502
        repository.gate.set()


async def test_a_close_that_was_cancelled_goes_on_and_can_be_waited_for() -> None:
    repository = SlowRepository()
    chat = Chat(repository, bcrypt_cost=4)
    async with chat:
        ada = await chat.register("ada", PASSWORD)
        await chat.join(ada, "lobby")
        repository.gate.clear()
        sending = asyncio.ensure_future(chat.send(ada, "lobby", "on its way"))
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(chat.close())
        for _ in range(20):
            await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait([closing])
        repository.gate.set()
        await chat.close()
        with pytest.raises(Unavailable, match="has shut down"):
            await chat.rooms(ada)
        assert (await sending).seq == 2


async def test_those_who_are_sent_away_come_back_one_after_another() -> None:
    """`retry_after` is spread over a second, and one more for each 500 connections."""
    async with Chat(MemoryRepository(), bcrypt_cost=4) as chat, contextlib.AsyncExitStack() as all_:
        peers = [(await all_.enter_async_context(connect(chat)))[0] for _ in range(250)]
        for peer in peers:
            await peer.do("ping")
        await chat.close()
        delays = [(await peer.goodbye())["retry_after"] for peer in peers]
    assert 0.5 <= min(delays) < 0.6
    assert 1.4 < max(delays) <= 1.5
    assert len(set(delays)) > 50


async def test_a_chat_that_does_not_run_says_so() -> None:
    chat = Chat(MemoryRepository())
    with pytest.raises(RuntimeError, match="not running: enter it first"):
        async with connect(chat):
            pass
    with pytest.raises(RuntimeError, match="not running"):
        await chat.register("ada", PASSWORD)
    ada = User("ada", "Ada")
    for call in (chat.rooms(ada), chat.issue_token(ada), chat.logout(None, ada), chat.failed()):
        with pytest.raises(RuntimeError, match="not running"):
            await call
    async with chat:
        pass
    with pytest.raises(Unavailable, match="has shut down"):
        await chat.send(ada, "lobby", "hello")
    async with connect(chat) as (peer, _):
        assert (await peer.goodbye())["code"] == 4001


async def test_a_call_under_way_when_the_chat_closes_is_refused_and_no_defect() -> None:
    gate = threading.Event()
    repository = FaultyRepository(MemoryRepository(), failing("room", Hold(gate)))
    chat = Chat(repository, bcrypt_cost=4)

    def let_go_at_the_end() -> None:
        threads = chat._readers._threads  # noqa: SLF001 - the last thing to close
        while all(thread.is_alive() for thread in threads):
            threads[0].join(0.01)
        gate.set()

    async with chat:
        ada = await chat.register("ada", PASSWORD)
        joining = asyncio.ensure_future(chat.join(ada, "lobby"))
        await eventually(lambda: repository.calls["room"])
        waiting = threading.Thread(target=let_go_at_the_end)
        waiting.start()
    with pytest.raises(Unavailable, match="has shut down"):
        await joining
    waiting.join()


async def test_who_waits_for_an_answer_as_the_connection_ends_is_answered_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gate = threading.Event()
    repository = FaultyRepository(MemoryRepository(), failing("append", Hold(gate)))
    gate.set()
    async with Chat(repository, bcrypt_cost=4) as chat, connect(chat) as (peer, _):
        ada = (await peer.do("register", username="ada", password=PASSWORD))["user"]
        await peer.do("join", room="lobby")
        gate.clear()
        sent = await peer.start("send", room="lobby", content="held")
        pinged = await peer.start("ping")
        await eventually(lambda: len(chat.roster) == 1)
        await chat.logout(None, User(**ada), everywhere=True)
        answers = [await peer.answer(each) for each in (sent, pinged)]
        assert [each["error"]["code"] for each in answers] == ["unavailable"] * 2
        gate.set()
        assert (await peer.goodbye())["code"] == Close.REVOKED
    assert not [record for record in caplog.records if record.exc_info]


class BrokenLink(MemoryLink):
    """A host's link that raises where an answer to a message is written."""

    def write(self, data: bytes) -> None:
        if b'"reply":"send"' in data:
            raise ValueError("a defect")
        super().write(data)


async def test_a_link_that_cannot_be_written_to_keeps_no_answer_from_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gate = threading.Event()
    repository = FaultyRepository(MemoryRepository(), failing("append", Hold(gate)))
    gate.set()
    async with Chat(repository, bcrypt_cost=4) as chat:
        ada, bob = [await chat.register(name, PASSWORD) for name in ("ada", "bob")]
        broken = BrokenLink(chat.wire)
        serving = asyncio.create_task(serve(chat, broken, Credentials(user=ada)))
        peer = Transcript(broken.send, broken.next)
        await peer.do("join", room="lobby")
        async with connect(chat, Credentials(user=bob)) as (other, _):
            await other.do("join", room="lobby")
            gate.clear()  # so that both are answered together
            await peer.start("send", room="lobby", content="one")
            sent = await other.start("send", room="lobby", content="two")
            await other.start("ping")
            gate.set()
            assert "seq" in await other.answer(sent)
            texts = [(await other.event("message"))["content"] for _ in range(2)]
            assert sorted(texts) == ["one", "two"]
        await asyncio.wait_for(serving, 5)
        assert broken.code == Close.SHUTDOWN
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.getMessage() == "a connection cannot be written to"
