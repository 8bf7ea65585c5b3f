"""Accounts: who somebody is, what proves it, and how it ends."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, TypeVar

from attrs import frozen

from chatcore import auth, model, names
from chatcore.errors import BadCredentials, Conflict, Invalid
from chatcore.events import Close
from chatcore.journal import Journal
from chatcore.model import Credentials, Limits, User
from chatcore.policy import Rates
from chatcore.ports import Authenticator, Clock, Repository
from chatcore.roster import Roster

T = TypeVar("T")


@frozen
class Token:
    """A proof of login, and when it ends."""

    secret: str
    expires: datetime


class Accounts(ABC):
    """The use cases of a Chat that are about its users; Chat has the rest."""

    _journal: Journal
    _passwords: auth.Passwords
    """Both from the start on."""

    def __init__(
        self,
        repository: Repository,
        *,
        authenticator: Authenticator | None,
        limits: Limits,
        clock: Clock,
        token_days: float,
    ) -> None:
        self.limits = limits
        self.roster = Roster(limits)
        self._repository = repository
        self._authenticator = authenticator
        self._clock = clock
        self._token_life = timedelta(days=token_days)
        self._attempts = Rates(limits.attempts, "Too many attempts; wait a little")

    async def register(self, username: str, password: str, *, peer: str = "") -> User:
        """Create an account.  Raises Invalid, Conflict, RateLimited, Unavailable.

        `peer` is the address that asks; attempts are counted for each.
        """
        if not username or not password:
            raise Invalid("Username and password are required")
        self._attempt(peer)
        name = names.username(username)
        if names.is_reserved(name):
            raise Invalid(f"The username {name} is reserved; choose another")
        auth.check_password(password)
        user = User(name, model.line(names.shown(username, name), "username", 50))
        if await self._read(self._repository.user, name) is not None:
            raise Conflict("Username already exists")
        password_hash = await self._passwords.hash(password)
        if not await self._journal.write(self._repository.add_user, user, password_hash):
            raise Conflict("Username already exists, or looks like one that does")
        return user

    async def login(self, username: str, password: str, *, peer: str = "") -> User:
        """Return whose name and password these are.  Raises BadCredentials, RateLimited.

        A name that nobody has takes as long as a wrong password.
        """
        if not username or not password:
            raise Invalid("Username and password are required")
        self._attempt(peer)
        try:
            known = await self._read(self._repository.user, names.username(username))
        except Invalid:
            known = None
        user, password_hash = known or (None, None)
        if not await self._passwords.verify(password, password_hash) or user is None:
            raise BadCredentials("Invalid username or password")
        return user

    def _attempt(self, peer: str) -> None:
        if peer:
            self._attempts.take(peer)

    async def issue_token(self, user: User) -> Token:
        """Make a new token for a user; only its hash is stored."""
        self._check_open()
        token = Token(auth.new_token(), self._now() + self._token_life)
        await self._journal.write(
            self._repository.add_token,
            auth.digest(token.secret),
            user.username,
            token.expires,
            self._now(),
        )
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
        host's user whose name cannot be one here.
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
        """Have a host's own user known here; return them, with the name as it is spelled here.

        The first time makes the account, without a password.  Repeatable.  Raises
        Invalid or Conflict where the name cannot be one here.
        """
        display_name = model.line(user.display_name, "display name", names.USERNAME_CHARACTERS)
        user = User(names.username(user.username), display_name)
        if await self._read(self._repository.user, user.username) is None:
            await self._journal.write(self._repository.add_user, user, None)
            # Not added is known by now, from another connection, or looks like somebody.
            if await self._read(self._repository.user, user.username) is None:
                raise Conflict(f"The username {user.username} looks like another's")
        return user

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
        # Soon, not now: the connection that asked is answered first.
        asyncio.get_running_loop().call_soon(
            self.roster.end,
            lambda each: (
                each.user is not None
                and each.user.username == user.username
                and (everywhere or each.digest == digest)
            ),
            Close.REVOKED,
            "logged out",
        )

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
