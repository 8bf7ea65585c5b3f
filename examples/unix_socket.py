"""A door of one's own: the chat on a Unix socket, one JSON object a line.

    python examples/unix_socket.py

Then `nc -U chat.sock`, in as many terminals as you like, and type:

    {"cmd":"register","id":1,"username":"ada","password":"correct horse"}
    {"cmd":"join","id":2,"room":"lobby"}
    {"cmd":"send","id":3,"room":"lobby","content":"Hello from a Unix socket"}
"""

import asyncio
import contextlib
from asyncio import StreamReader, StreamWriter

from chatcore import Chat, SqliteRepository, serve
from chatcore.errors import LinkClosed
from chatcore.model import MAX_FRAME
from chatcore.ports import Wire


class LineLink:
    """A `chatcore.ports.Link`: a frame is a line."""

    def __init__(self, reader: StreamReader, writer: StreamWriter, wire: Wire) -> None:
        self.wire, self._reader, self._writer = wire, reader, writer

    @property
    def pending(self) -> int:
        return self._writer.transport.get_write_buffer_size()

    async def receive(self) -> bytes:
        with contextlib.suppress(OSError, EOFError, asyncio.LimitOverrunError):
            line = await self._reader.readuntil(b"\n")
            if not self._writer.is_closing():  # after close nothing more is received
                return line.removesuffix(b"\n")
        raise LinkClosed

    def write(self, data: bytes) -> None:
        if not self._writer.is_closing():
            self._writer.write(data)

    async def drained(self) -> None:
        with contextlib.suppress(OSError):
            await self._writer.drain()

    def close(self, code: int, reason: str) -> None:
        self._writer.close()
        # A peer that takes nothing has three seconds, and does not hold up the end.
        asyncio.get_running_loop().call_later(3, self._writer.transport.abort)

    async def closed(self) -> None:
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


async def main() -> None:
    async with Chat(SqliteRepository("unix.db")) as chat:

        async def welcome(reader: StreamReader, writer: StreamWriter) -> None:
            await serve(chat, LineLink(reader, writer, chat.wire))

        server = await asyncio.start_unix_server(welcome, "chat.sock", limit=MAX_FRAME)
        print("Listening on chat.sock")
        try:
            await asyncio.Event().wait()  # until Ctrl+C
        finally:
            server.close()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
