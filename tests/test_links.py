"""Every link keeps the contract, the doors' with real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import uvicorn
import uvloop
import websockets
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket
from websockets.asyncio.client import ClientConnection
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from chat_transports.framed import OUTLET, FramedLink, FramedWire, message
from chat_transports.inbox import FULL, Inbox
from chat_transports.server.frames import Frames
from chat_transports.tcp import TcpLink, listen, open_server, tune
from chat_transports.websocket import WebSocketLink, route
from chatcore import Chat, MemoryRepository
from chatcore.codec import JsonLines
from chatcore.commands import Request
from chatcore.errors import LinkClosed
from chatcore.events import Bye, PingReply
from chatcore.feed import Listener
from chatcore.model import MAX_FRAME, Credentials, Limits
from chatcore.ports import Link
from chatcore.testing import PATIENCE, LinkPeer, MemoryLink, check_link, eventually
from tests import support
from tests.support import alive, collector_off, connected, dial, present

WIRE = JsonLines(Limits())
GOODBYE = b"\x88\x82\0\0\0\0\x03\xe8"
"""A close frame: 1000, masked with nothing."""


class _MemoryPeer:
    def __init__(self, link: MemoryLink) -> None:
        self._link = link

    async def send(self, frame: bytes) -> None:
        self._link.send(frame)

    async def receive(self) -> bytes:
        return await self._link.next()

    async def close(self) -> None:
        self._link.hang_up()


@contextlib.asynccontextmanager
async def memory() -> AsyncIterator[tuple[Link, LinkPeer]]:
    link = MemoryLink(WIRE)
    yield link, _MemoryPeer(link)


@contextlib.asynccontextmanager
async def tcp() -> AsyncIterator[tuple[Link, LinkPeer]]:
    links: list[TcpLink] = []

    def accept() -> TcpLink:
        links.append(TcpLink(Limits(), WIRE, lambda _link, _peer: None))
        return links[-1]

    server = await asyncio.get_running_loop().create_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    peer = await dial(f"tcp://127.0.0.1:{port}")
    try:
        await eventually(lambda: links)
        yield links[0], peer
    finally:
        server.close()
        links[0].close(1000, "")
        await peer.close()
        await links[0].closed()


def websocket() -> AbstractAsyncContextManager[tuple[Link, LinkPeer]]:
    return websocket_link(uvicorn_serving)


def framed() -> AbstractAsyncContextManager[tuple[Link, LinkPeer]]:
    """On our own server."""
    wire = FramedWire(WIRE)
    return websocket_link(
        partial(uvicorn_serving, ws=Frames),
        lambda websocket: FramedLink(wire, websocket.scope["extensions"][OUTLET], silence=60.0),
    )


def asgi_link(websocket: WebSocket) -> WebSocketLink:
    """On any server."""
    return WebSocketLink(websocket, WIRE)


@contextlib.asynccontextmanager
async def websocket_link(
    serving: Callable[[Any], AbstractAsyncContextManager[int]],
    link_on: Callable[[WebSocket], WebSocketLink | FramedLink] = asgi_link,
) -> AsyncIterator[tuple[Link, LinkPeer]]:
    links: list[WebSocketLink | FramedLink] = []

    async def endpoint(websocket: WebSocket) -> None:
        await websocket.accept()
        links.append(link_on(websocket))
        await links[-1].closed()

    app = Starlette(routes=[WebSocketRoute("/ws", endpoint)])
    async with serving(app) as port:
        peer = await dial(f"ws://127.0.0.1:{port}/ws")
        try:
            await eventually(lambda: links)
            yield links[0], peer
        finally:
            links[0].close(1000, "")
            await peer.close()
            await links[0].closed()


@contextlib.asynccontextmanager
async def uvicorn_serving(
    app: Any, ws_max_size: int = MAX_FRAME, *, ws: Any = "websockets-sansio"
) -> AsyncIterator[int]:
    """Serve an ASGI application on a free port, in this process."""
    config = uvicorn.Config(app, ws=ws, ws_max_size=ws_max_size, lifespan="off", log_config=None)
    config.ws_per_message_deflate = False
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as in uvicorn's own
        task = asyncio.create_task(server.serve([listener]))
        await eventually(lambda: server.started)
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await task


async def test_memory_keeps_the_contract() -> None:
    await check_link(memory)


async def test_tcp_keeps_the_contract() -> None:
    await check_link(tcp)


async def test_websocket_keeps_the_contract() -> None:
    await check_link(websocket)


async def test_a_framed_websocket_keeps_the_contract() -> None:
    await check_link(framed)


@contextlib.asynccontextmanager
async def deaf(app_takes: int) -> AsyncIterator[tuple[Frames, ClientConnection]]:
    """A connection of our server's whose application takes so many messages, and no more."""
    outlets: list[Frames] = []
    over = asyncio.Event()

    async def endpoint(websocket: WebSocket) -> None:
        await websocket.accept()
        outlets.append(websocket.scope["extensions"][OUTLET])
        for _ in range(app_takes):
            await websocket.receive()
        await over.wait()

    app = Starlette(routes=[WebSocketRoute("/ws", endpoint)])
    async with uvicorn_serving(app, ws=Frames) as port:
        url = f"ws://127.0.0.1:{port}/ws"
        try:
            async with websockets.connect(url, close_timeout=0.1) as client:
                await eventually(lambda: outlets)
                yield outlets[0], client
        finally:
            over.set()


