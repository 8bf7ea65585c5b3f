"""SQLite itself, as a test makes it behave or watches it."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator

import sqlalchemy as sa


@contextlib.contextmanager
def _each_connection(
    taken: Callable[[sqlite3.Connection], None], given_back: Callable[[sqlite3.Connection], None]
) -> Iterator[None]:
    """Call these as a repository takes a connection and gives it back."""

    def checkout(connection: sqlite3.Connection, *_: object) -> None:
        taken(connection)

    def checkin(connection: sqlite3.Connection | None, _: object) -> None:
        if connection is not None:  # None for one that was invalidated
            given_back(connection)

    sa.event.listen(sa.Pool, "checkout", checkout)
    sa.event.listen(sa.Pool, "checkin", checkin)
    try:
        yield
    finally:
        sa.event.remove(sa.Pool, "checkout", checkout)
        sa.event.remove(sa.Pool, "checkin", checkin)


@contextlib.contextmanager
def refusing_commits() -> Iterator[None]:
    """Have SQLite itself refuse every COMMIT of a repository."""

    def judge(action: int, word: str | None, *_: object) -> int:
        is_commit = (action, word) == (sqlite3.SQLITE_TRANSACTION, "COMMIT")
        return sqlite3.SQLITE_DENY if is_commit else sqlite3.SQLITE_OK

    with _each_connection(
        lambda connection: connection.set_authorizer(judge),
        lambda connection: connection.set_authorizer(None),
    ):
        yield


@contextlib.contextmanager
def statements() -> Iterator[list[str]]:
    """Note what repositories execute, with its parameters in it.

    BEGIN and COMMIT are left out, and what FTS5 and foreign keys execute in their turn.
    """
    seen: list[str] = []

    def note(statement: str) -> None:
        own = statement.split(maxsplit=1)[0] not in ("BEGIN", "COMMIT", "ROLLBACK", "--")
        # FTS5 spells its own so; what a foreign key does is told as what made it do that.
        if own and "'main'." not in statement and statement not in seen[-1:]:
            seen.append(statement)

    with _each_connection(
        lambda connection: connection.set_trace_callback(note),
        lambda connection: connection.set_trace_callback(None),
    ):
        yield seen
