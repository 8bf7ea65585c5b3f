"""Every plug point, as a Protocol documented by what it guarantees.

`chatcore.testing` has a contract check for Repository, Bus and Link that any
implementation can run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Protocol, TypeAlias, TypeGuard, runtime_checkable

from chatcore.commands import Command, Request
from chatcore.errors import ChatError
from chatcore.events import (
    BanItem,
    Bye,
    Duplicate,
    Durable,
    Edit,
    Event,
    Found,
    Hello,
    Marked,
    MemberItem,
    Message,
    Reply,
    ReportItem,
    Stored,
)
from chatcore.model import (
    Account,
    Closing,
    Credentials,
    Draft,
    Listed,
    Membership,
    RequestId,
    Restraint,
    Room,
    User,
)
from chatcore.query import Query

Clock: TypeAlias = Callable[[], datetime]
"""Says what time it is, in UTC, for people.  Nothing is ordered by it."""

Outcome: TypeAlias = Stored | Duplicate | ChatError
"""What became of one draft."""


class Repository(Protocol):
    """The log and the accounts: rows in, rows out, synchronous.

    Every method may be called from any thread.  A read sees all that was committed
    before it began.  Any method may raise Unavailable, a write also StorageFull, and
    then nothing was written.  So it is with TypeError, ValueError and OverflowError,
    for a value that cannot be stored.  A write, and `foreign_heads`, raise SchemaError
    where the storage is not the one that was opened any more, and nothing can go on.
    """

    def open(self) -> None:
        """Make ready, creating or migrating the storage.  Raises SchemaError."""

    def claim(self) -> None:
        """Become the one Chat that serves this storage, until `close`.

        Called before `open`, which may migrate what another serves.  For a storage that
        only one may serve.  Raises SchemaError where another does.
        """

    def close(self) -> None:
        """Let go of everything; repeatable."""

    # The log.

    def append(self, drafts: Sequence[Draft]) -> Sequence[Outcome]:
        """Commit a batch in one transaction; one outcome for each draft, in their order.

        `seq` is dense in each room and follows the order of the drafts.  A draft is
        judged inside the transaction: a known txn_id first, then whether its sender
        may, by `policy` and the `limits`, then its `refusal`, then slow mode, and whether
        there is the message that it is of, and whether the sender may do that; a refused one
        has its ChatError as outcome and leaves no trace.  Who is disabled or deleted may
        nothing.  A draft that is `as_host` is not asked what its sender may do, only whether
        it makes sense.  A deletion of what is deleted already is a Duplicate of the first, and
        so is a reaction that changes nothing of what has made it so: of the message, where it
        takes away what is not there.  When this returns, everything is durable.

        A deletion takes the text of the message and of its edits out of the storage in
        the same transaction: from then on they are `erased` wherever they are read, and
        in this batch's outcomes; the message has no reactions any more.

        Raises OutcomeUnknown where the commit may or may not have happened.
        """

    def stored(self, drafts: Sequence[Draft], outcomes: Sequence[Outcome]) -> Sequence[bool]:
        """Say for each draft whether the log holds it with the seq that its outcome has.

        For the outcomes of an OutcomeUnknown; a Duplicate or an error counts as held, and
        whoever asks must see whether a Duplicate is of one in the same batch.
        """

    def add_room(self, room: Room) -> bool:
        """Create a room without members; False where the name, or one that looks like it, is."""

    def room(self, name: str) -> Room | None: ...

    def head(self, room: str, tail: int) -> tuple[int, int, Sequence[Durable]]:
        """Return a room's first seq, its head, and its newest `tail` events in seq order.

        One snapshot.  0 is the head of an empty log, and 1 its first.
        """

    def foreign_heads(self, rooms: Sequence[str]) -> Mapping[str, int] | None:
        """Return these rooms' heads, or None where nobody else has written since last asked.

        Somebody else is another process with a repository of its own.  Called from one
        thread, the one that writes.
        """

    def read(self, room: str, after: int, upto: int, limit: int) -> Sequence[Durable]:
        """Return at most `limit` events with after < seq <= upto, in seq order, without holes."""

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
        """Return at most `limit` messages with after < seq < before, in seq order.

        The newest of them, or the oldest, with the reactions that they have as of `upto`,
        as `reader` sees them; and behind them what `fold` needs beside them: of each the
        newest edit with seq <= upto, wherever in the log it is.  One snapshot.  A message
        with many reactions takes no longer than another, but for passing over them.
        """

    def events(
        self, room: str, kinds: Sequence[str], after: int, before: int, limit: int, *, newest: bool
    ) -> Sequence[Durable]:
        """Return at most `limit` events of these kinds with after < seq < before, in seq order.

        The newest of them, or the oldest.  Messages are none of them.
        """

    # Searching.

    def index(self, limit: int) -> int:
        """Take the next events of the log, at most `limit`, into what is searched.

        Returns how many there were.  What another process appends is taken, too.
        """

    def search(
        self, username: str, query: Query, before: int | None, limit: int, now: datetime
    ) -> Sequence[tuple[int, Found | None]]:
        """Return at most `limit` messages that a query finds, the newest first, each by its place.

        In the room that the query names, or in all; of these in the ones that the user
        may read by `policy`.  Each has the text that it has now and its room's head, as
        of one snapshot, and is None where that text is not what was indexed, and would
        not be found.  What is erased is not found, indexed or not.

        A place is a positive number, and stays.  A message that comes later has a higher one;
        `before` is the place below which to go on.
        """

    def purge(self) -> bool:
        """Wipe what erased messages have left in the index, some at a time, and elsewhere.

        Says whether there is more to do now.  Once there is not, nothing of them is anywhere,
        but for a storage whose implementation says otherwise.
        """

    def due(self, now: datetime, limit: int, after: str = "") -> tuple[str, int] | None:
        """Return a room that has events which it keeps no longer, and the first seq after them.

        They are its first ones, up to one that is younger than its `retention_days`, or
        `limit` of them.  None where no room has any.  Of several rooms it is the one whose
        name comes next to `after`; the last is followed by the first.
        """

    def expire(self, room: str, first: int, now: datetime) -> None:
        """Let go of those of a room's events below `first` that are due; repeatable.

        Looked at once more in the transaction that does it: what the room has been told to
        keep by then stays.

        They are as gone as what is erased, from what is searched, too, and so is what stood
        beside them, and the reason for which each was reported or deleted.  Who has read less
        counts as having read them.
        """

    # Who is in which room.

    def rooms(self, username: str, after: str, limit: int) -> Sequence[Listed]:
        """Return at most `limit` rooms that the user may see, by name, above `after`."""

    def place(self, room: str, username: str) -> tuple[str | None, Restraint | None]:
        """Return what somebody is in a room, None for nothing, and what holds them back there.

        Nothing and None where there is no such room.
        """

    def membership(self, room: str, username: str, upto: int | None = None) -> Membership | None:
        """Return one membership or invitation, or None.

        `head` and `unread` are as of `upto` where it is given.
        """

    def memberships(self, username: str) -> Sequence[Membership]:
        """Return all of a user's, and their invitations, by the room's name."""

    def members(self, room: str, after: str, limit: int) -> Sequence[MemberItem]:
        """Return at most `limit` members, by username, above `after`."""

    def mark_read(self, marks: Mapping[tuple[str, str], int]) -> Mapping[tuple[str, str], Marked]:
        """Move read markers, in one transaction: of a room and a username, how far they have read.

        A marker only grows, and is at most at the head.  Whoever is no member of that room
        has none.
        """

    # What moderators are told.

    def report(self, room: str, seq: int, username: str, reason: str, now: datetime) -> bool:
        """Store what a user has to say of a message, once; False where there is no such message.

        Or where it was deleted, or the user is not active.
        """

    def reports(self, room: str, after: int, limit: int) -> Sequence[ReportItem]:
        """Return at most `limit` reports, by number, above `after`."""

    def reported(self, after: str, limit: int) -> Sequence[str]:
        """Return at most `limit` rooms of which something was reported, by name, above `after`."""

    def bans(self, room: str, after: str, limit: int, now: datetime) -> Sequence[BanItem]:
        """Return at most `limit` of those who are banned or muted now, by username, above `after`.

        With what did it, as far as the log has it still.
        """

    # Accounts.

    def add_user(self, user: User, password_hash: str | None) -> bool:
        """Create an account; False where the name, or one that looks like it, is taken.

        None for a user whose password is kept elsewhere.
        """

    def set_password(
        self, username: str, password_hash: str, *, revoke: bool = False, keep: bytes | None = None
    ) -> None:
        """Give a user another password; nothing for one who is not there, or was deleted.

        With `revoke` the same transaction revokes all of the user's tokens but `keep`.
        """

    def set_profile(self, user: User) -> bool:
        """Give a user another display name, and say whether it is a bot.

        False for one who is not there, or was deleted.
        """

    def user(self, username: str) -> Account | None: ...

    def users(self, after: str, limit: int) -> Sequence[Account]:
        """Return at most `limit` accounts, by username, above `after`; the deleted ones too."""

    def disable(self, username: str) -> bool:
        """Let an active user do nothing more, and revoke all tokens; False for any other."""

    def enable(self, username: str) -> bool:
        """Let a disabled user in again; False for any other."""

    def add_token(self, digest: bytes, username: str, expires: datetime, now: datetime) -> bool:
        """Store a token, and forget those of this user that have expired by `now`.

        False for a user who is not active.
        """

    def token(self, digest: bytes, now: datetime) -> tuple[User, datetime] | None:
        """Return whose token it is and when it expires; None once it has or was revoked."""

    def tokens(self, username: str) -> Sequence[datetime]:
        """Return when each of a user's tokens expires, the first to do so first."""

    def logins(self, usernames: Sequence[str]) -> Mapping[str, Collection[bytes]]:
        """Return those of these users who are active, with the digests of their tokens."""

    def remove_token(self, digest: bytes) -> None: ...

    def remove_tokens(self, username: str) -> None:
        """Revoke all of a user's."""

    # An account's end, in steps that may be far apart; each may be taken again.

    def close_account(self, username: str, closing: Closing) -> Account | None:
        """Make a user a deleted one; return them, or None where there is no such user.

        Password, tokens and display name go, and what is still to be done is noted.  Of a
        deleted one it is noted where it is more than was asked for before.
        """

    def closing_accounts(self) -> Sequence[Account]:
        """Return those of whom something is still to be done."""

    def account_closed(self, username: str, closing: Closing) -> None:
        """Note that nothing is left to be done, where no more than this was asked for."""

    def said(self, username: str, after: int, limit: int) -> tuple[Sequence[Durable], int | None]:
        """Look through a part of all logs, and return at most `limit` events of a user.

        Those that they sent, the `member` events about them and the deletions of their
        messages, in the order in which they were stored.  `after` is 0 to begin with, and from
        then on what was returned last, until that is None.  How much is looked at is bounded.
        """

    def redact(self, events: Sequence[Durable]) -> None:
        """Take the `reason` out of these events, which are deletions and the like."""

    def reports_of(self, username: str) -> Sequence[tuple[str, ReportItem]]:
        """Return what a user reported, and what was reported of their messages, by its room."""

    def redact_reports(self, username: str) -> None:
        """Take the reason out of the reports that `reports_of` returns; their numbers stay."""

    def lift_restraints(self, username: str) -> None:
        """Forget what holds a user back, in all rooms: bans, mutes and the like."""

    def forget_txns(self, username: str, limit: int) -> bool:
        """Forget at most `limit` of a deleted user's txn_ids; say whether there may be more."""


