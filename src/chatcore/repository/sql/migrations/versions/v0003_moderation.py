"""Rooms that change, what holds people back in them, and what moderators are told."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("rooms", sa.Column("slow_mode", sa.Integer, nullable=False, server_default="0"))
    op.add_column(
        "rooms", sa.Column("archived", sa.Boolean, nullable=False, server_default=sa.false())
    )
    op.create_index(
        "ix_events_audit", "events", ["room_id", "seq"], sqlite_where=sa.text("kind <> 'message'")
    )
    op.create_index(
        "ix_members_owners", "members", ["room_id", "role"], sqlite_where=sa.text("role = 'owner'")
    )
    op.create_table(
        "restraints",
        sa.Column("room_id", sa.Integer, sa.ForeignKey("rooms.id"), primary_key=True),
        sa.Column("user_id", sa.Integer, sa.ForeignKey("users.id"), primary_key=True, index=True),
        sa.Column("banned", sa.BigInteger),
        sa.Column("muted", sa.BigInteger),
        sa.Column("spoke", sa.BigInteger),
        sa.Column("reader", sa.Boolean, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "reports",
        sa.Column("room_id", sa.Integer, sa.ForeignKey("rooms.id"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("user_id", sa.Integer, sa.ForeignKey("users.id"), nullable=False, index=True),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("timestamp", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("room_id", "seq", "user_id", name="uq_reports_message_user"),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    """Keep each event's place, and who is in which room; bans, mutes and invitations end.

    A change of a room becomes a change of membership that changes nothing, as 0002 does
    it, and other changes lose the fields that were not known.
    """
    op.execute(
        "UPDATE events SET kind = 'member', body = json_object('username',"
        " (SELECT username FROM users WHERE users.id = events.sender_id), 'action', 'update')"
        " WHERE kind = 'room'"
    )
    op.execute(
        "UPDATE events SET body = json_remove(body, '$.until', '$.reason') WHERE kind = 'member'"
    )
    op.execute("DELETE FROM members WHERE role = 'invited'")
    op.drop_table("reports")
    op.drop_table("restraints")
    op.drop_index("ix_members_owners", "members")
    op.drop_index("ix_events_audit", "events")
    op.drop_column("rooms", "archived")
    op.drop_column("rooms", "slow_mode")
