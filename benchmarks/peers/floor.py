"""The least that Python can do: a WebSocket's frame made once and given to each transport.

No framework, no rooms, no log: python -m benchmarks.peers.floor PORT
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import sys
from typing import cast

import orjson

from benchmarks.server import loop_factory
from chat_transports.framed import message

MEMBERS: dict[Member, None] = {}


class Member(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.write = self.transport.write
        self.rest = b""
        self.open = False

    def data_received(self, data: bytes) -> None:
        self.rest += data
        if not self.open and b"\r\n\r\n" in self.rest:
            head, _, self.rest = self.rest.partition(b"\r\n\r\n")
            key = next(
                line[19:] for line in head.split(b"\r\n") if line[:18] == b"Sec-WebSocket-Key:"
            )
            digest = hashlib.sha1(key.strip() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
            self.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: %b\r\n\r\n" % base64.b64encode(digest)
            )
            self.open = True
            MEMBERS[self] = None
        while self.open and len(self.rest) >= 6:
            size, start = self.rest[1] & 127, 6
            if size == 126:
                size, start = int.from_bytes(self.rest[2:4]), 8
            if len(self.rest) < start + size:
                return
            mask = self.rest[start - 4 : start] * (size // 4 + 1)
            text = bytes(a ^ b for a, b in zip(self.rest[start : start + size], mask, strict=False))
            self.rest = self.rest[start + size :]
            tell(text)

    def connection_lost(self, exc: Exception | None) -> None:
        MEMBERS.pop(self, None)


def tell(text: bytes) -> None:
    said = {"event": "message", "room": "lobby", "content": orjson.loads(text)["content"]}
    frame = message(orjson.dumps(said, option=orjson.OPT_APPEND_NEWLINE))
    for member in MEMBERS:
        member.write(frame)


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Member, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(serve(int(sys.argv[1])))
