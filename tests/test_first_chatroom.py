"""The page about the first chatroom: each row names what shows it, and that is there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "explanation" / "first-chatroom.md"
HEADERS = ("| row |", "| --", "|--")


def test_each_row_names_what_shows_it_and_the_tests_are_there() -> None:
    lines = PAGE.read_text("utf-8").splitlines()
    rows = [line for line in lines if line.startswith("|") and not line.startswith(HEADERS)]
    assert len(rows) > 90
    for row in rows:
        shown_by = row.rstrip("| ").rpartition(" | ")[2]
        named = re.findall(r"`test_\w+::[\w:]+`", shown_by)
        assert named or "`make " in shown_by, row
        for name in named:
            file, *path = name.strip("`").split("::")
            rest = (TESTS / f"{file}.py").read_text("utf-8")
            for what in path:  # a class, perhaps, and then a test in it
                found = re.search(rf"^ *(?:class|async def|def) {what}\b", rest, re.MULTILINE)
                assert found, name
                rest = rest[found.end() :]


def test_an_older_python_is_refused_in_a_sentence(tmp_path: Path) -> None:
    old = tmp_path / "python3.10"
    old.write_text("#!/bin/sh\nexit 1\n")  # its answer to: are you 3.11 or later?
    old.chmod(0o755)
    asked = [
        "make",
        f"PYTHON={old}",
        f"VENV={tmp_path / 'venv'}",
        f"{tmp_path / 'venv'}/bin/python",
    ]
    made = subprocess.run(asked, cwd=TESTS.parent, capture_output=True, text=True, check=False)
    assert made.returncode == 2
    assert "chatcore needs Python 3.11 or later" in made.stderr
    assert not (tmp_path / "venv").exists()
