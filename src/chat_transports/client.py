"""Take part in a chat from far away, through whatever happens to the connection.

A Client outlives its connections.  What was asked and not answered waits in `_asked`,
in order; the Follower has a position in each room joined, the last event that was given
to the user.  A new connection logs in, joins each room again from its position, and
then asks again what has no answer.  A txn_id makes each message one message, and a
position makes each event come once.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import random
import secrets
import ssl
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Literal, Self

import attrs
from attrs import define, frozen

from chat_transports.pipe import CannotConnect, Pipe, address, dial
from chatcore import commands
from chatcore.codec import PROTOCOL, JsonLines
from chatcore.commands import Command
from chatcore.errors import (
    BadCredentials,
    Banned,
    ChatError,
    Internal,
    LinkClosed,
    NotFound,
    NotMember,
    RateLimited,
    TooLarge,
    Unavailable,
)
from chatcore.events import (
    Answer,
    Bye,
    Close,
    Event,
    Hello,
    JoinReply,
    LeaveReply,
    LoginReply,
    LogoutReply,
    Notice,
    Reconnecting,
    RegisterReply,
    Reply,
    Told,
)
from chatcore.follower import Follower
from chatcore.model import INVITED, Limits, Membership, Rate, User
from chatcore.names import room_name
from chatcore.participant import Participant, R, renamed

__all__ = ["Backoff", "CannotConnect", "Client", "connect"]

CONNECT_SECONDS = 5.0
"""How long an address has to answer with its hello."""
PUT_OFF_SECONDS = 1.0
"""What a command may be put off by the server, beyond its rate, without its caller being told."""
LOGIN_SECONDS = 30.0
"""How long it may then check a password; many may wait for theirs."""

_ONCE = (
    commands.Send
    | commands.Edit
    | commands.Delete
    | commands.React
    | commands.Unreact
    | commands.Upon
    | commands.Update
)
"""Commands that get a txn_id."""
_REPEATABLE = (
    commands.Durable
    | commands.Direct
    | commands.Join
    | commands.Profile
    | commands.Rooms
    | commands.History
    | commands.Typing
    | commands.Search
    | commands.Who
    | commands.Members
    | commands.MarkRead
    | commands.Report
    | commands.Reports
    | commands.Bans
    | commands.Ping
)
"""Commands that do no harm the second time: they have a txn_id, or change nothing twice."""


@frozen
class Backoff:
    """Seconds between one try and the next: random, up to `first`, doubled until `most`.

    Where the server said when to come back, that is what counts for the first try.
    """

    first: float = 1.0
    most: float = 30.0

    def delay(self, failures: int) -> float:
        """Return how long to wait after so many failures, 0 for a connection that was lost."""
        return random.uniform(0, min(self.most, self.first * 2.0 ** min(failures, 30)))


@asynccontextmanager
async def connect(
    url: str,
    *,
    username: str | None = None,
    password: str | None = None,
    token: str | None = None,
    headers: Mapping[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
    backoff: Backoff | None = None,
) -> AsyncIterator[Client]:
    """Take part in the chat at a ws, wss, tcp, tcps, http or https address, until the block ends.

    Logs in with username and password, or with a token; with neither, use `register`
    or `login`.  `headers` go with the WebSocket's handshake, for a host with its own
    login.  `tls` is used in place of the default context.

    Raises ValueError for an address that is none, CannotConnect where no chat server
    answers in CONNECT_SECONDS, and BadCredentials.  From then on a lost connection is
    the client's own affair: the iteration tells of it, and no call fails for it.
    """
    login: commands.Login | None = None
    if token is not None or username is not None or password is not None:
        login = commands.Login(username, password, token)
    async with Client(address(url), login, headers, tls, backoff or Backoff()) as client:
        yield client


@define(eq=False)
class _Asked:
    """A command on its way to an answer."""

    id: int
    command: Command
    frame: bytes
    answer: asyncio.Future[Reply]
    own: bool = False
    """Asked by the client itself, for the connection that there is now."""
    sent: bool = False
    """On the connection that there is now."""
    before: bool = False
    """Sent once already, with no answer that could be relied on."""


class _Pace:
    """The server's token bucket for messages, as seen from here.  Times are the loop's."""

    def __init__(self) -> None:
        self.rate: Rate | None = None
        self._due = 0.0
        self._not_before = 0.0

    def wait(self, now: float) -> float:
        """Return the seconds until one more may go, 0 or less for now."""
        if self.rate is None:
            return self._not_before - now
        return max(self._not_before, self._due - (self.rate.burst - 1) / self.rate.rate) - now

    def take(self, now: float) -> None:
        if self.rate is not None:
            self._due = max(self._due, now) + 1 / self.rate.rate

    def explains(self, refusal: RateLimited | Unavailable) -> bool:
        """Say whether it is worth waiting for: not for a room's slow mode, which may be long."""
        if isinstance(refusal, Unavailable) or refusal.retry_after is None:
            return True
        token = 1 / self.rate.rate if self.rate is not None else 0.0
        return refusal.retry_after <= max(token, PUT_OFF_SECONDS)

    def pause(self, until: float) -> None:
        self._not_before = max(self._not_before, until)


