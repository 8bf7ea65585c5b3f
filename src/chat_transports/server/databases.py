"""Which database a command of chat-serve works on."""

from __future__ import annotations

from typing import Literal, TypeAlias

import click

import chatcore
from chatcore.ports import Repository

Check: TypeAlias = Literal["auto", "always", "never"]

database_option = click.option(
    "--database",
    metavar="TEXT",
    help="Which one, as chat-serve has it.  [default: sqlite:///chatcore.db]",
)


def kept(database: str, check: Check = "auto") -> chatcore.SqliteRepository:
    """Return the repository that a command works on, which no memory can be."""
    found = named(database, check)
    if not isinstance(found, chatcore.SqliteRepository):
        raise click.BadParameter("memory: keeps nothing", param_hint="--database")
    return found


def named(database: str, check: Check = "auto") -> Repository:
    if database in ("memory:", ":memory:", "sqlite:///:memory:"):
        return chatcore.MemoryRepository()
    scheme, separator, path = database.partition("://")
    if not separator:
        scheme, path = "sqlite", "/" + database
    if scheme != "sqlite" or not path.removeprefix("/"):
        raise click.BadParameter(
            f"{database!r} is not one of sqlite:///path and memory:", param_hint="--database"
        )
    return chatcore.SqliteRepository(path.removeprefix("/"), check=check)
