"""Runs the steps on the connection that `migrate` hands over."""

from __future__ import annotations

from alembic import context

from chatcore.repository.sql.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=context.config.attributes["version_table"],
)
context.run_migrations()
