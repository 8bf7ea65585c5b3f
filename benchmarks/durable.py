"""Durable messages a second that one core acknowledges: two hundred senders, a room each.

A sender sends on without waiting, up to a number of messages that are under way.  Each
is acknowledged once it is stored: ours with the reply to its command, the first
chatroom's with Socket.IO's own acknowledgement.
"""

from __future__ import annotations

from benchmarks.report import Goal, Options, Report, Row, Table, command, ratios
from benchmarks.targets import CHAT, FIRST, FIRST_CHATROOM, OURS, available, measure

SENDERS, SECONDS = 200, 4.0
IN_FLIGHT = {OURS: (1, 8, 32), FIRST: (1,)}
"""Messages of each sender that are under way.  More make the first chatroom's stack slower."""


def run(options: Options) -> Report:
    senders, seconds = SENDERS, SECONDS
    if options.quick:
        senders, seconds = 10, 0.3
    targets, notes = available((CHAT, FIRST_CHATROOM))
    rows = {
        (target.name, each): Row({"server": target.name, "in flight each": str(each)})
        for target in targets
        for each in IN_FLIGHT[target.name]
    }
    for _ in options.turns():
        for target in targets:
            phases = measure(
                target,
                options,
                senders,
                "room%d",
                *("--senders", senders),
                during=[f"p:{each}:{seconds:g}" for each in IN_FLIGHT[target.name]],
                answered=True,
            )
            for each, phase in zip(IN_FLIGHT[target.name], phases, strict=True):
                rows[target.name, each].add(
                    {
                        "sends/s": phase["msgs_per_s"],
                        "µs CPU": phase["cpu_us_per_send"],
                        "user": phase["user_us_per_send"],
                        "p50 ms": phase["p50_us"] / 1e3,
                        "p99 ms": phase["p99_us"] / 1e3,
                        "lost": phase["lost"],
                    }
                )
    most = IN_FLIGHT[OURS][-1]
    ours = rows[OURS, most].figures["sends/s"]
    what = f"durable sends, {senders} senders, {most} in flight each"
    goals = [Goal(f"{what}: a second", ours, at_least=15_000)]
    if (FIRST, 1) in rows:
        times = ratios(ours, rows[FIRST, 1].figures["sends/s"])
        goals.append(Goal(f"{what}: times {FIRST}'s", times, at_least=12))
    return Report(
        [Table(f"{senders} senders, each in a room of one", [*rows.values()])],
        goals,
        notes,
    )


if __name__ == "__main__":
    command(run)
