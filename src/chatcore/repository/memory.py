"""MemoryRepository: everything in dictionaries; for tests, and for rooms that may be forgotten."""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right, insort
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice, takewhile
from operator import itemgetter
from typing import Any

from attrs import asdict, define, evolve, field

from chatcore import folding
from chatcore.events import (
    DURABLE,
    BanItem,
    Delete,
    Duplicate,
    Durable,
    Edit,
    Found,
    Marked,
    Member,
    MemberItem,
    Message,
    Reaction,
    ReportItem,
    Stored,
    Tally,
)
from chatcore.folding import erased, fold, ranked, redacted
from chatcore.model import (
    INVITED,
    Account,
    Closing,
    Draft,
    Listed,
    Membership,
    Restraint,
    Room,
    User,
)
from chatcore.names import skeleton
from chatcore.policy import is_readable
from chatcore.ports import Outcome
from chatcore.query import Query
from chatcore.repository.ledger import (
    Ledger,
    RoomState,
    Standing,
    Target,
    Txn,
    TxnKey,
    touched,
)


@define
class _Log:
    room: Room
    first: int = 1
    gone: int = 0
    """Messages below it."""
    events: list[Durable] = field(factory=list)
    counts: list[int] = field(factory=list)
    """Messages up to each event."""
    drafts: list[int] = field(factory=list)
    members: dict[str, Standing] = field(factory=dict)
    """And those who are invited."""
    restraints: dict[str, Restraint] = field(factory=dict)
    places: list[int] = field(factory=list)
    """Of each event which one it is of all rooms' together."""
    reports: dict[tuple[int, str], ReportItem] = field(factory=dict)
    """By the message and who reported it."""
    edits: dict[int, list[int]] = field(factory=dict)
    """Of each message that has any, where they are."""
    deletions: dict[int, Duplicate] = field(factory=dict)
    reactions: dict[int, dict[str, dict[str, int]]] = field(factory=dict)
    """Of each message that has any, by emoji: who reacted so, and where in the log."""
    reacted: dict[int, list[Reaction]] = field(factory=dict)
    """All that there ever were."""
    mentions: dict[str, list[int]] = field(factory=dict)
    """The messages that mention each user, in order."""
    mentioned: dict[int, tuple[str, ...]] = field(factory=dict)
    """Whom each message mentions that does."""

    @property
    def head(self) -> int:
        return self.first + len(self.events) - 1

    def messages(self, upto: int) -> int:
        return self.counts[upto - self.first] if upto >= self.first else self.gone

    def at(self, seq: int) -> Durable | None:
        return self.events[seq - self.first] if self.first <= seq <= self.head else None

    def is_by(self, seq: int, username: str) -> bool:
        event = self.at(seq)
        return event is not None and event.sender == username

    def put(self, event: Durable) -> None:
        self.events[event.seq - self.first] = event

    def between(self, after: int, before: int) -> list[Durable]:
        """Return the events with after < seq < before."""
        return self.events[max(0, after + 1 - self.first) : max(0, before - self.first)]

    def old(self, now: datetime) -> list[Durable]:
        """Return what is too old to be kept."""
        if not self.room.retention_days:
            return []
        oldest = now - timedelta(days=self.room.retention_days)
        return [*takewhile(lambda event: event.timestamp < oldest, self.events)]

    def expire(self, kept: int) -> None:
        """Let go of all below."""
        self.gone = self.messages(kept - 1)
        count = kept - self.first
        for each in (self.events, self.counts, self.drafts, self.places):
            del each[:count]
        self.first = kept
        for username, standing in self.members.items():
            if standing.read < kept - 1:
                self.members[username] = Standing(standing.role, kept - 1, self.gone)
        for message, deletion in self.deletions.items():
            if message < kept <= deletion.seq:
                self.put(redacted(self.events[deletion.seq - kept]))
        for beside in (self.edits, self.deletions, self.reactions, self.reacted, self.mentioned):
            for message in [message for message in beside if message < kept]:
                del beside[message]
        for key, report in self.reports.items():
            if key[0] < kept:
                self.reports[key] = evolve(report, reason="")
        for seqs in self.mentions.values():
            del seqs[: bisect_left(seqs, kept)]

    def add(self, event: Durable) -> None:
        self.events.append(event)
        match event:
            case Edit():
                self.edits.setdefault(event.target, []).append(event.seq)
            case Delete():
                self.deletions[event.target] = Duplicate(event.seq, event.timestamp)
            case Reaction():
                self.reacted.setdefault(event.target, []).append(event)

    def erase(self, message: int) -> None:
        for seq in (message, *self.edits.get(message, ())):
            self.put(erased(self.events[seq - self.first]))
        self.reactions.pop(message, None)
        self.reacted.pop(message, None)

    def react(self, message: int, username: str, emoji: str, seq: int | None) -> None:
        """Note what has added a reaction, or that it is there no more."""
        by_emoji = self.reactions.setdefault(message, {})
        who = by_emoji.setdefault(emoji, {})
        if seq is not None:
            who[username] = seq
            return
        who.pop(username, None)
        if not who:
            del by_emoji[emoji]

    def reaction(self, message: int, username: str, emoji: str) -> Duplicate | None:
        seq = self.reactions.get(message, {}).get(emoji, {}).get(username)
        event = self.at(seq) if seq is not None else None
        return None if event is None else Duplicate(event.seq, event.timestamp)

    def as_it_is(self, message: Message, upto: int, reader: str) -> tuple[Message, Edit | None]:
        """Return a message with what is beside it, and the edit that it has to be folded with."""
        found = self.reactions.get(message.seq, {})
        now = (Tally(emoji, len(who), reader in who) for emoji, who in found.items())
        every = self.reacted.get(message.seq, [])
        later = every[bisect_right(every, upto, key=lambda each: each.seq) :]
        message = evolve(message, reactions=folding.before(ranked(now), later, reader))
        return message, self.newest_edit(message.seq, upto)

    def sanctions(self, username: str) -> Iterator[Member]:
        """Return what has banned and muted somebody, as far as it is here."""
        restraint = self.restraints.get(username, Restraint())
        for seq in (restraint.ban, restraint.mute):
            event = self.at(seq or 0)
            if isinstance(event, Member):
                yield event

    def reports_of(self, username: str) -> list[tuple[int, str]]:
        """Return the keys of what somebody reported, and what was reported of their messages."""
        return [
            (seq, whose)
            for seq, whose in self.reports
            if username == whose or self.is_by(seq, username)
        ]

    def newest_edit(self, message: int, upto: int) -> Edit | None:
        seqs = self.edits.get(message, [])
        place = bisect_right(seqs, upto)
        edit = self.at(seqs[place - 1]) if place else None
        return edit if isinstance(edit, Edit) else None

    def mention(self, message: int, usernames: tuple[str, ...]) -> None:
        """Note whom a message mentions now, and nobody else."""
        for username in self.mentioned.pop(message, ()):
            self.mentions[username].remove(message)
        if usernames:
            self.mentioned[message] = usernames
        for username in usernames:
            insort(self.mentions.setdefault(username, []), message)

    def count_mentions(self, username: str, after: int, upto: int) -> int:
        found = self.mentions.get(username, [])
        return max(0, bisect_right(found, upto) - bisect_right(found, after))

    def mark(self, username: str, seq: int) -> Marked | None:
        """Move a read marker, where that is further on."""
        standing = self.members.get(username)
        if standing is None or standing.role == INVITED:
            return None
        upto = min(seq, self.head)
        moves = upto > standing.read
        if moves:
            standing = Standing(standing.role, upto, self.messages(upto))
            self.members[username] = standing
        others = {*self.members} - {username} if self.room.kind == "direct" else set()
        unread = self.messages(self.head) - standing.read_messages
        mentions = self.count_mentions(username, standing.read, self.head)
        other = next(iter(others), None)
        return Marked(standing.read, unread, mentions, self.head, moves, other)

    def search(self, query: Query, reader: str) -> Iterator[tuple[int, Found]]:
        for place, event in zip(self.places, self.events, strict=True):
            if not isinstance(event, Message) or event.erased:
                continue
            message, edit = self.as_it_is(event, self.head, reader)
            (said,) = fold([message] if edit is None else [message, edit])
            day = said.timestamp.date()
            if (
                query.finds(said.content)
                and query.sender in (None, said.sender)
                and (query.after is None or query.after < day)
                and (query.before is None or day < query.before)
            ):
                yield place, Found.of(said, self.head)

    def target(self, seq: int) -> Target | None:
        event = self.at(seq)
        if not isinstance(event, Message):
            return None
        tallies = {emoji: len(who) for emoji, who in self.reactions.get(seq, {}).items()}
        return Target(event.sender, event.timestamp, self.deletions.get(seq), tallies)


