"""Real servers and real sockets for the tests."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import signal
import socket
import sqlite3
import sys
import tracemalloc
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from pathlib import Path

import websockets
from attrs import define, field
from click.testing import CliRunner
from websockets.asyncio.client import ClientConnection

from chat_transports.server import cli
from chatcore.errors import LinkClosed
from chatcore.testing import PATIENCE, Record, Transcript, check_history, read_logs
from tests import warm
from tests.warm import Forked

CHAT_SERVE = [sys.executable, "-c", "from chat_transports.server import main; main()"]
PASSWORD = "correct horse"


@define(eq=False)
class ServerProcess:
    """A real chat-serve, on free ports."""

    process: asyncio.subprocess.Process | Forked
    log: list[str] = field(factory=list)
    urls: dict[str, str] = field(factory=dict)
    _reading: asyncio.Task[None] | None = None

    async def read_log(self) -> None:
        assert self.process.stderr is not None
        async for raw in self.process.stderr:
            line = raw.decode().rstrip()
            self.log.append(line)
            _, found, url = line.partition(" listening on ")
            if found:
                scheme = url.partition(":")[0]
                door = scheme if scheme in ("ws", "tcp") else scheme[:-1]
                self.urls["socketio" if url.endswith("/socket.io/") else door] = url

    @property
    def http(self) -> str:
        """Where the web's doors are, without a path."""
        url = self.urls.get("socketio") or self.urls["ws"]
        scheme, _, rest = url.partition("://")
        return f"{scheme.replace('ws', 'http')}://{rest.partition('/')[0]}"

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def exit_code(self) -> int:
        async with asyncio.timeout(PATIENCE):
            code = await self.process.wait()
            assert self._reading is not None
            await self._reading
            return code

    async def ready(self, transports: Sequence[str]) -> None:
        self._reading = asyncio.create_task(self.read_log())
        async with asyncio.timeout(PATIENCE):
            while not all(transport in self.urls for transport in transports):
                if self._reading.done():
                    raise AssertionError("\n".join(self.log))
                await asyncio.sleep(0.005)


async def start_server(
    database: str | Path = "memory:",
    *options: str,
    transports: Sequence[str] = ("ws", "tcp"),
    script: str | None = None,
    under: Sequence[str] = (),
) -> ServerProcess:
    """Start chat-serve, or a script that ends in it, and wait until it listens.

    `under` is a command that starts another, as strace does.
    """
    if isinstance(database, Path):
        database = f"sqlite:///{database}"
    doors = [part for transport in transports for part in ("--transport", transport)]
    arguments = [
        *doors,
        *("--port", "0", "--tcp-port", "0", "--bcrypt-cost", "4", "--database", database),
        *options,
    ]
    process: asyncio.subprocess.Process | Forked
    if script or under:
        process = await asyncio.create_subprocess_exec(
            *under,
            *([sys.executable, "-c", script] if script else CHAT_SERVE),
            *arguments,
            stderr=asyncio.subprocess.PIPE,
        )
    else:
        process = await warm.chat_serve(arguments)
    server = ServerProcess(process)
    try:
        await server.ready(transports)
    except BaseException:
        await stop(server)
        raise
    return server


async def stop(server: ServerProcess) -> None:
    with contextlib.suppress(ProcessLookupError):
        server.process.kill()
    await server.exit_code()


@contextlib.asynccontextmanager
async def serving(
    database: str | Path = "memory:",
    *options: str,
    transports: Sequence[str] = ("ws", "tcp"),
    script: str | None = None,
    under: Sequence[str] = (),
) -> AsyncIterator[ServerProcess]:
    server = await start_server(
        database, *options, transports=transports, script=script, under=under
    )
    try:
        yield server
    finally:
        await stop(server)
        print(*server.log, sep="\n")  # noqa: T201 - pytest shows it where a test failed
    assert not any("Traceback" in line for line in server.log)


