"""What differs between databases, and a connection to any of them.

SQLAlchemy spells each statement once, and the driver executes it.  A batch may have one
message in it, and then SQLAlchemy's work at each execution is more than the database's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from datetime import date
from types import MappingProxyType
from typing import Any, Protocol, TypeAlias

import orjson
import sqlalchemy as sa

from chatcore.errors import ChatError
from chatcore.query import Query

Parameters: TypeAlias = Mapping[str, Any]

NONE: Parameters = MappingProxyType({})


class Words(Protocol):
    """An index of the words that messages have, by the id of a message's event."""

    @property
    def wipes_at_once(self) -> bool:
        """Whether `remove` leaves nothing for `purge` to do."""

    @property
    def put(self) -> sa.Executable:
        """Puts in, or in place of what was there: rows of id, words and `scope`."""

    @property
    def remove(self) -> sa.Executable:
        """Takes out: rows of a room's id and the first and the last seq."""

    @property
    def hits(self) -> sa.Subquery:
        """The ids, at most :limit, of what is :wanted and :before another; the highest first."""

    def scope(self, room_id: int, *, public: bool, sender_id: int, day: date) -> str:
        """Spell what a message has that is searched by, beside its words."""

    def wanted(
        self, query: Query, *, rooms: Iterable[int], banned: Iterable[int], sender: int | None
    ) -> str:
        """Spell a query.

        Where it names a room, `rooms` has that, or nothing; else it is of these and of all
        that are public, without those that are `banned`.
        """

    def purge(self, connection: Connection, times: int) -> bool:
        """Wipe some of what was taken out, so many times as much as is quick; say if there is more.

        What is put in or taken out in between may have it begin anew.
        """


class Dialect(Protocol):
    """A database: its connections, and what is spelled otherwise on each."""

    @property
    def words(self) -> Words: ...

    @property
    def error(self) -> type[Exception]:
        """What its driver raises (PEP 249)."""

    def reading(self, seconds: float | None = None) -> AbstractContextManager[Connection]:
        """One snapshot.  What takes about so many seconds in it comes to nothing: Unavailable."""

    def writing(self) -> AbstractContextManager[Connection]:
        """One transaction that holds the write lock; rolled back when it is left uncommitted."""

    def given(self, *columns: str, by: str = "given") -> sa.Subquery:
        """Rows out of the JSON parameter that `by` names: a list of lists, by position."""

    def taken(self, select: sa.Select[Any]) -> sa.Select[Any]:
        """A select of one JSON value: a list of lists, in no order; JSON columns nested."""

    def listed(self, select: sa.Select[Any]) -> sa.ColumnElement[Any]:
        """What `taken` makes, as a JSON column of the select that this one is correlated to."""

    def upsert(self, table: sa.Table, source: sa.Select[Any]) -> sa.Insert:
        """Insert, or update what is not of the key; columns by the source's labels."""

    def insert_new(self, table: sa.Table, source: sa.Select[Any]) -> sa.Insert:
        """Insert what no unique constraint refuses."""

    def hex(self, column: sa.ColumnElement[bytes]) -> sa.ColumnElement[str]:
        """Bytes as the text that `bytes.fromhex` reads: JSON has none."""

    def text(self, body: sa.ColumnElement[str], field: str) -> sa.ColumnElement[str]:
        """A field of a JSON object, a text."""

    def without(self, body: sa.ColumnElement[str], field: str) -> sa.ColumnElement[str]:
        """A JSON object without one of its fields."""

    def written_by_others(self) -> bool:
        """Say whether another process may have committed since this was last called."""

    def vacuum(self) -> bool:
        """Write the database anew, where it is time to, and can be done in a moment.

        For only then is nothing anywhere of rows that are not there.  Says whether it was.
        """

    def explain(self, error: Exception) -> ChatError:
        """Say what an `error` means for whoever asked; raise it where it is a defect."""


class Spelling(dict[sa.Executable, tuple[str, Parameters]]):
    """Statements in a driver's words, each beside the constants among its parameters.

    For statements whose values need no conversion in between, on the way in or out.
    """

    def __init__(self, dialect: sa.Dialect) -> None:
        super().__init__()
        self._dialect = dialect

    def __missing__(self, statement: sa.Executable) -> tuple[str, Parameters]:
        assert isinstance(statement, sa.ClauseElement)
        compiled = statement.compile(dialect=self._dialect)
        constants = {
            name: parameter.value
            for name, parameter in compiled.binds.items()  # type: ignore[attr-defined] # an SQLCompiler's
            if not parameter.required
        }
        self[statement] = spelled = (str(compiled), constants)
        return spelled


class Connection:
    """A transaction on a connection of the driver's."""

    def __init__(self, connection: sa.PoolProxiedConnection, spelling: Spelling) -> None:
        self._connection = connection
        self._spelling = spelling
        self._cursor = connection.cursor()

    def execute(self, statement: sa.Executable, parameters: Parameters = NONE) -> int:
        """Execute what returns no rows; return how many it has changed."""
        text, constants = self._spelling[statement]
        self._cursor.execute(text, {**constants, **parameters})
        return self._cursor.rowcount

    def row(self, statement: sa.Executable, parameters: Parameters = NONE) -> Any:
        """Return a statement's one row, a tuple; None where it has none."""
        text, constants = self._spelling[statement]
        self._cursor.execute(text, {**constants, **parameters})
        return self._cursor.fetchone()

    def taken(self, statement: sa.Executable, parameters: Parameters = NONE) -> list[list[Any]]:
        """Return the rows of what `Dialect.taken` made."""
        (rows,) = self.row(statement, parameters)
        return orjson.loads(rows)  # type: ignore[no-any-return] # a list of lists

    def commit(self) -> None:
        try:
            self._connection.commit()
        except BaseException:
            # It may still be in the transaction, and the pool believes that it is not.
            self._connection.invalidate()
            raise
