"""Whom a text speaks to."""

from __future__ import annotations

import time

import hypothesis.strategies as st
import pytest
from hypothesis import given

from chatcore import names
from chatcore.errors import Invalid
from chatcore.mentions import mentioned


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("@ada", [["ada"]]),
        ("hello @Ada!", [["ada"]]),
        ("(@ada), @bob: @cyd's", [["ada"], ["bob"], ["cyd"]]),
        ("@ada @ADA @ada", [["ada"]]),
        ("@ada.", [["ada.", "ada"]]),
        ("@ada...", [["ada...", "ada"]]),
        ("@ada.b_c-d", [["ada.b_c-d"]]),
        ("-@ada", [["ada"]]),
        ("two\n@ada\t@bob", [["ada"], ["bob"]]),
        ("\uff21\uff44\uff41 @\uff21\uff44\uff41", [["ada"]]),
        ("@Zo\u00eb, @\u592a\u90ce\u3002", [["zo\u00eb"], ["\u592a\u90ce"]]),
        ("@\u0928\u092e\u0938\u094d\u0924\u0947!", [["\u0928\u092e\u0938\u094d\u0924\u0947"]]),
        ("ada@example.org", []),
        ("@ada@example.org", []),
        ("https://example.org/@ada", []),
        ("caf\u00e9@ada _@ada 1@ada", []),
        ("@@ada", []),
        ("@ @. @- @_ @\n", []),
        ("@" + "a" * 50, [["a" * 50]]),
        ("@" + "a" * 51, []),
        ("no at all", []),
    ],
)
def test_a_mention_is_a_name_after_an_at_that_begins_a_word(
    text: str, meant: list[list[str]]
) -> None:
    assert meant == [[*names] for names in mentioned(text, 50)]


@pytest.mark.parametrize("most", [0, 1, 50])
def test_so_many_count_and_no_more(most: int) -> None:
    text = " ".join(f"@user{number}" for number in range(most + 5))
    assert [(f"user{number}",) for number in range(most)] == [*mentioned(text, most)]


@given(text=st.text("@aB._- \u00e9\u0301/\u592a\u200d", max_size=60))
def test_every_name_is_one_and_stands_in_the_text(text: str) -> None:
    for meant in mentioned(text, 50):
        assert meant
        for name in meant:
            assert name == names.username(name)


@pytest.mark.parametrize(
    "text", ["@a" * 2_000, "@" * 4_000, "@a." * 1_300, "@" + "a" * 3_999, "@\u0301" * 2_000]
)
def test_no_text_takes_long(text: str) -> None:
    before = time.process_time()
    mentioned(text, 50)
    assert time.process_time() - before < 0.2


def test_what_can_be_no_username_is_no_mention() -> None:
    with pytest.raises(Invalid):
        names.username("...")
    assert mentioned("@...", 50) == ()
