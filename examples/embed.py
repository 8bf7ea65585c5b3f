"""A chat inside a program: a user, a room, and what was said is on the disk.

    python examples/embed.py

Run it again: the room's log is in chat.db, and goes on.
"""

import asyncio

from chatcore import Chat, SqliteRepository, User


async def main() -> None:
    async with Chat(SqliteRepository("chat.db")) as chat:
        ada = await chat.introduce(User("ada", "Ada"))
        await chat.join(ada, "lobby")
        await chat.send(ada, "lobby", "Hello, world")
        page = await chat.history(ada, "lobby")
        print([message.content for message in page.messages])


asyncio.run(main())
