"""A link's whole life: hello, commands and answers, bye."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from types import TracebackType

from attrs import define

from chatcore import auth, commands, events
from chatcore.accounts import Token
from chatcore.answering import answer
from chatcore.chat import Chat
from chatcore.codec import COMMANDS, PROTOCOL
from chatcore.commands import Request
from chatcore.errors import (
    BadCredentials,
    ChatError,
    Conflict,
    Forbidden,
    Internal,
    Invalid,
    LinkClosed,
    RateLimited,
    Unavailable,
)
from chatcore.events import Close, Reply
from chatcore.feed import Listener
from chatcore.model import Credentials, Membership, RequestId, User
from chatcore.ports import Link
from chatcore.session import Session

logger = logging.getLogger("chatcore.connection")


async def serve(
    chat: Chat, link: Link, credentials: Credentials | None = None, *, server: str = "chatcore"
) -> None:
    """Serve one link from `hello` until it is closed, by either side.

    `credentials` are what the door knows of the peer; a token among them logs it in
    before `hello`.  Raises RuntimeError where the chat is not running.  When
    cancelled, closes the link.
    """
    chat.check_started()
    connection = _Connection(chat, link, credentials or Credentials(), server)
    del credentials  # a browser's have a dozen headers, and this may be a long life
    await connection.run()


class _Defects:
    """Notes a defect and raises Internal in its place: it costs its command, not the connection.

    The one place where all exceptions are caught.
    """

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        """Nothing: a class is quicker than a generator, and this is entered for each command."""

    def __exit__(
        self,
        type_: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, Exception) and not isinstance(error, ChatError | LinkClosed):
            logger.error("%s failed", self._what, exc_info=error)
            raise Internal("The server made a mistake; it has been noted") from error


@define(eq=False)
class _Slot:
    """A command's place in the order of answers."""

    id: RequestId | None
    frame: bytes | None = None
    """The encoded answer, empty where none is wanted; None until there is one."""


