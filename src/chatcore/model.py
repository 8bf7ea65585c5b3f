"""The nouns, checked at birth: User, Account, Room, Membership, Restraint, Draft and so on."""

from __future__ import annotations

import functools
import random
import re
import secrets
import unicodedata
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal, TypeAlias

from attrs import Attribute, field, frozen

from chatcore import names
from chatcore.errors import ChatError, Invalid, TooLarge

LOBBY = "lobby"
"""The room that is always there and that everyone may join."""

MAX_FRAME = 1 << 20
"""Bytes.  Nothing the server sends is longer; what a client sends beyond it is not read."""


FOREVER = datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)
"""When a ban ends that has no end."""

INVITED = "invited"
"""What somebody is in a room that they were invited to, and have not joined: no role in it."""

INTEGERS = 1 << 53
"""What an integer is below, and above the negative of: JSON's readers agree on no others."""


_JOINERS = "\u200c\u200d"  # scripts and emoji need them

MARKS = 30
"""Combining marks on one character, an accent being one; no language needs so many."""


def utcnow() -> datetime:
    return datetime.now(UTC)


@functools.lru_cache(maxsize=64)  # an event's is that of the reply, just before
def rfc3339(moment: datetime) -> str:
    """Spell a moment as the wire and the log have it: in UTC, to the millisecond."""
    if moment.tzinfo is not UTC:
        moment = moment.astimezone(UTC)
    return moment.isoformat("T", "milliseconds")[:-6] + "Z"  # in place of +00:00


RequestId: TypeAlias = str | int
"""The client's own mark on a command; its answer carries it back."""