class Bus(Protocol):
    """Carries what one node committed to the hubs of all nodes, this one included.

    It may lose, repeat and reorder batches: a hub sees a hole by the seq and reads
    the log.  A batch is never altered.
    """

    def publish(self, batch: Sequence[Durable]) -> None:
        """Hand over a batch, in commit order.  Never blocks, never raises."""

    def subscribe(self, deliver: Callable[[Sequence[Durable]], None]) -> None:
        """Have `deliver` called with each batch, in the event loop's thread."""


class Authenticator(Protocol):
    """Brings a host application's own users."""

    async def authenticate(self, credentials: Credentials) -> User | None:
        """Say who this is, or None for somebody unknown, who may still log in.

        The first visit creates the user, without a password.
        """


class Policy(Protocol):
    """Says no."""

    def check(self, actor: User, command: Command, room: Room | None) -> None:
        """Return, or raise a ChatError.  Pure: no I/O, and quick, for it runs on the loop."""


class Wire(Protocol):
    """How one kind of link spells commands, events and replies.

    What is encoded depends on the arguments alone, so one encoding of an event
    serves all listeners.  Encoded frames may be joined and written at once.
    """

    def decode(self, frame: bytes) -> Request:
        """Read one frame.  Never raises: what cannot be read is a Request of its error."""

    def encode(self, item: Hello | Event | Bye) -> bytes: ...

    def reply(self, answer: Reply | ChatError, id: RequestId | None) -> bytes: ...


