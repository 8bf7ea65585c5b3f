"""Chat: one method per use case; what a host application holds."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from types import TracebackType
from typing import Any, Generic, Self, TypeAlias, TypeVar

from attrs import evolve

from chatcore import auth, commands, model, names, policy, query
from chatcore.accounts import Accounts, Token
from chatcore.bus import LocalBus
from chatcore.drafting import REPLIES, Drafting
from chatcore.errors import (
    ChatError,
    Conflict,
    Invalid,
    NotFound,
    NotMember,
    Unavailable,
)
from chatcore.events import (
    Acknowledged,
    BansReply,
    Close,
    DeleteReply,
    Duplicate,
    Durable,
    DurableReply,
    EditReply,
    HistoryReply,
    JoinReply,
    LeaveReply,
    Marked,
    MarkReadReply,
    Member,
    MembershipChanged,
    MembersReply,
    Message,
    ReactReply,
    Read,
    ReportsReply,
    RoomChanged,
    RoomsReply,
    SearchReply,
    SendReply,
    Stands,
    Stored,
    Typing,
    UnreactReply,
    WhoReply,
)
from chatcore.feed import Feed, Listener
from chatcore.folding import without
from chatcore.hub import Hub
from chatcore.journal import Journal
from chatcore.model import (
    INVITED,
    LOBBY,
    Draft,
    Limits,
    Membership,
    Room,
    User,
)
from chatcore.moderation import Moderation
from chatcore.pages import Pages
from chatcore.policy import OpenPolicy, Rates
from chatcore.ports import Authenticator, Bus, Clock, Outcome, Policy, Repository
from chatcore.presence import Presence
from chatcore.readers import Readers
from chatcore.searches import Searches
from chatcore.upkeep import keep

T = TypeVar("T")
A = TypeVar("A", bound=Acknowledged)

LINGER_SECONDS = 3.0
"""What a connection has, at the end, to take what is on its way to it."""
WATCH_SECONDS = 0.5
"""How long the appending of another process may go unseen."""
EXPIRED = 1_000
"""Events let go of in one turn of the journal: some tens of milliseconds."""
ROOMS_CACHED = 10_000
WHO_NAMED = 1_000
Done: TypeAlias = Callable[[DurableReply | ChatError], None]
Observer: TypeAlias = Callable[[Durable], object]

logger = logging.getLogger("chatcore.chat")


def prepare(repository: Repository) -> None:
    """Make a repository one's own, with a lobby in it.  Raises SchemaError, Unavailable."""
    repository.claim()  # first, for opening may migrate what another serves
    repository.open()
    repository.add_room(Room(LOBBY, title="Lobby"))


class _Answer(Generic[T]):
    """Turns a callback that gets a result or a ChatError into something to wait for."""

    def __init__(self) -> None:
        self._future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def settle(self, outcome: T | ChatError) -> None:
        if self._future.done():
            return  # whoever waited was cancelled
        if isinstance(outcome, ChatError):
            self._future.set_exception(outcome)
        else:
            self._future.set_result(outcome)

    async def wait(self) -> T:
        return await self._future


