"""Durable commands made into drafts: texts checked, the policy asked, rates taken."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import assert_never

from chatcore import commands, events, model, names
from chatcore.errors import ChatError, Invalid, NotFound, RateLimited
from chatcore.events import Duplicate, DurableReply
from chatcore.mentions import mentioned
from chatcore.model import Draft, Limits, Room, User
from chatcore.policy import Rates
from chatcore.ports import Outcome, Policy

REPLIES: Mapping[type[commands.Durable], Callable[..., DurableReply]] = {
    commands.Leave: events.LeaveReply,
    commands.Send: events.SendReply,
    commands.Edit: events.EditReply,
    commands.Delete: events.DeleteReply,
    commands.React: events.ReactReply,
    commands.Unreact: events.UnreactReply,
    commands.Update: events.UpdateReply,
    commands.Invite: events.InviteReply,
    commands.Kick: events.KickReply,
    commands.Ban: events.BanReply,
    commands.Unban: events.UnbanReply,
    commands.Mute: events.MuteReply,
    commands.Unmute: events.UnmuteReply,
    commands.SetRole: events.SetRoleReply,
}
"""What each command is answered with; all but to `leave` have a room, a seq and a timestamp."""

_ACTIONS: Mapping[type[commands.Upon], str] = {
    commands.Invite: "invite",
    commands.Kick: "kick",
    commands.Ban: "ban",
    commands.Unban: "unban",
    commands.Mute: "mute",
    commands.Unmute: "unmute",
    commands.SetRole: "role",
}
"""What a `member` event calls that which a command does."""


class Drafting:
    """Makes drafts on behalf of users.

    A draft takes along why it is refused, for the log to look first whether its txn_id
    is known, and whether its sender may know that there is such a room.
    """

    def __init__(
        self,
        room: Callable[[str], Awaitable[Room]],
        policy: Policy,
        limits: Limits,
        now: Callable[[], datetime],
    ) -> None:
        self._room = room
        self._policy = policy
        self._limits = limits
        self._now = now
        self._messages = Rates(limits.messages, "Slow down: too many messages")
        self._changes = Rates(limits.changes, "Slow down: too many changes")

    async def draft(self, user: User, command: commands.Durable) -> Draft:
        """Return what a command asks of the log.  Raises what can be refused at once."""
        # What can be refused without the room is, whether there is such a room or not.
        kind, body, refusal = self._body(user, command)
        try:
            if (rates := self._rates(command)) is not None:
                rates.take(user.username)
        except RateLimited as error:
            if _txn_id(command) is None:
                raise
            refusal = error
        room = await self._room(command.room)
        limits = None
        if kind in ("edit", "reaction") or (
            kind == "member" and (body["action"] == "invite" or body.get("role") == "owner")
        ):
            limits = self._limits
        return Draft(
            room=room,
            sender=user.username,
            kind=kind,
            body=body,
            timestamp=self._now(),
            txn_id=_txn_id(command),
            refusal=refusal or self._refusal(user, command, room),
            limits=limits,
            mentions=self._mentions(body),
        )

    def _mentions(self, body: Mapping[str, object]) -> tuple[tuple[str, ...], ...]:
        if "content" not in body:
            return ()
        return mentioned(str(body["content"]), self._limits.mentions)

    def joins(
        self, user: User, room: Room, username: str, role: str = "member", *, creates: bool = False
    ) -> Draft:
        """Return what makes somebody a member of a room, which may be born with it."""
        return Draft(
            room=room,
            sender=user.username,
            kind="member",
            body={"username": username, "action": "join", "role": role},
            timestamp=self._now(),
            creates=creates,
            limits=self._limits,
        )

    def _refusal(self, user: User, command: commands.Command, room: Room) -> ChatError | None:
        """Return why the host's policy says no, where it does."""
        try:
            self._policy.check(user, command, room)
        except ChatError as error:
            return error
        return None

    def _rates(self, command: commands.Durable) -> Rates | None:
        match command:
            case _ if isinstance(command, commands.Rated):
                return self._messages
            case _ if isinstance(command, commands.Changing):
                return self._changes
        return None

    def take(self, user: User) -> None:
        """Count what is no message, and costs the server as much.  Raises RateLimited."""
        self._messages.take(user.username)

    def take_change(self, user: User) -> None:
        """Count one more room that is made or joined.  Raises RateLimited."""
        self._changes.take(user.username)

    def settled(self, command: commands.Durable, draft: Draft, outcome: Outcome) -> None:
        """Give back what a retry has taken: it costs nothing."""
        repeats = isinstance(outcome, Duplicate) and not isinstance(draft.refusal, RateLimited)
        if repeats and (rates := self._rates(command)) is not None:
            rates.give_back(draft.sender)

    def _body(
        self, user: User, command: commands.Durable
    ) -> tuple[str, Mapping[str, object], ChatError | None]:
        """Return an event's word and fields, and what is wrong with them only now."""
        most = self._limits.content_chars
        match command:
            case commands.Send(content=text, reply_to=answered):
                body: dict[str, object] = {"content": model.content(text, most)}
                if answered is not None:
                    body["reply_to"] = answered
                return "message", body, None
            case commands.Edit(seq=target, content=text):
                return "edit", {"target": target, "content": model.content(text, most)}, None
            case commands.Delete(seq=target, reason=reason):
                return "delete", {"target": target, **_reason(reason)}, None
            case (
                commands.React(seq=target, emoji=emoji) | commands.Unreact(seq=target, emoji=emoji)
            ):
                action = "add" if isinstance(command, commands.React) else "remove"
                body = {"target": target, "emoji": model.emoji(emoji), "action": action}
                return "reaction", body, None
            case commands.Leave():
                return "member", {"username": user.username, "action": "leave"}, None
            case commands.Update():
                return "room", _fields(command), None
            case (
                commands.Ban(until=until, reason=reason) | commands.Mute(until=until, reason=reason)
            ):
                body = {**_upon(command), **_reason(reason)}
                if until is None:
                    return "member", body, None
                past = until <= self._now()
                return (
                    "member",
                    {**body, "until": model.rfc3339(until)},
                    Invalid("until is in the past") if past else None,
                )
            case commands.SetRole(role=role):
                return "member", {**_upon(command), "role": role}, None
            case commands.Invite() | commands.Kick() | commands.Unban() | commands.Unmute():
                return "member", _upon(command), None
            case _:
                assert_never(command)


def _txn_id(command: commands.Durable) -> str | None:
    return None if isinstance(command, commands.Leave) else command.txn_id


def _upon(command: commands.Upon) -> dict[str, object]:
    try:
        username = names.username(command.username)
    except Invalid:
        raise NotFound("There is no such user") from None
    return {"username": username, "action": _ACTIONS[type(command)]}


def _reason(reason: str | None) -> dict[str, object]:
    return {} if reason is None else {"reason": model.line(reason, "reason", 500)}


def _fields(command: commands.Update) -> dict[str, object]:
    most = {"title": 100, "topic": 500}
    return {
        name: model.line(value, name, most[name]) if name in most else value
        for name, value in command.changes.items()
    }
