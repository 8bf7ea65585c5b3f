"""The examples run, and the README shows them as they are."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


async def test_the_readmes_example_is_the_file_and_runs(tmp_path: Path) -> None:
    example = (ROOT / "examples" / "embed.py").read_text()
    shown = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert shown[0] in example
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-X", "dev", str(ROOT / "examples" / "embed.py")),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=tmp_path,
    )
    out, err = await process.communicate()
    assert (process.returncode, out, err) == (0, b"['Hello, world']\n", b"")
    assert (tmp_path / "chat.db").exists()
