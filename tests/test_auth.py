"""Passwords and tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import bcrypt
import pytest

from chatcore.auth import Passwords, check_password, digest, new_token
from chatcore.errors import Invalid, Unavailable

COMPOSED, DECOMPOSED = "caf\u00e9 noir", "cafe\u0301 noir"


@pytest.fixture
def passwords() -> Iterator[Passwords]:
    passwords = Passwords(4)
    yield passwords
    passwords.close()


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The hashes that bcrypt compared with, which is what takes the time."""
    hashes: list[bytes] = []
    checkpw = bcrypt.checkpw

    def counting(password: bytes, hashed: bytes) -> bool:
        hashes.append(hashed)
        return checkpw(password, hashed)

    monkeypatch.setattr("chatcore.auth.bcrypt.checkpw", counting)
    return hashes


@pytest.mark.parametrize("password", ["x" * 8, "x" * 72, "☃" * 8, "é" * 36, "spaces do", "\n" * 8])
def test_any_text_of_8_characters_and_72_bytes_may_be_chosen(password: str) -> None:
    check_password(password)


@pytest.mark.parametrize(
    ("password", "says"),
    [
        ("", "at least 8 characters"),
        ("x" * 7, "at least 8 characters"),
        ("☃" * 7, "at least 8 characters"),  # 21 bytes
        ("x" * 73, "at most 72 bytes"),
        ("é" * 37, "at most 72 bytes"),
        ("12345678\0", "no NUL"),
        ("12345678\ud800", "in UTF-8"),
    ],
)
def test_what_bcrypt_would_cut_or_refuse_may_not(password: str, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        check_password(password)


@pytest.mark.parametrize("password", ["correct horse", "x" * 72, "☃" * 24, COMPOSED])
async def test_a_password_matches_its_hash_and_no_other_does(
    passwords: Passwords, password: str
) -> None:
    hashed = await passwords.hash(password)
    assert hashed.startswith("$2b$04$")
    assert await passwords.verify(password, hashed)
    assert not await passwords.verify(password[:-1], hashed)
    assert not await passwords.verify(password.upper(), hashed) or password == password.upper()
    assert hashed != await passwords.hash(password), "salted"


async def test_a_password_is_its_bytes_and_never_normalised(passwords: Passwords) -> None:
    assert not await passwords.verify(DECOMPOSED, await passwords.hash(COMPOSED))


async def test_nobodys_password_is_compared_at_the_same_cost(
    passwords: Passwords, compared: list[bytes]
) -> None:
    assert not await passwords.verify("correct horse", None)
    assert not await passwords.verify("nobody's", None)
    assert not await passwords.verify("", None)
    assert [hashed[:7] for hashed in compared] == [b"$2b$04$"] * 3


@pytest.mark.parametrize("impossible", ["x" * 73, "correct\0horse", "\ud800"])
async def test_an_impossible_password_is_wrong_and_takes_as_long(
    passwords: Passwords, compared: list[bytes], impossible: str
) -> None:
    hashed = await passwords.hash("correct horse")
    assert not await passwords.verify(impossible, hashed)
    assert [hashed[:7] for hashed in compared] == [b"$2b$04$"]


@pytest.mark.parametrize(
    "broken", ["", "correct horse", "$2b$04$short", "pbkdf2:sha256:1$a$b", "é", "\0"]
)
async def test_a_stored_text_that_is_no_hash_matches_nothing_and_takes_as_long(
    passwords: Passwords, compared: list[bytes], broken: str
) -> None:
    assert not await passwords.verify("correct horse", broken)
    assert [broken.encode(), compared[1]] == compared
    assert compared[1].startswith(b"$2b$04$")


async def test_a_full_pool_is_unavailable_until_it_has_room() -> None:
    passwords = Passwords(4, workers=1, waiting=1)
    try:
        answers = await asyncio.gather(
            *(passwords.hash("correct horse") for _ in range(4)), return_exceptions=True
        )
        assert [str, str, Unavailable, Unavailable] == [type(answer) for answer in answers]
        assert isinstance(answers[2], Unavailable)
        assert answers[2].retry_after is not None
        assert await passwords.verify("correct horse", str(answers[0]))
    finally:
        passwords.close()


async def test_who_does_not_wait_any_more_makes_room() -> None:
    passwords = Passwords(4, workers=1, waiting=1)
    try:
        waiting = [asyncio.ensure_future(passwords.hash("correct horse")) for _ in range(2)]
        await asyncio.sleep(0)
        for each in waiting:
            each.cancel()
        await asyncio.wait(waiting)
        assert await passwords.hash("correct horse")
    finally:
        passwords.close()


def test_a_token_is_marked_and_nobody_could_guess_it() -> None:
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert {("cc_", 43)} == {(token[:3], len(token) - 3) for token in tokens}  # 256 bits in base64
    assert all(token.isascii() and token.isprintable() for token in tokens)


def test_a_digest_is_32_bytes_and_its_tokens_alone() -> None:
    token = new_token()
    assert digest(token) == digest(token)
    assert len(digest(token)) == 32
    assert len({digest(text) for text in (token, token[:-1], token + "x", "", token.upper())}) == 5
    assert token.encode() not in digest(token)
    assert digest("\ud800"), "whatever a client calls a token"
