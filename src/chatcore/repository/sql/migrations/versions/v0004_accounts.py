"""Accounts that are disabled, deleted, or a program's."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

# Where a password's hash is: the steps before this one know no other way to keep one out.
_DISABLED, _DELETED = "disabled:", "deleted:"


def upgrade() -> None:
    op.add_column("users", sa.Column("status", sa.Text, nullable=False, server_default="active"))
    op.add_column("users", sa.Column("closing", sa.Text))
    op.add_column("users", sa.Column("bot", sa.Integer, nullable=False, server_default="0"))
    op.create_index(
        "ix_users_closing", "users", ["closing"], sqlite_where=sa.text("closing IS NOT NULL")
    )
    op.execute(
        "UPDATE users SET status = 'disabled',"
        f" password_hash = nullif(substr(password_hash, {len(_DISABLED) + 1}), '')"
        f" WHERE password_hash LIKE '{_DISABLED}%'"
    )
    op.execute(
        "UPDATE users SET status = 'deleted', password_hash = NULL,"
        f" closing = nullif(substr(password_hash, {len(_DELETED) + 1}), '')"
        f" WHERE password_hash LIKE '{_DELETED}%'"
    )


def downgrade() -> None:
    """Leave who is disabled or deleted with a password that is none."""
    op.execute(
        f"UPDATE users SET password_hash = '{_DISABLED}' || coalesce(password_hash, '')"
        " WHERE status = 'disabled'"
    )
    op.execute(
        f"UPDATE users SET password_hash = '{_DELETED}' || coalesce(closing, '')"
        " WHERE status = 'deleted'"
    )
    op.drop_index("ix_users_closing", "users")
    for column in ("bot", "closing", "status"):
        op.drop_column("users", column)
