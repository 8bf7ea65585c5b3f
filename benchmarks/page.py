"""What docs/explanation/performance.md shows, from the figures in benchmarks/results.

For each benchmark a fragment with its tables and, where `CHARTS` names what to draw, a
chart; one with the goals of all; and one with the machine.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from benchmarks.report import Kept, Table, cells, read, spelled

RESULTS = Path(__file__).parent / "results"
CHARTS = {
    "fanout": "µs CPU",
    "latency": "p99 ms",
    "durable": "sends/s",
}
"""By benchmark, the figure that is drawn."""
INK = "#010203"
"""Stands for the page's own colour of text: none that a chart would have by chance."""
HUES = ("#3f8fc4", "#e0832c", "#4aa56a", "#b35fb3")
"""Of dots; each is told from white and from black."""


def write(results: Path = RESULTS) -> None:
    """Write the fragments beside the figures that they are made of."""
    found = [read(file) for file in sorted(results.glob("*.json"))]
    for kept in found:
        parts = []
        for table in kept.report.tables:
            if kept.benchmark in CHARTS:
                svg = drawn(kept.benchmark, table, CHARTS[kept.benchmark])
                parts.append(f"<figure>\n{svg}\n</figure>\n")
            parts.append(tabled(cells(table)))
        parts += [f"{note}\n" for note in kept.report.notes]
        (results / f"{kept.benchmark}.md").write_text("\n".join(parts), "utf-8")
    (results / "goals.md").write_text(goals(found), "utf-8")
    (results / "machine.md").write_text(machine(found), "utf-8")


def goals(found: Sequence[Kept]) -> str:
    """Return how many goals are met, and a table of all."""
    every = [goal for kept in found for goal in kept.report.goals]
    return f"{sum(goal.met for goal in every)} of {len(every)} are met.\n\n" + tabled(
        [["benchmark", "goal", "bound", "measured", ""]]
        + [
            [kept.benchmark, g.text, g.bound, spelled(g.figures), "met" if g.met else "**not met**"]
            for kept in found
            for g in kept.report.goals
        ]
    )


def machine(found: Sequence[Kept]) -> str:
    """Return a table of what was measured on what; once, where it was the same for all."""
    lines: dict[str, dict[str, list[str]]] = {}
    for kept in found:
        about = {**kept.machine, "rounds": str(kept.rounds)}
        for name, value in about.items():
            lines.setdefault(name, {}).setdefault(value, []).append(kept.benchmark)
    return tabled(
        [["what", "which"]]
        + [
            [
                name,
                next(iter(values))
                if len(values) == 1
                else "; ".join(f"{value} ({', '.join(who)})" for value, who in values.items()),
            ]
            for name, values in lines.items()
        ]
    )


def tabled(lines: Sequence[Sequence[str]]) -> str:
    """Return lines of cells, the first of them the head, as a table of Markdown's."""
    head, *rest = lines
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, ["---"] * len(head), *rest))


def drawn(name: str, table: Table, column: str) -> str:
    """Return a table's chart as SVG: a dot for each median, a line from the least to the most.

    To stand in a page, whose colour of text it takes.  The first of a row's labels is
    beside its dot; what the others say has a colour.
    """
    from matplotlib import rc_context  # in the group `bench` alone
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter, StrMethodFormatter

    rows = [row for row in table.rows if all(map(math.isfinite, row.figures[column]))]
    places = list(dict.fromkeys(next(iter(row.labels.values())) for row in rows))
    kinds = list(dict.fromkeys(_kind(row.labels) for row in rows))
    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": f"{name} {table.title}",
        "font.family": "sans-serif",
        "axes.spines.top": False,
        "axes.spines.right": False,
        **dict.fromkeys(
            ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK
        ),
    }
    with rc_context(style):
        height = 1.4 + 0.2 * len(places) * (len(kinds) + 0.4)
        figure = Figure(figsize=(8, height), layout="constrained")
        axes = figure.add_subplot()
        for row in rows:
            figures, kind = row.figures[column], kinds.index(_kind(row.labels))
            place = places.index(next(iter(row.labels.values())))
            y = place + (kind - (len(kinds) - 1) / 2) * 0.7 / len(kinds)
            hue = HUES[kind % len(HUES)]
            axes.plot([min(figures), max(figures)], [y, y], color=hue, linewidth=2)
            axes.plot(median(figures), y, "o", color=hue, label=kinds[kind])
            axes.annotate(
                f"  {spelled([median(figures)])}", (max(figures), y), va="center", fontsize=8
            )
        axes.set_yticks(range(len(places)), places)
        axes.set_ylim(len(places) - 0.5, -0.5)
        axes.set_xscale("log")
        axes.grid(axis="y", color=INK, alpha=0.15)
        axes.margins(x=0.12)
        axes.set_xlabel(f"{column}, on a logarithmic scale")
        axes.set_title(table.title, loc="left")
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        if len(kinds) > 1:
            marks = dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
            figure.legend(
                marks.values(), marks, frameon=False, ncols=len(marks), loc="outside lower center"
            )
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return _inline(file.getvalue(), f"{table.title}: {column}")


def _kind(labels: Mapping[str, str]) -> str:
    _, *others = labels.items()
    return ", ".join(f"{value} {name}" for name, value in others)


def _inline(document: str, title: str) -> str:
    """Make a file's SVG an element among others in a page."""
    svg = document[document.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # which would be the page's
    svg = re.sub(r' id="[a-z]+[\w.]*_\d+"', "", svg)  # each chart has the same ones
    svg = re.sub(r'<svg ([^>]*?)width="[^"]*"', r'<svg \1width="100%"', svg)
    svg = re.sub(r'(<svg [^>]*?) height="[^"]*"', rf'\1 role="img" aria-label="{title}"', svg)
    return re.sub(r"\n\s*", "\n", svg.replace(INK, "currentColor")).strip()


if __name__ == "__main__":
    write()
