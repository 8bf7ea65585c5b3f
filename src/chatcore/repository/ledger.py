"""One batch judged: which drafts enter the log, at which seq, and what they change.

Pure.  A repository loads what the batch touches, has every draft judged in order
under its lock or in its transaction, and writes what the ledger then holds; so all
repositories decide alike, and each draft sees what those before it did.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson
from attrs import define, evolve, field

from chatcore import policy
from chatcore.errors import (
    ChatError,
    Conflict,
    Forbidden,
    NotFound,
    NotMember,
    RateLimited,
    TxnConflict,
)
from chatcore.events import Duplicate, Member, Stands, Stored, committed
from chatcore.folding import ERASED, erased
from chatcore.model import FOREVER, INVITED, Draft, Limits, Restraint
from chatcore.ports import Outcome


@define
class RoomState:
    """A room and its log as this batch has them so far."""

    epoch: str
    kind: str
    first: int
    head: int
    messages: int
    slow_mode: int
    archived: bool
    title: str
    topic: str
    retention_days: int


@define  # not frozen, which would take twice as long to make, for each message
class Standing:
    """What somebody is in a room, and how far they have read: a seq, and the messages up to it."""

    role: str
    read: int
    read_messages: int


@define  # as above
class Txn:
    """What a txn_id was first used for."""

    seq: int
    timestamp: datetime
    fingerprint: int


@define
class Target:
    """A message that somebody wants to do something with."""

    sender: str
    timestamp: datetime
    deletion: Duplicate | None = None
    """What deleted it already."""
    tallies: dict[str, int] = field(factory=dict)
    """How many have put each emoji beside it."""


SANCTIONS = ("ban", "mute")
"""What is done to somebody for some time, or for ever, and may be told once more."""

RoomUser = tuple[str, str]
RoomSeq = tuple[str, int]
TxnKey = tuple[str, str, str]
ReactionKey = tuple[str, int, str, str]
"""A message, who reacts, and their emoji."""


@define
class Ledger:
    """Give it what `touched` names, have it `judge` the drafts, then write the rest."""

    rooms: dict[str, RoomState]
    users: set[str]
    standings: dict[RoomUser, Standing]
    restraints: dict[RoomUser, Restraint]
    owners: dict[str, set[str]]
    """Of each room that may lose an owner."""
    txns: dict[TxnKey, Txn]
    roles: dict[str, dict[str, str]]
    """Of each user whom limits are for, what they are in each of their rooms."""
    targets: dict[RoomSeq, Target | None]
    """Each message that a draft names; None for one that is not there yet."""
    reactions: dict[ReactionKey, Duplicate]
    """Those that drafts add or remove, where they are there: what has added each."""
    sanctions: dict[RoomSeq, Member]
    """What has banned or muted those whom drafts ban or mute, as far as the log has it."""
    inactive: dict[str, str] = field(factory=dict)
    """Of those users who are disabled or deleted, which of both."""

    stored: list[tuple[Draft, Stored]] = field(factory=list, init=False)
    changed: dict[RoomUser, Standing | None] = field(factory=dict, init=False)
    """Those whose standing this batch changed; None where it ended."""
    restrained: dict[RoomUser, Restraint] = field(factory=dict, init=False)
    """Those whose restraint this batch changed."""
    updates: dict[str, dict[str, Any]] = field(factory=dict, init=False)
    """What is to be said now of rooms, where it is another."""
    used: dict[TxnKey, Txn] = field(factory=dict, init=False)
    erased: set[RoomSeq] = field(factory=set, init=False)
    """The messages whose text goes, and that of their edits: in what was stored before, too.

    And their reactions, those that this batch has added, too.
    """
    reacted: dict[ReactionKey, int | None] = field(factory=dict, init=False)
    """The reactions that this batch changed: the seq of what added each, None for what went."""
    tallies: dict[tuple[str, int, str], int] = field(factory=dict, init=False)
    """How many of these emoji are beside these messages now."""
    mentions: dict[RoomSeq, tuple[str, ...]] = field(factory=dict, init=False)
    """Of each message that is new, and mentions somebody, and of those that were changed."""

    def judge(self, drafts: Sequence[Draft]) -> list[Outcome]:
        """Take a batch in, draft by draft in this order; say of each what became of it."""
        outcomes = [self._judge(draft) for draft in drafts]
        if not self.erased:
            return outcomes
        # What came and went in one batch must be neither written nor announced.
        self.stored = [self._rid(draft, stored) for draft, stored in self.stored]
        kept = iter(self.stored)
        return [next(kept)[1] if isinstance(each, Stored) else each for each in outcomes]

    def _rid(self, draft: Draft, stored: Stored) -> tuple[Draft, Stored]:
        seq = stored.event.seq if draft.kind == "message" else draft.body.get("target")
        if draft.kind not in ("message", "edit") or (draft.room.name, seq) not in self.erased:
            return draft, stored
        return evolve(draft, body=_erased(draft.body)), evolve(stored, event=erased(stored.event))

    def _judge(self, draft: Draft) -> Outcome:
        try:
            return self._known(draft) or self._enter(draft)
        except ChatError as error:
            if draft.creates and draft.room.kind != "direct" and self._is_new(draft):
                del self.rooms[draft.room.name]
            return error

    def unmade(self, drafts: Iterable[Draft]) -> set[str]:
        """Name the rooms that were to be born with a draft that was refused.

        A direct room may be born with a later one of the batch.
        """
        made = {name for name, room in self.rooms.items() if room.head or room.kind != "direct"}
        return {draft.room.name for draft in drafts if draft.creates} - made

    def _is_new(self, draft: Draft) -> bool:
        room = self.rooms.get(draft.room.name)
        return room is not None and room.epoch == draft.room.epoch and not room.head

    @property
    def heads(self) -> dict[str, RoomState]:
        """The rooms that have grown."""
        return {name: self.rooms[name] for name in {draft.room.name for draft, _ in self.stored}}

    def _known(self, draft: Draft) -> Duplicate | None:
        if draft.txn_id is None:
            return None
        txn = self.txns.get((draft.room.name, draft.sender, draft.txn_id))
        if txn is None:
            return None
        if txn.fingerprint != fingerprint(draft):
            raise TxnConflict("This txn_id was used before, for something else; make a new one")
        return Duplicate(txn.seq, txn.timestamp)

    def _enter(self, draft: Draft) -> Stored | Duplicate:
        if draft.sender not in self.users:
            raise NotFound("There is no such user")
        if draft.sender in self.inactive and not draft.as_host:
            raise Forbidden("This account is disabled")
        room = self._room(draft)
        standing = self.standings.get((draft.room.name, draft.sender))
        if draft.kind == "message":  # which nearly all are
            self._check("send", draft, room, standing)
        else:
            self._permit(draft, room, standing)
        if draft.refusal is not None:  # after those, for a refusal tells that there is a room
            raise draft.refusal
        target = done = None
        if draft.kind == "message":
            if "reply_to" in draft.body:
                self._check_reply(draft)
            if room.slow_mode and standing is not None and standing.role in policy.SLOWED:
                self._wait_turn(draft, room)
        elif draft.kind in ("edit", "delete", "reaction"):
            target = self._target(draft, room, standing)
            done = self._done(draft, target)
        elif draft.kind == "member":
            done = self._sanctioned(draft)
        elif draft.kind == "room" and not _changes(draft, room):
            raise Conflict("This room is like that already; nothing was changed")
        if done is not None:
            self._use(draft, done.seq, done.timestamp)
            return done
        room.head += 1
        room.messages += draft.kind == "message"
        self._use(draft, room.head, draft.timestamp)
        stands = None
        if draft.kind == "member":
            draft, stands = self._change(draft, room)
        elif draft.kind == "message" and standing is not None:
            # Sending moves the sender's own read marker.
            self._stand(draft.room.name, draft.sender, standing.role, room)
            key = (draft.room.name, room.head)
            if key in self.targets:
                self.targets[key] = Target(draft.sender, draft.timestamp)
        elif draft.kind == "delete" and target is not None:
            target.deletion = Duplicate(room.head, draft.timestamp)
            self.erased.add(_aim(draft))
        elif draft.kind == "reaction" and target is not None:
            self._react(draft, target, room.head)
        elif draft.kind == "room":
            draft = self._update(draft, room)
        if draft.mentions or draft.kind in ("edit", "delete"):
            draft = self._mention(draft, room.head)
        event = committed(draft, room.head)
        if isinstance(event, Member) and event.action in SANCTIONS:
            self.sanctions[draft.room.name, room.head] = event
        stored = Stored(event, room.first, room.messages, stands)
        self.stored.append((draft, stored))
        return stored

    def _use(self, draft: Draft, seq: int, timestamp: datetime) -> None:
        """Have the draft's txn_id stand for this event from now on."""
        if draft.txn_id is not None:
            key = (draft.room.name, draft.sender, draft.txn_id)
            self.txns[key] = self.used[key] = Txn(seq, timestamp, fingerprint(draft))

    def _check_reply(self, draft: Draft) -> None:
        """Raise NotFound where a message answers one that is not there, or was deleted."""
        target = self.targets[_aim(draft, "reply_to")]
        if target is None or target.deletion is not None:
            raise NotFound("There is no such message to reply to; it may have been deleted")

    def _target(self, draft: Draft, room: RoomState, standing: Standing | None) -> Target:
        """Return the message that a draft is of, where its sender may do that to it."""
        target = self.targets[_aim(draft)]
        if target is None:
            raise NotFound("There is no such message")
        own = draft.sender == target.sender or draft.as_host
        if not own and draft.kind == "edit":
            raise Forbidden("Only who sent a message may edit it")
        if not own and draft.kind == "delete":
            self._check("delete_any", draft, room, standing)
        if draft.kind != "delete" and target.deletion is not None:
            raise NotFound("This message was deleted")
        if draft.kind == "edit" and draft.limits is not None:
            _check_age(draft, target, draft.limits.edit_seconds)
        return target

    def _done(self, draft: Draft, target: Target) -> Duplicate | None:
        """Return what has done already what a draft wants; None where it changes something."""
        if draft.kind != "reaction":
            return target.deletion
        is_there = self.reactions.get(_reaction(draft))
        if draft.body["action"] == "remove":
            seq = _aim(draft)[1]
            return Duplicate(seq, target.timestamp) if is_there is None else None
        if is_there is None and draft.limits is not None:
            most = draft.limits.reactions
            if not most:
                raise Forbidden("There are no reactions here")
            if draft.body["emoji"] not in target.tallies and len(target.tallies) >= most:
                raise Forbidden(f"A message has at most {most} different reactions; join one")
        return is_there

    def _sanctioned(self, draft: Draft) -> Duplicate | None:
        """Return what has banned or muted somebody just so already; None where nothing has.

        Only what the log still has can be answered with; what it let go of is said anew.
        """
        if draft.body["action"] not in SANCTIONS:
            return None
        asked = committed(draft, 0)
        assert isinstance(asked, Member)
        room = draft.room.name
        key = (room, asked.username)
        if asked.action == "ban" and key in self.standings:
            return None  # who has come back: it was over, by a clock that was set back since
        restraint = self.restraints.get(key, Restraint())
        seq = restraint.ban if asked.action == "ban" else restraint.mute
        known = self.sanctions.get((room, seq or 0))
        if known is None or (known.until, known.reason) != (asked.until, asked.reason):
            return None
        if known.until is not None and known.until <= draft.timestamp:
            return None
        return Duplicate(known.seq, known.timestamp)

    def _mention(self, draft: Draft, seq: int) -> Draft:
        """Note whom a message mentions from now on, and return the draft with it."""
        room = draft.room.name
        meant = (
            next((name for name in names if self._is_member(room, name)), None)
            for names in draft.mentions
        )
        mentions = tuple(dict.fromkeys(name for name in meant if name is not None))
        if "target" in draft.body:
            self.mentions[_aim(draft)] = mentions
        elif mentions:
            self.mentions[room, seq] = mentions
        return evolve(draft, body={**draft.body, "mentions": mentions}) if mentions else draft

    def _is_member(self, room: str, username: str) -> bool:
        standing = self.standings.get((room, username))
        return standing is not None and standing.role != INVITED

    def _react(self, draft: Draft, target: Target, seq: int) -> None:
        key = room, message, _, emoji = _reaction(draft)
        if draft.body["action"] == "add":
            self.reactions[key] = Duplicate(seq, draft.timestamp)
            self.reacted[key] = seq
            count = target.tallies.get(emoji, 0) + 1
        else:
            del self.reactions[key]
            self.reacted[key] = None
            count = target.tallies.pop(emoji) - 1
        if count:
            target.tallies[emoji] = count
        self.tallies[room, message, emoji] = count

    def _room(self, draft: Draft) -> RoomState:
        room = self.rooms.get(draft.room.name)
        if draft.creates and (room is None or not _is_same(draft, room)):
            raise Conflict("A room with this name, or one that looks like it, is there already")
        if room is None:
            raise NotFound("There is no such room")
        return room

    def _permit(self, draft: Draft, room: RoomState, standing: Standing | None) -> None:
        """Judge the sender once more, now that nothing can change in between."""
        action = _action(draft)
        if not draft.creates and not draft.as_host:
            self._check(action, draft, room, standing)
        if action == "join":
            self._check_entry(draft)
        elif action == "leave":
            if standing is None:
                raise NotMember("You must join the chat first")
            if not draft.as_host:
                self._check_owners(draft, draft.sender)
        elif draft.kind == "member":
            self._check_upon(action, draft, standing)

    def _check(self, action: str, draft: Draft, room: RoomState, standing: Standing | None) -> None:
        """Ask the table."""
        role = standing.role if standing is not None else None
        restraint = None
        if self.restraints:
            restraint = self.restraints.get((draft.room.name, draft.sender))
        policy.check(action, room, role, restraint, draft.timestamp)

    def _wait_turn(self, draft: Draft, room: RoomState) -> None:
        """Raise RateLimited for who has to wait in slow mode; else note that they spoke."""
        key = (draft.room.name, draft.sender)
        restraint = self.restraints.get(key, Restraint())
        if restraint.spoke is not None:
            since = (draft.timestamp - restraint.spoke).total_seconds()
            if 0 <= since < room.slow_mode:  # below 0 where the clock was set back
                raise RateLimited(
                    f"This room is in slow mode: a message every {room.slow_mode} seconds",
                    retry_after=room.slow_mode - since,
                )
        self._restrain(key, evolve(restraint, spoke=draft.timestamp))

    def _check_entry(self, draft: Draft) -> None:
        username = str(draft.body["username"])
        standing = self.standings.get((draft.room.name, username))
        self._check_there(username)
        self._check_active(draft, username)
        if standing is not None and standing.role != INVITED:
            raise Conflict("Already a member of this room")
        if draft.limits is not None:
            self._check_rooms(draft, username, draft.limits)
            if username != draft.sender and (draft.room.name not in self.roles[draft.sender]):
                self._check_rooms(draft, draft.sender, draft.limits)

    def _check_there(self, username: str) -> None:
        """Raise NotFound for who is nobody to do something to, or not any more."""
        if username not in self.users:
            raise NotFound("There is no such user")
        if self.inactive.get(username) == "deleted":
            raise NotFound(f"The account of {username} was deleted")

    def _check_active(self, draft: Draft, username: str) -> None:
        if username in self.inactive and not draft.as_host:
            raise Forbidden(f"The account of {username} is disabled")

    def _check_rooms(self, draft: Draft, username: str, limits: Limits) -> None:
        """Raise Forbidden for one room too many: all of a user's fit into one frame."""
        rooms = [*self.roles[username].values()]
        who, verb = ("You", "are") if username == draft.sender else (username, "is")
        invitations = rooms.count(INVITED)
        if draft.body["action"] == "invite":
            if invitations >= limits.rooms_joined:
                raise Forbidden(f"{who} {verb} invited to {invitations} rooms, as many as one may")
        elif draft.body["action"] == "join" and len(rooms) - invitations >= limits.rooms_joined:
            what_then = "; leave one first" if who == "You" else ", as many as one may be in"
            raise Forbidden(f"{who} {verb} in {len(rooms) - invitations} rooms{what_then}")
        owned = rooms.count("owner")
        if draft.body.get("role") == "owner" and owned >= limits.rooms_owned:
            verb = "own" if username == draft.sender else "owns"
            raise Forbidden(f"{who} {verb} {owned} rooms, as many as one may")

    def _check_owners(self, draft: Draft, username: str) -> None:
        """Raise Conflict where a room would lose its last owner."""
        if self.owners.get(draft.room.name) == {username}:
            raise Conflict("You are the only owner; first make somebody else one with set_role")

    def _check_upon(self, action: str, draft: Draft, standing: Standing | None) -> None:
        """Judge what somebody wants to do to another, or to themselves."""
        username = str(draft.body["username"])
        key = (draft.room.name, username)
        self._check_there(username)
        other, restraint = self.standings.get(key), self.restraints.get(key, Restraint())
        role, given = other.role if other is not None else None, draft.body.get("role")
        if standing is not None and not draft.as_host:
            own = username == draft.sender
            policy.check_upon(action, standing.role, role, str(given) if given else None, own=own)
        banned = restraint.banned is not None and restraint.banned > draft.timestamp
        muted = restraint.muted is not None and restraint.muted > draft.timestamp
        if action == "invite" or (given is not None and policy.raises(role, str(given))):
            self._check_active(draft, username)
        match action:
            case "invite" if other is not None:
                is_ = "is invited" if role == INVITED else "is in this room"
                raise Conflict(f"{username} {is_} already")
            case "invite" if banned:
                raise Conflict(f"{username} is banned from this room; unban them first")
            case "kick" if other is None:
                raise NotFound(f"{username} is not in this room")
            case "unban" if not banned:
                raise Conflict(f"{username} is not banned from this room")
            case "unmute" if not muted:
                raise Conflict(f"{username} is not muted in this room")
            case "set_role" if role in (None, INVITED):
                raise NotFound(f"{username} is not a member of this room")
            case "set_role" if role == given:
                raise Conflict(f"{username} has this role already")
            case "set_role" if role == "owner" and not draft.as_host:
                self._check_owners(draft, username)
        if draft.limits is not None:
            self._check_rooms(draft, username, draft.limits)

    def _change(self, draft: Draft, room: RoomState) -> tuple[Draft, Stands | None]:
        """Let somebody's membership begin, end, or go on otherwise; say how it was done."""
        name, username = draft.room.name, str(draft.body["username"])
        key = (name, username)
        before, restraint = self.standings.get(key), self.restraints.get(key, Restraint())
        until = draft.body.get("until")
        end = datetime.fromisoformat(str(until)) if until is not None else FOREVER
        match draft.body["action"]:
            case "join":
                role = str(draft.body["role"])
                if draft.as_host:
                    lifted = evolve(restraint, banned=None, ban=None)
                    self._restrain(key, evolve(lifted, reader=role == "reader"))
                elif role == "member" and restraint.reader:
                    role, body = "reader", {**draft.body, "role": "reader"}
                    draft = evolve(draft, body=body)
                self._stand(name, username, role, room)
            case "invite":
                self._stand(name, username, INVITED, room)
            case "role" if before is not None:
                role = str(draft.body["role"])
                self.standings[key] = self.changed[key] = evolve(before, role=role)
                self._restrain(key, evolve(restraint, reader=role == "reader"))
            case "leave" | "kick" | "ban" as action:
                if before is not None:
                    self.standings.pop(key)
                    self.changed[key] = None
                if action == "ban":
                    self._restrain(key, evolve(restraint, banned=end, ban=room.head))
            case "unban":
                self._restrain(key, evolve(restraint, banned=None, ban=None))
            case "mute":
                self._restrain(key, evolve(restraint, muted=end, mute=room.head))
            case "unmute":
                self._restrain(key, evolve(restraint, muted=None, mute=None))
        return draft, self._note(key, before, room)

    def _note(self, key: RoomUser, before: Standing | None, room: RoomState) -> Stands | None:
        """Say where somebody stands now, and take it into what this batch knows of them."""
        name, username = key
        now = self.standings.get(key)
        if username in self.roles:
            self.roles[username].pop(name, None)
            if now is not None:
                self.roles[username][name] = now.role
        if name in self.owners:
            self.owners[name].discard(username)
            if now is not None and now.role == "owner":
                self.owners[name].add(username)
        if now is None:
            return Stands(None, 0, 0, room.epoch) if before is not None else None
        return Stands(now.role, now.read, room.messages - now.read_messages, room.epoch)

    def _restrain(self, key: RoomUser, restraint: Restraint) -> None:
        if restraint != self.restraints.get(key, Restraint()):
            self.restraints[key] = self.restrained[key] = restraint

    def _update(self, draft: Draft, room: RoomState) -> Draft:
        """Give a room other values; return the draft with those that were not there before."""
        changes = _changes(draft, room)
        self.updates.setdefault(draft.room.name, {}).update(changes)
        for name, value in changes.items():
            setattr(room, name, value)
        return evolve(draft, body=changes)

    def _stand(self, room: str, username: str, role: str, state: RoomState) -> None:
        """Have somebody stand at the head: all before it is read."""
        standing = Standing(role, state.head, state.messages)
        self.standings[room, username] = self.changed[room, username] = standing


