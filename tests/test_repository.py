"""Every repository keeps the contract."""

from __future__ import annotations

import itertools
from pathlib import Path

from chatcore.repository.memory import MemoryRepository
from chatcore.repository.sql import SqliteRepository
from chatcore.testing import check_repository


def test_memory_keeps_the_contract() -> None:
    check_repository(MemoryRepository)


def test_sqlite_keeps_the_contract(tmp_path: Path) -> None:
    numbers = itertools.count()
    check_repository(lambda: SqliteRepository(tmp_path / f"{next(numbers)}.db"))