class Chat(Accounts, Moderation):
    """Rooms, users and history on one repository.

    An asynchronous context manager: inside it has its threads and tasks, and after
    it none are left.  One event loop, from beginning to end.

        async with Chat(SqliteRepository("chat.db")) as chat:
            ada = await chat.register("ada", "correct horse")

    Methods raise ChatError for what a user may not do, or the server cannot do now.
    Cancelling one does not undo what it has already asked the log for.
    """

    def __init__(
        self,
        repository: Repository,
        *,
        bus: Bus | None = None,
        policy: Policy | None = None,
        authenticator: Authenticator | None = None,
        limits: Limits | None = None,
        clock: Clock = model.utcnow,
        bcrypt_cost: int = 12,
        token_days: float = 30,
    ) -> None:
        super().__init__(
            repository,
            policy=policy or OpenPolicy(),
            authenticator=authenticator,
            limits=limits or Limits(),
            clock=clock,
            token_days=token_days,
        )
        self._bus = bus or LocalBus()
        self._bcrypt_cost = bcrypt_cost
        self._drafting = Drafting(self._room, self._policy, self.limits, self._now)
        self._typing = Rates(self.limits.typing, "Nobody need be told so often")
        self._rooms: dict[str, Room] = {}
        self._observers: list[Observer] = []
        self._expired = ""
        """The room that was last to let go of something."""
        self._state = "new"

    # Its life.

    @property
    def closing(self) -> bool:
        """Whether no new commands are taken any more."""
        return self._state in ("closing", "closed")

    def check_started(self) -> None:
        """Raise RuntimeError, in one sentence, before `async with chat`."""
        if self._state == "new":
            raise RuntimeError(
                "This Chat is not running: enter it first, `async with chat: ...`,"
                " in your application's lifespan for instance"
            )

    def _check_open(self) -> None:
        """Raise Unavailable for a call that was under way when the chat closed, or came later."""
        if self._state == "closed":
            raise Unavailable("The server has shut down; try again", retry_after=1.0)
        self.check_started()

    async def __aenter__(self) -> Self:
        """Open the repository and start.  Raises SchemaError, Unavailable."""
        if self._state != "new":
            raise RuntimeError("A Chat runs once; make a new one")
        self._readers = Readers(2)
        self._state = "running"
        try:
            await self._read(prepare, self._repository)
            interrupted = await self._read(self._repository.closing_accounts)
        except BaseException:
            self._state = "closed"
            self._readers.close()
            self._repository.close()
            raise
        self._passwords = auth.Passwords(self._bcrypt_cost)
        self._journal = Journal(self._repository, self._publish)
        self._presence = Presence(self.limits.offline_seconds)
        self._pages = Pages(self._repository, self._read, self.wire, self.limits)
        self.hub = Hub(self._repository, self._read, self._presence, self.limits)
        self._searches = Searches(
            self._repository, self._read, self._journal.write, self._pages.fit
        )
        self._bus.subscribe(self.hub.deliver)
        self._bus.subscribe(self._revise)
        self._bus.subscribe(self._searches.heed)
        self._bus.subscribe(self._observe)
        self._watching = asyncio.create_task(self._watch())
        for account in interrupted:
            self._depart(account)
        jobs = (self._searches.index, self._expire, self._purge)
        self._keeping = asyncio.create_task(keep(jobs, lambda: self._journal.is_idle))
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close.  Where the journal's writer died, raises what it died of."""
        await self.close()
        if self.failure is not None and exc is None:
            raise self.failure

    async def close(self) -> None:
        """Drain: refuse new commands, answer all that came before, then end every connection.

        Each gets a `bye` with a `retry_after`, spread so that they do not come back
        all at once, and LINGER_SECONDS to take what is on its way.  Repeatable: one
        that was cancelled goes on, and the next waits for it.
        """
        if self._state == "running":
            self._state = "closing"
            self._closing = asyncio.create_task(self._drain())
        if self._state == "closing":
            await asyncio.shield(self._closing)

    async def _drain(self) -> None:
        self._watching.cancel()
        self._keeping.cancel()
        self._passwords.refuse()
        await self._journal.close()
        await asyncio.gather(*self._departures.values(), return_exceptions=True)
        await self.hub.written(LINGER_SECONDS)
        spread = 1.0 + len(self.roster) / 500
        delays = iter(lambda: round(random.uniform(0.5, spread), 2), None)
        self.roster.end(lambda _: True, Close.SHUTDOWN, "shutdown", delays)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.roster.emptied(), LINGER_SECONDS + 0.5)
        await self.hub.close()
        self._passwords.close()
        await self._read(self._repository.close)  # which may write to the disk
        self._readers.close()
        self._state = "closed"

    async def _watch(self) -> None:
        """See what other processes append to the log."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            # Asked in the writer's turn, so that all of our own before it is announced.
            with contextlib.suppress(ChatError):
                rooms = self.hub.rooms()
                heads = await self._journal.write(self._repository.foreign_heads, rooms)
                if heads is not None:
                    self.hub.let_go()  # they may have taken something out of the log
                    self.hub.notice(heads)
                    await self._end_revoked()

    async def _expire(self) -> bool:
        """Let go of some of what rooms keep no longer; say whether there may be more."""
        now = self._now()
        due = await self._read(self._repository.due, now, EXPIRED, self._expired)
        if due is None:
            return False
        room, first = due
        self._expired = room  # in turn: one that always fails must not keep the others from it
        with self.hub.expiring(room, first):
            try:
                await self._journal.write(self._repository.expire, room, first, now)
            finally:  # it may have failed, or the room may have been told to keep all
                first, *_ = await self._read(self._repository.head, room, 0)
                self.hub.begins(room, first)
        return True

    async def _purge(self) -> bool:
        return await self._journal.write(self._repository.purge)

    @property
    def failure(self) -> BaseException | None:
        """What the journal's writer died of, which ended all service; None where it did not."""
        return self._journal.died.result() if self._journal.died.done() else None

    async def failed(self) -> None:
        """Return when there is a `failure`."""
        self.check_started()
        await asyncio.shield(self._journal.died)

    # Rooms.

    async def rooms(
        self, user: User, *, after: str | None = None, limit: int | None = None
    ) -> RoomsReply:
        """List the rooms that a user may see, by name: public ones, and what they are in.

        Or are invited to.
        """
        self._check_open()
        self._policy.check(user, commands.Rooms(after, limit), None)
        limit = self._pages.clamp(limit)
        found = await self._read(self._repository.rooms, user.username, after or "", limit + 1)
        return RoomsReply(found[:limit], complete=len(found) <= limit)

    async def create(
        self, user: User, room: str, *, kind: str = "public", title: str = "", topic: str = ""
    ) -> Room:
        """Create a room; its first event makes the user its owner.

        Raises Invalid, Conflict, Forbidden, RateLimited.
        """
        command = commands.Create(room, kind, title, topic)
        name = names.room_name(room)
        if names.is_direct(name):
            raise Invalid("That room name is kept for the rooms of two people; choose another")
        new = Room(name, kind, model.line(title, "title", 100), model.line(topic, "topic", 500))
        self._policy.check(user, command, new)
        self._drafting.take_change(user)
        draft = self._drafting.joins(user, new, user.username, "owner", creates=True)
        await self._append(draft)
        return new

    async def direct(self, user: User, username: str) -> Room:
        """Return the room of a user and another, for ever the same, with both of them in it.

        Raises Invalid, NotFound, and Forbidden where either is in too many rooms.
        """
        try:
            other = names.username(username)
        except Invalid:
            raise NotFound("There is no such user") from None
        if other == user.username:
            raise Invalid("A direct room is with somebody else")
        pair = sorted((user.username, other))
        room = Room(names.direct_room(*pair), "direct", ", ".join(pair))
        self._policy.check(user, commands.Direct(username), room)
        for who in (other, user.username):  # where the other cannot be, there is to be no room
            role, _ = await self._read(self._repository.place, room.name, who)
            if role is None:
                with contextlib.suppress(Conflict):  # the other one asks at the same time
                    await self._append(self._drafting.joins(user, room, who, creates=True))
        return await self._room(room.name)

    async def memberships(self, user: User, token: Token | None = None) -> Sequence[Membership]:
        """Return where a user stands in each of their rooms, and the invitations that they have.

        Raises BadCredentials for a token, where one is given, that is not valid any more, and
        Forbidden for who is disabled or deleted.
        """
        # Both in one turn of a thread, for that costs more than either.
        return await self._read(self._standing, user.username, token, self._clock())

    def _standing(self, username: str, token: Token | None, now: datetime) -> Sequence[Membership]:
        if token is not None:
            self._owner(token.secret, now)
        else:
            self._account(username)
        return self._repository.memberships(username)

    async def join(
        self,
        user: User,
        room: str,
        *,
        since: commands.Since | None = None,
        history: int = 50,
        listener: Listener | None = None,
    ) -> JoinReply:
        """Make a user a member, and subscribe a connection where one is given.

        A private room needs an invitation.

        With `since`, `events` is the log's first page after it, where that can be;
        else the newest messages, at most `history`.  Either way the listener gets
        next what follows, and nothing before the caller next awaits.

        Raises NotFound, Banned, Forbidden, RateLimited, Unavailable.
        """
        command = commands.Join(room, since, history)
        found = await self._room(room)
        async with self.hub.feed(found.name) as feed:
            # With the feed held, a membership that ends meanwhile is noted there.
            membership = await self._membership(found, user, feed)
            if membership is None:
                await self._check("join", user, command, found)
                self._drafting.take_change(user)
                with contextlib.suppress(Conflict):  # joined on another connection, just before
                    draft = self._drafting.joins(user, found, user.username)
                    await self.hub.reach(feed, await self._append(draft))
                membership = await self._membership(found, user, feed)
                if membership is None:
                    raise NotMember("You must join the chat first")
            else:
                self._policy.check(user, command, found)
            missed = await self._pages.missed(feed, found.epoch, since, membership.head)
            if missed is None:
                cursor = membership.head
                given: Sequence[Durable] = await self._pages.newest(
                    feed, cursor, history, user.username
                )
            else:
                assert since is not None
                cursor = missed[-1].seq if missed else since.seq
                given = missed
            if listener is not None:
                self.hub.subscribe(listener, feed, cursor, membership.head)
            return JoinReply(
                membership.room,
                membership.role,
                found.epoch,
                feed.first,
                membership.head,
                membership.read,
                membership.unread,
                unread_mentions=membership.unread_mentions,
                recovered=missed is not None,
                events=given,
            )

    async def leave(self, user: User, room: str) -> None:
        """End a membership, or decline an invitation.

        Raises NotFound, NotMember, Unavailable, and Conflict for a room's only owner.
        """
        await self.settle(user, commands.Leave(room))

    # Messages.

    async def send(
        self,
        user: User,
        room: str,
        content: str,
        *,
        txn_id: str | None = None,
        reply_to: int | None = None,
    ) -> SendReply:
        """Store a message; when this returns it is durable.

        `reply_to` is the seq of the message that it answers.  A `txn_id` that this user
        has used in this room gets the first one's reply again, and nothing is stored.

        Raises Invalid, TooLarge, NotFound, NotMember, RateLimited, TxnConflict,
        StorageFull, and Unavailable, after which the same txn_id may be sent again.
        """
        return await self._settle(user, commands.Send(room, content, txn_id, reply_to), SendReply)

    async def edit(
        self, user: User, room: str, seq: int, content: str, *, txn_id: str | None = None
    ) -> EditReply:
        """Give a message of the user's own another text; when this returns it is durable.

        Raises as `send` does, NotFound too where there is no such message or it was
        deleted, and Forbidden where it is another's.
        """
        return await self._settle(user, commands.Edit(room, seq, content, txn_id), EditReply)

    async def delete(
        self,
        user: User,
        room: str,
        seq: int,
        *,
        reason: str | None = None,
        txn_id: str | None = None,
    ) -> DeleteReply:
        """Erase a message; when this returns its text is out of the log, and that of its edits.

        One's own, or as the room's owner or a moderator anybody's.  One that is deleted
        already gets the first deletion's reply.

        Raises Invalid, NotFound, NotMember, Forbidden, TxnConflict, StorageFull, and
        Unavailable, after which it may be asked for again.
        """
        return await self._settle(user, commands.Delete(room, seq, reason, txn_id), DeleteReply)

    async def react(
        self, user: User, room: str, seq: int, emoji: str, *, txn_id: str | None = None
    ) -> ReactReply:
        """Put an emoji beside a message; when this returns it is durable.

        One that is there already is a `duplicate`.  Raises as `edit` does, and Forbidden
        where a message has `limits.reactions` different ones.
        """
        return await self._settle(user, commands.React(room, seq, emoji, txn_id), ReactReply)

    async def unreact(
        self, user: User, room: str, seq: int, emoji: str, *, txn_id: str | None = None
    ) -> UnreactReply:
        """Take one's own emoji away from a message; one that is not there is a `duplicate`."""
        return await self._settle(user, commands.Unreact(room, seq, emoji, txn_id), UnreactReply)

    async def _settle(self, user: User, command: commands.Durable, expected: type[A]) -> A:
        reply = await self.settle(user, command)
        assert isinstance(reply, expected)
        return reply

    async def settle(self, user: User, command: commands.Durable) -> DurableReply:
        """Hand a durable command to the log, and return its reply once it is durable.

        Raises as the method of that name does.
        """
        answer: _Answer[DurableReply] = _Answer()
        await self.submit(user, command, answer.settle)
        return await answer.wait()

    async def submit(self, user: User, command: commands.Durable, done: Done) -> None:
        """Hand a durable command to the log, and return without waiting for its commit.

        `done` gets the reply, or why there is none, on the loop and before the event
        goes to anyone.  It must not raise.  Commands commit in the order in which
        these calls return.  Raises what can be refused at once.
        """
        draft = await self._drafting.draft(user, command)
        reply = REPLIES[type(command)]

        def settled(outcome: Outcome) -> None:
            self._drafting.settled(command, draft, outcome)
            match outcome:
                case ChatError():
                    done(outcome)
                case _ if isinstance(command, commands.Leave):
                    done(LeaveReply(draft.room.name))
                case Stored(event=event):
                    done(reply(event.room, event.seq, event.timestamp))
                case Duplicate(seq=seq, timestamp=timestamp):
                    done(reply(draft.room.name, seq, timestamp, duplicate=True))

        self._journal.append(draft, settled)

    def after_answers(self, call: Callable[[], None]) -> None:
        """From within a `done`, have something called once all that committed with it is answered.

        That is still before the events go to anyone.
        """
        self._journal.after_answers(call)

    async def history(
        self,
        user: User,
        room: str,
        *,
        before: int | None = None,
        after: int | None = None,
        around: int | None = None,
        limit: int | None = None,
        types: Sequence[str] | None = None,
    ) -> HistoryReply:
        """Return a page of messages in seq order, the newest where no edge is given.

        `before` and `after` are exclusive; `around` has its message in the middle.
        `limit` counts messages, and each is as it is now.  `complete`
        says that there are no more in the direction asked for.  With `types` the page has
        those kinds of events, as the log has them; all but `message` are for moderators.
        All that this Chat acknowledged before is in it.

        Raises Invalid, NotFound, Banned, Forbidden, Unavailable.
        """
        kinds = tuple(types) if types is not None else None
        command = commands.History(room, before, after, around, limit, kinds)
        action = "audit" if {*(kinds or ())} - {"message"} else "read"
        async with self._reading(user, command, action) as (found, feed, still_may):
            await self.hub.reach(feed, feed.announced)
            with feed.reading():  # a page may be several reads
                head = feed.head
                page, complete = await self._pages.history(feed, head, command, user.username)
                await still_may()
                page = without(feed.erased, page)
            messages = [event for event in page if isinstance(event, Message)]
            others = tuple(event for event in page if not isinstance(event, Message))
            return HistoryReply(messages, found.epoch, feed.first, head, complete, others)

    async def mark_read(self, user: User, room: str, seq: int) -> MarkReadReply:
        """Note how far a user has read, on all their devices; it only grows, up to the head.

        All their connections are told at once, and the other one's in a direct room.
        Raises NotFound, NotMember, Unavailable.
        """
        found = await self._readable(user, commands.MarkRead(room, seq), "mark_read")
        answer: _Answer[Marked | None] = _Answer()

        def done(outcome: Marked | ChatError | None) -> None:
            if isinstance(outcome, Marked) and outcome.moved:
                read = Read(
                    found.name,
                    user.username,
                    outcome.read,
                    outcome.unread,
                    outcome.unread_mentions,
                    outcome.head,
                )
                for username in filter(None, (user.username, outcome.other)):
                    self.hub.tell(username, read)
            answer.settle(outcome)

        self._journal.mark(found.name, user.username, seq, done)
        marked = await answer.wait()
        if marked is None:
            raise NotMember("You must join the chat first")
        return MarkReadReply(marked.read, marked.unread, marked.unread_mentions, marked.head)

    async def search(
        self,
        user: User,
        text: str,
        *,
        room: str | None = None,
        cursor: str | None = None,
        limit: int | None = None,
    ) -> SearchReply:
        """Find messages in one room, or in all that a user may read, the newest first.

        `query.parse` says what may stand in the text.  All is found that was stored
        before, with the text that it has now.  A page's `next` is the `cursor` of the
        one after it, whatever is written meanwhile.

        Raises Invalid, NotFound, Banned, RateLimited, Unavailable.
        """
        self._check_open()
        self._drafting.take(user)
        asked = query.parse(text)
        command = commands.Search(text, room, cursor, limit)
        name = asked.room if room is None else room
        if name is None:
            self._policy.check(user, command, None)
        else:
            found = await self._room(name)
            await self._check("read", user, command, found)
            if asked.room not in (None, found.name):
                raise Invalid("in: names another room than the one that is to be searched")
            asked = evolve(asked, room=found.name)

        async def allows(name: str) -> bool:
            room = await self._room(name)
            try:
                self._policy.check(user, command, room)
            except ChatError:
                return False
            return True

        return await self._searches.find(
            user, asked, cursor, self._pages.clamp(limit), self._now(), allows
        )

    # What moderators are told.

    async def report(self, user: User, room: str, seq: int, reason: str) -> None:
        """Tell a room's moderators of a message; the first report of each user counts.

        Raises Invalid, NotFound, NotMember, RateLimited.
        """
        command = commands.Report(room, seq, reason)
        self._drafting.take(user)
        text = model.line(reason, "reason", 500)
        if not text:
            raise Invalid("A report has a reason")
        found = await self._readable(user, command, "report")
        now = self._now()
        report = self._repository.report
        if not await self._journal.write(report, found.name, seq, user.username, text, now):
            raise NotFound("There is no such message")

    async def reports(
        self, user: User, room: str, *, after: int | None = None, limit: int | None = None
    ) -> ReportsReply:
        """List what a room's moderators were told of, by number.

        Raises NotFound, NotMember, Banned, Forbidden.
        """
        command = commands.Reports(room, after, limit)
        limit = self._pages.clamp(limit)
        async with self._reading(user, command, "reports") as (found, _, still_may):
            listed = await self._read(self._repository.reports, found.name, after or 0, limit + 1)
            await still_may()
        return ReportsReply(listed[:limit], complete=len(listed) <= limit)

    async def bans(
        self, user: User, room: str, *, after: str | None = None, limit: int | None = None
    ) -> BansReply:
        """List who is banned or muted in a room now, by username.

        With who did it, when and why, as far as the room's log has that still.
        Raises NotFound, NotMember, Banned, Forbidden.
        """
        command = commands.Bans(room, after, limit)
        limit = self._pages.clamp(limit)
        async with self._reading(user, command, "bans") as (found, _, still_may):
            page = (found.name, after or "", limit + 1, self._now())
            listed = await self._read(self._repository.bans, *page)
            await still_may()
        return BansReply(listed[:limit], complete=len(listed) <= limit)

    # People.

    async def typing(self, user: User, room: str) -> None:
        """Tell the others who listen to a room that a user is writing something there.

        A hint that nobody keeps: who reads slowly does not get it, nor does a room with many
        people online.  Raises NotFound, NotMember, Banned, Muted, Forbidden, RateLimited.
        """
        self._typing.take(user.username)
        found = await self._room(room)
        async with self.hub.feed(found.name) as feed:
            # Looked up, and not guessed from who is here: who was removed is told by the log.
            await self._check("typing", user, commands.Typing(room), found)
            membership = await self._membership(found, user, feed)  # whose joining has been told
            if membership is None:
                raise NotMember("You must join the chat first")
            self.hub.check_speaker(feed, user.username, membership.head)
            self.hub.hint(user.username, Typing(found.name, user.username), [found.name])

    async def who(self, user: User, room: str) -> WhoReply:
        """Return who is online in a room: how many, and of them up to WHO_NAMED by name."""
        async with self._reading(user, commands.Who(room)) as (found, _, still_may):
            await still_may()
        online = self._presence.online(found.name)
        return WhoReply(online[:WHO_NAMED], len(online))

    async def members(
        self, user: User, room: str, *, after: str | None = None, limit: int | None = None
    ) -> MembersReply:
        """List a room's members, by username."""
        command = commands.Members(room, after, limit)
        limit = self._pages.clamp(limit)
        async with self._reading(user, command) as (found, _, still_may):
            listed = await self._read(self._repository.members, found.name, after or "", limit + 1)
            await still_may()
        return MembersReply(listed[:limit], complete=len(listed) <= limit)

    # Observing.

    def subscribe(self, observer: Observer) -> Callable[[], None]:
        """Have `observer` called on the loop with each durable event; call the result to stop.

        A hint, as the bus is: what must miss nothing reads the log.  What an observer
        raises goes to the loop's exception handler and disturbs nobody.
        """
        self._observers.append(observer)
        return lambda: self._observers.remove(observer)

    def _revise(self, batch: Sequence[Durable]) -> None:
        """Keep what is known of rooms up to date."""
        for event in batch:
            if isinstance(event, RoomChanged) and event.room in self._rooms:
                self._rooms[event.room] = evolve(self._rooms[event.room], **event.changes)

    def _observe(self, batch: Sequence[Durable]) -> None:
        if self._observers:
            loop = asyncio.get_running_loop()
            for observer in self._observers:
                for event in batch:
                    loop.call_soon(observer, event)

    # What the use cases share.

    def _publish(self, batch: Sequence[tuple[Draft, Stored]]) -> None:
        """Announce what committed: to the rooms, then to those whose membership changed.

        A big room's last listeners may hear of it after that.
        """
        self._bus.publish([stored.event for _, stored in batch])
        for draft, stored in batch:
            match stored.event, stored.stands:
                case Member(username=username, action=action, seq=seq), Stands() as stands:
                    change = MembershipChanged(
                        self._rooms.get(draft.room.name, draft.room),
                        change=action,
                        epoch=stands.epoch,
                        first=stored.first,
                        head=seq,
                        read=stands.read,
                        unread=stands.unread,
                        role=stands.role,
                    )
                    self.hub.tell(username, change)

    async def _append(self, draft: Draft) -> int:
        """Append one draft, wait for its commit, and return its seq."""
        answer: _Answer[Stored | Duplicate] = _Answer()
        self._journal.append(draft, answer.settle)
        outcome = await answer.wait()
        return outcome.event.seq if isinstance(outcome, Stored) else outcome.seq

    async def _room(self, name: str) -> Room:
        """Find a room by any spelling of its name.  Raises NotFound."""
        self._check_open()
        room = self._rooms.get(name)
        if room is None:
            try:
                canonical = names.room_name(name)
            except Invalid:
                raise NotFound("There is no such room") from None
            room = self._rooms.get(canonical) or await self._read(self._repository.room, canonical)
            if room is None:
                raise NotFound("There is no such room")
            if len(self._rooms) >= ROOMS_CACHED:
                del self._rooms[next(iter(self._rooms))]
            self._rooms[canonical] = room
        return room

    async def _readable(
        self, user: User, command: commands.MarkRead | commands.Report, action: str
    ) -> Room:
        """Find a room that a user may do this in.  Raises NotFound, Forbidden."""
        room = await self._room(command.room)
        await self._check(action, user, command, room)
        return room

    @asynccontextmanager
    async def _reading(
        self,
        user: User,
        command: commands.History
        | commands.Who
        | commands.Members
        | commands.Reports
        | commands.Bans,
        action: str = "read",
    ) -> AsyncIterator[tuple[Room, Feed, Callable[[], Awaitable[None]]]]:
        """Hold the feed of a room that a user may read, and give what looks whether they still may.

        For what was read before that: nothing passes to somebody once their removal is
        acknowledged.  Raises NotFound, Forbidden.
        """
        room = await self._room(command.room)
        async with self.hub.feed(room.name) as feed:
            await self._check(action, user, command, room)

            async def still_may() -> None:
                if feed.waiting is not None or user.username in feed.ended:
                    await self._check(action, user, command, room)

            yield room, feed, still_may

    async def _check(self, action: str, user: User, command: commands.Command, room: Room) -> None:
        """Ask the table, and then the host's policy, which might tell that there is a room."""
        role, restraint = await self._read(self._repository.place, room.name, user.username)
        policy.check(action, room, role, restraint, self._now())
        self._policy.check(user, command, room)

    async def _membership(self, room: Room, user: User, feed: Feed) -> Membership | None:
        """Return a membership as of a head that has their joining: on another connection, say."""
        while True:
            membership = await self._read(
                self._repository.membership, room.name, user.username, feed.head
            )
            if membership is None or membership.role == INVITED:
                return None
            if membership.read <= membership.head:
                return membership
            await self.hub.reach(feed, membership.read)

    async def _read(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """Run a read of the repository in one of two threads."""
        self._check_open()
        return await self._readers.read(function, *args, **kwargs)
