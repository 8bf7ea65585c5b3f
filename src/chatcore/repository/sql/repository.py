"""SqlRepository: the log and the accounts on SQLAlchemy Core, for any database's dialect.

A batch is a constant number of statements, and every statement takes its rows as one
JSON parameter and gives its rows as one JSON value.  The sqlite3 module gives up the
interpreter lock at each row it steps over, and beside a busy event loop each time
waits for the switch interval: a row at a time is a hundred rows a second.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeAlias

import orjson
import sqlalchemy as sa
from attrs import asdict

from chatcore.errors import OutcomeUnknown
from chatcore.events import (
    DURABLE,
    BanItem,
    Duplicate,
    Durable,
    Edit,
    Marked,
    Member,
    MemberItem,
    Message,
    ReportItem,
    Stored,
)
from chatcore.folding import ERASED
from chatcore.model import (
    CHANGEABLE,
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
from chatcore.ports import Outcome
from chatcore.repository.ledger import Ledger, RoomState, Standing, Target, Txn, touched
from chatcore.repository.sql.dialect import Connection, Dialect
from chatcore.repository.sql.retention import Retention
from chatcore.repository.sql.rows import as_it_is, events_of, milliseconds, moment
from chatcore.repository.sql.rows import given as _given
from chatcore.repository.sql.statements import Statements

_Given: TypeAlias = dict[str, list[Any]]
"""Rows for each parameter of a statement that takes more than one."""

WINDOW = 20_000
"""Events that are looked at, at most, to find some that one user sent: there is no index."""


class SqlRepository(Retention):
    """All of a Repository but its life: a dialect's own class opens, claims and closes it."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._sql = Statements.of(dialect)
        self._unread = False
        """Whether others have written what `foreign_heads` could not read yet."""

    # The log.

    def append(self, drafts: Sequence[Draft]) -> Sequence[Outcome]:
        sql = self._sql
        with self._dialect.writing() as connection:
            created = [[*_room_row(d.room), d.sender] for d in drafts if d.creates]
            if created:
                connection.execute(sql.create_rooms, _given(created))
            ledger, room_ids, user_ids = self._load(connection, drafts)
            outcomes = ledger.judge(drafts)
            if not (ledger.stored or ledger.used):
                return outcomes
            unmade = [[room_ids[name]] for name in ledger.unmade(drafts) if name in room_ids]
            if unmade:
                connection.execute(sql.remove_rooms, _given(unmade))
            connection.execute(
                sql.add_events,
                _given(
                    [
                        room_ids[stored.event.room],
                        stored.event.seq,
                        draft.kind,
                        user_ids[draft.sender],
                        milliseconds(draft.timestamp),
                        stored.messages,
                        draft.id,
                        draft.body,
                        draft.body.get("target"),
                    ]
                    for draft, stored in ledger.stored
                ),
            )
            if ledger.mentions:
                self._mention(connection, ledger, room_ids, user_ids)
            if ledger.reacted:
                self._react(connection, ledger, room_ids, user_ids)
            if ledger.erased:
                gone = [[room_ids[room], seq] for room, seq in ledger.erased]
                connection.execute(
                    sql.erase_messages, _given([*message, ERASED] for message in gone)
                )
                connection.execute(
                    sql.erase_edits,
                    _given([*message, {"target": message[1], **ERASED}] for message in gone),
                )
                for statement in (sql.remove_all_reactions, sql.remove_all_tallies):
                    connection.execute(statement, _given(gone))
                self._unlearn(connection, [[room_id, seq, seq] for room_id, seq in gone])
            connection.execute(
                sql.set_heads,
                _given(
                    [room_ids[name], state.head, state.messages]
                    for name, state in ledger.heads.items()
                ),
            )
            standing = [
                [room_ids[room], user_ids[user], kept.role, kept.read, kept.read_messages]
                for (room, user), kept in ledger.changed.items()
                if kept is not None
            ]
            if standing:
                connection.execute(sql.set_members, _given(standing))
            ended = [
                [room_ids[room], user_ids[user]]
                for (room, user), kept in ledger.changed.items()
                if kept is None
            ]
            if ended:
                connection.execute(sql.remove_members, _given(ended))
            if ledger.restrained:
                restrained = [
                    [room_ids[room], user_ids[user], *_restraint_row(restraint)]
                    for (room, user), restraint in ledger.restrained.items()
                ]
                connection.execute(sql.set_restraints, _given(restrained))
            if ledger.updates:
                updated = [
                    [room_ids[room], *map(fields.get, CHANGEABLE)]
                    for room, fields in ledger.updates.items()
                ]
                connection.execute(sql.update_rooms, _given(updated))
            if ledger.used:
                connection.execute(
                    sql.add_txns,
                    _given(
                        [
                            room_ids[room],
                            user_ids[user],
                            txn_id,
                            txn.seq,
                            milliseconds(txn.timestamp),
                            txn.fingerprint,
                        ]
                        for (room, user, txn_id), txn in ledger.used.items()
                    ),
                )
            try:
                connection.commit()
            except self._dialect.error as error:
                raise OutcomeUnknown(outcomes, self._dialect.explain(error)) from error
            return outcomes

    def _mention(
        self,
        connection: Connection,
        ledger: Ledger,
        room_ids: Mapping[str, int],
        user_ids: Mapping[str, int],
    ) -> None:
        """Store whom messages mention now, and nobody else."""
        named = [(room_ids[room], seq, names) for (room, seq), names in ledger.mentions.items()]
        connection.execute(
            self._sql.remove_mentions, _given([room_id, seq] for room_id, seq, _ in named)
        )
        connection.execute(
            self._sql.add_mentions,
            _given(
                [user_ids[name], room_id, seq] for room_id, seq, names in named for name in names
            ),
        )

    def _react(
        self,
        connection: Connection,
        ledger: Ledger,
        room_ids: Mapping[str, int],
        user_ids: Mapping[str, int],
    ) -> None:
        """Store what a batch has changed of reactions."""
        sql = self._sql
        reacted = [
            [room_ids[room], target, user_ids[user], emoji, seq]
            for (room, target, user, emoji), seq in ledger.reacted.items()
        ]
        counted = [
            [room_ids[room], target, emoji, count]
            for (room, target, emoji), count in ledger.tallies.items()
        ]
        connection.execute(sql.remove_reactions, _given(row for row in reacted if not row[-1]))
        connection.execute(sql.remove_tallies, _given(row for row in counted if not row[-1]))
        connection.execute(sql.set_reactions, _given(row for row in reacted if row[-1]))
        connection.execute(sql.set_tallies, _given(row for row in counted if row[-1]))

    def _load(
        self, connection: Connection, drafts: Sequence[Draft]
    ) -> tuple[Ledger, dict[str, int], dict[str, int]]:
        about = touched(drafts)
        given: _Given = {
            "rooms": [[name] for name in about.rooms],
            "people": [*about.people],
            "txns": [*about.txns],
        }
        more: _Given = {
            "limited": [[username] for username in about.limited],
            "owned": [[name] for name in about.owned],
            "targets": [*about.targets, *about.reactions],
            "sanctioned": [*about.sanctioned],
        }
        found_roles: list[list[Any]] = []
        found_owners: list[list[Any]] = []
        found_targets: list[list[Any]] = []
        found_sanctions: list[list[Any]] = []
        if any(more.values()):
            found_rooms, found_users, found_txns, *rest = _loaded(
                connection, self._sql.load, {**given, **more}
            )
            found_roles, found_owners, found_targets, found_sanctions = rest
        else:
            found_rooms, found_users, found_txns = _loaded(connection, self._sql.load_some, given)
        roles: dict[str, dict[str, str]] = {username: {} for username in about.limited}
        for username, room, role in found_roles:
            roles[username][room] = role
        owners: dict[str, set[str]] = {name: set() for name in about.owned}
        for room, username in found_owners:
            owners[room].add(username)
        ledger = Ledger(
            rooms={name: RoomState(*state) for name, _, *state in found_rooms},
            users={username for _, username, *_ in found_users},
            inactive={
                username: status for _, username, _, status, *_ in found_users if status != "active"
            },
            standings={
                (room, username): Standing(role, read, read_messages)
                for room, username, _, _, role, read, read_messages, *_ in found_users
                if role is not None
            },
            restraints={
                (room, username): _restraint(row)
                for room, username, _, _, _, _, _, *row in found_users
                if row[-1] is not None
            },
            owners=owners,
            txns={
                (room, username, txn_id): Txn(seq, moment(timestamp), fingerprint)
                for room, username, txn_id, seq, timestamp, fingerprint in found_txns
            },
            roles=roles,
            targets={
                **dict.fromkeys(about.messages),
                **{(room, seq): _target(row) for room, seq, *row in found_targets},
            },
            reactions={
                (room, seq, reactor, emoji): Duplicate(added, moment(when))
                for room, seq, *_, reactor, emoji, added, when in found_targets
                if added is not None
            },
            sanctions={
                (room, event.seq): event
                for room, told in found_sanctions
                for event in events_of(room, told)
                if isinstance(event, Member)
            },
        )
        room_ids = {name: room_id for name, room_id, *_ in found_rooms}
        user_ids = {username: user_id for _, username, user_id, *_ in found_users}
        return ledger, room_ids, user_ids

    def stored(self, drafts: Sequence[Draft], outcomes: Sequence[Outcome]) -> Sequence[bool]:
        pairs = list(zip(drafts, outcomes, strict=True))
        wanted = [
            [draft.room.name, outcome.event.seq, draft.id]
            for draft, outcome in pairs
            if isinstance(outcome, Stored)
        ]
        with self._dialect.reading() as connection:
            held = {
                draft_id for (draft_id,) in connection.taken(self._sql.load_drafts, _given(wanted))
            }
        return [not isinstance(outcome, Stored) or draft.id in held for draft, outcome in pairs]

    def add_room(self, room: Room) -> bool:
        with self._dialect.writing() as connection:
            added = connection.execute(self._sql.add_rooms, _given([_room_row(room)]))
            connection.commit()
            return added > 0

    def room(self, name: str) -> Room | None:
        with self._dialect.reading() as connection:
            row = connection.row(self._sql.room, {"name": name})
            return _room(row) if row else None

    def head(self, room: str, tail: int) -> tuple[int, int, Sequence[Durable]]:
        with self._dialect.reading() as connection:
            first, head = connection.row(self._sql.head, {"room": room})
            newest = self._read(connection, room, head - tail, head, tail) if tail else []
            return first, head, newest

    def foreign_heads(self, rooms: Sequence[str]) -> Mapping[str, int] | None:
        # Remembered until the heads are read: the dialect tells of a change once.
        self._unread = self._dialect.written_by_others() or self._unread
        if not self._unread:
            return None
        given: _Given = {
            "rooms": [[name] for name in rooms],
            "people": [],
            "txns": [],
        }
        with self._dialect.reading() as connection:
            found, *_ = _loaded(connection, self._sql.load_some, given)
        self._unread = False
        return {name: head for name, _, _, _, _, head, *_ in found}

    def read(self, room: str, after: int, upto: int, limit: int) -> Sequence[Durable]:
        with self._dialect.reading() as connection:
            return self._read(connection, room, after, upto, limit)

    def _read(
        self, connection: Connection, room: str, after: int, upto: int, limit: int
    ) -> list[Durable]:
        window = {"room": room, "after": after, "before": upto + 1, "limit": limit}
        return events_of(room, connection.taken(self._sql.read, window))

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
        window = {"room": room, "after": after, "before": before, "limit": limit}
        window |= {"upto": upto, "username": reader}
        statement = self._sql.newest_messages if newest else self._sql.oldest_messages
        with self._dialect.reading() as connection:
            found = connection.taken(statement, window)
        pairs = [as_it_is(room, row, reader) for row in sorted(found)]
        messages, edits = [message for message, _ in pairs], [edit for _, edit in pairs]
        return [*messages, *filter(None, edits)]

    def events(
        self, room: str, kinds: Sequence[str], after: int, before: int, limit: int, *, newest: bool
    ) -> Sequence[Durable]:
        window = {"room": room, "after": after, "before": before, "limit": limit}
        statement = self._sql.newest_events if newest else self._sql.oldest_events
        with self._dialect.reading() as connection:
            each = _given([kind] for kind in dict.fromkeys(kinds))
            found = connection.taken(statement, {**window, **each})
        merged = events_of(room, [event for (of_a_kind,) in found for event in of_a_kind])
        return merged[max(0, len(merged) - limit) :] if newest else merged[:limit]

    # Who is in which room.

    def rooms(self, username: str, after: str, limit: int) -> Sequence[Listed]:
        page = {"username": username, "after": after, "limit": limit}
        with self._dialect.reading() as connection:
            found = connection.taken(self._sql.rooms, page)
        return [Listed(**asdict(_room(described)), role=role) for *described, role in sorted(found)]

    def place(self, room: str, username: str) -> tuple[str | None, Restraint | None]:
        with self._dialect.reading() as connection:
            row = connection.row(self._sql.place, {"room": room, "username": username})
        if row is None:
            return None, None
        role, *restraint = row
        return role, _restraint(restraint) if restraint[-1] is not None else None

    def membership(self, room: str, username: str, upto: int | None = None) -> Membership | None:
        with self._dialect.reading() as connection:
            row = connection.row(
                self._sql.membership, {"room": room, "username": username, "upto": upto}
            )
        return _membership(row) if row else None

    def memberships(self, username: str) -> Sequence[Membership]:
        with self._dialect.reading() as connection:
            found = connection.taken(self._sql.memberships, {"username": username, "upto": None})
        return [_membership(row) for row in sorted(found)]

    def members(self, room: str, after: str, limit: int) -> Sequence[MemberItem]:
        page = {"room": room, "after": after, "limit": limit}
        with self._dialect.reading() as connection:
            found = connection.taken(self._sql.members, page)
        return [
            MemberItem(name, shown, role, bool(bot)) for name, shown, role, bot in sorted(found)
        ]

    def mark_read(self, marks: Mapping[tuple[str, str], int]) -> Mapping[tuple[str, str], Marked]:
        wanted = [[room, username, seq] for (room, username), seq in marks.items()]
        marked, moved = {}, []
        with self._dialect.writing() as connection:
            for room, username, *row in connection.taken(self._sql.load_marks, _given(wanted)):
                room_id, user_id, role, read, read_messages, seq, at, head, messages, *more = row
                moves = seq > read and at is not None
                if moves:
                    read, read_messages = seq, at
                    moved.append([room_id, user_id, role, read, read_messages])
                unread = max(0, messages - read_messages)
                mentioned, other = more
                marked[room, username] = Marked(read, unread, mentioned, head, moves, other)
            if moved:
                connection.execute(self._sql.set_members, _given(moved))
                connection.commit()
        return marked

    # What moderators are told.

    def report(self, room: str, seq: int, username: str, reason: str, now: datetime) -> bool:
        with self._dialect.writing() as connection:
            found = connection.taken(self._sql.load_target, _given([[room, seq]], "targets"))
            account = self._user(connection, username)
            if not found or found[0][3] is not None or account is None:
                return False
            if account.status != "active":
                return False
            report = [room, seq, username, reason, milliseconds(now)]
            connection.execute(self._sql.add_report, _given([report]))
            connection.commit()
        return True

    def reports(self, room: str, after: int, limit: int) -> Sequence[ReportItem]:
        page = {"room": room, "after": after, "limit": limit}
        with self._dialect.reading() as connection:
            found = connection.taken(self._sql.reports, page)
        return [
            ReportItem(number, seq, whose, reason, moment(at))
            for number, seq, whose, reason, at in sorted(found)
        ]

    def reported(self, after: str, limit: int) -> Sequence[str]:
        with self._dialect.reading() as connection:
            found = connection.taken(self._sql.reported, {"after": after, "limit": limit})
        return sorted(name for (name,) in found)

    def bans(self, room: str, after: str, limit: int, now: datetime) -> Sequence[BanItem]:
        page = {"room": room, "after": after, "limit": limit, "now": milliseconds(now)}
        with self._dialect.reading() as connection:
            found = connection.taken(self._sql.bans, page)
        return [
            BanItem.of(
                name,
                _restraint([banned, muted, None, ban, mute, False]),
                events_of(room, told),
                now,
            )
            for name, banned, muted, ban, mute, told in sorted(found)
        ]

    # Accounts.

    def add_user(self, user: User, password_hash: str | None) -> bool:
        row = [
            user.username,
            password_hash,
            user.display_name,
            skeleton(user.username),
            time.time_ns() // 1_000_000,
            user.bot,
        ]
        with self._dialect.writing() as connection:
            added = connection.execute(self._sql.add_users, _given([row]))
            connection.commit()
            return added > 0

    def set_password(
        self, username: str, password_hash: str, *, revoke: bool = False, keep: bytes | None = None
    ) -> None:
        sql = self._sql
        with self._dialect.writing() as connection:
            changed = connection.execute(
                sql.set_password, {"whose": username, "new": password_hash}
            )
            if changed and revoke:
                kept = {"username": username, "keep": keep or b""}
                connection.execute(sql.remove_other_tokens, kept)
            connection.commit()

    def set_profile(self, user: User) -> bool:
        changed = {"display_name": user.display_name, "bot": user.bot}
        return self._write(self._sql.set_profile, {"whose": user.username, **changed}) > 0

    def user(self, username: str) -> Account | None:
        with self._dialect.reading() as connection:
            return self._user(connection, username)

    def _user(self, connection: Connection, username: str) -> Account | None:
        row = connection.row(self._sql.user, {"username": username})
        return _account(row) if row else None

    def users(self, after: str, limit: int) -> Sequence[Account]:
        page = {"after": after, "limit": limit}
        with self._dialect.reading() as connection:
            found = connection.taken(self._sql.users, page)
        return [_account(row) for row in sorted(found)]

    def disable(self, username: str) -> bool:
        sql = self._sql
        with self._dialect.writing() as connection:
            changed = {"whose": username, "before": "active", "after": "disabled"}
            disabled = connection.execute(sql.set_status, changed)
            if disabled:
                connection.execute(sql.remove_tokens, {"username": username})
            connection.commit()
            return disabled > 0

    def enable(self, username: str) -> bool:
        changed = {"whose": username, "before": "disabled", "after": "active"}
        return self._write(self._sql.set_status, changed) > 0

    def add_token(self, digest: bytes, username: str, expires: datetime, now: datetime) -> bool:
        token = {"digest": digest, "username": username, "expires": milliseconds(expires)}
        with self._dialect.writing() as connection:
            expired = {"username": username, "now": milliseconds(now)}
            connection.execute(self._sql.remove_expired, expired)
            added = connection.execute(self._sql.add_token, token)
            connection.commit()
            return added > 0

    def token(self, digest: bytes, now: datetime) -> tuple[User, datetime] | None:
        with self._dialect.reading() as connection:
            row = connection.row(self._sql.token, {"digest": digest, "now": milliseconds(now)})
        if row is None:
            return None
        name, display_name, bot, expires = row
        return User(name, display_name, bool(bot)), moment(expires)

    def tokens(self, username: str) -> Sequence[datetime]:
        with self._dialect.reading() as connection:
            found = connection.taken(self._sql.tokens, {"username": username})
        return [moment(expires) for (expires,) in sorted(found)]

    def logins(self, usernames: Sequence[str]) -> Mapping[str, Collection[bytes]]:
        found: dict[str, set[bytes]] = {}
        with self._dialect.reading() as connection:
            rows = connection.taken(self._sql.logins, _given([name] for name in usernames))
        for username, digest in rows:
            digests = found.setdefault(username, set())
            if digest:  # none, or of nothing
                digests.add(bytes.fromhex(digest))
        return found

    def remove_token(self, digest: bytes) -> None:
        self._write(self._sql.remove_token, {"digest": digest})

    def remove_tokens(self, username: str) -> None:
        self._write(self._sql.remove_tokens, {"username": username})

    # An account's end.

    def close_account(self, username: str, closing: Closing) -> Account | None:
        sql = self._sql
        with self._dialect.writing() as connection:
            account = self._user(connection, username)
            if account is None:
                return None
            account = account.closed(closing)
            left = {"display_name": account.user.display_name, "closing": account.closing}
            connection.execute(sql.close_account, {"whose": username, **left})
            connection.execute(sql.remove_tokens, {"username": username})
            connection.commit()
            return account

    def closing_accounts(self) -> Sequence[Account]:
        with self._dialect.reading() as connection:
            found = connection.taken(self._sql.closing_accounts)
        return [_account(row) for row in sorted(found)]

    def account_closed(self, username: str, closing: Closing) -> None:
        with self._dialect.writing() as connection:
            connection.execute(self._sql.account_closed, {"whose": username, "asked": closing})
            connection.execute(self._sql.note_erasure)
            connection.commit()

    def said(self, username: str, after: int, limit: int) -> tuple[Sequence[Durable], int | None]:
        window = {"username": username, "after": after, "upto": after + WINDOW, "limit": limit}
        with self._dialect.reading() as connection:
            rows, newest = connection.row(self._sql.said, window)
        found = sorted(orjson.loads(rows))
        if len(found) == limit:
            next_ = found[-1][0]
        else:
            next_ = after + WINDOW if after + WINDOW < newest else None
        events_ = [
            DURABLE[kind](room, seq, sender, moment(timestamp), **body)
            for _, room, seq, sender, kind, timestamp, body in found
        ]
        return events_, next_

    def redact(self, events: Sequence[Durable]) -> None:
        self._write(self._sql.redact, _given([event.room, event.seq] for event in events))

    def reports_of(self, username: str) -> Sequence[tuple[str, ReportItem]]:
        with self._dialect.reading() as connection:
            found = connection.taken(self._sql.reports_of, {"username": username})
        return [
            (room, ReportItem(number, seq, whose, reason, moment(at)))
            for room, number, seq, whose, reason, at in sorted(found)
        ]

    def redact_reports(self, username: str) -> None:
        self._write(self._sql.redact_reports, {"username": username})

    def lift_restraints(self, username: str) -> None:
        self._write(self._sql.lift_restraints, {"username": username})

    def forget_txns(self, username: str, limit: int) -> bool:
        some = {"username": username, "limit": limit}
        return self._write(self._sql.forget_txns, some) == limit

    def _write(self, statement: sa.Executable, parameters: Mapping[str, object]) -> int:
        """Run one statement in a transaction, and return how many rows it changed."""
        with self._dialect.writing() as connection:
            changed = connection.execute(statement, parameters)
            connection.commit()
            return changed


