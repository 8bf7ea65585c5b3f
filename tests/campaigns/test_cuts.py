"""Connections cut at any byte, and the server killed between: each event once, each send once.

Several people talk in two rooms without a pause, each through a proxy that cuts every
connection they get.  The client library is to hide it: what its user iterates over is
the log, and what its user sends is stored once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import socket
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from attrs import define, field

from chat_transports.client import Backoff, Client, connect
from chatcore.events import Lost, Member, Message, Reset, Resumed
from chatcore.testing import Proxy, random_cuts
from chatcore.testing.proxy import no_faults
from tests.support import PASSWORD, connected, start_server, stop

PEOPLE = 6
ROOMS = ("lobby", "tea")
AHEAD = 4
"""Sends of one person to one room that are under way at once."""
MOST_BEHIND = 2_000
"""Events that the slowest may have yet to hear while others talk."""
CUTS_TO_RESTART = 50
MOST_BYTES = 60_000
PATIENCE = 60.0

Line: TypeAlias = tuple[int, str, str]
"""An event as seq, who, what: enough to tell any two apart."""


@define
class Person:
    """One user: what they sent, what was acknowledged as which seq, what the iteration gave."""

    name: str
    sent: dict[str, list[str]] = field(factory=lambda: defaultdict(list))
    acknowledged: dict[tuple[str, str], int] = field(factory=dict)
    told: dict[str, int] = field(factory=dict)
    """The highest seq of each room that was acknowledged."""
    joined: dict[str, int] = field(factory=dict)
    """The head that each room's join told."""
    heard: dict[str, list[Line]] = field(factory=lambda: defaultdict(list))
    missed: int = 0

    async def live(
        self, url: str, people: list[Person], quiet: asyncio.Event, over: asyncio.Event
    ) -> None:
        """Talk in each room until `quiet`, and listen until `over`."""
        async with (
            connect(url, username=self.name, password=PASSWORD, backoff=Backoff(0.05, 0.5)) as chat,
            asyncio.TaskGroup() as tasks,
        ):
            listening = tasks.create_task(self._listen(chat))
            for room in ROOMS:
                self.joined[room] = (await chat.join(room, history=0)).head
            for room in ROOMS:
                tasks.create_task(self._talk(chat, room, people, quiet))
            await over.wait()
            listening.cancel()

    async def _talk(
        self, chat: Client, room: str, people: list[Person], quiet: asyncio.Event
    ) -> None:
        """Send as fast as answers come and all can follow; return when all answers have come."""
        sending: set[asyncio.Task[None]] = set()
        while not quiet.is_set():
            # Whoever falls behind limits.resume is told to begin anew, and rightly so.
            while not quiet.is_set() and behind(room, people) > MOST_BEHIND:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            while len(sending) < AHEAD:
                text = f"{self.name} {len(self.sent[room])}"
                self.sent[room].append(text)
                sending.add(asyncio.create_task(self._send(chat, room, text)))
            done, sending = await asyncio.wait(sending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        await asyncio.gather(*sending)

    async def _send(self, chat: Client, room: str, text: str) -> None:
        seq = (await chat.send(room, text)).seq
        self.acknowledged[room, text] = seq
        self.told[room] = max(seq, self.told.get(room, 0))

    async def _listen(self, chat: Client) -> None:
        async for event in chat:
            match event:
                case Message():
                    self.heard[event.room].append((event.seq, event.sender, event.content))
                case Member():
                    line = event.seq, event.sender, f"{event.action} {event.username}"
                    self.heard[event.room].append(line)
                case Resumed():
                    self.missed += event.missed
                case Reset() | Lost():
                    raise AssertionError(f"{self.name} was told {event!r:.200}")
        raise AssertionError(f"{self.name} was turned away: {chat.error}")

    def last(self, room: str) -> int:
        """The last seq that the iteration gave."""
        heard = self.heard[room]
        return heard[-1][0] if heard else self.joined.get(room, 0)

    def has_heard(self, heads: dict[str, int]) -> bool:
        return all(self.last(room) == head for room, head in heads.items())


def behind(room: str, people: list[Person]) -> int:
    """How far the last one is behind what the first one knows of."""
    acknowledged = max(person.told.get(room, 0) for person in people)
    return acknowledged - min(person.last(room) for person in people)


@pytest.mark.timeout(900)
async def test_each_event_and_each_send_is_there_once_whatever_is_cut(
    tmp_path: Path, cuts: int, seed: int, figures: Callable[[str], None]
) -> None:
    database, started = tmp_path / "chat.db", time.monotonic()
    ports = {"ws": free_port(), "tcp": free_port()}
    options = ("--limits", "none", "--port", str(ports["ws"]), "--tcp-port", str(ports["tcp"]))
    people = [Person(f"user{number}") for number in range(PEOPLE)]
    server = await start_server(database, *options)
    for person in people:
        async with connected(server.urls["tcp"]) as peer:
            await peer.do("register", username=person.name, password=PASSWORD)
            await peer.do("create", room="tea")  # the first one does
    quiet, over = asyncio.Event(), asyncio.Event()
    restarts = 0
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(lambda: stop(server))
        proxies = {door: await stack.enter_async_context(Proxy(ports[door])) for door in ports}
        urls = [f"{door}://127.0.0.1:{proxy.port}" for door, proxy in proxies.items()]
        living = asyncio.gather(
            *(
                person.live(urls[number % len(urls)], people, quiet, over)
                for number, person in enumerate(people)
            )
        )

        async def until(condition: Callable[[], bool]) -> None:
            async with asyncio.timeout(PATIENCE):
                while not condition():
                    if living.done():
                        living.result()
                    await asyncio.sleep(0.005)

        def made() -> int:
            return sum(proxy.cuts for proxy in proxies.values())

        async def until_cut(goal: int) -> None:
            await until(lambda: made() >= goal)

        # Whoever connects for the first time is told of a failure; from then on nobody is.
        await until(lambda: all(person.acknowledged for person in people))
        for door, proxy in proxies.items():
            proxy.script = random_cuts(random.Random(f"{seed} {door}"), MOST_BYTES)
            proxy.cut_now()
        every = min(CUTS_TO_RESTART, cuts // 2)
        while made() < cuts:
            goal = min(cuts, every * (restarts + 1))
            await until_cut(goal)
            server.signal((signal.SIGKILL, signal.SIGTERM)[restarts % 2])
            await server.exit_code()
            assert not any("Traceback" in line for line in server.log)
            server = await start_server(database, *options)
            restarts += 1

        for proxy in proxies.values():
            proxy.script = no_faults
            proxy.cut_now()
        quiet.set()
        await until(
            lambda: all(len(p.acknowledged) == sum(map(len, p.sent.values())) for p in people)
        )
        heads = {room: len(log) for room, log in stored(database).items()}
        await until(lambda: all(person.has_heard(heads) for person in people))
        over.set()
        await living
    assert not any("Traceback" in line for line in server.log)
    check(stored(database), people)
    figures(
        f"{made()} cuts, {restarts} restarts, "
        f"{sum(len(person.acknowledged) for person in people)} sends, "
        f"{sum(len(log) for person in people for log in person.heard.values())} events, "
        f"{sum(person.missed for person in people)} of them missed and made good, "
        f"{time.monotonic() - started:.1f} s"
    )


def check(logs: dict[str, list[Line]], people: list[Person]) -> None:
    """Heard = stored from the join on; acknowledged = sent, each stored once, in its order."""
    for room, log in logs.items():
        assert [seq for seq, _, _ in log] == [*range(1, len(log) + 1)], "dense"
        for person in people:
            assert person.heard[room] == log[person.joined[room] :], "each event, once, in order"
            mine = [
                (text, seq)
                for seq, sender, text in log
                if (sender, text[:4]) == (person.name, "user")
            ]
            assert [(text, person.acknowledged[room, text]) for text in person.sent[room]] == mine


def stored(database: Path) -> dict[str, list[Line]]:
    """Return what the database holds of each room."""
    with contextlib.closing(sqlite3.connect(database)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        rows = db.execute(
            "SELECT rooms.name, seq, username, events.kind, body FROM events"
            " JOIN rooms ON rooms.id = room_id JOIN users ON users.id = sender_id ORDER BY seq"
        ).fetchall()
    logs: dict[str, list[Line]] = {room: [] for room in ROOMS}
    for room, seq, sender, kind, text in rows:
        body = json.loads(text)
        what = body["content"] if kind == "message" else f"{body['action']} {body['username']}"
        logs[room].append((seq, sender, what))
    return logs


def free_port() -> int:
    """Return a port that no connection out of this machine gets while a server is away."""
    while True:
        port = random.randint(10_000, 30_000)
        with contextlib.suppress(OSError), socket.socket() as free:
            free.bind(("127.0.0.1", port))
            return port
