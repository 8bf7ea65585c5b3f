"""How long one message takes to be acknowledged by a server that has nothing else to do.

One client, one message at a time, over a WebSocket; and beside it, on the same core and
disk, SQLite that inserts the same row and commits.
"""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from statistics import median

from benchmarks.bare import commits
from benchmarks.report import Goal, Options, Report, Row, Table, command, quantile, ratios
from benchmarks.server import first_core, on, populate, usernames
from benchmarks.targets import CHAT, FIRST_CHATROOM, OURS, available, measure

SECONDS = 3.0
BARE = "bare INSERT and COMMIT"


def run(options: Options) -> Report:
    seconds = 0.3 if options.quick else SECONDS
    targets, notes = available((CHAT, FIRST_CHATROOM))
    rows = {name: Row({"": name}) for name in (BARE, *(target.name for target in targets))}
    for _ in options.turns():
        rows[BARE].add(bare(options.directory / "bare.db", seconds))
        for target in targets:
            phase = measure(
                target, options, 1, "lobby", during=[f"c:1:{seconds:g}"], answered=True
            )[0]
            rows[target.name].add(
                {
                    "p50 µs": phase["p50_us"],
                    "p99 µs": phase["p99_us"],
                    "µs CPU": phase["cpu_us_per_send"],
                    "user": phase["user_us_per_send"],
                }
            )
    base = rows[BARE].figures["p50 µs"]
    for row in rows.values():
        row.figures["to bare"] = ratios(row.figures["p50 µs"], base)
    return Report(
        [Table("From a message to its acknowledgement", [*rows.values()])],
        [Goal("one send to its ack, to a bare commit", rows[OURS].figures["to bare"], at_most=2.5)],
        notes,
    )


def bare(path: Path, seconds: float) -> dict[str, float]:
    """Commit so long, and say how long one commit took."""
    populate(path, {"lobby": usernames(1)})
    with on(first_core()):
        used, end = time.process_time(), time.monotonic() + seconds
        took = list(itertools.takewhile(lambda _: time.monotonic() < end, commits(path)))
        used = time.process_time() - used
    return {
        "p50 µs": 1e6 * median(took),
        "p99 µs": 1e6 * quantile(took, 0.99),
        "µs CPU": 1e6 * used / len(took),
    }


if __name__ == "__main__":
    command(run)
