"""Order and durability: group commit, answers before news, and what a failure costs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from chatcore.errors import ChatError, StorageFull, Unavailable
from chatcore.events import Marked, Stored
from chatcore.journal import Done, Journal
from chatcore.model import Draft, Room, User, utcnow
from chatcore.ports import Outcome
from chatcore.repository.memory import MemoryRepository
from chatcore.repository.sql import SqliteRepository
from chatcore.testing import (
    Call,
    FaultyRepository,
    Hold,
    LostOutcome,
    Refusal,
    eventually,
    failing,
)
from tests.database import refusing_commits

LOBBY = Room("lobby")
JOIN = {"username": "ada", "action": "join", "role": "member"}


class Scripted(FaultyRepository):
    """A repository that stops before a batch until it is let go, and then does as it is told."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        super().__init__(MemoryRepository(), self._note, failing("append", Hold(self.gate)))
        self.add_user(User("ada", "Ada"), None)
        self.add_room(LOBBY)

    def _note(self, call: Call) -> None:
        if call.method == "append":
            self.batches.append(len(drafts_of(call)))


def drafts_of(call: Call) -> Sequence[Draft]:
    drafts: Any = call.arguments[0]
    return drafts  # type: ignore[no-any-return] # of an append


class Desk:
    """A journal, and all that it said, in the order in which it said it."""

    def __init__(self, repository: Scripted, *, batch: int = 1000) -> None:
        self.said: list[str] = []
        self.outcomes: list[Outcome] = []
        self.journal = Journal(repository, self._publish, batch=batch)
        self.append("member", JOIN)

    def _publish(self, batch: Sequence[tuple[Draft, Stored]]) -> None:
        self.said.append("published " + " ".join(str(stored.event.seq) for _, stored in batch))

    def append(self, kind: str, body: Mapping[str, object], then: Done | None = None) -> None:
        def done(outcome: Outcome) -> None:
            self.outcomes.append(outcome)
            if isinstance(outcome, Stored):
                self.said.append(f"answered {outcome.event.seq}")
            else:
                assert isinstance(outcome, ChatError)
                self.said.append(f"answered {outcome.code}")

        self.journal.append(
            Draft(room=LOBBY, sender="ada", kind=kind, body=body, timestamp=utcnow()), then or done
        )

    def mark(self, username: str, seq: int) -> None:
        def done(outcome: Marked | ChatError | None) -> None:
            match outcome:
                case Marked(read=read, moved=moved):
                    self.said.append(f"{username} {'moved to' if moved else 'stays at'} {read}")
                case ChatError(code=code):
                    self.said.append(f"{username} {code}")
                case None:
                    self.said.append(f"{username} is no member")

        self.journal.mark("lobby", username, seq, done)

    def send(self, *texts: str) -> None:
        for text in texts:
            self.append("message", {"content": text})

    async def settled(self, count: int) -> None:
        await eventually(lambda: len(self.outcomes) >= count)


async def test_what_queued_while_a_commit_ran_goes_into_the_next() -> None:
    repository = Scripted()
    repository.gate.clear()
    desk = Desk(repository)
    await eventually(lambda: repository.batches == [1])
    desk.send("a", "b", "c")
    repository.gate.set()
    await desk.settled(4)
    assert repository.batches == [1, 3]
    assert desk.said == [
        "answered 1",
        "published 1",
        "answered 2",
        "answered 3",
        "answered 4",
        "published 2 3 4",
    ]
    await desk.journal.close()


async def test_what_follows_the_answers_of_a_batch_comes_before_its_news() -> None:
    repository = Scripted()
    desk = Desk(repository)
    await desk.settled(1)

    def answered(outcome: Outcome) -> None:
        desk.outcomes.append(outcome)
        desk.journal.after_answers(lambda: desk.said.append("followed"))

    repository.gate.clear()
    desk.send("alone")
    await eventually(lambda: len(repository.batches) == 2)
    desk.append("message", {"content": "followed"}, answered)
    desk.send("in the same batch")
    repository.gate.set()
    await desk.settled(4)
    assert desk.said[4:] == ["answered 4", "followed", "published 3 4"]
    await desk.journal.close()


async def test_an_answer_that_fails_keeps_none_of_those_after_it() -> None:
    desk = Desk(Scripted())
    await desk.settled(1)
    reported: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))

    def fails(_: Outcome) -> None:
        raise ZeroDivisionError("a defect")

    desk.append("message", {"content": "unanswered"}, fails)
    await eventually(lambda: len(reported) == 1)
    desk.journal.after_answers(lambda: desk.said.append("at once"))
    assert desk.said[-1] == "at once"
    await desk.journal.close()


