"""Connections cut at any byte, and the server killed between: each event once, each send once.

Several people talk in two rooms without a pause, each through a proxy that cuts every
connection they get.  The client library is to hide it: what its user iterates over is
the log, and what its user sends, edits and deletes is stored once.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from attrs import define, field

from chat_transports.client import Backoff, Client, connect
from chatcore.events import Lost, Reset, Resumed
from chatcore.testing import Proxy, Record, Recorded, in_turn, random_cuts, read_logs
from tests.campaigns.crowd import say
from tests.support import PASSWORD, check_database, connected, free_port, start_server, stop

PEOPLE = 6
ROOMS = ("lobby", "tea")
AHEAD = 4
"""Sends of one person to one room that are under way at once."""
MOST_BEHIND = 2_000
"""Events that the slowest may have yet to hear while others talk."""
CUTS_TO_RESTART = 50
MOST_BYTES = 60_000
PATIENCE = 60.0


@define
class Person:
    """One user, and what they sent and heard."""

    record: Record
    told: dict[str, int] = field(factory=dict)
    """The highest seq of each room that was acknowledged."""
    missed: int = 0
    mine: dict[str, list[int]] = field(factory=lambda: {room: [] for room in ROOMS})
    """Messages of each room that may be edited and deleted."""
    chance: random.Random = field(factory=random.Random)
    _numbers: Iterator[int] = field(factory=itertools.count)

    async def live(
        self, url: str, people: list[Person], quiet: asyncio.Event, over: asyncio.Event
    ) -> None:
        """Talk in each room until `quiet`, and listen until `over`."""
        async with (
            connect(
                url, username=self.record.who, password=PASSWORD, backoff=Backoff(0.05, 0.5)
            ) as client,
            asyncio.TaskGroup() as tasks,
        ):
            chat = Recorded(client, self.record)
            listening = tasks.create_task(self._listen(chat, client))
            for room in ROOMS:
                await chat.join(room, history=0)
            for room in ROOMS:
                tasks.create_task(self._talk(chat, room, people, quiet))
            await over.wait()
            listening.cancel()

    async def _talk(
        self, chat: Recorded, room: str, people: list[Person], quiet: asyncio.Event
    ) -> None:
        """Send as fast as answers come and all can follow; return when all answers have come."""
        sending: set[asyncio.Task[None]] = set()
        while not quiet.is_set():
            # Whoever falls behind limits.resume is told to begin anew, and rightly so.
            while not quiet.is_set() and behind(room, people) > MOST_BEHIND:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            while len(sending) < AHEAD:
                text = f"{self.record.who} {next(self._numbers)}"
                sending.add(asyncio.create_task(self._send(chat, room, text)))
            done, sending = await asyncio.wait(sending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        await asyncio.gather(*sending)

    async def _send(self, chat: Recorded, room: str, text: str) -> None:
        seq = await say(chat, room, text, self.mine[room], self.chance)
        self.told[room] = max(seq, self.told.get(room, 0))

    async def _listen(self, chat: Recorded, client: Client) -> None:
        async for event in chat:
            match event:
                case Resumed():
                    self.missed += event.missed
                case Reset() | Lost():
                    raise AssertionError(f"{self.record.who} was told {event!r:.200}")
        raise AssertionError(f"{self.record.who} was turned away: {client.error}")

    def last(self, room: str) -> int:
        """The last seq that the iteration gave."""
        reading = self.record.reading(room)
        return reading.due - 1 if reading and reading.due else 0

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
    people = [
        Person(Record(f"user{number}"), chance=random.Random(f"{seed} {number}"))
        for number in range(PEOPLE)
    ]
    records = [person.record for person in people]
    server = await start_server(database, *options)
    for person in people:
        async with connected(server.urls["tcp"]) as peer:
            await peer.do("register", username=person.record.who, password=PASSWORD)
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
        await until(lambda: all(person.told for person in people))
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
            proxy.script = in_turn()
            proxy.cut_now()
        quiet.set()
        await until(lambda: all(each.acknowledged == len(each.sends) for each in records))
        heads = {room: log.head for room, log in read_logs(database, ROOMS).items()}
        await until(lambda: all(person.has_heard(heads) for person in people))
        over.set()
        await living
    assert not any("Traceback" in line for line in server.log)
    check_database(database, ROOMS, records, caught_up=True)
    readings = [reading for each in records for room in ROOMS for reading in each.readings[room]]
    assert len(readings) == len(records) * len(ROOMS), "and none of them had to begin anew"
    figures(
        f"{made()} cuts, {restarts} restarts, "
        f"{sum(record.acknowledged for record in records)} sends, "
        f"{sum(len(reading.seen) for reading in readings)} events, "
        f"{sum(person.missed for person in people)} of them missed and made good, "
        f"{time.monotonic() - started:.1f} s; 0 violations"
    )
