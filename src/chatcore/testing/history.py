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

from chatcore.events import Delete, Durable, Edit, Member, Message, Reaction
from chatcore.folding import erased, fold
from chatcore.model import INTEGERS
from chatcore.ports import Repository
from chatcore.testing.record import Reading, Record, Sent

PAGE = 1_000
"""Events that are read from a repository at once."""

Kind: TypeAlias = Literal[
    "lost", "duplicated", "reordered", "phantom", "gap", "altered", "trespass"
]


@frozen
class Violation:
    """One promise that was broken.

    - `lost`: acknowledged, and not stored under that seq; or its text is, though nobody
      deleted it.
    - `duplicated`: one send stored twice, or one event seen twice.
    - `reordered`: stored against the order of its sender's record, or seen out of order.
    - `phantom`: stored though nobody sent it, or though it was refused; seen and not
      stored, or without having joined.
    - `gap`: a reader's seqs jump though nothing told of it, or the stored ones do.
    - `altered`: stored with another text than was sent, or seen otherwise than stored; or
      a text that is there, or is seen, after it was deleted.
    - `trespass`: stored of somebody who had left, was removed or was muted, and had not
      been let in again; or seen by them.
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

    There must be a record of everybody who sent a message, edited or deleted one.  A send
    without an acknowledgement may be stored or not, once.  What was seen of a message
    before it was deleted may have its text, and what is stored then has none.  Where
    all readers have been given all there is, say `caught_up`: what the last of it lacks
    is then a gap, and so is an epoch of which the last join did not tell.  What a reader
    saw of another epoch than the log's is compared with itself alone.  A fresh join may
    give as few of the newest messages as it was asked for, so none that it lacks is missed.

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
        stored = _Stored(log)
        found += _check_absences(room, log, stored)
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
    deletions: dict[int, int] = {}
    for event in log.events:
        if isinstance(event, Delete):
            if event.target in deletions:
                detail = f"{event.target} is deleted by {deletions[event.target]} and {event.seq}"
                yield Violation("duplicated", "", room, detail)
            deletions.setdefault(event.target, event.seq)
    for event in log.events:
        if isinstance(event, Message | Edit):
            deletion = deletions.get(_message_of(event))
            if event.erased and deletion is None:
                yield Violation("lost", "", room, f"{event.seq} is erased, and nobody deleted it")
            elif deletion is not None and not event.erased:
                detail = f"{event.seq} has its text still, and {deletion} deleted it"
                yield Violation("altered", "", room, detail)


def _check_absences(room: str, log: Log, stored: _Stored) -> Iterator[Violation]:
    """Nothing is stored of somebody while they are not in the room, and no text while muted."""
    muted: dict[str, Member] = {}
    for event in log.events:
        who = event.sender
        own = isinstance(event, Member) and event.username == who  # who comes, or declines to
        end = None if own else stored.absent(who, event.seq)
        if end is not None:
            yield Violation("trespass", who, room, f"{event.seq} is stored, after {end} ended it")
        match event:
            case Member(action="mute"):
                muted[event.username] = event
            case Member(action="unmute"):
                muted.pop(event.username, None)
            case Message() | Edit() if who in muted:
                until = muted[who].until
                if until is None or event.timestamp < until:
                    detail = f"{event.seq} is stored, after {muted[who].seq} muted them"
                    yield Violation("trespass", who, room, detail)


def _holes(seqs: Iterable[int], start: int, end: int | None = None) -> Iterator[tuple[int, int]]:
    """Return the pairs of neighbours between which something is missing."""
    edges = [start] if end is None else [start, end]
    for before, after in pairwise(sorted({*seqs, *edges})):
        if after > before + 1:
            yield before, after


# Sends.


@frozen
class _What:
    """What is sent, or stored: a message, or an edit of one."""

    content: str | None
    """None for what was erased, which may have been anything."""
    edited: int | None = None
    """The message that an edit is of."""

    def __str__(self) -> str:
        text = "an erased one" if self.content is None else _short(self.content)
        return text if self.edited is None else f"the edit of {self.edited} to {text}"

    def may_be(self, sent: _What) -> bool:
        return self == sent or (self.content is None and self.edited == sent.edited)


@define(eq=False)
class _Post:
    """What is to be stored once: a send, or all sends that have one txn_id."""

    what: _What
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
    rows: dict[str, dict[int, _What]] = defaultdict(dict)
    deletions: dict[str, dict[int, int]] = defaultdict(dict)
    for event in log.events:
        match event:
            case Message():
                rows[event.sender][event.seq] = _What(None if event.erased else event.content)
            case Edit():
                content = None if event.erased else event.content
                rows[event.sender][event.seq] = _What(content, event.target)
            case Delete():
                deletions[event.sender][event.seq] = event.target
    deleted = {seq: target for each in deletions.values() for seq, target in each.items()}
    for who in sorted({*sends, *rows, *deletions}):
        posts = _posts(sends.get(who, ()))
        asked = [sent for each in sends.get(who, ()) for sent in each if sent.kind == "delete"]
        for kind, detail in (
            *_compare(posts, rows.get(who, {}), log.first),
            *_compare_deletions(asked, deletions.get(who, {}), deleted, log.first),
        ):
            yield Violation(kind, who, room, detail)


def _compare_deletions(
    asked: Sequence[Sent], mine: Mapping[int, int], deleted: Mapping[int, int], first: int
) -> Iterator[tuple[Kind, str]]:
    """Compare what one user wanted deleted with the deletions, which are one for each message."""
    possible = {sent.target for sent in asked if not sent.refused}
    for sent in asked:
        if sent.seq is not None and sent.seq >= first and deleted.get(sent.seq) != sent.target:
            detail = f"the deletion of {sent.target} was acknowledged as {sent.seq}"
            yield "lost", f"{detail}, and is not there"
    for seq, target in mine.items():
        if target not in possible:
            yield "phantom", f"the deletion of {target} is stored as {seq}, and nobody sent it"


def _posts(records: Sequence[Sequence[Sent]]) -> list[_Post]:
    posts: dict[object, _Post] = {}
    for number, sends in enumerate(records):
        for place, sent in enumerate(sends):
            if sent.kind == "delete":
                continue
            what = _What(sent.content, sent.target if sent.kind == "edit" else None)
            once = (number, place) if sent.txn_id is None else (sent.txn_id, what)
            post = posts.setdefault(once, _Post(what))
            post.places.append((number, place))
            post.certainly_not &= bool(sent.refused)
            if sent.seq is not None and sent.seq not in post.seqs:
                post.seqs.append(sent.seq)
    return [*posts.values()]


def _compare(
    posts: Sequence[_Post], rows: Mapping[int, _What], first: int
) -> Iterator[tuple[Kind, str]]:
    """Find for each of one sender's stored messages what it was, and for each post its message."""
    owners: dict[int, _Post] = {}
    candidates = _Candidates()
    for post in posts:
        kept = [seq for seq in post.seqs if seq >= first]
        for seq in kept:
            if seq in rows and rows[seq].may_be(post.what) and seq not in owners:
                owners[seq] = post
        held = [seq for seq in kept if owners.get(seq) is post]
        if len(held) > 1:
            yield "duplicated", f"{post.what} is stored as {held[0]} and {held[1]}"
        for seq in kept if held else ():
            if seq not in held:
                yield "lost", f"{post.what} was acknowledged as {seq} too"
        if (kept or not post.seqs) and not held and not post.certainly_not:
            candidates.add(post)

    spare: dict[int, _What] = {}
    unknown: list[tuple[int, _What]] = []
    """What was erased and not acknowledged: it is one of those that are left in the end."""
    reached: dict[int, int] = defaultdict(lambda: -1)
    """The place in each record of the last send that was found."""
    for seq, what in sorted(rows.items(), key=lambda row: row[0]):
        post_ = owners.get(seq)
        if post_ is None and what.content is None:
            unknown.append((seq, what))
            continue
        post_ = post_ or candidates.take(what, reached)
        if post_ is None:
            spare[seq] = what
            continue
        if post_.seqs and seq not in post_.seqs:
            yield "lost", f"{what} was acknowledged as {post_.seqs[0]} and is {seq}"
        place = next((each for each in post_.places if each[1] > reached[each[0]]), None)
        if place is None:
            yield "reordered", f"{what} is stored as {seq}, after what was sent later"
        else:
            reached[place[0]] = place[1]

    left = [*candidates.left()]
    for seq, what in unknown:
        post_ = next((post for post in left if not post.seqs and what.may_be(post.what)), None)
        if post_ is None:
            spare[seq] = what
        else:
            left.remove(post_)
    for post in left:
        for seq in post.seqs:
            if seq in spare:
                what = spare.pop(seq)
                yield "altered", f"{seq} was {post.what} and is {what}"
            else:
                yield "lost", f"{post.what} was acknowledged as {seq}, and is not there"
    sent = {post.what: post.certainly_not for post in posts}
    sent |= {post.what: False for post in posts if not post.certainly_not}
    for seq, what in spare.items():
        match sent.get(what):
            case False:
                yield "duplicated", f"{what} is stored once more as {seq}"
            case True:
                yield "phantom", f"{what} was refused, and is stored as {seq}"
            case None:
                yield "phantom", f"{what} is stored as {seq}, and nobody sent it"


