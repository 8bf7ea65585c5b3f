"""How long a message takes in a room of a thousand while fifty people send without a pause.

An open loop: so many messages a second, whatever comes back, each one's time counted
from when it was due.  A load is carried when nothing is lost, and when what has not
arrived by the end is less than a second's.
"""

from __future__ import annotations

from statistics import median

from benchmarks.report import Goal, Options, Report, Row, Table, command
from benchmarks.targets import CHAT, measure

PEOPLE, SENDERS, SECONDS = 1_000, 50, 5.0
MILLIONS = (1, 2, 3, 4, 6)
"""Deliveries that are offered each second."""
BUSY = 95
"""Percent of its core from which the load generator is what is measured."""
BEHIND = 0.2
"""Seconds, after five of load, up to which it was carried: where it is not, that grows."""


def run(options: Options) -> Report:
    people, senders, seconds = PEOPLE, SENDERS, SECONDS
    rates = [1e6 * millions / people for millions in MILLIONS]
    if options.quick:
        people, senders, seconds, rates = 10, 5, 0.3, [100.0]
    rows = {rate: Row({"offered/s": f"{rate * people:,.0f}"}) for rate in rates}
    for _ in options.turns():
        for rate in rates:
            phase = measure(
                CHAT,
                options,
                people,
                "lobby",
                *("--senders", senders),
                during=[f"o:{rate:g}:{seconds:g}"],
            )[0]
            rows[rate].add(
                {
                    "deliveries/s": (phase["sent"] - phase["inflight_end"]) * people / seconds,
                    "behind s": phase["inflight_end"] / rate,
                    "lost": phase["lost"],
                    "p50 ms": phase["p50_us"] / 1e3,
                    "p99 ms": phase["p99_us"] / 1e3,
                    "p99.9 ms": phase["p999_us"] / 1e3,
                    "µs CPU": phase["cpu_us_per_deliv"],
                    "server's core %": phase["server_cpu_pct"],
                    "clients' core %": phase["load_cpu_pct"],
                }
            )
    carried = [
        row.labels["offered/s"]
        for row in rows.values()
        if median(row.figures["behind s"]) <= BEHIND and median(row.figures["lost"]) == 0
    ]
    notes = [f"Carried: {', '.join(carried) or 'none'} deliveries/s."]
    notes += [
        f"At {row.labels['offered/s']} deliveries/s the load generator has no more to give."
        for row in rows.values()
        if median(row.figures["clients' core %"]) > BUSY
    ]
    least = rows[rates[0]].figures
    what = f"{rates[0] * people:,.0f} deliveries/s offered by {senders} senders, N = {people:,}"
    return Report(
        [Table(f"{senders} senders in a room of {people:,}", [*rows.values()])],
        [
            Goal(f"{what}: seconds behind at the end", least["behind s"], at_most=BEHIND),
            Goal(f"{what}: messages lost", least["lost"], at_most=0),
            Goal(f"{what}: p99 in ms", least["p99 ms"], at_most=80),
        ],
        notes,
    )


if __name__ == "__main__":
    command(run)
