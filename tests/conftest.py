"""Options of the campaigns, and what a run under CI may not do."""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("short", max_examples=15, stateful_step_count=30, deadline=None)
settings.register_profile("long", max_examples=400, stateful_step_count=60, deadline=None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--cycles",
        type=int,
        default=20,
        help="how many times a campaign kills the server (20; the figures in the docs need 100)",
    )
    parser.addoption(
        "--long", action="store_true", help="run the state machine for minutes, not seconds"
    )


def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile("long" if config.getoption("--long") else "short")


@pytest.fixture
def cycles(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--cycles"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Under CI a test that could not run has failed: CI installs what it needs."""
    report: Any = yield
    if os.environ.get("CI") == "true" and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped under CI: {report.longrepr}"
    return report  # type: ignore[no-any-return] # the report it was given
