"""Order and durability: one writer thread, group commit, and the news of what committed.

What queued while the last commit ran goes into the next one.  The news of a commit
is one callback on the event loop: it answers each draft first and then publishes the
batch, so answers precede events, and announcements come in commit order.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from typing import Any, TypeAlias, TypeVar

from attrs import define, evolve

from chatcore.errors import ChatError, Internal, OutcomeUnknown, Unavailable
from chatcore.events import Duplicate, Marked, Stored
from chatcore.model import Draft
from chatcore.ports import Outcome, Repository

T = TypeVar("T")

BATCH = 1_000
"""Drafts in one commit at most, so that the first one's answer does not wait for ever."""

Done: TypeAlias = Callable[[Outcome], None]

DoneMarking: TypeAlias = Callable[[Marked | ChatError | None], None]

_UNFIT = (TypeError, ValueError, OverflowError)
"""What a repository raises, before it writes, for a value that cannot be stored."""

logger = logging.getLogger("chatcore.journal")


@define(eq=False)
class _Append:
    draft: Draft
    done: Done


@define(eq=False)
class _Mark:
    room: str
    username: str
    seq: int
    done: DoneMarking


@define(eq=False)
class _Write:
    call: Callable[[], Any]
    done: asyncio.Future[Any]


_Item: TypeAlias = _Append | _Mark | _Write


