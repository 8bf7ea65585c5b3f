"""Accounts: who somebody is, what proves it, and how it ends."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Literal, TypeVar

from attrs import evolve, frozen

from chatcore import auth, commands, dossier, model, names
from chatcore.codec import JsonLines
from chatcore.errors import BadCredentials, ChatError, Conflict, Forbidden, Invalid, NotFound
from chatcore.events import Close, ProfileChanged
from chatcore.hub import Hub
from chatcore.journal import Journal
from chatcore.model import INVITED, Account, Closing, Credentials, Draft, Limits, User
from chatcore.policy import Rates
from chatcore.ports import Authenticator, Clock, Outcome, Policy, Repository
from chatcore.roster import Connected, Roster

T = TypeVar("T")

_INACTIVE = {"disabled": "This account is disabled", "deleted": "This account was deleted"}
"""By an account's status, what its user is told."""

logger = logging.getLogger("chatcore.accounts")


@frozen
class Token:
    """A proof of login, and when it ends."""

    secret: str
    expires: datetime


def newcomer(username: str) -> User:
    """Return who is to have a new account under this name.  Raises Invalid."""
    name = names.username(username)
    if names.is_reserved(name):
        raise Invalid(f"The username {name} is reserved; choose another")
    return User(name, model.line(names.shown(username, name), "username", 50))


