"""Durable sends a second and what each costs: group commit, and beside it a commit a send."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import itertools
import json
import os
import platform
import random
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

from attrs import asdict, frozen

from chatcore.events import Stored
from chatcore.journal import BATCH, Journal
from chatcore.model import LOBBY, Draft, Room, User, utcnow
from chatcore.ports import Outcome
from chatcore.repository.sql import SqliteRepository

CONTENT = "Did anyone else see that the lift is out again? Stairs it is, and mind the wet paint."
SENDERS = (1, 16, 256)
SERVED = "saturated, 0.1 ms"
LOADS = {"idle": None, "saturated, 5 ms": 0.005, SERVED: 0.0001}
"""The switch interval beside a busy loop: the interpreter's own, and the one chat-serve sets."""
WAYS = {"grouped": BATCH, "one by one": 1, "bare": 0}
"""Drafts in one commit at most; 0 is SQLite without the journal, from one thread."""
INSERT = (
    "INSERT INTO events (room_id, seq, kind, sender_id, timestamp, messages, draft, body)"
    " VALUES (1, ?, 'message', 1, ?, ?, ?, ?)"
)


@frozen
class Figures:
    sends_per_second: float
    cpu_us_per_send: float
    sends_per_commit: float


Results: TypeAlias = dict[tuple[str, int], dict[str, list[Figures]]]
"""By load and number of senders, then by way: one a round."""


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


def usernames(count: int) -> list[str]:
    return [f"user{number:03}" for number in range(count)]


def prepare(path: Path) -> None:
    """Make a database in which everyone has joined the lobby."""
    people, lobby = usernames(max(SENDERS)), Room(LOBBY)
    with contextlib.closing(SqliteRepository(path)) as repository:
        repository.open()
        repository.add_room(lobby)
        for name in people:
            repository.add_user(User(name, name), None)
        join = partial(Draft, room=lobby, kind="member", timestamp=utcnow())
        body = {"action": "join", "role": "member"}
        repository.append([join(sender=name, body=body | {"username": name}) for name in people])


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
    body = json.dumps({"content": CONTENT})
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}")
        for seq in itertools.count(1_000):  # above the joins
            row = (seq, time.time_ns() // 1_000_000, seq, random.getrandbits(63), body)
            connection.execute(INSERT, row)
            connection.commit()
            if watch.committed(1):
                return


async def run(
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


def measure(directory: Path, rounds: int, seconds: float, *, txn_ids: bool) -> Results:
    """Measure every cell of the table once a round, each on a fresh copy of one database."""
    prepare(template := directory / "template.db")
    rows = [*itertools.product(LOADS, SENDERS)]
    results: Results = {row: {way: [] for way in WAYS} for row in rows}
    usual = sys.getswitchinterval()
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
        for (load, senders), way in itertools.product(rows, WAYS):
            with tempfile.TemporaryDirectory(dir=directory) as folder:
                path = Path(shutil.copy(template, folder))
                sys.setswitchinterval(LOADS[load] or usual)
                try:
                    figures = asyncio.run(run(load, way, senders, path, seconds, txn_ids=txn_ids))
                finally:
                    sys.setswitchinterval(usual)
            results[load, senders][way].append(figures)
    return results


def spread(values: Iterable[float]) -> dict[str, float]:
    found = [round(value, 2) for value in values]
    return {"median": median(found), "least": min(found), "most": max(found)}


def report(results: Results) -> dict[str, Any]:
    """Spread what the rounds found; a ratio is of two figures of the same round."""
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for (load, senders), ways in results.items():
        rows[load, senders] = row = {"load": load, "senders": senders}
        for way, found in ways.items():
            names = asdict(found[0])
            row[way] = {name: spread(getattr(each, name) for each in found) for name in names}
        row["ratio"] = spread(
            grouped.sends_per_second / single.sends_per_second
            for grouped, single in zip(ways["grouped"], ways["one by one"], strict=True)
        )
    goals = [
        ("grouped to one by one", "idle", rows["idle", 256]["ratio"], 20),
        ("sends/s, grouped", SERVED, rows[SERVED, 256]["grouped"]["sends_per_second"], 10_000),
    ]
    return {
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "cpus": os.cpu_count(),
        "rows": [*rows.values()],
        "goals": [
            {
                "goal": f"{what}, 256 senders, {load}",
                "at_least": least,
                "measured": measured,
                "met": measured["median"] >= least,
            }
            for what, load, measured, least in goals
        ],
    }


def show(report: dict[str, Any]) -> None:
    heads = "".join(f"{way + '/s':>24}{'µs CPU':>8}" for way in WAYS)
    print(f"{'loop':<18}{'senders':>8}{heads}{'ratio':>18}{'a commit':>10}")
    for row in report["rows"]:
        line = f"{row['load']:<18}{row['senders']:>8}"
        for way in WAYS:
            line += f"{spelled(row[way]['sends_per_second']):>24}"
            line += f"{row[way]['cpu_us_per_send']['median']:>8.0f}"
        size = row["grouped"]["sends_per_commit"]["median"]
        print(f"{line}{spelled(row['ratio']):>18}{size:>10.0f}")
    for goal in report["goals"]:
        verdict = "Met" if goal["met"] else "NOT MET"
        print(f"{verdict}: {goal['goal']}: {spelled(goal['measured'])}, of {goal['at_least']:,}")


def spelled(value: dict[str, float]) -> str:
    digits = 0 if value["median"] >= 100 else 1
    return "{:,.{d}f} ({:,.{d}f}-{:,.{d}f})".format(*value.values(), d=digits)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, help="where the databases go; a real disk")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="for each measurement")
    parser.add_argument("--no-txn-ids", action="store_true", help="send without a txn_id")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--quick", action="store_true", help="see that it runs, measure nothing")
    options = parser.parse_args(arguments)
    gc.freeze()  # as chat-serve does
    gc.set_threshold(10_000, 20, 50)
    rounds, seconds = (1, 0.02) if options.quick else (options.rounds, options.seconds)
    with tempfile.TemporaryDirectory(dir=options.dir) as directory:
        found = report(measure(Path(directory), rounds, seconds, txn_ids=not options.no_txn_ids))
    show(found)
    if options.quick:
        print("Nothing of this means anything: --quick is over before anything has settled.")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
