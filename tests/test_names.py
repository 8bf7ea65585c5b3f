"""Usernames and room names: which are legal, how they fold, which look alike."""

from __future__ import annotations

import unicodedata

import pytest
from confusable_homoglyphs import confusables
from hypothesis import given, settings
from hypothesis import strategies as st

from chatcore import names
from chatcore.errors import Invalid

ANY = st.text(st.characters(), max_size=12)  # lone surrogates too
LIKELY = st.text("aAéßςΣİıøо0lm·.-_#@ ﬁａ\u0301\u200d\u0338", max_size=6)


def legal(text: str) -> str | None:
    try:
        return names.username(text)
    except Invalid:
        return None


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("ada", "ada"),
        ("Ada_Lovelace-1815.uk", "ada_lovelace-1815.uk"),
        ("\uff21\uff24\uff21", "ada"),  # full width
        ("Jose\u0301", "jos\u00e9"),
        ("ΣΊΣΥΦΟΣ", "σίσυφος"),
        ("東京", "東京"),
        ("8", "8"),
    ],
)
def test_a_username_is_folded_for_width_case_and_composition(typed: str, name: str) -> None:
    assert name == names.username(typed)


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "ada lovelace", " ada", "ada\n", "ada\0", "a\u200bda", "a\u00adda", "a\u202eda"),
        *("\ud800", "ada\udfff", "\ufb01", "\u00b2", "\u265b", "\U0001f600", "\ue000", "\uffff"),
        *("._-", "\u0301"),
    ],
)
def test_what_is_no_word_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(Invalid, match="username"):
        names.username(text)
    with pytest.raises(Invalid, match="room name"):
        names.room_name(text)


def test_a_name_has_a_length_counted_once_it_is_folded() -> None:
    assert names.username("x" * 50) == "x" * 50
    assert names.room_name("x" * 80) == "x" * 80
    assert names.room_name("#" + "x" * 80) == "x" * 80
    for text in ("x" * 51, "\u0130" * 26, "x" * 10_000_000):  # İ folds to two code points
        with pytest.raises(Invalid, match="1 to 50"):
            names.username(text)
    with pytest.raises(Invalid, match="1 to 80"):
        names.room_name("x" * 81)


def test_a_room_may_be_written_with_a_sign_in_front() -> None:
    assert names.room_name("#Lobby") == names.room_name("lobby") == "lobby"


@pytest.mark.parametrize("typed", ["##lobby", "\uff03lobby", "#\uff03lobby"])
def test_no_room_has_a_name_that_cannot_be_asked_for(typed: str) -> None:
    try:
        name = names.room_name(typed)
    except Invalid:
        return
    assert name == names.room_name(name)


@given(ANY | LIKELY)
@settings(max_examples=300)
def test_a_username_comes_back_unchanged(text: str) -> None:
    name = legal(text)
    if name is not None:
        assert name == names.username(name)
        assert unicodedata.is_normalized("NFC", name)
        assert any(character.isalnum() for character in name)


def test_reserved_names_are_spelled_as_they_would_be_stored() -> None:
    assert {"admin", "system", "server", "everyone"} < names.RESERVED_USERNAMES
    assert set(names.RESERVED_USERNAMES) == set(map(legal, names.RESERVED_USERNAMES))


ALIKE = [
    ("ada", "\u0430d\u0430"),  # Cyrillic
    ("paypal", "paypa1"),
    ("modern", "rnodern"),
    ("oslo", "0s1o"),
    ("ada", "ａｄａ"),
    ("bj\u00f8rn", "bjo\u0338rn"),  # a letter with a stroke, and a letter and a stroke
    ("\u0142", "l\u0338"),
    ("Yoda", "\u13a9oda"),  # Cherokee: shown as it was typed, folded to a letter of its own
]


@pytest.mark.parametrize(("name", "other"), ALIKE)
def test_names_that_look_alike_have_one_skeleton(name: str, other: str) -> None:
    assert names.skeleton(names.username(name)) == names.skeleton(names.username(other))


@pytest.mark.parametrize(
    ("name", "other"),
    [("ada", "eda"), ("ann", "anne"), ("nino", "niño"), ("a", "b"), ("rn", "nr"), ("a-b", "a_b")],
)
def test_names_that_look_different_have_two(name: str, other: str) -> None:
    assert names.skeleton(name) != names.skeleton(other)


def test_a_prototype_has_itself_for_a_skeleton() -> None:
    """As in UTS 39: else what looks like a look-alike would pass for something else."""
    characters = [each for each in confusables.confusables_data if len(each) == 1]
    assert len(characters) > 5000
    skeletons = {each: names.skeleton(each) for each in characters}
    assert [
        f"U+{ord(each):04X}" for each, seen in skeletons.items() if seen != names.skeleton(seen)
    ] == []


@given(ANY | LIKELY)
@settings(max_examples=200)
def test_a_name_looks_the_same_however_it_is_composed(text: str) -> None:
    name = legal(text)
    if name is not None:
        seen = names.skeleton(name)
        assert seen == names.skeleton(unicodedata.normalize("NFD", name))
        assert seen == names.skeleton(seen)