class _Connection:
    """Commands in, answers out in their order.  Everything else is the chat's."""

    def __init__(self, chat: Chat, link: Link, credentials: Credentials, server: str) -> None:
        self.peer = credentials.peer
        self.digest: bytes | None = None
        self._chat = chat
        self._link = link
        self._credentials: Credentials | None = credentials
        self._server = server
        self._session = Session()
        self._token: Token | None = None
        self._listener: Listener | None = None
        self._slots: deque[_Slot] = deque()
        self._answered = asyncio.Event()
        self._is_full = False
        """Whether answers wait for those that are given with them."""
        self._timer: asyncio.TimerHandle | None = None
        self._ended = False
        self._lingers = True
        """Whether its user may be back at once."""

    @property
    def user(self) -> User | None:
        return self._session.user

    @user.setter
    def user(self, user: User | None) -> None:
        self._session.user = user

    async def run(self) -> None:
        try:
            self._chat.roster.add(self)
        except RateLimited as error:
            self.end(Close.TOO_MANY_CONNECTIONS, error.message, 5.0)
            await self._link.closed()
            return
        try:
            if self._chat.closing:
                self.end(Close.SHUTDOWN, "shutdown", 1.0)
            else:
                await self._hello()
            while True:
                await self._ready()
                await self._take(self._link.wire.decode(await self._link.receive()))
        except LinkClosed:
            # The peer may have closed only its own half: what it asked is still answered.
            await self._all_answered()
            self._ended = True
            self._link.close(1000, "")
        finally:
            if self._timer is not None:
                self._timer.cancel()
            if self._listener is not None:
                self._chat.hub.forget(self._listener, lingers=self._lingers)
                self._listener = None  # it has our `end`: a circle
            self.end(Close.SHUTDOWN, "shutdown")  # only where this task was cancelled
            try:
                await self._link.closed()
            finally:
                self._chat.roster.remove(self)

    def end(self, code: Close, reason: str, retry_after: float | None = None) -> None:
        """Answer what is unanswered, say bye and close; the first reason counts."""
        if self._ended:
            return
        self._ended, self._lingers = True, code < Close.BAD_TOKEN
        for slot in self._slots:
            if slot.frame is None:
                self._fill(slot, Unavailable("The connection ends; try again", retry_after=1.0))
        bye = events.Bye(code, reason, reconnect=code < Close.BAD_TOKEN, retry_after=retry_after)
        self._write_answers()
        self._write(self._link.wire.encode(bye))
        self._link.close(code, reason)

    # Coming in.

    async def _hello(self) -> None:
        limits, rooms = self._chat.limits, None
        credentials, self._credentials = self._credentials, None
        assert credentials is not None
        if limits.login_seconds is not None:
            self._end_after(limits.login_seconds, Close.LOGIN_TIMEOUT, "log in first")
        try:
            with _Defects("authenticating"):
                known = await self._chat.authenticate(credentials)
                if known is not None:
                    rooms = await self._welcome(*known)
        except RateLimited as error:
            self.end(Close.TOO_MANY_CONNECTIONS, error.message, 5.0)
            return
        except (Unavailable, Internal) as error:
            self.end(Close.SHUTDOWN, error.message, 5.0)
            return
        except Forbidden as error:  # good once, and not any more
            self.end(Close.REVOKED, error.message)
            return
        except ChatError as error:
            self.end(Close.BAD_TOKEN, error.message)
            return
        hello = events.Hello(
            PROTOCOL, self._server, COMMANDS, limits.ping, limits, self.user, rooms
        )
        self._link.write(self._link.wire.encode(hello))
        if self._listener is not None:
            self._chat.hub.release(self._listener)

    async def _welcome(self, user: User, token: Token | None) -> Sequence[Membership]:
        """Become somebody, or renew; where that fails, be who one was."""
        chat, listener, digest = self._chat, self._listener, self.digest
        # Before reading, a change in between must be heard of, and a logout find this connection.
        if listener is None:
            listener = chat.hub.listen(user.username, self._link, self.end)
        try:
            if self.user is None:
                chat.roster.identify(self, user)
            if token is not None:
                self.digest = auth.digest(token.secret)
            rooms = await chat.memberships(user, token)
        except BaseException as error:
            self.digest = digest
            if self._listener is None:
                chat.hub.forget(listener)
                chat.roster.unidentify(self)
            if isinstance(error, BadCredentials | Forbidden):
                self.end(Close.REVOKED, "logged out")
            raise
        self._listener, self.user, self._token = listener, user, token
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if token is not None:
            self._end_after(chat.seconds_left(token), Close.TOKEN_EXPIRED, "the token expired")
        return rooms

    def _end_after(self, seconds: float, code: Close, reason: str) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self.end, code, reason)

    # Commands.

    async def _ready(self) -> None:
        """Wait until one more command may be read: not too many in flight, not too much to send."""
        while len(self._slots) >= self._chat.limits.in_flight:
            await self._some_answer()
        if self._link.pending > self._chat.limits.buffer_bytes:
            await self._link.drained()

    async def _take(self, request: Request) -> None:
        slot = _Slot(request.id)
        self._slots.append(slot)
        try:
            with _Defects(type(request.command).__name__):
                await self._do(request, slot)
        except ChatError as error:
            self._answer(slot, error)

    async def _do(self, request: Request, slot: _Slot) -> None:
        command = request.command
        if isinstance(command, ChatError):
            self._answer(slot, command)
            if type(command) is Invalid and self._session.malformed():
                await self._all_answered()
                self.end(Close.PROTOCOL, "too many malformed frames")
            return
        self._session.admit(command)
        if self._chat.closing:
            raise Unavailable("The server is shutting down; come back soon", retry_after=1.0)
        if isinstance(command, commands.Durable):
            actor = self._session.actor()
            await self._chat.submit(actor, command, lambda reply: self._answer_soon(slot, reply))
            return
        # Durable commands do not wait for one another; any other waits for those before it.
        while self._slots and self._slots[0] is not slot:
            await self._some_answer()
        if not self._slots:
            return  # the connection has ended, and everything was answered
        self._answer(slot, await self._reply(command))
        if self._listener is not None and self._listener.held:
            self._chat.hub.release(self._listener)

    async def _reply(self, command: commands.Immediate) -> Reply:
        chat, actor = self._chat, self._session.actor
        match command:
            case commands.Ping():
                return events.PingReply()
            case commands.Register(username, password):
                user = await chat.register(username, password, peer=self.peer)
                token = await chat.issue_token(user)
                rooms = await self._welcome(user, token)
                return events.RegisterReply(user, token.secret, token.expires, rooms)
            case commands.Login():
                user, token = await self._log_in(command)
                rooms = await self._welcome(user, token)
                return events.LoginReply(user, token.secret, token.expires, rooms)
            case commands.Logout(everywhere):
                await chat.logout(self._token, actor(), everywhere=everywhere)
                return events.LogoutReply()
            case commands.Password(old, new, end_others):
                await chat.change_password(
                    actor(), old, new, end_others=end_others, token=self._token
                )
                return events.PasswordReply()
            case _:
                return await answer(chat, actor(), command, self._listener)

    async def _log_in(self, command: commands.Login) -> tuple[User, Token]:
        if command.token is not None:
            user, token = await self._chat.recognise(command.token)
            self._check_same(user)
            return user, token
        user = await self._chat.login(
            command.username or "", command.password or "", peer=self.peer
        )
        self._check_same(user)
        return user, await self._chat.issue_token(user)

    def _check_same(self, user: User) -> None:
        if self.user is not None and self.user.username != user.username:
            raise Conflict(f"Logged in as {self.user.username}; log out first")

    # Answers.

    def _answer(self, slot: _Slot, answer: Reply | ChatError) -> None:
        """Fill a slot, and write every answer that has none before it."""
        self._fill(slot, answer)
        self._write_answers()

    def _answer_soon(self, slot: _Slot, answer: Reply | ChatError) -> None:
        """Fill a slot; what is answered together is written at once."""
        self._fill(slot, answer)
        if not self._is_full:
            self._is_full = True
            self._chat.after_answers(self._write_answers)

    def _fill(self, slot: _Slot, answer: Reply | ChatError) -> None:
        wanted = slot.id is not None or isinstance(answer, ChatError)
        slot.frame = self._link.wire.reply(answer, slot.id) if wanted else b""

    def _write_answers(self) -> None:
        self._is_full = False
        frames = []
        while self._slots and (frame := self._slots[0].frame) is not None:
            self._slots.popleft()
            if frame:
                frames.append(frame)
        if frames:
            self._write(frames[0] if len(frames) == 1 else b"".join(frames))
        self._answered.set()

    def _write(self, data: bytes) -> None:
        """Write to the link.  A defect of that ends the connection, and disturbs nobody else."""
        try:
            self._link.write(data)
        except Exception:
            if not self._ended:
                logger.exception("a connection cannot be written to")
                self.end(Close.SHUTDOWN, "the connection failed")

    async def _some_answer(self) -> None:
        self._answered.clear()
        await self._answered.wait()

    async def _all_answered(self) -> None:
        while self._slots:
            await self._some_answer()
