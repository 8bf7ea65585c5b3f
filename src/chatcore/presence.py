"""Who is where: connections counted for each user, and the changes between 0 and 1."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator

from chatcore import events

NAMED = 200
"""Up to so many online, a room's presence tells names; above it, how many."""
CROWD_SECONDS = 2.0
"""How far apart a room with more is told of how many: each time is a write to all of them."""


class Presence:
    """Pure bookkeeping.  A user who left and came back between two `changes` did neither.

    Nor did one whose last connection has gone and who is back within `linger` seconds.
    `clock` gives seconds, monotonic.
    """

    def __init__(self, linger: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._linger = linger
        self._clock = clock
        self._rooms: dict[str, Counter[str]] = {}
        """The connections of everybody who is online; 0 for one who lingers."""
        self._lingering: dict[tuple[str, str], float] = {}
        """Who has no connection any more, and until when that is not told; the first first."""
        self._changed: dict[str, dict[str, bool]] = {}
        """For each room, who changed since the last `changes`: were they online before?"""
        self._crowds: dict[str, tuple[int, float]] = {}
        """Rooms that were last told of by a count alone: by which, and when."""

    def enter(self, room: str, username: str) -> None:
        """Count one more of a user's connections."""
        online = self._rooms.setdefault(room, Counter())
        if username not in online:
            self._changed.setdefault(room, {}).setdefault(username, False)
        self._lingering.pop((room, username), None)
        online[username] += 1

    def leave(self, room: str, username: str, *, lingers: bool = False) -> None:
        """Count one less; of the last one nothing is told yet where the user may be back soon."""
        online = self._rooms[room]
        online[username] -= 1
        if online[username]:
            return
        if lingers and self._linger > 0:
            self._lingering[room, username] = self._clock() + self._linger
        else:
            self._go(room, username)

    def dismiss(self, room: str, username: str) -> None:
        """Have a user who lingers be gone: they do not come back as they were."""
        if self._lingering.pop((room, username), None) is not None:
            self._go(room, username)

    def _go(self, room: str, username: str) -> None:
        online = self._rooms[room]
        del online[username]
        self._changed.setdefault(room, {}).setdefault(username, True)
        if not online:
            del self._rooms[room]

    def online(self, room: str) -> list[str]:
        """Return who is, by name."""
        return sorted(self._rooms.get(room, ()))

    def is_crowd(self, room: str) -> bool:
        """Whether so many are online that no names are told."""
        return len(self._rooms.get(room, ())) > NAMED

    def state(self, room: str) -> events.Presence:
        """Return all that there is to know of a room now."""
        online = self._rooms.get(room, ())
        if len(online) > NAMED:
            return events.Presence(room, len(online))
        return events.Presence(room, len(online), sorted(online), [])

    def changes(self) -> Iterator[events.Presence]:
        """Take what has changed since the last call, one event for each room.

        A room that has thinned to what is told by name is told whole.
        """
        now = self._clock()
        for (room, username), until in [*self._lingering.items()]:
            if until > now:
                break
            self.dismiss(room, username)
        changed, self._changed = self._changed, {}
        for room, users in changed.items():
            online = self._rooms.get(room, Counter())
            if len(online) > NAMED:
                count, at = self._crowds.get(room, (0, now - CROWD_SECONDS))
                if at + CROWD_SECONDS > now:
                    self._changed[room] = users
                elif len(online) != count:
                    self._crowds[room] = len(online), now
                    yield events.Presence(room, len(online))
                continue
            came = sorted(user for user, before in users.items() if user in online and not before)
            went = sorted(user for user, before in users.items() if user not in online and before)
            if self._crowds.pop(room, None) is not None:
                yield events.Presence(room, len(online), sorted(online), went)
            elif came or went:
                yield events.Presence(room, len(online), came, went)

    def due(self) -> float | None:
        """Return in how many seconds there is something to tell that nobody has to do anything for.

        None where there is nothing.
        """
        moments = [
            self._crowds[room][1] + CROWD_SECONDS for room in self._changed if room in self._crowds
        ]
        moments += [*self._lingering.values()][:1]
        return max(0.0, min(moments) - self._clock()) if moments else None
