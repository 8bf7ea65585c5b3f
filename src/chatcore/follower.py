"""Where a participant is in the log of each room it has joined, and what its user gets next.

Pure.  A participant hands on what the server says, and gives its user what `take`
returns: each event of a room once and in order, whatever was told twice, left out,
or found no room here.  No more than EVENTS_MOST wait.  A room whose events are too
many is behind; it is joined again from its position once its user has taken the rest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence

from attrs import define

from chatcore.commands import Command, Join, Leave, Since
from chatcore.errors import ChatError, Forbidden, Internal, NotFound, NotMember
from chatcore.events import (
    Connected,
    Durable,
    Event,
    JoinReply,
    Lost,
    Member,
    MembershipChanged,
    Notice,
    Other,
    Presence,
    ProfileChanged,
    Read,
    Reconnecting,
    Reply,
    Reset,
    Resumed,
    Told,
    Typing,
)
from chatcore.model import INVITED

EVENTS_HELD = 256
"""Events that wait for whoever iterates, before no more are read for their sake."""
EVENTS_MOST = 1_024
"""Events held while answers are read past them."""


@define
class _Position:
    """Where one room's log was left: `seq` is the last event that was given."""

    epoch: str
    seq: int
    joining: bool = False
    """Being joined again: what comes before the reply does not count."""
    away: bool = False
    """The connection was lost since."""
    behind: bool = False
    """Something did not come, or had no room; it is asked for when there is room."""
    leaving: bool = False
    """The user has left; the event that says so is on its way."""
    removed: bool = False
    """So it was told of their membership; the event that says so may be yet to come."""
    asked: int | None = None
    """The `seq` from which it was last joined again."""


