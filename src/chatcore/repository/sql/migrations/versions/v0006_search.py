"""The index of words that messages are searched by, and how far in the log it is."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Make the index, empty: the server fills it, a thousand events at a time."""
    op.create_table(
        "indexing",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("upto", sa.BigInteger, nullable=False),
        sa.Column("owed", sa.Boolean, nullable=False),
    )
    op.execute("INSERT INTO indexing (id, upto, owed) VALUES (1, 0, 0)")
    if op.get_bind().dialect.name == "sqlite":
        op.execute(
            "CREATE VIRTUAL TABLE words"
            " USING fts5(content, scope, columnsize = 0, tokenize = 'ascii')"
        )


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TABLE words")
    op.drop_table("indexing")
