"""Who is where: connections counted for each user, and the changes between 0 and 1."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from chatcore import events

NAMED = 200
"""Up to so many online, a room's presence tells names; above it, how many."""


class Presence:
    """Pure bookkeeping.  A user who left and came back between two `changes` did neither."""

    def __init__(self) -> None:
        self._rooms: dict[str, Counter[str]] = {}
        self._changed: dict[str, dict[str, bool]] = {}
        """For each room, who changed since the last `changes`: were they online before?"""
        self._crowded: set[str] = set()
        """Rooms that were last told of by a count alone."""

    def enter(self, room: str, username: str) -> None:
        """Count one more of a user's connections."""
        online = self._rooms.setdefault(room, Counter())
        online[username] += 1
        if online[username] == 1:
            self._changed.setdefault(room, {}).setdefault(username, False)

    def leave(self, room: str, username: str) -> None:
        """Count one less."""
        online = self._rooms[room]
        online[username] -= 1
        if not online[username]:
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
        changed, self._changed = self._changed, {}
        for room, users in changed.items():
            online = self._rooms.get(room, Counter())
            if len(online) > NAMED:
                self._crowded.add(room)
                yield events.Presence(room, len(online))
                continue
            came = sorted(user for user, before in users.items() if user in online and not before)
            went = sorted(user for user, before in users.items() if user not in online and before)
            if room in self._crowded:
                self._crowded.remove(room)
                yield events.Presence(room, len(online), sorted(online), went)
            elif came or went:
                yield events.Presence(room, len(online), came, went)
