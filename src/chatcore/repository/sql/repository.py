"""SqlRepository: the log and the accounts on SQLAlchemy Core, for any database's dialect.

A batch is a constant number of statements, and every statement takes its rows as one
JSON parameter and gives its rows as one JSON value.  The sqlite3 module gives up the
interpreter lock at each row it steps over, and beside a busy event loop each time
waits for the switch interval: a row at a time is a hundred rows a second.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import orjson
import sqlalchemy as sa
from attrs import evolve

from chatcore import folding
from chatcore.errors import OutcomeUnknown
from chatcore.events import (
    DURABLE,
    Duplicate,
    Durable,
    Edit,
    Marked,
    MemberItem,
    Message,
    Reaction,
    ReportItem,
    Stored,
    Tally,
)
from chatcore.folding import ERASED, ranked
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
from chatcore.ports import Outcome
from chatcore.repository.ledger import Ledger, RoomState, Standing, Target, Txn, touched
from chatcore.repository.sql.dialect import Connection, Dialect
from chatcore.repository.sql.schema import (
    events,
    members,
    mentions,
    reactions,
    reports,
    restraints,
    rooms,
    tallies,
    tokens,
    txns,
    users,
)


def milliseconds(moment: datetime) -> int:
    past = moment - _EPOCH  # whose parts are integers, which a division of it is slow to find
    return (past.days * 86_400 + past.seconds) * 1_000 + past.microseconds // 1_000


def moment(milliseconds: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=milliseconds)


_Given: TypeAlias = dict[str, list[Any]]
"""Rows for each parameter of a statement that takes more than one."""

WINDOW = 20_000
"""Events that are looked at, at most, to find some that one user sent: there is no index."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class SqlRepository:
    """All of a Repository but its life: a dialect's own class opens, claims and closes it."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._sql = _Statements(dialect)
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
                    [room_ids[room], *map(fields.get, ("title", "topic", "slow_mode", "archived"))]
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
        }
        found_roles: list[list[Any]] = []
        found_owners: list[list[Any]] = []
        found_targets: list[list[Any]] = []
        if any(more.values()):
            found_rooms, found_users, found_txns, found_roles, found_owners, found_targets = (
                _loaded(connection, self._sql.load, {**given, **more})
            )
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
            barred={username for _, username, _, status, *_ in found_users if status != "active"},
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
        return _events(room, connection.taken(self._sql.read, window))

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
        messages: list[Message] = []
        edits: list[Edit] = []
        for seq, sender, at, body, *edit, counts, mine, later in sorted(found):
            own = {emoji for (emoji,) in mine}
            now = ranked(Tally(emoji, count, emoji in own) for emoji, count in counts)
            message = Message(room, seq, sender, moment(at), **body, reactions=now)
            if later and not message.erased:
                reacted = [each for each in _events(room, later) if isinstance(each, Reaction)]
                message = evolve(message, reactions=folding.before(now, reacted, reader))
            messages.append(message)
            edit_seq, edit_at, edit_body = edit
            if edit_seq is not None:  # of who sent the message: nobody else may
                edits.append(Edit(room, edit_seq, sender, moment(edit_at), **edit_body))
        return [*messages, *edits]

    def events(
        self, room: str, kinds: Sequence[str], after: int, before: int, limit: int, *, newest: bool
    ) -> Sequence[Durable]:
        window = {"room": room, "after": after, "before": before, "limit": limit}
        statement = self._sql.newest_events if newest else self._sql.oldest_events
        with self._dialect.reading() as connection:
            found = connection.taken(statement, {**window, **_given([kind] for kind in kinds)})
        return _events(room, found)

    # Who is in which room.

    def rooms(self, username: str, after: str, limit: int) -> Sequence[Listed]:
        page = {"username": username, "after": after, "limit": limit}
        with self._dialect.reading() as connection:
            found = connection.taken(self._sql.rooms, page)
        return [
            Listed(name, kind, title, topic, epoch, slow_mode, bool(archived), role)
            for name, kind, title, topic, epoch, slow_mode, archived, role in sorted(found)
        ]

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
            if not found or found[0][3] is not None:
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

    def set_profile(self, user: User) -> None:
        changed = {"display_name": user.display_name, "bot": user.bot}
        self._write(self._sql.set_profile, {"whose": user.username, **changed})

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
        self._write(self._sql.account_closed, {"whose": username, "asked": closing})

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


def _given(rows: Any, by: str = "given") -> dict[str, str]:
    return {by: orjson.dumps(list(rows)).decode()}


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
    name, kind, title, topic, epoch, slow_mode, archived = row
    return Room(name, kind, title, topic, epoch, slow_mode, bool(archived))


def _restraint(row: Sequence[Any]) -> Restraint:
    *moments, reader = row
    banned, muted, spoke = (None if each is None else moment(each) for each in moments)
    return Restraint(banned, muted, spoke, bool(reader))


def _restraint_row(restraint: Restraint) -> list[object]:
    moments = (restraint.banned, restraint.muted, restraint.spoke)
    return [*(each and milliseconds(each) for each in moments), restraint.reader]


def _account(row: Sequence[Any]) -> Account:
    username, display_name, bot, password_hash, status, closing = row
    return Account(
        user=User(username, display_name, bool(bot)),
        password_hash=password_hash,
        status=status,
        closing=closing,
    )


def _events(room: str, found: list[list[Any]]) -> list[Durable]:
    return [
        DURABLE[kind](room, seq, sender, moment(timestamp), **body)
        for seq, kind, sender, timestamp, body in sorted(found)
    ]


class _Statements:
    """Every statement, built once."""

    def __init__(self, dialect: Dialect) -> None:
        given, taken = dialect.given, dialect.taken
        param = sa.bindparam
        room_id = sa.select(rooms.c.id).where(rooms.c.name == param("room")).scalar_subquery()
        user_id = (
            sa.select(users.c.id).where(users.c.username == param("username")).scalar_subquery()
        )

        row = given("name", "skeleton", "kind", "title", "topic", "epoch", "sender")
        given_room = [column for column in row.c if column.name != "sender"]
        empty = [sa.literal(n).label(name) for name, n in (("first", 1), ("head", 0))]
        room = sa.select(*given_room, *empty, sa.literal(0).label("messages"))
        self.add_rooms = dialect.insert_new(rooms, room)
        # A room that somebody makes is there only if they are.
        known = sa.exists().where(users.c.username == row.c.sender)
        self.create_rooms = dialect.insert_new(rooms, room.where(known))
        row = given("username", "password_hash", "display_name", "skeleton", "created", "bot")
        self.add_users = dialect.insert_new(users, sa.select(*row.c))

        # What a batch touches.
        row = given("name", by="rooms")
        load_rooms = taken(
            sa.select(
                rooms.c.name,
                rooms.c.id,
                rooms.c.epoch,
                rooms.c.kind,
                rooms.c.first,
                rooms.c.head,
                rooms.c.messages,
                rooms.c.slow_mode,
                rooms.c.archived,
            ).join_from(row, rooms, rooms.c.name == row.c.name)
        )
        restrained = (
            restraints.c.banned,
            restraints.c.muted,
            restraints.c.spoke,
            restraints.c.reader,
        )
        row = given("room", "username", by="people")
        load_standings = taken(
            sa.select(
                row.c.room,
                users.c.username,
                users.c.id,
                users.c.status,
                members.c.role,
                members.c.read,
                members.c.read_messages,
                *restrained,
            )
            .join_from(row, users, users.c.username == row.c.username)
            .outerjoin(rooms, rooms.c.name == row.c.room)
            .outerjoin(
                members,
                sa.and_(members.c.room_id == rooms.c.id, members.c.user_id == users.c.id),
            )
            .outerjoin(
                restraints,
                sa.and_(restraints.c.room_id == rooms.c.id, restraints.c.user_id == users.c.id),
            )
        )
        row = given("room", "username", "txn_id", by="txns")
        load_txns = taken(
            sa.select(
                row.c.room,
                row.c.username,
                txns.c.txn_id,
                txns.c.seq,
                txns.c.timestamp,
                txns.c.fingerprint,
            )
            .join_from(row, rooms, rooms.c.name == row.c.room)
            .join(users, users.c.username == row.c.username)
            .join(
                txns,
                sa.and_(
                    txns.c.room_id == rooms.c.id,
                    txns.c.user_id == users.c.id,
                    txns.c.txn_id == row.c.txn_id,
                ),
            )
        )
        row = given("username", by="limited")
        load_roles = taken(
            sa.select(row.c.username, rooms.c.name, members.c.role)
            .join_from(row, users, users.c.username == row.c.username)
            .join(members, members.c.user_id == users.c.id)
            .join(rooms, rooms.c.id == members.c.room_id)
        )
        row = given("name", by="owned")
        load_owners = taken(
            sa.select(row.c.name, users.c.username)
            .join_from(row, rooms, rooms.c.name == row.c.name)
            .join(
                members,
                # Spelled out, or the index of owners alone would not be taken for it.
                sa.and_(members.c.room_id == rooms.c.id, sa.text("members.role = 'owner'")),
            )
            .join(users, users.c.id == members.c.user_id)
        )
        deletions, added = events.alias("deletions"), events.alias("added")
        reactors = users.alias("reactors")
        row = given("room", "seq", "reactor", "emoji", by="targets")
        beside = (
            sa.select(tallies.c.emoji, tallies.c.count)
            .where(tallies.c.room_id == events.c.room_id, tallies.c.target == events.c.seq)
            .correlate(events)
        )
        self.load_target = load_targets = taken(
            sa.select(
                row.c.room,
                row.c.seq,
                users.c.username,
                deletions.c.seq.label("by"),
                deletions.c.timestamp.label("gone"),
                events.c.timestamp,
                dialect.listed(beside).label("beside"),
                row.c.reactor,
                row.c.emoji,
                added.c.seq.label("added"),
                added.c.timestamp.label("when"),
            )
            .join_from(row, rooms, rooms.c.name == row.c.room)
            .join(
                events,
                sa.and_(
                    events.c.room_id == rooms.c.id,
                    events.c.seq == row.c.seq,
                    events.c.kind == "message",
                ),
            )
            .join(users, users.c.id == events.c.sender_id)
            .outerjoin(
                deletions,
                sa.and_(
                    deletions.c.room_id == events.c.room_id,
                    deletions.c.target == events.c.seq,
                    deletions.c.kind == "delete",
                ),
            )
            .outerjoin(reactors, reactors.c.username == row.c.reactor)
            .outerjoin(
                reactions,
                sa.and_(
                    reactions.c.room_id == events.c.room_id,
                    reactions.c.target == events.c.seq,
                    reactions.c.user_id == reactors.c.id,
                    reactions.c.emoji == row.c.emoji,
                ),
            )
            .outerjoin(
                added,
                sa.and_(added.c.room_id == events.c.room_id, added.c.seq == reactions.c.seq),
            )
        )
        # One statement for all: most of what a lone send costs is each statement's own.  A batch
        # of nothing but messages, as most are, needs no more than some of it.
        self.load_some = sa.select(
            load_rooms.scalar_subquery().label("rooms"),
            load_standings.scalar_subquery().label("people"),
            load_txns.scalar_subquery().label("txns"),
        )
        self.load = self.load_some.add_columns(
            load_roles.scalar_subquery().label("limited"),
            load_owners.scalar_subquery().label("owned"),
            load_targets.scalar_subquery().label("targets"),
        )
        row = given("room", "seq", "draft")
        self.load_drafts = taken(
            sa.select(events.c.draft)
            .join_from(row, rooms, rooms.c.name == row.c.room)
            .join(
                events,
                sa.and_(
                    events.c.room_id == rooms.c.id,
                    events.c.seq == row.c.seq,
                    events.c.draft == row.c.draft,
                ),
            )
        )

        # What a batch writes.
        row = given(
            "room_id",
            "seq",
            "kind",
            "sender_id",
            "timestamp",
            "messages",
            "draft",
            "body",
            "target",
        )
        self.add_events = sa.insert(events).from_select(list(row.c.keys()), sa.select(*row.c))
        row = given("room_id", "seq", "body")
        erase = sa.update(events).values(body=row.c.body).where(events.c.room_id == row.c.room_id)
        self.erase_messages = erase.where(events.c.seq == row.c.seq)
        self.erase_edits = erase.where(events.c.target == row.c.seq, events.c.kind == "edit")
        row = given("user_id", "room_id", "seq")
        self.add_mentions = sa.insert(mentions).from_select(list(row.c.keys()), sa.select(*row.c))
        self.remove_mentions = _delete(mentions, given("room_id", "seq"))
        row = given("room_id", "target", "user_id", "emoji", "seq")
        self.set_reactions = dialect.upsert(reactions, sa.select(*row.c))
        self.remove_reactions = _delete(reactions, row)
        row = given("room_id", "target", "emoji", "count")
        self.set_tallies = dialect.upsert(tallies, sa.select(*row.c))
        self.remove_tallies = _delete(tallies, row)
        row = given("room_id", "target")
        self.remove_all_reactions = _delete(reactions, row)
        self.remove_all_tallies = _delete(tallies, row)
        row = given("id", "head", "messages")
        self.set_heads = (
            sa.update(rooms)
            .values(head=row.c.head, messages=row.c.messages)
            .where(rooms.c.id == row.c.id)
        )
        row = given("room_id", "user_id", "role", "read", "read_messages")
        self.set_members = dialect.upsert(members, sa.select(*row.c))
        self.remove_members = _delete(members, given("room_id", "user_id"))
        row = given("room_id", "user_id", "banned", "muted", "spoke", "reader")
        self.set_restraints = dialect.upsert(restraints, sa.select(*row.c))
        row = given("id", "title", "topic", "slow_mode", "archived")
        self.update_rooms = (
            sa.update(rooms)
            .values(
                {
                    name: sa.func.coalesce(row.c[name], rooms.c[name])
                    for name in ("title", "topic", "slow_mode", "archived")
                }
            )
            .where(rooms.c.id == row.c.id)
        )
        row = given("id")
        self.remove_rooms = sa.delete(rooms).where(rooms.c.id.in_(sa.select(row.c.id)))
        row = given("room_id", "user_id", "txn_id", "seq", "timestamp", "fingerprint")
        self.add_txns = sa.insert(txns).from_select(list(row.c.keys()), sa.select(*row.c))

        # Pages of the log.
        window = (
            _event_rows(events)
            .where(
                events.c.room_id == room_id,
                events.c.seq > param("after"),
                events.c.seq < param("before"),
            )
            .limit(param("limit"))
        )
        oldest, newest = window.order_by(events.c.seq), window.order_by(events.c.seq.desc())
        self.read = taken(oldest)
        self.oldest_messages = taken(_as_they_are(dialect, oldest, user_id))
        self.newest_messages = taken(_as_they_are(dialect, newest, user_id))
        row = given("kind")
        # Spelled out, or the index of what is no message would not be taken for it.
        others = window.where(
            sa.text("events.kind <> 'message'"), events.c.kind.in_(sa.select(row.c.kind))
        )
        self.oldest_events = taken(others.order_by(events.c.seq))
        self.newest_events = taken(others.order_by(events.c.seq.desc()))
        self.head = sa.select(rooms.c.first, rooms.c.head).where(rooms.c.name == param("room"))

        # Rooms and who is in them.
        described = (
            rooms.c.name,
            rooms.c.kind,
            rooms.c.title,
            rooms.c.topic,
            rooms.c.epoch,
            rooms.c.slow_mode,
            rooms.c.archived,
        )
        self.room = sa.select(*described).where(rooms.c.name == param("name"))
        mine = sa.and_(members.c.room_id == rooms.c.id, members.c.user_id == user_id)
        self.rooms = taken(
            sa.select(*described, members.c.role)
            .outerjoin_from(rooms, members, mine)
            .where(
                rooms.c.name > param("after"),
                sa.or_(rooms.c.kind == "public", members.c.role.is_not(None)),
            )
            .order_by(rooms.c.name)
            .limit(param("limit"))
        )
        upto = sa.func.coalesce(param("upto", type_=sa.BigInteger), rooms.c.head)
        at = events.alias("at")
        counted = (
            sa.select(at.c.messages)
            .where(at.c.room_id == rooms.c.id, at.c.seq == upto)
            .scalar_subquery()
        )
        standing = (
            sa.select(
                *described,
                members.c.role,
                rooms.c.first,
                upto.label("head"),
                members.c.read,
                (sa.func.coalesce(counted, 0) - members.c.read_messages).label("unread"),
                _mentioned(after=members.c.read, upto=upto).label("mentioned"),
            )
            .join_from(members, rooms, rooms.c.id == members.c.room_id)
            .where(members.c.user_id == user_id)
        )
        self.membership = standing.where(rooms.c.name == param("room"))
        self.memberships = taken(standing)
        marked, fellows, them = given("room", "username", "seq"), members.alias(), users.alias()
        seq = sa.case((marked.c.seq < rooms.c.head, marked.c.seq), else_=rooms.c.head)
        read_there = (
            sa.select(at.c.messages).where(at.c.room_id == rooms.c.id, at.c.seq == seq)
        ).scalar_subquery()
        other = (
            sa.select(them.c.username)
            .join_from(fellows, them, them.c.id == fellows.c.user_id)
            .where(fellows.c.room_id == rooms.c.id, fellows.c.user_id != members.c.user_id)
            .limit(1)
            .scalar_subquery()
        )
        self.load_marks = taken(
            sa.select(
                marked.c.room,
                marked.c.username,
                rooms.c.id,
                users.c.id.label("user_id"),
                members.c.role,
                members.c.read,
                members.c.read_messages,
                seq.label("seq"),
                read_there.label("at"),
                rooms.c.head,
                rooms.c.messages,
                _mentioned(
                    after=sa.case((seq > members.c.read, seq), else_=members.c.read),
                    upto=rooms.c.head,
                ).label("mentioned"),
                sa.case((rooms.c.kind == "direct", other)).label("other"),
            )
            .join_from(marked, rooms, rooms.c.name == marked.c.room)
            .join(users, users.c.username == marked.c.username)
            .join(
                members,
                sa.and_(members.c.room_id == rooms.c.id, members.c.user_id == users.c.id),
            )
            .where(members.c.role != INVITED)
        )
        self.members = taken(
            sa.select(users.c.username, users.c.display_name, members.c.role, users.c.bot)
            .join_from(members, users, users.c.id == members.c.user_id)
            .where(
                members.c.room_id == room_id,
                members.c.role != INVITED,
                users.c.username > param("after"),
            )
            .order_by(users.c.username)
            .limit(param("limit"))
        )
        self.place = (
            sa.select(members.c.role, *restrained)
            .join_from(rooms, users, users.c.username == param("username"))
            .outerjoin(
                members,
                sa.and_(members.c.room_id == rooms.c.id, members.c.user_id == users.c.id),
            )
            .outerjoin(
                restraints,
                sa.and_(restraints.c.room_id == rooms.c.id, restraints.c.user_id == users.c.id),
            )
            .where(rooms.c.name == param("room"))
        )

        # Reports.
        row = given("room", "seq", "username", "reason", "timestamp")
        newest_report = (
            sa.select(sa.func.max(reports.c.number))
            .where(reports.c.room_id == rooms.c.id)
            .scalar_subquery()
        )
        self.add_report = dialect.insert_new(
            reports,
            sa.select(
                rooms.c.id.label("room_id"),
                (sa.func.coalesce(newest_report, 0) + 1).label("number"),
                row.c.seq,
                users.c.id.label("user_id"),
                row.c.reason,
                row.c.timestamp,
            )
            .join_from(row, rooms, rooms.c.name == row.c.room)
            .join(users, sa.and_(users.c.username == row.c.username, users.c.status == "active")),
        )
        self.reports = taken(
            sa.select(
                reports.c.number,
                reports.c.seq,
                users.c.username,
                reports.c.reason,
                reports.c.timestamp,
            )
            .join_from(reports, users, users.c.id == reports.c.user_id)
            .where(reports.c.room_id == room_id, reports.c.number > param("after"))
            .order_by(reports.c.number)
            .limit(param("limit"))
        )

        # Accounts.
        account = sa.select(
            users.c.username,
            users.c.display_name,
            users.c.bot,
            users.c.password_hash,
            users.c.status,
            users.c.closing,
        )
        self.user = account.where(users.c.username == param("username"))
        self.users = taken(
            account.where(users.c.username > param("after"))
            .order_by(users.c.username)
            .limit(param("limit"))
        )
        change = sa.update(users).where(users.c.username == param("whose"))
        alive = change.where(users.c.status != "deleted")
        self.set_password = alive.values(password_hash=param("new"))
        self.set_profile = alive.values(display_name=param("display_name"), bot=param("bot"))
        self.set_status = change.where(users.c.status == param("before")).values(
            status=param("after")
        )
        self.close_account = change.values(
            status="deleted",
            password_hash=None,
            display_name=param("display_name"),
            closing=param("closing"),
        )
        self.closing_accounts = taken(account.where(users.c.closing.is_not(None)))
        self.account_closed = change.where(users.c.closing == param("asked")).values(closing=None)
        self.add_token = sa.insert(tokens).from_select(
            ["digest", "user_id", "expires"],
            sa.select(
                param("digest", type_=sa.LargeBinary),
                users.c.id,
                param("expires", type_=sa.BigInteger),
            ).where(users.c.username == param("username"), users.c.status == "active"),
        )
        self.token = (
            sa.select(users.c.username, users.c.display_name, users.c.bot, tokens.c.expires)
            .join_from(tokens, users, users.c.id == tokens.c.user_id)
            .where(tokens.c.digest == param("digest"), tokens.c.expires > param("now"))
        )
        self.tokens = taken(sa.select(tokens.c.expires).where(tokens.c.user_id == user_id))
        row = given("username")
        self.logins = taken(
            sa.select(users.c.username, dialect.hex(tokens.c.digest).label("digest"))
            .join_from(row, users, users.c.username == row.c.username)
            .outerjoin(tokens, tokens.c.user_id == users.c.id)
            .where(users.c.status == "active")
        )
        self.remove_token = sa.delete(tokens).where(tokens.c.digest == param("digest"))
        self.remove_tokens = sa.delete(tokens).where(tokens.c.user_id == user_id)
        self.remove_expired = self.remove_tokens.where(tokens.c.expires <= param("now"))
        self.remove_other_tokens = self.remove_tokens.where(tokens.c.digest != param("keep"))

        # What somebody said, and what else there is of them.
        said = taken(
            sa.select(
                events.c.id,
                rooms.c.name,
                events.c.seq,
                users.c.username,
                events.c.kind,
                events.c.timestamp,
                sa.type_coerce(events.c.body, sa.JSON).label("body"),
            )
            .join_from(events, rooms, rooms.c.id == events.c.room_id)
            .join(users, users.c.id == events.c.sender_id)
            .where(
                events.c.id > param("after"),
                events.c.id <= param("upto"),
                sa.or_(
                    events.c.sender_id == user_id,
                    sa.and_(
                        events.c.kind == "member",
                        dialect.text(events.c.body, "username") == param("username"),
                    ),
                ),
            )
            .order_by(events.c.id)
            .limit(param("limit"))
        )
        newest_id = sa.select(sa.func.coalesce(sa.func.max(events.c.id), 0))
        self.said = sa.select(
            said.scalar_subquery().label("said"), newest_id.scalar_subquery().label("newest")
        )
        row = given("room", "seq")
        self.redact = (
            sa.update(events)
            .values(body=dialect.without(events.c.body, "reason"))
            .where(
                rooms.c.name == row.c.room,
                events.c.room_id == rooms.c.id,
                events.c.seq == row.c.seq,
            )
        )
        theirs = sa.or_(
            reports.c.user_id == user_id,
            sa.exists().where(
                events.c.room_id == reports.c.room_id,
                events.c.seq == reports.c.seq,
                events.c.sender_id == user_id,
            ),
        )
        self.reports_of = taken(
            sa.select(
                rooms.c.name,
                reports.c.number,
                reports.c.seq,
                users.c.username,
                reports.c.reason,
                reports.c.timestamp,
            )
            .join_from(reports, rooms, rooms.c.id == reports.c.room_id)
            .join(users, users.c.id == reports.c.user_id)
            .where(theirs)
        )
        self.redact_reports = sa.update(reports).values(reason="").where(theirs)
        self.lift_restraints = sa.delete(restraints).where(restraints.c.user_id == user_id)
        some = (
            sa.select(txns.c.room_id, txns.c.user_id, txns.c.txn_id)
            .join_from(rooms, txns, txns.c.room_id == rooms.c.id)
            .where(txns.c.user_id == user_id)
            .limit(param("limit"))
        )
        self.forget_txns = sa.delete(txns).where(
            sa.tuple_(txns.c.room_id, txns.c.user_id, txns.c.txn_id).in_(some)
        )


def _mentioned(
    *, after: sa.ColumnElement[int], upto: sa.ColumnElement[int]
) -> sa.ScalarSelect[int]:
    """Count the messages of a room that mention one of its members: an index has those alone."""
    return (
        sa.select(sa.func.count())
        .select_from(mentions)
        .where(
            mentions.c.user_id == members.c.user_id,
            mentions.c.room_id == rooms.c.id,
            mentions.c.seq > after,
            mentions.c.seq <= upto,
        )
        .correlate_except(mentions)
        .scalar_subquery()
    )


def _event_rows(log: Any) -> sa.Select[Any]:  # the events, under whatever name
    """Select what `_events` makes events of."""
    return sa.select(
        log.c.seq,
        log.c.kind,
        users.c.username,
        log.c.timestamp,
        sa.type_coerce(log.c.body, sa.JSON).label("body"),
    ).join_from(log, users, users.c.id == log.c.sender_id)


def _delete(table: sa.Table, row: sa.Subquery) -> sa.Delete:
    """Delete what has the given values in those of its key's columns that are given."""
    columns = [column for column in table.primary_key if column.name in row.c]
    values = [row.c[column.name] for column in columns]
    return sa.delete(table).where(sa.tuple_(*columns).in_(sa.select(*values)))


