"""The database of the Flask-SocketIO chatroom that came before: recognised, and read.

It is opened for reading alone, with SQLite's own word for that, so nothing about the
file changes.  Columns have the types that SQLAlchemy gave them there, which SQLite
does not enforce: what is read here may be anything.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attrs import frozen

from chatcore.errors import SchemaError

_COLUMNS = (
    ("users", {"id", "username", "password_hash"}),
    ("messages", {"id", "username", "content", "timestamp"}),
)


@frozen
class OldUser:
    id: int
    username: str
    password_hash: str


@frozen
class OldMessage:
    id: int
    username: str
    content: str
    timestamp: datetime | None
    """None where it cannot be read."""


def recognise(columns: Callable[[str], Iterable[str]]) -> tuple[str, str] | None:
    """Return which tables have the users and the messages; None for any other database.

    `columns` says which columns a table has, none for one that is not there.
    Flask-SQLAlchemy names a table after its class, unless it was told a name.
    """
    for ending in ("", "s"):
        names = [plural.removesuffix("s") + ending for plural, _ in _COLUMNS]
        if all({*columns(name)} == has for name, (_, has) in zip(names, _COLUMNS, strict=True)):
            return names[0], names[1]
    return None


@contextlib.contextmanager
def read(path: Path) -> Iterator[OldDatabase]:
    """Open an old database until the end of the block.  Raises SchemaError for any other file."""
    uri = f"{path.absolute().as_uri()}?mode=ro"
    try:
        with contextlib.closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as file:
            # What is no UTF-8 must not stand in the way of what is.
            file.text_factory = lambda text: text.decode(errors="replace")
            file.execute("BEGIN")  # one snapshot, whoever may be writing
            found = recognise(
                lambda table: [row[1] for row in file.execute(f"PRAGMA table_info({table})")]
            )
            if found is None:
                raise SchemaError(f"{path} is not a database of the first chatroom")
            yield OldDatabase(file, *found)
    except sqlite3.Error as error:
        raise SchemaError(f"Cannot read {path}: {error}") from error


class OldDatabase:
    """One snapshot of it."""

    def __init__(self, file: sqlite3.Connection, users: str, messages: str) -> None:
        self._file = file
        self._users = users
        self._messages = messages

    def users(self) -> list[OldUser]:
        """Return all accounts, the oldest first."""
        rows = self._file.execute(
            f"SELECT id, username, password_hash FROM {self._users} ORDER BY id"
        )
        return [OldUser(id, _text(name), _text(hash_)) for id, name, hash_ in rows]

    def authors(self) -> list[str]:
        """Return every name that a message has, in the order of their first ones."""
        rows = self._file.execute(
            f"SELECT username FROM {self._messages} GROUP BY username ORDER BY min(id)"
        )
        return [_text(name) for (name,) in rows]

    def count(self) -> int:
        """Return how many messages there are."""
        (count,) = self._file.execute(f"SELECT count(*) FROM {self._messages}").fetchone()
        return int(count)

    def messages(self) -> Iterator[OldMessage]:
        """Yield all messages, the oldest first."""
        rows = self._file.execute(
            f"SELECT id, username, content, timestamp FROM {self._messages} ORDER BY id"
        )
        for id, name, content, timestamp in rows:
            yield OldMessage(id, _text(name), _text(content), _moment(timestamp))


def _text(value: Any) -> str:
    if isinstance(value, bytes):  # as bcrypt returns a hash
        return value.decode(errors="replace")
    return "" if value is None else str(value)


def _moment(value: Any) -> datetime | None:
    try:
        return datetime.fromisoformat(_text(value)).replace(tzinfo=UTC)
    except ValueError:
        return None
