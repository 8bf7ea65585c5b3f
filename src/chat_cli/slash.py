"""What people in a room do beside talking: keep order, and mend what they said."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from attrs import evolve

from chat_cli.lines import line as shown
from chat_cli.lines import moment
from chat_transports.client import Client
from chatcore.errors import ChatError
from chatcore.events import Delete, Durable, Edit, Member, Message, Reaction, Sanction, SendReply

USAGE = (
    ("/reply NAME TEXT", "answer NAME's last message here"),
    ("/react NAME EMOJI", "put an emoji beside NAME's last message"),
    ("/unreact NAME EMOJI", "take it away again"),
    ("/edit TEXT", "give your last message here another text"),
    ("/delete [NAME]", "delete your last message here, or NAME's"),
    ("/title [TEXT]", "call the room something; without TEXT, nothing"),
    ("/topic [TEXT]", "say what it is about; without TEXT, nothing"),
    ("/slow SECONDS", "have members wait between messages; 0 ends it"),
    ("/keep DAYS", "let go of what is older; 0 keeps everything"),
    ("/archive [off]", "let nobody write any more, or write again"),
    ("/invite NAME", "let somebody into a private room"),
    ("/kick NAME", "remove somebody"),
    ("/ban NAME [MINUTES] [REASON]", "remove somebody and keep them out"),
    ("/unban NAME", "let somebody come back"),
    ("/mute NAME [MINUTES] [REASON]", "let somebody read and not write"),
    ("/unmute NAME", "let somebody write again"),
    ("/role NAME ROLE", "make somebody owner, moderator, member or reader"),
    ("/bans", "who is banned or muted"),
    ("/report NAME REASON", "tell the moderators of NAME's last message"),
    ("/reports", "what the moderators were told"),
    ("/log [N]", "the newest N things that were done here"),
)

WORDS = frozenset(usage.split()[0] for usage, _ in USAGE)

SHOWN = 1_000
"""Messages remembered, for what is about them."""
MOST_MINUTES = 60 * 24 * 365 * 100


class Misused(Exception):
    """A command was not used as it is."""


class Slash:
    def __init__(self, chat: Client, say: Callable[[str], object]) -> None:
        self._chat = chat
        self._say = say
        self._said: dict[tuple[str, int], Message] = {}
        """The last SHOWN messages as they are now, by room and seq."""

    def note(self, event: Durable) -> None:
        """Remember what was shown: a message, or what became of one."""
        match event:
            case Message():
                self._said[event.room, event.seq] = event
                if len(self._said) > SHOWN:
                    del self._said[next(iter(self._said))]
            case Edit(erased=False):
                changes = {"content": event.content, "mentions": event.mentions}
                self._now(event.room, event.target, edited=event.timestamp, **changes)
            case Delete():
                self._now(event.room, event.target, content="", erased=True)

    def sent(self, reply: SendReply, text: str) -> None:
        """Remember a message of one's own, which need not be shown yet."""
        if (reply.room, reply.seq) not in self._said:
            self.note(Message(reply.room, reply.seq, self._me, reply.timestamp, text))

    def forget(self, room: str) -> None:
        """Remember nothing of a room: one that was left, or whose log began anew."""
        for key in [key for key in self._said if key[0] == room]:
            del self._said[key]

    def about(self, event: Durable) -> Message | None:
        """Return the message that an event answers, is a reaction to or deletes, if it is known."""
        match event:
            case Message(reply_to=int(seq)) | Reaction(target=seq):
                found = self._said.get((event.room, seq))
                return None if found is None or found.erased else found
            case Delete(target=seq):
                return self._said.get((event.room, seq))
        return None

    def _now(self, room: str, seq: int, **changes: Any) -> None:
        message = self._said.get((room, seq))
        if message is not None:
            self._said[room, seq] = evolve(message, **changes)

    async def obey(self, room: str, word: str, rest: str) -> int:
        """Do what one of WORDS says in a room; return the seq of the event that says so, or 0.

        Raises Misused, ChatError.
        """
        chat, given = self._chat, rest.split()
        match (word, *given):
            case ("/reply", name, _, *_):
                text = rest.split(maxsplit=1)[1]
                reply = await chat.send(room, text, reply_to=self._last(room, name))
                self.sent(reply, text)
                return reply.seq
            case ("/react", name, emoji):
                return (await chat.react(room, self._last(room, name), emoji)).seq
            case ("/unreact", name, emoji):
                return (await chat.unreact(room, self._last(room, name), emoji)).seq
            case ("/edit", _, *_):
                return (await chat.edit(room, self._last(room, self._me), rest)).seq
            case ("/delete",):
                return await self._delete(room, self._me)
            case ("/delete", name):
                return await self._delete(room, name)
            case ("/title", *_):
                return (await chat.update(room, title=rest)).seq
            case ("/topic", *_):
                return (await chat.update(room, topic=rest)).seq
            case ("/slow", seconds) if _is_number(seconds):
                return (await chat.update(room, slow_mode=int(seconds))).seq
            case ("/keep", days) if _is_number(days):
                return (await chat.update(room, retention_days=int(days))).seq
            case ("/archive",):
                return (await chat.update(room, archived=True)).seq
            case ("/archive", "off"):
                return (await chat.update(room, archived=False)).seq
            case ("/invite", name):
                return (await chat.invite(room, name)).seq
            case ("/kick", name):
                return (await chat.kick(room, name)).seq
            case ("/ban", name, *more):
                until, reason = _until(more)
                return (await chat.ban(room, name, until=until, reason=reason)).seq
            case ("/unban", name):
                return (await chat.unban(room, name)).seq
            case ("/mute", name, *more):
                until, reason = _until(more)
                return (await chat.mute(room, name, until=until, reason=reason)).seq
            case ("/unmute", name):
                return (await chat.unmute(room, name)).seq
            case ("/role", name, role):
                return (await chat.set_role(room, name, role)).seq
            case ("/report", name, _, *_):
                await chat.report(room, self._last(room, name), rest.split(maxsplit=1)[1])
                self._say("[System] The moderators are told")
            case ("/reports",):
                await self._reports(room)
            case ("/bans",):
                await self._bans(room)
            case ("/log",):
                await self._log(room, 20)
            case ("/log", number) if _is_number(number) and int(number):
                await self._log(room, int(number))
            case _:
                raise Misused(f"{word} is not used like that: /help says how")
        return 0

    @property
    def _me(self) -> str:
        return self._chat.user.username if self._chat.user else ""

    def _last(self, room: str, name: str) -> int:
        sender = name.removeprefix("@").lower()
        seqs = [
            seq
            for (where, seq), message in self._said.items()
            if where == room and message.sender == sender and not message.erased
        ]
        if not seqs:
            raise Misused(f"There is no message of {name} on this screen")
        return max(seqs)

    async def _delete(self, room: str, name: str) -> int:
        seq = self._last(room, name)
        reply = await self._chat.delete(room, seq)
        self._now(room, seq, content="", erased=True)
        return reply.seq

    async def _reports(self, room: str) -> None:
        after, complete = 0, False
        while not complete:
            page = await self._chat.reports(room, after=after)
            for each in page.reports:
                after = each.number
                self._say(f"[{moment(each.timestamp)}] {each.username} reports: {each.reason}")
                message = await self._message(room, each.seq)
                self._say(f"  {shown(message) if message else 'a message that is gone'}")
            complete = page.complete or not page.reports
        if not after:
            self._say("[System] Nothing was reported here")

    async def _bans(self, room: str) -> None:
        after, complete = None, False
        while not complete:
            page = await self._chat.bans(room, after=after)
            for each in page.bans:
                after = each.username
                for held, what in ((each.ban, "banned"), (each.mute, "muted")):
                    if held is not None:
                        self._say(f"{each.username} is {what}{_how(held)}")
            complete = page.complete or not page.bans
        if after is None:
            self._say("[System] Nobody is banned or muted here")

    async def _log(self, room: str, number: int) -> None:
        page = await self._chat.history(room, types=["member", "room", "delete"], limit=number)
        for event in page.events:
            about = None
            if isinstance(event, Delete):
                with contextlib.suppress(ChatError):  # then it is not known whose it was
                    about = await self._message(room, event.target)
            done = (shown(event, about=about) or _came_or_went(event)).removeprefix("[System] ")
            self._say(f"[{moment(event.timestamp)}] {done}")

    async def _message(self, room: str, seq: int) -> Message | None:
        """Return a message as it is now, None where the room has let go of it."""
        if (room, seq) in self._said:
            return self._said[room, seq]
        page = await self._chat.history(room, around=seq, limit=1)
        return next((each for each in page.messages if each.seq == seq), None)


def _came_or_went(event: Durable) -> str:
    verb = {"join": "joined", "leave": "left"}
    if isinstance(event, Member):
        return f"{event.username} {verb.get(event.action, event.action)}"
    return event.sender


def _how(held: Sanction) -> str:
    by = f" by {held.sender}" if held.sender is not None else ""
    until = f" until {moment(held.until)}" if held.until is not None else ""
    return by + until + (f": {held.reason}" if held.reason else "")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 10


def _until(more: list[str]) -> tuple[datetime | None, str | None]:
    """Return until when, where minutes are given first, and why, where that follows."""
    until = None
    if more and _is_number(more[0]):
        minutes = int(more[0])
        if not 0 < minutes <= MOST_MINUTES:
            raise Misused("Minutes are 1 or more, and no more than a hundred years")
        until, more = datetime.now(UTC) + timedelta(minutes=minutes), more[1:]
    return until, " ".join(more) or None
