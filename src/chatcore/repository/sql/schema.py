"""The tables, as the newest migration leaves them.

`users` and `messages` keep the columns that the first chatroom's had, so plain SQL
written for it still reads: `messages` is a view of the log, made by a migration.
Times are integers, milliseconds since 1970 in UTC.
"""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()


def _of_a_message(column: str) -> sa.ForeignKeyConstraint:
    """Have what is of a message go with it, where it goes out of the log."""
    return sa.ForeignKeyConstraint(
        ["room_id", column], ["events.room_id", "events.seq"], ondelete="CASCADE"
    )


users = sa.Table(
    "users",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("username", sa.String(50), nullable=False, unique=True),
    sa.Column("password_hash", sa.String(255)),
    sa.Column("display_name", sa.Text, nullable=False),
    sa.Column("skeleton", sa.Text, nullable=False, unique=True),
    sa.Column("created", sa.BigInteger, nullable=False),
    sa.Column("status", sa.Text, nullable=False, server_default="active"),
    sa.Column("closing", sa.Text),
    sa.Column("bot", sa.Integer, nullable=False, server_default="0"),
    sa.Index(
        "ix_users_closing",
        "closing",
        sqlite_where=sa.text("closing IS NOT NULL"),  # hardly any
    ),
)

tokens = sa.Table(
    "tokens",
    metadata,
    sa.Column("digest", sa.LargeBinary(32), primary_key=True),
    sa.Column("user_id", sa.Integer, sa.ForeignKey("users.id"), nullable=False, index=True),
    sa.Column("expires", sa.BigInteger, nullable=False),
)

