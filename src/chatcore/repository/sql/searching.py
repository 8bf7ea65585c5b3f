"""Searching the log: an index of words that follows it, and what is asked of both."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import orjson

from chatcore.events import Found
from chatcore.folding import fold
from chatcore.model import Restraint, Room
from chatcore.policy import is_readable
from chatcore.query import Query, words
from chatcore.repository.sql.dialect import Connection, Dialect
from chatcore.repository.sql.rows import as_it_is, given, moment
from chatcore.repository.sql.statements import Statements

SEARCH_SECONDS = 1.0
"""What one search may take of a thread that reads for all."""
HIGHEST = (1 << 63) - 1
"""What every event's id and seq are below."""


class Searching:
    """A repository's part in it.  What is searched is behind the log by what `index` is not told.

    But for what was erased: that is out of it in the transaction that erases it.
    """

    _dialect: Dialect
    _sql: Statements
    _purged_times = 1
    """How much is purged in one step: twice as much as in the one before, where others came
    between, so that in the end one does all, however often they come."""
    _purge_begins_anew = False

    def index(self, limit: int) -> int:
        sql, index = self._sql, self._dialect.words
        with self._dialect.writing() as connection:
            found = sorted(connection.taken(sql.unindexed, {"limit": limit}))
            if not found:
                return 0
            rows: dict[int, list[object]] = {}
            for _, message_id, body, room_id, kind, sender_id, timestamp in found:
                if message_id is None or body.get("erased"):
                    continue  # not a message's text, or no more
                scope = index.scope(
                    room_id,
                    public=kind == "public",
                    sender_id=sender_id,
                    day=moment(timestamp).date(),
                )
                rows[message_id] = [message_id, " ".join(words(body["content"])), scope]
            if rows:
                connection.execute(index.put, given(rows.values()))
                self._purge_begins_anew = True
            connection.execute(sql.set_indexed, {"last": found[-1][0]})
            connection.commit()
        return len(found)

    def purge(self) -> bool:
        with self._dialect.writing() as connection:
            is_owed, stale = connection.row(self._sql.owed)
            if is_owed:
                if self._purge_begins_anew:
                    self._purged_times *= 2
                self._purge_begins_anew = False
                if not self._dialect.words.purge(connection, self._purged_times):
                    connection.execute(self._sql.set_purged)
                    self._purged_times = 1
                connection.commit()
                return True
        if stale and self._dialect.vacuum():
            with self._dialect.writing() as connection:
                connection.execute(self._sql.set_vacuumed, {"seen": stale})
                connection.commit()
        return False

    def _unlearn(self, connection: Connection, spans: Sequence[Sequence[int]]) -> None:
        """Take messages out of what is found: of each room's id the first and the last seq."""
        connection.execute(self._dialect.words.remove, given(spans))
        self._purge_begins_anew = True
        connection.execute(self._sql.note_unlearning)

    def search(
        self, username: str, query: Query, before: int | None, limit: int, now: datetime
    ) -> Sequence[tuple[int, Found | None]]:
        asked = {"username": username, "room": query.room, "sender": query.sender}
        with self._dialect.reading(SEARCH_SECONDS) as connection:
            places, sender = connection.row(self._sql.search_places, asked)
            readable: list[int] = []
            barred: list[int] = []
            for room_id, name, kind, role, banned in orjson.loads(places):
                until = None if banned is None else moment(banned)
                if not is_readable(Room(name, kind), role, Restraint(banned=until), now):
                    barred.append(room_id)
                elif kind != "public" or query.room is not None:
                    readable.append(room_id)
            if query.sender is not None and sender is None:
                return []  # for nobody of that name has ever said anything
            wanted = self._dialect.words.wanted(query, rooms=readable, banned=barred, sender=sender)
            page = {"wanted": wanted, "before": before or HIGHEST, "limit": limit}
            page |= {"upto": HIGHEST, "username": username}
            found = sorted(connection.taken(self._sql.found, page), reverse=True)
        return [(place, _found(query, row, username)) for place, *row in found]


def _found(query: Query, row: Sequence[Any], reader: str) -> Found | None:
    room, head, *said = row
    message, edit = as_it_is(room, said, reader)
    if edit is None:
        return Found.of(message, head)
    (message,) = fold([message, edit])
    # The index may not have heard of it yet.
    return Found.of(message, head) if query.finds(message.content) else None
