"""The Socket.IO door with real clients: python-socketio's, npm's, and one from the old page."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import random
import re
import shutil
import signal
import string
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import pytest
import socketio as library
import websockets
from engineio.async_socket import AsyncSocket
from starlette.applications import Starlette
from starlette.routing import Mount
from websockets.asyncio.client import ClientConnection

from chat_transports import http, socketio, websocket
from chat_transports.framed import OUTLET
from chat_transports.server.frames import Frames
from chat_transports.socketio import LegacyJoin, SocketIoLink, SocketIoWire, tame
from chatcore import Chat, Limits, MemoryRepository, User
from chatcore.errors import LinkClosed, Unauthenticated, UnknownCommand
from chatcore.model import MAX_FRAME, Credentials
from chatcore.ports import Link
from chatcore.testing import PATIENCE, LinkPeer, check_link, eventually
from tests.support import (
    PASSWORD,
    ServerProcess,
    alive,
    collector_off,
    present,
    serving,
    weight,
)
from tests.test_links import WIRE, uvicorn_serving

TRANSPORTS = {"websocket": ["websocket"], "polling first": ["polling", "websocket"]}
DOORS = ("ws", "socketio")


class Ears:
    """What a client has heard, in order."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, Any]] = []

    def hear(self, event: str, payload: Any = None) -> None:
        self.heard.append((event, payload))

    def all(self, event: str) -> list[Any]:
        return [payload for name, payload in self.heard if name == event]

    async def next(self, event: str) -> Any:
        """Return the next payload of an event, and forget all before it."""
        await eventually(lambda: self.all(event))
        index = next(i for i, (name, _) in enumerate(self.heard) if name == event)
        payload = self.heard[index][1]
        del self.heard[: index + 1]
        return payload


class Client(Protocol):
    ears: Ears

    async def emit(self, event: str, payload: Any = None) -> None: ...

    async def disconnect(self) -> None: ...


class PythonClient:
    def __init__(self, **options: Any) -> None:
        self.ears = Ears()
        self.library = library.AsyncClient(**options)
        self.library.on("*", self.ears.hear)
        self.library.on("disconnect", lambda reason: self.ears.hear("disconnect", reason))

    async def emit(self, event: str, payload: Any = None) -> None:
        await self.library.emit(event, payload)

    async def disconnect(self) -> None:
        await self.library.disconnect()


class NodeClient:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.ears = Ears()
        self._process = process
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.ears.hear(*json.loads(line))

    async def _say(self, line: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(line).encode() + b"\n")
        await self._process.stdin.drain()

    async def emit(self, event: str, payload: Any = None) -> None:
        await self._say([event] if payload is None else [event, payload])

    async def disconnect(self) -> None:
        await self._say(None)

    async def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        async with asyncio.timeout(PATIENCE):
            await self._process.wait()
            await self._reading


async def login(base: str, username: str, *, register: bool = True) -> str:
    """Register by HTTP, log in, and return the token."""
    account = {"username": username, "password": PASSWORD}
    async with aiohttp.ClientSession(base) as session:
        if register:
            async with session.post("/register", json=account) as response:
                assert response.status == 201
        async with session.post("/login", json=account) as response:
            assert response.status == 200
            return str((await response.json())["token"])


@contextlib.asynccontextmanager
async def python_client(
    base: str, auth: Any = None, transports: list[str] | None = None, **options: Any
) -> AsyncIterator[PythonClient]:
    client = PythonClient(reconnection=False)
    await client.library.connect(base, auth=auth, transports=transports, **options)
    try:
        yield client
    finally:
        await client.disconnect()


@contextlib.asynccontextmanager
async def joined(
    base: str, username: str, transports: list[str] | None = None, **options: Any
) -> AsyncIterator[PythonClient]:
    token = await login(base, username)
    async with python_client(base, {"token": token}, transports, **options) as client:
        await client.emit("join", {"username": username})
        await client.ears.next("message_history")
        yield client


@pytest.fixture(scope="module")
def node_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with client.js and npm's own client, at the versions of the lock."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm bring the real Socket.IO client")
    folder = tmp_path_factory.mktemp("node")
    here = Path(__file__).parent / "node"
    for name in ("package.json", "package-lock.json", "client.js"):
        shutil.copy(here / name, folder)
    return folder


