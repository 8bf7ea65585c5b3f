"""Usernames and room names: which are legal, and which look alike.

A name is enforced with PRECIS (RFC 8265, profile UsernameCaseMapped): width and
case folded, NFC, no spaces, no control or invisible characters.  Beside it stands
its skeleton (Unicode UTS 39, section 4): two names with one skeleton look the same
to a person, and only one of them can exist.
"""

from __future__ import annotations

import functools
import hashlib
import unicodedata

from chatcore.errors import Invalid

USERNAME_CHARACTERS = 50
ROOM_CHARACTERS = 80

_DIRECT = "direct."

RESERVED_USERNAMES = frozenset(
    "admin administrator all bot channel chatcore everyone here host me moderator mod "
    "nobody null operator owner root room server service staff support sysop system "
    "undefined you".split()
)
"""Names that people would take for an authority, a group or a part of the software."""


def username(text: str) -> str:
    """Enforce a username and return the form that is stored and compared.

    Raises Invalid.  Idempotent: a returned name comes back unchanged.
    """
    return _enforce(text, "username", USERNAME_CHARACTERS)


def is_reserved(name: str) -> bool:
    """Say whether a username is, or looks like, one that nobody may have."""
    return skeleton(name) in _reserved()


@functools.cache
def _reserved() -> frozenset[str]:
    return frozenset(map(skeleton, RESERVED_USERNAMES))


def room_name(text: str) -> str:
    """Enforce a room's name, as `username` does; a `#` at its front is not part of it."""
    return _enforce(text.removeprefix("#"), "room name", ROOM_CHARACTERS)


def direct_room(first: str, second: str) -> str:
    """Name the room of two users: the same for both, and no other's."""
    both = "\0".join(sorted((first, second)))
    return _DIRECT + hashlib.blake2b(both.encode(), digest_size=16).hexdigest()


def is_direct(room: str) -> bool:
    """Say whether a room's name is, or looks like, one that only a direct room has."""
    return skeleton(room).startswith(skeleton(_DIRECT))


def skeleton(name: str) -> str:
    """Return what a person sees of a name: UTS 39's skeleton, without regard to case.

    Compare skeletons with one another only; one is not a name and is never shown.
    Idempotent.
    """
    seen = _seen(name)
    # Folding the case of a prototype may give what has another one, and so on.
    while (again := _seen(seen)) != seen:
        seen = again
    return seen


def shown(text: str, name: str) -> str:
    """Return how to show a name: as it was typed, where that looks like it; a capital may not."""
    return text if skeleton(text) == skeleton(name) else name


def _seen(text: str) -> str:
    table = _prototypes()
    decomposed = unicodedata.normalize("NFD", text)
    prototypes = "".join(table.get(character, character) for character in decomposed)
    return unicodedata.normalize("NFD", prototypes.casefold())


def _enforce(text: str, what: str, most: int) -> str:
    # A name of thousands of characters is not worth the tables' time.
    if not text or len(text) > most:
        raise Invalid(f"A {what} has 1 to {most} characters")
    unfit = Invalid(
        f"That {what} has characters that are not allowed; use letters, digits, . _ and -"
    )
    try:
        name = str(_profile().enforce(text))
    except (UnicodeEncodeError, ValueError):
        raise unfit from None
    # PRECIS lets all of ASCII pass; addresses, mentions and IRC need the rest of it.
    if any(each.isascii() and not each.isalnum() and each not in "._-" for each in name):
        raise unfit
    if len(name) > most:
        raise Invalid(f"A {what} has 1 to {most} characters")
    if not any(character.isalnum() for character in name):
        raise Invalid(f"A {what} needs at least one letter or digit")
    return name


@functools.cache
def _profile():  # type: ignore[no-untyped-def] # precis-i18n has no types
    from precis_i18n import get_profile

    return get_profile("UsernameCaseMapped")


@functools.cache
def _prototypes() -> dict[str, str]:
    """Map each confusable character to its prototype, from UTS 39's confusables.txt.

    The library has that file as stars, each link in both directions: a prototype
    lists all that look like it, every other character lists its prototype alone.
    """
    from confusable_homoglyphs import confusables

    stars = confusables.confusables_data
    prototypes = {}
    for character, links in stars.items():
        if len(character) > 1 or len(links) > 1:
            continue
        prototype = links[0]["c"]
        plain = prototype.strip("\u200e")  # right-to-left ones stand between two marks
        # Where two list only one another, either may be the prototype of both.
        if len(stars[prototype]) > 1 or len(plain) > 1 or plain < character:
            prototypes[character] = plain
    return prototypes
