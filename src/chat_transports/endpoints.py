"""Which commands the HTTP door takes: each is a method of a path.

A command's fields are in the path and in the body.  With GET and DELETE, where a body
means nothing (RFC 9110, 9.3.1 and 9.3.5), they are in the path and in the query.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType
from typing import Any, TypeAlias, get_args, get_type_hints

from attrs import NOTHING, fields, frozen

from chatcore import commands
from chatcore.commands import word
from chatcore.events import Reply

Asked: TypeAlias = commands.Plain | commands.Durable


@frozen
class Endpoint:
    method: str
    summary: str
    command: type[Asked]
    types: Mapping[str, Any]
    """As `types_of` has them, which is slow to find."""

    @property
    def reads(self) -> bool:
        return self.method == "GET"

    @property
    def in_query(self) -> bool:
        return self.method in ("GET", "DELETE")

    @property
    def word(self) -> str:
        return word(self.command)

    @property
    def reply(self) -> type[Reply]:
        return _REPLIES[self.word]

    def read(self, texts: Mapping[str, str]) -> dict[str, Any]:
        """Return a path's or a query's fields; what is to be a number and is none stays a text."""
        return {name: _read(text, self.types.get(name)) for name, text in texts.items()}


def types_of(class_: type) -> Mapping[str, Any]:
    """Return the type of each field; of one that may be left out, the type of what it may be."""
    return {name: _present(type_) for name, type_ in get_type_hints(class_).items()}


def required(class_: Any) -> list[str]:
    """Return the names of the fields that are always there."""
    return [each.name for each in fields(class_) if each.default is NOTHING]


def _present(type_: Any) -> Any:
    arms = get_args(type_)
    return next(arm for arm in arms if arm is not NoneType) if NoneType in arms else type_


def _read(text: str, type_: Any) -> Any:
    if type_ is int and text.isascii() and text.isdecimal() and len(text) < 20:
        return int(text)
    return text.split(",") if type_ == tuple[str, ...] else text


_REPLIES: Mapping[str, type[Reply]] = {
    word(reply).removesuffix("_reply"): reply for reply in get_args(Reply)
}

_ROOM = "/rooms/{room}"
_MESSAGE = _ROOM + "/messages/{seq}"
_REACTION = _MESSAGE + "/reactions/{emoji}"
_MEMBER = _ROOM + "/members/{username}"
_BAN = _ROOM + "/bans/{username}"
_MUTE = _ROOM + "/mutes/{username}"

_TABLE: tuple[tuple[str, str, type[Asked], str], ...] = (
    ("PATCH", "/profile", commands.Profile, "Change one's display name"),
    ("GET", "/rooms", commands.Rooms, "List the rooms that one may see, by name"),
    ("POST", "/rooms", commands.Create, "Create a room, and own it"),
    ("PUT", "/direct/{username}", commands.Direct, "Open the room of oneself and another"),
    ("PATCH", _ROOM, commands.Update, "Change what is to be said of a room"),
    ("POST", _ROOM + "/join", commands.Join, "Become a member, and read what is newest"),
    ("POST", _ROOM + "/leave", commands.Leave, "End one's membership, or decline an invitation"),
    ("GET", _ROOM + "/online", commands.Who, "Say who is online"),
    ("POST", _ROOM + "/typing", commands.Typing, "Tell the others that one is writing"),
    ("PUT", _ROOM + "/read", commands.MarkRead, "Say how far one has read"),
    ("GET", _ROOM + "/messages", commands.History, "Read a page; the newest, without an edge"),
    ("POST", _ROOM + "/messages", commands.Send, "Store a message; then it is durable"),
    ("GET", "/search", commands.Search, "Find messages in the rooms that one may read"),
    ("PATCH", _MESSAGE, commands.Edit, "Give a message of one's own another text"),
    ("DELETE", _MESSAGE, commands.Delete, "Erase a message"),
    ("PUT", _REACTION, commands.React, "Put an emoji beside a message"),
    ("DELETE", _REACTION, commands.Unreact, "Take one's own emoji away"),
    ("POST", _MESSAGE + "/reports", commands.Report, "Tell the moderators of a message"),
    ("GET", _ROOM + "/reports", commands.Reports, "List what moderators were told of"),
    ("GET", _ROOM + "/members", commands.Members, "List a room's members, by username"),
    ("PATCH", _MEMBER, commands.SetRole, "Give a member another role"),
    ("DELETE", _MEMBER, commands.Kick, "End somebody's membership, or their invitation"),
    ("PUT", _ROOM + "/invitations/{username}", commands.Invite, "Let somebody join a room"),
    ("GET", _ROOM + "/bans", commands.Bans, "List who is banned or muted, by username"),
    ("PUT", _BAN, commands.Ban, "Keep somebody out of a room"),
    ("DELETE", _BAN, commands.Unban, "Let somebody join or be invited again"),
    ("PUT", _MUTE, commands.Mute, "Let somebody read and not write"),
    ("DELETE", _MUTE, commands.Unmute, "Let somebody write again"),
)


def _by_path() -> Mapping[str, Mapping[str, Endpoint]]:
    found: dict[str, dict[str, Endpoint]] = {}
    for method, path, command, summary in _TABLE:
        endpoint = Endpoint(method, summary, command, types_of(command))
        found.setdefault(path, {})[method] = endpoint
    return found


ENDPOINTS = _by_path()
"""By path and method."""
