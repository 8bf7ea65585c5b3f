"""Pages of messages, and of any other kind of event, by an index that has no others between."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.create_index(
        "ix_events_messages",
        "events",
        ["room_id", "seq"],
        sqlite_where=sa.text("kind = 'message'"),
    )
    op.drop_index("ix_events_audit", "events")
    op.create_index(
        "ix_events_audit",
        "events",
        ["room_id", "kind", "seq"],
        sqlite_where=sa.text("kind <> 'message'"),
    )


def downgrade() -> None:
    op.drop_index("ix_events_messages", "events")
    op.drop_index("ix_events_audit", "events")
    op.create_index(
        "ix_events_audit", "events", ["room_id", "seq"], sqlite_where=sa.text("kind <> 'message'")
    )
