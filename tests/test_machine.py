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
import orjson
from attrs import define, field
from hypothesis import note
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from chatcore import Message, feed, fold
from chatcore.chat import Chat
from chatcore.codec import JsonLines
from chatcore.events import Durable
from chatcore.model import LOBBY, Limits
from chatcore.ports import Repository
from chatcore.repository.memory import MemoryRepository
from chatcore.repository.sql import SqliteRepository
from chatcore.testing import Transcript, connect

ROOMS = (LOBBY, "den")
USERS = ("ada", "bob", "cyd")
WIRE = JsonLines(Limits())


@define
class Happened:
    """An event, as the model has it."""

    who: str
    word: str
    """`message`, `edit` or `delete`; else what somebody's membership did."""
    text: str = ""
    target: int = 0
    by: int = 0
    """What deleted this message, by its seq."""

    def told(self) -> dict[str, object]:
        """Return what the event must say, on the log."""
        match self.word:
            case "message" | "edit":
                says: dict[str, object] = {"content": "" if self.by else self.text}
                return says | ({"erased": True} if self.by else {})
            case "delete":
                return {"target": self.target}
        return {"action": self.word}


@define
class Model:
    """What the log must hold, told by the answers alone."""

    logs: dict[str, list[Happened]] = field(factory=lambda: {room: [] for room in ROOMS})
    """For each room what happened, in seq order."""
    members: set[tuple[str, str]] = field(factory=set)
    txns: dict[tuple[str, str, str], tuple[object, int]] = field(factory=dict)

    def ask(
        self, user: str, room: str, what: Happened, txn_id: str | None, *, owner: bool = False
    ) -> tuple[str, int]:
        """Say what a command is answered with: an error's code, or a seq."""
        asked = (what.word, what.text, what.target)
        if txn_id is not None and (user, room, txn_id) in self.txns:
            first, seq = self.txns[user, room, txn_id]
            return ("", seq) if first == asked else ("txn_conflict", 0)
        if (user, room) not in self.members:
            return "not_member", 0
        seq = 0
        if what.word != "message":
            log = self.logs[room]
            message = log[what.target - 1] if 1 <= what.target <= len(log) else None
            if message is None or message.word != "message":
                return "not_found", 0
            if message.who != user and not (owner and what.word == "delete"):
                return "forbidden", 0
            if message.by and what.word == "edit":
                return "not_found", 0
            seq = message.by
        seq = seq or self.happen(what, room)
        if txn_id is not None:
            self.txns[user, room, txn_id] = (asked, seq)
        return "", seq

    def happen(self, what: Happened, room: str) -> int:
        self.logs[room].append(what)
        seq = len(self.logs[room])
        if what.word == "delete":
            for place, each in enumerate(self.logs[room], 1):
                if what.target in (place, each.target) and each.word in ("message", "edit"):
                    each.by = seq
        return seq

    def messages(self, room: str) -> list[tuple[int, str, bool, bool]]:
        """Return each message as it is now: its seq and text, whether it was edited, or erased."""
        found = []
        for seq, each in enumerate(self.logs[room], 1):
            if each.word == "message":
                edits = [e.text for e in self.logs[room] if (e.word, e.target) == ("edit", seq)]
                text = "" if each.by else [each.text, *edits][-1]
                found.append((seq, text, bool(edits) and not each.by, each.by > 0))
        return found


def folded(frames: list[dict[str, Any]]) -> list[tuple[int, str, bool, bool]]:
    """Return of each message what the model has of it."""
    return [
        (each["seq"], each["content"], "edited" in each, each.get("erased", False))
        for each in frames
    ]


