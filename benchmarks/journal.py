"""Durable sends a second and what each costs: group commit, and beside it a commit a send."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from attrs import frozen

from benchmarks.bare import commits
from benchmarks.report import Goal, Options, Report, Row, Table, command
from benchmarks.server import CONTENT, populate, usernames
from chatcore.events import Stored
from chatcore.journal import BATCH, Journal
from chatcore.model import LOBBY, Draft, Room, utcnow
from chatcore.ports import Outcome
from chatcore.repository.sql import SqliteRepository

SECONDS = 1.5
SENDERS = (1, 16, 256)
SERVED = "saturated, 0.1 ms"
LOADS = {"idle": None, "saturated, 5 ms": 0.005, SERVED: 0.0001}
"""The switch interval beside a busy loop: the interpreter's own, and the one chat-serve sets."""
WAYS = {"grouped": BATCH, "one by one": 1, "bare": 0}
"""Drafts in one commit at most; 0 is SQLite without the journal, from one thread."""


@frozen
class Figures:
    sends_per_second: float
    cpu_us_per_send: float
    sends_per_commit: float


class Burner:
    """Keeps the loop busy: a millisecond of plain Python, one callback after the other.

    It gives up in the end: another thread may wait for the interpreter's lock for ever.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.perf_counter() + seconds
        self.on = True
        self.seconds = 0.0
        """The CPU time burnt."""

    def burn(self) -> None:
        start = time.thread_time()
        while (burnt := time.thread_time() - start) < 0.001:
            for _ in range(200):
                pass
        self.seconds += burnt
        if self.on and time.perf_counter() < self._end:
            asyncio.get_running_loop().call_soon(self.burn)


class Stopwatch:
    """Measures whole commits: from the end of one, after a warm-up, to the end of another."""

    def __init__(self, seconds: float, burner: Burner) -> None:
        self._begin = time.perf_counter() + seconds / 5
        self._end = self._begin + seconds
        self._burner = burner
        self._commits = self._sends = 0
        self._start: tuple[float, float, int, int] | None = None
        self.figures: Figures | None = None

    def committed(self, sends: int) -> bool:
        """Count one commit; say whether the figures are there."""
        self._commits += 1
        self._sends += sends
        now = time.perf_counter()
        if self.figures is None and now >= (self._end if self._start else self._begin):
            mark = (now, time.process_time() - self._burner.seconds, self._sends, self._commits)
            if self._start is None:
                self._start = mark
            else:
                wall, cpu, sent, commits = (b - a for a, b in zip(self._start, mark, strict=True))
                self.figures = Figures(sent / wall, cpu / sent * 1e6, sent / commits)
                self._burner.on = False  # what is still queued need not wait for it
        return self.figures is not None


def settle(answer: asyncio.Future[Outcome], outcome: Outcome) -> None:
    if not answer.cancelled():
        answer.set_result(outcome)


async def journal(path: Path, senders: int, batch: int, watch: Stopwatch, *, txn_ids: bool) -> None:
    """Let each sender wait for its answer before it sends again, until there are figures."""
    loop, room, measured = asyncio.get_running_loop(), Room(LOBBY), asyncio.Event()

    def publish(committed: Sequence[tuple[Draft, Stored]]) -> None:
        if watch.committed(len(committed)):
            measured.set()

    async def send(sender: str) -> None:
        for number in itertools.count():
            answer: asyncio.Future[Outcome] = loop.create_future()
            draft = Draft(
                room=room,
                sender=sender,
                kind="message",
                body={"content": CONTENT},
                timestamp=utcnow(),
                txn_id=f"laptop:{number}" if txn_ids else None,
            )
            writer.append(draft, partial(settle, answer))
            outcome = await answer
            assert isinstance(outcome, Stored), outcome

    with contextlib.closing(SqliteRepository(path)) as repository:
        repository.open()
        writer = Journal(repository, publish, batch=batch)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(send(name)) for name in usernames(senders)]
                await measured.wait()
                for task in tasks:
                    task.cancel()
        finally:
            await writer.close()


def bare(path: Path, watch: Stopwatch) -> None:
    """Insert one event's row and commit, again and again, on one connection."""
    for _ in commits(path):
        if watch.committed(1):
            return


async def measure(
    load: str, way: str, senders: int, path: Path, seconds: float, *, txn_ids: bool
) -> Figures:
    burner = Burner(seconds * 5)
    watch = Stopwatch(seconds, burner)
    if LOADS[load]:
        burner.burn()
    try:
        if WAYS[way]:
            await journal(path, senders, WAYS[way], watch, txn_ids=txn_ids)
        else:
            await asyncio.to_thread(bare, path, watch)
    finally:
        burner.on = False
    assert watch.figures is not None
    return watch.figures


def run(options: Options, seconds: float = SECONDS, txn_ids: bool = True) -> Report:
    """Measure every cell of the table once a round, each on a fresh copy of one database."""
    gc.freeze()  # as chat-serve does
    gc.set_threshold(10_000, 20, 50)
    seconds = 0.02 if options.quick else seconds
    template = options.directory / "template.db"
    populate(template, {LOBBY: usernames(max(SENDERS))})
    rows = {
        (load, senders): Row({"loop": load, "senders": str(senders)})
        for load, senders in itertools.product(LOADS, SENDERS)
    }
    usual = sys.getswitchinterval()
    for _ in options.turns():
        for (load, senders), row in rows.items():
            found = {}
            for way in WAYS:
                with tempfile.TemporaryDirectory(dir=options.directory) as folder:
                    path = Path(shutil.copy(template, folder))
                    sys.setswitchinterval(LOADS[load] or usual)
                    try:
                        found[way] = asyncio.run(
                            measure(load, way, senders, path, seconds, txn_ids=txn_ids)
                        )
                    finally:
                        sys.setswitchinterval(usual)
            for way, figures in found.items():
                row.add(
                    {
                        f"{way}/s": figures.sends_per_second,
                        f"µs CPU {way}": figures.cpu_us_per_send,
                    }
                )
            grouped, single = found["grouped"], found["one by one"]
            row.add(
                {
                    "ratio": grouped.sends_per_second / single.sends_per_second,
                    "a commit": grouped.sends_per_commit,
                }
            )
    most = max(SENDERS)
    idle, served = rows["idle", most].figures, rows[SERVED, most].figures
    return Report(
        [Table("Durable sends through the journal", [*rows.values()])],
        [
            Goal(f"grouped to one by one, {most} senders, idle loop", idle["ratio"], at_least=20),
            Goal(
                f"grouped sends/s, {most} senders, loop {SERVED}",
                served["grouped/s"],
                at_least=10_000,
            ),
        ],
    )


if __name__ == "__main__":
    command(run, seconds=SECONDS, txn_ids=True)
