"""The steps lead from nothing to the schema, and back."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from chatcore.errors import SchemaError
from chatcore.repository.sql import SqliteRepository
from chatcore.repository.sql.migrate import NEWEST, VERSION_TABLE, downgrade, migrate, upgrade
from chatcore.repository.sql.schema import metadata


@pytest.fixture
def connection() -> Iterator[sa.Connection]:
    engine = sa.create_engine("sqlite://")
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def things(connection: sa.Connection) -> dict[str, str]:
    """Every table, index and view by its name, and the SQL that would make it."""
    rows = connection.execute(sa.text("SELECT name, sql FROM sqlite_master WHERE sql NOT NULL"))
    return {name: re.sub(r"\s+", "", sql) for name, sql in rows}


def version(connection: sa.Connection) -> object:
    return connection.execute(sa.text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()


def test_the_steps_make_the_schema(connection: sa.Connection) -> None:
    migrate(connection, "test.db")
    context = MigrationContext.configure(connection, opts={"version_table": "chatcore_version"})
    assert compare_metadata(context, metadata) == []


def test_to_the_letter_and_nothing_beside_it_but_a_view(connection: sa.Connection) -> None:
    migrate(connection, "test.db")
    migrated = things(connection)
    assert {"messages", "chatcore_version"} == {*migrated} - {
        *metadata.tables,
        *(index.name for table in metadata.tables.values() for index in table.indexes),
    }
    engine = sa.create_engine("sqlite://")
    with engine.connect() as fresh:
        metadata.create_all(fresh)
        expected = things(fresh)
    engine.dispose()
    assert expected == {name: migrated[name] for name in expected}


def test_the_version_stands_in_a_table_of_our_own(connection: sa.Connection) -> None:
    connection.execute(sa.text("CREATE TABLE alembic_version (version_num TEXT)"))
    connection.execute(sa.text("INSERT INTO alembic_version VALUES ('the host''s')"))
    migrate(connection, "test.db")
    assert version(connection) == NEWEST
    hosts = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    assert hosts == "the host's"


def test_newest_is_the_head_of_one_line() -> None:
    config = Config()
    config.set_main_option("script_location", "chatcore.repository.sql:migrations")
    assert ScriptDirectory.from_config(config).get_heads() == [NEWEST]


def test_down_and_up_again(connection: sa.Connection) -> None:
    upgrade(connection, "head")
    made = things(connection)
    downgrade(connection, "base")
    assert {"chatcore_version"} == {*things(connection)}
    assert version(connection) is None
    upgrade(connection, "head")
    assert made == things(connection)


def test_after_the_way_down_it_may_be_opened_again(connection: sa.Connection) -> None:
    upgrade(connection, "head")
    downgrade(connection, "base")
    migrate(connection, "test.db")
    assert version(connection) == NEWEST


def test_migrating_twice_changes_nothing(connection: sa.Connection) -> None:
    migrate(connection, "test.db")
    made = things(connection)
    migrate(connection, "test.db")
    assert made == things(connection)


@pytest.mark.parametrize("table", sorted({*metadata.tables, "messages"}))
def test_a_table_of_ours_without_our_version_is_somebody_elses(
    connection: sa.Connection, table: str
) -> None:
    connection.execute(sa.text(f"CREATE TABLE {table} (id INTEGER)"))
    with pytest.raises(SchemaError, match=r"test\.db belongs to another application"):
        migrate(connection, "test.db")
    assert {table} == {*things(connection)}


def test_beside_a_hosts_own_tables_ours_are_made(connection: sa.Connection) -> None:
    connection.execute(sa.text("CREATE TABLE customers (id INTEGER)"))
    migrate(connection, "test.db")
    assert {"customers", "events"} < {*things(connection)}


def test_a_step_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """Opening is one transaction: another process sees all of a schema or none of it."""
    path = tmp_path / "chat.db"
    repository = SqliteRepository(path)
    with repository.writing() as connection:
        migrate(connection, str(path))  # and then no commit
    with repository.reading() as connection:
        assert things(connection) == {}
    repository.open()
    with repository.reading() as connection:
        assert version(connection) == NEWEST
    repository.close()


def test_opening_what_is_up_to_date_does_not_load_alembic(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from chatcore import SqliteRepository\n"
        "repository = SqliteRepository(sys.argv[1])\n"
        "repository.open()\n"
        "repository.close()\n"
        "print('alembic' in sys.modules)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "chat.db")]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in "12"]
    assert [run.stdout for run in runs] == ["True\n", "False\n"]