@define
class Peer:
    """A connection, and where it stands in each room it has joined."""

    user: str
    talk: Transcript
    link: Any
    seen: dict[str, int] = field(factory=dict)
    """The last seq given, of each room that it listens to."""
    held: dict[str, list[Message]] = field(factory=dict)
    """Of each room that it listens to from its beginning, the messages folded from all events."""


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
        self.owner = ("ada", "den")
        """Who may delete what others sent there."""

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
        self.model.happen(Happened("ada", "join"), "den")
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
        code, seq = self.model.ask(peer.user, room, Happened(peer.user, "message", text), txn)
        answer = self.run(peer.talk.do("send", **fields))
        note(f"{peer.user} > {room}: {text!r} {txn} -> {answer}")
        assert answer.get("error", {}).get("code", "") == code
        assert answer.get("seq", 0) == seq

    @rule(
        who=st.integers(0, 9),
        room=st.sampled_from(ROOMS),
        back=st.integers(-1, 20),
        text=st.none() | st.text("AB☃", min_size=1),
        txn=st.none() | st.sampled_from("xyz"),
    )
    def edit_or_delete(
        self, who: int, room: str, back: int, text: str | None, txn: str | None
    ) -> None:
        """Edit or delete any event, or one that is not there; a message where the rules allow."""
        peer = self.peers[who % len(self.peers)]
        seqs = [seq for seq, *_ in self.model.messages(room)]
        target = max(0, seqs[-1 - back] if 0 <= back < len(seqs) else len(seqs) - back)
        cmd = "delete" if text is None else "edit"
        fields: dict[str, object] = {"room": room, "seq": target}
        fields |= {} if text is None else {"content": text}
        fields |= {} if txn is None else {"txn_id": txn}
        owner = (peer.user, room) == self.owner
        what = Happened(peer.user, cmd, text or "", target)
        code, seq = self.model.ask(peer.user, room, what, txn, owner=owner)
        answer = self.run(peer.talk.do(cmd, **fields))
        note(f"{peer.user} > {room}: {cmd} {target} {text!r} {txn} -> {answer}")
        assert answer.get("error", {}).get("code", "") == code
        assert answer.get("seq", 0) == seq

    @rule(who=st.integers(0, 9), room=st.sampled_from(ROOMS), count=st.integers(2, 30))
    def send_ahead(self, who: int, room: str, count: int) -> None:
        """Pipelined sends are stored in their order."""
        peer = self.peers[who % len(self.peers)]
        texts = [f"{next(self.numbers)}".ljust(60, ".") for _ in range(count)]
        expected = [
            self.model.ask(peer.user, room, Happened(peer.user, "message", text), None)
            for text in texts
        ]

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
            self.model.happen(Happened(peer.user, "join"), room)
        fields: dict[str, object] = {"room": room} | ({"since": since} if since else {})
        reply = self.run(peer.talk.do("join", **fields))
        note(f"{peer.user} joins {room} since {since} -> {reply}")
        self.epochs[room] = reply["epoch"]
        assert reply["head"] == len(self.model.logs[room])
        assert reply["recovered"] == (since is not None)
        peer.talk.events.clear()  # of before; what was on its way then has been compared
        peer.held.pop(room, None)
        if since is not None:
            peer.seen[room] = int(str(since["seq"]))
            if not peer.seen[room]:
                peer.held[room] = []
            for event in reply["events"]:
                self.compare(peer, event)
        else:
            peer.seen[room] = reply["head"]
            assert folded(reply["events"]) == self.model.messages(room)[-7:]

    @rule(who=st.integers(0, 9), room=st.sampled_from(ROOMS))
    def leave(self, who: int, room: str) -> None:
        peer = self.peers[who % len(self.peers)]
        member = (peer.user, room) in self.model.members
        answer = self.run(peer.talk.do("leave", room=room))
        assert ("error" in answer) == (not member)
        if member:
            self.model.members.remove((peer.user, room))
            self.model.happen(Happened(peer.user, "leave"), room)
            if self.owner == (peer.user, room):
                self.owner = ("", "")
            for each in self.peers:
                if each.user == peer.user and room in each.seen:
                    self.run(self.read_up(each))
                    assert each.seen.pop(room) == len(self.model.logs[room]), "up to the end"
                    each.held.pop(room, None)  # for it will be told no more

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
            each for each in self.model.messages(room) if before is None or each[0] < before
        ]
        shown = min(limit, 7)
        assert folded(page["messages"]) == expected[-shown:]
        assert page["complete"] == (len(expected) <= shown)
        self.run(self.read_up(peer))
        if room in peer.held:  # all that happened, folded, is what the page shows of it
            seqs = {message["seq"] for message in page["messages"]}
            mine = [WIRE.encode(each) for each in peer.held[room] if each.seq in seqs]
            assert [orjson.loads(frame) for frame in mine] == page["messages"]

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
        what = self.model.logs[room][event["seq"] - 1]
        assert event["sender"] == what.who
        if what.by and not event.get("erased"):
            # It came before its deletion, which must be still to come.
            assert peer.seen[room] < what.by
            assert event["content"] == what.text
        else:
            assert {key: event.get(key) for key in what.told()} == what.told()
        if room in peer.held:
            told = WIRE.told(orjson.dumps(event))
            assert isinstance(told, Durable)
            peer.held[room] = fold([*peer.held[room], told])

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