def _action(draft: Draft) -> str:
    """Return what the table calls that which a draft does."""
    match draft.kind:
        case "member":
            action = str(draft.body["action"])
            return "set_role" if action == "role" else action
        case "room":
            return "archive" if {"archived", "retention_days"} & draft.body.keys() else "update"
        case "reaction":
            return "react" if draft.body["action"] == "add" else "unreact"
    return draft.kind


def _changes(draft: Draft, room: RoomState) -> dict[str, object]:
    return {name: value for name, value in draft.body.items() if value != getattr(room, name)}


def _is_same(draft: Draft, room: RoomState) -> bool:
    """Say whether a room is the one that a draft creates; a direct room is born of the first."""
    return draft.room.kind == room.kind == "direct" or room.epoch == draft.room.epoch


def _aim(draft: Draft, field: str = "target") -> RoomSeq:
    seq = draft.body[field]
    assert isinstance(seq, int)
    return draft.room.name, seq


def _check_age(draft: Draft, target: Target, most: float | None) -> None:
    """Raise Forbidden where a message is too old to be edited."""
    if most == 0:
        raise Forbidden("A message stays as it is here; it cannot be edited")
    if most is not None and (draft.timestamp - target.timestamp).total_seconds() > most:
        seconds = max(1, round(most))
        unit, size = next(
            each
            for each in (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1))
            if seconds % each[1] == 0
        )
        count = seconds // size
        long = f"{count} {unit}" if count == 1 else f"{count} {unit}s"
        raise Forbidden(f"A message can be edited for {long} after it was sent")


