"""Several peers, random commands, and a model of what the chat promises."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
from attrs import define, field
from hypothesis import note
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from chatcore import feed
from chatcore.chat import Chat
from chatcore.model import LOBBY, Limits
from chatcore.ports import Repository
from chatcore.repository.memory import MemoryRepository
from chatcore.repository.sql import SqliteRepository
from chatcore.testing import Transcript, connect

ROOMS = (LOBBY, "den")
USERS = ("ada", "bob", "cyd")


@define
class Model:
    """What the log must hold, told by the answers alone."""

    logs: dict[str, list[tuple[str, str]]] = field(factory=lambda: {room: [] for room in ROOMS})
    """For each room what happened, in seq order: who, and what."""
    members: set[tuple[str, str]] = field(factory=set)
    txns: dict[tuple[str, str, str], tuple[str, int]] = field(factory=dict)

    def send(self, user: str, room: str, text: str, txn_id: str | None) -> tuple[str, int]:
        """Say what a send is answered with: an error's code, or a seq."""
        if txn_id is not None and (user, room, txn_id) in self.txns:
            first, seq = self.txns[user, room, txn_id]
            return ("", seq) if first == text else ("txn_conflict", 0)
        if (user, room) not in self.members:
            return "not_member", 0
        seq = self.happen(user, room, text)
        if txn_id is not None:
            self.txns[user, room, txn_id] = (text, seq)
        return "", seq

    def happen(self, user: str, room: str, what: str) -> int:
        self.logs[room].append((user, what))
        return len(self.logs[room])


@define
class Peer:
    """A connection, and where it stands in each room it has joined."""

    user: str
    talk: Transcript
    link: Any
    seen: dict[str, int] = field(factory=dict)
    """The last seq given, of each room that it listens to."""
    left: dict[str, tuple[str, int]] = field(factory=dict)


