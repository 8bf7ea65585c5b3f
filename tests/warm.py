"""chat-serve without the time that its imports take: forked off a process that has done them.

Each is a process of its own, and runs all that chat-serve does from when it is imported until
it has returned; what Python itself does at its beginning and its end, a cold start tests.
"""

from __future__ import annotations

import asyncio
import functools
import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import IO

from attrs import frozen

IMPORTS = [
    "alembic.command",
    "chat_transports.server.cli",
    "chat_transports.socketio",
    "chatcore.repository.memory",
    "chatcore.repository.sql",
    "uvloop",
]
"""What a server may import while it starts; one that is not here is only slower."""


@frozen(eq=False)
class Forked:
    """As much of asyncio's Process as the tests use."""

    stderr: asyncio.StreamReader
    _process: ForkServerProcess

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()

    async def wait(self) -> int:
        """Return the exit status, less than zero for a signal's."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._process.sentinel, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(self._process.sentinel)
        assert self._process.exitcode is not None
        return self._process.exitcode


async def chat_serve(arguments: Sequence[str]) -> Forked:
    """Start it, with the environment that is now."""
    context = _context()
    ours, theirs = context.Pipe(duplex=False)
    with ours, theirs:
        process = context.Process(
            target=_run,
            args=(arguments, dict(os.environ), theirs),
            daemon=True,  # or one that a test leaves behind would be waited for at the end
        )
        process.start()
        stderr = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stderr), _file(ours)
        )
    return Forked(stderr, process)


@functools.cache
def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTS)
    return context


def _file(pipe: Connection) -> IO[bytes]:
    return os.fdopen(os.dup(pipe.fileno()), "rb", buffering=0)


def _run(arguments: Sequence[str], environment: Mapping[str, str], stderr: Connection) -> None:
    os.dup2(stderr.fileno(), 2)
    stderr.close()
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["chat-serve", *arguments]
    from chat_transports.server import main

    main()
