"""The WebSocket door inside a host's own application."""

from __future__ import annotations

import logging

import pytest
import websockets
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient
from websockets.asyncio.client import connect

from chat_transports import websocket
from chatcore import Chat, Credentials, MemoryRepository, User
from tests.support import PASSWORD, connected
from tests.test_links import uvicorn_serving


async def test_mounted_under_any_prefix() -> None:
    chat = Chat(MemoryRepository(), bcrypt_cost=4)
    host = Starlette(routes=[Mount("/a", Mount("/b", websocket.app(chat)))])
    async with (
        chat,
        uvicorn_serving(host) as port,
        connected(f"ws://127.0.0.1:{port}/a/b/ws") as ada,
    ):
        await ada.do("register", username="ada", password=PASSWORD)
        await ada.do("join", room="lobby")
        assert (await ada.do("send", room="lobby", content="hi"))["seq"] == 2


async def test_a_route_beside_a_hosts_own_with_the_hosts_users() -> None:
    class Sessions:
        async def authenticate(self, credentials: Credentials) -> User | None:
            assert credentials.peer == "127.0.0.1"
            assert "user-agent" in credentials.headers
            name = credentials.cookies.get("session")
            return User(name, name.title()) if name else None

    chat = Chat(MemoryRepository(), authenticator=Sessions(), bcrypt_cost=4)

    async def home(_: Request) -> PlainTextResponse:
        return PlainTextResponse("home")

    host = Starlette(routes=[Route("/", home), websocket.route(chat, "/chat")])
    async with chat, uvicorn_serving(host) as port:
        url = f"ws://127.0.0.1:{port}/chat"
        async with connect(url, additional_headers={"Cookie": "session=ada"}) as socket:
            assert '"user":{"username":"ada","display_name":"Ada"}' in str(await socket.recv())


async def test_a_chat_that_was_not_started_says_so_in_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    chat = Chat(MemoryRepository())
    async with uvicorn_serving(websocket.app(chat)) as port:
        with pytest.raises(websockets.InvalidStatus) as refused:
            await connect(f"ws://127.0.0.1:{port}/ws")
    assert refused.value.response.status_code == 503
    assert b"not running: enter it first" in bytes(refused.value.response.body or b"")
    ours = [record for record in caplog.records if record.name.startswith("chat")]
    assert [(record.levelno, record.exc_info) for record in ours] == [(logging.ERROR, None)]


def test_a_lifespan_starts_and_ends_it_and_another_asgi_server_serves_it() -> None:
    """Starlette's test client is one: it has neither uvicorn's protocol nor a socket."""
    chat = Chat(MemoryRepository(), bcrypt_cost=4)
    host = Starlette(routes=[websocket.route(chat)], lifespan=websocket.lifespan(chat))
    with TestClient(host) as client, client.websocket_connect("/ws") as socket:
        assert "hello" in socket.receive_json()
        socket.send_json({"cmd": "register", "id": 1, "username": "ada", "password": PASSWORD})
        assert socket.receive_json()["reply"] == "register"
        socket.send_json({"cmd": "join", "id": 2, "room": "lobby"})
        assert socket.receive_json()["event"] == "membership"
        assert socket.receive_json()["head"] == 1
    assert chat.closing
