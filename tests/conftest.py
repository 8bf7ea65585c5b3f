"""Options of the campaigns, and what a run under CI may not do."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Generator
from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("short", max_examples=15, stateful_step_count=30, deadline=None)
settings.register_profile("long", max_examples=400, stateful_step_count=60, deadline=None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--cycles",
        type=int,
        default=8,
        help="how many times a campaign kills the server (8; the figures in the docs need 100)",
    )
    parser.addoption(
        "--cuts",
        type=int,
        default=30,
        help="how many connections a campaign cuts (30; the figures in the docs need 500)",
    )
    parser.addoption(
        "--sends",
        type=int,
        default=300,
        help="how many sends lose acknowledgements (300; the figures in the docs need 10000)",
    )
    parser.addoption(
        "--storm",
        type=int,
        default=100,
        help="how many clients come back at once (100; the figures in the docs need 2000)",
    )
    parser.addoption(
        "--interleavings",
        type=int,
        default=100,
        help="how often people are removed and come back (100; the figures in the docs need 5000)",
    )
    parser.addoption(
        "--seed", type=int, help="what a campaign's chances are drawn from; it is printed"
    )
    parser.addoption(
        "--long", action="store_true", help="run the state machine for minutes, not seconds"
    )


def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile("long" if config.getoption("--long") else "short")


@pytest.fixture
def cycles(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--cycles"))


@pytest.fixture
def cuts(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--cuts"))


@pytest.fixture
def sends(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--sends"))


@pytest.fixture
def storm(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--storm"))


@pytest.fixture
def interleavings(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--interleavings"))


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    given = request.config.getoption("--seed")
    seed = random.randrange(1 << 32) if given is None else int(given)
    print(f"to repeat this: --seed {seed}")  # noqa: T201 - pytest shows it where a test failed
    return seed


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Have a campaign's figures stand at the end of the run."""
    return lambda text: request.node.user_properties.append(("figures", text))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for report in terminalreporter.getreports("passed"):
        for name, text in report.user_properties:
            if name == "figures" and report.when == "call":
                terminalreporter.write_line(f"{report.nodeid}: {text}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Under CI a test that could not run has failed: CI installs what it needs."""
    report: Any = yield
    if os.environ.get("CI") == "true" and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped under CI: {report.longrepr}"
    return report  # type: ignore[no-any-return] # the report it was given