def _reaction(draft: Draft) -> ReactionKey:
    return *_aim(draft), draft.sender, str(draft.body["emoji"])


def _erased(body: Mapping[str, object]) -> dict[str, object]:
    """Return what is left of a message's body, or of an edit's."""
    return {**({"target": body["target"]} if "target" in body else {}), **ERASED}


@define
class Touched:
    """What a batch is about, and a ledger must know."""

    rooms: set[str] = field(factory=set)
    people: set[RoomUser] = field(factory=set)
    txns: set[TxnKey] = field(factory=set)
    limited: set[str] = field(factory=set)
    """Those whose rooms are counted."""
    owned: set[str] = field(factory=set)
    """Rooms that may lose an owner."""
    targets: set[RoomSeq] = field(factory=set)
    """Messages to be edited, deleted or answered."""
    reactions: set[ReactionKey] = field(factory=set)
    """Those to be added or removed."""
    sanctioned: set[RoomUser] = field(factory=set)
    """Those who are to be banned or muted."""

    @property
    def messages(self) -> set[RoomSeq]:
        """All messages that are named, by whatever is to be done with them."""
        return self.targets | {(room, seq) for room, seq, *_ in self.reactions}


def touched(drafts: Iterable[Draft]) -> Touched:
    found = Touched()
    for draft in drafts:
        room = draft.room.name
        found.rooms.add(room)
        found.people.add((room, draft.sender))
        if draft.kind == "member":
            username = str(draft.body["username"])
            found.people.add((room, username))
            if draft.body["action"] in ("leave", "role"):
                found.owned.add(room)
            if draft.body["action"] in SANCTIONS:
                found.sanctioned.add((room, username))
            if draft.limits is not None:
                found.limited |= {username, draft.sender}
        elif draft.kind in ("edit", "delete"):
            found.targets.add(_aim(draft))
        elif draft.kind == "reaction":
            found.reactions.add(_reaction(draft))
        elif "reply_to" in draft.body:
            found.targets.add(_aim(draft, "reply_to"))
        if draft.mentions:
            found.people |= {(room, name) for names in draft.mentions for name in names}
        if draft.txn_id is not None:
            found.txns.add((room, draft.sender, draft.txn_id))
    return found


def fingerprint(draft: Draft) -> int:
    """63 bits that differ when a draft asks for something else; the same for ever."""
    asked = orjson.dumps([draft.kind, draft.body], option=orjson.OPT_SORT_KEYS)
    return int.from_bytes(hashlib.blake2b(asked, digest_size=8).digest()) >> 1