class Link(Protocol):
    """One connection's two ends, a frame at a time."""

    wire: Wire

    @property
    def pending(self) -> int:
        """Bytes written that the kernel has not taken yet; 0 once the link is closed."""

    async def receive(self) -> bytes:
        """Return the next frame, without what frames it.

        One longer than MAX_FRAME may come cut to MAX_FRAME + 1 bytes.  Raises
        LinkClosed, and nothing else, once the peer is gone or `close` was called.
        Safe to cancel: no frame is lost.
        """

    def write(self, data: bytes) -> None:
        """Take one or more encoded frames.  Never blocks; after close it does nothing."""

    async def drained(self) -> None:
        """Return when little is pending, or the link is closed."""

    def close(self, code: int, reason: str) -> None:
        """Flush for a few seconds at most, then close; repeatable, the first one counts."""

    async def closed(self) -> None:
        """Return when the link is gone, flushed or not."""


class Transport(Protocol):
    """The two of asyncio's transports that a hub needs."""

    def write(self, data: bytes) -> None: ...

    def is_closing(self) -> bool: ...


@runtime_checkable
class StraightLink(Link, Protocol):
    """A Link to whose transport encoded frames may be written with nothing in between.

    A Link need not be one: it is what makes a write to each member of a big room cheap.
    """

    @property
    def straight(self) -> Transport | None:
        """The transport, while little waits there and `close` was not called; else None."""

    def watch(self, changed: Callable[[], None] | None) -> None:
        """Have `changed` called, at once, each time that `straight` is another."""


def is_straight(link: Link) -> TypeGuard[StraightLink]:
    """Say whether a link is a StraightLink, by its class; isinstance looks at all it has, anew."""
    return _is_straight(type(link))


@cache
def _is_straight(class_: type[Link]) -> bool:
    return hasattr(class_, "straight") and hasattr(class_, "watch")
