"""Another process appends to the server's file, and the server sees it."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path

import pytest

from chatcore import Chat, Member, Since, User
from chatcore.errors import Unavailable
from chatcore.model import Room
from chatcore.repository.sql import SqliteRepository
from chatcore.testing import PATIENCE
from tests.support import present, serving

APPEND = """
import sys
from chatcore import SqliteRepository
from chatcore.model import Draft, utcnow

repository = SqliteRepository(sys.argv[1])
repository.open()
for number in range(300):
    draft = Draft(
        room=repository.room("lobby"),
        sender="ada",
        kind="message",
        body={"content": f"cron {number}"},
        timestamp=utcnow(),
    )
    repository.append([draft])
repository.close()
"""


async def test_what_another_process_appends_comes_in_order_and_once(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    async with (
        serving(path, "--limits", "none") as server,
        present(server.urls["ws"], "ada") as ada,
        present(server.urls["tcp"], "bob") as bob,
    ):
        other = await asyncio.create_subprocess_exec(sys.executable, "-c", APPEND, str(path))
        sent = 0
        while other.returncode is None or sent < 50:
            assert "seq" in await bob.do("send", room="lobby", content=f"bob {sent}")
            sent += 1
            await asyncio.sleep(0)
        assert other.returncode == 0
        for peer in (ada, bob):
            seqs: list[int] = []
            texts: list[str] = []
            while len(texts) < 300 + sent:
                event = await peer.event("message", "member")
                seqs.append(event["seq"])
                texts += [event["content"]] if event["event"] == "message" else []
            assert seqs == [*range(seqs[0], seqs[0] + len(seqs))]
            assert [text for text in texts if text.startswith("cron")] == [
                f"cron {number}" for number in range(300)
            ]
            page = await peer.do("history", room="lobby", limit=1)
            assert page["head"] == seqs[-1], "and nobody had to send anything after it"


async def test_what_another_process_takes_out_of_the_log_goes_from_memory(tmp_path: Path) -> None:
    """As `chat-serve user delete --forget` does, with the reasons given for what was done."""
    path = tmp_path / "chat.db"
    async with Chat(SqliteRepository(path), bcrypt_cost=4) as chat:
        ada, bob = [await chat.introduce(User(name, name)) for name in ("ada", "bob")]
        await chat.create(ada, "den")
        start = await chat.join(bob, "den")
        await chat.ban(ada, "den", "bob", reason="rude")
        since = Since(start.epoch, start.head)
        async with chat.hub.feed("den"):  # where a crowd has come back

            async def reasons() -> list[str | None]:
                page = (await chat.join(ada, "den", since=since)).events
                return [event.reason for event in page if isinstance(event, Member)]

            assert await reasons() == ["rude"]
            with contextlib.closing(SqliteRepository(path)) as other:
                other.open()
                events, _ = other.said("bob", 0, 99)
                other.redact([event for event in events if event.room == "den"])
            async with asyncio.timeout(PATIENCE):
                while await reasons() != [None]:
                    pass


def test_only_others_writing_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    ours, theirs = SqliteRepository(path), SqliteRepository(path)
    ours.open()
    theirs.open()
    ours.add_room(Room("lobby"))
    assert ours.foreign_heads(["lobby"]) is None
    ours.add_room(Room("den"))
    assert ours.foreign_heads(["lobby"]) is None
    theirs.add_room(Room("tea"))
    assert ours.foreign_heads(["lobby", "nowhere"]) == {"lobby": 0}
    assert ours.foreign_heads(["lobby"]) is None
    ours.close()
    theirs.close()


def test_what_others_write_before_it_is_first_asked_for_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    ours, theirs = SqliteRepository(path), SqliteRepository(path)
    ours.open()
    ours.add_room(Room("lobby"))
    theirs.open()
    theirs.add_room(Room("tea"))
    assert ours.foreign_heads(["lobby"]) == {"lobby": 0}
    assert ours.foreign_heads(["lobby"]) is None
    ours.close()
    theirs.close()


def test_what_could_not_be_read_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "chat.db"
    ours, theirs = SqliteRepository(path), SqliteRepository(path)
    ours.open()
    theirs.open()
    ours.add_room(Room("lobby"))
    assert ours.foreign_heads(["lobby"]) is None
    theirs.add_room(Room("tea"))

    def refuse() -> None:
        raise Unavailable("The database is busy; try again")

    with monkeypatch.context() as patch:
        patch.setattr(ours, "reading", refuse)
        with pytest.raises(Unavailable):
            ours.foreign_heads(["lobby"])
    assert ours.foreign_heads(["lobby"]) == {"lobby": 0}
    assert ours.foreign_heads(["lobby"]) is None
    ours.close()
    theirs.close()
