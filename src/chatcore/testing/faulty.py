"""A Repository that fails, waits or fills up where a script says, with a real one inside."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import ParamSpec, TypeAlias, TypeVar

from attrs import field, frozen

from chatcore.errors import OutcomeUnknown, StorageFull, Unavailable
from chatcore.events import (
    BanItem,
    Durable,
    Edit,
    Found,
    Marked,
    MemberItem,
    Message,
    ReportItem,
    Stored,
    committed,
)
from chatcore.model import Account, Closing, Draft, Listed, Membership, Restraint, Room, User
from chatcore.ports import Outcome, Repository
from chatcore.query import Query

P = ParamSpec("P")
T = TypeVar("T")

WRITES = frozenset(
    "append index purge expire add_room mark_read report add_user set_password set_profile"
    " disable enable add_token remove_token remove_tokens close_account account_closed"
    " redact redact_reports lift_restraints forget_txns".split()
)
"""The methods that a full disk refuses."""


@frozen
class Call:
    """One call of a repository's method."""

    method: str
    number: int
    """1 for the first call of this method."""
    arguments: tuple[object, ...]


@frozen
class Refusal:
    """The call raises `error`, and nothing was read or written."""

    error: BaseException


@frozen
class LostOutcome:
    """An `append` raises OutcomeUnknown; the batch was committed, or none of it was."""

    committed: bool
    error: Unavailable = field(factory=lambda: Unavailable("The database did not answer COMMIT"))


@frozen
class Hold:
    """The call waits until `until` is set, however long, and then goes on."""

    until: threading.Event


@frozen
class Pause:
    """The call waits for so many seconds, and then goes on."""

    seconds: float


Failure: TypeAlias = Refusal | LostOutcome | Hold | Pause

RepositoryScript: TypeAlias = Callable[[Call], Failure | None]
"""Asked before each call what is to happen to it, in the thread of the call; it may wait too."""


def failing(
    methods: str | Collection[str],
    failure: Failure,
    *,
    skip: int = 0,
    times: int | None = None,
    when: Callable[[Call], bool] = lambda _: True,
) -> RepositoryScript:
    """Return a script for calls of these methods: it skips so many, then strikes so many times.

    None strikes for ever.  Only those calls count that `when` is true for.
    """
    names = {methods} if isinstance(methods, str) else {*methods}
    numbers = itertools.count()  # each is given once, whichever thread asks

    def script(call: Call) -> Failure | None:
        if call.method not in names or not when(call):
            return None
        struck = next(numbers) - skip
        return failure if struck >= 0 and (times is None or struck < times) else None

    return script


def full(space: threading.Event) -> RepositoryScript:
    """Return a script that refuses every write with StorageFull while `space` is not set."""
    error = StorageFull("The storage is full; nothing was stored")
    return failing(WRITES, Refusal(error), when=lambda _: not space.is_set())


