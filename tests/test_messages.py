"""What becomes of a message: reactions and more, in SQLite and in a chat."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import hypothesis.strategies as st
import pytest
from hypothesis import given

from chatcore import fold
from chatcore.chat import Chat
from chatcore.errors import Invalid
from chatcore.events import Message, Stored, Tally
from chatcore.model import Limits, User, emoji
from chatcore.ports import Repository
from chatcore.repository.memory import MemoryRepository
from chatcore.repository.sql import SqliteRepository
from chatcore.testing import FakeClock, connect
from chatcore.testing.drafts import LOBBY, THUMB, delete, edit, member, react, say

CROWD = [f"user{number}" for number in range(1_000)]


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[SqliteRepository]:
    repository = SqliteRepository(tmp_path / "chat.db")
    repository.open()
    repository.add_room(LOBBY)
    for name in CROWD:
        repository.add_user(User(name, name), None)
    repository.append([member(name, "join") for name in CROWD])
    yield repository
    repository.close()


def steps_of_a_page(repository: SqliteRepository) -> int:
    """Count what SQLite does for a page of two messages."""
    taken = 0

    def step() -> int:
        nonlocal taken
        taken += 1
        return 0

    with repository.reading() as connection:
        driver = connection._connection.driver_connection  # noqa: SLF001
    assert driver is not None
    driver.set_progress_handler(step, 1)
    try:
        repository.messages("lobby", 0, 9_999, 2, newest=False, upto=9_999, reader="user7")
    finally:
        driver.set_progress_handler(None, 0)
    return taken


def test_a_message_with_many_reactions_takes_no_longer_than_another(
    repository: SqliteRepository,
) -> None:
    repository.append([say("user0", "one"), say("user0", "two")])
    one = repository.head("lobby", 0)[1] - 1
    repository.append([react("user0", one), react("user0", one + 1)])
    before = steps_of_a_page(repository)
    outcomes = repository.append([react(name, one) for name in CROWD[1:]])
    assert all(isinstance(each, Stored) for each in outcomes)
    page = repository.messages("lobby", 0, 9_999, 2, newest=False, upto=9_999, reader="user7")
    assert [each.reactions for each in page if isinstance(each, Message)] == [
        (Tally(THUMB, 1_000, me=True),),
        (Tally(THUMB, 1, me=False),),
    ]
    assert steps_of_a_page(repository) <= before * 1.1


DONE = st.lists(
    st.tuples(
        st.sampled_from(["say", "edit", "delete", "add", "add", "add", "remove"]),
        st.sampled_from(["ada", "bob", "cyd"]),
        st.integers(4, 12),
        st.sampled_from([THUMB, "\u2615", "\u2764"]),
    ),
    min_size=8,
    max_size=40,
)


@given(done=DONE, upto=st.integers(3, 40), reader=st.sampled_from(["ada", "bob", ""]))
def test_a_page_is_what_all_events_folded_say_of_it(
    done: list[tuple[str, str, int, str]], upto: int, reader: str
) -> None:
    """As of any head; but what is deleted above it is gone already."""
    with TemporaryDirectory() as directory:
        on_disk = SqliteRepository(Path(directory) / "chat.db")
        on_disk.open()
        with contextlib.closing(on_disk):
            for repository in (MemoryRepository(), on_disk):
                happen(repository, done)
                everything = fold(repository.read("lobby", 0, upto, 999), reader)
                for after, before in ((0, 99), (5, 9)):
                    page = repository.messages(
                        "lobby",
                        after,
                        min(before, upto + 1),
                        999,
                        newest=True,
                        upto=upto,
                        reader=reader,
                    )
                    assert fold(page) == [each for each in everything if after < each.seq < before]


def happen(repository: Repository, done: list[tuple[str, str, int, str]]) -> None:
    for name in ("ada", "bob", "cyd"):
        repository.add_user(User(name, name), None)
    repository.add_room(LOBBY)
    drafts = [member(name, "join") for name in ("ada", "bob", "cyd")]
    for what, who, seq, mark in done:
        match what:
            case "say":
                drafts.append(say(who, f"{who} {seq}"))
            case "edit":
                drafts.append(edit(who, seq, f"{who} again {seq}"))
            case "delete":
                drafts.append(delete(who, seq))
            case _:
                drafts.append(react(who, seq, mark, adds=what == "add"))
    for start in range(0, len(drafts), 5):
        repository.append(drafts[start : start + 5])


# Edits.


@pytest.mark.parametrize(
    ("text", "code"),
    [("x" * 4_001, "too_large"), ("a\x00b", "invalid"), (" ", "invalid"), ("e\u0301", "")],
)
async def test_what_holds_for_a_text_holds_for_an_edit(text: str, code: str) -> None:
    async with Chat(MemoryRepository(), bcrypt_cost=4) as chat, connect(chat) as (ada, _):
        await ada.do("register", username="ada", password="correct horse")
        await ada.do("join", room="lobby")
        await ada.do("send", room="lobby", content="hello")
        answer = await ada.do("edit", room="lobby", seq=2, content=text)
        assert answer.get("error", {}).get("code", "") == code
        page = await ada.do("history", room="lobby")
        assert page["messages"][0]["content"] == ("hello" if code else "\u00e9")


async def test_a_host_says_how_long_a_message_can_be_edited() -> None:
    clock = FakeClock()
    limits = Limits(edit_seconds=900)
    async with (
        Chat(MemoryRepository(), limits=limits, clock=clock, bcrypt_cost=4) as chat,
        connect(chat) as (ada, _),
    ):
        await ada.do("register", username="ada", password="correct horse")
        await ada.do("join", room="lobby")
        await ada.do("send", room="lobby", content="hello")
        clock.advance(900)
        first = await ada.do("edit", room="lobby", seq=2, content="hallo", txn_id="t")
        assert first["reply"] == "edit"
        clock.advance(1)
        late = await ada.do("edit", room="lobby", seq=2, content="hullo")
        assert late["error"]["code"] == "forbidden"
        assert "for 15 minutes after it was sent" in late["error"]["message"]
        again = await ada.do("edit", room="lobby", seq=2, content="hallo", txn_id="t")
        assert again["duplicate"] is True, "a retry is safe for ever"


# Mentions.


async def test_a_mention_is_counted_until_it_is_read_and_follows_edits_and_deletions() -> None:
    async with (
        Chat(MemoryRepository(), bcrypt_cost=4) as chat,
        connect(chat) as (ada, _),
        connect(chat) as (bob, _),
    ):
        for name, peer in (("ada", ada), ("bob", bob)):
            await peer.do("register", username=name, password="correct horse")
            await peer.do("join", room="lobby")

        async def unread() -> tuple[int, int]:
            reply = await bob.do("join", room="lobby")
            (entry,) = await chat.memberships(User("bob", "bob"))
            assert (entry.unread, entry.unread_mentions) == (
                reply["unread"],
                reply["unread_mentions"],
            )
            return reply["unread"], reply["unread_mentions"]

        await ada.do("send", room="lobby", content="hello @Bob")
        await ada.do("send", room="lobby", content="hello @bob and @cyd")
        assert (await bob.event("message"))["mentions"] == ["bob"]
        assert await unread() == (2, 2)
        await ada.do("edit", room="lobby", seq=3, content="hello")
        assert "mentions" not in await bob.event("edit")
        assert await unread() == (2, 1)
        await ada.do("edit", room="lobby", seq=3, content="hello @bob!")
        assert (await bob.event("edit"))["mentions"] == ["bob"]
        assert await unread() == (2, 2)
        await ada.do("delete", room="lobby", seq=4)
        assert await unread() == (2, 1), "what was deleted is unread, and mentions nobody"
        assert (await bob.do("mark_read", room="lobby", seq=3))["unread_mentions"] == 0
        assert await unread() == (1, 0)


# Read markers.


async def test_all_of_a_users_devices_hear_of_a_marker_at_once_and_nobody_else() -> None:
    async with (
        Chat(MemoryRepository(), bcrypt_cost=4) as chat,
        connect(chat) as (phone, _),
        connect(chat) as (desk, _),
        connect(chat) as (bob, _),
    ):
        await phone.do("register", username="ada", password="correct horse")
        await desk.do("login", username="ada", password="correct horse")
        await bob.do("register", username="bob", password="correct horse")
        for peer in (phone, bob):
            await peer.do("join", room="lobby")
        for text in "345":
            await bob.do("send", room="lobby", content=text)
        assert await phone.do("mark_read", room="#Lobby", seq=4) == {
            "reply": "mark_read",
            "id": 3,
            "read": 4,
            "unread": 1,
            "unread_mentions": 0,
            "head": 5,
        }
        told = {"event": "read", "room": "lobby", "username": "ada", "seq": 4, "unread": 1}
        told |= {"unread_mentions": 0}
        assert await desk.event("read") == {**told, "head": 5}, "which has not joined"
        assert await phone.event("read") == {**told, "head": 5}
        assert (await desk.do("mark_read", room="lobby", seq=99))["read"] == 5
        assert (await phone.event("read"))["seq"] == 5
        assert (await phone.do("mark_read", room="lobby", seq=2))["read"] == 5
        for peer in (phone, desk, bob):
            await peer.do("ping")
        heard = [[each for each in peer.events if each["event"] == "read"] for peer in (phone, bob)]
        assert heard == [[], []], "what does not move is not told"
        entry = (await desk.do("login", username="ada", password="correct horse"))["rooms"][0]
        assert (entry["read"], entry["unread"]) == (5, 0)


async def test_in_a_direct_room_the_other_one_hears_of_it_too() -> None:
    async with (
        Chat(MemoryRepository(), bcrypt_cost=4) as chat,
        connect(chat) as (ada, _),
        connect(chat) as (bob, _),
    ):
        for name, peer in (("ada", ada), ("bob", bob)):
            await peer.do("register", username=name, password="correct horse")
        room = (await ada.do("direct", username="bob"))["room"]["name"]
        await ada.do("send", room=room, content="hello")
        await bob.do("mark_read", room=room, seq=3)
        assert (await ada.event("read"))["username"] == "bob"
        assert (await bob.event("read"))["username"] == "bob"


@pytest.mark.parametrize(
    ("room", "seq", "code"),
    [
        ("den", 1, "not_found"),
        ("nowhere", 1, "not_found"),
        ("hall", 1, "not_member"),
        ("lobby", -1, "invalid"),
    ],
)
async def test_who_may_not_mark_is_told(room: str, seq: int, code: str) -> None:
    async with (
        Chat(MemoryRepository(), bcrypt_cost=4) as chat,
        connect(chat) as (ada, _),
        connect(chat) as (bob, _),
    ):
        for name, peer in (("ada", ada), ("bob", bob)):
            await peer.do("register", username=name, password="correct horse")
        await ada.do("create", room="den", kind="private")
        await ada.do("create", room="hall")
        answer = await bob.do("mark_read", room=room, seq=seq)
        assert answer["error"]["code"] == code


@pytest.mark.parametrize(
    "text",
    [
        "\U0001f44d",
        "\U0001f44d\U0001f3fd",
        "\u2764\ufe0f",
        "\u2764",
        "\u2705",
        "1\ufe0f\u20e3",
        "#\u20e3",
        "\U0001f1fa\U0001f1e6",
        "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466",
        "\U0001f9d1\U0001f3fb\u200d\u2764\ufe0f\u200d\U0001f48b\u200d\U0001f9d1\U0001f3ff",
        "\U0001f3f3\ufe0f\u200d\U0001f308",
        "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
        "\u203c\ufe0f",
        "\U0001faef",
        "\u2122",
    ],
)
def test_an_emoji_is_one(text: str) -> None:
    assert text == emoji(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "a",
        "1",
        "+",
        ":+1:",
        "\U0001f44d\U0001f44d",
        "\U0001f44d ",
        "\U0001f1fa",
        "\u200d",
        "\ufe0f",
        "\U0001f3fd",
        "\U0001f44d\u200d",
        "\u2764\u0301",
        "\U0001f44d" + "\U0001f3fd" * 16,
        "\ud83d",
        "\x00",
    ],
)
def test_nothing_else_is(text: str) -> None:
    with pytest.raises(Invalid, match=r"^A reaction is one emoji$"):
        emoji(text)