async def test_a_peer_that_is_not_listened_to_is_not_silent() -> None:
    async with deaf(app_takes=1) as (outlet, client):
        outlet._heard -= 1_000  # noqa: SLF001 - a clock of its own would be one more part
        assert outlet.silent_for() >= 1_000
        for _ in range(3):
            await client.send("{}")
        await eventually(lambda: outlet.read_paused)
        outlet._heard -= 1_000  # noqa: SLF001
        assert outlet.silent_for() == 0


async def test_the_last_ping_is_answered_once_there_is_room() -> None:
    """Else its peer, which has read all by then, would take the server for dead."""
    async with deaf(app_takes=0) as (outlet, client), asyncio.timeout(PATIENCE):
        client.transport.pause_reading()
        _fill(outlet)
        pongs = [await client.ping() for _ in range(3)]
        await client.send("{}")
        await eventually(lambda: outlet.read_paused)  # so the pings have come
        client.transport.resume_reading()
        reading = asyncio.ensure_future(_read_for_ever(client))
        await pongs[-1]
        reading.cancel()
        await asyncio.wait([reading])


def _fill(outlet: Frames) -> None:
    """Write until the transport will have no more for now."""
    while outlet.straight is not None:
        outlet.write(message(b"x" * 60_000 + b"\n"))


async def _read_for_ever(client: ClientConnection) -> None:
    while True:
        await client.recv()


async def test_what_came_before_the_link_is_heard_too() -> None:
    """And what is no text is refused, though its bytes could be read."""
    receiver = Heard()
    async with deaf(app_takes=0) as (outlet, client):
        await client.send('{"cmd":"ping"}')
        await client.send("late")
        await eventually(lambda: outlet.read_paused)
        outlet.listen(receiver)
        await eventually(lambda: receiver.heard == [b'{"cmd":"ping"}', b"late"])
        await client.send(["in ", "parts"])
        await client.send(b'{"cmd":"ping"}')
        await eventually(lambda: receiver.heard[2:] == [b"in parts", "binary"])
        await client.close()
        await eventually(lambda: receiver.heard[4:] == ["gone"])


class Heard:
    def __init__(self) -> None:
        self.heard: list[bytes | str] = []

    def take(self, message: bytes) -> bool:
        self.heard.append(message)
        return True

    def refuse_binary(self) -> None:
        self.heard.append("binary")

    def gone(self) -> None:
        if "gone" not in self.heard:
            self.heard.append("gone")


async def test_a_connection_keeps_nothing_of_its_handshake() -> None:
    """Starlette's WebSocket has the scope, that all headers; its frames alone are 4 KiB."""
    chat = Chat(MemoryRepository(), bcrypt_cost=4)
    async with chat, uvicorn_serving(Starlette(routes=[route(chat)]), ws=Frames) as port:
        with collector_off():  # and what other tests have left behind is gone
            async with present(f"ws://127.0.0.1:{port}/ws", "ada"):
                assert not alive(WebSocket, Credentials)
                (frames,) = alive(Frames)
                assert not {"request", "response"} & {*vars(frames)}