async def test_a_batch_has_a_limit() -> None:
    repository = Scripted()
    repository.gate.clear()
    desk = Desk(repository, batch=2)
    await eventually(lambda: repository.batches == [1])
    desk.send("a", "b", "c")
    repository.gate.set()
    await desk.settled(4)
    assert repository.batches == [1, 2, 1]
    await desk.journal.close()


async def test_other_writes_keep_their_turn() -> None:
    repository = Scripted()
    desk = Desk(repository)
    desk.send("before")
    head = desk.journal.write(lambda: repository.head("lobby", 0)[1])
    waiting = asyncio.ensure_future(head)
    await asyncio.sleep(0)
    desk.send("after")
    assert await waiting == 2
    await desk.journal.close()
    assert repository.head("lobby", 0)[1] == 3


async def test_markers_that_are_queued_together_are_moved_in_one_commit_and_last() -> None:
    repository = Scripted()
    repository.gate.clear()
    desk = Desk(repository)
    await eventually(lambda: repository.batches == [1])
    desk.send("a")
    desk.mark("ada", 1)
    desk.mark("ada", 2)
    desk.mark("bob", 1)
    writing = asyncio.ensure_future(desk.journal.write(lambda: None))
    await asyncio.sleep(0)
    desk.send("b")
    repository.gate.set()
    await writing
    await desk.settled(3)
    await eventually(lambda: len(desk.said) == 9)
    assert desk.said[2:] == [
        "answered 2",
        "published 2",
        "answered 3",
        "published 3",
        "ada stays at 3",
        "ada stays at 3",
        "bob is no member",
    ]
    assert repository.calls["mark_read"] == 1
    await desk.journal.close()


async def test_of_markers_moved_together_the_first_says_so() -> None:
    repository = Scripted()
    repository.add_user(User("bob", "Bob"), None)
    joins = {**JOIN, "username": "bob"}
    repository.inside.append(
        [Draft(room=LOBBY, sender="bob", kind="member", body=joins, timestamp=utcnow())]
    )
    desk = Desk(repository)
    await desk.settled(1)
    repository.gate.clear()
    desk.send("a")
    await eventually(lambda: repository.batches == [1, 1])
    desk.send("b")
    for seq in (3, 4, 2):
        desk.mark("bob", seq)
    repository.gate.set()
    await eventually(lambda: len(desk.said) == 9)
    assert desk.said[-3:] == ["bob moved to 4", "bob stays at 4", "bob stays at 4"]
    await desk.journal.close()


async def test_markers_that_cannot_be_moved_are_answered() -> None:
    repository = Scripted()
    desk = Desk(repository)
    await desk.settled(1)
    repository.scripts.append(failing("mark_read", Refusal(StorageFull("full")), times=1))
    desk.mark("ada", 1)
    await eventually(lambda: len(desk.said) == 3)
    await desk.journal.close()
    desk.mark("ada", 1)
    assert desk.said[2:] == ["ada storage_full", "ada unavailable"]


async def test_a_refused_write_raises_where_it_was_asked() -> None:
    desk = Desk(Scripted())

    def refuse() -> None:
        raise StorageFull("full")

    with pytest.raises(StorageFull):
        await desk.journal.write(refuse)
    await desk.journal.close()


async def test_close_commits_all_that_is_queued_and_then_refuses() -> None:
    repository = Scripted()
    repository.gate.clear()
    desk = Desk(repository)
    await eventually(lambda: repository.batches == [1])
    desk.send(*"abcdefghij")
    closing = asyncio.ensure_future(desk.journal.close())
    await asyncio.sleep(0)
    desk.send("too late")
    assert desk.said == ["answered unavailable"]
    repository.gate.set()
    await closing
    assert desk.said[-1] == "published " + " ".join(str(seq) for seq in range(2, 12))
    with pytest.raises(Unavailable):
        await desk.journal.write(lambda: None)
    await desk.journal.close()


async def test_a_failed_commit_fails_its_drafts_and_the_next_starts_clean() -> None:
    repository = Scripted()
    desk = Desk(repository)
    await desk.settled(1)
    repository.scripts.append(failing("append", Refusal(StorageFull("full")), times=1))
    desk.send("lost")
    await desk.settled(2)
    desk.send("kept")
    await desk.settled(3)
    assert desk.said[2:] == ["answered storage_full", "answered 2", "published 2"]
    await desk.journal.close()