def _as_they_are(
    dialect: Dialect, page: sa.Select[Any], user_id: sa.ColumnElement[int]
) -> sa.Select[Any]:
    """Return a page's messages, and beside each what `upto` and a reader make of it.

    Its reactions as they are counted now, which of them are the reader's, and those that
    came or went above `upto`; and the newest of its edits that is not.
    """
    messages = (
        page.where(events.c.kind == "message").add_columns(events.c.room_id).subquery("messages")
    )
    beside = (
        sa.select(tallies.c.emoji, tallies.c.count)
        .where(tallies.c.room_id == messages.c.room_id, tallies.c.target == messages.c.seq)
        .correlate(messages)
    )
    mine = (
        sa.select(reactions.c.emoji)
        .where(
            reactions.c.room_id == messages.c.room_id,
            reactions.c.target == messages.c.seq,
            reactions.c.user_id == user_id,
        )
        .correlate(messages)
    )
    edits, each = events.alias("edits"), events.alias("each")
    later = (
        _event_rows(each)
        .where(
            each.c.room_id == messages.c.room_id,
            each.c.target == messages.c.seq,
            each.c.kind == "reaction",
            each.c.seq > sa.bindparam("upto"),
        )
        .correlate(messages)
    )
    newest = (
        sa.select(each.c.seq)
        .where(
            each.c.room_id == messages.c.room_id,
            each.c.target == messages.c.seq,
            each.c.kind == "edit",
            each.c.seq <= sa.bindparam("upto"),
        )
        .order_by(each.c.seq.desc())
        .limit(1)
        .scalar_subquery()
    )
    return sa.select(
        messages.c.seq,
        messages.c.username,
        messages.c.timestamp,
        messages.c.body,
        edits.c.seq.label("edit_seq"),
        edits.c.timestamp.label("edit_timestamp"),
        sa.type_coerce(edits.c.body, sa.JSON).label("edit_body"),
        dialect.listed(beside).label("beside"),
        dialect.listed(mine).label("mine"),
        dialect.listed(later).label("later"),
    ).outerjoin_from(
        messages,
        edits,
        sa.and_(edits.c.room_id == messages.c.room_id, edits.c.seq == newest),
    )
