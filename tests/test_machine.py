"""Several peers, random commands, and a model of what the chat promises."""

from __future__ import annotations

import asyncio
import itertools
import re
import tempfile
from collections.abc import Callable, Collection, Coroutine, Mapping
from contextlib import AsyncExitStack
from datetime import timedelta
from math import inf
from pathlib import Path
from typing import Any, Literal, TypeAlias

import hypothesis.strategies as st
import orjson
import pytest
from attrs import define, evolve, field
from hypothesis import note
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from chatcore import Message, chat, feed, fold, upkeep
from chatcore.chat import Chat
from chatcore.codec import JsonLines
from chatcore.commands import LOGGED
from chatcore.errors import Conflict
from chatcore.events import Close, Durable
from chatcore.model import LOBBY, Limits, User, rfc3339
from chatcore.names import direct_room
from chatcore.ports import Repository
from chatcore.query import parse
from chatcore.repository.memory import MemoryRepository
from chatcore.repository.sql import SqliteRepository
from chatcore.testing import FakeClock, Transcript, connect

ROOMS = {LOBBY: "public", "den": "public", "nook": "private"}
USERS = ("ada", "bob", "cyd", "dee")
WITNESS = "eve"
"""Has been everywhere from the beginning, does nothing, and has nothing done to her."""
DIRECT = {direct_room(*pair): pair for pair in itertools.combinations(USERS, 2)}
ANYWHERE = st.sampled_from([*ROOMS] * 4 + [*DIRECT])
WHO = st.integers(0, 9)
WHOM = st.sampled_from(USERS)
TXN = st.none() | st.sampled_from("xyz")
EMOJI = st.sampled_from("\u2615\u2764\u2705")
RANKS = ("reader", "member", "moderator", "owner")
UNCHANGED: Mapping[str, Any] = {"slow_mode": 0, "archived": False, "retention_days": 0}
"""What is to be said of a room at first."""
DAY = 86_400
WIRE = JsonLines(Limits())


def texts(*words: str) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(words), min_size=1, max_size=3).map(" ".join)


@define
class Happened:
    """An event, as the model has it."""

    who: str
    word: str
    """`message`, `edit`, `delete`, `add`, `remove` (a reaction) or `room`; else what was done to
    somebody's membership."""
    text: str = ""
    target: int = 0
    by: int = 0
    """What deleted this message, by its seq."""
    fields: Mapping[str, Any] = field(factory=dict)
    """What else it tells: whose membership, what of the room, or what beside a text."""
    mentions: tuple[str, ...] = ()
    """The members whom its text mentioned as it was stored."""
    at: float = 0

    @property
    def kind(self) -> str:
        """The word that the log has for it."""
        if self.word in ("add", "remove"):
            return "reaction"
        return self.word if self.word in ("message", "edit", "delete", "room") else "member"

    @property
    def asked(self) -> object:
        """What must be the same where it is asked for once more."""
        return self.word, self.text, self.target, self.fields

    def told(self) -> dict[str, object]:
        """Return what the event must say, on the log."""
        match self.word:
            case "message" | "edit":
                says: dict[str, object] = {"content": "" if self.by else self.text}
                if self.by:
                    return says | {"erased": True, "reply_to": None, "mentions": None}
                mentions = [*self.mentions] if self.mentions else None
                return says | {"reply_to": self.fields.get("reply_to"), "mentions": mentions}
            case "delete":
                return {"target": self.target}
            case "add" | "remove":
                return {"target": self.target, "action": self.word, **self.fields}
            case "room":
                return {**self.fields}
        return {"action": self.word, **self.fields}


