"""What a connection costs: to come in, log in by token and join, and then to be there.

People come back to rooms of ten that they are members of.  Live: one of the ten is there
before them, so the newest of the room is in memory.  Cold: the server has just started.
What an idle connection holds is beside that of servers that know no rooms, logins or log.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import generator
from benchmarks.report import Goal, Options, Report, Row, Table, command
from benchmarks.server import populate, serving, usernames
from benchmarks.targets import NAIVE, OURS, SOCKETIO, TARGETS, available, running

ROOMS, COMING, MESSAGES = 200, 9, 100
"""Rooms, who comes to each, and what was said there."""
PEERS = (NAIVE, SOCKETIO)


def steps(who: str, room: str) -> Sequence[str]:
    return (
        f's:{{"cmd":"login","id":1,"token":"cc_{who}"}}',
        'w:"reply":"login"',
        f's:{{"cmd":"join","id":2,"room":"{room}"}}',
        'w:"reply":"join"',
    )


def run(options: Options) -> Report:
    rooms = 4 if options.quick else ROOMS
    coming = COMING * rooms
    targets, notes = available([each for each in TARGETS if each.name in PEERS])
    came = {kind: Row({OURS: kind}) for kind in ("live", "cold")}
    held = {name: Row({"server": name}) for name in (OURS, *(each.name for each in targets))}
    for _ in options.turns():
        for kind, row in came.items():
            row.add(figures(come(options, rooms, is_live=kind == "live")))
        program = generator.build(options.directory)
        for target in targets:
            with running(target, options.directory, coming, "lobby") as (pid, port):
                url = target.url.format(port=port)
                with generator.crowd(program, url, pid, coming, target.steps) as report:
                    held[target.name].add(figures(report))
    held[OURS].figures.update(came["cold"].figures)
    what = "connect, log in by token, join"
    return Report(
        [
            Table("To connect, log in by token and join a room of ten", [*came.values()]),
            Table("Beside servers that only connect", [*held.values()]),
        ],
        [
            Goal(f"{what}, live: a second", came["live"].figures["connections/s"], at_least=1_000),
            Goal(f"{what}, cold: a second", came["cold"].figures["connections/s"], at_least=500),
            Goal("KiB for each idle connection", held[OURS].figures["KiB each"], at_most=30),
        ],
        notes,
    )


def figures(report: Mapping[str, Any]) -> dict[str, float]:
    return {
        "connections/s": report["conn_per_s"],
        "µs CPU": report["conn_cpu_us"],
        "KiB each": report["kib_per_conn"],
    }


def come(options: Options, rooms: int, *, is_live: bool) -> Mapping[str, Any]:
    """Have people come to each room, and return what that took."""
    database, names = options.directory / "chat.db", usernames(COMING * rooms)
    populate(
        database,
        {
            f"room{number}": [f"host{number}", *names[COMING * number : COMING * (number + 1)]]
            for number in range(rooms)
        },
        MESSAGES,
    )
    program = generator.build(options.directory)
    with serving(database) as server, contextlib.ExitStack() as stack:
        url = f"ws://127.0.0.1:{server.ports['ws']}/ws"
        if is_live:
            hosts = generator.crowd(program, url, server.pid, rooms, steps("host%d", "room%d"))
            stack.enter_context(hosts)
        crowd = generator.crowd(
            program, url, server.pid, len(names), steps("user%d", "room%r"), "--room", COMING
        )
        return stack.enter_context(crowd)


if __name__ == "__main__":
    command(run)