class Client(Participant):
    """A participant whose connection may come and go.

    A method called while there is no connection waits for the next one; so does one
    whose answer was lost, and its message is still stored once.  Only `create`,
    `register`, `login`, `logout` and `change_password` raise Unavailable when their answer
    is lost with the connection: whether they were done is not known.  Put a call into
    `asyncio.timeout` where waiting must have an end.

    `send`, `edit` and `react` keep to the rate that the server told, and wait where it asks
    them to; a room's slow mode makes them wait for nothing, and raise RateLimited.  What
    follows must await what comes first in two cases: a send that the server put off may
    come after those that were under way behind it, and commands that read, join or log in
    or out do not wait for those that change a room.

    Between events the iteration has notices: Reconnecting, Connected, and for each
    room then Resumed, Reset or Lost.  It ends when the server will not have the
    client back; `error` then says why.
    """

    def __init__(
        self,
        target: str,
        login: commands.Login | None,
        headers: Mapping[str, str] | None,
        tls: ssl.SSLContext | None,
        backoff: Backoff,
    ) -> None:
        self.hello: Hello | None = None
        """The server's last one."""
        self.state: Literal["connecting", "connected", "reconnecting", "closed"] = "connecting"
        self.error: ChatError | None = None
        """Why the client is closed, where it was not by its own wish."""
        self.token: str | None = login.token if login else None
        """What proves the login from now on; keep it as you would a password."""
        self._password = login if login and login.token is None else None
        self._dial = partial(dial, target, headers=headers, tls=tls)
        self._backoff = backoff
        self._failures = 0
        """Connections in a row that came to nothing."""
        self._wire = JsonLines(Limits())
        self._user: User | None = None
        self._follower = Follower()
        self._memberships: Sequence[Membership] = ()
        self._logged_out = False
        self._bye: Bye | None = None
        self._ids = itertools.count(1)
        self._txn = secrets.token_hex(8)
        self._asked: dict[int, _Asked] = {}
        # What is to be sent: durable commands in the order of their ids, at the server's
        # pace; all others at once.
        self._at_once: deque[_Asked] = deque()
        self._durable: list[tuple[int, _Asked]] = []
        self._unanswered = 0
        """How many were sent on this connection and have no answer yet."""
        self._pace = _Pace()
        self._changed = asyncio.Event()
        self._opened: asyncio.Future[None]

    async def __aenter__(self) -> Self:
        self._opened = asyncio.get_running_loop().create_future()
        self._living = asyncio.create_task(self._live())
        try:
            await asyncio.shield(self._opened)
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    async def _stop(self) -> None:
        self._living.cancel()
        await asyncio.wait([self._living])
        if not self._living.cancelled():
            self._living.result()  # a defect, if anything

    @property
    def user(self) -> User | None:
        return self._user

    @property
    def memberships(self) -> Sequence[Membership]:
        return self._memberships

    async def __anext__(self) -> Event | Notice:
        while (event := self._follower.take()) is None:
            if self.state == "closed":
                raise StopAsyncIteration
            for join in self._follower.again(each.command for each in self._asked.values()):
                self._ask_myself(join)
            await self._change()
        self._changed.set()
        return event

    # Accounts.

    async def register(self, username: str, password: str) -> User:
        """Create an account and log in.  Raises Invalid, Conflict, RateLimited."""
        reply = await self._ask(commands.Register(username, password), RegisterReply)
        self._password = commands.Login(username, password)
        return reply.user

    async def login(
        self, username: str | None = None, password: str | None = None, *, token: str | None = None
    ) -> User:
        """Log in with username and password, or with a token.  Raises BadCredentials."""
        login = commands.Login(username, password, token)
        reply = await self._ask(login, LoginReply)
        if token is None:
            self._password = login
        return reply.user

    async def change_password(self, old: str, new: str, *, end_others: bool = False) -> None:
        await super().change_password(old, new, end_others=end_others)
        if self._password is not None:  # what logs in again once the token is no more
            self._password = attrs.evolve(self._password, password=new)

    async def logout(self, *, everywhere: bool = False) -> None:
        """Revoke the token, or all of the user's; the server then ends the connection."""
        self._password = None  # whatever happens now, it must not log in again
        await self._ask(commands.Logout(everywhere), LogoutReply)

    # Asking.

    async def _ask(self, command: Command, expected: type[R]) -> R:
        if self.state == "closed":
            raise self._gone()
        if isinstance(command, _ONCE) and command.txn_id is None:
            command = attrs.evolve(command, txn_id=f"{self._txn}:{next(self._ids)}")
        asked = self._new(command)
        assert self.hello is not None
        if len(asked.frame) > self.hello.limits.frame_bytes:
            raise TooLarge(f"A command has at most {self.hello.limits.frame_bytes} bytes")
        self._asked[asked.id] = asked
        self._queue(asked)
        try:
            reply = await asked.answer
        except asyncio.CancelledError:
            self._give_up(asked)
            raise
        if not isinstance(reply, expected):
            raise Internal("The server answered something else")
        return reply

    def _new(self, command: Command, *, own: bool = False) -> _Asked:
        id = next(self._ids)
        answer = asyncio.get_running_loop().create_future()
        return _Asked(id, command, self._wire.command(command, id), answer, own)

    def _queue(self, asked: _Asked) -> None:
        if isinstance(asked.command, commands.Durable):
            heapq.heappush(self._durable, (asked.id, asked))
        else:
            self._at_once.append(asked)
        self._changed.set()

    def _give_up(self, asked: _Asked) -> None:
        """Forget a command whose caller was cancelled, unless it is on its way already."""
        if asked.sent or self._asked.pop(asked.id, None) is None:
            return
        if asked in self._at_once:
            self._at_once.remove(asked)
        elif (asked.id, asked) in self._durable:
            self._durable.remove((asked.id, asked))
            heapq.heapify(self._durable)

    def _ask_myself(self, command: Command) -> None:
        """Ask before anything else; the answer is for this client, not for its user."""
        asked = self._new(command, own=True)
        self._asked[asked.id] = asked
        self._at_once.appendleft(asked)
        self._changed.set()

    # The connection, again and again.

    async def _live(self) -> None:
        error: ChatError | None = None
        try:
            while True:
                error = Internal("The client made a mistake")
                error = await self._connection()
                if not self._opened.done():
                    self._opened.set_exception(error)
                    return
                if self._logged_out or (self._bye is not None and not self._bye.reconnect):
                    return
                if not error.retryable and not isinstance(error, Internal):
                    return
                delay = max(0, error.retry_after or 0) + self._backoff.delay(self._failures)
                self._failures += 1
                self.state = "reconnecting"
                self._follower.tell(Reconnecting(error.message, delay))
                self._changed.set()
                await asyncio.sleep(delay)
        except asyncio.CancelledError:
            error = None
            raise
        finally:
            self.state, self.error = "closed", None if self._logged_out else error
            self._changed.set()
            self._opened.cancel()  # only where it never was, nor failed
            for asked in self._asked.values():
                if not asked.answer.done() and not asked.own:
                    asked.answer.set_exception(self._gone())

    async def _connection(self) -> ChatError:
        """Have one connection, from its hello to its end; return why it ended."""
        self._bye = None
        pipe: Pipe | None = None
        patience = CONNECT_SECONDS
        try:
            async with asyncio.timeout(patience):
                pipe = await self._dial()
                await self._greet(pipe)
            patience = LOGIN_SECONDS
            async with asyncio.timeout(patience):
                await self._log_in(pipe)
            await self._converse(pipe)
        except TimeoutError:
            return CannotConnect(f"no answer in {patience:.0f} seconds")
        except ChatError as error:
            return error
        except LinkClosed:
            pass
        finally:
            if pipe is not None:
                await pipe.close()
        return self._farewell()

    def _farewell(self) -> ChatError:
        bye = self._bye
        if bye is None:
            return Unavailable("the connection was lost")
        kind = BadCredentials if bye.code in (Close.BAD_TOKEN, Close.REVOKED) else Unavailable
        return kind(bye.reason, retry_after=bye.retry_after)

    async def _greet(self, pipe: Pipe) -> None:
        match await self._told(pipe):
            case Hello(v=version) as hello if version == PROTOCOL:
                self.hello = hello
                rate = hello.limits.messages
                self._pace.rate = rate if rate and rate.rate > 0 else None
            case _:
                raise CannotConnect("what answers is no chat server that this client understands")

    async def _told(self, pipe: Pipe) -> Told | None:
        """Return what the server says next.  Raises LinkClosed for its bye too."""
        told = self._wire.told(await pipe.next())
        if isinstance(told, Bye):
            self._bye = told
            raise LinkClosed
        return told

    async def _log_in(self, pipe: Pipe) -> None:
        """Log in with the token, or where that is none any more, with the password."""
        assert self.hello is not None
        if self.hello.user is not None:
            self._become(self.hello.user, self.hello.rooms or ())
            return
        if self.token is not None:
            try:
                await self._prove(pipe, commands.Login(token=self.token))
                return
            except BadCredentials:
                if self._password is None:
                    raise
        if self._password is not None:
            await self._prove(pipe, self._password)

    async def _prove(self, pipe: Pipe, login: commands.Login) -> None:
        id = next(self._ids)
        await pipe.send(self._wire.command(login, id))
        while True:
            match await self._told(pipe):
                case Answer(answered, LoginReply() as reply) if answered == id:
                    self._logged_in(reply)
                    return
                case Answer(answered, ChatError() as error) if answered == id:
                    raise error

    def _logged_in(self, reply: LoginReply) -> None:
        self.token = reply.token
        self._become(reply.user, reply.rooms)

    def _become(self, user: User, memberships: Sequence[Membership]) -> None:
        self._user, self._memberships = user, memberships
        self._follower.username = user.username

    async def _converse(self, pipe: Pipe) -> None:
        """Exchange commands and events until the connection ends.  Raises LinkClosed, ChatError."""
        self._resume()
        both = [asyncio.create_task(self._read(pipe)), asyncio.create_task(self._write(pipe))]
        try:
            done, _ = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)
            self._part()

    def _resume(self) -> None:
        """Begin where the last connection ended: in each room after what was given of it."""
        self.state = "connected"
        if not self._opened.done():
            self._opened.set_result(None)
            return
        mine = {each.room.name for each in self._memberships if each.role != INVITED}
        for join in self._follower.resume(mine):
            self._ask_myself(join)
        self._changed.set()

    def _part(self) -> None:
        """Put what has no answer back in its place, for the next connection."""
        self._unanswered = 0
        self._at_once.clear()
        self._durable.clear()
        asked, self._asked = self._asked, {}
        for each in asked.values():
            if each.own or each.answer.done():
                continue
            if each.sent and not isinstance(each.command, _REPEATABLE):
                each.answer.set_exception(
                    Unavailable("The connection was lost, and whether this was done is not known")
                )
                continue
            each.before, each.sent = each.before or each.sent, False
            self._asked[each.id] = each
            self._queue(each)
        self._follower.part()

    # Going up.

    async def _write(self, pipe: Pipe) -> None:
        while True:
            asked, seconds = self._next()
            if asked is None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await self._change()
                continue
            asked.sent = True
            self._unanswered += 1
            await pipe.send(asked.frame)

    def _next(self) -> tuple[_Asked | None, float | None]:
        """Return what to send now; or None, and in how many seconds there may be something."""
        assert self.hello is not None
        if self._unanswered >= self.hello.limits.in_flight:
            return None, None
        if self._at_once:
            return self._at_once.popleft(), None
        if not self._durable:
            return None, None
        now = asyncio.get_running_loop().time()
        seconds = self._pace.wait(now)
        if seconds > 0:
            return None, seconds
        asked = heapq.heappop(self._durable)[1]
        if isinstance(asked.command, commands.Rated):
            self._pace.take(now)
        return asked, None

    # Coming down.

    async def _read(self, pipe: Pipe) -> None:
        assert self.hello is not None
        silent = False
        while True:
            # Answers come behind events: while one is awaited, reading goes on.
            while self._follower.full and not self._asked:
                await self._change()
            try:
                async with asyncio.timeout(self.hello.ping):
                    told = await self._told(pipe)
            except TimeoutError:
                if silent:
                    raise Unavailable("the server has fallen silent") from None
                silent = True
                self._ask_myself(commands.Ping())
                continue
            silent = False
            self._take(told)

    def _take(self, told: Told | None) -> None:
        match told:
            case Answer(int(id), outcome) if id in self._asked and self._asked[id].sent:
                self._answered(self._asked[id], outcome)
            case _:
                self._user = renamed(self._user, told)
                self._follower.hear(told)
        self._changed.set()

    def _answered(self, asked: _Asked, outcome: Reply | ChatError) -> None:
        self._unanswered -= 1
        if isinstance(asked.command, commands.Durable):
            if isinstance(outcome, RateLimited | Unavailable) and self._pace.explains(outcome):
                self._once_more(asked, outcome)
                return
            if isinstance(asked.command, commands.Leave):
                outcome = self._left(asked.command, outcome, before=asked.before)
        del self._asked[asked.id]
        if not isinstance(outcome, ChatError):
            self._failures = 0
        if asked.own:
            if isinstance(asked.command, commands.Join):
                self._follower.joined_again(asked.command, outcome)
            return
        match outcome:
            case JoinReply() if isinstance(asked.command, commands.Join):
                self._follower.joined(asked.command, outcome)
            case LoginReply():
                self._logged_in(outcome)
            case LogoutReply():
                self._logged_out = True
        if asked.answer.done():
            return
        if isinstance(outcome, ChatError):
            asked.answer.set_exception(outcome)
        else:
            asked.answer.set_result(outcome)

    def _once_more(self, asked: _Asked, refusal: ChatError) -> None:
        """Put a durable command back, to be sent when the server may have it."""
        asked.sent, asked.before = False, True
        seconds = max(0, refusal.retry_after or self._backoff.first)
        self._pace.pause(asyncio.get_running_loop().time() + seconds)
        self._queue(asked)

    def _left(
        self, command: commands.Leave, outcome: Reply | ChatError, *, before: bool
    ) -> Reply | ChatError:
        # The first time did it: who has left a private room does not see it any more.
        if isinstance(outcome, NotMember | NotFound | Banned) and before:
            outcome = LeaveReply(room_name(command.room))
        if isinstance(outcome, LeaveReply):
            self._follower.left(outcome.room)
        return outcome

    def _gone(self) -> Unavailable:
        return Unavailable(
            "The client is closed" + (f": {self.error.message}" if self.error else "")
        )

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()
