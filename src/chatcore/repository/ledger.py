"""One batch judged: which drafts enter the log, at which seq, and what they change.

Pure.  A repository loads what the batch touches, has every draft judged in order
under its lock or in its transaction, and writes what the ledger then holds; so all
repositories decide alike, and each draft sees what those before it did.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import datetime

import orjson
from attrs import define, evolve, field

from chatcore.errors import ChatError, Conflict, Forbidden, NotFound, NotMember, TxnConflict
from chatcore.events import Duplicate, Stored, committed
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


RoomUser = tuple[str, str]
TxnKey = tuple[str, str, str]


@define
class Ledger:
    """Give it what `touched` names, `judge` the drafts in order, then write the rest."""

    rooms: dict[str, RoomState]
    users: set[str]
    standings: dict[RoomUser, Standing]
    txns: dict[TxnKey, Txn]
    roles: dict[str, dict[str, str]]
    """Of each user who is about to join under limits, the role in each of their rooms."""

    stored: list[tuple[Draft, Stored]] = field(factory=list, init=False)
    changed: dict[RoomUser, Standing | None] = field(factory=dict, init=False)
    """The members whose standing this batch changed; None where it ended."""
    used: dict[TxnKey, Txn] = field(factory=dict, init=False)

    def judge(self, draft: Draft) -> Outcome:
        """Take one draft in, or say why not."""
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

    def _enter(self, draft: Draft) -> Stored:
        if draft.sender not in self.users:
            raise NotFound("There is no such user")
        room = self._room(draft)
        standing = self._permitted(draft, room)
        if draft.refusal is not None:  # after those, for a refusal tells that there is a room
            raise draft.refusal
        room.head += 1
        room.messages += draft.kind == "message"
        stored = Stored(committed(draft, room.head), room.first, room.messages)
        self.stored.append((draft, stored))
        if draft.kind == "member":
            self._change(draft, room)
        elif standing is not None:
            # Sending moves the sender's own read marker.
            self._stand(draft.room.name, draft.sender, standing.role, room)
        if draft.txn_id is not None:
            key = (draft.room.name, draft.sender, draft.txn_id)
            self.txns[key] = self.used[key] = Txn(room.head, draft.timestamp, fingerprint(draft))
        return stored

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


def touched(
    drafts: Iterable[Draft],
) -> tuple[set[str], set[RoomUser], set[TxnKey], set[str]]:
    """Name the rooms, the users in them, the txn_ids and the joiners of a batch."""
    rooms, people, txns, joiners = set(), set(), set(), set()
    for draft in drafts:
        room = draft.room.name
        rooms.add(room)
        people.add((room, draft.sender))
        if draft.kind == "member":
            people.add((room, str(draft.body["username"])))
        if draft.txn_id is not None:
            txns.add((room, draft.sender, draft.txn_id))
        if draft.limits is not None:
            joiners.add(draft.sender)
    return rooms, people, txns, joiners


def fingerprint(draft: Draft) -> int:
    """63 bits that differ when a draft asks for something else; the same for ever."""
    asked = orjson.dumps([draft.kind, draft.body], option=orjson.OPT_SORT_KEYS)
    return int.from_bytes(hashlib.blake2b(asked, digest_size=8).digest()) >> 1
