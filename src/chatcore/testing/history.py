"""A checker of histories: what clients sent, were told and saw, against what is stored."""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal, TypeAlias

from attrs import define, field, frozen

from chatcore.events import Durable, Message
from chatcore.model import INTEGERS
from chatcore.ports import Repository
from chatcore.testing.record import Reading, Record, Sent

PAGE = 1_000
"""Events that are read from a repository at once."""

Kind: TypeAlias = Literal["lost", "duplicated", "reordered", "phantom", "gap", "altered"]


@frozen
class Violation:
    """One promise that was broken.

    - `lost`: acknowledged, and not stored under that seq.
    - `duplicated`: one send stored twice, or one event seen twice.
    - `reordered`: stored against the order of its sender's record, or seen out of order.
    - `phantom`: stored though nobody sent it, or though it was refused; seen and not
      stored, or without having joined.
    - `gap`: a reader's seqs jump though nothing told of it, or the stored ones do.
    - `altered`: stored with another text than was sent, or seen otherwise than stored.
    """

    kind: Kind
    who: str
    """Whose message it is, or who saw it; nobody's where the log alone shows it."""
    room: str
    detail: str


# What is stored.


@frozen
class Log:
    """What is stored of one room, in seq order."""

    events: Sequence[Durable] = ()
    head: int = 0
    first: int = 1
    epoch: str = ""


def read_logs(source: Repository | str | os.PathLike[str], rooms: Iterable[str]) -> dict[str, Log]:
    """Read the logs of these rooms, page by page; that of a room which is not there is empty.

    `source` is a repository, or the path of a SqliteRepository's file, which nobody
    else needs to have closed.  Nothing may be written meanwhile.  Raises
    FileNotFoundError, and what `Repository.read` raises.
    """
    if not isinstance(source, str | os.PathLike):
        return {room: _read(source, room) for room in rooms}
    from chatcore.repository.sql import SqliteRepository

    Path(source).stat()  # SQLite would make it
    with contextlib.closing(SqliteRepository(source)) as repository:
        return {room: _read(repository, room) for room in rooms}


def _read(repository: Repository, name: str) -> Log:
    room = repository.room(name)
    if room is None:
        return Log()
    first, head, _ = repository.head(name, 0)
    events: list[Durable] = []
    while page := repository.read(name, events[-1].seq if events else 0, INTEGERS, PAGE):
        events += page
    return Log(events, head, first, room.epoch)


# The check.


def check_history(
    records: Iterable[Record], logs: Mapping[str, Log], *, caught_up: bool = False
) -> list[Violation]:
    """Name every violation that these records and logs show; none where all promises were kept.

    There must be a record of everybody who sent a message.  A send without an
    acknowledgement may be stored or not, once.  Where all readers have been given all
    there is, say `caught_up`: what the last of it lacks is then a gap.  What a reader
    saw of another epoch than the log's is compared with itself alone.

    It takes time in proportion to what there is: about a second for 100,000 events.
    """
    records = [*records]
    sends: dict[str, dict[str, list[list[Sent]]]] = defaultdict(lambda: defaultdict(list))
    """Of each room, of each sender, in each of their records."""
    rooms = {*logs}
    for record in records:
        rooms.update(record.readings)
        mine: dict[str, list[Sent]] = defaultdict(list)
        for sent in record.sends:
            mine[sent.room].append(sent)
        for room, sent_there in mine.items():
            sends[room][record.who].append(sent_there)
    found: list[Violation] = []
    for room in sorted({*rooms, *sends}):
        log = logs.get(room, Log())
        found += _check_log(room, log)
        found += _check_sends(room, log, sends.get(room, {}))
        stored = {event.seq: event for event in log.events}
        for record in records:
            readings: Sequence[Reading] = record.readings.get(room, ())
            for reading in readings:
                due = caught_up and reading is readings[-1]
                found += _check_reading(record.who, room, reading, log, stored, due)
    return found