@pytest.mark.parametrize("happened", [True, False])
async def test_a_commit_whose_outcome_is_unknown_is_looked_up(happened: bool) -> None:
    repository = Scripted()

    desk = Desk(repository)
    await desk.settled(1)
    repository.scripts += [
        failing("append", LostOutcome(committed=happened), times=1),
        failing("stored", Refusal(Unavailable("no answer")), times=2),
    ]
    desk.send("perhaps")
    await desk.settled(2)
    assert repository.calls["stored"] == 3
    expected = ["answered 2", "published 2"] if happened else ["answered unavailable"]
    assert desk.said[2:] == expected
    desk.send("after")
    await desk.settled(3)
    assert repository.head("lobby", 0)[1] == (3 if happened else 2)
    await desk.journal.close()


async def test_where_the_log_cannot_be_asked_closing_does_not_wait_for_ever() -> None:
    repository = Scripted()
    desk = Desk(repository)
    await desk.settled(1)

    repository.scripts += [
        failing("append", LostOutcome(committed=False)),
        failing("stored", Refusal(Unavailable("no answer"))),
    ]
    desk.send("perhaps")
    await eventually(lambda: repository.calls["stored"])
    await desk.journal.close()
    assert desk.said[2:] == ["answered unavailable"]


async def test_a_value_that_cannot_be_stored_costs_its_own_draft_and_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    repository = Scripted()
    desk = Desk(repository)
    await desk.settled(1)

    def encode(call: Call) -> None:
        if call.method == "append":
            for draft in drafts_of(call):
                str(draft.body["content"]).encode()

    repository.scripts.append(encode)
    repository.gate.clear()
    desk.send("first")
    await eventually(lambda: len(repository.batches) == 2)
    desk.send("before", "half \ud800", "after")
    repository.gate.set()
    await desk.settled(5)
    assert desk.said[4:] == [
        *("answered 3", "published 3", "answered internal", "answered 4", "published 4")
    ]
    with pytest.raises(UnicodeEncodeError):
        await desk.journal.write("\ud800".encode)
    assert await desk.journal.write(lambda: "alive") == "alive"
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    await desk.journal.close()


async def test_a_writer_that_dies_answers_everyone_and_says_of_what(
    caplog: pytest.LogCaptureFixture,
) -> None:
    repository = Scripted()
    desk = Desk(repository)
    await desk.settled(1)

    repository.scripts.append(failing("append", Refusal(ZeroDivisionError("a defect"))))
    repository.gate.clear()
    desk.send("in the batch")
    await eventually(lambda: len(repository.batches) == 2)
    desk.send("waiting")
    write = asyncio.ensure_future(desk.journal.write(lambda: None))
    await asyncio.sleep(0)
    repository.gate.set()
    assert isinstance(await desk.journal.died, ZeroDivisionError)
    desk.send("later")
    assert desk.said[2:] == ["answered unavailable"] * 3
    with pytest.raises(Unavailable):
        await write
    assert [record.levelname for record in caplog.records] == ["CRITICAL"]
    await desk.journal.close()


async def test_a_retry_is_as_unknown_as_the_first_where_both_were_in_one_lost_batch(
    tmp_path: Path,
) -> None:
    """To answer it as a duplicate would acknowledge what is not stored."""

    def draft(kind: str, body: Mapping[str, object], txn_id: str | None = None) -> Draft:
        return Draft(
            room=LOBBY, sender="ada", kind=kind, body=body, timestamp=utcnow(), txn_id=txn_id
        )

    inside, gate = SqliteRepository(tmp_path / "chat.db"), threading.Event()
    inside.open()
    inside.add_user(User("ada", "Ada"), None)
    inside.add_room(LOBBY)
    inside.append([draft("member", JOIN), draft("message", {"content": "two"})])
    repository = FaultyRepository(inside, failing("append", Hold(gate), times=1))
    journal, outcomes = Journal(repository, lambda _: None), list[Outcome]()
    queued = [
        draft("message", {"content": "alone"}),
        draft("message", {"content": "once"}, "t1"),
        draft("message", {"content": "once"}, "t1"),
        draft("delete", {"target": 2}),
        draft("delete", {"target": 2}),
    ]
    journal.append(queued[0], outcomes.append)
    await eventually(lambda: repository.calls["append"] == 1)
    for each in queued[1:]:
        journal.append(each, outcomes.append)
    with refusing_commits():
        gate.set()
        await eventually(lambda: len(outcomes) == len(queued))
    assert [type(outcome) for outcome in outcomes] == [Unavailable] * len(queued)
    assert repository.calls["append"] == 2, "in one batch"
    await journal.close()
    assert inside.head("lobby", 0)[1] == 2
    inside.close()
