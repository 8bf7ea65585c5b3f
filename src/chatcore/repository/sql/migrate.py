"""Brings a database to this version's schema, with alembic, in one transaction."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable
from typing import Any

import sqlalchemy as sa

from chatcore.errors import SchemaError
from chatcore.repository.sql.schema import metadata

VERSION_TABLE = "chatcore_version"
"""Our own, for a host may keep its alembic's beside it."""

VERSIONS = ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008", "0009", "0010")
"""Every schema there has been, the oldest first."""

NEWEST = VERSIONS[-1]

OURS = frozenset(metadata.tables) | {"messages", "words"}
FIRST_CHATROOM = (
    ("users", {"id", "username", "password_hash"}),
    ("messages", {"id", "username", "content", "timestamp"}),
)
"""The tables of the Flask-SocketIO chatroom that came before, and their columns."""


def check(connection: sa.Connection, where: str) -> str | None:
    """Return the database's version, None for one that is empty.

    Changes nothing.  Raises SchemaError for a database that this version must leave alone.
    """
    inspector = sa.inspect(connection)
    tables = {*inspector.get_table_names(), *inspector.get_view_names()}
    if VERSION_TABLE not in tables:
        if first_chatroom(lambda table: _columns(inspector, table)):
            raise SchemaError(
                f"The database {where} is the first chatroom's, and stays as it is:"
                f" `chat-serve import {shlex.quote(where)}` brings what it has into another"
            )
        if tables & OURS:
            raise SchemaError(
                f"The database {where} belongs to another application; name another file"
            )
        return None
    version = connection.scalar(sa.text(f"SELECT version_num FROM {VERSION_TABLE}"))
    if version is None:
        return None  # which had one
    if version not in VERSIONS and str(version) <= NEWEST:
        raise SchemaError(f"The database {where} is of no version of chatcore that there was")
    if version not in VERSIONS:
        raise SchemaError(
            f"The database {where} was written by a newer version of chatcore"
            f" (schema {version}, this version knows {NEWEST}); upgrade chatcore"
        )
    return str(version)


def first_chatroom(columns: Callable[[str], Iterable[str]]) -> tuple[str, str] | None:
    """Return its tables of users and messages, where a database is the first chatroom's.

    `columns` says which columns a table has, none for one that is not there.
    Flask-SQLAlchemy names a table after its class, unless it was told a name.
    """
    for ending in ("", "s"):
        names = [plural.removesuffix("s") + ending for plural, _ in FIRST_CHATROOM]
        if all(
            {*columns(name)} == has for name, (_, has) in zip(names, FIRST_CHATROOM, strict=True)
        ):
            return names[0], names[1]
    return None


def _columns(inspector: sa.Inspector, table: str) -> list[str]:
    if not inspector.has_table(table):
        return []
    return [column["name"] for column in inspector.get_columns(table)]


def migrate(connection: sa.Connection, where: str) -> None:
    """Create the schema, or upgrade it.  Raises SchemaError as `check` does."""
    if check(connection, where) != NEWEST:  # else without the time that importing alembic takes
        upgrade(connection, NEWEST)


def upgrade(connection: sa.Connection, revision: str) -> None:
    _alembic("upgrade", connection, revision)


def downgrade(connection: sa.Connection, revision: str) -> None:
    _alembic("downgrade", connection, revision)


def _alembic(command: str, connection: sa.Connection, revision: str) -> None:
    import alembic.command
    from alembic.config import Config

    attributes: dict[str, Any] = {"connection": connection, "version_table": VERSION_TABLE}
    config = Config(attributes=attributes)
    config.set_main_option("script_location", "chatcore.repository.sql:migrations")
    getattr(alembic.command, command)(config, revision)
