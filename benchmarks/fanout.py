"""What a message to a room of a thousand costs: chat-serve, and beside it others and the floor.

chat-serve does all it ever does, but for the rates: roles, a log on SQLite that is
synced, acknowledgements.  The others hand a message on, and no more.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from attrs import define, field, frozen

from benchmarks.server import populate, serving

HERE = Path(__file__).parent
SECONDS = 3
IN_FLIGHT = (1, 50)
FLOOR, OURS = "floor", "chat-serve"
SEND = '{"cmd":"send","room":"lobby","content":"%B"}'
LOGIN = (
    's:{"cmd":"login","id":1,"token":"cc_user%d"}',
    'w:"reply":"login"',
    's:{"cmd":"join","id":2,"room":"lobby","history":0}',
    'w:"reply":"join"',
)


@frozen
class Target:
    """A server, and how its clients come in and send."""

    name: str
    url: str
    steps: Sequence[str] = ()
    send: str = SEND
    module: str | None = None


TARGETS = (
    Target(FLOOR, "ws://127.0.0.1:{port}/", module="floor"),
    Target(OURS, "ws://127.0.0.1:{port}/ws", LOGIN, SEND.replace('"send"', '"send","id":3')),
    Target("Starlette, a send each", "ws://127.0.0.1:{port}/", module="naive"),
    Target(
        "python-socketio",
        "sio://127.0.0.1:{port}/socket.io/?EIO=4&transport=websocket",
        ("w:sid", "s:40", "w:40{"),
        '42["send_message",{"content":"%B"}]',
        "room",
    ),
)


@define
class Measured:
    """Of one target and so many in flight, one figure a round; µs of CPU for a delivery."""

    cpu: list[float] = field(factory=list)
    user: list[float] = field(factory=list)
    p99_ms: list[float] = field(factory=list)
    per_second: list[float] = field(factory=list)


def build(directory: Path) -> Path:
    """Compile the load generator."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        sys.exit("benchmarks.fanout needs a C compiler, for its load generator")
    program = directory / "fanload"
    source = HERE / "load" / "fanload.c"
    made = subprocess.run(
        [compiler, "-O2", "-o", program, source, "-lz"], capture_output=True, text=True, check=False
    )
    if made.returncode:
        sys.exit(f"benchmarks.fanout needs zlib's headers (zlib1g-dev):\n{made.stderr}")
    return program


@contextlib.contextmanager
def running(target: Target, directory: Path, people: int) -> Iterator[tuple[int, int]]:
    """Run a target's server on the first core; give its process and its port."""
    if target.module is None:
        database = directory / "chat.db"
        for file in directory.glob("chat.db*"):
            file.unlink()
        populate(database, people)
        with serving(database) as server:
            yield server.pid, server.ports["ws"]
        return
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = [sys.executable, "-m", f"benchmarks.peers.{target.module}", str(port)]
    process = subprocess.Popen(words, cwd=HERE.parent)
    os.sched_setaffinity(process.pid, [min(os.sched_getaffinity(0))])
    try:
        for _ in range(1_000):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.01)
        yield process.pid, port
    finally:
        process.kill()
        process.wait()


def load(
    program: Path, target: Target, pid: int, port: int, people: int, seconds: float
) -> Sequence[dict[str, Any]]:
    """Have the load generator, on the last core, fill the room; return its phases."""
    core = max(os.sched_getaffinity(0))
    words = [program, "--url", target.url.format(port=port), "--n", people, "--pids", pid]
    words += [word for step in target.steps for word in ("--step", step)]
    words += ["--send", target.send]
    words += [word for each in IN_FLIGHT for word in ("--phase", f"c:{each}:{seconds:g}")]
    ran = subprocess.run(
        [str(word) for word in words],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, [core]),
    )
    phases: Sequence[dict[str, Any]] = json.loads(ran.stdout)["phases"]
    return phases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--people", type=int, default=1_000)
    parser.add_argument("--dir", type=Path, help="where the database is made")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    parser.add_argument("--quick", action="store_true", help="see that it runs, and no more")
    options = parser.parse_args()
    rounds, people, seconds = options.rounds, options.people, float(SECONDS)
    if options.quick:
        rounds, people, seconds = 1, 10, 0.3
    found = {(target.name, each): Measured() for target in TARGETS for each in IN_FLIGHT}
    with tempfile.TemporaryDirectory(dir=options.dir) as name:
        directory = Path(name)
        program = build(directory)
        for number in range(rounds):
            for target in TARGETS:
                with running(target, directory, people) as (pid, port):
                    phases = load(program, target, pid, port, people, seconds)
                for each, phase in zip(IN_FLIGHT, phases, strict=True):
                    measured = found[target.name, each]
                    measured.cpu.append(phase["cpu_us_per_deliv"])
                    measured.user.append(phase["user_us_per_deliv"])
                    measured.p99_ms.append(phase["p99_us"] / 1_000)
                    measured.per_second.append(phase["deliv_per_s"])
            print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    print(f"{'':24}{'in flight':>10}{'µs CPU':>22}{'user':>7}{'to floor':>20}{'p99 ms':>9}")
    report = []
    for (target_name, each), measured in found.items():
        ratios = [a / b for a, b in zip(measured.cpu, found[FLOOR, each].cpu, strict=True)]
        print(
            f"{target_name:24}{each:10}{_spread(measured.cpu):>22}{median(measured.user):7.2f}"
            f"{_spread(ratios):>20}{median(measured.p99_ms):9.1f}"
        )
        report.append(
            {
                "server": target_name,
                "in_flight": each,
                "people": people,
                "cpu_us_per_delivery": measured.cpu,
                "user_us_per_delivery": measured.user,
                "to_floor": ratios,
                "p99_ms": measured.p99_ms,
                "deliveries_per_second": measured.per_second,
            }
        )
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))


def _spread(figures: Sequence[float]) -> str:
    return f"{median(figures):.2f} ({min(figures):.2f}–{max(figures):.2f})"  # noqa: RUF001 - a range


if __name__ == "__main__":
    main()