@define
class Here:
    """A room, as the model has it."""

    kind: str
    log: list[Happened] = field(factory=list)
    """What happened, in seq order, and what the room has let go of, too."""
    first: int = 1
    roles: dict[str, str] = field(factory=dict)
    """Of each member; `invited` of who is."""
    banned: dict[str, float] = field(factory=dict)
    """Until when."""
    muted: dict[str, float] = field(factory=dict)
    sanctions: dict[tuple[str, str], int] = field(factory=dict)
    """By which event somebody was last banned, or muted."""
    readers: set[str] = field(factory=set)
    """Who was made one, and stays it."""
    spoke: dict[str, float] = field(factory=dict)
    fields: dict[str, Any] = field(factory=lambda: {**UNCHANGED})
    reports: list[tuple[int, str, str]] = field(factory=list)
    reactions: dict[tuple[int, str, str], int] = field(factory=dict)
    """Of each message, emoji and user, what has put it there."""
    read: dict[str, int] = field(factory=dict)

    def members(self) -> dict[str, str]:
        return {user: role for user, role in self.roles.items() if role != "invited"}

    def messages(self, reader: str = "") -> list[Folded]:
        """Return each message as it is now, as somebody sees it."""
        found: list[Folded] = []
        for seq, each in enumerate(self.log, 1):
            if seq < self.first:
                continue
            if each.word == "message" and each.by:
                found.append((seq, "", False, True, None, [], []))
            elif each.word == "message":
                texts = [each] + [e for e in self.log if (e.word, e.target) == ("edit", seq)]
                beside: dict[str, set[str]] = {}
                for target, emoji, user in self.reactions:
                    if target == seq:
                        beside.setdefault(emoji, set()).add(user)
                tallies = sorted((-len(who), emoji, reader in who) for emoji, who in beside.items())
                found.append(
                    (
                        seq,
                        texts[-1].text,
                        len(texts) > 1,
                        False,
                        each.fields.get("reply_to"),
                        [*texts[-1].mentions],
                        [(emoji, -count, me) for count, emoji, me in tallies],
                    )
                )
        return found

    def stands(self, user: str) -> tuple[int, int, int]:
        """Return how far somebody has read, how much is unread, and how much of it is for them."""
        read = self.read[user]
        unread = [each for each in self.messages() if each[0] > read]
        return read, len(unread), sum(user in each[5] for each in unread)

    def mentioned(self, text: str) -> tuple[str, ...]:
        names = re.findall(r"@(\w+)", text.lower())
        return tuple(dict.fromkeys(name for name in names if name in self.members()))

    # What somebody may do.

    def outside(self, user: str, now: float) -> str:
        """Return what somebody who is no member is told."""
        if self.kind != "public" and user not in self.roles:
            return "not_found"
        return "banned" if self.banned.get(user, 0) > now else "not_member"

    def reads(self, user: str, now: float) -> str:
        if user in self.members():
            return ""
        code = self.outside(user, now)
        return "" if (code, self.kind) == ("not_member", "public") else code

    def judge(
        self, what: Happened, now: float, disabled: Collection[str], deleted: Collection[str]
    ) -> str:
        """Return the code of an error, or nothing."""
        user = what.who
        role = self.roles.get(user, "invited")
        if what.word == "leave" and self.roles.get(user) == "invited":
            return ""
        if role == "invited":
            return self.outside(user, now)
        match what.word:
            case "leave":
                alone = [each for each, role in self.roles.items() if role == "owner"] == [user]
                return "conflict" if alone else ""
            case "message" | "edit" | "add" if role == "reader" or self.fields["archived"]:
                return "forbidden"
            case "message" | "edit" | "add" if self.muted.get(user, 0) > now:
                return "muted"
            case "message" if not self.is_there(what.fields.get("reply_to")):
                return "not_found"
            case "message":
                slow = self.fields["slow_mode"] if role == "member" else 0
                return "rate_limited" if now < self.spoke.get(user, -inf) + slow else ""
            case "add" | "remove":
                return "" if self.is_there(what.target) else "not_found"
            case "edit" | "delete":
                return self._judge_target(what, role)
            case "room" if {"archived", "retention_days"} & what.fields.keys():
                if role != "owner":
                    return "forbidden"
        if role not in ("owner", "moderator"):
            return "forbidden"
        if what.word == "room":
            return "" if self.changes(what) else "conflict"
        if what.fields["username"] in deleted:
            return "not_found"
        return self._judge_upon(what, role, now, disabled)

    def changes(self, what: Happened) -> dict[str, Any]:
        """Return what of a room would have another value."""
        return {name: new for name, new in what.fields.items() if self.fields.get(name) != new}

    def done(self, what: Happened, now: float) -> int:
        """Return what has done it already, or 0."""
        if what.word == "delete":
            return self.log[what.target - 1].by
        there = self.reactions.get((what.target, what.fields.get("emoji", ""), what.who), 0)
        if what.word == "remove":
            return 0 if there else what.target
        if what.word in ("ban", "mute"):
            other = what.fields["username"]
            holds = (self.banned if what.word == "ban" else self.muted).get(other, 0) > now
            seq = self.sanctions.get((what.word, other), 0)
            same = holds and seq >= self.first and self.log[seq - 1].fields == what.fields
            return seq if same else 0
        return there if what.word == "add" else 0

    def is_there(self, seq: int | None) -> bool:
        """Say whether this is a message that was not deleted; None is none, and good."""
        if seq is None:
            return True
        message = self._message(seq)
        return message is not None and not message.by

    def _message(self, seq: int) -> Happened | None:
        event = self.log[seq - 1] if self.first <= seq <= len(self.log) else None
        return event if event is not None and event.word == "message" else None

    def _judge_target(self, what: Happened, role: str) -> str:
        message = self._message(what.target)
        if message is None:
            return "not_found"
        keeps_order = role in ("owner", "moderator") and what.word == "delete"
        if message.who != what.who and not keeps_order:
            return "forbidden"
        return "not_found" if message.by and what.word == "edit" else ""

    def _judge_upon(self, what: Happened, role: str, now: float, disabled: Collection[str]) -> str:
        other, given = what.fields["username"], what.fields.get("role")
        theirs = self.roles.get(other)
        if what.who == other:
            if given is None or RANKS.index(given) > RANKS.index(role):
                return "forbidden"
        elif role == "moderator" and {theirs, given} & {"owner", "moderator"}:
            return "forbidden"
        if other in disabled and (what.word == "invite" or _raises(theirs, given)):
            return "forbidden"
        match what.word:
            case "invite" if theirs is not None or self.banned.get(other, 0) > now:
                return "conflict"
            case "kick" if theirs is None:
                return "not_found"
            case "unban" if self.banned.get(other, 0) <= now:
                return "conflict"
            case "unmute" if self.muted.get(other, 0) <= now:
                return "conflict"
            case "role" if theirs in (None, "invited"):
                return "not_found"
            case "role" if theirs == given:
                return "conflict"
            case "role" if [*self.roles.values()].count("owner") == 1 and theirs == "owner":
                return "conflict"
        return ""

    # What it then does.

    def happen(self, what: Happened, now: float, until: float = inf) -> int:
        what.mentions, what.at = self.mentioned(what.text), now
        self.log.append(what)
        seq = len(self.log)
        other = what.fields.get("username", "")
        if what.word == "message":
            self.read[what.who] = seq
        match what.word:
            case "add":
                self.reactions[what.target, what.fields["emoji"], what.who] = seq
            case "remove":
                del self.reactions[what.target, what.fields["emoji"], what.who]
            case "message" if self.fields["slow_mode"] and self.roles[what.who] == "member":
                self.spoke[what.who] = now
            case "delete":
                for place, each in enumerate(self.log, 1):
                    if what.target in (place, each.target) and each.word in ("message", "edit"):
                        each.by = seq
                for key in [key for key in self.reactions if key[0] == what.target]:
                    del self.reactions[key]
            case "room":
                self.fields |= what.fields
            case "join" | "role":
                self.roles[other] = what.fields["role"]
                if what.word == "join":
                    self.read[other] = seq
                if what.word == "role":
                    self.readers.discard(other)
                    self.readers |= {other} if what.fields["role"] == "reader" else set()
            case "invite":
                self.roles[other] = "invited"
            case "leave" | "kick" | "ban":
                self.roles.pop(other, None)
                if what.word == "ban":
                    self.banned[other] = until
                    self.sanctions["ban", other] = seq
            case "unban":
                del self.banned[other]
            case "mute":
                self.muted[other] = until
                self.sanctions["mute", other] = seq
            case "unmute":
                del self.muted[other]
        return seq

    def let_go(self, now: float) -> None:
        """Forget what is too old, up to what is not; who had not read it needs to no more."""
        days = self.fields["retention_days"]
        while days and self.first <= len(self.log):
            if now - self.log[self.first - 1].at <= days * DAY:
                break
            self.first += 1
        for user, read in self.read.items():
            self.read[user] = max(read, self.first - 1)
        for key in [key for key in self.reactions if key[0] < self.first]:
            del self.reactions[key]
        self.reports = [
            (seq, user, reason if seq >= self.first else "") for seq, user, reason in self.reports
        ]

    def depart(self, user: str, now: float, closing: str) -> None:
        """Have somebody be here no more; what they said goes, too, where that is asked for."""
        if user in self.roles:
            self.happen(Happened(user, "leave", fields={"username": user}), now)
        for held in (self.banned, self.muted, self.spoke):
            held.pop(user, None)
        self.readers.discard(user)
        if closing == "keep":
            return
        for seq, each in [*enumerate(self.log, 1)]:
            if each.who != user or seq < self.first:
                continue
            if each.word == "message" and not each.by:
                self.happen(Happened(user, "delete", target=seq), now)
            key = each.target, each.fields.get("emoji", ""), user
            if each.word == "add" and key in self.reactions:
                fields = {"emoji": key[1]}
                self.happen(Happened(user, "remove", target=each.target, fields=fields), now)
        if closing == "forget":
            self.reports = [
                (seq, whose, "" if user in (whose, self.log[seq - 1].who) else reason)
                for seq, whose, reason in self.reports
            ]


