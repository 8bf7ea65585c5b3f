"""People are removed, kept out, muted and let in again, in any order and all at once.

After a kick, a ban or a leave nothing of a room goes to that person, nor comes from
them, until they are let in again.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field

from chat_transports import tcp
from chatcore import Chat, Limits, SqliteRepository, feed, hub
from chatcore.ports import Repository
from chatcore.repository.memory import MemoryRepository
from chatcore.testing import Record, Transcript, check_history, connect, read_logs
from tests.support import connected

KEEPERS = ("ada", "max")
PEOPLE = ("bob", "cyd")
ROOMS = 50
"""Rooms in one chat, for a login tells of all that one is in."""
LIMITS = Limits(
    messages=None,
    typing=None,
    changes=None,
    attempts=None,
    address_connections=None,
    user_connections=None,
    rooms_owned=ROOMS,
    buffer_bytes=3_000,
    history=7,
)
TEXT = 700
"""Characters of a message, so that who does not read is slow after a few."""


@define(eq=False)
class Device:
    """A connection; one that is slow reads nothing before the end."""

    who: str
    talk: Transcript
    record: Record
    slow: bool
    asked: list[int] = field(factory=list)
    heard: list[dict[str, Any]] = field(factory=list)
    reading: asyncio.Task[None] | None = None

    async def read(self) -> None:
        """Read until everything that was asked is answered."""
        while self.asked:
            answer = await self.talk.answer(self.asked[0])
            self.asked.pop(0)
            ANSWERS[answer.get("error", {}).get("code", "done")] += 1
            if answer.get("reply") == "join":
                self.heard += self.talk.events  # all that came before it
                self.talk.events.clear()
                self.heard.append(answer)


ANSWERS: Counter[str] = Counter()


class Interleaving:
    """One room, and what befalls those who are in it."""

    def __init__(
        self, chat: Chat, tokens: Mapping[str, str], url: str | None, chance: random.Random
    ) -> None:
        self.chat = chat
        self.tokens = tokens
        self.url = url
        self.chance = chance
        self.room = f"room{chance.getrandbits(60)}"
        self.texts = 0
        self.devices: list[Device] = []

    async def run(self) -> None:
        kind = self.chance.choice(("public", "private"))
        async with AsyncExitStack() as stack:
            for who in (*KEEPERS, *PEOPLE, *PEOPLE):
                await self._connect(stack, who)
            keeper, other = self.devices[0].talk, self.devices[1]
            await keeper.do("create", room=self.room, kind=kind)
            for who in (*KEEPERS[1:], *PEOPLE):
                await keeper.do("invite", room=self.room, username=who)
            for device in self.devices:
                assert "head" in await device.talk.do("join", room=self.room)
            await keeper.do("set_role", room=self.room, username=other.who, role="moderator")
            for _ in range(self.chance.randrange(10, 40)):
                await self._something()
            for device in self.devices:
                if device.reading is not None:
                    await device.reading
                await device.read()
            await self._compare(kind)

    async def _connect(self, stack: AsyncExitStack, who: str) -> None:
        record, slow = Record(who), who in PEOPLE and self.chance.random() < 0.5
        if self.url is not None:
            talk = await stack.enter_async_context(connected(self.url, record))
        else:
            talk, _ = await stack.enter_async_context(
                connect(self.chat, window=2_000, record=record)
            )
        assert "user" in await talk.do("login", token=self.tokens[who])
        self.devices.append(Device(who, talk, record, slow))

    async def _something(self) -> None:
        """Ask for something without waiting for what was asked before, or let some of it happen."""
        device, chance = self.chance.choice(self.devices), self.chance
        if chance.random() < 0.2:
            for _ in range(chance.randrange(6)):
                await asyncio.sleep(0)
            return
        whom = chance.choice(PEOPLE)
        if device.who in KEEPERS:
            commands = ["send", "kick", "ban", "unban", "unban", "invite", "invite"]
            cmd = chance.choice([*commands, "mute", "unmute", "unmute", "typing"])
        else:
            cmd = chance.choice(["send"] * 4 + ["join"] * 4 + ["leave", "edit", "typing", "typing"])
        fields: dict[str, object] = {"room": self.room}
        if cmd in ("send", "edit"):
            self.texts += 1
            fields["content"] = f"{self.texts}".ljust(TEXT, ".")
        elif cmd not in ("join", "leave", "typing"):
            fields["username"] = whom
        if cmd == "edit":
            fields["seq"] = chance.randrange(1, 30)
        device.asked.append(await device.talk.start(cmd, **fields))
        if not device.slow and (device.reading is None or device.reading.done()):
            device.reading = asyncio.create_task(device.read())

    async def _compare(self, kind: str) -> None:
        repository: Repository = self.chat._repository  # noqa: SLF001 - to compare with
        _, head, _ = repository.head(self.room, 0)
        for device in self.devices:  # until each has all that is due to it
            while (reading := device.record.reading(self.room)) is not None:
                if reading.due is None or reading.due > head:
                    break
                device.heard.append(await device.talk.event())
            await device.talk.do("ping")
            self._check_hints(device)
        logs = read_logs(repository, [self.room])
        records = [device.record for device in self.devices]
        assert check_history(records, logs, caught_up=True) == []
        members = {each.username for each in repository.members(self.room, "", 99)}
        for device in self.devices[2:4]:
            answer = await device.talk.do("history", room=self.room)
            if device.who not in members and kind == "private":
                role, _ = repository.place(self.room, device.who)
                code = "not_member" if role else "not_found"
                assert answer["error"]["code"] == code
            elif device.who not in members:
                _, restraint = repository.place(self.room, device.who)
                banned = restraint is not None and restraint.banned is not None
                assert banned == ("error" in answer)

    def _check_hints(self, device: Device) -> None:
        """Check that nobody is said to be typing to, or of, who has been removed."""
        gone: set[str] = set()
        for event in (*device.heard, *device.talk.events):
            match event:
                case {"event": "member", "room": self.room, "action": "join", "username": who}:
                    gone.discard(who)
                case {"event": "member", "room": self.room, "action": action, "username": who}:
                    if action in ("kick", "ban", "leave"):
                        gone.add(who)
                case {"reply": "join"}:
                    gone.clear()  # who came back meanwhile is not told
                case {"event": "typing", "room": self.room, "username": who}:
                    assert not gone & {who, device.who}
                    ANSWERS["typing told"] += 1


@pytest.mark.timeout(3_000)
@pytest.mark.parametrize("how", ["memory", "sqlite", "tcp"])
async def test_nothing_passes_to_or_from_who_was_removed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    interleavings: int,
    seed: int,
    figures: Callable[[str], None],
) -> None:
    chance = random.Random(seed)
    monkeypatch.setattr(feed, "OPENING", 4)
    monkeypatch.setattr(feed, "TAIL", 8)  # what somebody missed is mostly read from the log
    ANSWERS.clear()
    left = interleavings // (10 if how == "tcp" else 1)
    while left > 0:
        path = tmp_path / f"{left}.db"
        repository = MemoryRepository() if how == "memory" else SqliteRepository(path)
        async with Chat(repository, limits=LIMITS, bcrypt_cost=4) as chat:
            tokens = {}
            for who in (*KEEPERS, *PEOPLE):
                user = await chat.register(who, "correct horse")
                tokens[who] = (await chat.issue_token(user)).secret
            server = await tcp.listen(chat, port=0)
            with contextlib.closing(server):
                port = server.sockets[0].getsockname()[1]
                url = f"tcp://127.0.0.1:{port}" if how == "tcp" else None
                for _ in range(min(left, ROOMS)):
                    monkeypatch.setattr(hub, "SLICE", chance.choice((1, 2, 400)))
                    await Interleaving(chat, tokens, url, chance).run()
        left -= ROOMS
    told = ", ".join(f"{count} {code}" for code, count in ANSWERS.most_common())
    figures(told)
    # What is played through TCP is too little for each of the refusals to be certain.
    usual = {"done", "not_member", "banned", "muted", "typing told"}
    expected = {"done"} if how == "tcp" else usual
    assert expected <= {*ANSWERS}
