"""Each acknowledgement waits for the disk: seen in what a real server asks the kernel for."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from chatcore.testing import Transcript
from tests.strace import early, needs_strace, under_strace
from tests.support import PASSWORD, connected, serving

PRAGMA = """
import functools, sqlite3
from sqlite3 import dbapi2

class Cursor(sqlite3.Cursor):
    def execute(self, sql, *parameters):
        return super().execute(sql.replace("synchronous = FULL", "synchronous = {}"), *parameters)

class Connection(sqlite3.Connection):
    def cursor(self, factory=Cursor):
        return super().cursor(factory)

dbapi2.connect = functools.partial(sqlite3.connect, factory=Connection)
from chat_transports.server import main
main()
"""


async def say(peer: Transcript, name: str, count: int, ahead: int) -> dict[bytes, bytes]:
    """Send, with so many unanswered; return by each text what its reply has in it."""
    told: dict[bytes, bytes] = {}
    asked: list[int] = []
    for number in range(count):
        text = f"<{name} {number}>"
        asked.append(await peer.start("send", room="lobby", content=text))
        told[text.encode()] = b'"reply":"send","id":%d,' % asked[-1]
        if len(asked) == ahead:
            assert "seq" in await peer.answer(asked.pop(0))
    for id in asked:
        assert "seq" in await peer.answer(id)
    return told


async def traced(tmp_path: Path, script: str | None = None) -> tuple[list[str], int, int]:
    """Let somebody send one by one, and then ahead; return what was told too early."""
    trace = tmp_path / "trace"
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            serving(
                *(tmp_path / "chat.db", "--limits", "none"),
                transports=["tcp"],
                script=script,
                under=under_strace(trace),
            )
        )
        peer = await stack.enter_async_context(connected(server.urls["tcp"]))
        await peer.do("register", username="ada", password=PASSWORD)
        await peer.do("join", room="lobby")
        told = await say(peer, "one by one", 20, ahead=1)
        told |= await say(peer, "ahead", 200, ahead=40)
    text = await asyncio.to_thread(trace.read_text)
    found, answered = early(text, told)
    return found, answered, len(told)


@needs_strace
async def test_every_reply_waits_for_the_sync_of_its_message(tmp_path: Path) -> None:
    found, answered, sent = await traced(tmp_path)
    assert found == []
    assert (220, 220) == (sent, answered), "each reply was seen"


@needs_strace
@pytest.mark.parametrize("synchronous", ["OFF", "NORMAL"])
async def test_and_one_that_does_not_wait_is_found(tmp_path: Path, synchronous: str) -> None:
    found, answered, sent = await traced(tmp_path, PRAGMA.replace("{}", synchronous))
    assert answered == sent
    assert len(found) >= sent


# The checker itself.

HEADER = "\\x00\\x00\\x00\\x02\\x00\\x00\\x00\\x02" + "\\x00" * 16


def hexed(text: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in text.encode())


WROTE = [
    f'7 1.0 pwrite64(5</a/chat.db-wal>, "{HEADER}", 24, 32) = 24',
    f'7 1.1 pwrite64(5</a/chat.db-wal>, "{hexed("..<hi>..")}", 8, 56) = 8',
]
SYNCED = ["7 1.2 fdatasync(5</a/chat.db-wal>) = 0"]
TOLD = [f'6 1.3 sendto(9<TCP:[127.0.0.1:1->127.0.0.1:2]>, "{hexed("id:1")}", 4, 0, NULL, 0) = 4']
HALF = f'7 1.0 pwrite64(5</a/chat.db-wal>, "{HEADER.replace("02", "00")}", 24, 32) = 24'
BEGUN = ["7 1.2 fdatasync(5</a/chat.db-wal> <unfinished ...>"]
ENDED = ["7 1.4 <... fdatasync resumed>) = 0"]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (WROTE + SYNCED + TOLD, 0),
        (WROTE + BEGUN + ENDED + TOLD, 0),
        (WROTE + TOLD + SYNCED, 1),
        (SYNCED + WROTE + TOLD, 1),
        (WROTE + BEGUN + TOLD + ENDED, 1),
        ([BEGUN[0].replace("7 ", "8 ", 1), *WROTE, ENDED[0].replace("7 ", "8 ", 1), *TOLD], 1),
        ([*WROTE, SYNCED[0].replace("= 0", "= -1 EIO (Input/output error)"), *TOLD], 1),
        ([*WROTE, SYNCED[0].replace("-wal", ""), *TOLD], 1),
        ([HALF, WROTE[1], *SYNCED, *TOLD], 1),
    ],
)
def test_what_the_checker_calls_early(lines: list[str], expected: int) -> None:
    found, answered = early("\n".join(lines), {b"<hi>": b"id:1"})
    assert (expected, 1) == (len(found), answered)