@define
class Model:
    """What the logs must hold, told by the answers alone."""

    rooms: dict[str, Here] = field(factory=dict)
    txns: dict[tuple[str, str, str], tuple[object, int]] = field(factory=dict)
    disabled: set[str] = field(factory=set)
    deleted: set[str] = field(factory=set)
    now: float = 0

    def ask(
        self, room: str, what: Happened, txn_id: str | None = None, until: float = inf
    ) -> tuple[str, int]:
        """Say what a command is answered with: an error's code, or a seq."""
        if room not in self.rooms:
            return "not_found", 0
        here, key = self.rooms[room], (what.who, room, txn_id or "")
        if txn_id is not None and key in self.txns:
            first, seq = self.txns[key]
            return ("", seq) if first == what.asked else ("txn_conflict", 0)
        if code := here.judge(what, self.now, self.disabled, self.deleted):
            return code, 0
        seq = here.done(what, self.now)
        if not seq and what.word == "room":
            seq = here.happen(evolve(what, fields=here.changes(what)), self.now)
        elif not seq:
            seq = here.happen(what, self.now, until)
        if txn_id is not None:
            self.txns[key] = (what.asked, seq)
        return "", seq

    def depart(self, user: str, closing: str) -> None:
        """Have somebody's account deleted, or more of it than before."""
        self.disabled.discard(user)
        self.deleted.add(user)
        for here in self.rooms.values():
            here.depart(user, self.now, closing)
        if closing == "forget":
            for key in [key for key in self.txns if key[0] == user]:
                del self.txns[key]

    def enter(self, room: str, user: str, by: str = "", role: str = "member") -> None:
        here = self.rooms[room]
        if role == "member" and user in here.readers:
            role = "reader"
        fields = {"username": user, "role": role}
        here.happen(Happened(by or user, "join", fields=fields), self.now)


def _raises(role: str | None, given: str | None) -> bool:
    return given is not None and given in RANKS[RANKS.index(role) + 1 if role in RANKS else 0 :]


Folded: TypeAlias = tuple[int, str, bool, bool, int | None, list[str], list[tuple[str, int, bool]]]
"""A message's seq and text, whether it was edited, or erased, what it answers, whom it mentions,
and what is beside it."""


