"""What people in a room do beside talking: keep order, and mend what they said."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from chat_cli.lines import line as shown
from chat_cli.lines import moment
from chat_transports.client import Client
from chatcore.events import Delete, Durable, Member, Message, Reaction

USAGE = (
    ("/reply NAME TEXT", "answer NAME's last message here"),
    ("/react NAME EMOJI", "put an emoji beside NAME's last message"),
    ("/unreact NAME EMOJI", "take it away again"),
    ("/edit TEXT", "give your last message here another text"),
    ("/delete [NAME]", "delete your last message here, or NAME's"),
    ("/title TEXT", "call the room something"),
    ("/topic TEXT", "say what the room is about"),
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
    ("/report NAME REASON", "tell the moderators of NAME's last message"),
    ("/reports", "what the moderators were told"),
    ("/log [N]", "the newest N things that were done here"),
)

WORDS = frozenset(usage.split()[0] for usage, _ in USAGE)

SHOWN = 500
"""Messages remembered, for what answers them."""
MOST_MINUTES = 60 * 24 * 365 * 100


class Misused(Exception):
    """A command was not used as it is."""


class Slash:
    def __init__(self, chat: Client, say: Callable[[str], object]) -> None:
        self._chat = chat
        self._say = say
        self._newest: dict[tuple[str, str], int] = {}
        """The last message of each person in each room, of those that were shown."""
        self._shown: dict[tuple[str, int], Message] = {}
        """The last SHOWN messages, by room and seq."""

    def note(self, event: Durable) -> None:
        """Remember a message that was shown."""
        if isinstance(event, Message) and not event.erased:
            key = (event.room, event.sender)
            self._newest[key] = max(event.seq, self._newest.get(key, 0))
            self._shown[event.room, event.seq] = event
            if len(self._shown) > SHOWN:
                del self._shown[next(iter(self._shown))]
        elif isinstance(event, Delete):
            self._shown.pop((event.room, event.target), None)

    def about(self, event: Durable) -> Message | None:
        """Return the message that an event answers, or is a reaction to, where it was shown."""
        match event:
            case Message(reply_to=int(seq)) | Reaction(target=seq):
                return self._shown.get((event.room, seq))
        return None

    async def obey(self, room: str, word: str, rest: str) -> int:
        """Do what one of WORDS says in a room; return the seq of the event that says so, or 0.

        Raises Misused, ChatError.
        """
        chat, given = self._chat, rest.split()
        match (word, *given):
            case ("/reply", name, _, *_):
                text = rest.split(maxsplit=1)[1]
                return (await chat.send(room, text, reply_to=self._last(room, name))).seq
            case ("/react", name, emoji):
                return (await chat.react(room, self._last(room, name), emoji)).seq
            case ("/unreact", name, emoji):
                return (await chat.unreact(room, self._last(room, name), emoji)).seq
            case ("/edit", _, *_):
                return (await chat.edit(room, self._last(room, self._me), rest)).seq
            case ("/delete",):
                return (await chat.delete(room, self._last(room, self._me))).seq
            case ("/delete", name):
                return (await chat.delete(room, self._last(room, name))).seq
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
        seq = self._newest.get((room, name.removeprefix("@").lower()))
        if seq is None:
            raise Misused(f"There is no message of {name} on this screen")
        return seq

    async def _reports(self, room: str) -> None:
        after, complete = 0, False
        while not complete:
            page = await self._chat.reports(room, after=after)
            for each in page.reports:
                after = each.number
                self._say(f"[{moment(each.timestamp)}] {each.username} reports: {each.reason}")
                found = await self._chat.history(room, around=each.seq, limit=1)
                for message in found.messages:
                    self._say(f"  {shown(message)}")
            complete = page.complete or not page.reports
        if not after:
            self._say("[System] Nothing was reported here")

    async def _log(self, room: str, number: int) -> None:
        page = await self._chat.history(room, types=["member", "room", "delete"], limit=number)
        for event in page.events:
            done = (shown(event) or _came_or_went(event)).removeprefix("[System] ")
            self._say(f"[{moment(event.timestamp)}] {done}")


def _came_or_went(event: Durable) -> str:
    verb = {"join": "joined", "leave": "left"}
    if isinstance(event, Member):
        return f"{event.username} {verb.get(event.action, event.action)}"
    return event.sender


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