def _loaded(
    connection: Connection, statement: sa.Executable, given: _Given
) -> list[list[list[Any]]]:
    parameters = {name: orjson.dumps(rows).decode() for name, rows in given.items()}
    return [orjson.loads(rows) for rows in connection.row(statement, parameters)]


def _room_row(room: Room) -> list[object]:
    return [room.name, skeleton(room.name), room.kind, room.title, room.topic, room.epoch]


def _membership(row: Sequence[Any]) -> Membership:
    *described, role, first, head, read, unread, mentions = row
    room = _room(described)
    return Membership(room, role, room.epoch, first, head, read, max(0, unread), mentions)


def _target(row: Sequence[Any]) -> Target:
    sender, deleted_by, deleted, at, tallies, *_ = row
    deletion = Duplicate(deleted_by, moment(deleted)) if deleted_by is not None else None
    return Target(sender, moment(at), deletion, dict(tallies))


def _room(row: Sequence[Any]) -> Room:
    name, kind, title, topic, epoch, slow_mode, archived, retention_days = row
    return Room(name, kind, title, topic, epoch, slow_mode, bool(archived), retention_days)


def _restraint(row: Sequence[Any]) -> Restraint:
    *moments, ban, mute, reader = row
    banned, muted, spoke = (None if each is None else moment(each) for each in moments)
    return Restraint(banned, muted, spoke, bool(reader), ban, mute)


def _restraint_row(restraint: Restraint) -> list[object]:
    moments = (restraint.banned, restraint.muted, restraint.spoke)
    held = [each and milliseconds(each) for each in moments]
    return [*held, restraint.ban, restraint.mute, restraint.reader]


def _account(row: Sequence[Any]) -> Account:
    username, display_name, bot, password_hash, status, closing = row
    return Account(
        user=User(username, display_name, bool(bot)),
        password_hash=password_hash,
        status=status,
        closing=closing,
    )
