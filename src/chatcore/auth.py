"""Passwords and tokens; the only home of bcrypt."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

import bcrypt

from chatcore.errors import Invalid, Unavailable

P = ParamSpec("P")
T = TypeVar("T")

TOKEN_PREFIX = "cc_"
PASSWORD_CHARACTERS = 8
PASSWORD_BYTES = 72
"""All that bcrypt looks at; a longer password is refused, never cut."""


def check_password(password: str) -> None:
    """Raise Invalid for a password that may not be chosen."""
    if len(password) < PASSWORD_CHARACTERS:
        raise Invalid(f"A password has at least {PASSWORD_CHARACTERS} characters")
    if _bytes(password) is None:
        raise Invalid(
            f"A password has at most {PASSWORD_BYTES} bytes in UTF-8, and no NUL character"
        )


def _bytes(password: str) -> bytes | None:
    try:
        encoded = password.encode()
    except UnicodeEncodeError:
        return None
    return encoded if len(encoded) <= PASSWORD_BYTES and b"\0" not in encoded else None


def hashed(password: str, cost: int) -> str:
    """Return what is stored of a password that `check_password` has passed.  Takes its time."""
    encoded = _bytes(password)
    assert encoded is not None
    return bcrypt.hashpw(encoded, bcrypt.gensalt(cost)).decode()


def new_token() -> str:
    """Return 256 random bits, marked so that scanners for leaked secrets find them."""
    return TOKEN_PREFIX + secrets.token_urlsafe(32)


def digest(token: str) -> bytes:
    """Return what is stored of a token: its SHA-256, 32 bytes.

    A plain hash is enough for a secret that nobody could guess.
    """
    return hashlib.sha256(token.encode(errors="replace")).digest()


def _closing() -> Unavailable:
    return Unavailable("The server is shutting down; try again", retry_after=1.0)


class Passwords:
    """bcrypt in a small pool of its own, so that neither the loop nor the journal waits.

    `cost` is bcrypt's logarithmic work factor.  At most `waiting` calls queue; one
    more raises Unavailable.
    """

    def __init__(self, cost: int = 12, *, workers: int = 2, waiting: int = 64) -> None:
        self._cost = cost
        self._most = workers + waiting
        self._running = 0
        self._refusing = False
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="chatcore-bcrypt")

    async def hash(self, password: str) -> str:
        """Hash a password that `check_password` has passed."""
        return await self._run(hashed, password, self._cost)

    async def verify(self, password: str, password_hash: str | None) -> bool:
        """Compare, taking as long where there is no hash or the password is impossible."""
        return await self._run(self._verify, _bytes(password), password_hash)

    def refuse(self) -> None:
        """Raise Unavailable in all calls whose turn has not come, and in later ones."""
        self._refusing = True
        self._pool.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """Refuse, and wait for what is running."""
        self.refuse()
        self._pool.shutdown()

    async def _run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._refusing:
            raise _closing()
        if self._running >= self._most:
            raise Unavailable("Too many people are logging in; try again", retry_after=5.0)
        self._running += 1
        work = asyncio.wrap_future(self._pool.submit(partial(function, *args, **kwargs)))
        try:
            await asyncio.wait([work])
        finally:
            self._running -= 1
            work.cancel()
        if work.cancelled():  # by the pool, for whoever was cancelled is not here
            raise _closing()
        return work.result()

    def _verify(self, password: bytes | None, password_hash: str | None) -> bool:
        if password is not None and password_hash is not None:
            with contextlib.suppress(ValueError):  # the stored text is no bcrypt hash
                return bcrypt.checkpw(password, password_hash.encode())
        nobodys = bcrypt.gensalt(self._cost) + b"." * 31  # has the form of a hash
        bcrypt.checkpw(b"", nobodys)
        return False