async def test_a_transports_buffer_is_full_where_the_hub_takes_it_for_slow() -> None:
    """Of TLS it would be full at twice the hub's limit, and `drained` say that there is room."""
    async with deaf(app_takes=0) as (outlet, _):
        _, high = outlet.transport.get_write_buffer_limits()
        assert high < Limits().buffer_bytes


async def test_who_says_goodbye_and_takes_nothing_is_let_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("chat_transports.framed.LINGER_SECONDS", 0.1)
    async with framed() as (link, peer):
        assert isinstance(peer, support.Frames)
        peer.websocket.transport.pause_reading()
        while link.pending < MAX_FRAME:
            link.write(link.wire.encode(Bye(4001, "x" * 1_000, reconnect=True)) * 60)
        await peer.websocket.send("{}")
        peer.websocket.transport.write(GOODBYE)
        assert isinstance(link, FramedLink)
        transport = link._outlet.transport  # type: ignore[attr-defined] # noqa: SLF001 - Frames
        await eventually(transport.is_closing)
        await eventually(lambda: not transport.get_write_buffer_size())


async def test_who_says_goodbye_and_takes_nothing_does_not_spoil_the_end() -> None:
    async with deaf(app_takes=0) as (outlet, client):
        client.transport.pause_reading()
        _fill(outlet)
        client.transport.write(GOODBYE)
        await eventually(outlet.transport.is_closing)
        assert outlet.pending
        outlet.shutdown()  # as uvicorn does with all that it has when it ends


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 200_000])
def test_a_frame_is_one_whole_text_message(size: int) -> None:
    """As the library that reads it has it (RFC 6455, section 5.2)."""

    class Plain:
        def decode(self, frame: bytes) -> Request:
            return WIRE.decode(frame)

        def encode(self, item: object) -> bytes:
            return b"x" * size + b"\n"

        def reply(self, answer: object, id: object) -> bytes:
            return b"y" * size + b"\n"

    wire = FramedWire(Plain())
    client = ClientProtocol(parse_uri("ws://localhost/"), state=State.OPEN)
    client.receive_data(wire.encode(Bye(4001, "", reconnect=True)) * 2)
    client.receive_data(wire.reply(PingReply(), 1))
    frames = [event for event in client.events_received() if isinstance(event, Frame)]
    assert [b"x" * size, b"x" * size, b"y" * size] == [bytes(frame.data) for frame in frames]
    assert {(Opcode.TEXT, True)} == {(frame.opcode, frame.fin) for frame in frames}


async def test_a_tcp_line_too_long_comes_cut_and_the_next_one_whole() -> None:
    async with tcp() as (link, peer):
        await peer.send(b"x" * (5 * MAX_FRAME))
        await peer.send(b"next\r")
        assert len(await link.receive()) == MAX_FRAME + 1
        assert await link.receive() == b"next"


async def test_a_tcp_peer_that_half_closes_is_still_answered() -> None:
    async with tcp() as (link, peer):
        await peer.send(b"last words")
        peer._writer.write_eof()  # type: ignore[attr-defined] # noqa: SLF001 - a half-close
        assert await link.receive() == b"last words"
        try:
            await link.receive()
        except LinkClosed:
            link.write(b'"answer"\n')
        link.close(1000, "")
        assert await peer.receive() == b'"answer"\n'


async def test_a_tcp_peer_that_sends_more_than_is_asked_for_is_held_back() -> None:
    async with tcp() as (link, peer):
        line = b"x" * 1_000
        flood = asyncio.ensure_future(_send_for_ever(peer, line))
        assert await link.receive() == line
        await eventually(lambda: not link._transport.is_reading())  # type: ignore[attr-defined] # noqa: SLF001 - nothing else shows it
        for _ in range(2_000):
            assert await link.receive() == line, "and goes on where it was"
        flood.cancel()
        await asyncio.wait([flood])


async def test_a_framed_peer_that_sends_more_than_is_asked_for_is_held_back() -> None:
    """Though what one read has brought is taken."""
    async with framed() as (link, peer):
        flood = asyncio.ensure_future(_send_for_ever(peer, b"x" * 1_000))
        assert isinstance(link, FramedLink)
        outlet = link._outlet  # noqa: SLF001 - nothing else shows it
        for _ in range(2):
            await eventually(lambda: outlet.read_paused)  # type: ignore[attr-defined] # Frames
            held = len(link._inbox._frames)  # noqa: SLF001 - as above
            assert FULL <= held <= FULL + 262
            for _ in range(100):
                await asyncio.sleep(0)
            assert len(link._inbox._frames) == held  # noqa: SLF001 - as above
            for _ in range(held):
                assert await link.receive() == b"x" * 1_000
        flood.cancel()
        await asyncio.wait([flood])


