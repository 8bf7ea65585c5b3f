"""The load generator in C: compiled once a run, and let loose on a server from the last core."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.server import last_core, on

SOURCE = Path(__file__).parent / "load" / "fanload.c"


def build(directory: Path) -> Path:
    """Compile the load generator, unless it is there."""
    program = directory / "fanload"
    if program.exists():
        return program
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        sys.exit("The benchmarks need a C compiler, for their load generator.")
    subprocess.run([compiler, "-O2", "-o", program, SOURCE], check=True)
    return program


@contextlib.contextmanager
def crowd(
    program: Path, url: str, pid: int, people: int, steps: Sequence[str], *options: object
) -> Iterator[Mapping[str, Any]]:
    """Have people walk through their steps, run the phases, and stay; give what it all took."""
    words = [program, "--url", url, "--n", people, "--pids", pid, "--hold", *options]
    words += [word for step in steps for word in ("--step", step)]
    with on(last_core()):
        started = subprocess.Popen(
            [str(word) for word in words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
    with started as process:
        assert process.stdin is not None
        assert process.stdout is not None
        found = process.stdout.readline()
        if not found.endswith("\n"):
            raise RuntimeError(f"the load generator gave up: {process.wait()}")
        report: Mapping[str, Any] = json.loads(found)
        if "error" in report:
            raise RuntimeError(f"the load generator gave up: {report}")
        yield report
        process.stdin.close()


def phases(
    program: Path,
    url: str,
    pid: int,
    people: int,
    steps: Sequence[str],
    *options: object,
    during: Sequence[str],
) -> Sequence[Mapping[str, Any]]:
    """Have people walk through their steps and run these phases; return what each did."""
    words = [word for phase in during for word in ("--phase", phase)]
    with crowd(program, url, pid, people, steps, *options, *words) as report:
        found: Sequence[Mapping[str, Any]] = report["phases"]
    return found
