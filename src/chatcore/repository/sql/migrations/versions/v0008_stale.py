"""Whether pages have copies still of what was erased."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Take a file that there was before for one that has some."""
    op.add_column("indexing", sa.Column("stale", sa.Integer, nullable=False, server_default="0"))
    op.execute("UPDATE indexing SET stale = 1 WHERE upto > 0")


def downgrade() -> None:
    op.drop_column("indexing", "stale")