@pytest.fixture
async def node(node_folder: Path) -> Path:
    if not (node_folder / "node_modules").exists():
        npm = await asyncio.create_subprocess_exec(
            *("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"),
            cwd=node_folder,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await npm.communicate()
        if npm.returncode != 0:
            pytest.skip(f"npm could not install the real client: {said.decode()[-300:]}")
    return node_folder


@contextlib.asynccontextmanager
async def node_client(
    folder: Path, base: str, auth: Any, transports: list[str]
) -> AsyncIterator[NodeClient]:
    options = {"transports": transports, "auth": auth, "reconnection": False}
    process = await asyncio.create_subprocess_exec(
        *("node", str(folder / "client.js"), base, json.dumps(options)),
        cwd=folder,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    client = NodeClient(process)
    try:
        yield client
    finally:
        await client.close()


# Real clients talk.


async def talk(ada: Client, bob: Client, server: ServerProcess) -> None:
    """Two clients, who are connected and nobody yet, and one behind the protocol's own door."""
    async with present(server.urls["ws"], "carol") as carol:
        await carol.do("send", room="lobby", content="early")
        await ada.emit("send_message", {"content": "too early"})
        assert (await ada.ears.next("error"))["message"] == "You must join the chat first"
        await ada.emit("get_online_users")
        assert (await ada.ears.next("error"))["message"] == "You must join the chat first"

        await ada.emit("join", {"username": "ada"})
        (message,) = (await ada.ears.next("message_history"))["messages"]
        assert (message["username"], message["content"]) == ("carol", "early")
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", message["timestamp"])
        assert message.keys() == {"username", "content", "timestamp"}
        await bob.emit("join", {"username": "bob"})
        await told_of_coming(ada, "bob")
        await ada.emit("get_online_users")
        assert await ada.ears.next("online_users") == {"users": ["ada", "bob", "carol"]}

        await ada.emit("send_message", {"content": "hi, bob ☃\nand all"})
        for client in (ada, bob):
            heard = await client.ears.next("new_message")
            assert (heard["username"], heard["content"]) == ("ada", "hi, bob ☃\nand all")
            assert heard.keys() == {"username", "content", "timestamp"}
        while (told := await carol.event("message"))["sender"] != "ada":
            pass
        assert told["content"] == "hi, bob ☃\nand all"
        await carol.do("send", room="lobby", content="hi, both")
        for client in (ada, bob):
            assert (await client.ears.next("new_message"))["content"] == "hi, both"

        for content in ("", "  ", None):
            await bob.emit("send_message", {"content": content} if content is not None else {})
            assert (await bob.ears.next("error"))["message"] == "Message cannot be empty"
        await bob.emit("send_message", {"content": "x" * 4_001})
        assert "at most 4000 characters" in (await bob.ears.next("error"))["message"]
        await bob.emit("dance", {})
        assert (await bob.ears.next("error"))["message"] == "There is no such event here"

        await bob.disconnect()
        await told_of_leaving(ada, "bob")


async def told_of_coming(client: Client, username: str) -> None:
    came = await client.ears.next("user_joined")
    while came["username"] != username:  # one's own, and of those who were there together
        came = await client.ears.next("user_joined")
    assert came == {"username": username, "message": f"{username} joined the chat"}


async def told_of_leaving(client: Client, username: str, within: float = 1.0) -> None:
    """In time: somebody who may be back soon is still there."""
    async with asyncio.timeout(within + Limits().offline_seconds):
        gone = await client.ears.next("user_left")
    assert gone == {"username": username, "message": f"{username} left the chat"}


@pytest.mark.parametrize("transports", TRANSPORTS.values(), ids=TRANSPORTS)
async def test_python_clients_talk(transports: list[str]) -> None:
    async with serving(transports=DOORS) as server:
        ada, bob = await login(server.http, "ada"), await login(server.http, "bob")
        async with (
            python_client(server.http, {"token": ada}, transports) as one,
            python_client(server.http, {"token": bob}, transports) as other,
        ):
            await talk(one, other, server)


@pytest.mark.parametrize("transports", TRANSPORTS.values(), ids=TRANSPORTS)
async def test_npms_clients_talk(node: Path, transports: list[str]) -> None:
    async with serving(transports=DOORS) as server:
        ada, bob = await login(server.http, "ada"), await login(server.http, "bob")
        async with (
            node_client(node, server.http, {"token": ada}, transports) as one,
            node_client(node, server.http, {"token": bob}, transports) as other,
        ):
            for client in (one, other):
                assert await client.ears.next("open") == transports[0]
                upgrades = ["websocket"] if transports[0] == "polling" else []
                await eventually(lambda: client.ears.all("connect"))  # noqa: B023 - awaited here
                await eventually(lambda: client.ears.all("upgrade") == upgrades)  # noqa: B023
            await talk(one, other, server)
            assert await other.ears.next("disconnect") == "io client disconnect"


async def test_clients_of_both_kinds_talk_and_one_stays_with_polling(node: Path) -> None:
    async with serving(transports=DOORS) as server:
        ada, bob = await login(server.http, "ada"), await login(server.http, "bob")
        async with (
            python_client(server.http, {"token": ada}, ["polling"]) as one,
            node_client(node, server.http, {"token": bob}, ["polling"]) as other,
        ):
            assert one.library.transport() == "polling"
            await other.ears.next("connect")
            await talk(one, other, server)


class Screen:
    """tests/first_client.py, run by its user."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.lines: list[str] = []
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.lines.append(line.decode().rstrip())

    async def type(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        await self._process.stdin.drain()

    async def shows(self, line: str) -> None:
        await eventually(lambda: line in self.lines)

    async def leave(self) -> None:
        await self.type("/exit")
        async with asyncio.timeout(PATIENCE):
            assert await self._process.wait() == 0
            await self._reading


@contextlib.asynccontextmanager
async def screen(base: str, choice: str, username: str) -> AsyncIterator[Screen]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(Path(__file__).parent / "first_client.py")),
        *(base, choice, username, PASSWORD),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield Screen(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_a_client_written_from_the_page_alone() -> None:
    """It has never heard of tokens, so the operator lets old clients in."""
    async with (
        serving("memory:", "--legacy-join", transports=DOORS) as server,
        present(server.urls["ws"], "carol") as carol,
        screen(server.http, "1", "ada") as ada,
    ):
        await ada.shows("--- joined")
        assert ada.lines[:4] == [
            "201 True Registration successful",
            "200 True Login successful",
            "--- history",
            "--- joined",
        ]
        await carol.do("send", room="lobby", content="welcome")
        await ada.shows("carol: welcome")
        async with screen(server.http, "1", "bob") as bob:
            await ada.shows("[System] bob joined the chat")
            await bob.type("hi, ada")
            await ada.shows("bob: hi, ada")
            await ada.type("/users")
            await ada.shows("Online: ada, bob, carol")
            await ada.type("hi, bob")
            await bob.shows("ada: hi, bob")
            await bob.type("  ")
            await bob.shows("[Error] Message cannot be empty")
            await bob.leave()
            await ada.shows("[System] bob left the chat")
            assert "[System] Disconnected from server" in bob.lines
        async with screen(server.http, "2", "bob") as bob:
            await bob.shows("--- joined")
            assert bob.lines == [
                "200 True Login successful",
                "--- history",
                "carol: welcome",
                "bob: hi, ada",
                "ada: hi, bob",
                "--- joined",
            ]
            await bob.leave()
        await ada.leave()
        assert await carol.messages(3) == ["welcome", "hi, ada", "hi, bob"]


# Who may join.


async def test_join_needs_a_token() -> None:
    async with serving(transports=DOORS) as server:
        token = await login(server.http, "ada")
        needed = "Log in first: join takes the token that POST /login answers"
        refused = "This token is not valid any more; log in with your password"
        async with python_client(server.http) as client:
            for payload in ({"username": "ada"}, {}, {"username": "ada", "token": 1}):
                await client.emit("join", payload)
                assert (await client.ears.next("error"))["message"] == needed
            await client.emit("join", {"username": "ada", "token": "cc_x"})
            assert (await client.ears.next("error"))["message"] == refused
            await client.emit("join", {"username": "anything", "token": token})
            await client.ears.next("message_history")
            await client.emit("send_message", {"content": "it is me"})
            assert (await client.ears.next("new_message"))["username"] == "ada"
            assert client.ears.all("error") == []
        async with python_client(server.http, {"token": "cc_x"}) as client:
            await client.emit("join", {"username": "ada"})
            assert (await client.ears.next("error"))["message"] == refused
        bearer = {"Authorization": f"Bearer {token}"}
        async with python_client(server.http, headers=bearer) as client:
            await client.emit("join")
            await client.ears.next("message_history")


async def test_a_logout_ends_the_connections_that_joined_with_its_token() -> None:
    async with serving(transports=DOORS) as server:
        token = await login(server.http, "ada")
        async with python_client(server.http, {"token": token}) as client:
            await client.emit("join", {"username": "ada"})
            await client.ears.next("message_history")
            async with aiohttp.ClientSession(server.http) as session:
                bearer = {"Authorization": f"Bearer {token}"}
                async with session.post("/logout", headers=bearer) as response:
                    assert response.status == 200
            assert (await client.ears.next("error"))["message"] == (
                "The connection ends: logged out"
            )
            assert await client.ears.next("disconnect") == "server disconnect"


async def test_without_legacy_join_a_login_lets_nobody_join_by_name() -> None:
    async with serving(transports=DOORS) as server:
        await login(server.http, "ada")
        async with python_client(server.http) as client:
            await client.emit("join", {"username": "ada"})
            assert "Log in first" in (await client.ears.next("error"))["message"]


async def test_legacy_join_is_for_the_name_that_logged_in_and_once() -> None:
    async with serving("memory:", "--legacy-join", transports=DOORS) as server:
        assert any("legacy join" in line for line in server.log)
        await login(server.http, "Ada")
        async with python_client(server.http) as client, python_client(server.http) as other:
            await client.emit("join", {"username": "bob"})
            assert "Log in first" in (await client.ears.next("error"))["message"]
            await client.emit("join", {"username": "ADA"})
            await client.ears.next("message_history")
            await other.emit("join", {"username": "ada"})
            assert "Log in first" in (await other.ears.next("error"))["message"]


def test_legacy_join_is_for_the_same_address_and_thirty_seconds() -> None:
    now = 0.0
    legacy = LegacyJoin(lambda: now)
    ada = User("ada", "Ada")
    legacy.remember("192.0.2.1", ada, "t1")
    assert legacy.take("192.0.2.2", "ada") is None
    assert legacy.take("192.0.2.1", "no name") is None
    assert legacy.take("192.0.2.1", "Ada") == "t1"
    assert legacy.take("192.0.2.1", "ada") is None
    legacy.remember("192.0.2.1", ada, "t2")
    now = 29.9
    legacy.remember("192.0.2.1", User("bob", "Bob"), "t3")
    now = 30.0
    assert legacy.take("192.0.2.1", "ada") is None
    assert legacy.take("192.0.2.1", "bob") == "t3"


# History, rates, leaving.


async def test_history_is_the_last_fifty_oldest_first() -> None:
    async with serving("memory:", "--limits", "none", transports=DOORS) as server:
        async with present(server.urls["ws"], "carol") as carol:
            for number in range(60):
                await carol.do("send", room="lobby", content=str(number))
        token = await login(server.http, "ada")
        async with python_client(server.http, {"token": token}) as client:
            await client.emit("join", {"username": "ada"})
            messages = (await client.ears.next("message_history"))["messages"]
            assert [message["content"] for message in messages] == [str(n) for n in range(10, 60)]


async def test_edits_and_deletions_are_not_told_and_history_has_what_came_of_them() -> None:
    async with (
        serving(transports=DOORS) as server,
        joined(server.http, "ada") as ada,
        present(server.urls["ws"], "carol") as carol,
    ):
        seqs = [
            (await carol.do("send", room="lobby", content=text))["seq"]
            for text in ("one", "two", "three")
        ]
        await carol.do("edit", room="lobby", seq=seqs[0], content="uno")
        await carol.do("delete", room="lobby", seq=seqs[1])
        await carol.do("send", room="lobby", content="four")
        heard = [(await ada.ears.next("new_message"))["content"] for _ in range(4)]
        assert heard == ["one", "two", "three", "four"]
        token = await login(server.http, "bob")
        async with python_client(server.http, {"token": token}) as bob:
            await bob.emit("join", {})
            messages = (await bob.ears.next("message_history"))["messages"]
        assert [message["content"] for message in messages] == ["uno", "three", "four"]


async def test_rates_are_those_of_every_door() -> None:
    async with serving(transports=DOORS) as server, joined(server.http, "ada") as ada:
        for number in range(15):
            await ada.emit("send_message", {"content": str(number)})
        assert (await ada.ears.next("error"))["message"] == "Slow down: too many messages"


async def test_a_retry_with_a_txn_id_is_stored_once() -> None:
    async with serving(transports=DOORS) as server, joined(server.http, "ada") as ada:
        for _ in range(2):
            await ada.emit("send_message", {"content": "once", "txn_id": "t"})
        await ada.emit("send_message", {"content": "twice"})
        await eventually(lambda: len(ada.ears.all("new_message")) >= 2)
        assert [each["content"] for each in ada.ears.all("new_message")] == ["once", "twice"]


@pytest.mark.parametrize("transports", TRANSPORTS.values(), ids=TRANSPORTS)
async def test_others_hear_soon_that_somebody_left(transports: list[str]) -> None:
    async with serving(transports=DOORS) as server, joined(server.http, "ada") as ada:
        async with joined(server.http, "bob", transports):
            await told_of_coming(ada, "bob")
        await told_of_leaving(ada, "bob")
        async with joined(server.http, "carol", ["websocket"]) as carol:
            await told_of_coming(ada, "carol")
            carol.library.eio.ws._response.connection.transport.abort()  # noqa: SLF001 - a crash
            await told_of_leaving(ada, "carol")


async def test_others_hear_within_the_ping_timeout_of_a_cut_cable() -> None:
    chat = Chat(MemoryRepository(), bcrypt_cost=4, limits=Limits(ping=1.0))
    async with in_process(chat) as base, joined(base, "ada") as ada:
        token = await login(base, "bob")
        async with engine(base) as bob:  # it answers no ping, as if no byte came through
            await bob.send(f'40{{"token":"{token}"}}')
            await bob.send('42["join",{}]')
            while not str(await bob.recv()).startswith('42["message_history"'):
                pass
            await told_of_leaving(ada, "bob", within=2 * 1.0 + 1.5)


async def test_a_drain_tells_everyone_and_clients_come_back_by_themselves() -> None:
    async with serving(transports=DOORS) as server:
        token = await login(server.http, "ada")
        clients = [PythonClient(reconnection=True, reconnection_delay=30) for _ in range(2)]
        for client, transports in zip(clients, TRANSPORTS.values(), strict=True):
            await client.library.connect(server.http, auth={"token": token}, transports=transports)
            await client.emit("join", {"username": "ada"})
            await client.ears.next("message_history")
        server.signal(signal.SIGTERM)
        for client in clients:
            assert (await client.ears.next("error"))["message"] == "The connection ends: shutdown"
            assert await client.ears.next("disconnect") != "server disconnect"
        assert await server.exit_code() == 0
        for client in clients:
            await client.library.shutdown()


async def test_who_is_in_the_middle_of_asking_does_not_spoil_the_end() -> None:
    async with serving(transports=DOORS) as server, aiohttp.ClientSession(server.http) as session:
        host, _, port = server.http.removeprefix("http://").rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /login HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
        polling = await poll(server.http, await open_session(session))
        async with engine(server.http):
            server.signal(signal.SIGTERM)
            assert await server.exit_code() == 0
        await asyncio.wait([polling])
        with contextlib.suppress(aiohttp.ClientError):
            await polling
        assert await reader.read() == b""
        writer.close()


async def open_session(session: aiohttp.ClientSession) -> str:
    """Open an Engine.IO session by long-polling, and return its query."""
    async with session.get("/socket.io/?EIO=4&transport=polling") as answer:
        sid = json.loads((await answer.text())[1:])["sid"]
    return f"/socket.io/?EIO=4&transport=polling&sid={sid}"


async def poll(base: str, url: str) -> asyncio.Task[str]:
    """Begin to wait for packets, and return once the server has the request."""
    sent = asyncio.Event()
    trace = aiohttp.TraceConfig()

    async def tell(*_: object) -> None:
        sent.set()

    trace.on_request_headers_sent.append(tell)

    async def wait() -> str:
        async with (
            aiohttp.ClientSession(base, trace_configs=[trace]) as session,
            session.get(url) as answer,
        ):
            return await answer.text()

    polling = asyncio.create_task(wait())
    async with asyncio.timeout(PATIENCE):
        await sent.wait()
    async with aiohttp.ClientSession(base) as other, other.get("/healthz"):  # and this is later
        pass
    return polling


async def test_a_poller_who_hangs_up_is_gone_soon() -> None:
    async with (
        serving(transports=DOORS) as server,
        joined(server.http, "ada") as ada,
        aiohttp.ClientSession(server.http) as session,
    ):
        token = await login(server.http, "bob")
        url = await open_session(session)
        async with session.post(url, data=f'40{{"token":"{token}"}}\x1e42["join"]'):
            pass
        await told_of_coming(ada, "bob")
        heard = ""
        while "user_joined" not in heard:
            heard = await (await poll(server.http, url))
        polling = await poll(server.http, url)
        polling.cancel()
        await told_of_leaving(ada, "bob")


async def test_a_poller_who_hangs_up_with_more_asked_is_gone_as_well() -> None:
    async with (
        serving(transports=DOORS) as server,
        joined(server.http, "ada") as ada,
        aiohttp.ClientSession(server.http) as session,
    ):
        token = await login(server.http, "bob")
        url = await open_session(session)
        async with session.post(url, data=f'40{{"token":"{token}"}}\x1e42["join"]'):
            pass
        await told_of_coming(ada, "bob")
        heard = ""
        while "user_joined" not in heard:
            heard = await (await poll(server.http, url))
        host, _, port = server.http.removeprefix("http://").rpartition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        asked = [f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n" for path in (url, "/healthz")]
        writer.write("".join(asked).encode())
        await writer.drain()
        async with session.get("/healthz"):  # on another connection, and later
            pass
        writer.transport.abort()
        await told_of_leaving(ada, "bob")


async def test_packets_that_are_cut_off_are_not_taken() -> None:
    async with (
        serving(transports=DOORS) as server,
        present(server.urls["ws"], "carol") as carol,
        aiohttp.ClientSession(server.http) as session,
    ):
        token = await login(server.http, "bob")
        url = await open_session(session)
        async with session.post(url, data=f'40{{"token":"{token}"}}\x1e42["join"]'):
            pass
        host, _, port = server.http.removeprefix("http://").rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = f"POST {url} HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\nExpect: 100-continue"
        writer.write(f"{head}\r\n\r\n".encode())
        assert b"100 Continue" in await reader.readline(), "it is being read"
        writer.write(b'42["send_message",{"content":"half"}]')
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        async with session.post(url, data='42["send_message",{"content":"whole"}]'):
            pass
        assert await carol.messages(1) == ["whole"]


# A link like any other.


@contextlib.asynccontextmanager
async def in_process(chat: Chat, prefix: str = "", **options: Any) -> AsyncIterator[str]:
    host = Starlette(
        routes=[
            Mount(f"{prefix}/socket.io", socketio.app(chat, **options)),
            websocket.route(chat, f"{prefix}/ws"),
            Mount(prefix or "/", http.app(chat)),
        ]
    )
    async with chat, uvicorn_serving(host) as port:
        yield f"http://127.0.0.1:{port}"


@contextlib.asynccontextmanager
async def engine(base: str, **options: Any) -> AsyncIterator[ClientConnection]:
    """A bare Engine.IO session on a WebSocket."""
    url = f"ws{base.removeprefix('http')}/socket.io/?EIO=4&transport=websocket"
    async with websockets.connect(
        url, compression=None, ping_interval=None, close_timeout=0.2, max_size=None, **options
    ) as connection:
        yield connection


async def test_mounted_under_any_prefix() -> None:
    chat = Chat(MemoryRepository(), bcrypt_cost=4)
    async with in_process(chat, "/a/b") as base:
        ada = await chat.register("ada", PASSWORD)
        token = (await chat.issue_token(ada)).secret
        for transports in TRANSPORTS.values():
            client = PythonClient()
            await client.library.connect(
                base, auth={"token": token}, transports=transports, socketio_path="/a/b/socket.io"
            )
            await client.emit("join")
            await client.ears.next("message_history")
            await client.disconnect()


async def test_a_slow_reader_costs_little_and_misses_nothing() -> None:
    async with (
        serving("memory:", "--limits", "none", transports=DOORS) as server,
        present(server.urls["ws"], "carol") as carol,
    ):
        token = await login(server.http, "slow")
        async with engine(server.http, max_queue=1) as slow:
            await slow.send(f'40{{"token":"{token}"}}')
            await slow.send('42["join",{}]')
            await eventually_online(carol, "slow")
            before = resident(server)
            said = [f"{number} ".ljust(3_000, "x") for number in range(3_000)]
            for start in range(0, len(said), 50):
                ids = [
                    await carol.start("send", room="lobby", content=text)
                    for text in said[start : start + 50]
                ]
                for id in ids:
                    await carol.answer(id)
                carol.events.clear()
            # The memory repository keeps the messages themselves, 9 MB.
            assert resident(server) - before < 40 * 2**20
            heard: list[str] = []
            async with asyncio.timeout(PATIENCE):
                while len(heard) < len(said):
                    packet = str(await slow.recv())
                    if packet.startswith('42["new_message"'):
                        heard.append(json.loads(packet[2:])[1]["content"])
                    elif packet == "2":
                        await slow.send("3")
            assert said == heard


async def test_who_goes_on_by_websocket_gets_all_in_order_and_straight() -> None:
    """From a poll to the library's queue, and from there to the transport itself."""
    async with Chat(MemoryRepository(), bcrypt_cost=4, limits=Limits(messages=None)) as chat:
        ada = await chat.register("ada", PASSWORD)
        await chat.join(ada, "lobby")
        bob = await chat.register("bob", PASSWORD)
        token = (await chat.issue_token(bob)).secret
        app = Starlette(routes=[Mount("/socket.io", socketio.app(chat))])
        async with (
            uvicorn_serving(app, ws=Frames) as port,
            aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
        ):
            url = "/socket.io/?EIO=4&transport=polling"
            opened = await (await session.get(url)).text()
            url += f"&sid={json.loads(opened[1:])['sid']}"
            said: list[str] = []

            async def poll() -> None:
                async with session.get(url) as answer:
                    said.extend((await answer.text()).split("\x1e"))

            join = json.dumps(["join", {"username": "bob", "token": token}])
            for packets in ("40", f"42{join}"):
                await session.post(url, data=packets)
            while "message_history" not in "".join(said):
                await poll()

            sent = [f"number {number}" for number in range(400)]

            async def send() -> None:
                for text in sent:
                    await chat.send(ada, "lobby", text)

            sending = asyncio.create_task(send())
            while "number" not in "".join(said):
                await poll()
            polling = asyncio.create_task(poll())
            to = f"ws://127.0.0.1:{port}{url.replace('polling', 'websocket')}"
            async with websockets.connect(to, compression=None) as connection:
                await connection.send("2probe")
                assert await connection.recv() == "3probe"
                await polling
                await connection.send("5")
                while sent[-1] not in said[-1]:
                    said.append(str(await connection.recv()))
                await sending
                heard = [json.loads(each[2:]) for each in said if "new_message" in each]
                assert [payload["content"] for _, payload in heard] == sent
                (listener,) = chat.hub._listeners["bob"]  # noqa: SLF001 - which way it goes
                assert listener.straight is not None
                with pytest.raises(websockets.InvalidStatus) as refused:
                    await websockets.connect(to)
                assert refused.value.response.status_code == 400
                await chat.send(ada, "lobby", "still here")
                assert "still here" in str(await connection.recv())


async def eventually_online(peer: Any, username: str) -> None:
    while username not in (await peer.do("who", room="lobby"))["online"]:
        pass


@contextlib.asynccontextmanager
async def raw_link(ws: Any = "websockets-sansio") -> AsyncIterator[tuple[Link, LinkPeer]]:
    """A link whose peer's frames come as the payload of an event."""
    links: list[SocketIoLink] = []
    server = library.AsyncServer(
        async_mode="asgi",
        always_connect=True,
        async_handlers=False,
        max_http_buffer_size=1 << 23,
        ping_interval=25,
    )
    wire = SocketIoWire(WIRE)

    async def connect(sid: str, environ: Any, _: Any = None) -> None:
        eio_sid = server.manager.eio_sid_from_sid(sid, "/")
        extensions = environ["asgi.scope"]["extensions"]
        links.append(SocketIoLink(server, sid, eio_sid, wire, lambda: extensions.get(OUTLET)))

    async def frame(_: str, text: str) -> None:
        await links[0].take(text.encode())

    async def disconnect(_: str) -> None:
        links[0].gone()

    for event, handler in (("connect", connect), ("frame", frame), ("disconnect", disconnect)):
        server.on(event, handler)
    app = Starlette(routes=[Mount("/", library.ASGIApp(server))])
    async with (
        uvicorn_serving(app, 2 * MAX_FRAME, ws=ws) as port,
        engine(f"http://127.0.0.1:{port}") as connection,
    ):
        await connection.send("40")
        peer = EnginePeer(connection)
        await eventually(lambda: links)
        yield links[0], peer
        links[0].close(1000, "")
        await connection.close()
        await links[0].closed()


async def packet(connection: ClientConnection) -> str:
    """Return the next packet that says something."""
    while (said := str(await connection.recv())) == "6":
        pass
    return said


class EnginePeer:
    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    async def send(self, frame: bytes) -> None:
        with contextlib.suppress(websockets.ConnectionClosed):
            await self._connection.send(f"42{json.dumps(['frame', frame.decode()])}")

    async def receive(self) -> bytes:
        while True:
            try:
                packet = str(await self._connection.recv())
            except websockets.ConnectionClosed:
                raise LinkClosed from None
            if packet in ("1", "41"):
                await self._connection.close()
            elif packet.startswith("42"):
                return packet.removeprefix("42").encode()

    async def close(self) -> None:
        await self._connection.close()


def test_an_event_takes_no_more_memory_than_it_has_bytes() -> None:
    wire = SocketIoWire(WIRE)
    told = wire.reply(UnknownCommand("No"), None)
    assert weight(lambda: wire.reply(UnknownCommand("No"), None)) < len(told) + 200


async def test_the_link_keeps_the_contract() -> None:
    await check_link(partial(raw_link, Frames))


async def test_the_link_keeps_the_contract_on_another_server() -> None:
    await check_link(raw_link, is_straight=False)


# Packets that no client of ours sends.


@pytest.mark.parametrize(
    ("packet", "plain"),
    [
        ("1", "1"),
        ("3", "3"),
        ("2probe", "2probe"),
        ("40", "40{}"),
        ('40{"token":"t","more":[[1]]}', '40{"token":"t"}'),
        ('40{"token":[1]}', '40{"token":null}'),
        ("40/admin,", "40/admin,{}"),
        ("40/admin?x=1,{}", "40/admin,{}"),
        ("41", "41"),
        ('42["a"]', '42["a"]'),
        ('42["a",null]', '42["a"]'),
        ('4217["a",{"b":"c"}]', '4217["a",{"b":"c"}]'),
        ('42/,["a",{"b":{"c":1},"d":2}]', '42["a",{"b":null,"d":2}]'),
        ('42["a",{},{},3]', '42["a",{}]'),
    ],
)
def test_a_packet_is_made_plain(packet: str, plain: str) -> None:
    assert tame(packet, 1_000) == plain


MALFORMED = (
    "|0|11|2|3x|4|6|9|x|b|bAAAA|é|\ud800|40[]|40x|40{|41[]|41/x,|42|42[]|42{}|42[1]|42[null]|"
    '42["connect"]|42["disconnect","x"]|42["*"]|42["a",1]|42["a","b"]|42["a",[]]|42["a"|42["a",{"b":NaN}]|'
    '42["a",{"b":"\\ud800"}]|42/x,["a",{}]|421234567890["a"]|43[]|431["a"]|44|44{}|'
    '451-["a",{"_placeholder":true,"num":0}]|4599999999999-["a"]|461-[]|47|4[]|4{}|4"a"|d=1'
).split("|")


@pytest.mark.parametrize("packet", [*MALFORMED, '42["a",{"b":"' + "x" * 1_000 + '"}]', "[" * 900])
def test_any_other_packet_is_a_malformed_event(packet: str) -> None:
    assert tame(packet, 1_000) == '42["?"]'


async def test_the_sessions_of_one_address_are_counted_before_anybody_joins() -> None:
    chat = Chat(MemoryRepository(), bcrypt_cost=4, limits=Limits(address_connections=3))
    opening = "/socket.io/?EIO=4&transport=polling"
    async with in_process(chat) as base, aiohttp.ClientSession(base) as session:
        for status in (200, 200, 200, 429):
            async with session.get(opening) as answer:
                assert answer.status == status
        with pytest.raises(websockets.InvalidStatus) as refused:
            async with engine(base):
                pass
        assert refused.value.response.status_code == 429


async def test_a_page_comes_from_the_same_origin_or_an_allowed_one() -> None:
    chat = Chat(MemoryRepository(), bcrypt_cost=4)
    good = "https://example.org"
    opening = "/socket.io/?EIO=4&transport=polling"
    async with (
        in_process(chat, allow_origins=[good]) as base,
        aiohttp.ClientSession(base) as session,
    ):
        for origin in (base, good):
            async with session.get(opening, headers={"Origin": origin}) as answer:
                assert answer.status == 200
                assert answer.headers["Access-Control-Allow-Origin"] == origin
            async with engine(base, origin=origin):
                pass
        async with session.get(opening, headers={"Origin": "https://evil.example"}) as answer:
            assert answer.status == 403
        with pytest.raises(websockets.InvalidStatus) as refused:
            async with engine(base, origin="https://evil.example"):
                pass
        assert refused.value.response.status_code == 403


async def test_a_stranger_whom_the_host_does_not_let_in_is_told_so() -> None:
    """Before anything else, whatever token the connection brings."""

    class Sessions:
        async def authenticate(self, credentials: Credentials) -> User | None:
            raise Unauthenticated("Sign in at the front page")

    chat = Chat(MemoryRepository(), authenticator=Sessions(), bcrypt_cost=4)
    async with in_process(chat) as base:
        token = (await chat.issue_token(await chat.register("ada", PASSWORD))).secret
        for auth in ("", f'{{"token":"{token}"}}'):
            async with engine(base) as connection:
                await connection.send(f"40{auth}")
                heard: list[str] = []
                with contextlib.suppress(websockets.ConnectionClosed):
                    while True:
                        heard.append(str(await connection.recv()))
                told = '42["error",{"message":"The connection ends: Sign in at the front page"}]'
                assert [packet for packet in heard if packet.startswith("42")] == [told]


async def test_a_chat_that_was_not_started_says_so(caplog: pytest.LogCaptureFixture) -> None:
    app = Starlette(routes=[Mount("/socket.io", socketio.app(Chat(MemoryRepository())))])
    async with (
        uvicorn_serving(app) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
        session.get("/socket.io/?EIO=4&transport=polling") as answer,
    ):
        assert answer.status == 503
        assert "not running: enter it first" in await answer.text()
    ours = [record for record in caplog.records if record.name.startswith("chat")]
    assert [record.exc_info for record in ours] == [None]


async def test_malformed_events_are_answered_and_the_fifth_in_a_row_ends_it() -> None:
    async with serving(transports=DOORS) as server, engine(server.http) as connection:
        await connection.send("40")
        await connection.recv()
        await connection.recv()
        for _ in range(2):
            for _ in range(4):
                await connection.send("42[]")
                assert "An event has a name" in await packet(connection)
            await connection.send('42["get_online_users"]')
            assert "You must join" in await packet(connection)
        for _ in range(5):
            await connection.send(b"\0")
        packets = [await packet(connection) for _ in range(7)]
        assert "too many malformed frames" in packets[5]
        assert packets[6] == "41"


def hostile(chance: random.Random) -> Iterator[str]:
    """Yield packets of every wrong kind, for ever."""
    nested = "[" * 3_000 + "]" * 3_000
    shapes: list[Callable[[], str]] = [
        lambda: chance.choice(MALFORMED).replace("\ud800", ""),
        lambda: str(chance.randrange(10)) * chance.randrange(1, 9),
        lambda: f"4{chance.randrange(10)}{chance.choice(string.printable)}",
        lambda: f"42{chance.randrange(10**9)}{json.dumps([chance.choice(NAMES), 1])}",
        lambda: f'42["{chance.choice(NAMES)}",{nested}]',
        lambda: f'42["{chance.choice(NAMES)}",{{"content":{nested},"token":{nested}}}]',
        lambda: f'42["{chance.choice(NAMES)}",{{"content":{"9" * 5_000}}}]',
        lambda: f'42["{chance.choice(NAMES)}",{{"content":"{"x" * 70_000}"}}]',
        lambda: f'42["{chance.choice(NAMES)}",{{"username":{{}},"content":[],"token":1.5}}]',
        lambda: f"40/{chance.choice(string.ascii_letters) * 50},{{}}",
        lambda: "40" + chance.choice(["", "{}", '{"token":"x"}', '{"token":{}}', "[]", nested]),
        lambda: f"45{chance.randrange(1, 10**6)}-" + '["a",{"_placeholder":true,"num":0}]',
        lambda: f"46{chance.randrange(99)}-{chance.randrange(99)}[]",
        lambda: "b" + "A" * chance.randrange(100),
        lambda: chance.choice(["2", "2probe", "3", "5", "6", "0", "41", "1"]),
        lambda: "".join(chance.choices(string.printable, k=chance.randrange(200))),
        lambda: '42["join",{"username":"ada"}]',
    ]
    while True:
        yield chance.choice(shapes)()


NAMES = ("join", "send_message", "get_online_users", "connect", "disconnect", "?", "*", "x", "")


def resident(server: ServerProcess) -> int:
    """Bytes of memory that the server has."""
    statm = Path(f"/proc/{server.process.pid}/statm").read_text()
    return int(statm.split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def through_websockets(base: str, packets: Iterator[str], count: int) -> None:
    while count:
        with contextlib.suppress(websockets.ConnectionClosed):
            async with engine(base) as connection:
                await connection.send("40")
                for _ in range(min(count, 40)):
                    packet = next(packets)
                    count -= 1
                    await connection.send(packet.encode() if count % 9 == 0 else packet)
                    if count % 3 == 0:  # else the fifth in a row would be the last
                        await connection.send('42["get_online_users"]')


async def through_polling(base: str, packets: Iterator[str], count: int) -> None:
    url = f"{base}/socket.io/"
    async with aiohttp.ClientSession() as session:

        async def ask(method: str, query: str, data: bytes | None = None) -> str:
            async with session.request(method, f"{url}?EIO=4&{query}", data=data) as response:
                assert response.status in (200, 400, 405, 413)
                return await response.text()

        while count:
            opened = await ask("GET", "transport=polling")
            sid = f"transport=polling&sid={json.loads(opened[1:])['sid']}"
            await ask("POST", sid, b"40")
            for _ in range(min(count, 40)):
                some = [next(packets) for _ in range(random.Random(count).choice([1, 1, 2, 20]))]
                some.append('42["get_online_users"]')
                count -= 1
                if "Bad" in await ask("POST", sid, "\x1e".join(some).encode()):
                    break
            await ask("POST", sid, b"\xff\xfe")
            await ask("POST", sid, b"x" * 900_000)
            await ask("POST", sid, b"1")
            for method, query in (
                ("POST", sid),
                ("GET", sid),
                ("PUT", sid),
                ("DELETE", "transport=polling"),
                ("GET", "transport=websocket"),
                ("GET", "transport=pigeon"),
                ("GET", "transport=polling&j=x"),
                ("GET", "transport=polling&sid=%0ATraceback"),
                ("POST", "transport=polling&sid=none"),
                ("OPTIONS", "transport=polling"),
            ):
                await ask(method, query, b"d=4" if method == "POST" else None)


async def test_two_thousand_hostile_packets_disturb_nobody() -> None:
    async with (
        serving(transports=DOORS) as server,
        joined(server.http, "ada") as ada,
        present(server.urls["ws"], "bob") as bob,
    ):
        packets = hostile(random.Random(5))
        sizes = []
        for round_ in range(4):
            await asyncio.gather(
                through_websockets(server.http, packets, 500),
                through_polling(server.http, packets, 500),
            )
            await bob.do("send", room="lobby", content=f"still here {round_}")
            await ada.emit("send_message", {"content": f"so am I {round_}"})
            said = [f"still here {round_}", f"so am I {round_}"]
            assert await bob.messages(2) == said
            assert [(await ada.ears.next("new_message"))["content"] for _ in said] == said
            sizes.append(resident(server))
        print("resident, MiB:", *(f"{size / 2**20:.1f}" for size in sizes))  # noqa: T201 - a figure
        # The first rounds import, fill caches and warm the allocator; as much again adds nothing.
        assert sizes[-1] - sizes[1] < 3 * 2**20
        assert ada.ears.all("error") == []
        noted = [line for line in server.log if " INFO chat_transports.server" not in line]
        assert len(noted) < 10, noted


async def test_hostile_packets_leave_nothing_behind(caplog: pytest.LogCaptureFixture) -> None:
    chat = Chat(MemoryRepository(), bcrypt_cost=4, limits=Limits(ping=1.0))
    packets = hostile(random.Random(7))
    async with in_process(chat) as base:
        with collector_off():
            await asyncio.gather(
                through_websockets(base, packets, 200), through_polling(base, packets, 200)
            )
            # The engine's monitor keeps hold of the last session that it looked at.
            await eventually(lambda: len(alive(SocketIoLink)) <= 1)

        def sessions() -> int:
            gc.collect()  # the library's own are in circles
            return len(alive(AsyncSocket))

        await eventually(lambda: sessions() <= 1)
        assert len(chat.roster) == 0
    assert [record for record in caplog.records if record.exc_info] == []
