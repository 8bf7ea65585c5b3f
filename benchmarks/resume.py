"""What it takes until all are back who lost their connections at once, a hundred events behind.

All of them in one room, and in rooms of ten.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks import generator
from benchmarks.report import Goal, Options, Report, Row, Table, command
from benchmarks.server import EPOCH, populate, serving, usernames

PEOPLE, BEHIND = 2_000, 100
OF_TEN = 10


def run(options: Options) -> Report:
    people = 40 if options.quick else PEOPLE
    sizes = {"one room": people, "rooms of ten": OF_TEN}
    rows = {name: Row({"where": name}) for name in sizes}
    for _ in options.turns():
        for name, size in sizes.items():
            found = resume(options, people, size)
            rows[name].add(
                {
                    "seconds": found["connect_s"],
                    "µs CPU each": found["conn_cpu_us"],
                    "KiB each": found["kib_per_conn"],
                }
            )
    goals = [
        goal
        for name, row in rows.items()
        for goal in (
            Goal(f"{people:,} back, {name}: seconds", row.figures["seconds"], at_most=5),
            Goal(f"{people:,} back, {name}: KiB for each", row.figures["KiB each"], at_most=64),
        )
    ]
    return Report([Table(f"{people:,} clients, {BEHIND} events behind", [*rows.values()])], goals)


def resume(options: Options, people: int, size: int) -> Mapping[str, Any]:
    """Have all come back at once to rooms of that size, and return what that took."""
    database, names = options.directory / "chat.db", usernames(people)
    rooms = {
        f"room{start // size}": names[start : start + size] for start in range(0, people, size)
    }
    populate(database, rooms, BEHIND)
    since = f'{{"epoch":"{EPOCH}","seq":{size}}}'  # after everybody's joining
    steps = (
        's:{"cmd":"login","id":1,"token":"cc_user%d"}',
        'w:"reply":"login"',
        f's:{{"cmd":"join","id":2,"room":"room%r","since":{since}}}',
        'w:"recovered":true',
    )
    program = generator.build(options.directory)
    with serving(database) as server:
        url = f"ws://127.0.0.1:{server.ports['ws']}/ws"
        every = ("--room", size, "--conc", people)
        with generator.crowd(program, url, server.pid, people, steps, *every) as report:
            return report


if __name__ == "__main__":
    command(run)
