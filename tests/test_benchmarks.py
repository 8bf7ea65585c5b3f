"""The benchmarks run; what they measure is nobody's business here."""

from __future__ import annotations

import importlib
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import page, report
from benchmarks.__main__ import BENCHMARKS
from benchmarks.report import Goal, Kept, Options, Report, Row, Table
from benchmarks.targets import TARGETS, Target, available

ROOT = Path(__file__).parent.parent
NEED_A_COMPILER = {"ack", "connections", "durable", "fanout", "latency", "resume"}


def run(*words: object) -> subprocess.CompletedProcess[str]:
    ran = subprocess.run(
        [sys.executable, "-m", *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if name != "journal"])
def test_runs_and_keeps_what_it_found(name: str, tmp_path: Path) -> None:
    if name in NEED_A_COMPILER and shutil.which("cc") is None:
        pytest.skip("the load generator needs a C compiler")
    databases = tmp_path / "databases"
    databases.mkdir()
    ran = run("benchmarks", name, "--quick", "--dir", databases, "--json", tmp_path / "found")
    check(name, ran.stdout, tmp_path / "found" / f"{name}.json")
    assert [] == list(databases.iterdir()), "the databases are left behind"


def check(name: str, printed: str, found: Path) -> None:
    kept = report.read(found)
    assert (name, 1, True) == (kept.benchmark, kept.rounds, kept.quick)
    assert {"cpu", "cores", "kernel", "python", "sqlite", "file system"} <= set(kept.machine)
    assert kept.report.tables
    for table in kept.report.tables:
        assert table.title in printed
        for row in table.rows:
            assert row.figures
            assert all(len(figures) == 1 for figures in row.figures.values())
    for goal in kept.report.goals:
        assert goal.text in printed
        assert (goal.at_most is None) != (goal.at_least is None)
    for note in kept.report.notes:
        assert note in printed


def test_one_benchmark_is_a_command_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "journal.json"
    ran = run("benchmarks.journal", "--quick", "--no-txn-ids", "--dir", tmp_path, "--json", file)
    check("journal", ran.stdout, file)
    assert "Nothing of this means anything" in ran.stdout


def test_each_is_described_where_it_is_told_what_there_is() -> None:
    for name in BENCHMARKS:
        assert importlib.import_module(f"benchmarks.{name}").__doc__, name
        assert f"`{name}`" in (ROOT / "benchmarks" / "README.md").read_text("utf-8"), name


def test_an_unknown_benchmark_is_told() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks", "fan-out"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert 2 == ran.returncode
    assert "no benchmark is named fan-out" in ran.stderr


def test_who_cannot_run_here_is_left_out_and_named() -> None:
    absent = Target("nobody's", peer="floor", needs=("no_such_module", "orjson"))
    absent_from_node = Target("node nobody's", peer="ws.js", needs=("no-such-module",))
    targets, notes = available((TARGETS[0], absent, absent_from_node))
    assert [TARGETS[0]] == targets
    what = "no-such-module" if shutil.which("node") else "node"
    assert [
        "Without nobody's: no_such_module is not here.",
        f"Without node nobody's: {what} is not here.",
    ] == notes


def test_a_figure_is_a_median_and_its_spread() -> None:
    assert "2.00 (1.00–9.00)" == report.spelled([9.0, 1.0, 2.0])
    assert "12,346" == report.spelled([12_345.6])


def test_a_goal_is_a_bound_of_the_median() -> None:
    figures = [1.0, 2.0, 9.0]
    assert Goal("", figures, at_most=2).met
    assert not Goal("", figures, at_most=1.9).met
    assert Goal("", figures, at_least=2).met
    assert not Goal("", figures, at_least=2.1).met


def test_ratios_are_of_the_same_round() -> None:
    assert [2.0, 0.5, math.inf] == report.ratios([2.0, 2.0, 1.0], [1.0, 4.0, 0.0])


FOUND = Report(
    [
        Table(
            "A message",
            [
                Row({"server": "ours & theirs", "in flight": "1"}, {"µs CPU": [1.0, 3.0]}),
                Row({"server": "floor", "in flight": "50"}, {"µs CPU": [2.0, 2.0]}),
            ],
        )
    ],
    [Goal("to the floor", [0.5, 1.5], at_most=0.9), Goal("a second", [9.0, 9.0], at_least=8)],
    ["Without node: node is not here."],
)


def test_what_is_kept_is_read_again(tmp_path: Path) -> None:
    report.keep("fanout", FOUND, Options(tmp_path, rounds=2), tmp_path / "fanout.json")
    kept = report.read(tmp_path / "fanout.json")
    assert Kept("fanout", kept.machine, 2, False, FOUND) == kept


def test_the_page_has_every_table_and_goal(tmp_path: Path) -> None:
    report.keep("stalled", FOUND, Options(tmp_path, rounds=2), tmp_path / "stalled.json")
    page.write(tmp_path)
    assert [
        "| server | in flight | µs CPU |",
        "| --- | --- | --- |",
        "| ours & theirs | 1 | 2.00 (1.00–3.00) |",
        "| floor | 50 | 2.00 |",
        "",
        "Without node: node is not here.",
    ] == (tmp_path / "stalled.md").read_text("utf-8").splitlines()
    assert [
        "| stalled | to the floor | at most 0.9 | 1.00 (0.50–1.50) | **not met** |",
        "| stalled | a second | at least 8 | 9.00 | met |",
    ] == (tmp_path / "goals.md").read_text("utf-8").splitlines()[4:]


def test_a_chart_takes_the_pages_colour_and_leaves_the_page_alone() -> None:
    svg = page.drawn("fanout", FOUND.tables[0], "µs CPU")
    assert svg.startswith("<svg")
    assert "currentColor" in svg
    assert page.INK not in svg
    assert "<style" not in svg
    assert "ours &amp; theirs" in svg
    ids = re.findall(r' id="([^"]*)"', svg)
    assert len(ids) == len(set(ids))
    assert set(ids) == set(re.findall(r"#(\w+)(?=[\")])", svg)) & set(ids)


def test_the_pages_fragments_are_those_of_the_figures() -> None:
    """What the documentation shows was made by `python -m benchmarks --docs` from these files."""
    for file in sorted(page.RESULTS.glob("*.json")):
        kept = report.read(file)
        shown = file.with_suffix(".md").read_text("utf-8")
        for table in kept.report.tables:
            assert page.tabled(report.cells(table)) in shown
    found = [report.read(file) for file in sorted(page.RESULTS.glob("*.json"))]
    assert page.goals(found) == (page.RESULTS / "goals.md").read_text("utf-8")
