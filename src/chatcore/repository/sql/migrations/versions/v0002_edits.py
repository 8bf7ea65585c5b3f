"""Edits and deletions: which message each is of."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_NEWEST_EDIT = (
    "(SELECT json_extract(edits.body, '$.content') FROM events AS edits"
    " WHERE edits.room_id = events.room_id AND edits.target = events.seq"
    " AND edits.kind = 'edit' ORDER BY edits.seq DESC LIMIT 1)"
)


def upgrade() -> None:
    op.execute("DROP VIEW messages")
    op.add_column("events", sa.Column("target", sa.BigInteger))
    op.create_index(
        "ix_events_target",
        "events",
        ["room_id", "target", "seq"],
        sqlite_where=sa.text("target IS NOT NULL"),
    )
    # For people, who want to read what the messages say now.
    _view(
        f"coalesce({_NEWEST_EDIT}, json_extract(events.body, '$.content'))",
        "AND json_extract(events.body, '$.erased') IS NULL",
    )


def downgrade() -> None:
    """Leave each message with its newest text, and its edits' places with nothing in them.

    The log stays dense: an edit or a deletion becomes a change of membership that changes
    nothing.
    """
    op.execute("DROP VIEW messages")
    op.execute(
        f"UPDATE events SET body = json_object('content', {_NEWEST_EDIT})"
        f" WHERE kind = 'message' AND {_NEWEST_EDIT} IS NOT NULL"
    )
    op.execute(
        "UPDATE events SET body = json_object('content', '')"
        " WHERE kind = 'message' AND json_extract(body, '$.erased')"
    )
    op.execute(
        "UPDATE events SET kind = 'member', body = json_object('username',"
        " (SELECT username FROM users WHERE users.id = events.sender_id), 'action', kind)"
        " WHERE target IS NOT NULL"
    )
    op.drop_index("ix_events_target", "events")
    op.drop_column("events", "target")
    _view("json_extract(events.body, '$.content')")


def _view(content: str, condition: str = "") -> None:
    op.execute(
        f"CREATE VIEW messages AS SELECT events.id, users.username, {content} AS content,"
        " strftime('%Y-%m-%d %H:%M:%S', events.timestamp / 1000, 'unixepoch')"
        " || printf('.%03d000', events.timestamp % 1000) AS timestamp, rooms.name AS room"
        " FROM events JOIN users ON users.id = events.sender_id"
        " JOIN rooms ON rooms.id = events.room_id"
        f" WHERE events.kind = 'message' {condition}".rstrip()
    )
