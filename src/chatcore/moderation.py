"""Keeping order in a room: the use cases of its owners and moderators."""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import datetime
from typing import TypeVar

from chatcore import commands
from chatcore.events import (
    Acknowledged,
    BanReply,
    InviteReply,
    KickReply,
    MuteReply,
    SetRoleReply,
    UnbanReply,
    UnmuteReply,
    UpdateReply,
)
from chatcore.model import User

A = TypeVar("A", bound=Acknowledged)


class Moderation(ABC):
    """What a Chat lets some users do to others.

    Each becomes an event of the room's log, and is durable when it returns; a `txn_id`
    makes it safe to ask again.  `policy` says who may do what to whom.  All raise
    NotFound, NotMember, Forbidden, TxnConflict, StorageFull and Unavailable, and
    Conflict where there is nothing to be changed; but to ban or mute somebody just as they
    are already is answered as the first time, with `duplicate`.
    """

    async def update(
        self,
        user: User,
        room: str,
        *,
        title: str | None = None,
        topic: str | None = None,
        slow_mode: int | None = None,
        archived: bool | None = None,
        retention_days: int | None = None,
        txn_id: str | None = None,
    ) -> UpdateReply:
        """Change what is to be said of a room; what is None stays.

        `slow_mode` is in seconds; in an archived room nobody writes; events older than
        `retention_days` go, and with 0 none does.  The event has what is another now, and
        where nothing is, there is none: that is Conflict.  Raises also Invalid.
        """
        command = commands.Update(room, title, topic, slow_mode, archived, retention_days, txn_id)
        return await self._settle(user, command, UpdateReply)

    async def invite(
        self, user: User, room: str, username: str, *, txn_id: str | None = None
    ) -> InviteReply:
        """Let somebody join a room who could not, and tell them so."""
        return await self._settle(user, commands.Invite(room, username, txn_id), InviteReply)

    async def kick(
        self, user: User, room: str, username: str, *, txn_id: str | None = None
    ) -> KickReply:
        """End a membership or an invitation.  A public room may be joined again."""
        return await self._settle(user, commands.Kick(room, username, txn_id), KickReply)

    async def ban(
        self,
        user: User,
        room: str,
        username: str,
        *,
        until: datetime | None = None,
        reason: str | None = None,
        txn_id: str | None = None,
    ) -> BanReply:
        """Keep somebody out of a room, a member or not, until a moment or for ever.

        When this returns, nothing from or to them passes there any more.
        """
        command = commands.Ban(room, username, until, reason, txn_id)
        return await self._settle(user, command, BanReply)

    async def unban(
        self, user: User, room: str, username: str, *, txn_id: str | None = None
    ) -> UnbanReply:
        """Let somebody join or be invited again."""
        return await self._settle(user, commands.Unban(room, username, txn_id), UnbanReply)

    async def mute(
        self,
        user: User,
        room: str,
        username: str,
        *,
        until: datetime | None = None,
        reason: str | None = None,
        txn_id: str | None = None,
    ) -> MuteReply:
        """Let somebody read and not write, until a moment or for ever, also when they come back."""
        command = commands.Mute(room, username, until, reason, txn_id)
        return await self._settle(user, command, MuteReply)

    async def unmute(
        self, user: User, room: str, username: str, *, txn_id: str | None = None
    ) -> UnmuteReply:
        """Let somebody write again."""
        return await self._settle(user, commands.Unmute(room, username, txn_id), UnmuteReply)

    async def set_role(
        self, user: User, room: str, username: str, role: str, *, txn_id: str | None = None
    ) -> SetRoleReply:
        """Make a member `owner`, `moderator`, `member` or `reader`.

        Conflict also where the room would have no owner any more.
        """
        command = commands.SetRole(room, username, role, txn_id)
        return await self._settle(user, command, SetRoleReply)

    @abstractmethod
    async def _settle(self, user: User, command: commands.Durable, expected: type[A]) -> A:
        """Hand a command to the log, and return its reply once it is durable."""
