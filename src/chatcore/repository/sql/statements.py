"""Every statement of a SqlRepository, built once."""

from __future__ import annotations

from typing import Any, ClassVar

import sqlalchemy as sa

from chatcore.model import CHANGEABLE, INVITED
from chatcore.repository.sql.dialect import Dialect
from chatcore.repository.sql.schema import (
    events,
    indexing,
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

param = sa.bindparam

_DAY = 86_400_000

_ROOM_ID = sa.select(rooms.c.id).where(rooms.c.name == param("room")).scalar_subquery()
_USER_ID = sa.select(users.c.id).where(users.c.username == param("username")).scalar_subquery()
_RESTRAINED = (
    restraints.c.banned,
    restraints.c.muted,
    restraints.c.spoke,
    restraints.c.ban,
    restraints.c.mute,
    restraints.c.reader,
)


class Statements:
    """Spelled for no driver yet; `dialect.Spelling` does that."""

    _built: ClassVar[dict[type[Dialect], Statements]] = {}

    @classmethod
    def of(cls, dialect: Dialect) -> Statements:
        """Return them, the same for all of a dialect's repositories: to build them takes 20 ms."""
        built = cls._built.get(type(dialect))
        if built is None:
            built = cls._built[type(dialect)] = cls(dialect)
        return built

    def __init__(self, dialect: Dialect) -> None:
        self._build_loading(dialect)
        self._build_writing(dialect)
        self._build_pages(dialect)
        self._build_searching(dialect)
        self._build_retention(dialect)
        self._build_rooms(dialect)
        self._build_reports(dialect)
        self._build_accounts(dialect)
        self._build_departures(dialect)

    def _build_loading(self, dialect: Dialect) -> None:
        """What a batch touches."""
        given, taken = dialect.given, dialect.taken
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
                rooms.c.title,
                rooms.c.topic,
                rooms.c.retention_days,
            ).join_from(row, rooms, rooms.c.name == row.c.name)
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
                *_RESTRAINED,
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
        row = given("room", "username", by="sanctioned")
        load_sanctions = taken(
            sa.select(row.c.room, _sanctions(dialect, restraints))
            .join_from(row, rooms, rooms.c.name == row.c.room)
            .join(users, users.c.username == row.c.username)
            .join(
                restraints,
                sa.and_(restraints.c.room_id == rooms.c.id, restraints.c.user_id == users.c.id),
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
            load_sanctions.scalar_subquery().label("sanctioned"),
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

    def _build_writing(self, dialect: Dialect) -> None:
        """What a batch writes."""
        given = dialect.given
        row = given("name", "skeleton", "kind", "title", "topic", "epoch", "sender")
        given_room = [column for column in row.c if column.name != "sender"]
        empty = [sa.literal(n).label(name) for name, n in (("first", 1), ("head", 0))]
        room = sa.select(*given_room, *empty, sa.literal(0).label("messages"))
        self.add_rooms = dialect.insert_new(rooms, room)
        # A room that somebody makes is there only if they are.
        known = sa.exists().where(users.c.username == row.c.sender)
        self.create_rooms = dialect.insert_new(rooms, room.where(known))
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
        row = given("room_id", "user_id", *(column.name for column in _RESTRAINED))
        self.set_restraints = dialect.upsert(restraints, sa.select(*row.c))
        row = given("id", *CHANGEABLE)
        self.update_rooms = (
            sa.update(rooms)
            .values({name: sa.func.coalesce(row.c[name], rooms.c[name]) for name in CHANGEABLE})
            .where(rooms.c.id == row.c.id)
        )
        row = given("id")
        self.remove_rooms = sa.delete(rooms).where(rooms.c.id.in_(sa.select(row.c.id)))
        row = given("room_id", "user_id", "txn_id", "seq", "timestamp", "fingerprint")
        self.add_txns = sa.insert(txns).from_select(list(row.c.keys()), sa.select(*row.c))

    def _build_pages(self, dialect: Dialect) -> None:
        """Pages of the log."""
        given, taken = dialect.given, dialect.taken
        window = (
            _event_rows(events)
            .where(
                events.c.room_id == _ROOM_ID,
                events.c.seq > param("after"),
                events.c.seq < param("before"),
            )
            .limit(param("limit"))
        )
        oldest, newest = window.order_by(events.c.seq), window.order_by(events.c.seq.desc())
        self.read = taken(oldest)
        self.oldest_messages = taken(as_they_are(dialect, oldest, _USER_ID))
        self.newest_messages = taken(as_they_are(dialect, newest, _USER_ID))
        row = given("kind")
        # Of each kind so many: only of one kind the index has them in order.  Spelled out,
        # or the index of what is no message would not be taken for it.
        others = window.where(
            sa.text("events.kind <> 'message'"), events.c.kind == row.c.kind
        ).correlate(row)
        self.oldest_events, self.newest_events = (
            taken(sa.select(dialect.listed(others.order_by(order)).label("found")).select_from(row))
            for order in (events.c.seq, events.c.seq.desc())
        )
        self.head = sa.select(rooms.c.first, rooms.c.head).where(rooms.c.name == param("room"))

    def _build_searching(self, dialect: Dialect) -> None:
        """What is new to the index of words, and what it finds."""
        taken = dialect.taken
        page = (
            sa.select(events)
            .where(events.c.id > sa.select(indexing.c.upto).scalar_subquery())
            .order_by(events.c.id)
            .limit(param("limit"))
            .subquery("page")
        )
        message = events.alias("message")
        self.unindexed = taken(
            sa.select(
                page.c.id,
                message.c.id.label("message_id"),
                sa.type_coerce(page.c.body, sa.JSON).label("body"),
                page.c.room_id,
                rooms.c.kind,
                message.c.sender_id,
                message.c.timestamp,
            )
            .join_from(page, rooms, rooms.c.id == page.c.room_id)
            .outerjoin(
                message,
                sa.and_(
                    message.c.room_id == page.c.room_id,
                    message.c.seq
                    == sa.case(
                        (page.c.kind == "message", page.c.seq),
                        (page.c.kind == "edit", page.c.target),
                    ),
                    message.c.kind == "message",
                ),
            )
        )
        self.set_indexed = sa.update(indexing).values(upto=param("last"))
        self.owed = sa.select(indexing.c.owed, indexing.c.stale)
        self.set_purged = sa.update(indexing).values(owed=False)
        self.note_erasure = sa.update(indexing).values(stale=indexing.c.stale + 1)
        self.note_unlearning = self.note_erasure
        if not dialect.words.wipes_at_once:
            self.note_unlearning = self.note_erasure.values(owed=True)
        # What was erased meanwhile counts for the next time.
        self.set_vacuumed = (
            sa.update(indexing).values(stale=0).where(indexing.c.stale == param("seen"))
        )
        theirs = sa.union(
            sa.select(members.c.room_id).where(members.c.user_id == _USER_ID),
            sa.select(restraints.c.room_id).where(restraints.c.user_id == _USER_ID),
            sa.select(rooms.c.id).where(rooms.c.name == param("room")),
        ).subquery("theirs")
        asked = sa.or_(param("room", type_=sa.Text).is_(None), rooms.c.name == param("room"))
        places = taken(
            sa.select(rooms.c.id, rooms.c.name, rooms.c.kind, members.c.role, restraints.c.banned)
            .join_from(theirs, rooms, rooms.c.id == theirs.c.room_id)
            .outerjoin(
                members, sa.and_(members.c.room_id == rooms.c.id, members.c.user_id == _USER_ID)
            )
            .outerjoin(
                restraints,
                sa.and_(restraints.c.room_id == rooms.c.id, restraints.c.user_id == _USER_ID),
            )
            .where(asked)
        )
        sender = sa.select(users.c.id).where(users.c.username == param("sender"))
        self.search_places = sa.select(places.scalar_subquery(), sender.scalar_subquery())
        hits = dialect.words.hits
        found = (
            _event_rows(events)
            .join(hits, hits.c.id == events.c.id)
            .join(rooms, rooms.c.id == events.c.room_id)
            .add_columns(events.c.id, rooms.c.name, rooms.c.head)
        )
        self.found = taken(as_they_are(dialect, found, _USER_ID, "id", "name", "head"))

    def _build_retention(self, dialect: Dialect) -> None:
        """What rooms keep no longer, and letting go of it."""
        limit = param("limit", type_=sa.BigInteger)

        def kept(end: sa.ColumnElement[int]) -> sa.ColumnElement[int]:
            # No further than the first that is not old enough, whatever is after it: a clock
            # may have been set back.
            young = (
                sa.select(events.c.seq)
                .where(
                    events.c.room_id == rooms.c.id,
                    events.c.seq >= rooms.c.first,
                    events.c.seq < end,
                    events.c.timestamp
                    >= param("now", type_=sa.BigInteger) - rooms.c.retention_days * _DAY,
                )
                .order_by(events.c.seq)
                .limit(1)
                .scalar_subquery()
            )
            return sa.func.coalesce(young, end).label("kept")

        end = sa.case(
            (rooms.c.head < rooms.c.first + limit, rooms.c.head + 1), else_=rooms.c.first + limit
        )
        room = (
            sa.select(rooms.c.name, rooms.c.first, kept(end))
            .where(sa.text("rooms.retention_days > 0"))  # as the index of these rooms has it
            .subquery("room")
        )
        self.due = (
            sa.select(room)
            .where(room.c.kept > room.c.first)
            .order_by(room.c.name <= param("past"), room.c.name)
            .limit(1)
        )
        self.span = sa.select(
            rooms.c.id, rooms.c.first, kept(param("upto", type_=sa.BigInteger))
        ).where(rooms.c.name == param("room"), rooms.c.retention_days > 0)
        whose: sa.BindParameter[int] = param("whose")
        last: sa.BindParameter[int] = param("last")
        counted = sa.select(events.c.messages).where(
            events.c.room_id == whose, events.c.seq == last
        )
        # What nobody can read any more is not unread.
        self.read_on = (
            sa.update(members)
            .values(read=last, read_messages=counted.scalar_subquery())
            .where(members.c.room_id == whose, members.c.read < last)
        )
        # And with the messages, by their foreign keys, what stands beside them.
        self.remove_events = sa.delete(events).where(
            events.c.room_id == whose, events.c.seq <= last
        )
        # Whoever is forgotten later has their messages looked for, and these are gone.
        self.redact_gone = (
            sa.update(reports)
            .values(reason="")
            .where(
                reports.c.room_id == whose,
                reports.c.seq >= param("lowest"),
                reports.c.seq <= last,
            )
        )
        self.redact_deletions_of_gone = (
            sa.update(events)
            .values(body=dialect.without(events.c.body, "reason"))
            .where(
                events.c.room_id == whose,
                events.c.target >= param("lowest"),
                events.c.target <= last,
                events.c.kind == "delete",
                events.c.seq > last,
            )
        )
        self.set_first = (
            sa.update(rooms).values(first=param("kept")).where(rooms.c.id == param("whose"))
        )
        # The highest id may be gone, and is then given once more.
        newest = sa.select(sa.func.coalesce(sa.func.max(events.c.id), 0)).scalar_subquery()
        self.reindex = sa.update(indexing).values(upto=newest).where(indexing.c.upto > newest)

    def _build_rooms(self, dialect: Dialect) -> None:
        """Rooms and who is in them."""
        given, taken = dialect.given, dialect.taken
        described = (
            rooms.c.name,
            rooms.c.kind,
            rooms.c.title,
            rooms.c.topic,
            rooms.c.epoch,
            rooms.c.slow_mode,
            rooms.c.archived,
            rooms.c.retention_days,
        )
        self.room = sa.select(*described).where(rooms.c.name == param("name"))
        mine = sa.and_(members.c.room_id == rooms.c.id, members.c.user_id == _USER_ID)
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
            .where(members.c.user_id == _USER_ID)
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
                members.c.room_id == _ROOM_ID,
                members.c.role != INVITED,
                users.c.username > param("after"),
            )
            .order_by(users.c.username)
            .limit(param("limit"))
        )
        self.place = (
            sa.select(members.c.role, *_RESTRAINED)
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

    def _build_reports(self, dialect: Dialect) -> None:
        """Reports, and who is banned or muted."""
        given, taken = dialect.given, dialect.taken
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
            .join(users, users.c.username == row.c.username),
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
            .where(reports.c.room_id == _ROOM_ID, reports.c.number > param("after"))
            .order_by(reports.c.number)
            .limit(param("limit"))
        )
        self.reported = taken(
            sa.select(rooms.c.name)
            .where(
                rooms.c.name > param("after"), sa.exists().where(reports.c.room_id == rooms.c.id)
            )
            .order_by(rooms.c.name)
            .limit(param("limit"))
        )
        sanctions = ("banned", "muted", "ban", "mute")
        held = (
            sa.select(
                users.c.username, restraints.c.room_id, *(restraints.c[name] for name in sanctions)
            )
            .join_from(restraints, users, users.c.id == restraints.c.user_id)
            .where(
                restraints.c.room_id == _ROOM_ID,
                # As the index of these has it.
                sa.text("(restraints.banned IS NOT NULL OR restraints.muted IS NOT NULL)"),
                sa.or_(restraints.c.banned > param("now"), restraints.c.muted > param("now")),
                users.c.username > param("after"),
            )
            .order_by(users.c.username)
            .limit(param("limit"))
            .subquery("held")
        )
        shown = [held.c[name] for name in ("username", *sanctions)]
        self.bans = taken(sa.select(*shown, _sanctions(dialect, held)))

    def _build_accounts(self, dialect: Dialect) -> None:
        """Accounts and their tokens."""
        given, taken = dialect.given, dialect.taken
        row = given("username", "password_hash", "display_name", "skeleton", "created", "bot")
        self.add_users = dialect.insert_new(users, sa.select(*row.c))
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
        self.tokens = taken(sa.select(tokens.c.expires).where(tokens.c.user_id == _USER_ID))
        row = given("username")
        self.logins = taken(
            sa.select(users.c.username, dialect.hex(tokens.c.digest).label("digest"))
            .join_from(row, users, users.c.username == row.c.username)
            .outerjoin(tokens, tokens.c.user_id == users.c.id)
            .where(users.c.status == "active")
        )
        self.remove_token = sa.delete(tokens).where(tokens.c.digest == param("digest"))
        self.remove_tokens = sa.delete(tokens).where(tokens.c.user_id == _USER_ID)
        self.remove_expired = self.remove_tokens.where(tokens.c.expires <= param("now"))
        self.remove_other_tokens = self.remove_tokens.where(tokens.c.digest != param("keep"))

    def _build_departures(self, dialect: Dialect) -> None:
        """What somebody said, and what else there is of them."""
        given, taken = dialect.given, dialect.taken
        message = events.alias("message")
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
                    events.c.sender_id == _USER_ID,
                    sa.and_(
                        events.c.kind == "member",
                        dialect.text(events.c.body, "username") == param("username"),
                    ),
                    sa.and_(
                        events.c.kind == "delete",
                        sa.exists().where(
                            message.c.room_id == events.c.room_id,
                            message.c.seq == events.c.target,
                            message.c.sender_id == _USER_ID,
                        ),
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
            reports.c.user_id == _USER_ID,
            sa.exists().where(
                events.c.room_id == reports.c.room_id,
                events.c.seq == reports.c.seq,
                events.c.sender_id == _USER_ID,
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
        self.lift_restraints = sa.delete(restraints).where(restraints.c.user_id == _USER_ID)
        some = (
            sa.select(txns.c.room_id, txns.c.user_id, txns.c.txn_id)
            .join_from(rooms, txns, txns.c.room_id == rooms.c.id)
            .where(txns.c.user_id == _USER_ID)
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
    """Select what the repository makes events of."""
    return sa.select(
        log.c.seq,
        log.c.kind,
        users.c.username,
        log.c.timestamp,
        sa.type_coerce(log.c.body, sa.JSON).label("body"),
    ).join_from(log, users, users.c.id == log.c.sender_id)


def _sanctions(dialect: Dialect, held: sa.FromClause) -> sa.ColumnElement[Any]:
    """Select what has banned and muted each of these restraints, as far as the log has it."""
    log = events.alias("sanctions")
    told = _event_rows(log).where(
        log.c.room_id == held.c.room_id, log.c.seq.in_([held.c.ban, held.c.mute])
    )
    return dialect.listed(told.correlate(held)).label("told")


def _delete(table: sa.Table, row: sa.Subquery) -> sa.Delete:
    """Delete what has the given values in those of its key's columns that are given."""
    columns = [column for column in table.primary_key if column.name in row.c]
    values = [row.c[column.name] for column in columns]
    return sa.delete(table).where(sa.tuple_(*columns).in_(sa.select(*values)))


def as_they_are(
    dialect: Dialect,
    page: sa.Select[Any],
    user_id: sa.ColumnElement[int],
    *also: str,
) -> sa.Select[Any]:
    """Return a page's messages, and beside each what `upto` and a reader make of it.

    First those columns of the page that are wanted, too.  Then what `rows.as_it_is`
    reads: its reactions as they are counted now, which of them are the reader's, and those that
    came or went above `upto`; and the newest of its edits that is not.
    """
    messages = (
        # Spelled out, or the index of messages alone would not be taken for it.
        page.where(sa.text("events.kind = 'message'"))
        .add_columns(events.c.room_id)
        .subquery("messages")
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
        *(messages.c[each] for each in also),
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
