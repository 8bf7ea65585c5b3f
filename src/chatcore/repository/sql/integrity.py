"""Whether a SQLite database is whole, and what is wrong with it where it is not."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from attrs import NOTHING, fields_dict

from chatcore.errors import SchemaError
from chatcore.events import DURABLE
from chatcore.model import INVITED
from chatcore.policy import ROLES
from chatcore.repository.sql.schema import metadata


def damage(connection: sa.Connection, *, whole: bool) -> str | None:
    """Say what is wrong with this version's database; None where nothing is found.

    Asked in one snapshot, for others may write meanwhile.  Looks at both ends of each
    room's log, or at the whole file, which takes some seconds for a million messages.
    What a disk changed inside a message's text can be found by nobody: it has no checksum.
    """
    try:
        return next(_findings(connection, whole), None)
    except sa.exc.DBAPIError as error:
        if not is_damage(error.orig):
            raise
        return str(error.orig)


def is_damage(error: BaseException | None) -> bool:
    """Say whether SQLite has found a page that it cannot make sense of."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_CORRUPT


def one_line(text: object) -> str:
    """What SQLite says of damage may have bytes of it within."""
    return "".join(
        each if each.isprintable() else "\N{REPLACEMENT CHARACTER}"
        for each in " ".join(str(text).split())
    )


def damaged(where: object, wrong: object) -> SchemaError:
    return SchemaError(
        f"The database {where} is damaged, and stays as it is: {one_line(wrong)};"
        " put a backup in its place"
    )


def _findings(connection: sa.Connection, whole: bool) -> Iterator[str]:
    if whole:
        yield from _pages(connection)
    yield from _columns(connection)
    yield from _ends(connection)
    if whole:
        yield from _references(connection)
        yield from _words(connection)
        yield from _events(connection)
        yield from _texts(connection)


def _pages(connection: sa.Connection) -> Iterator[str]:
    """Everything that SQLite knows of its own; quick_check would not compare the indexes."""
    for (said,) in connection.exec_driver_sql("PRAGMA integrity_check(1)"):
        if said != "ok":
            yield str(said).removeprefix("*** in database main ***")


def _columns(connection: sa.Connection) -> Iterator[str]:
    """The schema is text in the file, like any other."""
    for table in metadata.sorted_tables:
        found = connection.exec_driver_sql(f"SELECT name FROM pragma_table_info('{table.name}')")
        if {*table.columns.keys()} - {*found.scalars()}:
            yield f"the table {table.name} has lost one of its columns"


def _ends(connection: sa.Connection) -> Iterator[str]:
    """Each room's own numbers, and those at the ends of its log; a few reads for each."""
    found = connection.exec_driver_sql(
        "SELECT *, lowest IS NOT first OR highest IS NOT head AS torn FROM ("
        " SELECT name, first, head, messages,"
        " coalesce((SELECT min(seq) FROM events WHERE room_id = rooms.id), head + 1) AS lowest,"
        " coalesce((SELECT max(seq) FROM events WHERE room_id = rooms.id), first - 1) AS highest,"
        " coalesce((SELECT messages FROM events WHERE room_id = rooms.id AND seq = head),"
        " CASE WHEN head = 0 THEN 0 ELSE messages END) AS counted FROM rooms)"
        " WHERE torn OR first < 1 OR counted IS NOT messages"
    )
    for name, first, head, messages, lowest, highest, counted, torn in found:
        if torn:
            yield (
                f"the room {name!r} should have the events {first} to {head},"
                f" and its log has {lowest} to {highest}"
            )
        yield f"the room {name!r} should have {messages} messages, and its log counts {counted}"


def _references(connection: sa.Connection) -> Iterator[str]:
    for table, _, parent, _ in connection.exec_driver_sql("PRAGMA foreign_key_check"):
        yield f"a row of the table {table} belongs to none of the table {parent}"


