"""Reads of the repository, in threads of their own."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")

_Read: TypeAlias = tuple[asyncio.Future[Any], Callable[..., Any], tuple[Any, ...], dict[str, Any]]


class Readers:
    """A small pool of threads, each read's answer given on the loop.

    What asyncio has for this makes three futures and a lock for each call, and wakes the
    loop for each answer.  Here the answers that come before the loop has a turn come in one.
    """

    def __init__(self, threads: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._reads: queue.SimpleQueue[_Read | None] = queue.SimpleQueue()
        self._answers: deque[tuple[asyncio.Future[Any], Any, BaseException | None]] = deque()
        self._is_told = False
        self._threads = [
            threading.Thread(target=self._run, name=f"chatcore-read-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    async def read(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """Return what a function returns, or raise what it raises, in a thread.

        Where the wait is cancelled before its turn has come, it is not called.
        """
        answer: asyncio.Future[T] = self._loop.create_future()
        self._reads.put((answer, function, args, kwargs))
        try:
            return await answer
        finally:
            del answer  # which has the error, whose traceback has this frame: a circle

    def close(self) -> None:
        """End the threads, after all that was asked for before."""
        for _ in self._threads:
            self._reads.put(None)
        for thread in self._threads:
            thread.join()

    # In a thread.

    def _run(self) -> None:
        while (read := self._reads.get()) is not None:
            answer, function, args, kwargs = read
            if not answer.cancelled():
                self._answers.append((answer, *_called(function, args, kwargs)))
                if not self._is_told:
                    self._is_told = True
                    self._loop.call_soon_threadsafe(self._tell)
            del read, answer, function, args, kwargs  # else they would live until the next comes

    # On the loop.

    def _tell(self) -> None:
        self._is_told = False  # before looking: what comes now is told of once more
        while self._answers:
            answer, result, error = self._answers.popleft()
            if answer.done():
                continue  # whoever waited was cancelled
            if error is None:
                answer.set_result(result)
            else:
                answer.set_exception(error)


def _called(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, BaseException | None]:
    try:
        return function(*args, **kwargs), None
    except BaseException as error:  # noqa: BLE001 - it is for whoever asked
        return None, error
