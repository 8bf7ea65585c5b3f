"""Run the benchmarks: all, or those that are named."""

from __future__ import annotations

import importlib
import sys
import tempfile
from pathlib import Path

from benchmarks import page, report

BENCHMARKS = (
    "fanout",
    "latency",
    "durable",
    "ack",
    "connections",
    "resume",
    "history",
    "journal",
    "stalled",
    "unsent",
)
"""Modules of this package, in the order in which they run."""


def main() -> None:
    parser = report.arguments(__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--json", type=Path, metavar="DIR", help="write a file of figures for each")
    parser.add_argument("--docs", action="store_true", help="renew what the documentation shows")
    parsed = parser.parse_args()
    if parsed.docs:
        if parsed.json:
            parser.error("--docs has its own place for the figures: leave --json out")
        parsed.json = page.RESULTS
    if unknown := set(parsed.names) - set(BENCHMARKS):
        parser.error(f"no benchmark is named {', '.join(sorted(unknown))}")
    if parsed.json:
        parsed.json.mkdir(parents=True, exist_ok=True)
    for name in parsed.names or BENCHMARKS:
        module = importlib.import_module(f"benchmarks.{name}")
        assert module.__doc__
        title = module.__doc__.partition("\n")[0]
        print(f"\n{name}: {title}", flush=True)
        print(name, file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(dir=parsed.dir) as directory:
            options = report.options(parsed, directory)
            found = report.judge(module.run, options)
            report.show(found, options)
            if parsed.json:
                report.keep(name, found, options, parsed.json / f"{name}.json")
    if parsed.docs:
        page.write()


if __name__ == "__main__":
    main()
