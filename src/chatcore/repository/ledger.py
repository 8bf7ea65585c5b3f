"""One batch judged: which drafts enter the log, at which seq, and what they change.

Pure.  A repository loads what the batch touches, has every draft judged in order
under its lock or in its transaction, and writes what the ledger then holds; so all
repositories decide alike, and each draft sees what those before it did.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime

import orjson
from attrs import define, evolve, field

from chatcore.errors import ChatError, Conflict, Forbidden, NotFound, NotMember, TxnConflict
from chatcore.events import Duplicate, Stored, committed
from chatcore.folding import ERASED, erased
from chatcore.model import Draft, Limits
from chatcore.ports import Outcome


@define
class RoomState:
    """A room's log as this batch has it so far."""

    epoch: str
    kind: str
    first: int
    head: int
    messages: int


@define  # not frozen, which would take twice as long to make, for each message
class Standing:
    """A member's role, and how far they have read: a seq, and the messages up to it."""

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
    """A message that somebody wants to edit or delete."""

    sender: str
    deletion: Duplicate | None
    """What deleted it already."""


RoomUser = tuple[str, str]
RoomSeq = tuple[str, int]
TxnKey = tuple[str, str, str]


@define
class Ledger:
    """Give it what `touched` names, have it `judge` the drafts, then write the rest."""

    rooms: dict[str, RoomState]
    users: set[str]
    standings: dict[RoomUser, Standing]
    txns: dict[TxnKey, Txn]
    roles: dict[str, dict[str, str]]
    """Of each user who is about to join under limits, the role in each of their rooms."""
    targets: dict[RoomSeq, Target | None]
    """Each message that a draft names; None for one that is not there yet."""

    stored: list[tuple[Draft, Stored]] = field(factory=list, init=False)
    changed: dict[RoomUser, Standing | None] = field(factory=dict, init=False)
    """The members whose standing this batch changed; None where it ended."""
    used: dict[TxnKey, Txn] = field(factory=dict, init=False)
    erased: set[RoomSeq] = field(factory=set, init=False)
    """The messages whose text goes, and that of their edits: in what was stored before, too."""

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
        return (
            evolve(draft, body={**draft.body, **ERASED}),
            evolve(stored, event=erased(stored.event)),
        )

    def _judge(self, draft: Draft) -> Outcome:
        try:
            return self._known(draft) or self._enter(draft)
        except ChatError as error:
            if draft.creates and self._is_new(draft):
                del self.rooms[draft.room.name]
            return error

    def unmade(self, drafts: Iterable[Draft]) -> set[str]:
        """Name the rooms that were to be born with a draft that was refused."""
        return {draft.room.name for draft in drafts if draft.creates} - self.rooms.keys()

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
        room = self._room(draft)
        standing = self._permitted(draft, room)
        if draft.refusal is not None:  # after those, for a refusal tells that there is a room
            raise draft.refusal
        target = None
        if draft.kind in ("edit", "delete"):
            target = self._target(draft, standing)
            if target.deletion is not None:
                self._use(draft, target.deletion.seq, target.deletion.timestamp)
                return target.deletion
        room.head += 1
        room.messages += draft.kind == "message"
        stored = Stored(committed(draft, room.head), room.first, room.messages)
        self.stored.append((draft, stored))
        key = (draft.room.name, room.head)
        if draft.kind == "member":
            self._change(draft, room)
        elif draft.kind == "message" and standing is not None:
            # Sending moves the sender's own read marker.
            self._stand(draft.room.name, draft.sender, standing.role, room)
            if key in self.targets:
                self.targets[key] = Target(draft.sender, None)
        elif draft.kind == "delete" and target is not None:
            target.deletion = Duplicate(room.head, draft.timestamp)
            self.erased.add(_aim(draft))
        self._use(draft, room.head, draft.timestamp)
        return stored

    def _use(self, draft: Draft, seq: int, timestamp: datetime) -> None:
        """Have the draft's txn_id stand for this event from now on."""
        if draft.txn_id is not None:
            key = (draft.room.name, draft.sender, draft.txn_id)
            self.txns[key] = self.used[key] = Txn(seq, timestamp, fingerprint(draft))

    def _target(self, draft: Draft, standing: Standing | None) -> Target:
        """Return the message that a draft edits or deletes, where its sender may do so."""
        target = self.targets[_aim(draft)]
        if target is None:
            raise NotFound("There is no such message")
        if draft.sender != target.sender:
            if draft.kind == "edit":
                raise Forbidden("Only who sent a message may edit it")
            if standing is None or standing.role not in ("owner", "moderator"):
                raise Forbidden("Only who sent a message, or a moderator, may delete it")
        if draft.kind == "edit" and target.deletion is not None:
            raise NotFound("This message was deleted")
        return target

    def _room(self, draft: Draft) -> RoomState:
        room = self.rooms.get(draft.room.name)
        if draft.creates and (room is None or room.epoch != draft.room.epoch):
            raise Conflict("A room with this name, or one that looks like it, is there already")
        if room is None:
            raise NotFound("There is no such room")
        return room

    def _permitted(self, draft: Draft, room: RoomState) -> Standing | None:
        """Judge the sender once more, now that nothing can change in between."""
        standing = self.standings.get((draft.room.name, draft.sender))
        joins = draft.kind == "member" and draft.body["action"] == "join"
        if joins:
            if standing is not None:
                raise Conflict("Already a member of this room")
            if room.kind != "public" and not draft.creates:
                raise NotFound("There is no such room")
            if draft.limits is not None:
                self._check_rooms(draft, draft.limits)
        elif standing is None:
            if room.kind != "public":
                raise NotFound("There is no such room")
            raise NotMember("You must join the chat first")
        return standing

    def _check_rooms(self, draft: Draft, limits: Limits) -> None:
        """Raise Forbidden for one room too many: all of a user's fit into one frame."""
        roles = self.roles[draft.sender].values()
        if len(roles) >= limits.rooms_joined:
            raise Forbidden(f"You are in {len(roles)} rooms; leave one first")
        owned = sum(role == "owner" for role in roles)
        if draft.body.get("role") == "owner" and owned >= limits.rooms_owned:
            raise Forbidden(f"You own {owned} rooms, as many as one may")

    def _change(self, draft: Draft, room: RoomState) -> None:
        """Let somebody's membership begin, end, or go on in another role."""
        name, username = key = draft.room.name, str(draft.body["username"])
        role, before = draft.body.get("role"), self.standings.get(key)
        roles = self.roles.get(username, {})
        roles.pop(name, None)
        if role is not None:
            roles[name] = str(role)
        if role is None:
            self.standings.pop(key, None)
            self.changed[key] = None
        elif before is None:
            self._stand(*key, str(role), room)
        else:
            self.standings[key] = self.changed[key] = evolve(before, role=str(role))

    def _stand(self, room: str, username: str, role: str, state: RoomState) -> None:
        """Have somebody stand at the head: all before it is read."""
        standing = Standing(role, state.head, state.messages)
        self.standings[room, username] = self.changed[room, username] = standing