class Accounts(ABC):
    """The use cases of a Chat that are about its users; Chat has the rest."""

    hub: Hub
    _journal: Journal
    _passwords: auth.Passwords
    """All of them from the start on."""

    def __init__(
        self,
        repository: Repository,
        *,
        policy: Policy,
        authenticator: Authenticator | None,
        limits: Limits,
        clock: Clock,
        token_days: float,
    ) -> None:
        self.limits = limits
        self.roster = Roster(limits)
        self.wire = JsonLines(limits)
        """One for all links that speak the protocol's JSON: an event is encoded once."""
        self._repository = repository
        self._policy = policy
        self._authenticator = authenticator
        self._clock = clock
        self._token_life = timedelta(days=token_days)
        self._attempts = Rates(limits.attempts, "Too many attempts; wait a little")
        self._changes = Rates(limits.attempts, "Too many changes; wait a little")
        """By the username: who changes something of theirs has no need of an address."""
        self._departures: dict[str, asyncio.Task[None]] = {}
        """Of each deleted user of whom something is being done, the task that does it."""

    async def register(self, username: str, password: str, *, peer: str = "") -> User:
        """Create an account.  Raises Invalid, Conflict, RateLimited, Unavailable.

        `peer` is the address that asks; attempts are counted for each.
        """
        if not username or not password:
            raise Invalid("Username and password are required")
        self._attempt(peer)
        user = newcomer(username)
        auth.check_password(password)
        if await self._read(self._repository.user, user.username) is not None:
            raise Conflict("Username already exists")
        password_hash = await self._passwords.hash(password)
        if not await self._journal.write(self._repository.add_user, user, password_hash):
            raise Conflict("Username already exists, or looks like one that does")
        return user

    async def login(self, username: str, password: str, *, peer: str = "") -> User:
        """Return whose name and password these are.

        A name that nobody has takes as long as a wrong password.  Raises BadCredentials,
        RateLimited, and Forbidden for who knows the password of a disabled account.
        """
        if not username or not password:
            raise Invalid("Username and password are required")
        self._attempt(peer)
        try:
            known = await self._read(self._repository.user, names.username(username))
        except Invalid:
            known = None
        password_hash = known.password_hash if known is not None else None
        good = await self._passwords.verify(password, password_hash)
        if not good or known is None:
            raise BadCredentials("Invalid username or password")
        account = await self._active(known.user)  # once more: that took a while
        if account.password_hash != password_hash:
            raise BadCredentials("Invalid username or password")
        return account.user

    def _attempt(self, peer: str) -> None:
        if peer:
            self._attempts.take(peer)

    async def issue_token(self, user: User) -> Token:
        """Make a new token for a user; only its hash is stored.

        Raises Forbidden for who is disabled, deleted, or not there.
        """
        self._check_open()
        token = Token(auth.new_token(), self._now() + self._token_life)
        if not await self._journal.write(
            self._repository.add_token,
            auth.digest(token.secret),
            user.username,
            token.expires,
            self._now(),
        ):
            raise Forbidden(_INACTIVE["disabled"])
        return token

    async def recognise(self, secret: str) -> tuple[User, Token]:
        """Return whose token this is.  Raises BadCredentials."""
        user, expires = await self._read(self._owner, secret, self._clock())
        return user, Token(secret, expires)

    def _owner(self, secret: str, now: datetime) -> tuple[User, datetime]:
        found = self._repository.token(auth.digest(secret), now)
        if found is None:
            raise BadCredentials("This token is not valid any more; log in with your password")
        return found

    def seconds_left(self, token: Token) -> float:
        """Return how long a token is still good for."""
        return (token.expires - self._clock()).total_seconds()

    async def authenticate(self, credentials: Credentials) -> tuple[User, Token | None] | None:
        """Say who a door has: by its own word, the token, or the host's Authenticator.

        None for nobody yet.

        Raises BadCredentials for a token that is not valid; Invalid or Conflict for a
        host's user whose name cannot be one here, Forbidden for one who is disabled.
        """
        if credentials.user is not None:
            return await self.introduce(credentials.user), None
        if credentials.token is not None:
            return await self.recognise(credentials.token)
        if self._authenticator is None:
            return None
        user = await self._authenticator.authenticate(credentials)
        return (await self.introduce(user), None) if user is not None else None

    async def introduce(self, user: User) -> User:
        """Have a host's own user known here; return them, as they are known here.

        The first time makes the account, without a password.  From then on it has a display
        name of its own, which `change_profile` changes.  Repeatable.  Raises Invalid or
        Conflict where the name cannot be one here, and Forbidden for who is disabled or
        deleted.
        """
        display_name = model.line(user.display_name, "display name", names.USERNAME_CHARACTERS)
        user = User(names.username(user.username), display_name, user.bot)
        if await self._read(self._repository.user, user.username) is None:
            await self._journal.write(self._repository.add_user, user, None)
        try:
            return (await self._active(user)).user
        except NotFound:
            # Not added is known by now, from another connection, or looks like somebody.
            raise Conflict(f"The username {user.username} looks like another's") from None

    async def logout(self, token: Token | None, user: User, *, everywhere: bool = False) -> None:
        """Revoke a token, or all of the user's, and end the connections that hold it.

        Without a token, those that a host's Authenticator let in end.
        """
        self._check_open()
        if everywhere:
            await self._journal.write(self._repository.remove_tokens, user.username)
        elif token is not None:
            await self._journal.write(self._repository.remove_token, auth.digest(token.secret))
        digest = auth.digest(token.secret) if token else None
        self._end_soon(user, "logged out", lambda each: everywhere or each.digest == digest)

    def _end_soon(
        self, user: User, reason: str, which: Callable[[Connected], bool] = lambda _: True
    ) -> None:
        """End a user's connections.  Soon, not now: the one that asked is answered first."""
        asyncio.get_running_loop().call_soon(
            self.roster.end,
            lambda each: (
                each.user is not None and each.user.username == user.username and which(each)
            ),
            Close.REVOKED,
            reason,
        )

    async def _end_revoked(self) -> None:
        """End whoever another process has disabled, or whose token it has revoked."""
        asked = self.roster.logins()
        found = await self._read(self._repository.logins, [*asked])
        gone = {name: digests - {*found.get(name, ())} for name, digests in asked.items()}
        self.roster.end(
            lambda each: (
                each.user is not None
                and (name := each.user.username) in asked
                and (name not in found or each.digest in gone[name])
            ),
            Close.REVOKED,
            "revoked",
        )

    # What somebody changes of their own.

    async def change_password(
        self,
        user: User,
        old: str,
        new: str,
        *,
        end_others: bool = False,
        token: Token | None = None,
    ) -> None:
        """Give a user another password, for which they must know the one they have.

        With `end_others`, all of their tokens but `token` are revoked, and the connections
        that hold one of those end.  Raises BadCredentials, Invalid, RateLimited, and
        Forbidden for a user whose password is not kept here.
        """
        self._policy.check(user, commands.Password(old, new, end_others), None)
        auth.check_password(new)
        self._changes.take(user.username)
        account = await self._active(user)
        if account.password_hash is None:
            raise Forbidden("Your password is not kept here; change it where you log in")
        if not await self._passwords.verify(old, account.password_hash):
            raise BadCredentials("The old password is wrong")
        password_hash = await self._passwords.hash(new)
        keep = auth.digest(token.secret) if token is not None else None
        await self._journal.write(
            partial(
                self._repository.set_password,
                user.username,
                password_hash,
                revoke=end_others,
                keep=keep,
            )
        )
        if end_others:
            self._end_soon(user, "the password was changed", lambda each: each.digest != keep)

    async def change_profile(
        self, user: User, *, display_name: str | None = None, bot: bool | None = None
    ) -> User:
        """Give a user another display name, or say whether it is a bot; return what they are now.

        The user's own connections are told of the name, and who listens to a room that they
        are a member of.  Raises Invalid, NotFound, Forbidden, RateLimited.
        """
        if display_name is not None:
            self._policy.check(user, commands.Profile(display_name), None)
            display_name = model.display_name(display_name)
            self._changes.take(user.username)
        before = (await self._active(user)).user
        after = evolve(
            before,
            display_name=before.display_name if display_name is None else display_name,
            bot=before.bot if bot is None else bot,
        )
        if after != before:
            if not await self._journal.write(self._repository.set_profile, after):
                raise Forbidden(_INACTIVE["deleted"])  # since it was looked up
            self.roster.rename(after)
        if after.display_name != before.display_name:
            event = ProfileChanged(after.username, after.display_name)
            self.hub.tell(after.username, event)
            mine = await self._read(self._repository.memberships, after.username)
            joined = [each.room.name for each in mine if each.role != INVITED]
            self.hub.hint(after.username, event, joined)
        return after

    async def _active(self, user: User) -> Account:
        """Return somebody's account.  Raises NotFound, and Forbidden for who may do nothing."""
        return await self._read(self._account, user.username)

    def _account(self, username: str) -> Account:
        account = self._repository.user(username)
        if account is None:
            raise NotFound("There is no such user")
        if account.status != "active":
            raise Forbidden(_INACTIVE[account.status])
        return account

    # What a host does with accounts.

    async def disable(self, user: User) -> None:
        """Let a user do nothing more: log in, or send what is under way.

        Their tokens are revoked, and their connections end.  Repeatable.  Raises NotFound,
        and Conflict for a deleted one.
        """
        await self._switch(self._repository.disable, user, "disabled")
        self._end_soon(user, _INACTIVE["disabled"])

    async def enable(self, user: User) -> None:
        """Let a disabled user log in again.  Repeatable; raises as `disable` does."""
        await self._switch(self._repository.enable, user, "active")

    async def _switch(self, write: Callable[[str], bool], user: User, status: str) -> None:
        self._check_open()
        if await self._journal.write(write, user.username):
            return
        account = await self._read(self._repository.user, user.username)
        if account is None:
            raise NotFound("There is no such user")
        if account.status != status:
            raise Conflict(_INACTIVE["deleted"])

    async def delete_account(
        self, user: User, *, messages: Literal["keep", "erase"] = "keep"
    ) -> None:
        """Take a user out of every room, for ever; the username stays theirs.

        Their tokens are revoked, and their connections end, as with `disable`; so do their
        memberships, each with an event of its room.  Their messages and reactions stay, under
        the display name "Deleted user", or are erased and taken back, as `delete` and `unreact`
        do it, each with its event.

        It is decided when this is called, and done when it returns: a user of a million
        messages takes minutes, while others are served.  Where it is interrupted, it goes
        on with the next start, or the next call.  Raises NotFound, StorageFull, Unavailable.
        """
        await self._close_account(user, messages)

    async def forget(self, user: User) -> None:
        """Delete an account, its messages and reactions, and all else that there is of the person.

        That is the display name, what was given as reasons, by them and for what was done to
        them, what reports by or about them say, and the marks of what was sent with a txn_id.
        What stays is the username, at the places where something was.
        Otherwise as `delete_account`.
        """
        await self._close_account(user, "forget")

    async def _close_account(self, user: User, closing: Closing) -> None:
        self._check_open()
        account = await self._journal.write(self._repository.close_account, user.username, closing)
        if account is None:
            raise NotFound("There is no such user")
        self._end_soon(user, _INACTIVE["deleted"])
        while account is not None and account.closing is not None:
            await asyncio.shield(self._depart(account))
            # Where that was under way already, more may have been asked for.
            account = await self._read(self._repository.user, user.username)

    def _depart(self, account: Account) -> asyncio.Task[None]:
        """Have done what is to be done for a deleted user, by one task whoever asks."""
        username = account.user.username

        def departed(task: asyncio.Task[None]) -> None:
            del self._departures[username]
            error = None if task.cancelled() else task.exception()
            if error is not None:
                defect = None if isinstance(error, ChatError) else error
                text = "the deletion of %s is not done yet: %s"
                logger.warning(text, username, error, exc_info=defect)

        if username not in self._departures:
            task = self._departures[username] = asyncio.create_task(self._departing(account))
            task.add_done_callback(departed)
        return self._departures[username]

    async def _departing(self, account: Account) -> None:
        steps = dossier.departure(self._repository, account, self._now)
        while (step := await self._read(next, steps, None)) is not None:
            if callable(step):
                await self._journal.write(step)
            else:
                dossier.check(await self._append_all(step))
        if account.closing == "forget":
            self.hub.let_go()
        await self._journal.write(
            self._repository.account_closed, account.user.username, account.closing
        )

    async def _append_all(self, drafts: Sequence[Draft]) -> Sequence[Outcome]:
        outcomes: list[Outcome] = []
        done = asyncio.Event()

        def settled(outcome: Outcome) -> None:
            outcomes.append(outcome)
            if len(outcomes) == len(drafts):
                done.set()

        for draft in drafts:
            self._journal.append(draft, settled)
        await done.wait()
        return outcomes

    async def export(self, user: User) -> AsyncIterator[bytes]:
        """Yield all that there is of a user, as lines of JSON, in pieces of many lines.

        First the account, the memberships, the logins and the reports by or about them, each
        with a key `export`, and then every event, as the protocol has it, that they sent or
        that is about their memberships.  Nothing of it is held in memory.  Raises NotFound.
        """
        pieces = dossier.exported(self._repository, user.username, self.wire)
        while (piece := await self._read(next, pieces, None)) is not None:
            yield piece

    # What Chat has.

    @abstractmethod
    def _check_open(self) -> None:
        """Raise where no call is taken: RuntimeError before the start, Unavailable at the end."""

    @abstractmethod
    async def _read(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """Run a read of the repository off the loop."""

    def _now(self) -> datetime:
        """The clock, to the millisecond that the log keeps."""
        now = self._clock()
        return now.replace(microsecond=now.microsecond // 1000 * 1000)
