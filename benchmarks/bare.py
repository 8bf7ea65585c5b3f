"""SQLite by itself: what the disk and the library give, without rooms, members or a server."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.server import CONTENT

INSERT = (
    "INSERT INTO events (room_id, seq, kind, sender_id, timestamp, messages, draft, body)"
    " VALUES (1, ?, 'message', 1, ?, ?, ?, ?)"
)


def commits(path: Path) -> Iterator[float]:
    """Insert a message's row and commit, for ever; give the seconds that each took.

    Into a database that `populate` has made, on one connection, as durable as the server:
    `synchronous=FULL`.
    """
    body = json.dumps({"content": CONTENT})
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}")
        for seq in itertools.count(1_000):  # above what is there
            start = time.perf_counter()
            row = (seq, time.time_ns() // 1_000_000, seq, random.getrandbits(63), body)
            connection.execute(INSERT, row)
            connection.commit()
            yield time.perf_counter() - start
