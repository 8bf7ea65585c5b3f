"""How long a message takes in a room of a thousand while fifty people send without a pause.

An open loop: so many messages a second, whatever comes back, each one's time counted
from when it was due.  A load is carried when nothing is lost, and when hardly anything is
left to arrive at the end.  Other servers are offered a load that some of them carry.
"""

from __future__ import annotations

from statistics import median

from benchmarks.report import Goal, Options, Report, Row, Table, command
from benchmarks.targets import CHAT, Target, available, measure

PEOPLE, SENDERS, SECONDS = 1_000, 50, 5.0
MILLIONS = (1, 2, 3, 4, 6)
"""Deliveries that are offered each second."""
BUSY = 95
"""Percent of its core from which the load generator is what is measured."""
BEHIND = 0.2
"""Seconds, after five of load, up to which it was carried: where it is not, that grows."""


EVERYBODYS = 100.0
"""Messages a second that each server is offered: a million deliveries are too much for most."""
EVERYBODYS_SECONDS = 2.0
EVERY = 3
"""Of so many rounds the others are in one, for what they are behind takes them long."""


def run(options: Options) -> Report:
    people, senders, seconds, theirs = PEOPLE, SENDERS, SECONDS, EVERYBODYS_SECONDS
    rates = [1e6 * millions / people for millions in MILLIONS]
    if options.quick:
        people, senders, seconds, theirs, rates = 10, 5, 0.3, 0.3, [100.0]
    targets, notes = available()
    rows = {rate: Row({"offered/s": f"{rate * people:,.0f}"}) for rate in rates}
    beside = {target.name: Row({"server": target.name}) for target in targets}
    for turn in options.turns():
        for rate in rates:
            rows[rate].add(offered(options, CHAT, people, senders, rate, seconds))
        for target in targets if turn % EVERY == 0 else ():
            found = offered(options, target, people, senders, EVERYBODYS, theirs)
            beside[target.name].add(found)
    carried = [
        row.labels["offered/s"]
        for row in rows.values()
        if median(row.figures["behind s"]) <= BEHIND and median(row.figures["lost"]) == 0
    ]
    notes += [f"Carried: {', '.join(carried) or 'none'} deliveries/s."]
    notes += [
        f"At {row.labels['offered/s']} deliveries/s the load generator has no more to give."
        for row in rows.values()
        if median(row.figures["clients' core %"]) > BUSY
    ]
    least = rows[rates[0]].figures
    what = f"{rates[0] * people:,.0f} deliveries/s offered by {senders} senders, N = {people:,}"
    return Report(
        [
            Table(f"{senders} senders in a room of {people:,}", [*rows.values()]),
            Table(f"The same with {EVERYBODYS * people:,.0f} offered a second", [*beside.values()]),
        ],
        [
            Goal(f"{what}: seconds behind at the end", least["behind s"], at_most=BEHIND),
            Goal(f"{what}: messages lost", least["lost"], at_most=0),
            Goal(f"{what}: p99 in ms", least["p99 ms"], at_most=80),
        ],
        notes,
    )


def offered(
    options: Options, target: Target, people: int, senders: int, rate: float, seconds: float
) -> dict[str, float]:
    """Offer a server so many messages a second, and return what became of them."""
    load = [f"o:{rate:g}:{seconds:g}"]
    (phase,) = measure(target, options, people, "lobby", "--senders", senders, during=load)
    return {
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


if __name__ == "__main__":
    command(run)
