"""chat-serve as a process: what it says when it cannot start, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import websockets
from websockets.asyncio.client import ClientConnection, connect

from chatcore.errors import LinkClosed
from chatcore.model import MAX_FRAME
from chatcore.testing import PATIENCE, Transcript, eventually
from chatcore.testing.drafts import THUMB
from tests.support import (
    PASSWORD,
    Frames,
    Lines,
    ServerProcess,
    connected,
    fails_to_start,
    present,
    serving,
    start_server,
    stop,
)


def one_sentence(said: str) -> str:
    """Return what was said, which has to be one line and no traceback."""
    lines = [line for line in said.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, said
    assert "Traceback" not in said
    return lines[0].removeprefix("Error: ")


async def test_a_taken_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, said = await fails_to_start("--port", str(port), "--database", "memory:")
        assert code == 1
        assert one_sentence(said) == (
            f"127.0.0.1 port {port} is in use; stop what has it, or choose another (--port)"
        )
        code, said = await fails_to_start(
            *("--transport", "tcp", "--tcp-port", str(port), "--database", "memory:")
        )
        assert code == 1
        assert "(--tcp-port)" in one_sentence(said)


async def test_a_door_that_does_not_open_ends_the_start() -> None:
    script = """
from chat_transports.server import app, cli
async def full(*_):
    raise OSError(24, "Too many open files")
app._Web.open = full
cli.main()
"""
    with pytest.raises(AssertionError, match="Error: Cannot open a door: Too many open files"):
        await start_server(script=script)


async def test_a_host_that_is_not_ours() -> None:
    code, said = await fails_to_start("--host", "192.0.2.1", "--database", "memory:")
    assert code == 1
    assert "cannot be opened" in one_sentence(said)


@pytest.mark.parametrize(
    ("database", "sentence"),
    [
        ("sqlite:////proc/chat.db", "Cannot open the database /proc/chat.db: "),
        ("sqlite:///no/such/folder/chat.db", "Cannot open the database no/such/folder/chat.db: "),
        ("sqlite:////etc/hostname", "Cannot open the database /etc/hostname: "),
    ],
)
async def test_a_database_that_cannot_be_used(database: str, sentence: str) -> None:
    code, said = await fails_to_start("--port", "0", "--database", database)
    assert code == 1
    assert one_sentence(said).startswith(sentence)


async def test_a_database_of_a_newer_version(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    await stop(await start_server(path))
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE chatcore_version SET version_num = '9999'")
    code, said = await fails_to_start("--port", "0", "--database", f"sqlite:///{path}")
    assert code == 1
    assert "newer version of chatcore" in one_sentence(said)


async def test_a_second_server_on_one_file(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    async with serving(path) as first:
        code, said = await fails_to_start("--port", "0", "--database", f"sqlite:///{path}")
        assert code == 1
        assert one_sentence(said) == (
            f"Another server (process {first.process.pid}) has the database {path} open;"
            " stop it first, or name another file"
        )
    async with serving(path):  # and where that one was killed, the file is free
        pass


@pytest.mark.parametrize(
    "arguments",
    [
        ("--database", "mysql://x"),
        ("--transport", "pigeon"),
        ("--port", "99999"),
        ("--host", ""),
        ("--keyfile", __file__),
        ("--token-days", "nan"),
        ("--edit-seconds", "nan"),
        ("--edit-seconds", "-1"),
        ("--reactions", "-1"),
        ("--token-days", "1e12"),
        ("--certfile", __file__),
        ("--legacy-join",),
    ],
)
async def test_wrong_options_are_told(arguments: tuple[str, ...]) -> None:
    code, said = await fails_to_start(*arguments)
    assert code == 2
    assert one_sentence(said)


async def test_flask_env_means_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no debug mode that it could turn on."""
    logs = []
    for environment in ("production", "development"):
        monkeypatch.setenv("FLASK_ENV", environment)
        async with serving() as server, present(server.urls["ws"], "ada"):
            server.signal(signal.SIGTERM)
            assert await server.exit_code() == 0
        logs.append([re.sub(r"^[\d: ,-]+|:\d{4,5}\b", "", line) for line in server.log])
    assert logs[0] == logs[1]