def _check_log(room: str, log: Log) -> Iterator[Violation]:
    seen: set[int] = set()
    last = log.first - 1
    for event in log.events:
        if event.seq in seen:
            yield Violation("duplicated", "", room, f"{event.seq} is stored twice")
        elif event.seq <= last:
            yield Violation("reordered", "", room, f"{event.seq} is stored after {last}")
        seen.add(event.seq)
        last = max(last, event.seq)
    for before, after in _holes(seen, log.first - 1, log.head + 1):
        yield Violation("gap", "", room, f"nothing is stored between {before} and {after}")
    if last > log.head:
        yield Violation("phantom", "", room, f"{last} is stored, above the head {log.head}")


def _holes(seqs: Iterable[int], start: int, end: int | None = None) -> Iterator[tuple[int, int]]:
    """Return the pairs of neighbours between which something is missing."""
    edges = [start] if end is None else [start, end]
    for before, after in pairwise(sorted({*seqs, *edges})):
        if after > before + 1:
            yield before, after


# Sends.


@define(eq=False)
class _Post:
    """What is to be stored once: a send, or all sends that have one txn_id."""

    content: str
    places: list[tuple[int, int]] = field(factory=list)
    """Which of the sender's records it is in, and where there."""
    seqs: list[int] = field(factory=list)
    """What it was acknowledged as: one, or something is wrong."""
    certainly_not: bool = True
    """Whether every one of its sends was refused."""


def _check_sends(
    room: str, log: Log, sends: Mapping[str, Sequence[Sequence[Sent]]]
) -> Iterator[Violation]:
    """Compare each sender's messages with what is stored of theirs."""
    rows: dict[str, dict[int, str]] = defaultdict(dict)
    for event in log.events:
        if isinstance(event, Message):
            rows[event.sender][event.seq] = event.content
    for who in sorted({*sends, *rows}):
        posts = _posts(sends.get(who, ()))
        for kind, detail in _compare(posts, rows.get(who, {}), log.first):
            yield Violation(kind, who, room, detail)


def _posts(records: Sequence[Sequence[Sent]]) -> list[_Post]:
    posts: dict[object, _Post] = {}
    for number, sends in enumerate(records):
        for place, sent in enumerate(sends):
            once = (number, place) if sent.txn_id is None else (sent.txn_id, sent.content)
            post = posts.setdefault(once, _Post(sent.content))
            post.places.append((number, place))
            post.certainly_not &= bool(sent.refused)
            if sent.seq is not None and sent.seq not in post.seqs:
                post.seqs.append(sent.seq)
    return [*posts.values()]


def _compare(
    posts: Sequence[_Post], rows: dict[int, str], first: int
) -> Iterator[tuple[Kind, str]]:
    """Find for each of one sender's stored messages what it was, and for each post its message."""
    owners: dict[int, _Post] = {}
    candidates = _Candidates()
    for post in posts:
        kept = [seq for seq in post.seqs if seq >= first]
        for seq in kept:
            if rows.get(seq) == post.content and seq not in owners:
                owners[seq] = post
        held = [seq for seq in kept if owners.get(seq) is post]
        if len(held) > 1:
            yield "duplicated", f"{_short(post.content)} is stored as {held[0]} and {held[1]}"
        for seq in kept if held else ():
            if seq not in held:
                yield "lost", f"{_short(post.content)} was acknowledged as {seq} too"
        if (kept or not post.seqs) and not held and not post.certainly_not:
            candidates.add(post)

    spare: dict[int, str] = {}
    reached: dict[int, int] = defaultdict(lambda: -1)
    """The place in each record of the last send that was found."""
    for seq, text in sorted(rows.items()):
        post_ = owners.get(seq) or candidates.take(text, reached)
        if post_ is None:
            spare[seq] = text
            continue
        if post_.seqs and seq not in post_.seqs:
            yield "lost", f"{_short(text)} was acknowledged as {post_.seqs[0]} and is {seq}"
        place = next((each for each in post_.places if each[1] > reached[each[0]]), None)
        if place is None:
            yield "reordered", f"{_short(text)} is stored as {seq}, after what was sent later"
        else:
            reached[place[0]] = place[1]

    for post in candidates.left():
        for seq in post.seqs:
            if seq in spare:
                text = spare.pop(seq)
                yield "altered", f"{seq} was {_short(post.content)} and is {_short(text)}"
            else:
                yield "lost", f"{_short(post.content)} was acknowledged as {seq}, and is not there"
    sent = {post.content: post.certainly_not for post in posts}
    sent |= {post.content: False for post in posts if not post.certainly_not}
    for seq, text in spare.items():
        match sent.get(text):
            case False:
                yield "duplicated", f"{_short(text)} is stored once more as {seq}"
            case True:
                yield "phantom", f"{_short(text)} was refused, and is stored as {seq}"
            case None:
                yield "phantom", f"{_short(text)} is stored as {seq}, and nobody sent it"


