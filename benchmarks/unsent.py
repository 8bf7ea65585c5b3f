"""What `TCP_NOTSENT_LOWAT` costs, and what it keeps out of the kernel.

chat-serve as it is, and where Python does not know the option, in turn: what a message
to a thousand costs, what reading old messages in bulk costs, and how much the kernel
holds for somebody who has read in bulk and then stops.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from pathlib import Path

import orjson

from benchmarks.report import Options, Report, Row, Table, command, ratios
from benchmarks.server import Server, populate, serving, token
from benchmarks.targets import CHAT, WITHOUT_LOWAT, measure
from chatcore.model import LOBBY

PEOPLE, SECONDS = 1_000, 3.0
MESSAGES, PAGE, PAGES = 1_000, 100, 2_000
AT_ONCE = 60
"""Pages that are asked for before the first has come: a client of ours may have 64."""
UNREAD = 300
"""Pages that are asked for and not read, 20 KiB each."""


def run(options: Options) -> Report:
    people, seconds, pages, unread = PEOPLE, SECONDS, PAGES, UNREAD
    if options.quick:
        people, seconds, pages, unread = 10, 0.2, AT_ONCE, 20
    kept, unset = Row({"TCP_NOTSENT_LOWAT": "16 KiB"}), Row({"TCP_NOTSENT_LOWAT": "not set"})
    for turn in options.turns():
        ways = [(kept, CHAT), (unset, WITHOUT_LOWAT)]
        for row, target in ways if turn % 2 == 0 else ways[::-1]:
            alone, together = measure(
                target, options, people, LOBBY, during=[f"c:{n}:{seconds:g}" for n in (1, 50)]
            )
            row.add(
                {
                    "µs CPU, one in flight": alone["cpu_us_per_deliv"],
                    "µs CPU, fifty": together["cpu_us_per_deliv"],
                    **in_bulk(options.directory / "bulk.db", pages, unread, target.prelude),
                }
            )
    ratio = Row({"TCP_NOTSENT_LOWAT": "ratio"})
    for name, figures in kept.figures.items():
        ratio.figures[name] = ratios(figures, unset.figures[name])
    return Report([Table("With the option and without", [kept, unset, ratio])], [])


def in_bulk(database: Path, pages: int, unread: int, prelude: str) -> Mapping[str, float]:
    """Read so many pages as fast as they come, then ask for more and read none of those."""
    populate(database, {LOBBY: ["user0"]}, MESSAGES)
    with (
        serving(database, prelude=prelude) as server,
        socket.socket() as sock,
        sock.makefile("rb") as lines,
    ):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)  # or it holds all of it
        sock.connect(("127.0.0.1", server.ports["tcp"]))
        ask(sock, {"cmd": "login", "id": 0, "token": token("user0")})
        lines.readline()  # hello
        lines.readline()
        before, size = server.cpu_seconds(), 0
        for number in range(pages + AT_ONCE):
            if number < pages:
                ask(sock, OLD)
            if number >= AT_ONCE:
                size += len(lines.readline())
        cpu = server.cpu_seconds() - before
        for _ in range(unread):
            ask(sock, OLD)
        return {
            "ms CPU a MiB in bulk": 1e3 * cpu / (size / 2**20),
            "KiB held": settled(server) / 2**10,
        }


OLD = {"cmd": "history", "id": 1, "room": LOBBY, "limit": PAGE, "before": MESSAGES // 2}


def ask(sock: socket.socket, what: Mapping[str, object]) -> None:
    sock.sendall(orjson.dumps(what, option=orjson.OPT_APPEND_NEWLINE))


def settled(server: Server) -> int:
    """Return the bytes that the kernel holds for the server's clients, once that stays the same."""
    same, found = 0, held(server)
    while same < 10:
        time.sleep(0.05)  # noqa: TID251 - the kernel tells nobody
        before, found = found, held(server)
        same = same + 1 if found == before else 0
    return found


def held(server: Server) -> int:
    """Return the bytes in send queues of the server's TCP door (Linux)."""
    door = f":{server.ports['tcp']:04X}"
    table = (line.split() for line in Path("/proc/net/tcp").read_text("ascii").splitlines())
    return sum(int(line[4].partition(":")[0], 16) for line in table if line[1].endswith(door))


if __name__ == "__main__":
    command(run)
