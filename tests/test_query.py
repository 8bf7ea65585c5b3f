"""What a search asks for, and what a word is; any text at all is a query or Invalid."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import closing
from datetime import date, timedelta
from pathlib import Path

import pytest
from attrs import evolve
from hypothesis import example, given
from hypothesis import strategies as st

from chatcore.errors import Invalid
from chatcore.model import LOBBY, Draft, Room, User, utcnow
from chatcore.query import LONGEST, MOST, Query, parse, words
from chatcore.repository.memory import MemoryRepository
from chatcore.repository.sql import SqliteRepository
from chatcore.repository.sql.fts import FIRST_DAY, LAST_DAY, WordIndex

NEWEST, OLDEST = date(2026, 3, 1), date(2026, 2, 1)


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("Hello  world", Query((("hello",), ("world",)))),
        ('"Hello world" again', Query((("hello", "world"), ("again",)))),
        ("“Hello world”", Query((("hello", "world"),))),
        ("lift-shaft", Query((("lift", "shaft"),))),
        ("http://example.org", Query((("http", "example", "org"),))),
        ("東京", Query((("東", "京"),))),
        ("from:Ada", Query(sender="ada")),
        ("From:@Ada IN:#Lobby tea", Query((("tea",),), sender="ada", room="lobby")),
        ("before:2026-03-01 after:2026-02-01", Query(before=NEWEST, after=OLDEST)),
        ('"from:ada"', Query((("from", "ada"),))),
        ("login:ada", Query((("login", "ada"),))),
        ('"" !!! tea', Query((("tea",),))),
        ('from:ada"tea"', Query((("tea",),), sender="ada")),
        ('tea "tea" Tea "hot tea" hot-tea', Query((("tea",), ("hot", "tea")))),
        (" ".join(["tea"] * 60), Query((("tea",),))),
        ("東" * MOST, Query((("東",) * MOST,))),
    ],
)
def test_a_query(text: str, query: Query) -> None:
    assert parse(text) == query


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "A search has a word in it, or says from:name, in:room, before: or after:"),
        (' !!! "…" ', "A search has a word in it, or says from:name, in:room, before: or after:"),
        ("a" * (LONGEST + 1), "A search has at most 256 characters"),
        *(
            (
                text,
                "A search has at most 16 words; of a script without spaces each character is one",
            )
            for text in (
                " ".join(f"w{number}" for number in range(MOST + 1)),
                f'"{"a " * MOST}" b',
                "東" * (MOST + 1),
            )
        ),
        ('"tea', 'A phrase has a " at its beginning and at its end'),
        ("from:ada from:bob", "A search has one from: at most"),
        ("from: ada", "from: is followed by a name, without a space between them"),
        ("in:#", "in: is followed by a name, without a space between them"),
        ("before:now", "before: is followed by a day, such as before:2026-11-22"),
        ("before:2026-02-30", "before: is followed by a day, such as before:2026-11-22"),
        ("after:20260201", "after: is followed by a day, such as after:2026-11-22"),
        (
            "before:2026-02-01 after:2026-02-01",
            "There is no time that is before that day and after that day",
        ),
    ],
)
def test_what_is_none_says_why(text: str, sentence: str) -> None:
    with pytest.raises(Invalid) as refused:
        parse(text)
    assert refused.value.message == sentence


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, WORLD! foo_bar", "hello world foo bar"),
        ("Élan naïve a\u0301b Straße ΣΑΣ ﬀ Ａ１", "elan naive ab strasse σασ ff a1"),
        ("𝐇𝐞𝐥𝐥𝐨 ℋ𝚨𝛀", "hello hαω"),
        ("東京タワー ﾀﾜｰ", "東 京 タ ワ ー タ ワ ー"),
        ("한국어", "한 국 어"),
        ("हिन्दी में", "हिन्दी में"),
        ("ชาว", "ช า ว"),
        ("👍🏽 ok❤️", "👍 ok ❤"),
        ("می\u200cخواهم", "میخواهم"),
        ("\x00a\x00b", "a b"),
    ],
)
def test_words(text: str, expected: str) -> None:
    assert " ".join(words(text)) == expected


@given(st.text())
@example("𝐇𝐞𝐥𝐥𝐨")
def test_what_is_found_by_its_own_words_and_by_nothing_else_than_words(text: str) -> None:
    found = words(text)
    assert words(" ".join(found)) == found, "folded once is folded for good"
    for word in found:
        assert not set(word) & set(' "*^():+-{}'), "nothing that an index has a meaning for"
        assert all(ord(each) > 127 or each.isalnum() for each in word)
    if found:
        assert Query((tuple(found),)).finds(text)
        assert Query(tuple((word,) for word in found)).finds(text.upper().lower())


def test_folding_does_not_depend_on_how_many_characters_there_were_before() -> None:
    def all_characters() -> Iterator[str]:
        return (chr(code) for code in itertools.chain(range(0xD800), range(0xE000, 0x20000)))

    assert words("Élan 東京") == ["elan", "東", "京"]
    assert len(words(" ".join(all_characters()))) > 50_000
    assert words("Élan 東京") == ["elan", "東", "京"]


ANY = st.text(st.characters(codec="utf-8"), max_size=20)
PARTS = st.sampled_from(
    [
        *' " " : * ^ ( ) NEAR( AND OR NOT a b ab é 東 京 東京 content : scope p r1 u1'.split(),
        *"never - + near".split(),
        *"{scope} from:ada from:bob from: in:lobby in:x before:2026-01-02 after:2025-01-01".split(),
        *"' ; -- \\ \x00 ½".split(),
    ]
)
TYPED = st.lists(PARTS | ANY, max_size=8).flatmap(
    lambda parts: st.sampled_from([" ".join(parts), "".join(parts)])
)


@pytest.fixture(scope="module")
def repositories(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[SqliteRepository, MemoryRepository]]:
    path: Path = tmp_path_factory.mktemp("query") / "chat.db"
    memory = MemoryRepository()
    with closing(SqliteRepository(path)) as sqlite:
        for repository in (sqlite, memory):
            repository.open()
            repository.add_user(User("ada", "Ada"), None)
            repository.add_room(Room(LOBBY))
            body = {"username": "ada", "action": "join", "role": "member"}
            repository.append(
                [
                    Draft(
                        room=Room(LOBBY), sender="ada", kind="member", body=body, timestamp=utcnow()
                    )
                ]
            )
        yield sqlite, memory


@given(TYPED, st.lists(TYPED | ANY, max_size=3))
@example("a" * LONGEST, [])
@example("東" * LONGEST, ["東" * LONGEST])
@example(" ".join("ab" * (LONGEST // 3)), ["a b"])
def test_any_text_is_a_query_or_invalid_and_both_repositories_find_the_same(
    repositories: tuple[SqliteRepository, MemoryRepository], text: str, said: list[str]
) -> None:
    """And never an error of the database's own, or what another query was asking."""
    now = utcnow().replace(microsecond=0)
    drafts = [
        Draft(room=Room(LOBBY), sender="ada", kind="message", body={"content": each}, timestamp=now)
        for each in said
    ]
    try:
        query = parse(text)
    except Invalid:
        return
    found = []
    for repository in repositories:
        if drafts:
            repository.append(drafts)
        while repository.index(1_000):
            pass
        found.append([each for _, each in repository.search("ada", query, None, 10_000, now)])
    assert found[0] == found[1]
    newest = {each.content for each in found[0] if each is not None}
    if evolve(query, phrases=()) == Query():
        assert newest >= {each for each in said if query.finds(each)}


@given(st.dates(), st.none() | st.dates(), st.none() | st.dates())
def test_days_are_told_by_the_words_that_they_have(
    day: date, before: date | None, after: date | None
) -> None:
    index = WordIndex()
    query = Query(before=before or day + timedelta(1), after=after)
    wanted = index.wanted(query, rooms=[], banned=[], sender=None)
    asked = {word.strip("()") for word in wanted.split(") NOT ")[0].split()}
    scope = index.scope(1, public=False, sender_id=1, day=day).split()[2:]
    assert len(asked) < 150, "however long the time is"
    is_between = (before is None or day < before) and (after is None or after < day)
    if FIRST_DAY <= day < LAST_DAY:
        assert bool(asked & {*scope}) == is_between