class Journal:
    """Every write to the repository goes through here, in order.

    `publish` is called on the loop with each batch that committed.  A value that the
    repository cannot store costs its own write.  Where the writer dies of any other
    defect, `died` holds the error, and everything is answered Unavailable.
    """

    def __init__(
        self,
        repository: Repository,
        publish: Callable[[Sequence[tuple[Draft, Stored]]], None],
        *,
        batch: int = BATCH,
    ) -> None:
        self._repository = repository
        self._publish = publish
        self._batch = batch
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._open = True
        self._answering = False
        self._after: list[Callable[[], None]] = []
        self.died: asyncio.Future[BaseException] = self._loop.create_future()
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="chatcore-journal", daemon=True)
        self._thread.start()

    def append(self, draft: Draft, done: Done) -> None:
        """Queue a draft.  `done` gets its outcome before the event is published.

        Drafts commit in the order of these calls.  `done` must not raise.  Call it
        on the loop only.
        """
        if self._open:
            self._queue.put(_Append(draft, done))
        else:
            done(_closed())

    def mark(self, room: str, username: str, seq: int, done: DoneMarking) -> None:
        """Queue a read marker.  `done` gets where it is then, None for whoever is no member.

        Markers wait for all that came before them; those that are queued when their turn
        comes are moved in one commit.  Of several for one user in one room, the first says
        that it has moved.  `done` must not raise.  Call it on the loop only.
        """
        if self._open:
            self._queue.put(_Mark(room, username, seq, done))
        else:
            done(_closed())

    def after_answers(self, call: Callable[[], None]) -> None:
        """Call back from within a `done`: once all of its batch is answered, before the news.

        At once where a `done` is not one of a batch.  `call` must not raise.
        """
        if self._answering:
            self._after.append(call)
        else:
            call()

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits for its turn."""
        return self._queue.empty()

    async def write(self, function: Callable[..., T], /, *args: Any) -> T:
        """Run another write of the repository in the writer's thread, in its turn.

        Cancelling the wait does not undo the write.
        """
        if not self._open:
            raise _closed()
        done: asyncio.Future[T] = self._loop.create_future()
        self._queue.put(_Write(lambda: function(*args), done))
        return await done

    async def close(self) -> None:
        """Commit and announce all that is queued, then end.  Repeatable."""
        if self._open:
            self._open = False
            self._stopping.set()
            self._queue.put(None)
        await self._ended.wait()
        self._thread.join()

    # In the writer's thread.

    def _run(self) -> None:
        items: list[_Item] = []
        try:
            while True:
                items, stop = self._next()
                while items:
                    del items[: self._do(items)]  # answered, whatever happens to the next
                if stop:
                    self._loop.call_soon_threadsafe(self._ended.set)
                    return
        except BaseException as error:  # noqa: BLE001 - the thread ends, and says of what
            self._loop.call_soon_threadsafe(self._die, error, items)

    def _do(self, items: list[_Item]) -> int:
        """Do the first of these, and what goes into one commit with it; return how many that is."""
        first = items[0]
        if isinstance(first, _Write):
            self._call(first)
            return 1
        alike = [*takewhile(lambda item: type(item) is type(first), items)]
        if isinstance(first, _Mark):
            self._move(alike)  # type: ignore[arg-type] # all _Mark
        else:
            self._commit(alike)  # type: ignore[arg-type] # all _Append
        return len(alike)

    def _next(self) -> tuple[list[_Item], bool]:
        """Wait for something to do, and take all that there is by then; the markers last."""
        items, stop = self._taken()
        if any(isinstance(item, _Mark) for item in items):
            items.sort(key=lambda item: isinstance(item, _Mark))
        return items, stop

    def _taken(self) -> tuple[list[_Item], bool]:
        items: list[_Item] = []
        item = self._queue.get()
        while item is not None:
            items.append(item)
            if len(items) >= self._batch:
                return items, False
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return items, False
        return items, True

    def _commit(self, batch: list[_Append]) -> None:
        drafts = [item.draft for item in batch]
        outcomes: Sequence[Outcome]
        try:
            outcomes = self._repository.append(drafts)
        except ChatError as error:
            outcomes = [error] * len(drafts)
        except OutcomeUnknown as unknown:
            outcomes = self._look_up(drafts, unknown)
        except _UNFIT as error:
            if len(batch) > 1:  # one of them alone is to blame
                for item in batch:
                    self._commit([item])
                return
            logger.exception("a draft cannot be stored")
            outcomes = [_mistake(error)]
        self._loop.call_soon_threadsafe(self._announce, batch, outcomes)

    def _look_up(self, drafts: list[Draft], unknown: OutcomeUnknown) -> Sequence[Outcome]:
        """Ask the log what it holds, for as long as it takes or until `close`."""
        logger.warning("a commit's outcome is unknown, asking the log: %s", unknown.error)
        expected: Sequence[Outcome] = unknown.outcomes  # type: ignore[assignment] # append's own
        delay = 0.05
        while True:
            try:
                held = self._repository.stored(drafts, expected)
            except ChatError as error:
                if self._stopping.wait(delay):
                    return [error] * len(drafts)
                delay = min(delay * 2, 1.0)
            else:
                return _held(drafts, expected, held, unknown.error)

    def _call(self, item: _Write) -> None:
        try:
            result = item.call()
        except (ChatError, *_UNFIT) as error:
            self._loop.call_soon_threadsafe(_fail, item.done, error)
        else:
            self._loop.call_soon_threadsafe(_succeed, item.done, result)

    def _move(self, marks: list[_Mark]) -> None:
        wanted: dict[tuple[str, str], int] = {}
        for mark in marks:
            key = mark.room, mark.username
            wanted[key] = max(mark.seq, wanted.get(key, 0))
        outcome: Mapping[tuple[str, str], Marked] | ChatError
        try:
            outcome = self._repository.mark_read(wanted)
        except ChatError as error:
            outcome = error
        self._loop.call_soon_threadsafe(self._answer_marks, marks, outcome)

    # On the loop.

    def _answer_marks(
        self, marks: list[_Mark], outcome: Mapping[tuple[str, str], Marked] | ChatError
    ) -> None:
        if isinstance(outcome, ChatError):
            for mark in marks:
                mark.done(outcome)
            return
        left = dict(outcome)
        for mark in marks:
            key = mark.room, mark.username
            marked = left.get(key)
            mark.done(marked)
            if marked is not None:
                left[key] = evolve(marked, moved=False)

    def _announce(self, batch: list[_Append], outcomes: Sequence[Outcome]) -> None:
        self._answering = True
        try:
            for item, outcome in zip(batch, outcomes, strict=True):
                item.done(outcome)
        finally:
            self._answering = False
        after, self._after = self._after, []
        for call in after:
            call()
        stored = [
            (item.draft, outcome)
            for item, outcome in zip(batch, outcomes, strict=True)
            if isinstance(outcome, Stored)
        ]
        if stored:
            self._publish(stored)

    def _die(self, error: BaseException, items: list[_Item]) -> None:
        self._open = False
        logger.critical("the journal's writer died: %r", error, exc_info=error)
        while not self._queue.empty():
            if (item := self._queue.get_nowait()) is not None:
                items.append(item)
        for item in items:
            if isinstance(item, _Write):
                _fail(item.done, _closed())
            else:
                item.done(_closed())
        self.died.set_result(error)
        self._ended.set()


def _held(
    drafts: Sequence[Draft],
    expected: Sequence[Outcome],
    held: Sequence[bool],
    error: ChatError,
) -> Sequence[Outcome]:
    """Return what became of a batch, some or none of which the log holds."""
    outcomes: list[Outcome] = []
    lost: set[tuple[str, int]] = set()
    for draft, outcome, kept in zip(drafts, expected, held, strict=True):
        if isinstance(outcome, Stored) and not kept:
            lost.add((draft.room.name, outcome.event.seq))
            outcomes.append(error)
        elif isinstance(outcome, Duplicate) and (draft.room.name, outcome.seq) in lost:
            outcomes.append(error)  # of what was to be stored in this very batch
        else:
            outcomes.append(outcome)
    return outcomes


def _closed() -> Unavailable:
    return Unavailable("The server is shutting down; try again", retry_after=1.0)


def _mistake(error: Exception) -> Internal:
    internal = Internal("The server made a mistake; it has been noted")
    internal.__cause__ = error
    return internal


def _succeed(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
