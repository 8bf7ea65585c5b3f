"""A chat inside a program: two users, one room, and what was said is on the disk."""

import asyncio

from chatcore import Chat, SqliteRepository


async def main() -> None:
    async with Chat(SqliteRepository("chat.db")) as chat:
        ada = await chat.register("ada", "correct horse")
        await chat.join(ada, "lobby")
        await chat.send(ada, "lobby", "Hello, world")
        page = await chat.history(ada, "lobby")
        print([message.content for message in page.messages])


asyncio.run(main())
