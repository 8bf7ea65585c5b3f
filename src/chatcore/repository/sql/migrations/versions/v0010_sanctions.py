"""Who is banned or muted in a room, by an index, and by which event."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Note it of those who are, as far as the log has it: the newest such event of each."""
    for action, until in (("ban", "banned"), ("mute", "muted")):
        op.add_column("restraints", sa.Column(action, sa.BigInteger))
        op.execute(
            f"""
            UPDATE restraints SET {action} = found.seq FROM (
                SELECT events.room_id, users.id AS user_id, max(events.seq) AS seq
                FROM events JOIN users ON users.username = json_extract(events.body, '$.username')
                WHERE events.kind <> 'message' AND events.kind = 'member'
                AND json_extract(events.body, '$.action') = '{action}'
                GROUP BY events.room_id, users.id
            ) AS found
            WHERE found.room_id = restraints.room_id AND found.user_id = restraints.user_id
            AND restraints.{until} IS NOT NULL
            """
        )
    op.create_index(
        "ix_restraints_sanctions",
        "restraints",
        ["room_id", "user_id", "banned", "muted", "ban", "mute"],
        sqlite_where=sa.text("banned IS NOT NULL OR muted IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_restraints_sanctions", "restraints")
    for column in ("mute", "ban"):
        op.drop_column("restraints", column)
