"""Which commands are legal now, for one connection; no I/O.

A connection is somebody once it has logged in, and nobody before:

    command             nobody    somebody
    ping                yes       yes
    login               yes       as the same user
    register            yes       no
    everything else     no        yes
"""

from __future__ import annotations

from attrs import define

from chatcore.commands import Command, Login, Ping, Register
from chatcore.errors import Conflict, Unauthenticated
from chatcore.model import User

MALFORMED_FRAMES = 5
"""In a row; the last of them ends the connection."""


@define
class Session:
    user: User | None = None
    _malformed: int = 0

    def malformed(self) -> bool:
        """Count a frame that is no command; True when it was one too many."""
        self._malformed += 1
        return self._malformed >= MALFORMED_FRAMES

    def admit(self, command: Command) -> None:
        """Return, or raise Unauthenticated or Conflict."""
        self._malformed = 0
        match command:
            case Ping() | Login():
                return
            case Register():
                if self.user is not None:
                    raise Conflict(f"Logged in as {self.user.username}; log out first")
            case _:
                self.actor()

    def actor(self) -> User:
        """Who this is.  Raises Unauthenticated."""
        if self.user is None:
            raise Unauthenticated("Log in or register first")
        return self.user
