"""The database of the Flask-SocketIO chatroom that came before: a copy of it, read.

To read it in its place would leave files beside it where it writes ahead, could not be
done after a crash, and would keep a chatroom that still runs from writing.  Columns
have the types that SQLAlchemy gave them there, which SQLite does not enforce: what is
read here may be anything.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attrs import frozen

from chatcore.errors import SchemaError
from chatcore.repository.sql.migrate import first_chatroom
from chatcore.repository.sql.sqlite import beside, writes_ahead


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
    written: str
    """When, as it stands there."""

    @property
    def timestamp(self) -> datetime | None:
        """When; None where that cannot be read."""
        try:
            moment = datetime.fromisoformat(self.written)
            return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
        except (ValueError, OverflowError):
            return None


@contextlib.contextmanager
def read(path: Path) -> Iterator[OldDatabase]:
    """Open an old database until the end of the block.  Raises SchemaError for any other file."""
    with tempfile.TemporaryDirectory(prefix="chat-serve-import-") as directory:
        try:
            copy = _copy(path, Path(directory))
            with contextlib.closing(sqlite3.connect(copy, isolation_level=None)) as file:
                # What is no UTF-8 must not stand in the way of what is.
                file.text_factory = lambda text: text.decode(errors="replace")
                (state,) = file.execute("PRAGMA quick_check(1)").fetchone()
                if state != "ok":
                    raise SchemaError(
                        f"Cannot read {path}: {state}; if the old chatroom runs, stop it first"
                    )
                found = first_chatroom(
                    lambda table: [row[1] for row in file.execute(f"PRAGMA table_info({table})")]
                )
                if found is None:
                    raise SchemaError(f"{path} is not a database of the first chatroom")
                yield OldDatabase(file, *found)
        except (sqlite3.Error, OSError) as error:
            raise SchemaError(f"Cannot read {path}: {error}") from error


def _copy(path: Path, directory: Path) -> Path:
    """Copy a database, with what a crash or writing ahead has left beside it."""
    with contextlib.ExitStack() as stack:
        if not writes_ahead(path) and not any(map(Path.exists, beside(path))):
            # Nobody writes while this one reads: a moment, not the time that an import takes.
            uri = f"{path.absolute().as_uri()}?mode=ro"
            lock = sqlite3.connect(uri, uri=True, isolation_level=None)
            stack.enter_context(contextlib.closing(lock))
            lock.execute("BEGIN")
            lock.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        copy = directory / "old.db"
        shutil.copyfile(path, copy)
        journal, ahead, _ = beside(path)  # the third is an index, made anew
        for file, its_copy in zip((journal, ahead), beside(copy), strict=False):
            if file.exists():
                shutil.copyfile(file, its_copy)
        return copy


class OldDatabase:
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

    def authors(self) -> dict[str, OldMessage]:
        """Return the first message of every name that has any; its first fit one, if there is."""
        fit = "trim(content) <> '' AND length(content) <= 4000"
        rows = self._file.execute(
            f"SELECT id, username, content, timestamp FROM {self._messages} WHERE id IN"
            f" (SELECT coalesce(min(CASE WHEN {fit} THEN id END), min(id))"
            f" FROM {self._messages} GROUP BY username) ORDER BY id"
        )
        return {message.username: message for message in map(_message, rows)}

    def count(self) -> int:
        """Return how many messages there are."""
        (count,) = self._file.execute(f"SELECT count(*) FROM {self._messages}").fetchone()
        return int(count)

    def messages(self) -> Iterator[OldMessage]:
        """Yield all messages, the oldest first."""
        rows = self._file.execute(
            f"SELECT id, username, content, timestamp FROM {self._messages} ORDER BY id"
        )
        return map(_message, rows)


def _message(row: tuple[Any, ...]) -> OldMessage:
    id, username, content, timestamp = row
    return OldMessage(id, _text(username), _text(content), _text(timestamp))


def _text(value: Any) -> str:
    if isinstance(value, bytes):  # as bcrypt returns a hash
        return value.decode(errors="replace")
    return "" if value is None else str(value)