async def test_a_websocket_peer_that_sends_more_than_is_asked_for_is_held_back() -> None:
    async with websocket() as (link, peer):
        flood = asyncio.ensure_future(_send_for_ever(peer, b"x" * 1_000))
        inbox = link._inbox  # type: ignore[attr-defined] # noqa: SLF001 - nothing else shows it
        await eventually(lambda: inbox._paused)  # noqa: SLF001 - as above
        for _ in range(1_000):
            await asyncio.sleep(0)
        assert len(inbox._frames) <= FULL  # noqa: SLF001 - as above
        for _ in range(2_000):
            assert await link.receive() == b"x" * 1_000
        flood.cancel()
        await asyncio.wait([flood])


async def _send_for_ever(peer: LinkPeer, frame: bytes) -> None:
    while True:
        await peer.send(frame)


async def test_the_kernel_is_asked_to_find_out_who_is_gone() -> None:
    async with tcp() as (link, _):
        sock = link._transport.get_extra_info("socket")  # type: ignore[attr-defined] # noqa: SLF001 - nothing else shows it
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            waits = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            assert waits == 2_000 * Limits().ping


async def test_without_uvloop_too_what_is_written_is_sent_at_once() -> None:
    accepted = asyncio.get_running_loop().create_future()

    class Noted(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            sock = transport.get_extra_info("socket")
            accepted.set_result(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            transport.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        tune(listener, Limits().ping)
        async with await open_server(Noted, sock=listener, ssl=None):
            with socket.create_connection(listener.getsockname()):
                assert await accepted == 1


@pytest.mark.parametrize("protocol", ["websockets-sansio", Frames], ids=["asgi", "framed"])
async def test_a_connection_that_ended_leaves_nothing_for_the_collector(protocol: object) -> None:
    """It comes seldom in a server, and until then whatever waited for the peer would wait on."""
    chat = Chat(MemoryRepository(), bcrypt_cost=4)
    async with chat, uvicorn_serving(Starlette(routes=[route(chat)]), ws=protocol) as port:
        server = await listen(chat, port=0)
        lines = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with collector_off():
            for url in (f"ws://127.0.0.1:{port}/ws", lines):
                async with present(url, "ada"):
                    pass
                async with connected(url) as peer:
                    for _ in range(5):
                        await peer.raw(b'{"cmd":"join","room":"x","since":{}}')
                    await peer.goodbye()
            kinds = (WebSocketLink, FramedLink, Frames, WebSocket, TcpLink, Inbox, Listener)
            await eventually(lambda: not alive(*kinds))
        server.close()


@pytest.mark.parametrize(
    "loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)
def test_tcps_door_listens_on_a_unix_socket_too(
    loop: Callable[[], asyncio.AbstractEventLoop], tmp_path: Path
) -> None:
    """Its peers have no address, though a socket may have a name: none is counted."""

    async def run() -> None:
        chat = Chat(MemoryRepository(), limits=Limits(address_connections=1))
        writers: list[asyncio.StreamWriter] = []
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "chat"))
            listener.listen()
            async with chat:
                server = await listen(chat, sock=listener)
                for name in ("one", "other"):
                    peer = socket.socket(socket.AF_UNIX)
                    peer.bind(str(tmp_path / name))
                    peer.connect(str(tmp_path / "chat"))
                    reader, writer = await asyncio.open_unix_connection(sock=peer)
                    async with asyncio.timeout(PATIENCE):
                        assert b'"hello"' in await reader.readline()
                    writers.append(writer)
                for writer in writers:
                    writer.close()
                server.close()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(run())


async def test_a_crowd_that_comes_at_once_waits_to_be_accepted() -> None:
    """Beyond asyncio's own hundred, who comes would be dropped, and try again after a second."""
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as crowd:
        async with await open_server(asyncio.Protocol, sock=listener, ssl=None):
            for _ in range(120):  # while the loop, which this holds, accepts nobody
                crowd.enter_context(socket.create_connection(listener.getsockname(), timeout=0.5))
