"""What one client sent, was told and saw; and how that is written down while it happens."""

from __future__ import annotations

import contextlib
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

from attrs import define, field

from chatcore.codec import JsonLines
from chatcore.commands import Command, Delete, Edit, Join, Send, Since
from chatcore.errors import ChatError, Internal, Invalid, Unavailable
from chatcore.events import (
    Answer,
    DeleteReply,
    Durable,
    EditReply,
    Event,
    JoinReply,
    Lost,
    Member,
    Notice,
    Reset,
    SendReply,
)
from chatcore.model import MAX_FRAME, Limits, Membership, RequestId, User
from chatcore.names import room_name
from chatcore.participant import Participant, R

_ACKNOWLEDGED = SendReply | EditReply | DeleteReply


@define(eq=False)
class Sent:
    """A message on its way, and what became of it: nothing yet, an acknowledgement, or an error.

    Or an edit of one, or a deletion.
    """

    room: str
    content: str
    txn_id: str | None = None
    seq: int | None = None
    """What it was acknowledged as."""
    duplicate: bool = False
    refused: str = ""
    """The code of an error after which it is certainly not stored."""
    kind: Literal["message", "edit", "delete"] = "message"
    target: int = 0
    """The seq of the message that is edited or deleted."""

    def acknowledged(self, reply: SendReply | EditReply | DeleteReply) -> None:
        self.seq, self.duplicate = reply.seq, reply.duplicate

    def failed(self, error: ChatError) -> None:
        if not isinstance(error, Unavailable | Internal):
            self.refused = error.code


@define(eq=False)
class Reading:
    """What a client was given of one room from one join on, in order."""

    start: int | None
    """The event before the first one that is due; None where there was no join."""
    epoch: str = ""
    head: int = 0
    """What the join told."""
    recent: Sequence[Durable] = ()
    """The newest messages up to `start`, where the join was a fresh one."""
    seen: list[Durable] = field(factory=list)
    resumed: Since | None = None
    """The position that was given where the join claims to go on from there."""
    ended: bool = False
    """Whether nothing more is due: the reader has left, or was told so."""

    @property
    def due(self) -> int | None:
        """The seq of the next event."""
        last = self.seen[-1].seq if self.seen else self.start
        return None if last is None else last + 1


@define(eq=False)
class Record:
    """What one user did and saw on one connection, or on several that follow one another.

    Each connection that is open beside another has a record of its own, for only the
    sends of one connection have an order.  `who` is their username as the server has it.
    A sender's messages are told apart by their text: give each one its own, and each edit.
    """

    who: str
    sends: list[Sent] = field(factory=list)
    readings: dict[str, list[Reading]] = field(factory=lambda: defaultdict(list))
    """By room."""

    def sending(self, room: str, content: str, txn_id: str | None = None) -> Sent:
        """Note a message before it is sent; note at what is returned what became of it."""
        sent = Sent(_named(room), _as_stored(content), txn_id)
        self.sends.append(sent)
        return sent

    def editing(self, room: str, target: int, content: str, txn_id: str | None = None) -> Sent:
        """Note an edit before it is sent."""
        return self._sending(Sent(_named(room), _as_stored(content), txn_id), "edit", target)

    def deleting(self, room: str, target: int, txn_id: str | None = None) -> Sent:
        """Note a deletion before it is sent."""
        return self._sending(Sent(_named(room), "", txn_id), "delete", target)

    def _sending(self, sent: Sent, kind: Literal["edit", "delete"], target: int) -> Sent:
        sent.kind, sent.target = kind, target
        self.sends.append(sent)
        return sent

    def asking(self, command: Send | Edit | Delete) -> Sent:
        """Note a command before it is given."""
        match command:
            case Send():
                return self.sending(command.room, command.content, command.txn_id)
            case Edit():
                return self.editing(command.room, command.seq, command.content, command.txn_id)
            case Delete():
                return self.deleting(command.room, command.seq, command.txn_id)

    def joined(self, reply: JoinReply, since: Since | None = None) -> None:
        """Note that a room was joined, or that a Reset told so."""
        reading = Reading(reply.head, reply.epoch, reply.head, reply.events)
        if reply.recovered:
            resumed = since or Since("", 0)
            reading = Reading(resumed.seq, reply.epoch, reply.head, (), [*reply.events], resumed)
        self.readings[reply.room.name].append(reading)

    def saw(self, event: Durable) -> None:
        reading = self.reading(event.room)
        if reading is None:
            reading = Reading(None)
            self.readings[event.room].append(reading)
        self.saw_in(reading, event)

    def saw_in(self, reading: Reading, event: Durable) -> None:
        """Note an event of a reading that need not be the last one."""
        reading.seen.append(event)
        if isinstance(event, Member) and event.ends and event.username == self.who:
            reading.ended = True

    def left(self, room: str) -> None:
        """Note that no more of a room is due."""
        reading = self.reading(room)
        if reading is not None:
            reading.ended = True

    def reading(self, room: str) -> Reading | None:
        """Return what goes on being read of a room."""
        readings = self.readings.get(room)
        return readings[-1] if readings and not readings[-1].ended else None

    @property
    def acknowledged(self) -> int:
        """How many sends were acknowledged."""
        return sum(sent.seq is not None for sent in self.sends)