class Follower:
    """Follows the rooms of one participant.  `username` is whose they are, once that is known."""

    def __init__(self) -> None:
        self.username: str | None = None
        self._waiting: deque[Event | Notice] = deque()
        self._memberships: dict[str, MembershipChanged] = {}
        self._profiles: dict[str, ProfileChanged] = {}
        self._reads: dict[str, Read] = {}
        self._presences: dict[str, Presence] = {}
        """What had no room of these: of each room, or person, the latest; all changes as one."""
        self._rooms: dict[str, _Position] = {}

    # For the user.

    @property
    def full(self) -> bool:
        """Whether so many events wait that no more should be read for their sake."""
        return len(self._waiting) >= EVENTS_HELD

    def take(self) -> Event | Notice | None:
        """Return what the user gets next; None where nothing waits."""
        if self._waiting:
            return self._waiting.popleft()
        for owed in (self._memberships, self._profiles, self._reads, self._presences):
            if owed:
                return owed.pop(next(iter(owed)))
        return None

    def tell(self, notice: Notice) -> None:
        """Have the user told of the connection.

        One that came and went while nobody looked is told as one with the next.
        """
        if isinstance(notice, Reconnecting):
            while self._waiting and isinstance(
                self._waiting[-1], Reconnecting | Connected | Resumed
            ):
                self._waiting.pop()
        self._waiting.append(notice)

    # What the server says.

    def hear(self, told: Told | None) -> None:
        """Take an event.  Raises Internal for a hole that stays when its room is joined again."""
        room_left = len(self._waiting) < EVENTS_MOST
        match told:
            case _ if isinstance(told, Durable):
                self._follow(told.room, told.seq, told)
            case Other(room, int(seq)):
                self._follow(room, seq, None)
            case MembershipChanged():
                if room_left and not self._memberships:
                    self._waiting.append(told)
                else:
                    self._memberships[told.room.name] = told
                if told.role in (None, INVITED):  # whoever is invited is in no more
                    self._removed(told.room.name)
                elif told.room.name in self._rooms:
                    self._rooms[told.room.name].removed = False
            case ProfileChanged():
                if room_left and not self._profiles:
                    self._waiting.append(told)
                else:
                    self._profiles[told.username] = told
            case Typing() if room_left:
                self._waiting.append(told)
            case Read():
                if room_left and not self._reads:
                    self._waiting.append(told)
                else:
                    self._reads[f"{told.room} {told.username}"] = told
            case Presence():
                if room_left and told.room not in self._presences:
                    self._waiting.append(told)
                else:
                    before = self._presences.get(told.room)
                    self._presences[told.room] = _merged(before, told) if before else told

    def joined(self, command: Join, reply: JoinReply) -> None:
        """Follow a room that the user has joined, after what the reply has given them."""
        # What waits of it would come once more, or does not count any more.
        self._waiting = deque(
            event
            for event in self._waiting
            if not (isinstance(event, Durable) and event.room == reply.room.name)
        )
        seq = reply.head
        if reply.recovered and command.since is not None:
            seq = reply.events[-1].seq if reply.events else command.since.seq
        self._rooms[reply.room.name] = _Position(reply.epoch, seq)

    def left(self, room: str) -> None:
        """Follow a room that the user has left up to the event that says so, and no further."""
        position = self._rooms.get(room)
        if position is not None:
            position.leaving = True
            if position.behind or position.joining:
                del self._rooms[room]

    def _removed(self, room: str) -> None:
        """A membership has ended: where its event did not come, it will not be asked for.

        To join again would make a member of somebody who has left, or was removed.
        """
        position = self._rooms.get(room)
        if position is not None:
            position.removed = True
            if position.behind or position.joining:
                self._lose(room, NotMember(f"You are no longer a member of {room}"))

    def _follow(self, room: str, seq: int, event: Durable | None) -> None:
        """Give an event if it is the next of its room, and see to it that the next one comes."""
        position = self._rooms.get(room)
        if position is None or position.joining or position.behind or seq <= position.seq:
            return
        hole = seq > position.seq + 1
        if hole and position.asked == position.seq:
            raise Internal(f"{room} has a hole after {position.seq}")  # asking again did not help
        if hole or len(self._waiting) >= EVENTS_MOST:
            position.behind = True
            if position.leaving:  # and joining again would undo it
                del self._rooms[room]
            elif position.removed:
                self._lose(room, NotMember(f"You are no longer a member of {room}"))
            return
        position.seq = seq
        if event is None:
            return
        self._waiting.append(event)
        if isinstance(event, Member) and event.ends and event.username == self.username:
            del self._rooms[room]

    # Going on from where a room was left.

    def again(self, under_way: Iterable[Command]) -> Sequence[Join]:
        """Return what joins each room again that is behind; give its outcome to `joined_again`.

        None while a `leave` is under way, which it would undo.
        """
        if any(isinstance(command, Leave) for command in under_way):
            return []
        behind = [room for room, position in self._rooms.items() if position.behind]
        return [self._again(room) for room in behind]

    def _again(self, room: str) -> Join:
        position = self._rooms[room]
        position.joining, position.behind, position.asked = True, False, position.seq
        return Join(room, Since(position.epoch, position.seq))

    def joined_again(self, command: Join, outcome: Reply | ChatError) -> None:
        """Go on with a room, or say why not.  Raises a ChatError after which it is behind still."""
        position = self._rooms.get(command.room)
        if position is None:
            return
        match outcome:
            case JoinReply(recovered=True):
                if position.away:
                    self.tell(Resumed(command.room, outcome.head - position.seq))
                position.joining = position.away = False
                for event in outcome.events:
                    self.hear(event)
            case JoinReply():
                self._rooms[command.room] = _Position(outcome.epoch, outcome.head)
                self.tell(Reset(command.room, outcome))
            case NotFound() | Forbidden():
                self._lose(command.room, outcome)
            case _:
                position.joining, position.behind, position.asked = False, True, None
                if isinstance(outcome, ChatError):
                    raise outcome
                raise Internal("the server answered something else")

    def part(self) -> None:
        """The connection is lost: keep each room's position for the next one."""
        self._rooms = {
            room: _Position(position.epoch, position.seq, away=True)
            for room, position in self._rooms.items()
            if not position.leaving
        }

    def resume(self, mine: Collection[str]) -> Sequence[Join]:
        """Tell of the next connection, and return what joins the rooms again, as `again` does.

        `mine` are the rooms that the user is still a member of.
        """
        self.tell(Connected())
        for room in [room for room in self._rooms if room not in mine]:
            # Not asked for again: joining would make a member of somebody who was removed.
            self._lose(room, NotMember(f"You are no longer a member of {room}"))
        return [self._again(room) for room in self._rooms]

    def _lose(self, room: str, error: ChatError) -> None:
        del self._rooms[room]
        self.tell(Lost(room, error))


def _merged(first: Presence, then: Presence) -> Presence:
    """Return two changes of a room's presence as one."""
    if then.online is None or len(then.online) == then.count:
        return then  # of a crowd only the number is told, and these are all
    if first.online is None:
        return Presence(then.room, then.count)
    came, went = {*first.online}, {*(first.offline or ())}
    came = (came - {*(then.offline or ())}) | {*then.online}
    went = (went - {*then.online}) | {*(then.offline or ())}
    return Presence(then.room, then.count, sorted(came), sorted(went))