def _encodable(_: object, attribute: Attribute[str], value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Invalid(f"A {attribute.name} cannot have half of a surrogate pair") from None


@frozen
class User:
    """Somebody.  Raises Invalid for a text that could not be stored."""

    username: str = field(validator=_encodable)
    """As `names.username` returns it."""
    display_name: str = field(validator=_encodable)
    bot: bool = False
    """Whether it is a program, for people to be told."""


Closing: TypeAlias = Literal["keep", "erase", "forget"]
"""What is to become of a deleted user's messages and reactions, and with `forget` of all else."""

TOMBSTONE = "Deleted user"
"""The display name of whoever is no more."""


@frozen(kw_only=True)
class Account:
    """What is stored of a user."""

    user: User
    password_hash: str | None = field(repr=False)
    """None for a user whose password is kept elsewhere, and for a deleted one."""
    status: Literal["active", "disabled", "deleted"] = "active"
    closing: Closing | None = None
    """Of a deleted one what is still to be done; None once it is."""

    def closed(self, closing: Closing) -> Account:
        """Return what stays of it when it is deleted, with the most that was asked for."""
        asked = [each for each in (closing, self.closing) if each is not None]
        return Account(
            user=User(self.user.username, TOMBSTONE, self.user.bot),
            password_hash=None,
            status="deleted",
            closing=max(asked, key=("keep", "erase", "forget").index),
        )


@frozen
class Room:
    name: str
    """As `names.room_name` returns it."""
    kind: str = "public"
    """`public`, `private` or `direct`."""
    title: str = ""
    topic: str = ""
    epoch: str = field(factory=lambda: secrets.token_hex(4), eq=False)
    """Names one life of this room's log; a seq means nothing without it."""
    slow_mode: int = 0
    """How many seconds a member waits from one message to the next; 0 for none."""
    archived: bool = False
    """Whether it can be read only."""
    retention_days: int = 0
    """After how many days its events go; 0 where they stay."""


CHANGEABLE = ("title", "topic", "slow_mode", "archived", "retention_days")
"""What may be another later, of a room's fields."""


@frozen
class Listed(Room):
    """A room among those that a user may see."""

    role: str | None = None
    """What the user is there, None for nothing."""


@frozen
class Membership:
    """Where one user stands in one room."""

    room: Room
    role: str
    """`owner`, `moderator`, `member` or `reader`; or `invited`, which is none yet."""
    epoch: str
    first: int
    """The lowest seq that the log still has; head + 1 where it has none."""
    head: int
    """The highest seq; 0 where nothing has happened."""
    read: int
    unread: int
    """Messages above `read`, up to `head`."""
    unread_mentions: int = 0
    """Those of them that mention the user."""


@frozen
class Restraint:
    """What holds somebody back in a room, a member or not, and outlives their leaving."""

    banned: datetime | None = None
    """Until when; FOREVER where there is no end."""
    muted: datetime | None = None
    """Likewise."""
    spoke: datetime | None = None
    """When they last sent a message there while it was in slow mode."""
    reader: bool = False
    """Whether they may only read there, when they come back."""
    ban: int | None = None
    """The seq of the event that banned them; None where nothing did, or it is not known."""
    mute: int | None = None
    """Likewise."""


@frozen(kw_only=True)
class Draft:
    """A durable change that somebody wants: an event that has no seq yet."""

    room: Room
    sender: str
    kind: str
    """The event's name on the wire: `message`, `member`, …"""
    body: Mapping[str, object]
    """The event's own fields; JSON values only."""
    timestamp: datetime
    txn_id: str | None = None
    refusal: ChatError | None = None
    """What to answer, unless `txn_id` is known: a retry comes before rates and roles."""
    creates: bool = False
    """Whether `room` is born with this draft; a direct room may be there already."""
    limits: Limits | None = None
    """For who joins, is invited or becomes an owner: how many rooms one may be in, and own.

    And for who edits or reacts.
    """
    as_host: bool = False
    """Done by the host in the sender's name: what the sender may do does not matter."""
    mentions: tuple[tuple[str, ...], ...] = ()
    """Whom a text may mention, as `mentions.mentioned` has found them; members of the room are."""
    id: int = field(factory=lambda: random.getrandbits(63))
    """Tells this draft's event from any other at the same seq; no secret."""


@frozen(kw_only=True)
class Credentials:
    """All that a door knows of who is there, for an `Authenticator` to judge."""

    token: str | None = None
    user: User | None = None
    """Somebody whom the door itself vouches for; introduced, where nobody knows them yet."""
    headers: Mapping[str, str] = field(factory=dict)
    """Names in lower case.  Empty where a transport has none."""
    cookies: Mapping[str, str] = field(factory=dict)
    subprotocols: tuple[str, ...] = ()
    peer: str = ""
    """The other side's address, without its port; empty where there is none."""


@frozen
class Rate:
    """A token bucket: `burst` at once, refilled by `rate` a second."""

    rate: float
    burst: int


@frozen(kw_only=True)
class Limits:
    """Every bound there is, with the protocol's defaults; `hello` tells of the first eight."""

    frame_bytes: int = 65_536
    content_chars: int = 4_000
    """Unicode code points, after normalisation."""
    history: int = 200
    """Events in one page."""
    resume: int = 10_000
    """How many events behind one may be and still resume."""
    in_flight: int = 64
    """Commands of one connection that may be unanswered."""
    messages: Rate | None = Rate(5, 10)
    """For one user, on all connections; None for no limit."""
    edit_seconds: float | None = None
    """How long after it was sent a message may be edited; None for ever, 0 for not at all."""
    reactions: int = 20
    """Different emoji on one message; 0 for none."""
    attempts: Rate | None = Rate(0.2, 20)
    """Registrations and logins by password, for one peer address."""
    typing: Rate | None = Rate(1, 5)
    """Of one user, in all rooms."""
    changes: Rate | None = Rate(2, 100)
    """Rooms that one user makes, joins or changes, and what they do to members."""
    user_connections: int | None = 50
    address_connections: int | None = 200
    rooms_joined: int = 100
    rooms_owned: int = 15
    mentions: int = 50
    """Whom one text may mention; 0 for nobody."""
    login_seconds: float | None = 300.0
    """How long a connection may stay without a login."""
    buffer_bytes: int = 262_144
    """What may wait for one connection before it is lagging; sockets are asked from 64 KiB on."""
    offline_seconds: float = 5.0
    """How long somebody is still online after their last connection was lost."""
    presence: bool = True
    """Whether the people in a room are told who comes online there, and who goes."""
    ping: float = 25.0
    """Seconds between a door's signs of life."""

    @classmethod
    def none(cls) -> Limits:
        """Lift rates and connection counts: for benchmarks and trusted networks."""
        return cls(
            messages=None,
            attempts=None,
            typing=None,
            changes=None,
            user_connections=None,
            address_connections=None,
            login_seconds=None,
        )


def content(text: str, most: int) -> str:
    r"""Check a message's text and return it in NFC, each line ended by `\n` alone.

    Raises Invalid for an empty one and for characters that are not text,
    TooLarge for more than `most` code points.
    """
    if not text.strip():
        raise Invalid("Message cannot be empty")
    # What Windows, and what was pasted there, ends a line with.
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    composed = _composed(text, most, "message")
    if len(composed) > most:
        raise TooLarge(f"A message has at most {most} characters; this one has {len(composed)}")
    if not composed.isprintable():
        for character in composed:
            if character not in "\n\t" and unicodedata.category(character) in ("Cc", "Cs"):
                raise Invalid(
                    f"A message cannot have the character U+{ord(character):04X};"
                    " of control characters only newline and tab"
                )
    return composed


_EMOJI = re.compile("(?:S[VM]*T*(?:JS[VM]*)*|RR|KV?C)")
"""How an emoji is made, in the letters of `_part` (UTS 51, section 1.4.9)."""

EMOJI_CHARS = 16
"""Code points in an emoji; the longest that there is has 10."""


def emoji(text: str) -> str:
    """Check one emoji and return it in NFC; an emoji that is newer than this code is one, too.

    Raises Invalid.
    """
    if 1 <= len(text) <= EMOJI_CHARS:
        composed = unicodedata.normalize("NFC", text)
        if _EMOJI.fullmatch("".join(map(_part, composed))):
            return composed
    raise Invalid("A reaction is one emoji")


def _part(character: str) -> str:
    """Say what a character is in an emoji."""
    match character:
        case "\u200d":
            return "J"  # joins two
        case "\ufe0e" | "\ufe0f":
            return "V"  # has it shown as text, or as a picture
        case "\u20e3":
            return "C"  # a key's cap, on one of these:
        case "#" | "*":
            return "K"
        case "\u203c" | "\u2049" | "\u3030":
            return "S"  # punctuation otherwise
    if "0" <= character <= "9":
        return "K"
    if "\U0001f1e6" <= character <= "\U0001f1ff":
        return "R"  # two of them make a flag
    if "\U0001f3fb" <= character <= "\U0001f3ff":
        return "M"  # a tone of skin
    if "\U000e0020" <= character <= "\U000e007f":
        return "T"  # spells a region, on a flag
    if "\U0001f000" <= character <= "\U0001faff":
        return "S"  # what is assigned there, and is to be
    category = unicodedata.category(character)
    return "S" if category in ("So", "Sm") and not character.isascii() else " "


def line(text: str, what: str, most: int) -> str:
    """Check a text of one line, a title say, and return it in NFC without outer spaces.

    Raises Invalid.
    """
    try:
        composed = _composed(text.strip(), most, what)
    except TooLarge as error:
        raise Invalid(error.message) from None
    if len(composed) > most:
        raise Invalid(f"A {what} has at most {most} characters")
    categories = {unicodedata.category(each) for each in composed if each not in _JOINERS}
    if categories & {"Cc", "Cf", "Cs", "Zl", "Zp"}:
        raise Invalid(f"A {what} is one line of text, without invisible characters")
    return composed


def display_name(text: str) -> str:
    """Check what somebody wants to be shown as, and return it as `line` does.  Raises Invalid."""
    name = line(text, "display name", names.USERNAME_CHARACTERS)
    if not name:
        raise Invalid("A display name has at least one character")
    if names.is_reserved(name):
        raise Invalid(f"The name {name} is reserved; choose another")
    return name


def _composed(text: str, most: int, what: str) -> str:
    """Return a text in NFC, in time that grows with its length and no faster.

    Ordering the marks on one character takes the square of their number, so there is
    a bound for them (UAX 15, section 13, has the same).
    """
    if len(text) > most * 4:  # NFC composes at most four code points into one
        raise TooLarge(f"A {what} has at most {most} characters; this one has {len(text)}")
    if text.isascii():
        return text
    marks = 0
    for character in text:
        marks = marks + 1 if unicodedata.combining(character) else 0
        if marks > MARKS:
            raise Invalid(f"A {what} has at most {MARKS} marks on one character")
    return unicodedata.normalize("NFC", text)