class _Candidates:
    """Posts that may be stored somewhere, by their text, each to be taken once.

    Those that a row cannot be without being out of order are kept apart, so that none
    is looked at twice where many have the same text.
    """

    def __init__(self) -> None:
        self._due: dict[_What, deque[_Post]] = defaultdict(deque)
        self._late: dict[_What, deque[_Post]] = defaultdict(deque)

    def add(self, post: _Post) -> None:
        self._due[post.what].append(post)

    def take(self, what: _What, reached: Mapping[int, int]) -> _Post | None:
        due, late = self._due[what], self._late[what]
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
    stored: _Stored,
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

    if reading.resumed is not None and reading.head < start:
        yield found("gap", f"went on after {start} with the head {reading.head}")
    if reading.recent and reading.recent[-1].seq > start:
        last = reading.recent[-1].seq
        yield found("phantom", f"the join gave {last}, above its head {start}")

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
    if due and not ours and not reading.ended:
        yield found("gap", f"was told of epoch {reading.epoch}, and not of {log.epoch}")
    end = log.head + 1 if due and ours and not reading.ended else None
    for before, after in _holes((seq for seq in seen if seq > start), start, end):
        yield found("gap", f"nothing was seen between {before} and {after}")

    for event in reading.seen if ours else ():
        ended = stored.absent(who, event.seq) if event.seq > reading.head else None
        if ended is not None:
            yield found("trespass", f"{event.seq} was seen, after {ended} ended it")

    given: list[tuple[Durable, int | None]] = [(event, reading.head) for event in reading.recent]
    given += [(event, None) for event in reading.seen]
    for event, head in given if ours else ():
        if event.seq < log.first:
            continue
        kept = stored.event(event.seq, head, who)
        if kept is None:
            yield found("phantom", f"{event.seq} was seen, and is not stored")
        elif event != kept and not (stored.had_text(event, reading.head) and erased(event) == kept):
            yield found("altered", f"{event.seq} was seen as {event}, and is {kept}")


