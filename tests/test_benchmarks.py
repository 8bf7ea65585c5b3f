"""The benchmarks run; what they measure is nobody's business here."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SPREAD = {"median", "least", "most"}


def run(benchmark: str, directory: Path, file: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", f"benchmarks.{benchmark}", "--quick"]
    ran = subprocess.run(
        [*words, "--dir", directory, "--json", file],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran


def test_journal_prints_its_table_and_writes_it_as_json(tmp_path: Path) -> None:
    file = tmp_path / "journal.json"
    ran = run("journal", tmp_path, file)

    loads = ["idle", "saturated, 5 ms", "saturated, 0.1 ms"]
    rows = [(load, senders) for load in loads for senders in (1, 16, 256)]
    head, *lines = ran.stdout.splitlines()
    assert head.split()[:3] == ["loop", "senders", "grouped/s"]
    for (load, senders), line in zip(rows, lines, strict=False):
        assert line.startswith(load)
        assert line.removeprefix(load).split()[0] == str(senders)

    report = json.loads(file.read_text())
    assert set(report) == {"python", "sqlite", "cpus", "rows", "goals"}
    assert [(row["load"], row["senders"]) for row in report["rows"]] == rows
    for row in report["rows"]:
        assert set(row) == {"load", "senders", "grouped", "one by one", "bare", "ratio"}
        assert set(row["ratio"]) == SPREAD
        for way in ("grouped", "one by one", "bare"):
            measured = row[way]
            assert set(measured) == {"sends_per_second", "cpu_us_per_send", "sends_per_commit"}
            assert all(set(value) == SPREAD for value in measured.values())
            assert measured["sends_per_second"]["least"] > 0
    for goal in report["goals"]:
        assert set(goal) == {"goal", "at_least", "measured", "met"}
    assert not list(tmp_path.glob("tmp*")), "the databases are left behind"


def test_fanout_prints_its_table_and_writes_it_as_json(tmp_path: Path) -> None:
    if not Path("/usr/include/zlib.h").exists() or shutil.which("cc") is None:
        pytest.skip("a C compiler and zlib's headers are not installed")
    file = tmp_path / "fanout.json"
    ran = run("fanout", tmp_path, file)
    rows = [(row["server"], row["in_flight"]) for row in json.loads(file.read_text())]
    servers = ["floor", "chat-serve", "Starlette, a send each", "python-socketio"]
    assert rows == [(server, each) for server in servers for each in (1, 50)]
    for row, line in zip(json.loads(file.read_text()), ran.stdout.splitlines()[1:], strict=True):
        assert line.startswith(row["server"])
        assert row["cpu_us_per_delivery"][0] > 0
        assert row["deliveries_per_second"][0] > 0


def test_stalled_prints_its_rounds_and_writes_them_as_json(tmp_path: Path) -> None:
    file = tmp_path / "stalled.json"
    ran = run("stalled", tmp_path, file)
    head, *lines = ran.stdout.splitlines()
    assert head.split()[:2] == ["p50", "ms"]
    assert [line.split("  ")[0] for line in lines[:2]] == ["1 all read", "1 4 stalled"]
    report = json.loads(file.read_text())
    assert [[*figures] for figures in report["rounds"]] == [["all read", "4 stalled"]]
    for figures in report["rounds"][0].values():
        assert set(figures) == {"p50_ms", "p99_ms", "cpu_us_per_delivery", "growth"}
        assert 0 < figures["p50_ms"] <= figures["p99_ms"]
    assert [set(goal) for goal in report["goals"]] == [{"goal", "at_most", "measured"}] * 2
