"""What a benchmark is told and what it reports; how reports are printed and kept."""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

import cattrs
from attrs import field, frozen

from benchmarks import machine

Figures: TypeAlias = list[float]
"""One figure a round, in the order of the rounds."""


@frozen
class Options:
    directory: Path
    """Where databases are made: an empty directory, on the disk that is asked about."""
    rounds: int = 9
    quick: bool = False
    """See that it runs, and no more: the least of everything."""
    cache: Path | None = None
    """Where what takes long to build is kept for the next run."""

    def turns(self) -> Iterator[int]:
        """Count the rounds, aloud."""
        for number in range(self.rounds):
            yield number
            print(f"  round {number + 1} of {self.rounds}", file=sys.stderr, flush=True)


@frozen
class Row:
    labels: Mapping[str, str]
    """What was measured: `{"server": "floor", "in flight": "50"}`."""
    figures: dict[str, Figures] = field(factory=dict)
    """What was found: `{"µs CPU": [6.4, 6.1], "p99 ms": [9.9, 9.7]}`."""

    def add(self, found: Mapping[str, float]) -> None:
        """Take the figures of one more round."""
        for name, figure in found.items():
            self.figures.setdefault(name, []).append(figure)


@frozen
class Table:
    title: str
    rows: list[Row]


@frozen
class Goal:
    """A bound for the median of what the rounds found."""

    text: str
    figures: Figures
    at_most: float | None = None
    at_least: float | None = None

    @property
    def met(self) -> bool:
        middle = median(self.figures)
        return (self.at_most is None or middle <= self.at_most) and (
            self.at_least is None or middle >= self.at_least
        )

    @property
    def bound(self) -> str:
        if self.at_most is not None:
            return f"at most {self.at_most:,.3g}"
        return f"at least {self.at_least:,.6g}"


@frozen
class Report:
    tables: list[Table]
    goals: list[Goal] = field(factory=list)
    notes: list[str] = field(factory=list)
    """A sentence each: who was skipped and why, what held something back."""


@frozen
class Kept:
    """A report as a file has it."""

    benchmark: str
    machine: Mapping[str, str]
    rounds: int
    quick: bool
    report: Report


def ratios(ours: Figures, theirs: Figures) -> Figures:
    """Return ours to theirs, of the same round each; infinite where they have done nothing."""
    return [a / b if b else math.inf for a, b in zip(ours, theirs, strict=True)]


def quantile(figures: Sequence[float], q: float) -> float:
    """Return the figure that a share `q` of them does not exceed."""
    return sorted(figures)[min(int(q * len(figures)), len(figures) - 1)]


def spelled(figures: Figures) -> str:
    """Spell the median, and in parentheses the least and the most where they differ."""
    middle, least, most = median(figures), min(figures), max(figures)
    digits = 0 if abs(middle) >= 100 else 1 if abs(middle) >= 20 else 2
    if least == most:
        return f"{middle:,.{digits}f}"
    return f"{middle:,.{digits}f} ({least:,.{digits}f}–{most:,.{digits}f})"  # noqa: RUF001 - a range


def cells(table: Table) -> list[list[str]]:
    """Return the table's lines, its head first, each as its cells."""
    labels = list(dict.fromkeys(name for row in table.rows for name in row.labels))
    columns = list(dict.fromkeys(name for row in table.rows for name in row.figures))
    return [[*labels, *columns]] + [
        [row.labels.get(name, "") for name in labels]
        + [spelled(row.figures[name]) if name in row.figures else "" for name in columns]
        for row in table.rows
    ]


def show(report: Report, options: Options) -> None:
    """Print a report."""
    for table in report.tables:
        lines = cells(table)
        widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
        labels = len(table.rows[0].labels)
        print(f"\n{table.title}")
        for line in lines:
            print(
                "  ".join(
                    cell.ljust(width) if column < labels else cell.rjust(width)
                    for column, (cell, width) in enumerate(zip(line, widths, strict=True))
                ).rstrip()
            )
    if report.goals or report.notes:
        print()
    for goal in report.goals:
        verdict = "Met" if goal.met else "NOT MET"
        print(f"{verdict}: {goal.text}: {spelled(goal.figures)}, of {goal.bound}")
    for note in report.notes:
        print(note)
    if options.quick:
        print("Nothing of this means anything: --quick is over before anything has settled.")


def judge(run: Callable[[Options], Report], options: Options) -> Report:
    """Run a benchmark, and note how much of the machine others used meanwhile."""
    others = machine.Others()
    found = run(options)
    share = others.share()
    found.notes.append(f"Others had {share:.0%} of the machine's CPU time meanwhile.")
    return found


def keep(name: str, report: Report, options: Options, file: Path) -> None:
    """Write a report as JSON, with what it ran on."""
    kept = Kept(name, machine.describe(options.directory), options.rounds, options.quick, report)
    document: dict[str, Any] = cattrs.unstructure(kept)
    for goal, spelt in zip(report.goals, document["report"]["goals"], strict=True):
        spelt |= {"median": median(goal.figures), "met": goal.met}
    file.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", "utf-8")


def read(file: Path) -> Kept:
    """Read what `keep` wrote."""
    return cattrs.structure(json.loads(file.read_text("utf-8")), Kept)


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of the options that all benchmarks have in common."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=9, help="a figure is their median (9)")
    parser.add_argument("--quick", action="store_true", help="see that it runs, measure nothing")
    parser.add_argument("--dir", type=Path, help="where the databases are made; a real disk")
    parser.add_argument("--cache", type=Path, help="where what takes long to build is kept")
    return parser


def options(parsed: argparse.Namespace, directory: str) -> Options:
    rounds = 1 if parsed.quick else parsed.rounds
    return Options(Path(directory), rounds, parsed.quick, parsed.cache)


def command(run: Callable[..., Report], **more: Any) -> None:
    """Run one benchmark by itself; `more` are options of its own, with their defaults."""
    module = sys.modules[run.__module__]
    parser = arguments(module.__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    for name, default in more.items():
        words = name.replace("_", "-")
        if default is True:
            parser.add_argument(f"--no-{words}", dest=name, action="store_false")
        else:
            parser.add_argument(f"--{words}", type=type(default), default=default)
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=parsed.dir) as directory:
        chosen = options(parsed, directory)
        report = judge(partial(run, **{name: getattr(parsed, name) for name in more}), chosen)
        show(report, chosen)
        if parsed.json:
            keep(Path(sys.argv[0]).stem, report, chosen, parsed.json)