def _aim(draft: Draft) -> RoomSeq:
    seq = draft.body["target"]
    assert isinstance(seq, int)
    return draft.room.name, seq


@define
class Touched:
    """What a batch is about, and a ledger must know."""

    rooms: set[str] = field(factory=set)
    people: set[RoomUser] = field(factory=set)
    txns: set[TxnKey] = field(factory=set)
    joiners: set[str] = field(factory=set)
    """Who is about to join under limits."""
    targets: set[RoomSeq] = field(factory=set)
    """Messages to be edited or deleted."""


def touched(drafts: Iterable[Draft]) -> Touched:
    found = Touched()
    for draft in drafts:
        room = draft.room.name
        found.rooms.add(room)
        found.people.add((room, draft.sender))
        if draft.kind == "member":
            found.people.add((room, str(draft.body["username"])))
        elif draft.kind in ("edit", "delete"):
            found.targets.add(_aim(draft))
        if draft.txn_id is not None:
            found.txns.add((room, draft.sender, draft.txn_id))
        if draft.limits is not None:
            found.joiners.add(draft.sender)
    return found


def fingerprint(draft: Draft) -> int:
    """63 bits that differ when a draft asks for something else; the same for ever."""
    asked = orjson.dumps([draft.kind, draft.body], option=orjson.OPT_SORT_KEYS)
    return int.from_bytes(hashlib.blake2b(asked, digest_size=8).digest()) >> 1