class MemoryRepository:
    """A Repository that lives as long as the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._logs: dict[str, _Log] = {}
        self._txns: dict[TxnKey, Txn] = {}
        self._users: dict[str, Account] = {}
        self._tokens: dict[bytes, tuple[str, datetime]] = {}
        self._skeletons: set[tuple[str, str]] = set()
        self._stored: list[tuple[str, int]] = []
        """The room and seq of every event, in the order in which they were stored."""

    def open(self) -> None:
        pass

    def claim(self) -> None:
        pass

    def close(self) -> None:
        pass

    # The log.

    def append(self, drafts: Sequence[Draft]) -> Sequence[Outcome]:
        with self._lock:
            for draft in drafts:
                if draft.creates and draft.sender in self._users:
                    self._create(draft.room)
            ledger = self._load(drafts)
            outcomes = ledger.judge(drafts)
            for name in ledger.unmade(drafts) & self._logs.keys():
                self._skeletons.remove(("room", skeleton(name)))
                del self._logs[name]
            for draft, stored in ledger.stored:
                log = self._logs[draft.room.name]
                log.add(stored.event)
                log.counts.append(stored.messages)
                log.drafts.append(draft.id)
                self._stored.append((stored.event.room, stored.event.seq))
                log.places.append(len(self._stored))
            for (room, seq, username, emoji), added in ledger.reacted.items():
                self._logs[room].react(seq, username, emoji, added)
            for (room, seq), usernames in ledger.mentions.items():
                self._logs[room].mention(seq, usernames)
            for room, seq in ledger.erased:
                self._logs[room].erase(seq)
            for (room, username), standing in ledger.changed.items():
                if standing is None:
                    self._logs[room].members.pop(username, None)
                else:
                    self._logs[room].members[username] = standing
            for (room, username), restraint in ledger.restrained.items():
                self._logs[room].restraints[username] = restraint
            for room, fields in ledger.updates.items():
                self._logs[room].room = evolve(self._logs[room].room, **fields)
            self._txns |= ledger.used
            return outcomes

    def _load(self, drafts: Sequence[Draft]) -> Ledger:
        about = touched(drafts)
        logs = {name: self._logs[name] for name in about.rooms if name in self._logs}
        return Ledger(
            rooms={
                name: RoomState(
                    log.room.epoch,
                    log.room.kind,
                    log.first,
                    log.head,
                    log.messages(log.head),
                    log.room.slow_mode,
                    log.room.archived,
                    log.room.title,
                    log.room.topic,
                    log.room.retention_days,
                )
                for name, log in logs.items()
            },
            users={username for _, username in about.people if username in self._users},
            standings={
                (room, username): logs[room].members[username]
                for room, username in about.people
                if room in logs and username in logs[room].members
            },
            restraints={
                (room, username): logs[room].restraints[username]
                for room, username in about.people
                if room in logs and username in logs[room].restraints
            },
            owners={
                room: {name for name, each in logs[room].members.items() if each.role == "owner"}
                for room in about.owned
                if room in logs
            },
            txns={key: self._txns[key] for key in about.txns if key in self._txns},
            roles={
                username: {
                    name: log.members[username].role
                    for name, log in self._logs.items()
                    if username in log.members
                }
                for username in about.limited
            },
            targets={
                (room, seq): logs[room].target(seq) if room in logs else None
                for room, seq in about.messages
            },
            reactions={
                key: there
                for key in about.reactions
                if key[0] in logs and (there := logs[key[0]].reaction(*key[1:])) is not None
            },
            sanctions={
                (room, event.seq): event
                for room, username in about.sanctioned
                if room in logs
                for event in logs[room].sanctions(username)
            },
            inactive={
                username: self._users[username].status
                for _, username in about.people
                if username in self._users and self._users[username].status != "active"
            },
        )

    def stored(self, drafts: Sequence[Draft], outcomes: Sequence[Outcome]) -> Sequence[bool]:
        with self._lock:
            return [
                not isinstance(outcome, Stored) or self._holds(draft, outcome.event.seq)
                for draft, outcome in zip(drafts, outcomes, strict=True)
            ]

    def _holds(self, draft: Draft, seq: int) -> bool:
        log = self._logs.get(draft.room.name)
        if log is None or not log.first <= seq <= log.head:
            return False
        return log.drafts[seq - log.first] == draft.id

    def add_room(self, room: Room) -> bool:
        with self._lock:
            return self._create(room)

    def _create(self, room: Room) -> bool:
        seen = ("room", skeleton(room.name))
        if seen in self._skeletons:
            return False
        self._skeletons.add(seen)
        self._logs[room.name] = _Log(room)
        return True

    def room(self, name: str) -> Room | None:
        with self._lock:
            log = self._logs.get(name)
            return log.room if log else None

    def head(self, room: str, tail: int) -> tuple[int, int, Sequence[Durable]]:
        with self._lock:
            log = self._logs[room]
            return log.first, log.head, log.between(log.head - tail, log.head + 1)

    def foreign_heads(self, rooms: Sequence[str]) -> Mapping[str, int] | None:
        return None

    def read(self, room: str, after: int, upto: int, limit: int) -> Sequence[Durable]:
        with self._lock:
            return self._logs[room].between(after, upto + 1)[:limit]

    def messages(
        self,
        room: str,
        after: int,
        before: int,
        limit: int,
        *,
        newest: bool,
        upto: int,
        reader: str = "",
    ) -> Sequence[Message | Edit]:
        with self._lock:
            log = self._logs[room]
            window = log.between(after, before)
            found = [event for event in window if isinstance(event, Message)]
            found = found[max(0, len(found) - limit) :] if newest else found[:limit]
            pairs = [log.as_it_is(message, upto, reader) for message in found]
            edits = [edit for _, edit in pairs]
            return [*(message for message, _ in pairs), *filter(None, edits)]

    def events(
        self, room: str, kinds: Sequence[str], after: int, before: int, limit: int, *, newest: bool
    ) -> Sequence[Durable]:
        types = tuple(DURABLE[kind] for kind in kinds)
        with self._lock:
            window = self._logs[room].between(after, before)
            found = [event for event in window if isinstance(event, types)]
            return found[max(0, len(found) - limit) :] if newest else found[:limit]

    # Searching: the log itself.

    def index(self, limit: int) -> int:
        return 0

    def search(
        self, username: str, query: Query, before: int | None, limit: int, now: datetime
    ) -> Sequence[tuple[int, Found | None]]:
        with self._lock:
            found = (
                each
                for name, log in self._logs.items()
                if query.room in (None, name) and self._reads(username, log, now)
                for each in log.search(query, username)
                if before is None or each[0] < before
            )
            return sorted(found, key=itemgetter(0), reverse=True)[:limit]

    def _reads(self, username: str, log: _Log, now: datetime) -> bool:
        standing = log.members.get(username)
        role = standing.role if standing else None
        return is_readable(log.room, role, log.restraints.get(username), now)

    def purge(self) -> bool:
        return False

    def due(self, now: datetime, limit: int, after: str = "") -> tuple[str, int] | None:
        with self._lock:
            for name in sorted(self._logs, key=lambda name: (name <= after, name)):
                if old := self._logs[name].old(now)[:limit]:
                    return name, old[-1].seq + 1
            return None

    def expire(self, room: str, first: int, now: datetime) -> None:
        with self._lock:
            log = self._logs[room]
            due = [event.seq for event in log.old(now) if event.seq < first]
            if due:
                log.expire(due[-1] + 1)

    # Who is in which room.

    def rooms(self, username: str, after: str, limit: int) -> Sequence[Listed]:
        with self._lock:
            visible = (
                Listed(
                    **asdict(log.room),
                    role=log.members[username].role if username in log.members else None,
                )
                for name, log in sorted(self._logs.items())
                if name > after and (log.room.kind == "public" or username in log.members)
            )
            return [room for room, _ in zip(visible, range(limit), strict=False)]

    def place(self, room: str, username: str) -> tuple[str | None, Restraint | None]:
        with self._lock:
            log = self._logs.get(room)
            if log is None:
                return None, None
            standing = log.members.get(username)
            return standing.role if standing else None, log.restraints.get(username)

    def membership(self, room: str, username: str, upto: int | None = None) -> Membership | None:
        with self._lock:
            log = self._logs.get(room)
            standing = log.members.get(username) if log else None
            if log is None or standing is None:
                return None
            head = log.head if upto is None else upto
            unread = max(0, log.messages(head) - standing.read_messages)
            mentions = log.count_mentions(username, standing.read, head)
            return Membership(
                log.room,
                standing.role,
                log.room.epoch,
                log.first,
                head,
                standing.read,
                unread,
                mentions,
            )

    def memberships(self, username: str) -> Sequence[Membership]:
        with self._lock:
            names = sorted(name for name, log in self._logs.items() if username in log.members)
        found = (self.membership(name, username) for name in names)
        return [membership for membership in found if membership is not None]

    def members(self, room: str, after: str, limit: int) -> Sequence[MemberItem]:
        with self._lock:
            members = sorted(
                (username, standing)
                for username, standing in self._logs[room].members.items()
                if standing.role != INVITED
            )
            names = [username for username, _ in members]
            return [
                MemberItem(username, user.display_name, standing.role, user.bot)
                for username, standing in members[bisect_right(names, after) :][:limit]
                for user in [self._users[username].user]
            ]

    def mark_read(self, marks: Mapping[tuple[str, str], int]) -> Mapping[tuple[str, str], Marked]:
        with self._lock:
            moved = {
                key: self._logs[key[0]].mark(key[1], seq)
                for key, seq in marks.items()
                if key[0] in self._logs
            }
            return {key: marked for key, marked in moved.items() if marked is not None}

    # What moderators are told.

    def report(self, room: str, seq: int, username: str, reason: str, now: datetime) -> bool:
        with self._lock:
            log = self._logs[room]
            target = log.target(seq)
            account = self._users.get(username)
            if target is None or target.deletion is not None or account is None:
                return False
            if account.status != "active":
                return False
            number = len(log.reports) + 1
            log.reports.setdefault((seq, username), ReportItem(number, seq, username, reason, now))
            return True

    def reports(self, room: str, after: int, limit: int) -> Sequence[ReportItem]:
        with self._lock:
            found = [each for each in self._logs[room].reports.values() if each.number > after]
            return found[:limit]

    def reported(self, after: str, limit: int) -> Sequence[str]:
        with self._lock:
            found = (room for room, log in sorted(self._logs.items()) if log.reports)
            return [*islice((room for room in found if room > after), limit)]

    def bans(self, room: str, after: str, limit: int, now: datetime) -> Sequence[BanItem]:
        with self._lock:
            log = self._logs[room]
            held = (
                BanItem.of(name, restraint, log.sanctions(name), now)
                for name, restraint in sorted(log.restraints.items())
                if name > after
            )
            return [*islice((each for each in held if each.ban or each.mute), limit)]

    # Accounts.

    def add_user(self, user: User, password_hash: str | None) -> bool:
        with self._lock:
            seen = ("user", skeleton(user.username))
            if seen in self._skeletons:
                return False
            self._skeletons.add(seen)
            self._users[user.username] = Account(user=user, password_hash=password_hash)
            return True

    def set_password(
        self, username: str, password_hash: str, *, revoke: bool = False, keep: bytes | None = None
    ) -> None:
        with self._lock:
            changed = self._change(username, {"active", "disabled"}, password_hash=password_hash)
            if changed and revoke:
                self._revoke(username, keep)

    def set_profile(self, user: User) -> bool:
        with self._lock:
            return self._change(user.username, {"active", "disabled"}, user=user)

    def _change(self, username: str, of: Collection[str], **changes: Any) -> bool:
        """Change an account, where there is one of these statuses."""
        account = self._users.get(username)
        if account is None or account.status not in of:
            return False
        self._users[username] = evolve(account, **changes)
        return True

    def _revoke(self, username: str, keep: bytes | None = None) -> None:
        self._tokens = {
            digest: kept
            for digest, kept in self._tokens.items()
            if kept[0] != username or digest == keep
        }

    def user(self, username: str) -> Account | None:
        with self._lock:
            return self._users.get(username)

    def users(self, after: str, limit: int) -> Sequence[Account]:
        with self._lock:
            names = sorted(name for name in self._users if name > after)
            return [self._users[name] for name in names[:limit]]

    def disable(self, username: str) -> bool:
        with self._lock:
            changed = self._change(username, {"active"}, status="disabled")
            if changed:
                self._revoke(username)
            return changed

    def enable(self, username: str) -> bool:
        with self._lock:
            return self._change(username, {"disabled"}, status="active")

    def add_token(self, digest: bytes, username: str, expires: datetime, now: datetime) -> bool:
        with self._lock:
            self._tokens = {
                d: kept for d, kept in self._tokens.items() if kept[0] != username or kept[1] > now
            }
            account = self._users.get(username)
            if account is None or account.status != "active":
                return False
            self._tokens[digest] = (username, expires)
            return True

    def token(self, digest: bytes, now: datetime) -> tuple[User, datetime] | None:
        with self._lock:
            username, expires = self._tokens.get(digest, ("", now))
            return (self._users[username].user, expires) if expires > now else None

    def tokens(self, username: str) -> Sequence[datetime]:
        with self._lock:
            return sorted(expires for owner, expires in self._tokens.values() if owner == username)

    def logins(self, usernames: Sequence[str]) -> Mapping[str, Collection[bytes]]:
        with self._lock:
            found: dict[str, set[bytes]] = {
                username: set()
                for username in usernames
                if username in self._users and self._users[username].status == "active"
            }
            for digest, (username, _) in self._tokens.items():
                if username in found:
                    found[username].add(digest)
            return found

    def remove_token(self, digest: bytes) -> None:
        with self._lock:
            self._tokens.pop(digest, None)

    def remove_tokens(self, username: str) -> None:
        with self._lock:
            self._revoke(username)

    # An account's end.

    def close_account(self, username: str, closing: Closing) -> Account | None:
        with self._lock:
            account = self._users.get(username)
            if account is None:
                return None
            self._users[username] = account.closed(closing)
            self._revoke(username)
            return self._users[username]

    def closing_accounts(self) -> Sequence[Account]:
        with self._lock:
            return [account for account in self._users.values() if account.closing]

    def account_closed(self, username: str, closing: Closing) -> None:
        with self._lock:
            if self._users[username].closing == closing:
                self._change(username, {"deleted"}, closing=None)

    def said(self, username: str, after: int, limit: int) -> tuple[Sequence[Durable], int | None]:
        with self._lock:
            found: list[Durable] = []
            for place in range(after, len(self._stored)):
                room, seq = self._stored[place]
                event = self._logs[room].at(seq)
                if event is not None and self._concerns(username, event):
                    found.append(event)
                if len(found) == limit:
                    return found, place + 1
            return found, None

    def _concerns(self, username: str, event: Durable) -> bool:
        match event:
            case Member() if event.username == username:
                return True
            case Delete() if self._logs[event.room].is_by(event.target, username):
                return True
        return event.sender == username

    def redact(self, events: Sequence[Durable]) -> None:
        with self._lock:
            for event in events:
                log = self._logs[event.room]
                if event.seq >= log.first:
                    log.put(redacted(log.events[event.seq - log.first]))

    def reports_of(self, username: str) -> Sequence[tuple[str, ReportItem]]:
        with self._lock:
            return [
                (room, log.reports[key])
                for room, log in sorted(self._logs.items())
                for key in log.reports_of(username)
            ]

    def redact_reports(self, username: str) -> None:
        with self._lock:
            for log in self._logs.values():
                for key in log.reports_of(username):
                    log.reports[key] = evolve(log.reports[key], reason="")

    def lift_restraints(self, username: str) -> None:
        with self._lock:
            for log in self._logs.values():
                log.restraints.pop(username, None)

    def forget_txns(self, username: str, limit: int) -> bool:
        with self._lock:
            mine = [key for key in self._txns if key[1] == username][:limit]
            for key in mine:
                del self._txns[key]
            return len(mine) == limit
