"""A chat-serve to measure: on a core of its own, on a database that has its people already."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path

from attrs import frozen

from chatcore import auth
from chatcore.model import LOBBY, Draft, Room, User, utcnow
from chatcore.repository.sql import SqliteRepository


@frozen
class Server:
    pid: int
    ports: dict[str, int]
    """By door: `ws`, `tcp`."""

    def cpu_seconds(self) -> float:
        """Return the CPU time that it has used, user and system."""
        fields = Path(f"/proc/{self.pid}/stat").read_text("ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident(self) -> int:
        """Return the bytes of memory that it has."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text("ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


def populate(path: Path, people: int) -> Sequence[str]:
    """Make a database with that many members of the lobby; return a token for each."""
    names, lobby, now = [f"user{number}" for number in range(people)], Room(LOBBY), utcnow()
    tokens = [f"cc_{name}" for name in names]
    with contextlib.closing(SqliteRepository(path)) as repository:
        repository.open()
        repository.add_room(lobby)
        for name, token in zip(names, tokens, strict=True):
            repository.add_user(User(name, name), None)
            repository.add_token(auth.digest(token), name, now + timedelta(days=1), now)
        join = partial(Draft, room=lobby, kind="member", timestamp=now)
        body = {"action": "join", "role": "member"}
        repository.append([join(sender=name, body=body | {"username": name}) for name in names])
    return tokens


@contextlib.contextmanager
def serving(path: Path, *options: str) -> Iterator[Server]:
    """Serve a database without limits until the end of the block; the caller has the other core."""
    words = ["--transport", "ws", "--transport", "tcp", "--port", "0", "--tcp-port", "0"]
    words += ["--limits", "none", "--database", f"sqlite:///{path}", *options]
    script = "from chat_transports.server import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", script, *words], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(process.pid, cores[:1])
    os.sched_setaffinity(0, cores[1:] or cores)
    try:
        ports: dict[str, int] = {}
        while len(ports) < 2:
            line = process.stderr.readline()
            if not line:
                raise RuntimeError(f"chat-serve did not start: {process.wait()}")
            _, found, url = line.strip().partition(" listening on ")
            if found:
                scheme, _, rest = url.partition("://")
                ports[scheme] = int(rest.partition("/")[0].rpartition(":")[2])
        yield Server(process.pid, ports)
    finally:
        os.sched_setaffinity(0, cores)
        process.kill()
        process.communicate()


def loop_factory() -> asyncio.AbstractEventLoop:
    """Return the fastest loop there is, so that the clients are not what is measured."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        return asyncio.new_event_loop()
    return new_event_loop()