class Machine(RuleBasedStateMachine):
    """Drives the real Chat; each rule compares its answer with the model's."""

    make: Callable[[Path], Repository]

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.directory = tempfile.TemporaryDirectory()
        self.stack = AsyncExitStack()
        self.model = Model()
        self.peers: list[Peer] = []
        self.numbers = itertools.count()
        self.epochs: dict[str, str] = {}

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        try:
            self.run(self.compare_at_rest())
            self.run(self.stack.aclose())
        finally:
            feed.OPENING, feed.TAIL = self.memory
            self.loop.close()
            self.directory.cleanup()

    @initialize()
    def start(self) -> None:
        self.run(self._start())

    async def _start(self) -> None:
        # Little in memory, so that most of what somebody missed is read from the log.
        self.memory = (feed.OPENING, feed.TAIL)
        feed.OPENING, feed.TAIL = 4, 10
        repository = type(self).make(Path(self.directory.name) / "chat.db")
        limits = Limits(messages=None, attempts=None, buffer_bytes=2_000, history=7)
        self.chat = await self.stack.enter_async_context(
            Chat(repository, limits=limits, bcrypt_cost=4)
        )
        for user in USERS:
            await self.chat.register(user, "correct horse")
        self.tokens = {
            user: (await self.chat.issue_token(await self.chat.login(user, "correct horse"))).secret
            for user in USERS
        }
        for user in USERS:
            await self._connect(user)
        owner = self.peers[0]
        assert "room" in await owner.talk.do("create", room="den")
        self.model.happen("ada", "den", "join")
        self.model.members.add(("ada", "den"))

    async def _connect(self, user: str) -> None:
        talk, link = await self.stack.enter_async_context(connect(self.chat, window=1_000))
        assert "token" in await talk.do("login", token=self.tokens[user])
        self.peers.append(Peer(user, talk, link))

    # What may happen.

    @rule(
        who=st.integers(0, 9),
        room=st.sampled_from(ROOMS),
        text=st.text("ab☃", min_size=1),
        txn=st.none() | st.sampled_from("xyz"),
    )
    def send(self, who: int, room: str, text: str, txn: str | None) -> None:
        peer = self.peers[who % len(self.peers)]
        fields: dict[str, object] = {"room": room, "content": text}
        if txn is not None:
            fields["txn_id"] = txn
        code, seq = self.model.send(peer.user, room, text, txn)
        answer = self.run(peer.talk.do("send", **fields))
        note(f"{peer.user} > {room}: {text!r} {txn} -> {answer}")
        assert answer.get("error", {}).get("code", "") == code
        assert answer.get("seq", 0) == seq

    @rule(who=st.integers(0, 9), room=st.sampled_from(ROOMS), count=st.integers(2, 30))
    def send_ahead(self, who: int, room: str, count: int) -> None:
        """Pipelined sends are stored in their order."""
        peer = self.peers[who % len(self.peers)]
        texts = [f"{next(self.numbers)}".ljust(60, ".") for _ in range(count)]
        expected = [self.model.send(peer.user, room, text, None) for text in texts]

        async def go() -> list[dict[str, Any]]:
            ids = [await peer.talk.start("send", room=room, content=text) for text in texts]
            return [await peer.talk.answer(id) for id in ids]

        answers = self.run(go())
        assert [seq for _, seq in expected] == [answer.get("seq", 0) for answer in answers]

    @rule(who=st.integers(0, 9), room=st.sampled_from(ROOMS), back=st.none() | st.integers(0, 40))
    def join(self, who: int, room: str, back: int | None) -> None:
        """Join afresh, or from any position of the log."""
        peer = self.peers[who % len(self.peers)]
        self.run(self.read_up(peer))
        since = None
        if back is not None and room in self.epochs:
            since = {"epoch": self.epochs[room], "seq": max(0, len(self.model.logs[room]) - back)}
        if (peer.user, room) not in self.model.members:
            self.model.members.add((peer.user, room))
            self.model.happen(peer.user, room, "join")
        fields: dict[str, object] = {"room": room} | ({"since": since} if since else {})
        reply = self.run(peer.talk.do("join", **fields))
        note(f"{peer.user} joins {room} since {since} -> {reply}")
        self.epochs[room] = reply["epoch"]
        assert reply["head"] == len(self.model.logs[room])
        assert reply["recovered"] == (since is not None)
        peer.talk.events.clear()  # of before; what was on its way then has been compared
        if since is not None:
            peer.seen[room] = int(str(since["seq"]))
            for event in reply["events"]:
                self.compare(peer, event)
        else:
            peer.seen[room] = reply["head"]
            messages = [
                seq
                for seq, (_, what) in enumerate(self.model.logs[room], 1)
                if what not in ("join", "leave")
            ]
            assert [event["seq"] for event in reply["events"]] == messages[-7:]

    @rule(who=st.integers(0, 9), room=st.sampled_from(ROOMS))
    def leave(self, who: int, room: str) -> None:
        peer = self.peers[who % len(self.peers)]
        member = (peer.user, room) in self.model.members
        answer = self.run(peer.talk.do("leave", room=room))
        assert ("error" in answer) == (not member)
        if member:
            self.model.members.remove((peer.user, room))
            self.model.happen(peer.user, room, "leave")
            for each in self.peers:
                if each.user == peer.user and room in each.seen:
                    self.run(self.read_up(each))
                    assert each.seen.pop(room) == len(self.model.logs[room]), "up to the end"

    @rule(user=st.sampled_from(USERS))
    def another_device(self, user: str) -> None:
        if len(self.peers) < 6:
            self.run(self._connect(user))

    @rule(who=st.integers(0, 9))
    def hang_up(self, who: int) -> None:
        if len(self.peers) > 2:
            self.peers.pop(who % len(self.peers)).link.hang_up()

    @rule(
        who=st.integers(0, 9),
        room=st.sampled_from(ROOMS),
        before=st.none() | st.integers(1, 60),
        limit=st.integers(1, 9),
    )
    def history(self, who: int, room: str, before: int | None, limit: int) -> None:
        peer = self.peers[who % len(self.peers)]
        fields: dict[str, object] = {"room": room, "limit": limit}
        if before is not None:
            fields["before"] = before
        page = self.run(peer.talk.do("history", **fields))
        expected = [
            seq
            for seq, (_, what) in enumerate(self.model.logs[room], 1)
            if what not in ("join", "leave") and (before is None or seq < before)
        ]
        shown = min(limit, 7)
        assert [message["seq"] for message in page["messages"]] == expected[-shown:]
        assert page["complete"] == (len(expected) <= shown)

    @rule(who=st.integers(0, 9))
    def read(self, who: int) -> None:
        """Whoever has not read until now was slow, and has missed nothing."""
        self.run(self.read_up(self.peers[who % len(self.peers)]))

    # What must hold.

    def compare(self, peer: Peer, event: dict[str, Any]) -> None:
        room = event["room"]
        if "seq" not in event or room not in peer.seen:
            return
        peer.seen[room] += 1
        assert event["seq"] == peer.seen[room], "each event once, in order, without a hole"
        who, what = self.model.logs[room][event["seq"] - 1]
        told = event["content"] if event["event"] == "message" else event["action"]
        assert (event["sender"], told) == (who, what)

    async def read_up(self, peer: Peer) -> None:
        """Read until the peer has all that there is."""
        while any(seen < len(self.model.logs[room]) for room, seen in peer.seen.items()):
            event = await peer.talk.event()
            if "seq" in event:
                self.compare(peer, event)

    async def compare_at_rest(self) -> None:
        for peer in self.peers:
            await self.read_up(peer)

    @invariant()
    def the_log_is_the_model(self) -> None:
        """Dense, and each thing once."""
        if not hasattr(self, "chat"):
            return
        for room, log in self.model.logs.items():
            first, head, events = self.chat._repository.head(room, 1_000)  # noqa: SLF001
            assert (first, head) == (1, len(log))
            assert [event.seq for event in events] == [*range(1, len(log) + 1)]


class OnMemory(Machine):
    make = staticmethod(lambda _: MemoryRepository())


class OnSqlite(Machine):
    make = staticmethod(SqliteRepository)


TestOnMemory = OnMemory.TestCase
TestOnSqlite = OnSqlite.TestCase
