"""Copies a database that is in use into one file that stands for itself."""

from __future__ import annotations

import errno
import os
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from attrs import frozen
from sqlalchemy.pool import NullPool

from chatcore.repository.sql.integrity import damage, damaged, is_damage
from chatcore.repository.sql.schema import events, rooms

STEP_PAGES = 1_024

NEW_EPOCHS = sa.update(rooms).values(epoch=sa.func.lower(sa.func.hex(sa.func.randomblob(4))))
"""A new life for each room's log: what was told of the old one is worth nothing any more."""


@frozen
class Backup:
    """What a backup has."""

    rooms: int
    messages: int
    bytes: int


def write(
    source: sa.Connection, where: str, file: Path, progress: Callable[[int, int], object]
) -> Backup:
    """Copy what `source` sees into a new file.  Raises SchemaError, FileExistsError, OSError.

    `source`, which people know as `where`, is inside a transaction and sees one snapshot:
    a copy in steps begins anew where another's commit can come between two of them.
    """
    _check_absent(file)
    # A directory, for SQLite too puts files beside a database; whatever fails, it is removed.
    with tempfile.TemporaryDirectory(prefix=f".{file.name}.", dir=file.parent) as directory:
        unfinished = Path(directory, file.name)
        unfinished.touch(mode=0o600)
        engine = sa.create_engine(
            "sqlite://", creator=lambda: _connect(unfinished), poolclass=NullPool
        )
        try:
            with engine.connect() as copy:
                _copy(source, copy, progress)
                # First, for a write may fail for damage that this can name.
                wrong = damage(copy, whole=True)
                if wrong is not None:
                    raise damaged(where, wrong)
                copied = _finish(copy)
        # SQLAlchemy knows nothing of the copying itself.
        except (sa.exc.DBAPIError, sqlite3.Error) as error:
            cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
            if is_damage(cause):
                raise damaged(where, cause) from error
            raise _unwritten(cause, file) from error
        backup = Backup(*copied, unfinished.stat().st_size)
        _sync(unfinished)
        _check_absent(file)
        unfinished.rename(file)
        _sync(file.parent)
    return backup


def _check_absent(file: Path) -> None:
    if os.path.lexists(file):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(file))


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")  # all is synced at the end, before the name
    return connection


def _copy(
    source: sa.Connection, copy: sa.Connection, progress: Callable[[int, int], object]
) -> None:
    from_: Any = source.connection.driver_connection
    from_.backup(
        copy.connection.driver_connection,
        pages=STEP_PAGES,
        progress=lambda _, left, total: progress(total - left, total),
    )


def _finish(copy: sa.Connection) -> tuple[int, int]:
    """Give the rooms of a copy new epochs; return how many they are, and their messages."""
    # Not the source's WAL, else this file alone could not be read where nothing can be written.
    copy.exec_driver_sql("PRAGMA journal_mode = MEMORY")
    copy.execute(NEW_EPOCHS)
    messages = sa.select(sa.func.count()).where(events.c.kind == "message").scalar_subquery()
    count, said = copy.execute(sa.select(sa.func.count(), messages).select_from(rooms)).one()
    return count, said


def _unwritten(error: BaseException | None, file: Path) -> OSError:
    if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
    return OSError(errno.EIO, str(error), str(file))


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # pragma: no cover - which has no such thing
        return
    descriptor = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
