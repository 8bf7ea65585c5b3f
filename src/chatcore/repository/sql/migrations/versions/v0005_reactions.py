"""Replies, reactions and mentions: which there are now, and how many."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.drop_index("ix_events_target", "events")
    op.create_index(
        "ix_events_target",
        "events",
        ["room_id", "target", "kind", "seq"],
        sqlite_where=sa.text("target IS NOT NULL"),
    )
    op.create_table(
        "reactions",
        sa.Column("room_id", sa.Integer, sa.ForeignKey("rooms.id"), primary_key=True),
        sa.Column("target", sa.BigInteger, primary_key=True),
        sa.Column("user_id", sa.Integer, sa.ForeignKey("users.id"), primary_key=True, index=True),
        sa.Column("emoji", sa.Text, primary_key=True),
        sa.Column("seq", sa.BigInteger, nullable=False),
        _of_a_message("target"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "tallies",
        sa.Column("room_id", sa.Integer, sa.ForeignKey("rooms.id"), primary_key=True),
        sa.Column("target", sa.BigInteger, primary_key=True),
        sa.Column("emoji", sa.Text, primary_key=True),
        sa.Column("count", sa.BigInteger, nullable=False),
        _of_a_message("target"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "mentions",
        sa.Column("user_id", sa.Integer, sa.ForeignKey("users.id"), primary_key=True),
        sa.Column("room_id", sa.Integer, sa.ForeignKey("rooms.id"), primary_key=True),
        sa.Column("seq", sa.BigInteger, primary_key=True),
        _of_a_message("seq"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_mentions_message", "mentions", ["room_id", "seq"])


def downgrade() -> None:
    """Keep each message and its place; a reply is a message again, and all else goes.

    What added or removed one becomes a change of membership that changes nothing, as 0002
    does it.
    """
    op.drop_table("mentions")
    op.drop_table("tallies")
    op.drop_table("reactions")
    op.execute(
        "UPDATE events SET kind = 'member', target = NULL, body = json_object('username',"
        " (SELECT username FROM users WHERE users.id = events.sender_id), 'action', 'reaction')"
        " WHERE kind = 'reaction'"
    )
    op.execute(
        "UPDATE events SET body = json_remove(body, '$.reply_to', '$.mentions')"
        " WHERE kind IN ('message', 'edit')"
    )
    op.drop_index("ix_events_target", "events")
    op.create_index(
        "ix_events_target",
        "events",
        ["room_id", "target", "seq"],
        sqlite_where=sa.text("target IS NOT NULL"),
    )


def _of_a_message(column: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["room_id", column], ["events.room_id", "events.seq"], ondelete="CASCADE"
    )
