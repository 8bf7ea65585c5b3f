"""Brings a database to this version's schema, with alembic, in one transaction."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from chatcore.errors import SchemaError

VERSION_TABLE = "chatcore_version"
"""Our own, for a host may keep its alembic's beside it."""

NEWEST = "0001"


def migrate(connection: sa.Connection, where: str) -> None:
    """Create or upgrade the schema.  Raises SchemaError for a database that is not ours."""
    tables = set(sa.inspect(connection).get_table_names())
    if VERSION_TABLE in tables:
        found = connection.execute(sa.text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()
        if found == NEWEST:
            return  # without the time that importing alembic takes
        if found is None or found > NEWEST:
            raise SchemaError(
                f"The database {where} was written by a newer version of chatcore"
                f" (schema {found}, this version knows {NEWEST}); upgrade chatcore"
            )
    elif tables & {"users", "messages", "rooms", "events", "members", "tokens", "txns"}:
        raise SchemaError(f"The database {where} belongs to another application; name another file")
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