def _words(connection: sa.Connection) -> Iterator[str]:
    """What decides who may do what is one of the words and numbers that there are."""
    found = connection.exec_driver_sql(
        "SELECT name FROM rooms WHERE kind NOT IN ('public', 'private', 'direct')"
        " OR typeof(slow_mode) <> 'integer' OR archived NOT IN (0, 1)"
        " OR typeof(retention_days) <> 'integer'"
    )
    for (name,) in found:
        yield f"the room {name!r} is of no kind that there is"
    known = ", ".join(map(repr, (*ROLES, INVITED)))
    found = connection.exec_driver_sql(
        "SELECT rooms.name, users.username FROM members JOIN rooms ON rooms.id = room_id"
        f" JOIN users ON users.id = user_id WHERE role NOT IN ({known})"
    )
    for name, username in found:
        yield f"{username} has no role in the room {name!r} that there is"
    ends = " OR ".join(
        f"({moment} IS NOT NULL AND NOT ({_is_moment(moment)}))"
        for moment in ("banned", "muted", "spoke")
    )
    found = connection.exec_driver_sql(
        "SELECT rooms.name, users.username FROM restraints JOIN rooms ON rooms.id = room_id"
        f" JOIN users ON users.id = user_id WHERE {ends}"
    )
    for name, username in found:
        yield f"what holds {username} back in the room {name!r} cannot be read"


def _is_moment(column: str) -> str:
    """A condition on a number: a datetime can be it."""
    return f"typeof({column}) = 'integer' AND {column} BETWEEN -62135596800000 AND 253402300799999"


def _events(connection: sa.Connection) -> Iterator[str]:
    """Each event can be read as one, no number is missing, and the messages are as counted."""
    sound = " ".join(f"WHEN {kind!r} THEN {_body(event)}" for kind, event in DURABLE.items())
    # With + the index is of no use: going through the table by it takes twice the time.
    found = connection.exec_driver_sql(
        "SELECT rooms.name, rooms.head - rooms.first + 1 - count(*),"
        " min(seq) FILTER (WHERE NOT sound),"
        " rooms.messages - sum(events.kind = 'message') - min(before) FROM ("
        f" SELECT +room_id AS room_id, seq, kind, CASE WHEN {_is_moment('timestamp')}"
        " AND typeof(messages) = 'integer' AND typeof(draft) = 'integer' AND json_valid(body)"
        f" THEN coalesce(CASE kind {sound} END, 0) ELSE 0 END AS sound,"
        " messages - (kind = 'message') AS before FROM events"
        ") AS events JOIN rooms ON rooms.id = room_id GROUP BY room_id"
    )
    for name, missing, unreadable, uncounted in found:
        if missing:
            yield f"the log of the room {name!r} has a hole: {missing} events are missing"
        if unreadable is not None:
            yield f"the event {unreadable} of the room {name!r} cannot be read"
        if uncounted:
            yield f"the room {name!r} has not as many messages as its log counts"


def _body(event: type[Any]) -> str:
    """A condition on a body: it has what this event has beside every event's fields."""
    own = {
        f"'$.{name}'": field.default is NOTHING
        for name, field in fields_dict(event).items()
        if name not in ("room", "seq", "sender", "timestamp")
    }
    needed = (f"json_type(body, {path}) IS NOT NULL" for path, must in own.items() if must)
    return " AND ".join([f"json_remove(body, {', '.join(own)}) = '{{}}'", *needed])


def _texts(connection: sa.Connection) -> Iterator[str]:
    """Every text can be decoded, which SQLite does not look after; in bundles, for speed."""
    for table in metadata.sorted_tables:
        texts = [f"coalesce({c.name}, '')" for c in table.c if isinstance(c.type, sa.String)]
        if not texts:
            continue
        key = [column.name for column in table.primary_key]
        bundles = f"{key[0]} / 1000" if len(key) == 1 else ", ".join(key[:2])
        statement = (
            f"SELECT group_concat({' || '.join(texts)}) FROM {table.name} GROUP BY {bundles}"
        )
        try:
            for _ in connection.exec_driver_sql(statement):
                pass
        except sa.exc.OperationalError as error:
            if "decode" not in str(error.orig):
                raise
            yield f"a text in the table {table.name} is no UTF-8"
