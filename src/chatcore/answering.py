"""What a user asks, answered: for any door, with a connection or without."""

from __future__ import annotations

from typing import assert_never

from chatcore import commands, events
from chatcore.chat import Chat
from chatcore.events import Reply
from chatcore.feed import Listener
from chatcore.model import User


async def answer(
    chat: Chat,
    user: User,
    command: commands.Plain | commands.Durable,
    listener: Listener | None = None,
) -> Reply:
    """Do what a command says, and return its reply; a durable one is durable then.

    `listener` is who hears of a room from now on, where the command is to join it.
    Raises ChatError.
    """
    match command:
        case commands.Profile(display_name):
            return events.ProfileReply(await chat.change_profile(user, display_name=display_name))
        case commands.Rooms(after, limit):
            return await chat.rooms(user, after=after, limit=limit)
        case commands.Create(room, kind, title, topic):
            return events.CreateReply(
                await chat.create(user, room, kind=kind, title=title, topic=topic)
            )
        case commands.Direct(username):
            return events.DirectReply(await chat.direct(user, username))
        case commands.Join(room, since, history):
            return await chat.join(user, room, since=since, history=history, listener=listener)
        case commands.History(room, before, after, around, limit, types):
            return await chat.history(
                user, room, before=before, after=after, around=around, limit=limit, types=types
            )
        case commands.MarkRead(room, seq):
            return await chat.mark_read(user, room, seq)
        case commands.Search(query, room, cursor, limit):
            return await chat.search(user, query, room=room, cursor=cursor, limit=limit)
        case commands.Report(room, seq, reason):
            await chat.report(user, room, seq, reason)
            return events.ReportReply()
        case commands.Reports(room, after, limit):
            return await chat.reports(user, room, after=after, limit=limit)
        case commands.Bans(room, after, limit):
            return await chat.bans(user, room, after=after, limit=limit)
        case commands.Who(room):
            return await chat.who(user, room)
        case commands.Typing(room):
            await chat.typing(user, room)
            return events.TypingReply()
        case commands.Members(room, after, limit):
            return await chat.members(user, room, after=after, limit=limit)
        case _ if isinstance(command, commands.Durable):
            return await chat.settle(user, command)
        case _:
            assert_never(command)