async def run_here(*arguments: str | Path, typed: str = "") -> tuple[int, str, str]:
    """Run a command of chat-serve's that ends by itself; return its status and what it said.

    In this process: to begin one takes longer than most of what they do.
    """

    def run() -> tuple[int, str, str]:
        ran = CliRunner().invoke(
            cli.main, [*map(str, arguments)], typed, prog_name="chat-serve", catch_exceptions=False
        )
        return ran.exit_code, ran.stdout, ran.stderr

    return await asyncio.to_thread(run)


async def fails_to_start(*arguments: str) -> tuple[int, str]:
    """Run chat-serve and return its exit status and what it said."""
    process = await asyncio.create_subprocess_exec(
        *CHAT_SERVE, *arguments, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(PATIENCE):
        _, said = await process.communicate()
    return process.returncode or 0, said.decode()


class Lines:
    """The peer's end of a TCP link."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, frame: bytes) -> None:
        self._writer.write(frame + b"\n")
        await self._writer.drain()

    async def receive(self) -> bytes:
        try:
            line = await self._reader.readline()
        except ConnectionError:
            line = b""
        if not line.endswith(b"\n"):
            raise LinkClosed
        return line

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


class Frames:
    """The peer's end of a WebSocket link."""

    def __init__(self, websocket: ClientConnection) -> None:
        self.websocket = websocket

    async def send(self, frame: bytes) -> None:
        with contextlib.suppress(websockets.ConnectionClosed):
            await self.websocket.send(frame, text=True)

    async def receive(self) -> bytes:
        try:
            return await self.websocket.recv(decode=False)
        except websockets.ConnectionClosed:
            raise LinkClosed from None

    async def close(self) -> None:
        await self.websocket.close()


async def dial(url: str) -> Lines | Frames:
    """Connect to a ws:// or tcp:// address."""
    scheme, _, rest = url.partition("://")
    if scheme == "tcp":
        host, _, port = rest.rpartition(":")
        return Lines(*await asyncio.open_connection(host, int(port), limit=1 << 22))
    websocket = await websockets.connect(
        url,
        compression=None,
        max_size=None,
        ping_interval=None,
        close_timeout=0.2,
        subprotocols=[websockets.Subprotocol("chat.v1")],
    )
    return Frames(websocket)


@contextlib.asynccontextmanager
async def connected(url: str, record: Record | None = None) -> AsyncIterator[Transcript]:
    """Connect, and hang up at the end."""
    peer = await dial(url)
    try:
        yield Transcript(peer.send, peer.receive, record)
    finally:
        await peer.close()


@contextlib.asynccontextmanager
async def present(url: str, username: str, room: str = "lobby") -> AsyncIterator[Transcript]:
    """Connect, log in as a new or a known user, and join a room."""
    async with connected(url) as peer:
        reply = await peer.do("register", username=username, password=PASSWORD)
        if "error" in reply:
            reply = await peer.do("login", username=username, password=PASSWORD)
        assert "token" in reply, reply
        joined = await peer.do("join", room=room)
        assert "head" in joined, joined
        yield peer


@contextlib.contextmanager
def collector_off() -> Iterator[None]:
    """Within, what is in a circle stays."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def alive(*types: type) -> list[object]:
    return [each for each in gc.get_objects() if type(each) in types]


def weight(make: Callable[[], bytes]) -> float:
    """Return the bytes of memory that one of what `make` returns takes."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        kept = [make() for _ in range(100)]
        return (tracemalloc.get_traced_memory()[0] - before) / len(kept)
    finally:
        tracemalloc.stop()


def check_database(
    database: Path, rooms: Collection[str], records: Sequence[Record], *, caught_up: bool = False
) -> None:
    """Compare a database that is at rest with what its clients know."""
    with contextlib.closing(sqlite3.connect(database)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    logs = read_logs(database, rooms)
    assert all(log.events for log in logs.values())
    assert check_history(records, logs, caught_up=caught_up) == []


def free_port() -> int:
    """Return a port that no connection out of this machine gets while a server is away."""
    while True:
        port = random.randint(10_000, 30_000)
        with contextlib.suppress(OSError), socket.socket() as free:
            free.bind(("127.0.0.1", port))
            return port
