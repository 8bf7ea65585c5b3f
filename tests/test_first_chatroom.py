"""Each row of the page about the first chatroom names tests, and they are there."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "explanation" / "first-chatroom.md"


def test_the_tests_that_the_page_names_are_there() -> None:
    rows = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| ")]
    named = [name for row in rows for name in re.findall(r"`(test_[\w:]+)`", row)]
    assert len(named) > 80
    for name in set(named):
        file, _, test = name.partition("::")
        source = (TESTS / f"{file}.py").read_text("utf-8")
        assert f"def {test}(" in source if test else source
