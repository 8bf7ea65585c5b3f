"""What has been shown, told to the server as read: every few seconds, and not for each message."""

from __future__ import annotations

import asyncio
import contextlib

from chat_transports.client import Client
from chatcore.errors import ChatError

EVERY_SECONDS = 2.0
"""Between what is shown and what is told of it; much that comes meanwhile is told as one."""


class Reading:
    def __init__(self, chat: Client) -> None:
        self._chat = chat
        self._shown: dict[str, int] = {}
        """Of each room what was shown and is not told yet."""
        self._telling: asyncio.Task[None] | None = None

    def shown(self, room: str, seq: int) -> None:
        """Note that a message of somebody else was shown."""
        self._shown[room] = max(seq, self._shown.get(room, 0))
        if self._telling is None or self._telling.done():
            self._telling = asyncio.create_task(self._tell_soon())

    def forget(self, room: str) -> None:
        """Tell nothing more of a room."""
        self._shown.pop(room, None)

    async def _tell_soon(self) -> None:
        await asyncio.sleep(EVERY_SECONDS)
        await self.tell()

    async def tell(self) -> None:
        """Tell what is not told yet, and return when the server has it."""
        while self._shown:
            room, seq = self._shown.popitem()
            with contextlib.suppress(ChatError):  # no longer a member, say
                await self._chat.mark_read(room, seq)

    async def close(self) -> None:
        """End, with what was not told left untold."""
        if self._telling is not None:
            self._telling.cancel()
            await asyncio.wait([self._telling])
