"""Letting go of what a room keeps no longer: the beginning of its log, a batch at a time."""

from __future__ import annotations

from datetime import datetime

from chatcore.repository.sql.rows import milliseconds
from chatcore.repository.sql.searching import Searching


class Retention(Searching):
    """A repository's part in it."""

    def due(self, now: datetime, limit: int, after: str = "") -> tuple[str, int] | None:
        asked = {"now": milliseconds(now), "limit": limit, "past": after}
        with self._dialect.reading() as connection:
            row = connection.row(self._sql.due, asked)
        return None if row is None else (row[0], row[2])

    def expire(self, room: str, first: int, now: datetime) -> None:
        sql = self._sql
        asked = {"now": milliseconds(now), "room": room, "upto": first}
        with self._dialect.writing() as connection:
            row = connection.row(sql.span, asked)
            if row is None or row[1] >= row[2]:
                return
            room_id, lowest, first = row
            gone = {"whose": room_id, "lowest": lowest, "last": first - 1}
            connection.execute(sql.read_on, gone)
            self._unlearn(connection, [[room_id, lowest, first - 1]])
            connection.execute(sql.redact_gone, gone)
            connection.execute(sql.redact_deletions_of_gone, gone)
            connection.execute(sql.remove_events, gone)
            connection.execute(sql.set_first, {"whose": room_id, "kept": first})
            connection.execute(sql.reindex)
            connection.commit()
