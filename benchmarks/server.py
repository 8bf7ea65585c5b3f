"""A chat-serve to measure: on a core of its own, on a database that has its people already."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path

from attrs import frozen

from chatcore import auth
from chatcore.model import LOBBY, Draft, Room, User, utcnow
from chatcore.repository.sql import SqliteRepository

ROOT = Path(__file__).parent.parent
EPOCH = "benchmark"
"""Of each room that `populate` makes."""
CONTENT = "Did anyone else see that the lift is out again? Stairs it is, and mind the wet paint."


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


def first_core() -> Sequence[int]:
    """Return the core that servers have."""
    return sorted(os.sched_getaffinity(0))[:1]


def last_core() -> Sequence[int]:
    """Return the core that clients have: another than the servers', where there are two."""
    return sorted(os.sched_getaffinity(0))[-1:]


@contextlib.contextmanager
def on(cores: Sequence[int]) -> Iterator[None]:
    """Have this thread, and what it starts, run on these cores until the end of the block."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def usernames(count: int) -> Sequence[str]:
    return [f"user{number}" for number in range(count)]


def token(username: str) -> str:
    """Return the token with which one of `populate`'s people logs in."""
    return f"cc_{username}"


def populate(path: Path, rooms: Mapping[str, Sequence[str]], messages: int = 0) -> None:
    """Make a database with these rooms' members, and so many messages in each room."""
    now = utcnow()
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()
    with contextlib.closing(SqliteRepository(path)) as repository:
        repository.open()
        for name in dict.fromkeys(name for members in rooms.values() for name in members):
            repository.add_user(User(name, name), None)
            repository.add_token(auth.digest(token(name)), name, now + timedelta(days=1), now)
        for name, members in rooms.items():
            room = Room(name, title="Lobby" if name == LOBBY else "", epoch=EPOCH)
            repository.add_room(room)
            join = partial(Draft, room=room, kind="member", timestamp=now)
            body = {"action": "join", "role": "member"}
            repository.append([join(sender=one, body=body | {"username": one}) for one in members])
            say(repository, room, members, messages)
        while repository.index(5_000):  # else the server does it while it is measured
            pass


def say(
    repository: SqliteRepository,
    room: Room,
    members: Sequence[str],
    messages: int,
    text: Callable[[int], str] = lambda _: CONTENT,
) -> None:
    """Store messages of these members, who take turns, a great many in each commit."""
    draft = partial(Draft, room=room, kind="message", timestamp=utcnow())
    turns, most = itertools.cycle(members), 5_000
    for start in range(0, messages, most):
        numbers = range(start, min(start + most, messages))
        repository.append(
            [draft(sender=next(turns), body={"content": text(number)}) for number in numbers]
        )


@contextlib.contextmanager
def serving(path: Path, *options: str, prelude: str = "") -> Iterator[Server]:
    """Serve a database without limits until the end of the block; the caller has the other core.

    `prelude` is Python that runs first in the server's process.
    """
    words = ["--transport", "ws", "--transport", "tcp", "--port", "0", "--tcp-port", "0"]
    words += ["--limits", "none", "--database", f"sqlite:///{path}", *options]
    script = f"{prelude}\nfrom chat_transports.server import main; main()"
    with started([sys.executable, "-c", script, *words], stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        ports: dict[str, int] = {}
        while len(ports) < 2:
            line = process.stderr.readline()
            if not line:
                raise RuntimeError(f"chat-serve did not start: {process.wait()}")
            _, found, url = line.strip().partition(" listening on ")
            if found:
                scheme, _, rest = url.partition("://")
                ports[scheme] = int(rest.partition("/")[0].rpartition(":")[2])
        with on(last_core()):
            yield Server(process.pid, ports)


@contextlib.contextmanager
def started(words: Sequence[str], stderr: int | None = None) -> Iterator[subprocess.Popen[str]]:
    """Run a program on the first core until the end of the block."""
    with on(first_core()):
        process = subprocess.Popen(
            words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=stderr, text=True
        )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def loop_factory() -> asyncio.AbstractEventLoop:
    """Return the fastest loop there is, so that the clients are not what is measured."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        return asyncio.new_event_loop()
    return new_event_loop()
