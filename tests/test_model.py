"""What a message and a line of text may be."""

from __future__ import annotations

import contextlib
import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatcore.errors import Invalid, TooLarge
from chatcore.model import Limits, Rate, Room, User, content, line

LONGEST = "\u03b1\u0313\u0300\u0345"
"""Four code points that NFC makes one of, more than any others."""


@pytest.mark.parametrize("text", ["", " ", "\n\t \n", "\u2003\u00a0"])
def test_a_message_that_shows_nothing_is_empty(text: str) -> None:
    with pytest.raises(Invalid, match=r"^Message cannot be empty$"):
        content(text, 10)


@pytest.mark.parametrize(
    "text", ["hi", " hi ", "two\nlines\n\tand a tab", "☃ \U0001f600 é", "a\u200db"]
)
def test_a_message_is_kept_as_it_was_written(text: str) -> None:
    assert text == content(text, 100)


def test_a_message_is_counted_in_code_points_of_nfc() -> None:
    assert content("e\u0301" * 10, 10) == "\u00e9" * 10
    assert unicodedata.normalize("NFC", LONGEST) * 10 == content(LONGEST * 10, 10)
    assert content("\U0001f600" * 10, 10) == "\U0001f600" * 10
    for text in ("x" * 11, "e\u0301" * 11, LONGEST * 11, "\u0344" * 6):  # the last one grows
        with pytest.raises(TooLarge, match="at most 10 characters"):
            content(text, 10)


def test_lines_end_as_they_do_in_the_log_however_they_were_typed() -> None:
    assert content("a\r\nb\rc\n\r\nd", 8) == "a\nb\nc\n\nd"
    with pytest.raises(Invalid, match="empty"):
        content("\r\n\r", 8)


@pytest.mark.parametrize("character", ["\0", "\x1b", "\x7f", "\x85", chr(0xD800), chr(0xDFFF)])
def test_a_character_that_is_no_text_is_named(character: str) -> None:
    with pytest.raises(Invalid, match=rf"U\+{ord(character):04X}"):
        content(f"a{character}b\n", 100)


def test_a_huge_message_is_refused_unread() -> None:
    with pytest.raises(TooLarge):
        content("e\u0301" * 20_000_000, 4000)


def test_no_order_of_accents_makes_a_message_slow() -> None:
    """The loop judges it, before any rate: a client may send such a one again and again.

    Sorting accents costs the square of how many there are in a row (UAX 15, section 13).
    """
    began = time.process_time()
    with contextlib.suppress(Invalid, TooLarge):
        content("a" + "\u0315\u0300" * 19_000, 10_000)
    assert time.process_time() - began < 0.3


@given(st.text(st.characters(), max_size=30), st.integers(1, 30))
@settings(max_examples=200)
def test_a_message_comes_back_unchanged_within_its_limit(text: str, most: int) -> None:
    try:
        kept = content(text, most)
    except (Invalid, TooLarge):
        return
    assert kept == content(kept, most)
    assert len(kept) <= most
    assert unicodedata.is_normalized("NFC", kept)
    kept.encode()


def test_a_line_is_trimmed_and_composed() -> None:
    assert line("  Jose\u0301 \t", "title", 10) == "Jos\u00e9"
    assert line("", "title", 10) == ""
    assert line("x" * 10, "title", 10) == "x" * 10


def test_a_line_that_is_too_long_is_refused_and_never_cut() -> None:
    for text in ("x" * 11, "x" * 10_000_000, "start" + " " * 50 + "end", LONGEST * 10 + "more"):
        with pytest.raises(Invalid, match="A title has at most 10 characters"):
            line(text, "title", 10)


@pytest.mark.parametrize(
    "character", ["\n", "\r", "\t", "\0", "\x85", "\u2028", "\u2029", "\ud800"]
)
def test_a_line_is_one_line_of_text(character: str) -> None:
    with pytest.raises(Invalid, match="A topic is one line"):
        line(f"a{character}b", "topic", 10)


@pytest.mark.parametrize("names", [("a\ud800", "Ada"), ("ada", "\udfff")])
def test_a_user_whom_no_log_could_hold_is_not_made(names: tuple[str, str]) -> None:
    with pytest.raises(Invalid, match="half of a surrogate pair"):
        User(*names)


def test_two_rooms_of_one_name_are_one_but_for_their_epoch() -> None:
    assert Room("lobby") == Room("lobby")
    assert Room("lobby").epoch != Room("lobby").epoch


def test_limits_are_the_protocols() -> None:
    limits = Limits()
    told = (limits.frame_bytes, limits.content_chars, limits.history, limits.resume)
    assert told == (65_536, 4_000, 200, 10_000)
    assert (64, Rate(5, 10)) == (limits.in_flight, limits.messages)


def test_none_lifts_rates_and_counts_but_no_bound_on_memory() -> None:
    limits = Limits.none()
    assert {None} == {
        limits.messages,
        limits.attempts,
        limits.user_connections,
        limits.address_connections,
    }
    assert limits.buffer_bytes == Limits().buffer_bytes
    assert limits.frame_bytes == Limits().frame_bytes
