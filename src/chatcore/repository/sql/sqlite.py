"""SqliteRepository: one file, WAL, every commit synced; and SQLite's side of the SQL."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.pool import NullPool, QueuePool

from chatcore.errors import ChatError, SchemaError, StorageFull, Unavailable
from chatcore.repository.sql.migrate import check, migrate
from chatcore.repository.sql.repository import SqlRepository

READERS = 2


class SqliteRepository(SqlRepository):
    """A Repository in one SQLite file.

    The file is created when it is opened, with two beside it while in use (`-wal`,
    `-shm`).  Keep it on a local disk.  Other processes may read it, and append
    through a SqliteRepository of their own; a write waits `busy_seconds` for theirs.
    """

    def __init__(self, path: str | os.PathLike[str], *, busy_seconds: float = 5.0) -> None:
        self._path = Path(path)
        self._lock: IO[str] | None = None
        self._file: tuple[int, int] | None = None
        """Which file was opened, for its name may come to mean another, or none."""
        self._data_version: tuple[int, int] | None = None
        # Each write transaction takes the write lock as it begins: one that reads first
        # and then finds the lock taken could not wait for it, only fail.
        self._writer = _engine(self._path, busy_seconds, "BEGIN IMMEDIATE", 1)
        self._reader = _engine(self._path, busy_seconds, "BEGIN", READERS)
        super().__init__(self)

    def open(self) -> None:
        with self._opening():
            self._check()
            with self.writing() as connection:
                migrate(connection, str(self._path))
                connection.commit()
            self._file = self._named()

    @contextlib.contextmanager
    def _opening(self) -> Iterator[None]:
        try:
            yield
        except Unavailable as error:
            raise SchemaError(f"Cannot open the database {self._path}: {_cause(error)}") from error

    def _check(self) -> None:
        """See whose file it is, before anything is written to it or beside it."""
        options = {"mode": "ro"} if self._path.is_file() else {}
        if options and writes_ahead(self._path) and not any(map(Path.exists, beside(self._path))):
            # All is in the one file, and nobody has it open; without the word for that,
            # SQLite would leave the other two beside it.
            options["immutable"] = "1"
        visitor = sa.create_engine(_url(self._path, **options), poolclass=NullPool)
        with self._plainly(), visitor.connect() as connection:
            check(connection, str(self._path))

    def claim(self) -> None:
        with self._opening():
            self._check()
        # Never a lock on the database itself: closing any handle of it would drop the
        # locks that SQLite holds there (POSIX).
        path = self._path.with_name(self._path.name + ".lock")
        try:
            lock = path.open("a+")
        except OSError as error:
            raise SchemaError(f"Cannot write {path}: {error.strerror}") from error
        if not _lock(lock):
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            lock.close()
            raise SchemaError(
                f"Another server (process {holder}) has the database {self._path} open;"
                " stop it first, or name another file"
            )
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        self._lock = lock

    def close(self) -> None:
        self._reader.dispose()
        self._writer.dispose()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    # The Dialect.

    @contextlib.contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        with self._plainly(), self._reader.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        self._check_file()
        with self._plainly(), self._writer.connect() as connection:
            yield connection

    def _named(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    def _check_file(self) -> None:
        """Raise SchemaError where what is written now would be lost: in a file without a name."""
        if self._file is not None and self._named() != self._file:
            raise SchemaError(
                f"The database {self._path} was deleted or replaced while it was open;"
                " stop the server before you do that"
            )

    @contextlib.contextmanager
    def _plainly(self) -> Iterator[None]:
        """Raise what the core understands.

        Before COMMIT nothing is left behind: leaving the connection's block rolls back.
        """
        try:
            yield
        except sa.exc.TimeoutError as error:
            raise Unavailable("The database is busy; try again") from error
        except sa.exc.DBAPIError as error:
            raise self.explain(error) from error

    def written_by_others(self) -> bool:
        self._check_file()
        # Of one connection's own commits this number knows nothing, so it is the writer's.
        with self._plainly(), contextlib.closing(self._writer.raw_connection()) as connection:
            (version,) = connection.cursor().execute("PRAGMA data_version").fetchone()
            seen = (id(connection.dbapi_connection), version)
        before, self._data_version = self._data_version, seen
        return before not in (None, seen)

    def explain(self, error: sa.exc.DBAPIError) -> ChatError:
        if getattr(error.orig, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
            return StorageFull("The server's storage is full; nothing was stored")
        # What sqlite3 raises for a file that is locked, damaged or out of reach.
        if type(error.orig) in (sqlite3.OperationalError, sqlite3.DatabaseError):
            return Unavailable("The server's database did not answer; try again")
        raise error

    def given(self, *columns: str, by: str = "given") -> sa.Subquery:
        each = sa.func.json_each(sa.bindparam(by)).table_valued("value", name="each")
        return sa.select(
            *(
                sa.func.json_extract(each.c.value, sa.literal_column(f"'$[{position}]'")).label(
                    name
                )
                for position, name in enumerate(columns)
            )
        ).subquery("given")

    def taken(self, select: sa.Select[Any]) -> sa.Select[Any]:
        row = select.subquery("row")
        # json() marks a text as JSON, and a mark does not come out of a subquery.
        values = (
            sa.func.json(column) if isinstance(column.type, sa.JSON) else column for column in row.c
        )
        return sa.select(sa.func.json_group_array(sa.func.json_array(*values), type_=sa.Text))

    def upsert(self, table: sa.Table, source: sa.Select[Any]) -> sa.Insert:
        columns = [column.name for column in source.selected_columns]
        # SQLite reads ON after a bare FROM as a join's.
        statement = insert(table).from_select(columns, source.where(sa.true()))
        return statement.on_conflict_do_update(
            index_elements=list(table.primary_key.columns),
            set_={
                name: statement.excluded[name]
                for name in columns
                if not table.columns[name].primary_key
            },
        )

    def insert_new(self, table: sa.Table, source: sa.Select[Any]) -> sa.Insert:
        columns = [column.name for column in source.selected_columns]
        return insert(table).from_select(columns, source.where(sa.true())).on_conflict_do_nothing()


def beside(path: Path) -> list[Path]:
    """Name the files that SQLite has beside a database, while it is open or after a crash."""
    return [path.with_name(path.name + ending) for ending in ("-journal", "-wal", "-shm")]


def writes_ahead(path: Path) -> bool:
    """Say whether a database is in WAL mode (SQLite's file format, section 1.3.3)."""
    with path.open("rb") as file:
        return file.read(20)[18:20] == b"\x02\x02"


def _url(path: Path, **options: str) -> sa.URL:
    if not options:
        return sa.URL.create("sqlite", database=str(path))
    return sa.URL.create(
        "sqlite", database=path.absolute().as_uri(), query={**options, "uri": "true"}
    )


def _engine(path: Path, busy_seconds: float, begin: str, connections: int) -> sa.Engine:
    engine = sa.create_engine(
        _url(path),
        poolclass=QueuePool,
        pool_size=connections,
        max_overflow=0,
        hide_parameters=True,  # what people wrote has no place in a log
        connect_args={"timeout": busy_seconds, "check_same_thread": False},
    )

    @sa.event.listens_for(engine, "connect")
    def _(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None  # BEGIN is ours, not the sqlite3 module's
        cursor = connection.cursor()
        (mode,) = cursor.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise sqlite3.OperationalError("it is not on a file system that SQLite's WAL works on")
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute("PRAGMA secure_delete = ON")  # what is erased is in no free page either
        cursor.execute("PRAGMA temp_store = MEMORY")  # a batch's statement journal is no file
        cursor.close()

    @sa.event.listens_for(engine, "begin")
    def _(connection: sa.Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _cause(error: BaseException) -> str:
    cause = error.__cause__
    return str(getattr(cause, "orig", cause))


try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    import msvcrt

    def _lock(file: IO[str]) -> bool:
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError:
            return False
        return True
else:

    def _lock(file: IO[str]) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True
