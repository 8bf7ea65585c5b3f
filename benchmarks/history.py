"""How long it takes to read a room of a million messages, and whether ten thousand are quicker.

Both rooms are in one SQLite file, and a hundred smaller ones.  In the middle of each is a
night in which nobody writes and many react, and come and go: a tenth as many events as it
has messages, and among what is asked for are pages on the other side of it.  Each question is asked
of the repository, and of the chat in front of it, which nobody listens to; it is asked
again and again, of another place in the log each time.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import random
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias

from benchmarks.report import Goal, Options, Report, Row, Table, command, quantile, ratios
from benchmarks.server import CONTENT, EPOCH, populate, say, usernames
from chatcore.chat import Chat
from chatcore.commands import Since
from chatcore.events import Stored
from chatcore.model import Draft, Limits, Room, User, utcnow
from chatcore.query import parse
from chatcore.repository.sql import SqliteRepository

SMALL, LARGE, ROOMS = 10_000, 1_000_000, 100
UNREAD = 100
PAGE, BEHIND = 50, 100
TIMES = 300
MOST = 1.5
"""What the larger room may take to the smaller, where it need not take more."""
SLOWEST = 10.0
"""Milliseconds that any of it may take."""

Question: TypeAlias = Callable[[], object]
Questions: TypeAlias = Mapping[str, Question]


def run(options: Options) -> Report:
    small, large, times = SMALL, LARGE, TIMES
    if options.quick:
        small, large, times = 100, 1_000, 3
    path = build(options, small, large)
    rows: dict[tuple[str, str, int], Row] = {}

    def timed(through: str, size: int, asked: str, took: Sequence[float]) -> None:
        label = f"{size:,}" if asked != MEMBERSHIPS else f"{ROOMS + 2} rooms"
        labels = {"": asked, "through": through, "messages": label}
        row = rows.setdefault((through, asked, size), Row(labels))
        row.add({"p50 µs": 1e6 * quantile(took, 0.5), "p99 µs": 1e6 * quantile(took, 0.99)})

    async def measure() -> None:
        with contextlib.closing(SqliteRepository(path)) as repository:
            async with Chat(repository, limits=Limits.none()) as chat:
                for size in (small, large):
                    for through, questions in (
                        ("repository", of_repository(repository, size)),
                        ("chat", of_chat(chat, size, repository)),
                    ):
                        for asked, question in questions.items():
                            if asked != MEMBERSHIPS or size == large:
                                timed(through, size, asked, await ask(question, times))

    for _ in options.turns():
        asyncio.run(measure())
    worst = [0.0] * options.rounds
    slowest = [0.0] * options.rounds
    for (through, asked, size), row in rows.items():
        slowest = [*map(max, slowest, (median / 1e3 for median in row.figures["p50 µs"]))]
        if size == large and asked != MEMBERSHIPS:
            least = rows[through, asked, small].figures
            row.figures["to small"] = ratios(row.figures["p50 µs"], least["p50 µs"])
            if asked not in SEARCHES:
                worst = [*map(max, worst, row.figures["to small"])]
    return Report(
        [Table(f"Reading rooms of one file, pages of {PAGE}", [*rows.values()])],
        [
            Goal(f"{large:,} messages to {small:,}: the worst, but for searches", worst, MOST),
            Goal("milliseconds: the slowest p50", slowest, SLOWEST),
        ],
    )


NEWEST, BEFORE, AROUND = "newest page", "page before", "page around"
ACROSS, CHANGES = "page before, across the night", "changes of the room"
SEARCHES = {
    "search, a word of all": "lift",
    "search, six words of all": "anyone lift again stairs wet paint",
    "search, a phrase of all": '"mind the wet paint"',
    "search, a rare word": "shaft7",
    "search, a person's rare word": "shaft8 from:user5",
    "search, nothing": "nowhere",
}
BATCH = 5_000
RARE = 5_000
"""Messages from one with a rare word to the next with the same."""
JOIN, MEMBERSHIPS = f"join, {BEHIND} behind", "memberships"


def of_repository(repository: SqliteRepository, size: int) -> Questions:
    """Return what the chat asks of a repository, for the same answers."""
    room = f"room{size}"
    _, head, _ = repository.head(room, 0)
    dawn = first_after_the_night(head, size)

    def older(before: int) -> object:
        return repository.messages(room, 0, before, PAGE + 1, newest=True, upto=head)

    def around() -> object:
        middle, half = somewhere(head), PAGE // 2 + 1
        return (
            repository.messages(room, 0, middle, half, newest=True, upto=head),
            repository.messages(room, middle - 1, head + 1, half, newest=False, upto=head),
        )

    def search(text: str) -> Question:
        query = parse(f"{text} in:{room}")
        return lambda: repository.search(READER.username, query, None, PAGE + 1, utcnow())

    return {
        **{asked: search(text) for asked, text in SEARCHES.items()},
        NEWEST: lambda: older(head + 1),
        BEFORE: lambda: older(somewhere(head)),
        AROUND: around,
        ACROSS: lambda: older(dawn),
        CHANGES: lambda: repository.events(room, ["room"], 0, head + 1, PAGE + 1, newest=True),
        JOIN: lambda: repository.read(room, head - BEHIND, head, BEHIND),
        MEMBERSHIPS: lambda: repository.memberships(READER.username),
    }


def of_chat(chat: Chat, size: int, repository: SqliteRepository) -> Questions:
    room = f"room{size}"
    _, head, _ = repository.head(room, 0)
    since = Since(EPOCH, head - BEHIND)
    dawn = first_after_the_night(head, size)

    def search(text: str) -> Question:
        return lambda: chat.search(READER, text, room=room, limit=PAGE)

    return {
        **{asked: search(text) for asked, text in SEARCHES.items()},
        NEWEST: lambda: chat.history(READER, room, limit=PAGE),
        BEFORE: lambda: chat.history(READER, room, limit=PAGE, before=somewhere(head)),
        AROUND: lambda: chat.history(READER, room, limit=PAGE, around=somewhere(head)),
        ACROSS: lambda: chat.history(READER, room, limit=PAGE, before=dawn),
        JOIN: lambda: chat.join(READER, room, since=since),
        MEMBERSHIPS: lambda: chat.memberships(READER),
    }


READER = User("user0", "user0")


def first_after_the_night(head: int, size: int) -> int:
    return head - (size - size // 2) + 1


def somewhere(head: int) -> int:
    """Return a place in the middle half of the log."""
    return random.randint(head // 4, head * 3 // 4)


async def ask(question: Question, times: int) -> Sequence[float]:
    """Ask again and again, and return the seconds that each answer took."""
    took = []
    for _ in range(times):
        start = time.perf_counter()
        answer = question()
        if inspect.isawaitable(answer):
            await answer
        took.append(time.perf_counter() - start)
    return took


def build(options: Options, small: int, large: int) -> Path:
    """Make the file, unless the cache has it; `READER` has read nothing of it."""
    directory = options.cache or options.directory
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"history-{small}-{large}-nights.db"
    if path.exists():
        return path
    reader, *senders = usernames(10)
    sizes = {f"room{size}": size for size in (small, large)}
    others = {f"room-{number}": UNREAD for number in range(ROOMS)}
    draft = path.with_suffix(".new.db")
    members = [reader, *senders]
    populate(draft, dict.fromkeys(sizes | others, members))
    with contextlib.closing(SqliteRepository(draft)) as repository:
        repository.open()
        for name, size in (sizes | others).items():
            room = Room(name, epoch=EPOCH)
            say(repository, room, senders, size // 2, lambda n: f"{CONTENT} shaft{n % RARE}")
            pass_a_night(repository, room, senders, size // 10)
            rest = size - size // 2
            say(repository, room, senders, rest, lambda n: f"{CONTENT} shaft{n % RARE}")
        while repository.index(1_000):
            pass
    draft.rename(path)
    return path


def pass_a_night(
    repository: SqliteRepository, room: Room, people: Sequence[str], events: int
) -> None:
    """Store so many events that are no messages: people react, and go, and come."""
    _, last, _ = repository.head(room.name, 0)
    turns = itertools.cycle(people)
    reaction = {"target": last, "emoji": "\N{HOT BEVERAGE}"}
    drafts: list[Draft] = []
    while len(drafts) < events:
        who = next(turns)
        draft = partial(Draft, room=room, sender=who, timestamp=utcnow())
        drafts += [
            draft(kind="reaction", body=reaction | {"action": "add"}),
            draft(kind="reaction", body=reaction | {"action": "remove"}),
            draft(kind="member", body={"username": who, "action": "leave"}),
            draft(kind="member", body={"username": who, "action": "join", "role": "member"}),
        ]
    for start in range(0, events, BATCH):
        outcomes = repository.append(drafts[start : min(start + BATCH, events)])
        assert all(isinstance(outcome, Stored) for outcome in outcomes)


if __name__ == "__main__":
    command(run)
