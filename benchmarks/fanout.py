"""What a message to a room costs for each member: chat-serve, other servers, and the floor.

chat-serve does all it ever does, but for the rates: roles, a log on SQLite that is
synced, acknowledgements.  The first chatroom's stack stores too; the others hand a
message on, and no more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TypeAlias

from benchmarks.report import Goal, Options, Report, Row, Table, command, ratios
from benchmarks.targets import (
    FIRST,
    FLOOR,
    INSPIRCD,
    NAIVE,
    NATS,
    OURS,
    SOCKETIO,
    available,
    measure,
)

PEOPLE = (1_000, 10)
IN_FLIGHT = (1, 50)
SECONDS = 3.0
MOST = {
    (1_000, 1): {FLOOR: 1.2, NAIVE: 0.6, SOCKETIO: 1 / 8},
    (1_000, 50): {FLOOR: 0.06, NATS: 1, INSPIRCD: 1},
    (10, 1): {FLOOR: 3.5, FIRST: 1 / 6},
}
"""The goals, by size and messages in flight: our CPU time to that of others, at most."""
MOST_USER = {(1_000, 1): 2.2}
"""Likewise: µs of CPU time outside of the kernel."""
CPU = "µs CPU"

Rows: TypeAlias = Mapping[tuple[str, int], Row]
"""By server and messages in flight."""


def run(options: Options, people: int = 0) -> Report:
    sizes, seconds = (people,) if people else PEOPLE, SECONDS
    if options.quick:
        sizes, seconds = (10,), 0.2
    targets, notes = available()
    tables = []
    goals: list[Goal] = []
    for size in sizes:
        rows = {
            (target.name, each): Row({"server": target.name, "in flight": str(each)})
            for each in IN_FLIGHT
            for target in targets
        }
        for turn in options.turns():
            # There and back, so that what drifts in the machine favours nobody.
            for target in targets if turn % 2 == 0 else targets[::-1]:
                phases = measure(
                    target,
                    options,
                    size,
                    "lobby",
                    during=[f"c:{each}:{seconds:g}" for each in IN_FLIGHT],
                )
                for each, phase in zip(IN_FLIGHT, phases, strict=True):
                    rows[target.name, each].add(
                        {
                            CPU: phase["cpu_us_per_deliv"] or math.inf,  # nothing came
                            "user": phase["user_us_per_deliv"],
                            "p99 ms": phase["p99_us"] / 1e3,
                        }
                    )
        for (_, each), row in rows.items():
            row.figures["to floor"] = ratios(row.figures[CPU], rows[FLOOR, each].figures[CPU])
            row.figures["ours to it"] = ratios(rows[OURS, each].figures[CPU], row.figures[CPU])
        tables.append(Table(f"A message to a room of {size:,}", [*rows.values()]))
        goals += judged(rows, size)
    return Report(tables, goals, notes)


def judged(rows: Rows, size: int) -> Iterator[Goal]:
    for each in IN_FLIGHT:
        what = f"CPU for a delivery, N = {size:,}, {each} in flight"
        for server, most in MOST.get((size, each), {}).items():
            if (server, each) in rows:
                found = rows[server, each].figures["ours to it"]
                yield Goal(f"{what}: to {server}", found, at_most=most)
        if (size, each) in MOST_USER:
            user = rows[OURS, each].figures["user"]
            yield Goal(f"{what}: user, µs", user, at_most=MOST_USER[size, each])


if __name__ == "__main__":
    command(run, people=0)
