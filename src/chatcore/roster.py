"""Who is connected to this node: how many of whom, and a way to end them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Protocol

from chatcore.errors import RateLimited
from chatcore.events import Close
from chatcore.model import Limits, User


class Connected(Protocol):
    """What there is to know of a connection."""

    peer: str
    """The other side's address; empty where it has none, and then it is not counted."""
    user: User | None
    digest: bytes | None
    """Of the token that it logged in with."""

    def end(self, code: Close, reason: str, retry_after: float | None = None) -> None:
        """Say `bye` and close; repeatable, the first one counts."""


class Roster:
    """Every connection from its first moment to its last."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._connections: dict[Connected, None] = {}
        self._peers: Counter[str] = Counter()
        self._users: Counter[str] = Counter()
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._connections)

    def add(self, connection: Connected) -> None:
        """Count a connection in.  Raises RateLimited where its address has too many."""
        most = self._limits.address_connections
        if connection.peer and most is not None and self._peers[connection.peer] >= most:
            raise RateLimited(f"Your address has {most} connections; close one first")
        self._connections[connection] = None
        self._empty.clear()
        self._peers[connection.peer] += 1

    def identify(self, connection: Connected, user: User) -> None:
        """Note whose it is.  Raises RateLimited where that user has too many."""
        most = self._limits.user_connections
        if most is not None and self._users[user.username] >= most:
            raise RateLimited(f"You have {most} connections; close one first")
        connection.user = user
        self._users[user.username] += 1

    def unidentify(self, connection: Connected) -> None:
        """Note that it is nobody's, or not any more."""
        if connection.user is not None:
            _decrement(self._users, connection.user.username)
            connection.user = None

    def rename(self, user: User) -> None:
        """Have a user's connections know them as they are called now."""
        for connection in self._connections:
            if connection.user is not None and connection.user.username == user.username:
                connection.user = user

    def logins(self) -> dict[str, set[bytes]]:
        """Return who is connected, and with which tokens."""
        found: dict[str, set[bytes]] = {}
        for connection in self._connections:
            if connection.user is not None:
                digests = found.setdefault(connection.user.username, set())
                if connection.digest is not None:
                    digests.add(connection.digest)
        return found

    def remove(self, connection: Connected) -> None:
        """Count a connection out."""
        del self._connections[connection]
        _decrement(self._peers, connection.peer)
        if connection.user is not None:
            _decrement(self._users, connection.user.username)
        if not self._connections:
            self._empty.set()

    async def emptied(self) -> None:
        """Return when nobody is connected."""
        await self._empty.wait()

    def end(
        self,
        which: Callable[[Connected], bool],
        code: Close,
        reason: str,
        retry_after: Iterator[float] | None = None,
    ) -> None:
        """End those that a predicate picks, each with the next of the delays."""
        for connection in [*filter(which, self._connections)]:
            connection.end(code, reason, next(retry_after) if retry_after else None)


def _decrement(counter: Counter[str], key: str) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
