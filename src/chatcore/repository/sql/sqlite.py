"""SqliteRepository: one file, WAL, every commit synced; and SQLite's side of the SQL."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Literal

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.pool import NullPool, QueuePool

from chatcore.errors import ChatError, SchemaError, StorageFull, Unavailable
from chatcore.repository.sql.backup import NEW_EPOCHS, Backup, write
from chatcore.repository.sql.dialect import Connection, Spelling
from chatcore.repository.sql.fts import WordIndex
from chatcore.repository.sql.integrity import damage, damaged, is_damage, one_line
from chatcore.repository.sql.migrate import NEWEST, check, migrate
from chatcore.repository.sql.repository import SqlRepository

READERS = 2
BEGIN_WRITING = "BEGIN IMMEDIATE"
"""With the write lock: one that reads first, and then finds it taken, could not wait, only fail."""
_CLOSED = "closed: "
VACUUMED_BYTES = 32 << 20
LOOKED_AT = 10_000
"""Steps of SQLite's between two looks at the clock: FTS5 takes three for each page of its own."""
RESTS = 1_000
"""How much longer than writing a file anew the time is until that is done once more."""

logger = logging.getLogger("chatcore.repository")


class SqliteRepository(SqlRepository):
    """A Repository in one SQLite file.

    The file is created when it is opened, with two beside it while in use (`-wal`,
    `-shm`).  Keep it on a local disk.  Other processes may read it, and append
    through a SqliteRepository of their own; a write waits `busy_seconds` for theirs.

    Where it is claimed, opening it checks it, and raises SchemaError where it is damaged.
    Both ends of every room's log are looked at each time.  With `auto` so is the whole
    file, unless the last who claimed it closed it, and it is as they left it; `always`
    and `never` are what they say, `never` for the ends too.

    Where SQLite moves rows from page to page it leaves copies, and does not know of them
    when a row is erased.  A file of at most `vacuum_bytes` is therefore written anew after
    something was erased, by `purge`; that takes a thousandth of the time, at most.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        busy_seconds: float = 5.0,
        check: Literal["auto", "always", "never"] = "auto",
        vacuum_bytes: int = VACUUMED_BYTES,
    ) -> None:
        self._path = Path(path)
        self._beside = self._path.with_name(self._path.name + "-wal")
        self._checks = check
        self._vacuum_bytes = vacuum_bytes
        self._rests_until = 0.0
        self._lock: IO[str] | None = None
        self._left = ""
        """The state in which the last who claimed it closed it, where they did."""
        self._sound = False
        """Whether it was found so, and nothing has spoken against it since."""
        self._file: tuple[int, int] | None = None
        """Which file was opened, for its name may come to mean another, or none."""
        self._data_version: tuple[int, int] | None = None
        self._writer = _engine(self._path, busy_seconds, 1)
        self._reader = _engine(self._path, busy_seconds, READERS)
        self._spelling = _spelling()
        self._visitor = sa.create_engine("sqlite://", creator=self._visit, poolclass=NullPool)
        super().__init__(self)

    def open(self) -> None:
        with self._opening():
            self._check()
            if self._lock is not None and self._checks != "never":
                self._check_integrity()
            self._check_file()
            with self._plainly(), self._writer.begin() as connection:
                migrate(connection, str(self._path))
                unfit = self.words.open(connection)
            if unfit is not None:
                raise SchemaError(f"Cannot open the database {self._path}: {unfit}")
            self._file = self._named()
            self.written_by_others()  # from now on, and not from when it is first asked

    def open_beside(self) -> None:
        """Open a database that a server may have, or not, and leave that as it is.

        Raises SchemaError where there is none, or where it is of an older version: nobody
        migrates what another serves.
        """
        with self._opening():
            self._check_newest()
        self.open()

    @contextlib.contextmanager
    def _opening(self) -> Iterator[None]:
        try:
            yield
        except Unavailable as error:
            cause = error.__cause__
            if is_damage(cause):
                raise damaged(self._path, cause) from error
            raise SchemaError(f"Cannot open the database {self._path}: {_cause(error)}") from error
        except UnicodeDecodeError as error:  # of what SQLite wanted to say
            raise damaged(self._path, "its schema is no text") from error

    def _visit(self) -> sqlite3.Connection:
        """Connect so that nothing in the file changes, whatever state it is in.

        Who may write brings what a crash left in the -wal or -journal file into the
        database as they close it.  Who may only read leaves a -wal file behind where one
        is written, and there was none.

        Where there is one, somebody may have the file open, this process perhaps: then
        only SQLite may open and close it, for any other's closing would drop its locks.
        """
        is_left = self._path.is_file() and (self._beside.exists() or not writes_ahead(self._path))
        return self._connect("ro" if is_left else "rwc")

    def _connect(self, mode: str) -> sqlite3.Connection:
        uri = f"{self._path.absolute().as_uri()}?mode={mode}"
        return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)

    @contextlib.contextmanager
    def _visiting(self) -> Iterator[sa.Connection]:
        """One snapshot, of a file that may be anything."""
        with self._plainly(), self._visitor.connect() as connection:
            connection.exec_driver_sql("BEGIN")
            # The snapshot is that of the first read.
            connection.exec_driver_sql("SELECT count(*) FROM sqlite_master")
            yield connection

    def _check(self) -> str | None:
        """See whose file it is, and of which version, before anything is written to it."""
        if self._path.exists() and not _size(self._path) and _size(self._beside):
            # SQLite would take it for a new one, and delete the other.
            raise damaged(self._path, f"it is empty, and {self._beside.name} is not")
        with self._visiting() as connection:
            return check(connection, str(self._path))

    def _check_integrity(self) -> None:
        version = self._check()
        if version != NEWEST:
            if self._left and not _size(self._path):
                raise damaged(self._path, "it is empty, and was not when it was closed")
            self._sound = version is None  # an older one is looked at when it is next opened
            return
        whole = self._checks == "always" or not self._left or self._left != self._state()
        if whole:
            logger.info("checking %s, which is not as a server left it", self._path)
        with self._visiting() as connection:
            wrong = damage(connection, whole=whole)
        if wrong is not None:
            raise damaged(self._path, wrong)
        self._sound = True

    def _state(self) -> str:
        """Tell this file, as it is now, from others and from what it becomes."""
        found = self._path.stat()
        return (
            "" if self._beside.exists() else f"{found.st_ino} {found.st_size} {found.st_mtime_ns}"
        )

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
        lock.seek(0)
        noted = lock.read().strip()
        self._left = noted.removeprefix(_CLOSED) if noted.startswith(_CLOSED) else ""
        self._note(lock, str(os.getpid()))
        self._lock = lock

    def close(self) -> None:
        self._reader.dispose()
        self._writer.dispose()
        if self._lock is not None:
            if self._sound and self._named() == self._file:
                self._note(self._lock, _CLOSED + self._state())
            self._lock.close()
            self._lock = None
        self._sound = False
        self._file = None

    def _note(self, lock: IO[str], text: str) -> None:
        lock.truncate(0)
        lock.write(f"{text}\n")
        lock.flush()

    # For when a log does not go on where it ended.

    def backup(
        self,
        file: str | os.PathLike[str],
        progress: Callable[[int, int], object] = lambda _done, _all: None,
    ) -> Backup:
        """Copy the database into a new file, whoever uses it meanwhile.

        It need not be claimed or open.  The copy is one moment's state, checked, readable
        by its owner alone, and has new epochs: put in the database's place, clients that
        have seen more are told so.  Under its name there is all of it, on the disk, or
        nothing.  `progress` is told how many pages are done, and of how many.

        Raises SchemaError where the database cannot be copied, FileExistsError, and
        OSError where the copy cannot be written.
        """
        with self._opening():
            self._check_newest("back it up with that one, or ")
            with self._visiting() as source:
                backup = write(source, str(self._path), Path(file), progress)
        # Where the server stopped meanwhile, it left the -wal file to whoever is last, and
        # that one was only reading.
        with contextlib.suppress(sqlite3.Error), contextlib.closing(self._connect("rw")) as last:
            last.execute("SELECT count(*) FROM sqlite_master")
        return backup

    def renew_epochs(self) -> int:
        """Let every room's log begin a new life; return how many rooms there are.

        For a database that was put back by other means than `backup`: numbers that
        clients have seen would be given out again, for other events.  Claims, opens and
        closes the database, so nobody else may have it.  Raises SchemaError, Unavailable,
        StorageFull.
        """
        self._check_there()
        self.claim()  # and whoever has it already goes on having it
        with contextlib.closing(self):
            self.open()
            with self.writing() as connection:
                renewed = connection.execute(NEW_EPOCHS)
                connection.commit()
        return renewed

    def _check_newest(self, instead: str = "") -> None:
        self._check_there()
        version = self._check()
        if version is None:
            raise SchemaError(f"The database {self._path} has nothing in it")
        if version != NEWEST:
            raise SchemaError(
                f"The database {self._path} is of an older version of chatcore:"
                f" {instead}start this one's server on it once"
            )

    def _check_there(self) -> None:
        if not self._path.exists():
            raise SchemaError(f"There is no database {self._path}")

    # The Dialect.

    error = sqlite3.Error
    words = WordIndex()

    @contextlib.contextmanager
    def reading(self, seconds: float | None = None) -> Iterator[Connection]:
        with self._plainly(), contextlib.closing(self._reader.raw_connection()) as connection:
            connection.cursor().execute("BEGIN")
            with contextlib.nullcontext() if seconds is None else _ending(connection, seconds):
                yield Connection(connection, self._spelling)

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        self._check_file()
        with self._plainly(), contextlib.closing(self._writer.raw_connection()) as connection:
            connection.cursor().execute(BEGIN_WRITING)
            yield Connection(connection, self._spelling)

    def vacuum(self) -> bool:
        began = time.monotonic()
        if began < self._rests_until or _size(self._path) > self._vacuum_bytes:
            return False
        self._check_file()
        try:
            with self._plainly(), contextlib.closing(self._writer.raw_connection()) as connection:
                cursor = connection.cursor()
                cursor.execute("VACUUM")
                (is_read_still, *_) = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        finally:
            ended = time.monotonic()
            self._rests_until = ended + RESTS * (ended - began)
        return not is_read_still

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
        except sqlite3.Error as error:
            raise self.explain(error) from error
        except sa.exc.DBAPIError as error:  # of a migration, say
            cause = error.orig
            assert isinstance(cause, sqlite3.Error)
            raise self.explain(cause) from cause

    def written_by_others(self) -> bool:
        self._check_file()
        # Of one connection's own commits this number knows nothing, so it is the writer's.
        with self._plainly(), contextlib.closing(self._writer.raw_connection()) as connection:
            (version,) = connection.cursor().execute("PRAGMA data_version").fetchone()
            seen = (id(connection.dbapi_connection), version)
        before, self._data_version = self._data_version, seen
        return before != seen

    def explain(self, error: Exception) -> ChatError:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
            return StorageFull("The server's storage is full; nothing was stored")
        if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_INTERRUPT:
            return Unavailable(
                "That takes too long to find; ask for fewer or rarer words, or of fewer days"
            )
        self._sound = self._sound and not is_damage(error)
        # What sqlite3 raises for a file that is locked, damaged or out of reach.
        if type(error) in (sqlite3.OperationalError, sqlite3.DatabaseError):
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

    def hex(self, column: sa.ColumnElement[bytes]) -> sa.ColumnElement[str]:
        return sa.func.hex(column, type_=sa.Text)

    def text(self, body: sa.ColumnElement[str], field: str) -> sa.ColumnElement[str]:
        return sa.func.json_extract(body, sa.literal_column(f"'$.{field}'"), type_=sa.Text)

    def without(self, body: sa.ColumnElement[str], field: str) -> sa.ColumnElement[str]:
        return sa.func.json_remove(body, sa.literal_column(f"'$.{field}'"), type_=sa.Text)

    def listed(self, select: sa.Select[Any]) -> sa.ColumnElement[Any]:
        return sa.type_coerce(self.taken(select).scalar_subquery(), sa.JSON)

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


@functools.cache
def _spelling() -> Spelling:
    """Return what all repositories share, as they do the statements."""
    return Spelling(sqlite.dialect(paramstyle="named"))


def beside(path: Path) -> list[Path]:
    """Name the files that SQLite has beside a database, while it is open or after a crash."""
    return [path.with_name(path.name + ending) for ending in ("-journal", "-wal", "-shm")]


def writes_ahead(path: Path) -> bool:
    """Say whether a database is in WAL mode (SQLite's file format, section 1.3.3)."""
    with path.open("rb") as file:
        return file.read(20)[18:20] == b"\x02\x02"


def _url(path: Path) -> sa.URL:
    return sa.URL.create("sqlite", database=str(path))


def _size(path: Path) -> int:
    """Return how many bytes a file has, 0 where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _engine(path: Path, busy_seconds: float, connections: int) -> sa.Engine:
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
        connection.exec_driver_sql(BEGIN_WRITING)

    return engine


@contextlib.contextmanager
def _ending(connection: sa.PoolProxiedConnection, seconds: float) -> Iterator[None]:
    """Within, interrupt what goes on for longer."""
    driver: Any = connection.dbapi_connection
    end = time.monotonic() + seconds
    driver.set_progress_handler(lambda: time.monotonic() > end, LOOKED_AT)
    try:
        yield
    finally:
        driver.set_progress_handler(None, LOOKED_AT)


def _cause(error: BaseException) -> str:
    cause = error.__cause__
    return one_line(getattr(cause, "orig", cause))


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