def _named(room: str) -> str:
    with contextlib.suppress(Invalid):
        return room_name(room)
    return room


def _as_stored(text: str) -> str:
    """Return a text as `model.content` leaves it."""
    return unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))


class Recorded(Participant):
    """A participant, each of whose sends, answers and events goes into a record too.

        async with connect(url, username="ada", password=password) as client:
            ada = Recorded(client, record)

    Use it in place of the one inside, for commands and for events.  A message that the
    one inside sends again by itself was sent once; await each one where the server's rates
    may put it off, for others then overtake it.  Where a room is joined again while it
    is read, an event that came by both ways counts as seen by both.
    """

    def __init__(self, inside: Participant, record: Record) -> None:
        self.inside = inside
        self.record = record
        self._joining: dict[str, list[Event | Notice]] = {}
        """What was given of a room while the answer to its join was on its way to the caller."""

    @property
    def user(self) -> User | None:
        return self.inside.user

    @property
    def memberships(self) -> Sequence[Membership]:
        return self.inside.memberships

    async def __anext__(self) -> Event | Notice:
        event = await self.inside.__anext__()
        room = getattr(event, "room", "")
        if room in self._joining:
            self._joining[room].append(event)
        else:
            self._note(event)
        return event

    def _note(self, event: Event | Notice) -> None:
        match event:
            case _ if isinstance(event, Durable):
                self._saw(event)
            case Reset():
                self.record.left(event.room)
                self.record.joined(event.joined)
            case Lost():
                self.record.left(event.room)

    def _saw(self, event: Durable) -> None:
        """Note an event in the reading that it belongs to.

        Events wait to be taken, and answers do not: a room that was joined again while
        it was read may still give what is left of the reading before.
        """
        for reading in reversed(self.record.readings[event.room]):
            if reading.due == event.seq and not reading.ended:
                self.record.saw_in(reading, event)
                return
        self.record.saw(event)

    async def _ask(self, command: Command, expected: type[R]) -> R:
        ask = self.inside._ask  # noqa: SLF001 - all commands go through it, in every participant
        match command:
            case Send() | Edit() | Delete():
                sent = self.record.asking(command)
                try:
                    reply = await ask(command, expected)
                except ChatError as error:
                    sent.failed(error)
                    raise
                assert isinstance(reply, _ACKNOWLEDGED)
                sent.acknowledged(reply)
                return reply
            case Join():
                room = _named(command.room)
                self._joining.setdefault(room, [])
                try:
                    reply = await ask(command, expected)
                    assert isinstance(reply, JoinReply)
                    self.record.joined(reply, command.since)
                    return reply
                finally:
                    for event in self._joining.pop(room, ()):
                        self._note(event)
        return await ask(command, expected)


class Tap:
    """Reads the frames of one connection into a record; `Transcript` has one on request."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self._wire = JsonLines(Limits(frame_bytes=MAX_FRAME))
        self._asked: dict[RequestId | None, Sent | Join] = {}

    def sent(self, frame: bytes) -> None:
        """Note a frame before it is sent."""
        request = self._wire.decode(frame)
        match request.command:
            case Send() | Edit() | Delete():
                self._asked[request.id] = self.record.asking(request.command)
            case Join():
                self._asked[request.id] = request.command

    def told(self, frame: bytes) -> None:
        """Note a frame that was received."""
        told = self._wire.told(frame)
        match told:
            case _ if isinstance(told, Durable):
                self.record.saw(told)
            case Answer(id, outcome) if id is not None:
                match self._asked.pop(id, None), outcome:
                    case Sent() as sent, SendReply() | EditReply() | DeleteReply():
                        sent.acknowledged(outcome)
                    case Sent() as sent, ChatError():
                        sent.failed(outcome)
                    case Join() as join, JoinReply():
                        self.record.joined(outcome, join.since)
