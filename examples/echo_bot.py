"""A bot over the network: it repeats whatever anybody else says in the lobby.

    ECHO_PASSWORD='correct horse' python examples/echo_bot.py ws://localhost:5050/ws

The first start makes its account.
"""

import asyncio
import contextlib
import os
import sys

from chat_transports.client import connect
from chatcore import Message
from chatcore.errors import Conflict, TooLarge

NAME, PASSWORD = "echo", os.environ["ECHO_PASSWORD"]


async def main(url: str) -> None:
    async with connect(url) as chat:
        try:
            await chat.register(NAME, PASSWORD)
        except Conflict:  # it has an account
            await chat.login(NAME, PASSWORD)
        await chat.join("lobby")
        async for event in chat:
            if isinstance(event, Message) and event.sender != NAME:  # nor answers itself
                with contextlib.suppress(TooLarge):  # it was as long as a message may be
                    await chat.send(event.room, f"{event.sender} said: {event.content}")


with contextlib.suppress(KeyboardInterrupt):
    asyncio.run(main(sys.argv[1]))
