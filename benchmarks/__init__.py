"""What chatcore costs, beside other servers and beside the least that the machine can do.

`python -m benchmarks` runs all that `benchmarks/__main__.py` lists, or those that are named.
A benchmark is a module here with one function:

    def run(options: Options) -> Report

- `benchmarks.report` has `Options` (how many rounds, whether only to see that it runs, where
  databases go) and `Report` (tables, goals, notes).  A figure is a list, one number a round;
  medians, spreads and whether a goal is met are worked out where a report is shown.
- Who is compared takes turns within a round: `for _ in options.turns():` counts the rounds
  aloud, and what is a ratio is `ratios(ours, theirs)`, of figures of the same round.
- `benchmarks.server` starts a chat-serve on the first core; `benchmarks.targets` others beside
  it; `benchmarks.generator` drives the load generator in C on the last.
- The module ends in `if __name__ == "__main__": command(run)`, so that it can be run alone.
- Its docstring's first line says what it measures, and heads its tables.
"""