def folded(frames: list[dict[str, Any]]) -> list[Folded]:
    """Return of each message what the model has of it."""
    return [
        (
            each["seq"],
            each["content"],
            "edited" in each,
            each.get("erased", False),
            each.get("reply_to"),
            each.get("mentions", []),
            [
                (beside["emoji"], beside["count"], beside["me"])
                for beside in each.get("reactions", [])
            ],
        )
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
    members: dict[str, dict[str, str]] = field(factory=dict)
    """Of each such room, the members and their roles, by the events alone."""


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
        self.clock = FakeClock()

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        try:
            self.run(self.compare_at_rest())
            self.run(self.stack.aclose())
        finally:
            feed.OPENING, feed.TAIL, upkeep.UPKEEP_SECONDS, chat.EXPIRED = self.before
            self.loop.close()
            self.directory.cleanup()

    @initialize()
    def start(self) -> None:
        self.run(self._start())

    async def _start(self) -> None:
        # Little in memory, so that most of what somebody missed is read from the log.
        self.before = (feed.OPENING, feed.TAIL, upkeep.UPKEEP_SECONDS, chat.EXPIRED)
        feed.OPENING, feed.TAIL = 4, 10
        # Rooms let go of what is old when the machine says so.
        upkeep.UPKEEP_SECONDS, chat.EXPIRED = 3_600.0, 3
        repository = type(self).make(Path(self.directory.name) / "chat.db")
        limits = Limits(messages=None, attempts=None, buffer_bytes=2_000, history=7)
        self.chat = await self.stack.enter_async_context(
            Chat(repository, limits=limits, bcrypt_cost=4, token_days=9_999, clock=self.clock)
        )
        everybody = (*USERS, WITNESS)
        for user in everybody:
            await self.chat.register(user, "correct horse")
        self.tokens = {
            user: (await self.chat.issue_token(await self.chat.login(user, "correct horse"))).secret
            for user in everybody
        }
        for user in everybody:
            await self._connect(user)
        self.witness = self.peers.pop()
        owner = self.peers[0].talk
        self.model.rooms = {room: Here(kind) for room, kind in ROOMS.items()}
        for room, kind in ROOMS.items():
            if room != LOBBY:
                assert "room" in await owner.do("create", room=room, kind=kind)
                self.model.enter(room, "ada", role="owner")
            if kind == "private":
                what = Happened("ada", "invite", fields={"username": WITNESS})
                self.model.ask(room, what)
                await owner.do("invite", room=room, username=WITNESS)
            self.model.enter(room, WITNESS)
            joined = await self.witness.talk.do("join", room=room)
            page = await self.chat.members(await self.chat.login(WITNESS, "correct horse"), room)
            self.witness.seen[room], self.witness.held[room] = joined["head"], []
            self.witness.members[room] = {each.username: each.role for each in page.members}
            self.epochs[room] = joined["epoch"]

    async def _connect(self, user: str) -> None:
        talk, link = await self.stack.enter_async_context(connect(self.chat, window=1_000))
        assert "token" in await talk.do("login", token=self.tokens[user])
        self.peers.append(Peer(user, talk, link))

    def peer(self, who: int) -> Peer:
        return self.peers[who % len(self.peers)]

    def ask(
        self,
        peer: Peer,
        cmd: str,
        room: str,
        what: Happened,
        txn: str | None = None,
        until: int | None = None,
        **fields: object,
    ) -> str:
        """Ask the chat and the model for the same, compare what they say, and return the code."""
        fields = {name: value for name, value in fields.items() if value is not None}
        if txn is not None:
            fields["txn_id"] = txn
        if until is not None:
            fields["until"] = rfc3339(self.clock() + timedelta(seconds=until))
            what.fields = {**what.fields, "until": fields["until"]}
        end = inf if until is None else self.model.now + until
        expected = self.model.ask(room, what, txn, end)
        answer = self.run(peer.talk.do(cmd, room=room, **fields))
        note(f"{peer.user} > {cmd} {room} {fields} -> {answer}")
        code = answer.get("error", {}).get("code", "")
        assert (code, answer.get("seq", expected[1])) == expected
        return str(code)

    def end(self, user: str, room: str) -> None:
        """Somebody is no longer in a room: nothing more of it comes to any of their connections."""
        for each in self.peers:
            if each.user == user and room in each.seen:
                self.run(self.read_up(each))
                assert each.seen.pop(room) == len(self.model.rooms[room].log), "up to the end"
                each.held.pop(room, None)  # for it will be told no more

    # What may happen.

    @rule(
        who=WHO,
        room=ANYWHERE,
        text=texts("a", "☃", "@ada", "@Bob,", "@cyd"),
        back=st.none() | st.integers(-1, 20),
        txn=TXN,
    )
    def send(self, who: int, room: str, text: str, back: int | None, txn: str | None) -> None:
        """Say something, or answer any event, or one that is not there."""
        peer = self.peer(who)
        fields: dict[str, Any] = {}
        if back is not None and back < 9:  # mostly not
            fields["reply_to"] = self.some_message(room, back)
        what = Happened(peer.user, "message", text, fields=fields)
        self.ask(peer, "send", room, what, txn, content=text, **fields)

    def some_message(self, room: str, back: int) -> int:
        """Return the seq of a message, or of something else, or of nothing."""
        here = self.model.rooms.get(room, Here("direct"))
        seqs = [seq for seq, *_ in here.messages()]
        return max(0, seqs[-1 - back] if 0 <= back < len(seqs) else len(seqs) - back)

    @rule(who=WHO, room=ANYWHERE, back=st.integers(-1, 6), emoji=EMOJI, adds=st.booleans(), txn=TXN)
    def react(
        self, who: int, room: str, back: int, emoji: str, adds: bool, txn: str | None
    ) -> None:
        peer = self.peer(who)
        target = self.some_message(room, back)
        word, cmd = ("add", "react") if adds else ("remove", "unreact")
        what = Happened(peer.user, word, target=target, fields={"emoji": emoji})
        self.ask(peer, cmd, room, what, txn, seq=target, emoji=emoji)

    @rule(room=st.sampled_from([*ROOMS]), emoji=EMOJI, text=texts("a", "@ada"))
    def gather(self, room: str, emoji: str, text: str) -> None:
        """Have all be there, one say something and all react: there is much to take back then."""
        for who, peer in enumerate(self.peers):
            if peer.user not in self.model.rooms[room].members():
                self.join(who, room, None)
        for peer in self.peers[:1]:
            self.ask(peer, "send", room, Happened(peer.user, "message", text), content=text)
        target = self.some_message(room, 0)
        for peer in self.peers:
            what = Happened(peer.user, "add", target=target, fields={"emoji": emoji})
            self.ask(peer, "react", room, what, seq=target, emoji=emoji)

    @rule(who=WHO, room=ANYWHERE, back=st.integers(-1, 9))
    def mark_read(self, who: int, room: str, back: int) -> None:
        peer = self.peer(who)
        here = self.model.rooms.get(room, Here("direct"))
        seq = max(0, len(here.log) - back)
        answer = self.run(peer.talk.do("mark_read", room=room, seq=seq))
        note(f"{peer.user} has read {room} up to {seq} -> {answer}")
        if peer.user not in here.members():
            assert answer["error"]["code"] == here.outside(peer.user, self.model.now)
            return
        here.read[peer.user] = max(here.read[peer.user], min(seq, len(here.log)))
        told = (answer["read"], answer["unread"], answer["unread_mentions"])
        assert (told, answer["head"]) == (here.stands(peer.user), len(here.log))

    @rule(
        who=WHO,
        room=ANYWHERE,
        back=st.integers(-1, 20),
        text=st.none() | texts("A", "☃", "@ada", "@dee"),
        txn=TXN,
    )
    def edit_or_delete(
        self, who: int, room: str, back: int, text: str | None, txn: str | None
    ) -> None:
        """Edit or delete any event, or one that is not there; a message where the rules allow."""
        peer = self.peer(who)
        target = self.some_message(room, back)
        cmd = "delete" if text is None else "edit"
        what = Happened(peer.user, cmd, text or "", target)
        self.ask(peer, cmd, room, what, txn, seq=target, content=text)

    @rule(who=WHO, room=ANYWHERE, count=st.integers(2, 30))
    def send_ahead(self, who: int, room: str, count: int) -> None:
        """Pipelined sends are stored in their order."""
        peer = self.peer(who)
        texts = [f"{next(self.numbers)}".ljust(60, ".") for _ in range(count)]
        expected = [self.model.ask(room, Happened(peer.user, "message", text)) for text in texts]

        async def go() -> list[dict[str, Any]]:
            ids = [await peer.talk.start("send", room=room, content=text) for text in texts]
            return [await peer.talk.answer(id) for id in ids]

        answers = self.run(go())
        assert [seq for _, seq in expected] == [answer.get("seq", 0) for answer in answers]

    @rule(who=WHO, room=ANYWHERE, back=st.none() | st.integers(0, 40))
    def join(self, who: int, room: str, back: int | None) -> None:
        """Join afresh, or from any position of the log."""
        peer = self.peer(who)
        self.run(self.read_up(peer))
        here = self.model.rooms.get(room)
        since = None
        if back is not None and room in self.epochs and here is not None:
            since = {"epoch": self.epochs[room], "seq": max(0, len(here.log) - back)}
        fields: dict[str, object] = {"room": room} | ({"since": since} if since else {})
        reply = self.run(peer.talk.do("join", **fields))
        note(f"{peer.user} joins {room} since {since} -> {reply}")
        if here is None or (here.kind == "direct" and peer.user not in here.roles):
            assert reply["error"]["code"] == "not_found"
            return
        if peer.user not in here.members():
            code = here.outside(peer.user, self.model.now)
            if code != "not_member":
                assert reply["error"]["code"] == code
                return
            self.model.enter(room, peer.user)
        self.epochs[room] = reply["epoch"]
        assert reply["head"] == len(here.log)
        assert reply["role"] == here.roles[peer.user]
        since = since if since is not None and int(str(since["seq"])) >= here.first - 1 else None
        assert reply["recovered"] == (since is not None)
        assert reply["first"] == here.first
        assert {**here.fields} == {
            **UNCHANGED,
            **{name: reply["room"][name] for name in here.fields if name in reply["room"]},
        }
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
            assert folded(reply["events"]) == here.messages(peer.user)[-7:]
        assert here.stands(peer.user) == (
            reply["read"],
            reply["unread"],
            reply["unread_mentions"],
        )

    @rule(who=WHO, room=ANYWHERE)
    def leave(self, who: int, room: str) -> None:
        peer = self.peer(who)
        what = Happened(peer.user, "leave", fields={"username": peer.user})
        if not self.ask(peer, "leave", room, what):
            self.end(peer.user, room)

    @rule(who=WHO, whom=WHOM)
    def direct(self, who: int, whom: str) -> None:
        """The same two people have the same room, whichever of them asks."""
        peer = self.peer(who)
        answer = self.run(peer.talk.do("direct", username=whom))
        if peer.user == whom:
            assert answer["error"]["code"] == "invalid"
            return
        pair = next(room for room, both in DIRECT.items() if {peer.user, whom} == {*both})
        there = self.model.rooms.get(pair, Here("direct")).roles
        if whom in self.model.deleted:
            assert answer["error"]["code"] == "not_found"
            return
        if whom in self.model.disabled and whom not in there:
            assert answer["error"]["code"] == "forbidden"
            return
        room = answer["room"]["name"]
        assert room == pair
        here = self.model.rooms.setdefault(room, Here("direct"))
        here.fields |= {"title": answer["room"]["title"]}
        for user in (whom, peer.user):
            if user not in here.roles:
                self.model.enter(room, user, peer.user)

    @rule(
        who=WHO,
        room=ANYWHERE,
        cmd=st.sampled_from(["invite", "kick", "ban", "unban", "mute", "unmute"]),
        whom=WHOM,
        until=st.none() | st.integers(1, 90),
        txn=TXN,
    )
    def moderate(
        self, who: int, room: str, cmd: str, whom: str, until: int | None, txn: str | None
    ) -> None:
        peer = self.peer(who)
        known = self.model.rooms[room].roles.get(whom) if room in self.model.rooms else None
        if cmd not in ("ban", "mute"):
            until = None
        what = Happened(peer.user, cmd, fields={"username": whom})
        code = self.ask(peer, cmd, room, what, txn, until, username=whom)
        gone = not code and whom not in self.model.rooms[room].roles
        if known is not None and gone:
            self.end(whom, room)

    @rule(who=WHO, room=ANYWHERE, whom=WHOM, role=st.sampled_from(RANKS), txn=TXN)
    def set_role(self, who: int, room: str, whom: str, role: str, txn: str | None) -> None:
        peer = self.peer(who)
        what = Happened(peer.user, "role", fields={"username": whom, "role": role})
        self.ask(peer, "set_role", room, what, txn, username=whom, role=role)

    @rule(
        room=st.sampled_from([*ROOMS]),
        whom=WHOM,
        role=st.sampled_from(["reader", "member", "moderator"]),
    )
    def appoint(self, room: str, whom: str, role: str) -> None:
        """Have an owner do it, so that there are many of whom something can be asked."""
        owners = [each for each, rank in self.model.rooms[room].roles.items() if rank == "owner"]
        peer = next((each for each in self.peers if each.user in owners), None)
        if peer is not None and peer.user != whom:
            what = Happened(peer.user, "role", fields={"username": whom, "role": role})
            self.ask(peer, "set_role", room, what, username=whom, role=role)

    @rule(
        who=WHO,
        room=ANYWHERE,
        topic=st.none() | st.text("tT☃", min_size=1),
        slow_mode=st.none() | st.sampled_from([0, 5, 30]),
        archived=st.none() | st.booleans(),
        retention_days=st.none() | st.sampled_from([0, 1, 3]),
        txn=TXN,
    )
    def update(
        self,
        who: int,
        room: str,
        topic: str | None,
        slow_mode: int | None,
        archived: bool | None,
        retention_days: int | None,
        txn: str | None,
    ) -> None:
        peer = self.peer(who)
        asked: dict[str, Any] = {"topic": topic, "slow_mode": slow_mode, "archived": archived}
        asked["retention_days"] = retention_days
        fields = {name: value for name, value in asked.items() if value is not None}
        if not fields:
            fields = {"topic": "none"}
        self.ask(peer, "update", room, Happened(peer.user, "room", fields=fields), txn, **fields)

    @rule(who=WHO, room=ANYWHERE, back=st.integers(-1, 9))
    def report(self, who: int, room: str, back: int) -> None:
        peer = self.peer(who)
        here = self.model.rooms.get(room, Here("direct"))
        messages = here.messages()
        seq = messages[-1 - back][0] if 0 <= back < len(messages) else 0
        erased = not here.is_there(seq)
        answer = self.run(peer.talk.do("report", room=room, seq=seq, reason=f"{peer.user} says"))
        code = "not_found" if erased else ""
        if peer.user not in here.members():
            code = here.outside(peer.user, self.model.now)
        assert answer.get("error", {}).get("code", "") == code
        if not code and (seq, peer.user) not in [each[:2] for each in here.reports]:
            here.reports.append((seq, peer.user, f"{peer.user} says"))

    @rule(room=st.sampled_from([*ROOMS]), days=st.integers(1, 2))
    def keep(self, room: str, days: int) -> None:
        """Have an owner say it, so that rooms do let go of something."""
        owners = [each for each, rank in self.model.rooms[room].roles.items() if rank == "owner"]
        peer = next((each for each in self.peers if each.user in owners), None)
        if peer is not None:
            fields: dict[str, Any] = {"retention_days": days}
            self.ask(peer, "update", room, Happened(peer.user, "room", fields=fields), **fields)

    @rule(hours=st.integers(1, 30))
    def let_go(self, hours: int) -> None:
        """Time passes, and rooms let go of what they keep no longer; the listeners are live."""
        self.run(self.compare_at_rest())
        self.wait(hours * 3_600)
        while self.run(self.chat._expire()):  # noqa: SLF001 - which the chat does once a second
            pass
        for here in self.model.rooms.values():
            here.let_go(self.model.now)

    @rule(seconds=st.integers(1, 60))
    def wait(self, seconds: int) -> None:
        """Bans and mutes end by the clock, and turns come."""
        self.clock.advance(seconds)
        self.model.now += seconds

    @rule(user=WHOM)
    def another_device(self, user: str) -> None:
        if len(self.peers) < 7 and user not in self.model.disabled | self.model.deleted:
            self.run(self._connect(user))

    @rule(user=WHOM)
    def disable(self, user: str) -> None:
        """Their connections end; what they are in the rooms stays, until they come back."""
        if user in self.model.deleted:
            with pytest.raises(Conflict):
                self.run(self.chat.disable(User(user, user)))
        elif self.cut_off(user, self.chat.disable(User(user, user))):
            self.model.disabled.add(user)

    def cut_off(self, user: str, work: Coroutine[Any, Any, None]) -> bool:
        """Do what ends all of a user's connections, unless nobody else were there to ask."""
        theirs = [peer for peer in self.peers if peer.user == user]
        if len(theirs) == len(self.peers):
            work.close()
            return False
        for peer in theirs:
            self.run(self.read_up(peer))
            self.peers.remove(peer)
        self.run(work)
        for peer in theirs:
            assert self.run(peer.talk.goodbye())["code"] == Close.REVOKED
        return True

    @rule(user=WHOM)
    def enable(self, user: str) -> None:
        if user in self.model.disabled:
            self.run(self.chat.enable(User(user, user)))
            self.model.disabled.remove(user)
            self.tokens[user] = self.run(self.chat.issue_token(User(user, user))).secret
            self.run(self._connect(user))

    @rule(user=WHOM, closing=st.sampled_from(["keep", "erase", "forget"]))
    def delete(self, user: str, closing: Literal["keep", "erase", "forget"]) -> None:
        """For ever, so not many; of who is deleted more may be asked for."""
        if user not in self.model.deleted and len(self.model.deleted) == 2:
            return
        account = User(user, user)
        if closing == "forget":
            work = self.chat.forget(account)
        else:
            work = self.chat.delete_account(account, messages=closing)
        if self.cut_off(user, work):
            self.model.depart(user, closing)

    @rule(who=WHO)
    def hang_up(self, who: int) -> None:
        if len(self.peers) > 3:
            self.peers.pop(who % len(self.peers)).link.hang_up()

    @rule(who=WHO, room=ANYWHERE, before=st.none() | st.integers(1, 60), limit=st.integers(1, 9))
    def history(self, who: int, room: str, before: int | None, limit: int) -> None:
        peer = self.peer(who)
        here = self.model.rooms.get(room)
        fields: dict[str, object] = {"room": room, "limit": limit}
        if before is not None:
            fields["before"] = before
        page = self.run(peer.talk.do("history", **fields))
        code = here.reads(peer.user, self.model.now) if here else "not_found"
        assert page.get("error", {}).get("code", "") == code
        if code or here is None:
            return
        expected = [each for each in here.messages(peer.user) if before is None or each[0] < before]
        shown = min(limit, 7)
        assert folded(page["messages"]) == expected[-shown:]
        assert page["complete"] == (len(expected) <= shown)
        assert page["first"] == here.first
        self.run(self.read_up(peer))
        self.compare_page(peer, room, page["messages"])

    @rule(
        who=WHO,
        room=ANYWHERE,
        kinds=st.sets(st.sampled_from(LOGGED), min_size=1),
        after=st.none() | st.integers(0, 40),
    )
    def audit(self, who: int, room: str, kinds: set[str], after: int | None) -> None:
        """Whoever keeps order reads what was done, and nobody else does."""
        peer = self.peer(who)
        here = self.model.rooms.get(room)
        fields: dict[str, object] = {} if after is None else {"after": after}
        page = self.run(peer.talk.do("history", room=room, types=sorted(kinds), **fields))
        code = here.reads(peer.user, self.model.now) if here else "not_found"
        if here and kinds != {"message"}:
            role = here.members().get(peer.user)
            inside = "" if role in ("owner", "moderator") else "forbidden"
            code = inside if role else here.outside(peer.user, self.model.now)
        assert page.get("error", {}).get("code", "") == code
        if code or here is None:
            return
        edge = max(here.first - 1, after or 0)
        seqs = [seq for seq, each in enumerate(here.log, 1) if each.kind in kinds and seq > edge]
        told = sorted(each["seq"] for each in [*page["messages"], *page.get("events", [])])
        assert told == (seqs[-7:] if after is None else seqs[:7])
        for event in page.get("events", []):
            expected = here.log[event["seq"] - 1].told()
            assert {key: event.get(key) for key in expected} == expected

    @rule(
        who=WHO,
        words=st.lists(st.text("ab☃", min_size=1, max_size=2), max_size=2),
        sender=st.none() | WHOM,
        room=st.none() | ANYWHERE,
    )
    def search(self, who: int, words: list[str], sender: str | None, room: str | None) -> None:
        """All that one may read and that says so now is found, each once, and nothing else."""
        peer, now = self.peer(who), self.model.now
        text = " ".join([*words, *([f"from:{sender}"] if sender else [])]) or "before:2200-01-01"
        asked = {"query": text, "limit": 3} | ({"room": room} if room else {})
        found: list[dict[str, Any]] = []
        page: dict[str, Any] = {}
        while not found or "next" in page:
            page = self.run(peer.talk.do("search", **asked))
            if room is not None:
                here = self.model.rooms.get(room)
                code = here.reads(peer.user, now) if here else "not_found"
                assert page.get("error", {}).get("code", "") == code
            if not page.get("messages"):
                assert "next" not in page
                break
            found += page["messages"]
            asked["cursor"] = page.get("next")
        wanted = parse(text)
        expected = {
            (name, each[0]): (*each, len(here.log))
            for name, here in self.model.rooms.items()
            if room in (None, name) and not here.reads(peer.user, now)
            for each in here.messages(peer.user)
            if wanted.finds(each[1]) and not each[3] and sender in (None, here.log[each[0] - 1].who)
        }
        shown = {
            (each["room"], each["seq"]): (*told, each["head"])
            for each, told in zip(found, folded(found), strict=True)
        }
        assert len(shown) == len(found)
        assert expected == shown
        for name in {each["room"] for each in found}:
            seqs = [each["seq"] for each in found if each["room"] == name]
            assert seqs == sorted(seqs, reverse=True)

    @rule(who=WHO, room=ANYWHERE)
    def list_reports(self, who: int, room: str) -> None:
        peer = self.peer(who)
        here = self.model.rooms.get(room, Here("direct"))
        reply = self.run(peer.talk.do("reports", room=room, after=0, limit=3))
        if here.members().get(peer.user) in ("owner", "moderator"):
            told = [(each["seq"], each["username"], each["reason"]) for each in reply["reports"]]
            assert (told, reply["complete"]) == (here.reports[:3], len(here.reports) <= 3)
        else:
            outside = here.outside(peer.user, self.model.now)
            code = "forbidden" if peer.user in here.members() else outside
            assert reply["error"]["code"] == code

    @rule(who=WHO, room=ANYWHERE)
    def list_bans(self, who: int, room: str) -> None:
        """In pages of two."""
        peer = self.peer(who)
        here = self.model.rooms.get(room, Here("direct"))
        if here.members().get(peer.user) not in ("owner", "moderator"):
            outside = here.outside(peer.user, self.model.now)
            code = "forbidden" if peer.user in here.members() else outside
            reply = self.run(peer.talk.do("bans", room=room))
            assert reply["error"]["code"] == code
            return
        told: list[dict[str, Any]] = []
        complete = False
        while not complete:
            after = {"after": told[-1]["username"]} if told else {}
            reply = self.run(peer.talk.do("bans", room=room, limit=2, **after))
            told, complete = told + reply["bans"], reply["complete"]
        assert told == [
            {"username": user, **held} for user in USERS if (held := self.held(here, user))
        ]

    def held(self, here: Here, user: str) -> dict[str, Any]:
        """Return what holds somebody back now, and what the log has of it."""
        found: dict[str, Any] = {}
        for word, until in (("ban", here.banned), ("mute", here.muted)):
            end = until.get(user, 0)
            if end <= self.model.now:
                continue
            found[word] = {}
            if end != inf:
                left = timedelta(seconds=end - self.model.now)
                found[word]["until"] = rfc3339(self.clock() + left)
            seq = here.sanctions[word, user]
            if seq >= here.first:
                what = here.log[seq - 1]
                at = rfc3339(self.clock() - timedelta(seconds=self.model.now - what.at))
                found[word] |= {"seq": seq, "sender": what.who, "timestamp": at}
        return found

    @rule(who=WHO)
    def list_rooms(self, who: int) -> None:
        peer = self.peer(who)
        rooms: list[dict[str, Any]] = []
        complete = False
        while not complete:
            after = {"after": rooms[-1]["name"]} if rooms else {}
            reply = self.run(peer.talk.do("rooms", **after))
            rooms, complete = rooms + reply["rooms"], reply["complete"]
        assert {each["name"]: each.get("role") for each in rooms} == {
            name: here.roles.get(peer.user)
            for name, here in self.model.rooms.items()
            if here.kind == "public" or peer.user in here.roles
        }

    @rule(who=WHO)
    def read(self, who: int) -> None:
        """Whoever has not read until now was slow, and has missed nothing."""
        self.run(self.read_up(self.peer(who)))

    # What must hold.

    def compare(self, peer: Peer, event: dict[str, Any]) -> None:
        room = event.get("room")
        if event["event"] not in LOGGED or room not in peer.seen:
            return  # `read` has a seq, too
        peer.seen[room] += 1
        assert event["seq"] == peer.seen[room], "each event once, in order, without a hole"
        what = self.model.rooms[room].log[event["seq"] - 1]
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
            peer.held[room] = fold([*peer.held[room], told], peer.user)
        if room in peer.members and event["event"] == "member":
            if event["action"] in ("join", "role"):
                peer.members[room][event["username"]] = event["role"]
            elif event["action"] in ("leave", "kick", "ban"):
                peer.members[room].pop(event["username"], None)

    def compare_page(self, peer: Peer, room: str, page: list[dict[str, Any]]) -> None:
        """All that happened, folded, is what the page shows of it."""
        if room in peer.held:
            seqs = {message["seq"] for message in page}
            mine = [WIRE.encode(each) for each in peer.held[room] if each.seq in seqs]
            assert [orjson.loads(frame) for frame in mine] == page

    async def read_up(self, peer: Peer) -> None:
        """Read until the peer has all that there is."""
        while any(seen < len(self.model.rooms[room].log) for room, seen in peer.seen.items()):
            self.compare(peer, await peer.talk.event())

    async def compare_at_rest(self) -> None:
        for peer in self.peers:
            await self.read_up(peer)

    @invariant()
    def the_log_is_the_model(self) -> None:
        """Dense, and each thing once."""
        if not hasattr(self, "witness"):
            return
        for room, here in self.model.rooms.items():
            first, head, events = self.chat._repository.head(room, 1_000)  # noqa: SLF001
            assert (first, head) == (here.first, len(here.log))
            assert [event.seq for event in events] == [*range(first, head + 1)]

    @invariant()
    def what_is_unread_is_what_came_after_what_was_read(self) -> None:
        """Of each user in each room, and so much of it mentions them."""
        if not hasattr(self, "witness"):
            return
        for room, here in self.model.rooms.items():
            for user in here.members():
                found = self.chat._repository.membership(room, user)  # noqa: SLF001
                assert found is not None
                told = (found.read, found.unread, found.unread_mentions)
                assert told == here.stands(user), (room, user)

    @invariant()
    def who_applied_all_events_has_what_is_asked_for_afresh(self) -> None:
        """The messages of a room, and its members."""
        if not hasattr(self, "witness"):
            return
        self.run(self.read_up(self.witness))
        for room in ROOMS:
            talk, here = self.witness.talk, self.model.rooms[room]
            page = self.run(talk.do("history", room=room))["messages"]
            assert folded(page) == here.messages(WITNESS)[-7:]
            self.compare_page(self.witness, room, page)
            listed = self.run(talk.do("members", room=room))["members"]
            assert {each["username"]: each["role"] for each in listed} == here.members()
            assert self.witness.members[room] == here.members()


class OnMemory(Machine):
    make = staticmethod(lambda _: MemoryRepository())


class OnSqlite(Machine):
    make = staticmethod(SqliteRepository)


TestOnMemory = OnMemory.TestCase
TestOnSqlite = OnSqlite.TestCase
