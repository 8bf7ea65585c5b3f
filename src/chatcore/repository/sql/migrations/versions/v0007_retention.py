"""Rooms that let go of what is older than so many days."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column(
        "rooms", sa.Column("retention_days", sa.Integer, nullable=False, server_default="0")
    )
    op.create_index(
        "ix_rooms_retention",
        "rooms",
        ["retention_days"],
        sqlite_where=sa.text("retention_days > 0"),
    )


def downgrade() -> None:
    """What is gone stays gone; what is there stays."""
    op.execute("UPDATE events SET body = json_remove(body, '$.retention_days') WHERE kind = 'room'")
    op.drop_index("ix_rooms_retention", "rooms")
    op.drop_column("rooms", "retention_days")