class _Stored:
    """What a log holds, by seq."""

    def __init__(self, log: Log) -> None:
        self._events = {event.seq: event for event in log.events}
        self._of: dict[int, list[Edit | Reaction]] = defaultdict(list)
        self._deletions: dict[int, int] = {}
        self._absences: dict[str, list[tuple[int, int]]] = defaultdict(list)
        """Of each user, when they went and when they came back."""
        away: dict[str, int] = {}
        for event in log.events:
            match event:
                case Member() if event.ends and event.username not in away:
                    away[event.username] = event.seq
                case Member(action="join") if event.username in away:
                    absence = (away.pop(event.username), event.seq)
                    self._absences[event.username].append(absence)
                case Edit() | Reaction():
                    self._of[event.target].append(event)
                case Delete():
                    self._deletions.setdefault(event.target, event.seq)

        for who, went in away.items():
            self._absences[who].append((went, INTEGERS))

    def event(self, seq: int, head: int | None, who: str) -> Durable | None:
        """Return an event as it is in the log, or folded as of a head, as somebody sees it."""
        event = self._events.get(seq)
        if head is None or not isinstance(event, Message):
            return event
        return fold([event, *(each for each in self._of[seq] if each.seq <= head)], who)[0]

    def absent(self, who: str, seq: int) -> int | None:
        """Return what ended somebody's being there, where they had not come back by an event."""
        return next((went for went, came in self._absences[who] if went < seq < came), None)

    def had_text(self, event: Durable, head: int) -> bool:
        """Say whether an event that has none now had one still when a room was at this head."""
        return self._deletions.get(_message_of(event), 0) > head


def _message_of(event: Durable) -> int:
    return event.target if isinstance(event, Edit) else event.seq
