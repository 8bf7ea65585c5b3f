"""Text from elsewhere, made harmless for a terminal."""

from __future__ import annotations

import unicodedata

_KEPT = (
    "\t"
    "\u200c\u200d"  # joiners, which emoji and several scripts are written with
    "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2"  # format characters
    "\U000110bd\U000110cd"  # in name only: these signs can be seen
)


def printable(text: str) -> str:
    r"""Return a text that moves no cursor, hides nothing and turns nothing around.

    A control, bidirectional or invisible character, or half of a surrogate pair,
    becomes its escape: `\x1b`, `\u202e`.  Lines after the first are indented, so
    that none of them passes for a line of ours.
    """
    if text.isprintable():  # which is false for every character that is judged below
        return text
    return "".join(map(_harmless, text))


def _harmless(character: str) -> str:
    if character == "\n":
        return "\n    "
    # Cc: C0, DEL and C1.  Cf: format, the bidirectional controls among them.  Cs:
    # surrogates.  Zl and Zp: line and paragraph separators.
    if character in _KEPT or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return character
    return character.encode("unicode_escape").decode()
