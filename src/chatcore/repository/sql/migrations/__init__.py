"""The database's schema, step by step; alembic reads this folder."""
