"""Pages of history are exact at their edges, whatever happens to the log meanwhile."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatcore import Chat, MemoryRepository, SqliteRepository, User, chat, feed
from chatcore.errors import ChatError
from chatcore.events import DURABLE, Durable, HistoryReply
from chatcore.folding import fold
from chatcore.model import Limits
from chatcore.ports import Repository
from chatcore.testing import FakeClock, eventually

WORDS = {event: word for word, event in DURABLE.items()}
WRITES = st.one_of(
    st.tuples(st.just("send"), st.just(0)),
    st.tuples(st.sampled_from(["edit", "delete"]), st.integers(1, 30)),
    st.tuples(st.just("update"), st.just(0)),
    st.tuples(st.just("expire"), st.integers(1, 9)),
)
ASKED = st.fixed_dictionaries(
    {"limit": st.integers(1, 6)},
    optional={"types": st.sets(st.sampled_from(sorted(DURABLE)), min_size=1).map(sorted)},
).flatmap(
    lambda fields: st.builds(
        lambda edge: fields | edge,
        st.just({})
        | st.builds(
            lambda name, seq: {name: seq},
            st.sampled_from(["before", "after", "around"]),
            st.integers(0, 40),
        ),
    )
)
STEPS = st.lists(st.tuples(st.lists(WRITES, max_size=6), st.lists(ASKED, max_size=3)), max_size=8)


def expected(log: Sequence[Durable], asked: dict[str, Any], reply: HistoryReply) -> list[int]:
    """Return the seqs that a page has, by the log that was and the reply's own bounds."""
    kinds = {*asked.get("types", ["message"])}
    seqs = [
        event.seq
        for event in log
        if reply.first <= event.seq <= reply.head and WORDS[type(event)] in kinds
    ]
    limit = asked["limit"]
    if "around" in asked:
        older = [seq for seq in seqs if seq < asked["around"]]
        newer = [seq for seq in seqs if seq >= asked["around"]]
        half = limit // 2
        page = [*older[max(0, len(older) - half) :], *newer[: limit - half]]
        assert reply.complete == (len(page) == len(seqs))
        return page
    if "after" in asked:
        seqs = [seq for seq in seqs if seq > asked["after"]]
        assert reply.complete == (len(seqs) <= limit)
        return seqs[:limit]
    seqs = [seq for seq in seqs if seq < asked.get("before", 99)]
    assert reply.complete == (len(seqs) <= limit)
    return seqs[-limit:]


async def play(repository: Repository, steps: list[Any]) -> None:
    clock = FakeClock(datetime(2026, 1, 1, tzinfo=UTC))
    async with Chat(repository, limits=Limits(messages=None), clock=clock) as talk:
        ada = await talk.introduce(User("ada", "Ada"))
        log: list[Durable] = []
        one_at_a_time = asyncio.Lock()
        talk.subscribe(log.append)
        await talk.create(ada, "den")
        await talk.update(ada, "den", retention_days=10)
        for _ in range(3):
            await talk.send(ada, "den", "text")

        async def write(kind: str, number: int) -> None:
            match kind:
                case "send":
                    await talk.send(ada, "den", "text")
                case "edit":
                    await talk.edit(ada, "den", number, f"edited {number}")
                case "delete":
                    await talk.delete(ada, "den", number)
                case "update":
                    await talk.update(ada, "den", topic=f"topic {len(log)}")
                case "expire":
                    clock.advance(number * 86_400)
                    async with one_at_a_time:  # as it is with the chat's own
                        while await talk._expire():  # noqa: SLF001 - now, and not in a second
                            pass

        replies: list[tuple[dict[str, Any], HistoryReply]] = []

        async def ask(asked: dict[str, Any]) -> None:
            replies.append((asked, await talk.history(ada, "den", **asked)))

        for writes, questions in steps:
            done = await asyncio.gather(
                *(write(*each) for each in writes),
                *(ask(each) for each in questions),
                return_exceptions=True,
            )
            assert all(isinstance(each, ChatError | None) for each in done), done
            for question in questions:  # and once more, at rest
                await ask(question)
        await talk.send(ada, "den", "the last one")
        head = (await talk.history(ada, "den")).head
        await eventually(lambda: log[-1].seq == head)
        messages = {message.seq: message for message in fold(log)}
        for asked, reply in replies:
            page = sorted(event.seq for event in (*reply.messages, *reply.events))
            assert page == expected(log, asked, reply)
            told = fold(event for event in log if event.seq <= reply.head)
            as_of_head = {message.seq: message for message in told}
            for message in reply.messages:
                # Or as it is since it was deleted: from then on nobody is given its text.
                assert message in (as_of_head[message.seq], messages[message.seq])
                assert message == as_of_head[message.seq] or message.erased


@pytest.mark.parametrize("kept", [feed.TAIL, 2])
@given(STEPS)
def test_in_memory(kept: int, steps: list[Any]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chat, "EXPIRED", 2)
        patch.setattr(feed, "TAIL", kept)
        asyncio.run(play(MemoryRepository(), steps))


@given(STEPS)
def test_on_sqlite(steps: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(chat, "EXPIRED", 2)
        asyncio.run(play(SqliteRepository(Path(folder) / "chat.db"), steps))
