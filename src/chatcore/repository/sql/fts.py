"""SQLite's index of words: FTS5, told which words there are, and asked in its own syntax.

A row has a message's words, and beside them in `scope` what else one searches by: the
room, who sent it, and the day.  So the index alone answers a search, however many
messages elsewhere have the same words.

It holds its own copy of the words: what was indexed once can always be taken out again,
whatever becomes of the log, or of what counts as a word.  FTS5 need not know that: its
tokenizer for ASCII takes them apart at the spaces, and takes all that is not ASCII as
part of a word.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from datetime import date, timedelta
from typing import Any

import sqlalchemy as sa

from chatcore.query import Query
from chatcore.repository.sql.dialect import Connection

MERGED_PAGES = 50
"""What is merged at a time, to begin with, and twice in a turn: some 20 ms of work."""


class WordIndex:
    """The statements that keep it."""

    wipes_at_once = sqlite3.sqlite_version_info >= (3, 42)
    """Whether FTS5 can take words out of its pages as it removes a row."""

    put = sa.text(
        "INSERT OR REPLACE INTO words (rowid, content, scope)"
        " SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'),"
        " json_extract(value, '$[2]') FROM json_each(:given)"
    )
    remove = sa.text(
        "DELETE FROM words WHERE rowid IN (SELECT events.id FROM json_each(:given) CROSS JOIN"
        " events ON events.room_id = json_extract(value, '$[0]') AND events.seq"
        " BETWEEN json_extract(value, '$[1]') AND json_extract(value, '$[2]')"
        " WHERE events.kind = 'message')"
    )
    hits = (
        sa.text(
            "SELECT rowid AS id FROM words WHERE words MATCH :wanted AND rowid < :before"
            " ORDER BY rowid DESC LIMIT :limit"
        )
        .columns(sa.column("id", sa.Integer))
        .subquery("hits")
    )

    def scope(self, room_id: int, *, public: bool, sender_id: int, day: date) -> str:
        anybody = ["p"] if public else []
        return " ".join([*anybody, f"r{room_id}", f"u{sender_id}", *_around(day)])

    def wanted(
        self, query: Query, *, rooms: Iterable[int], banned: Iterable[int], sender: int | None
    ) -> str:
        places = [f"r{room}" for room in rooms]
        if query.room is None:
            places.append("p")
        asked = [_any_of(places)]
        if sender is not None:
            asked.append(_any_of([f"u{sender}"]))
        if query.before or query.after:
            asked.append(_any_of(_days(query)))
        # A word has no quote in it, nor anything else that would end a string.
        asked += [f'content : "{" ".join(phrase)}"' for phrase in query.phrases]
        wanted = " AND ".join(asked)
        without = _any_of(f"r{room}" for room in banned)
        return f"({wanted}) NOT {without}"

    def open(self, connection: sa.Connection) -> str | None:
        """Have words wiped at once where that can be; return why the index cannot be used here."""
        found = connection.exec_driver_sql("SELECT k, v FROM words_config")
        config: dict[str, Any] = dict(found.all())
        if self.wipes_at_once:
            if not config.get("secure-delete"):
                connection.exec_driver_sql(
                    "INSERT INTO words (words, rank) VALUES ('secure-delete', 1)"
                )
        elif config["version"] != _FORMAT:
            return f"SQLite 3.42 or a later one has used it, and this is {sqlite3.sqlite_version}"
        return None

    def purge(self, connection: Connection, times: int) -> bool:
        # Only where one segment is made of all do the words of removed rows go.  Twice, for
        # only the next one tells that it is done, and by another turn there may be more.
        return self._merge(connection, times) and self._merge(connection, times)

    def _merge(self, connection: Connection, times: int) -> bool:
        # The number of changes grows by more than one, as long as there is something to do
        # (SQLite's FTS5, section 6.8).
        (before,) = connection.row(_CHANGES)
        connection.execute(_MERGE, {"pages": -MERGED_PAGES * times})
        (after,) = connection.row(_CHANGES)
        return bool(after - before > 1)


_FORMAT = 4
"""Of an index from which nothing was wiped at once; older versions read no other."""
_MERGE = sa.text("INSERT INTO words (words, rank) VALUES ('merge', :pages)")
_CHANGES = sa.text("SELECT total_changes()")


def _any_of(words: Iterable[str]) -> str:
    return f"scope : ({' OR '.join(words) or 'never'})"


# Days, and the months, years and decades that they are in: a long time is few words.

FIRST_DAY, LAST_DAY = date(1970, 1, 1), date(2200, 1, 1)
"""What is outside is as good as never."""


def _around(day: date) -> tuple[str, str, str, str]:
    return f"t{day.year // 10}", f"y{day.year}", f"m{day:%Y%m}", f"d{day:%Y%m%d}"


def _days(query: Query) -> Iterator[str]:
    """Name the days between two, by what is whole between them."""
    start = FIRST_DAY
    if query.after is not None:
        start = max(start, min(query.after, LAST_DAY) + timedelta(1))
    end = LAST_DAY if query.before is None else min(LAST_DAY, query.before)
    while start < end:
        decade, year, month, day = _around(start)
        next_decade = date(start.year // 10 * 10 + 10, 1, 1)
        next_year = date(start.year + 1, 1, 1)
        next_month = (start.replace(day=1) + timedelta(31)).replace(day=1)
        if start.year % 10 == 0 and start.month == start.day == 1 and next_decade <= end:
            yield decade
            start = next_decade
        elif start.month == start.day == 1 and next_year <= end:
            yield year
            start = next_year
        elif start.day == 1 and next_month <= end:
            yield month
            start = next_month
        else:
            yield day
            start += timedelta(1)
