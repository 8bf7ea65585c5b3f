"""Text from elsewhere, made harmless for a terminal."""

from __future__ import annotations

import unicodedata

_KEPT = (
    "\t"
    "\u200c\u200d"  # joiners, which emoji and several scripts are written with
    "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2"  # format characters
    "\U000110bd\U000110cd"  # in name only: these signs can be seen
)


_INDENT = "    "


def printable(text: str) -> str:
    r"""Return a text that moves no cursor, hides nothing and turns nothing around.

    A control, bidirectional or invisible character, or half of a surrogate pair,
    becomes its escape: `\x1b`, `\u202e`.  Lines after the first are indented, so
    that none of them passes for a line of ours; see `wrapped`, too.
    """
    if text.isprintable():  # which is false for every character that is judged below
        return text
    return "".join(map(_harmless, text))


def _harmless(character: str) -> str:
    if character == "\n":
        return f"\n{_INDENT}"
    # Cc: C0, DEL and C1.  Cf: format, the bidirectional controls among them.  Cs:
    # surrogates.  Zl and Zp: line and paragraph separators.
    if character in _KEPT or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return character
    return character.encode("unicode_escape").decode()


def hidden_characters() -> dict[str, str]:
    """Return each invisible character beyond C1 that `printable` changes, and what to."""
    # What Unicode has of them, with room to spare; all of it would take a tenth of a second.
    codes = (*range(0xA0, 0xD800), *range(0xE000, 0x20000), *range(0xE0000, 0xE1000))
    return {
        character: _harmless(character)
        for character in map(chr, codes)
        if unicodedata.category(character) in ("Cf", "Zl", "Zp") and character not in _KEPT
    }


def wrapped(text: str, width: int) -> str:
    """Return a printable text in lines of `width` cells, all but the first one indented.

    The terminal would go on at its edge, and what stands there could pass for a line of
    its own.
    """
    from prompt_toolkit.utils import get_cwidth

    room, lines = max(width, len(_INDENT) + 2), []
    for line in text.expandtabs(4).split("\n"):
        begin, indent = 0, ""  # of what is not in `lines` yet
        cells = space = 0
        for place, character in enumerate(line):
            cells += get_cwidth(character)
            if character == " ":
                space = place + 1
            if cells > room:
                end = space if space > begin + len(_INDENT) else place
                lines.append(indent + line[begin:end].rstrip(" "))
                begin, indent = end, _INDENT
                cells = len(_INDENT) + get_cwidth(line[begin : place + 1])
        lines.append(indent + line[begin:])
    return "\n".join(lines)