class _Candidates:
    """Posts that may be stored somewhere, by their text, each to be taken once.

    Those that a row cannot be without being out of order are kept apart, so that none
    is looked at twice where many have the same text.
    """

    def __init__(self) -> None:
        self._due: dict[str, deque[_Post]] = defaultdict(deque)
        self._late: dict[str, deque[_Post]] = defaultdict(deque)

    def add(self, post: _Post) -> None:
        self._due[post.content].append(post)

    def take(self, text: str, reached: Mapping[int, int]) -> _Post | None:
        due, late = self._due[text], self._late[text]
        while due:
            post = due.popleft()
            if any(place > reached[number] for number, place in post.places):
                return post
            late.append(post)
        return late.popleft() if late else None

    def left(self) -> Iterator[_Post]:
        for posts in (*self._due.values(), *self._late.values()):
            yield from posts


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "…")


# Readings.


def _check_reading(
    who: str,
    room: str,
    reading: Reading,
    log: Log,
    stored: Mapping[int, Durable],
    due: bool,
) -> Iterator[Violation]:
    """Compare what one reader was given from one join on with itself, and with the log."""

    def found(kind: Kind, detail: str) -> Violation:
        return Violation(kind, who, room, detail)

    start = reading.start
    if start is None:
        start = reading.seen[0].seq - 1 if reading.seen else 0
        yield found("phantom", f"{start + 1} was seen without having joined")
    ours = reading.start is None or reading.epoch == log.epoch
    if reading.resumed is not None and reading.resumed.epoch != reading.epoch:
        yield found("gap", f"went on after {start} in epoch {reading.epoch}, which is another")
    if ours and reading.head > log.head:
        yield found("phantom", f"the head was told as {reading.head}, and is {log.head}")

    last = 0
    for event in reading.recent:
        if event.seq <= last:
            kind: Kind = "duplicated" if event.seq == last else "reordered"
            yield found(kind, f"the join gave {event.seq} after {last}")
        last = max(last, event.seq)

    seen: set[int] = set()
    last = start
    for event in reading.seen:
        if ours and event.seq > log.head:
            continue  # a phantom, and told below
        if event.seq in seen or event.seq <= start:
            yield found("duplicated", f"{event.seq} was seen again, after {last}")
        elif event.seq < last:
            yield found("reordered", f"{event.seq} was seen after {last}")
        seen.add(event.seq)
        last = max(last, event.seq)
    end = log.head + 1 if due and ours and not reading.ended else None
    for before, after in _holes((seq for seq in seen if seq > start), start, end):
        yield found("gap", f"nothing was seen between {before} and {after}")

    for event in (*reading.recent, *reading.seen) if ours else ():
        if event.seq < log.first:
            continue
        if event.seq not in stored:
            yield found("phantom", f"{event.seq} was seen, and is not stored")
        elif event != stored[event.seq]:
            yield found("altered", f"{event.seq} was seen as {event}, and is {stored[event.seq]}")
