"""Whom a text speaks to: the names behind its `@`, before anybody looks who is there."""

from __future__ import annotations

import contextlib
import unicodedata

from chatcore import names
from chatcore.errors import Invalid


def mentioned(text: str, most: int) -> tuple[tuple[str, ...], ...]:
    """Return for each `@name` of a text what it may mean, the longest first, at most so many.

    A name goes as far as its characters do; what stands at its end, a full stop say, may
    be the sentence's.  An `@` within a word, an e-mail address or a URL's path is none.
    Takes time that grows with the text's length and no faster.
    """
    found: dict[tuple[str, ...], None] = {}
    at = text.find("@")
    while at >= 0 and len(found) < most:
        end = at + 1
        while end < len(text) and _is_of_a_name(text[end]):
            end += 1
        before, after = text[at - 1 : at], text[end : end + 1]
        if after != "@" and not (before and (before in "@/_" or _is_of_a_word(before))):
            found[_names(text[at + 1 : end])] = None
        at = text.find("@", end)
    found.pop((), None)
    return tuple(found)


def _names(written: str) -> tuple[str, ...]:
    meant: dict[str, None] = {}
    for each in (written, written.rstrip("._-")):
        with contextlib.suppress(Invalid):
            meant[names.username(each)] = None
    return tuple(meant)


def _is_of_a_name(character: str) -> bool:
    return character in "._-" or _is_of_a_word(character)


def _is_of_a_word(character: str) -> bool:
    if character.isascii():
        return character.isalnum()
    return unicodedata.category(character)[0] in "LMN" or character in "\u200c\u200d"
