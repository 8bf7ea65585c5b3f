"""What a search asks for, and what counts as a word of a text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from datetime import date

from attrs import frozen

from chatcore import names
from chatcore.errors import Invalid

LONGEST = 256
"""Characters of a search."""
MOST = 16
"""Words of a search, which takes the longer the more of them many messages have."""


@frozen
class Query:
    """What a message has to be, to be found."""

    phrases: Sequence[tuple[str, ...]] = ()
    """Words in a row, and a word alone is one; each of them must be there."""
    sender: str | None = None
    room: str | None = None
    before: date | None = None
    """Nothing of this day (UTC) or later."""
    after: date | None = None
    """Nothing of this day (UTC) or earlier."""

    def finds(self, text: str) -> bool:
        """Say whether a text has all the words and phrases."""
        spoken = _spaced(words(text))
        return all(_spaced(phrase) in spoken for phrase in self.phrases)


def parse(text: str) -> Query:
    """Read a search.  Raises Invalid, with a sentence for whoever typed it.

    Words, all of which must be there; "words in a row"; from:name, in:room, before:date
    and after:date, each once at most.  A word with punctuation inside is words in a row,
    and so is one of a script that has no spaces.
    """
    if len(text) > LONGEST:
        raise Invalid(f"A search has at most {LONGEST} characters")
    text = text.translate(_QUOTES)
    if text.count('"') % 2:
        raise Invalid('A phrase has a " at its beginning and at its end')
    phrases: list[tuple[str, ...]] = []
    filters: dict[str, str] = {}
    for quoted, name, value, plain in _PARTS.findall(text):
        if not name:
            phrases.append(tuple(words(quoted or plain)))
        elif (name := name.lower()) in filters:
            raise Invalid(f"A search has one {name}: at most")
        else:
            filters[name] = value
    # What has no letter and no digit in it finds nothing, and says nothing either.
    phrases = [phrase for phrase in dict.fromkeys(phrases) if phrase]
    if sum(map(len, phrases)) > MOST:
        raise Invalid(
            f"A search has at most {MOST} words; of a script without spaces each character is one"
        )
    if not phrases and not filters:
        raise Invalid("A search has a word in it, or says from:name, in:room, before: or after:")
    query = Query(
        tuple(phrases),
        sender=names.username(_named("from", filters, "@")) if "from" in filters else None,
        room=names.room_name(_named("in", filters, "#")) if "in" in filters else None,
        before=_date("before", filters),
        after=_date("after", filters),
    )
    if query.before and query.after and query.before <= query.after:
        raise Invalid("There is no time that is before that day and after that day")
    return query


_QUOTES = str.maketrans(dict.fromkeys("“”„‟", '"'))  # which telephones put in their place
_PARTS = re.compile(r'"([^"]*)"|(?i:\b(from|in|before|after)):([^\s"]*)|([^\s"]+)')
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def _named(name: str, filters: dict[str, str], mark: str) -> str:
    value = filters[name].removeprefix(mark)
    if not value:
        raise Invalid(f"{name}: is followed by a name, without a space between them")
    return value


def _date(name: str, filters: dict[str, str]) -> date | None:
    value = filters.get(name)
    if value is None:
        return None
    try:
        if _DATE.fullmatch(value):
            return date.fromisoformat(value)
    except ValueError:
        pass
    raise Invalid(f"{name}: is followed by a day, such as {name}:2026-11-22")


# Words.


def words(text: str) -> list[str]:
    """Return a text's words as they are compared: in lower case, without accents.

    In a script that is written without spaces each character is a word, Korean's
    syllables and emoji too, so that there the words in a row are any part of a text.
    """
    return text.translate(_FOLDED).split()


def _spaced(phrase: Sequence[str]) -> str:
    return f" {' '.join(phrase)} "


_CACHED = 8_192


class _Folded(dict[int, str]):
    """Of each character what it is compared as; separators are spaces."""

    def __missing__(self, code: int) -> str:
        if len(self) >= _CACHED:
            self.clear()
        self[code] = folded = _fold(chr(code))
        return folded


_FOLDED = _Folded()


def _fold(character: str) -> str:
    if character in _DROPPED or unicodedata.category(character) == "Cf":
        return ""
    if unicodedata.category(character) == "So":
        return f" {character} "
    plain = unicodedata.normalize("NFKD", character.casefold())
    plain = unicodedata.normalize("NFKD", plain.casefold())  # bold letters are capitals only now
    plain = unicodedata.normalize("NFC", "".join(each for each in plain if each not in _ACCENTS))
    kept = [
        each if each.isalnum() or unicodedata.category(each)[0] == "M" else " " for each in plain
    ]
    return "".join(f" {each} " if _UNSPACED.match(each) else each for each in kept)


_ACCENTS = frozenset(map(chr, range(0x300, 0x370)))
"""Those of the alphabets of Europe; in others a mark is a vowel."""
_DROPPED = frozenset(map(chr, (*range(0xFE00, 0xFE10), *range(0x1F3FB, 0x1F400))))
"""What says in which way to draw an emoji."""
_UNSPACED = re.compile(
    "["
    "\u0e00-\u0eff"  # Thai, Lao
    "\u0f00-\u109f"  # Tibetan, Burmese
    "\u1100-\u11ff\uac00-\ud7ff"  # Korean
    "\u1780-\u17ff"  # Khmer
    "\u2e80-\u312f\u31a0-\u4dbf\u4e00-\ua4cf\uf900-\ufaff"  # Chinese, Japanese, Yi
    "\U00020000-\U0003ffff"
    "]"
)
