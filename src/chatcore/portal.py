"""Take part in a chat from a host without an event loop: a Flask view, a script, a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import ParamSpec, TypeVar

from chatcore.chat import Chat
from chatcore.model import User
from chatcore.peer import Peer, connect

P = ParamSpec("P")
T = TypeVar("T")


@contextmanager
def portal(chat: Chat) -> Iterator[Portal]:
    """Run a chat on an event loop in a thread of its own, until the end of the block.

        with portal(Chat(SqliteRepository("chat.db"))) as door:
            ada = door.call(door.chat.register, "ada", "correct horse")

    Raises what starting the chat raises, and at the end what closing it does.
    """
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        thread = threading.Thread(target=loop.run_forever, name="chatcore-portal")
        thread.start()
        door = Portal(chat, loop, thread)
        try:
            with door.entered(chat):
                yield door
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()


class Portal:
    """Calls from any other thread into the loop that a chat runs on.

    It has no second set of methods: `call` takes those of the chat and of a peer.
    """

    def __init__(
        self, chat: Chat, loop: asyncio.AbstractEventLoop, thread: threading.Thread
    ) -> None:
        self.chat = chat
        self._loop = loop
        self._thread = thread

    def call(self, function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a coroutine function on the loop, wait, and return or raise what it does.

        Ctrl+C while it waits cancels it.  Raises RuntimeError on the loop's own thread,
        which would wait for itself.
        """

        async def run() -> T:
            return await function(*args, **kwargs)

        if threading.current_thread() is self._thread:
            raise RuntimeError("A portal is for other threads; here, await the method itself")
        return _result(asyncio.run_coroutine_threadsafe(run(), self._loop))

    @contextmanager
    def connect(self, user: User) -> Iterator[Peer]:
        """Connect a peer until the end of the block; give its methods to `call`."""
        with self.entered(connect(self.chat, user)) as peer:
            yield peer

    def events(self, iterable: AsyncIterator[T], *, timeout: float | None = None) -> Iterator[T]:
        """Yield a peer's events until they end, or none has come for `timeout` seconds."""

        async def following() -> T | None:
            async with asyncio.timeout(timeout):
                return await anext(iterable, None)

        try:
            while (event := self.call(following)) is not None:
                yield event
        except TimeoutError:
            return

    @contextmanager
    def entered(self, manager: AbstractAsyncContextManager[T]) -> Iterator[T]:
        """Enter an asynchronous context manager, and leave it, in one task of the loop."""
        leave = asyncio.Event()
        entered: Future[T] = Future()

        async def stay() -> None:
            try:
                async with manager as value:
                    entered.set_result(value)
                    await leave.wait()
            except BaseException as error:
                if entered.done():
                    raise
                entered.set_exception(error)

        staying = asyncio.run_coroutine_threadsafe(stay(), self._loop)
        value = _result(entered)
        try:
            yield value
        finally:
            self._loop.call_soon_threadsafe(leave.set)
            _result(staying)


def _result(future: Future[T]) -> T:
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise
