"""A full disk, and a database that somebody else has locked: told, survived, nothing lost."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.campaigns.crowd import Crowd
from tests.support import serving

DISK_BYTES = 24 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(path)]
    made = subprocess.run(mount, capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.strip()}")
    yield path
    subprocess.run(["umount", path], check=True)


def fill(disk: Path) -> None:
    """Leave no byte."""
    with (disk / "ballast").open("wb", buffering=0) as ballast:
        for size in (1 << 20, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    ballast.write(b"\0" * size)


@pytest.mark.timeout(900)
async def test_a_full_disk_is_told_and_nothing_acknowledged_is_lost(
    disk: Path, cycles: int, figures: Callable[[str], None]
) -> None:
    """Each cycle fills it, sees sends refused, makes room, and sees them stored again."""
    cycles = max(3, cycles // 5)
    database = disk / "chat.db"
    async with serving(database, "--limits", "none") as server:
        urls = [server.urls["ws"], server.urls["tcp"]]
        async with Crowd(urls) as crowd:
            for _ in range(cycles):
                await crowd.talk(100)
                goal = crowd.full + 20
                await asyncio.to_thread(fill, disk)
                await crowd.until(partial(crowd.is_full, goal))
                (disk / "ballast").unlink()
            await crowd.talk(100)
            await crowd.finish(database)
        figures(f"{cycles} times full: {crowd}; {crowd.full} refused for want of space")


@pytest.mark.timeout(300)
async def test_a_database_that_another_process_has_locked_is_waited_for(
    tmp_path: Path, cycles: int, figures: Callable[[str], None]
) -> None:
    """For longer than SQLite waits, too: those sends are repeated, and each is stored once."""
    database = tmp_path / "chat.db"
    durations = (1,) if cycles <= 20 else (1, 4, 8)
    async with serving(database, "--limits", "none") as server:
        async with Crowd([server.urls["ws"], server.urls["tcp"]], 12, ahead=1) as crowd:
            for seconds in durations:
                await crowd.talk(100)
                with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as other:
                    other.execute("BEGIN IMMEDIATE")
                    before = crowd.acknowledged
                    await asyncio.sleep(seconds)
                    assert crowd.acknowledged <= before + 12, "those that were answered already"
                    other.execute("ROLLBACK")
                await crowd.talk(100)
            await crowd.finish(database)
        figures(f"locked for {', '.join(map(str, durations))} s: {crowd}")
