"""Repositories on SQLAlchemy Core: SQLite now.  The only home of SQLAlchemy and alembic."""

from chatcore.repository.sql.sqlite import SqliteRepository

__all__ = ["SqliteRepository"]