rooms = sa.Table(
    "rooms",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(80), nullable=False, unique=True),
    sa.Column("skeleton", sa.Text, nullable=False, unique=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("topic", sa.Text, nullable=False),
    sa.Column("epoch", sa.Text, nullable=False),
    sa.Column("first", sa.BigInteger, nullable=False),
    sa.Column("head", sa.BigInteger, nullable=False),
    sa.Column("messages", sa.BigInteger, nullable=False),
    sa.Column("slow_mode", sa.Integer, nullable=False, server_default="0"),
    sa.Column("archived", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("retention_days", sa.Integer, nullable=False, server_default="0"),
    sa.Index("ix_rooms_retention", "retention_days", sqlite_where=sa.text("retention_days > 0")),
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("room_id", sa.Integer, sa.ForeignKey("rooms.id"), nullable=False),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("sender_id", sa.Integer, sa.ForeignKey("users.id"), nullable=False),
    sa.Column("timestamp", sa.BigInteger, nullable=False),
    sa.Column("messages", sa.BigInteger, nullable=False),
    sa.Column("draft", sa.BigInteger, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("target", sa.BigInteger),
    sa.UniqueConstraint("room_id", "seq", name="uq_events_room_seq"),
    sa.Index(
        "ix_events_target",
        "room_id",
        "target",
        "kind",  # for a message may have a thousand reactions to one edit
        "seq",
        sqlite_where=sa.text("target IS NOT NULL"),  # most have none, and cost it nothing
    ),
    # What is between two messages, or two events of another kind, may be a hundred thousand.
    sa.Index("ix_events_messages", "room_id", "seq", sqlite_where=sa.text("kind = 'message'")),
    sa.Index(
        "ix_events_audit", "room_id", "kind", "seq", sqlite_where=sa.text("kind <> 'message'")
    ),
)
"""The log.

`messages` counts the room's messages up to this event; `body` is JSON; `target` is the
seq of the message that an edit, a deletion or a reaction is of, as it is in the body.
"""

reactions = sa.Table(
    "reactions",
    metadata,
    sa.Column("room_id", sa.Integer, sa.ForeignKey("rooms.id"), primary_key=True),
    sa.Column("target", sa.BigInteger, primary_key=True),
    sa.Column("user_id", sa.Integer, sa.ForeignKey("users.id"), primary_key=True, index=True),
    sa.Column("emoji", sa.Text, primary_key=True),
    sa.Column("seq", sa.BigInteger, nullable=False),
    _of_a_message("target"),
    sqlite_with_rowid=False,
)
"""Those that are there now; `target` is the message's seq, `seq` that of what added it."""

tallies = sa.Table(
    "tallies",
    metadata,
    sa.Column("room_id", sa.Integer, sa.ForeignKey("rooms.id"), primary_key=True),
    sa.Column("target", sa.BigInteger, primary_key=True),
    sa.Column("emoji", sa.Text, primary_key=True),
    sa.Column("count", sa.BigInteger, nullable=False),
    _of_a_message("target"),
    sqlite_with_rowid=False,
)
"""How many of `reactions` each message has with each emoji; never 0."""

mentions = sa.Table(
    "mentions",
    metadata,
    sa.Column("user_id", sa.Integer, sa.ForeignKey("users.id"), primary_key=True),
    sa.Column("room_id", sa.Integer, sa.ForeignKey("rooms.id"), primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True),
    _of_a_message("seq"),
    sa.Index("ix_mentions_message", "room_id", "seq"),
    sqlite_with_rowid=False,
)
"""Whom each message mentions, as it is now; `seq` is the message's."""

indexing = sa.Table(
    "indexing",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("upto", sa.BigInteger, nullable=False),
    sa.Column("owed", sa.Boolean, nullable=False),
    sa.Column("stale", sa.Integer, nullable=False, server_default="0"),
)
"""One row: the id of the last event whose words are in the index, which a migration makes.

`owed` says whether the index has words still of what was taken out of it; `stale` counts
what was erased since the database was last written anew, for pages may have copies of it.
"""

members = sa.Table(
    "members",
    metadata,
    sa.Column("room_id", sa.Integer, sa.ForeignKey("rooms.id"), primary_key=True),
    sa.Column("user_id", sa.Integer, sa.ForeignKey("users.id"), primary_key=True, index=True),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("read", sa.BigInteger, nullable=False),
    sa.Column("read_messages", sa.BigInteger, nullable=False),
    sa.Index("ix_members_owners", "room_id", "role", sqlite_where=sa.text("role = 'owner'")),
    sqlite_with_rowid=False,
)
"""And those who are invited, by the role `invited`."""

restraints = sa.Table(
    "restraints",
    metadata,
    sa.Column("room_id", sa.Integer, sa.ForeignKey("rooms.id"), primary_key=True),
    sa.Column("user_id", sa.Integer, sa.ForeignKey("users.id"), primary_key=True, index=True),
    sa.Column("banned", sa.BigInteger),
    sa.Column("muted", sa.BigInteger),
    sa.Column("spoke", sa.BigInteger),
    sa.Column("reader", sa.Boolean, nullable=False),
    sa.Column("ban", sa.BigInteger),
    sa.Column("mute", sa.BigInteger),
    # Most rows are of who has spoken in slow mode, and no more.  It has all that a list of the
    # others asks for, or SQLite would rather look through the table.
    sa.Index(
        "ix_restraints_sanctions",
        "room_id",
        "user_id",
        "banned",
        "muted",
        "ban",
        "mute",
        sqlite_where=sa.text("banned IS NOT NULL OR muted IS NOT NULL"),
    ),
    sqlite_with_rowid=False,
)
"""Apart from the members, for they outlive a membership.

`banned` and `muted` say until when, `ban` and `mute` by which event, by its seq.
"""

reports = sa.Table(
    "reports",
    metadata,
    sa.Column("room_id", sa.Integer, sa.ForeignKey("rooms.id"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("user_id", sa.Integer, sa.ForeignKey("users.id"), nullable=False, index=True),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("timestamp", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("room_id", "seq", "user_id", name="uq_reports_message_user"),
    sqlite_with_rowid=False,
)
"""`seq` is the message's, `user_id` who reported it."""

txns = sa.Table(
    "txns",
    metadata,
    sa.Column("room_id", sa.Integer, sa.ForeignKey("rooms.id"), primary_key=True),
    sa.Column("user_id", sa.Integer, sa.ForeignKey("users.id"), primary_key=True),
    sa.Column("txn_id", sa.Text, primary_key=True),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("timestamp", sa.BigInteger, nullable=False),
    sa.Column("fingerprint", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
"""Apart from the log, for a txn_id is known for ever and the log's beginning may go."""