async def test_help_and_version() -> None:
    for option in ("--help", "--version"):
        code, said = await fails_to_start(option)
        assert (code, said) == (0, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains(number: signal.Signals, tmp_path: Path) -> None:
    """Everyone hears bye with a way back, the exit status is 0, and nothing is lost."""
    path = tmp_path / "chat.db"
    async with serving(path, "--limits", "none") as server:
        async with (
            present(server.urls["ws"], "ada") as ada,
            present(server.urls["tcp"], "bob") as bob,
            connected(server.urls["ws"]) as nobody,
        ):
            asked = [await ada.start("send", room="lobby", content=str(n)) for n in range(200)]
            answered = [await ada.answer(asked[0])]
            server.signal(number)
            for peer in (ada, bob, nobody):
                bye = await peer.goodbye()
                assert (bye["code"], bye["reason"], bye["reconnect"]) == (4001, "shutdown", True)
                assert 0.5 <= bye["retry_after"] <= 2
            assert await server.exit_code() == 0
            answered += [ada.answers.pop(id) for id in asked[1:] if id in ada.answers]
        acknowledged = {answer["seq"] for answer in answered if "seq" in answer}
        refused = [answer["error"] for answer in answered if "error" in answer]
        assert all(error["code"] == "unavailable" and error["retryable"] for error in refused)
        with contextlib.closing(sqlite3.connect(path)) as db:
            stored = {seq for (seq,) in db.execute("SELECT seq FROM events WHERE kind='message'")}
        assert acknowledged
        assert acknowledged <= stored
        assert server.log[-1].endswith("stopped")


@contextlib.asynccontextmanager
async def stuck_peers(server: ServerProcess) -> AsyncIterator[None]:
    """On each door somebody for whom more waits than the kernel takes, and who does not read."""
    async with (
        present(server.urls["ws"], "ada") as ada,
        present(server.urls["tcp"], "slow"),
        present(server.urls["ws"], "slower"),
    ):
        for batch in range(100):
            ids = [
                await ada.start("send", room="lobby", content=f"{batch} ".ljust(4_000, "x"))
                for _ in range(50)
            ]
            for id in ids:
                await ada.answer(id)
            ada.events.clear()
        yield


async def test_those_who_do_not_read_hold_the_drain_up_for_three_seconds() -> None:
    async with serving("memory:", "--limits", "none") as server, stuck_peers(server):
        server.signal(signal.SIGTERM)
        async with asyncio.timeout(5):
            assert await server.exit_code() == 0
        assert server.log[-1].endswith("stopped")


async def test_a_second_signal_ends_it_now() -> None:
    async with serving("memory:", "--limits", "none") as server, stuck_peers(server):
        server.signal(signal.SIGTERM)
        await eventually(lambda: "stopping" in server.log[-1])
        server.signal(signal.SIGTERM)
        assert await server.exit_code() == 128 + signal.SIGTERM


async def test_a_journal_that_dies_ends_the_process() -> None:
    script = """
from chatcore import MemoryRepository
from chat_transports.server import cli
class Broken(MemoryRepository):
    def append(self, drafts):
        raise ZeroDivisionError("a defect")
cli.named = lambda *_: Broken()
cli.main()
"""
    async with serving("memory:", script=script) as server:
        async with connected(server.urls["ws"]) as ada:
            await ada.do("register", username="ada", password=PASSWORD)
            refused = await ada.do("join", room="lobby")
            assert refused["error"]["code"] == "unavailable"
            await ada.goodbye()
        assert await server.exit_code() == 1
        assert "The journal failed" in server.log[-1]
        server.log[:] = [line for line in server.log if "Traceback" not in line]  # of the defect


async def test_a_database_that_is_deleted_ends_the_process(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    async with serving(path) as server, present(server.urls["ws"], "ada") as ada:
        path.unlink()
        refused = await ada.do("send", room="lobby", content="in vain")
        assert refused["error"]["code"] == "unavailable"
        assert (await ada.goodbye())["code"] == 4001
        assert await server.exit_code() == 1
        assert server.log[-1] == (
            f"Error: The database {path} was deleted or replaced while it was open;"
            " stop the server before you do that"
        )
        server.log[:] = [line for line in server.log if "Traceback" not in line]  # of the journal


async def test_what_was_said_is_there_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    async with serving(path) as server, present(server.urls["ws"], "ada") as ada:
        reply = await ada.do("send", room="lobby", content="remember me", txn_id="t1")
        epoch = (await ada.do("history", room="lobby"))["epoch"]
    async with serving(path) as server, present(server.urls["tcp"], "ada") as ada:
        back = await ada.do("join", room="lobby", since={"epoch": epoch, "seq": 1})
        assert back["recovered"]
        assert [event["content"] for event in back["events"]] == ["remember me"]
        again = await ada.do("send", room="lobby", content="remember me", txn_id="t1")
        assert (again["seq"], again["duplicate"]) == (reply["seq"], True)


async def test_limits_none_is_told() -> None:
    async with serving("memory:", "--limits", "none") as server:
        assert any("no limits" in line for line in server.log)
        async with present(server.urls["tcp"], "ada") as ada:
            assert ada.hello["limits"]["messages"] is None
            for number in range(30):
                assert "seq" in await ada.do("send", room="lobby", content=str(number))


async def test_how_long_one_may_edit_and_with_how_many_emoji_react_is_told_and_held_to() -> None:
    options = ["--edit-seconds", "0.5", "--reactions", "1", "--limits", "none"]
    async with serving("memory:", *options) as server, present(server.urls["ws"], "ada") as ada:
        assert ada.hello["limits"]["messages"] is None
        assert (ada.hello["limits"]["edit_seconds"], ada.hello["limits"]["reactions"]) == (0.5, 1)
        sent = await ada.do("send", room="lobby", content="hi")
        about = {"room": "lobby", "seq": sent["seq"]}
        assert "seq" in await ada.do("react", **about, emoji=THUMB)
        one_more = await ada.do("react", **about, emoji="\u2615")
        assert one_more["error"]["code"] == "forbidden"
    options = ["--edit-seconds", "0", "--reactions", "0"]
    async with serving("memory:", *options) as server, present(server.urls["ws"], "ada") as ada:
        sent = await ada.do("send", room="lobby", content="hi")
        about = {"room": "lobby", "seq": sent["seq"]}
        edited = await ada.do("edit", **about, content="ho")
        assert edited["error"]["message"] == "A message stays as it is here; it cannot be edited"
        reacted = await ada.do("react", **about, emoji=THUMB)
        assert reacted["error"]["message"] == "There are no reactions here"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
async def test_tls_on_both_doors(tmp_path: Path) -> None:
    certificate = tmp_path / "cert.pem"
    made = await asyncio.create_subprocess_exec(
        *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"),
        *("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"),
        *("-keyout", str(tmp_path / "key.pem"), "-out", str(certificate)),
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert await made.wait() == 0
    trust = ssl.create_default_context(cafile=str(certificate))
    options = ("--certfile", str(certificate), "--keyfile", str(tmp_path / "key.pem"))
    async with serving("memory:", *options) as server:
        assert server.urls["ws"].startswith("wss://")
        assert server.urls["tcp"].startswith("tcps://")
        host, _, port = server.urls["tcp"].removeprefix("tcps://").rpartition(":")
        lines = Lines(*await asyncio.open_connection(host, int(port), ssl=trust))
        async with (
            connect(server.urls["ws"], ssl=trust) as one,
            connect(server.urls["ws"], ssl=trust) as other,
        ):
            ada, bob, eve = (
                Transcript(peer.send, peer.receive) for peer in (Frames(one), Frames(other), lines)
            )
            for name, talk in (("ada", ada), ("bob", bob), ("eve", eve)):
                assert "token" in await talk.do("register", username=name, password=PASSWORD)
                assert "head" in await talk.do("join", room="lobby")
            texts = [f"{number} ".ljust(3_000, "x") for number in range(8)]
            for text in texts:
                await ada.start("send", room="lobby", content=text)
            for talk in (ada, bob, eve):
                assert texts == await talk.messages(8)
        await lines.close()


async def test_a_browser_comes_from_the_same_origin_or_an_allowed_one() -> None:
    async with serving("memory:", "--allow-origin", "https://example.org") as server:
        url = server.urls["ws"]
        here = url.replace("ws://", "http://").removesuffix("/ws")
        for origin in (here, "https://example.org"):
            async with connect(url, origin=websockets.Origin(origin)):
                pass
        for origin in ("https://evil.example", here.replace("http:", "https:"), "null", "http://["):
            with pytest.raises(websockets.InvalidStatus) as refused:
                await connect(url, origin=websockets.Origin(origin))
            assert refused.value.response.status_code == 403
            assert b"origin" in refused.value.response.body


async def test_a_token_in_the_header_or_the_subprotocols() -> None:
    async with serving() as server:
        url = server.urls["ws"]
        async with connected(url) as peer:
            token = (await peer.do("register", username="ada", password=PASSWORD))["token"]
        async with connect(url, additional_headers={"Authorization": f"Bearer {token}"}) as socket_:
            assert '"username":"ada"' in str(await socket_.recv())
        subprotocols = [websockets.Subprotocol(each) for each in ("chat.v1", f"bearer.{token}")]
        async with connect(url, subprotocols=subprotocols) as socket_:
            assert socket_.subprotocol == "chat.v1"
            assert '"username":"ada"' in str(await socket_.recv())
        async with connect(url) as socket_:
            assert socket_.subprotocol is None, "one that offers none is served the same"
            assert '"hello"' in str(await socket_.recv())


async def test_frames_that_are_no_text_or_too_big_close_the_websocket() -> None:
    async with serving() as server:
        for message, code in ((b"binary", 4505), ("x" * (MAX_FRAME + 1), 1009)):
            async with connect(server.urls["ws"], compression=None) as socket_:
                await socket_.recv()
                with contextlib.suppress(websockets.ConnectionClosed):
                    await socket_.send(message)
                with pytest.raises(websockets.ConnectionClosed) as closed:
                    await _read_on(socket_)
                assert closed.value.rcvd is not None
                assert closed.value.rcvd.code == code
        async with connect(server.urls["ws"]) as socket_:
            await socket_.recv()
            assert socket_.protocol.extensions == [], "no deflate, though it was offered"
            socket_.transport.write(b"\x81\x82\0\0\0\0\xff\xfe")  # text that is not UTF-8
            with pytest.raises(websockets.ConnectionClosed):
                await _read_on(socket_)
        async with connected(server.urls["ws"]) as peer:
            assert "reply" in await peer.do("ping")


async def _read_on(websocket: ClientConnection) -> None:
    while True:
        await websocket.recv()


async def test_bad_frames_through_both_doors() -> None:
    async with serving() as server:
        for door in ("ws", "tcp"):
            async with connected(server.urls[door]) as peer:
                for frame in (b"{", b"[1]", b'{"cmd":"?"}', b'{"cmd":"ping","id":[]}'):
                    await peer.raw(frame)
                    assert "error" in await peer.answer(None)
                await peer.raw(b'{"cmd":"ping","id":1,"x":"' + b"x" * 200_000 + b'"}')
                assert (await peer.answer(1))["error"]["code"] == "too_large"
                assert "reply" in await peer.do("ping")
                for _ in range(5):
                    await peer.raw(b"nonsense")
                assert (await peer.goodbye())["code"] == 4505
                with pytest.raises(LinkClosed):
                    await peer.do("ping")
        assert all(re.search(r" (INFO|WARNING) ", line) for line in server.log)


async def test_a_line_beyond_all_bounds_is_skipped_in_bounded_memory() -> None:
    async with serving() as server, connected(server.urls["tcp"]) as peer:
        await peer.do("ping")
        before = _resident(server.process.pid)
        await peer.raw(b"x" * (64 * MAX_FRAME))
        assert (await peer.answer(None))["error"]["code"] == "too_large"
        assert "reply" in await peer.do("ping")
        assert _resident(server.process.pid) - before < 16 * MAX_FRAME


def _resident(pid: int) -> int:
    """Bytes of memory that a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_pings_whose_pongs_nobody_takes_cost_no_memory() -> None:
    async with serving() as server, connected(server.urls["ws"]) as other:
        host, _, port = server.urls["ws"].removeprefix("ws://").removesuffix("/ws").rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=1_000)
        writer.write(
            b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        assert b"101" in await reader.readline()
        before = _resident(server.process.pid)
        ping = b"\x89\xfd\0\0\0\0" + b"x" * 125
        for _ in range(300):
            writer.write(ping * 1_000)
            await writer.drain()
        assert "reply" in await other.do("ping")
        assert _resident(server.process.pid) - before < 12 * MAX_FRAME
        writer.close()


PINGING = """
from functools import partial
from chat_transports.server import cli
from chatcore.model import Limits
cli.Limits = partial(Limits, ping=0.25, messages=None, buffer_bytes=20_000)
cli.main()
"""


@contextlib.asynccontextmanager
async def upgraded(
    server: ServerProcess,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A WebSocket whose frames are left to the test; it answers no ping."""
    host, _, port = server.urls["ws"].removeprefix("ws://").removesuffix("/ws").rpartition(":")
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
    reader, writer = await asyncio.open_connection(sock=sock, limit=1_000)
    writer.write(
        b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    assert b"101" in await reader.readline()
    await reader.readuntil(b"\r\n\r\n")
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def test_a_peer_that_answers_no_ping_is_told_goodbye() -> None:
    async with (
        serving(script=PINGING) as server,
        connected(server.urls["ws"]) as lively,
        upgraded(server) as (reader, _),
    ):
        said = b""
        async with asyncio.timeout(PATIENCE):
            while (4003).to_bytes(2) not in said:  # the close frame's code
                said += await reader.read(1_000)
        bye = b'{"bye":{"code":4003,"reason":"silent for too long","reconnect":true}}'
        assert bye in said.partition((4003).to_bytes(2))[0]
        assert "reply" in await lively.do("ping")


async def test_a_peer_that_reads_slowly_is_not_taken_for_silent() -> None:
    """Its pongs wait behind what it has yet to read, and it has all of it in the end."""
    async with (
        serving(script=PINGING) as server,
        present(server.urls["tcp"], "ada") as ada,
        upgraded(server) as (reader, writer),
    ):

        def say(text: bytes) -> None:
            writer.write(b"\x81" + bytes((0x80 | len(text),)) + bytes(4) + text)

        say(b'{"cmd":"register","username":"bob","password":"correct horse"}')
        say(b'{"cmd":"join","room":"lobby"}')
        count = 100
        while "bob" not in (await ada.event("presence")).get("online", ()):
            pass
        for number in range(count):
            await ada.do("send", room="lobby", content=f"{number} ".ljust(3_000, "x"))
        begun, read = asyncio.get_running_loop().time(), b""
        async with asyncio.timeout(PATIENCE):
            while f'"{count - 1} xx'.encode() not in read:
                read += await reader.read(4_000)
                await asyncio.sleep(0.02)  # so slowly
        assert asyncio.get_running_loop().time() - begun > 4 * 0.25
        assert b'"bye"' not in read
        assert [number for number in range(count) if f'"{number} xx'.encode() not in read] == []


@pytest.mark.parametrize(
    "goodbye", [b"", b"\x88\x82\0\0\0\0\x03\xe8"], ids=["", "and a goodbye at once"]
)
async def test_a_text_that_is_no_utf_8_ends_the_connection_and_is_no_defect(goodbye: bytes) -> None:
    """Nor is it anything to log, which a peer could fill so."""
    async with serving(transports=["ws"]) as server, upgraded(server) as (reader, writer):
        begun = len(server.log)
        writer.write(b"\x81\x82\0\0\0\0\xff\xff" + goodbye)
        said = b""
        async with asyncio.timeout(PATIENCE):
            with contextlib.suppress(ConnectionError):
                said = await reader.read()
        code = 1000 if goodbye else 1007
        assert code.to_bytes(2) in said
        async with connected(server.urls["ws"]) as peer:
            assert "reply" in await peer.do("ping")
        server.signal(signal.SIGTERM)
        assert await server.exit_code() == 0
        assert [line.partition(": ")[2] for line in server.log[begun:]] == [
            "stopping; connected: 0",
            "stopped",
        ]


async def test_half_a_handshake_is_let_go_of_and_does_not_spoil_the_end() -> None:
    writers: list[asyncio.StreamWriter] = []
    async with serving() as server:
        host, _, port = server.urls["ws"].removeprefix("ws://").removesuffix("/ws").rpartition(":")
        for beginning in (b"GET /ws HT", b"GET /ws HTTP/1.1\r\nUpgrade: websocket\r\nX: "):
            _, writer = await asyncio.open_connection(host, int(port))
            writers.append(writer)
            writer.write(beginning + b"x" * 9_000 * (b"X:" in beginning) + b"\r\n\r\n")
            await writer.drain()
        async with connected(server.urls["ws"]) as peer:
            await peer.do("ping")
        server.signal(signal.SIGTERM)
        assert await server.exit_code() == 0
    for writer in writers:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


HASTY = """
from chat_transports import tcp
from chat_transports.server import main, requests
tcp.HANDSHAKE_SECONDS = requests.BODY_SECONDS = 0.3
main()
"""
TIMEOUT = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


async def test_who_connects_and_does_not_ask_is_not_waited_for() -> None:
    async with serving("memory:", script=HASTY, transports=["ws"]) as server:
        host, _, port = server.urls["ws"].removeprefix("ws://").removesuffix("/ws").rpartition(":")
        for beginning, answer in (
            (b"", b""),
            (b"GET /ws HTTP/1.1\r\nUpgrade: websocket\r\n", TIMEOUT),
        ):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(beginning)
            async with asyncio.timeout(5):
                with contextlib.suppress(ConnectionError):
                    assert await reader.read() == answer
            writer.close()
        async with connected(server.urls["ws"]) as peer:
            await asyncio.sleep(0.5)
            assert "reply" in await peer.do("ping"), "and whoever asked has time"


def post(path: str, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


async def told_while_trickling(server: ServerProcess, *said: bytes, drop: bytes) -> bytes:
    """Say each thing when the one before is answered, and then drops for ever; return the rest."""
    host, _, port = server.http.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    for whole in said[:-1]:
        writer.write(whole)
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        assert length is not None
        await reader.readexactly(int(length[1]))
    writer.write(said[-1])
    told = asyncio.ensure_future(reader.read())
    async with asyncio.timeout(5):
        while not (await asyncio.wait([told], timeout=0.02))[0]:
            writer.write(drop)
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
        return await told
    return b""


LONG = "Content-Length: 60000"
HOME = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def test_a_request_that_trickles_is_not_waited_for() -> None:
    async with serving("memory:", script=HASTY, transports=["ws", "socketio"]) as server:
        polling = "/socket.io/?EIO=4&transport=polling"
        for said, drop in (
            ([post("/login", LONG)], b" "),
            ([post("/login", "Transfer-Encoding: chunked")], b"1\r\n \r\n"),
            ([post(polling, LONG)], b"4"),
            ([HOME, post("/login", LONG)], b" "),
            ([b"GET / HTTP/1.1\r\nX: "], b"x"),
            ([HOME, b"GET / HTTP/1.1\r\nX: "], b"x"),
        ):
            assert await told_while_trickling(server, *said, drop=drop) == TIMEOUT
        for said in ([b"\r\n"], [HOME, b"\r\n"]):
            assert await told_while_trickling(server, *said, drop=b"\r\n") == b""
        answered = await told_while_trickling(server, post("/nothing", LONG), drop=b" ")
        assert answered.startswith(b"HTTP/1.1 404 ") or answered == b""
        assert b"408" not in answered, "one request has one answer"
        async with aiohttp.ClientSession(server.http) as session:
            async with session.get(polling) as opened:
                sid = json.loads((await opened.text())[1:])["sid"]
            first = f"GET {polling}&sid={sid} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
            pipelined = first + post("/login", LONG)
            assert await told_while_trickling(server, pipelined, drop=b" ") == b""
            status = 200
            async with asyncio.timeout(5):
                while status != 400:  # then who asked for this is gone
                    async with session.get(f"{polling}&sid={sid}") as ended:
                        status = ended.status
        assert not [line for line in server.log if " INFO " not in line]


async def test_a_request_that_is_whole_has_time() -> None:
    """So has who waits for an answer, who will ask again, and who has a WebSocket."""
    async with (
        serving("memory:", script=HASTY, transports=["ws", "socketio"]) as server,
        connected(server.urls["ws"]) as peer,
        aiohttp.ClientSession(server.http) as waiting,
        aiohttp.ClientSession(server.http) as asking,
    ):
        url = "/socket.io/?EIO=4&transport=polling"
        async with waiting.get(url) as opened:
            url += f"&sid={json.loads((await opened.text())[1:])['sid']}"
        poll = asyncio.ensure_future(waiting.get(url))
        async with asking.get("/healthz"):
            pass
        for _ in range(2):  # the trickling one's limit is the others' too
            assert await told_while_trickling(server, post("/login", LONG), drop=b" ") == TIMEOUT
        assert not poll.done()
        async with asking.post(url, data="40"), await poll as answered:
            assert (await answered.text()).startswith("40")
        assert "reply" in await peer.do("ping")


async def test_those_who_connect_and_do_not_ask_are_counted() -> None:
    options = ("--forwarded-allow-ips", "192.0.2.1")  # else this machine is taken for a proxy
    async with serving("memory:", *options, transports=["ws"]) as server:
        url = server.urls["ws"]
        host, _, port = url.removeprefix("ws://").removesuffix("/ws").rpartition(":")
        idle = [await asyncio.open_connection(host, int(port)) for _ in range(200)]
        with pytest.raises((OSError, websockets.InvalidMessage)):
            await connect(url)
        idle.pop()[1].close()

        async def one_more() -> bool:
            try:
                async with connected(url) as peer:
                    return "reply" in await peer.do("ping")
            except (OSError, websockets.InvalidMessage):
                return False

        async with asyncio.timeout(5):
            while not await one_more():
                pass
        for _ in range(5):
            assert await one_more(), "who has a WebSocket is not one of them"
        for _, writer in idle:
            writer.close()


async def test_fragments_of_nothing_cost_no_memory() -> None:
    async with serving(transports=["ws"]) as server, connect(server.urls["ws"]) as socket_:
        await socket_.recv()

        def frame(first: int, payload: bytes) -> bytes:
            return bytes([first, 0x80 | len(payload)]) + b"\0\0\0\0" + payload

        transport = socket_.transport
        transport.write(frame(0x01, b'{"cmd":"ping",'))
        await socket_.ping()
        before = _resident(server.process.pid)
        for _ in range(100):
            transport.write(frame(0x00, b"") * 10_000)
            pong = await socket_.ping()
            await pong
        assert _resident(server.process.pid) - before < 4 * MAX_FRAME
        for byte in b'"id":7}':
            transport.write(frame(0x00, bytes([byte])))
        transport.write(frame(0x80, b""))
        assert str(await socket_.recv()) == '{"reply":"ping","id":7}'


async def test_a_path_that_is_not_there_is_404() -> None:
    async with serving(transports=["ws"]) as server:
        for path in ("/", "/wss", "/ws/deeper"):
            with pytest.raises(websockets.InvalidStatus) as refused:
                await connect(server.urls["ws"].removesuffix("/ws") + path)
            assert refused.value.response.status_code == 404
            assert refused.value.response.body == b"There is nothing here; the chat is at /ws"
    async with serving(transports=["socketio"]) as server:
        with pytest.raises(websockets.InvalidStatus) as refused:
            await connect(server.http.replace("http", "ws") + "/ws")
        assert refused.value.response.status_code == 404
        told = b"There is nothing here; the chat is at /socket.io/"
        assert refused.value.response.body == told


async def test_a_reader_that_stops_does_not_hold_up_the_others(tmp_path: Path) -> None:
    async with (
        serving(tmp_path / "chat.db", "--limits", "none") as server,
        present(server.urls["tcp"], "ada") as ada,
        present(server.urls["ws"], "bob") as bob,
        present(server.urls["tcp"], "slow") as slow,
    ):
        said = [f"{number} ".ljust(3_000, "x") for number in range(1_500)]
        sending = [await ada.start("send", room="lobby", content=text) for text in said[:50]]
        for text in said[50:]:
            await ada.answer(sending.pop(0))
            sending.append(await ada.start("send", room="lobby", content=text))
            ada.events.clear()
        assert await bob.messages(len(said)) == said
        assert _resident(server.process.pid) < 200 * 2**20
        assert await slow.messages(len(said)) == said


async def test_the_database_is_nobody_elses_to_read(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    async with serving(path):
        modes = {entry.name: entry.stat().st_mode & 0o077 for entry in os.scandir(tmp_path)}
        assert set(modes.values()) == {0}, modes