class FaultyRepository:
    """A Repository that does what the one inside does, but for what its scripts say.

        busy = failing("append", Refusal(Unavailable("busy")), skip=2, times=1)
        chat = Chat(FaultyRepository(MemoryRepository(), busy))

    Every script is asked at each call, and then all that they say happens, in their order.
    `scripts` may be changed at any time.
    """

    def __init__(self, inside: Repository, *scripts: RepositoryScript) -> None:
        self.inside = inside
        self.scripts = [*scripts]
        self.calls: Counter[str] = Counter()
        """How often each method was called, by its name; what waits has been called."""
        self._lock = threading.Lock()

    def _do(self, method: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        call = self._called(method.__name__, args)
        for failure in self._failures(call):
            if isinstance(failure, LostOutcome):
                raise TypeError(f"{call.method} has no outcome that could be lost")
        return method(*args, **kwargs)

    def _called(self, method: str, arguments: tuple[object, ...]) -> Call:
        with self._lock:
            self.calls[method] += 1
            return Call(method, self.calls[method], arguments)

    def _failures(self, call: Call) -> Sequence[LostOutcome]:
        """Fail or wait as the scripts say; return what is left to do."""
        lost = []
        for failure in [script(call) for script in self.scripts]:
            match failure:
                case Refusal(error):
                    raise error
                case Hold(until):
                    until.wait()
                case Pause(seconds):
                    threading.Event().wait(seconds)
                case LostOutcome():
                    lost.append(failure)
        return lost

    # The port.

    def open(self) -> None:
        self._do(self.inside.open)

    def claim(self) -> None:
        self._do(self.inside.claim)

    def close(self) -> None:
        self._do(self.inside.close)

    def append(self, drafts: Sequence[Draft]) -> Sequence[Outcome]:
        for lost in self._failures(self._called("append", (drafts,))):
            outcomes = self.inside.append(drafts) if lost.committed else self._supposed(drafts)
            raise OutcomeUnknown(outcomes, lost.error)
        return self.inside.append(drafts)

    def _supposed(self, drafts: Sequence[Draft]) -> Sequence[Outcome]:
        """Return what a commit might have made of them, for `stored` to say that it did not."""
        heads = {
            room: self.inside.head(room, 0)[1] if self.inside.room(room) else 0
            for room in {draft.room.name for draft in drafts}
        }
        outcomes = []
        for draft in drafts:
            heads[draft.room.name] += 1
            outcomes.append(Stored(committed(draft, heads[draft.room.name]), 1, 0))
        return outcomes

    def stored(self, drafts: Sequence[Draft], outcomes: Sequence[Outcome]) -> Sequence[bool]:
        return self._do(self.inside.stored, drafts, outcomes)

    def add_room(self, room: Room) -> bool:
        return self._do(self.inside.add_room, room)

    def room(self, name: str) -> Room | None:
        return self._do(self.inside.room, name)

    def head(self, room: str, tail: int) -> tuple[int, int, Sequence[Durable]]:
        return self._do(self.inside.head, room, tail)

    def foreign_heads(self, rooms: Sequence[str]) -> Mapping[str, int] | None:
        return self._do(self.inside.foreign_heads, rooms)

    def read(self, room: str, after: int, upto: int, limit: int) -> Sequence[Durable]:
        return self._do(self.inside.read, room, after, upto, limit)

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
        return self._do(
            self.inside.messages,
            room,
            after,
            before,
            limit,
            newest=newest,
            upto=upto,
            reader=reader,
        )

    def events(
        self, room: str, kinds: Sequence[str], after: int, before: int, limit: int, *, newest: bool
    ) -> Sequence[Durable]:
        return self._do(self.inside.events, room, kinds, after, before, limit, newest=newest)

    def index(self, limit: int) -> int:
        return self._do(self.inside.index, limit)

    def search(
        self, username: str, query: Query, before: int | None, limit: int, now: datetime
    ) -> Sequence[tuple[int, Found | None]]:
        return self._do(self.inside.search, username, query, before, limit, now)

    def purge(self) -> bool:
        return self._do(self.inside.purge)

    def due(self, now: datetime, limit: int, after: str = "") -> tuple[str, int] | None:
        return self._do(self.inside.due, now, limit, after)

    def expire(self, room: str, first: int, now: datetime) -> None:
        self._do(self.inside.expire, room, first, now)

    def rooms(self, username: str, after: str, limit: int) -> Sequence[Listed]:
        return self._do(self.inside.rooms, username, after, limit)

    def place(self, room: str, username: str) -> tuple[str | None, Restraint | None]:
        return self._do(self.inside.place, room, username)

    def membership(self, room: str, username: str, upto: int | None = None) -> Membership | None:
        return self._do(self.inside.membership, room, username, upto)

    def memberships(self, username: str) -> Sequence[Membership]:
        return self._do(self.inside.memberships, username)

    def mark_read(self, marks: Mapping[tuple[str, str], int]) -> Mapping[tuple[str, str], Marked]:
        return self._do(self.inside.mark_read, marks)

    def members(self, room: str, after: str, limit: int) -> Sequence[MemberItem]:
        return self._do(self.inside.members, room, after, limit)

    def report(self, room: str, seq: int, username: str, reason: str, now: datetime) -> bool:
        return self._do(self.inside.report, room, seq, username, reason, now)

    def reports(self, room: str, after: int, limit: int) -> Sequence[ReportItem]:
        return self._do(self.inside.reports, room, after, limit)

    def bans(self, room: str, after: str, limit: int, now: datetime) -> Sequence[BanItem]:
        return self._do(self.inside.bans, room, after, limit, now)

    def add_user(self, user: User, password_hash: str | None) -> bool:
        return self._do(self.inside.add_user, user, password_hash)

    def set_password(
        self, username: str, password_hash: str, *, revoke: bool = False, keep: bytes | None = None
    ) -> None:
        self._do(self.inside.set_password, username, password_hash, revoke=revoke, keep=keep)

    def set_profile(self, user: User) -> bool:
        return self._do(self.inside.set_profile, user)

    def user(self, username: str) -> Account | None:
        return self._do(self.inside.user, username)

    def users(self, after: str, limit: int) -> Sequence[Account]:
        return self._do(self.inside.users, after, limit)

    def disable(self, username: str) -> bool:
        return self._do(self.inside.disable, username)

    def enable(self, username: str) -> bool:
        return self._do(self.inside.enable, username)

    def add_token(self, digest: bytes, username: str, expires: datetime, now: datetime) -> bool:
        return self._do(self.inside.add_token, digest, username, expires, now)

    def token(self, digest: bytes, now: datetime) -> tuple[User, datetime] | None:
        return self._do(self.inside.token, digest, now)

    def tokens(self, username: str) -> Sequence[datetime]:
        return self._do(self.inside.tokens, username)

    def logins(self, usernames: Sequence[str]) -> Mapping[str, Collection[bytes]]:
        return self._do(self.inside.logins, usernames)

    def remove_token(self, digest: bytes) -> None:
        self._do(self.inside.remove_token, digest)

    def remove_tokens(self, username: str) -> None:
        self._do(self.inside.remove_tokens, username)

    def close_account(self, username: str, closing: Closing) -> Account | None:
        return self._do(self.inside.close_account, username, closing)

    def closing_accounts(self) -> Sequence[Account]:
        return self._do(self.inside.closing_accounts)

    def account_closed(self, username: str, closing: Closing) -> None:
        self._do(self.inside.account_closed, username, closing)

    def said(self, username: str, after: int, limit: int) -> tuple[Sequence[Durable], int | None]:
        return self._do(self.inside.said, username, after, limit)

    def redact(self, events: Sequence[Durable]) -> None:
        self._do(self.inside.redact, events)

    def reported(self, after: str, limit: int) -> Sequence[str]:
        return self._do(self.inside.reported, after, limit)

    def reports_of(self, username: str) -> Sequence[tuple[str, ReportItem]]:
        return self._do(self.inside.reports_of, username)

    def redact_reports(self, username: str) -> None:
        self._do(self.inside.redact_reports, username)

    def lift_restraints(self, username: str) -> None:
        self._do(self.inside.lift_restraints, username)

    def forget_txns(self, username: str, limit: int) -> bool:
        return self._do(self.inside.forget_txns, username, limit)
