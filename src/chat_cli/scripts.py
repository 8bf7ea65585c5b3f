"""What scripts do in a chat: send lines, and follow a room."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import select
import stat
import sys
from collections.abc import Callable, Sequence

from chat_cli.lines import line as shown
from chat_cli.printable import printable
from chat_cli.screen import Plain
from chat_transports.client import connect
from chatcore.codec import JsonLines
from chatcore.errors import ChatError, Invalid, NotMember, TooLarge, Unavailable
from chatcore.events import Durable, Lost, Member, Reset
from chatcore.model import Limits


async def log_in(target: str, username: str, password: str, *, new: bool) -> str:
    """Return the token of a login.  Raises CannotConnect, ChatError."""
    async with connect(target) as chat:
        await (chat.register if new else chat.login)(username, password)
        assert chat.token is not None
        return chat.token


async def log_out(target: str, token: str) -> None:
    """Revoke a token.  Raises CannotConnect, BadCredentials."""
    async with connect(target, token=token) as chat:
        await chat.logout()


async def send(
    target: str, token: str, room: str, text: str | None
) -> Sequence[tuple[int, ChatError]]:
    """Send a text, or each line of standard input; all is stored when this returns.

    Returns the lines that cannot be messages, by number, and why.  Raises ChatError, and
    OSError where standard input cannot be read.
    """
    async with connect(target, token=token) as chat:

        async def say(content: str) -> None:
            try:
                await chat.send(room, content)
            except NotMember:
                await chat.join(room, history=0)
                await chat.send(room, content)
            except Unavailable:
                raise chat.error or Unavailable("The client is closed") from None

        if text is not None:
            await say(text)
            return []
        lines, left_out = Plain(), []
        for number in itertools.count(1):
            line = await lines.line()
            if line is None:
                break
            try:
                if line.strip():
                    await say(line)
            except (Invalid, TooLarge) as error:
                left_out.append((number, error))
        return left_out


async def tail(
    target: str, token: str, room: str, last: int, *, follow: bool, as_json: bool
) -> None:
    """Print a room's newest events, and then each as it comes.

    Returns when nobody can read any more what is printed.  Raises ChatError, and
    BrokenPipeError where that was noticed in printing.
    """
    following = _follow(target, token, room, last, follow=follow, as_json=as_json)
    both = [asyncio.create_task(following), asyncio.create_task(_hung_up())]
    try:
        done, _ = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in both:
            task.cancel()
        await asyncio.gather(*both, return_exceptions=True)


async def _hung_up() -> None:
    """Wait until nobody can read standard output any more; for ever where that cannot be known."""
    hung_up = asyncio.Event()
    out = sys.__stdout__
    if out is not None and _is_pipe(descriptor := out.fileno()):
        loop = asyncio.get_running_loop()

        def look() -> None:
            poll = select.poll()
            poll.register(descriptor, 0)
            if poll.poll(0):  # nothing was asked for, so this is an error or a hangup
                hung_up.set()
            loop.remove_reader(descriptor)

        with contextlib.suppress(NotImplementedError):  # Windows
            # A pipe that is only written to is "readable" once its reader is gone.
            loop.add_reader(descriptor, look)
    await hung_up.wait()


def _is_pipe(descriptor: int) -> bool:
    mode = os.fstat(descriptor).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


async def _follow(
    target: str, token: str, room: str, last: int, *, follow: bool, as_json: bool
) -> None:
    write = _as_json if as_json else _as_text
    async with connect(target, token=token) as chat:
        joined = await chat.join(room, history=last)
        room, epoch, head = joined.room.name, joined.epoch, joined.head
        _print(joined.events, write)
        if not follow:
            return
        async for event in chat:
            match event:
                case _ if isinstance(event, Durable) and event.room == room:
                    head = event.seq
                    _print((event,), write)
                case Reset(joined=again) if event.room == room:
                    known = head if again.epoch == epoch else 0
                    epoch, head = again.epoch, again.head
                    _print([each for each in again.events if each.seq > known], write)
                case Lost(error=error) if event.room == room:
                    raise error
            if isinstance(event, Member) and event.room == room and event.ends:
                me = chat.user
                if me is not None and event.username == me.username:
                    raise NotMember(f"You are no longer in {room}")
        if chat.error is not None:
            raise chat.error


def _print(events: object, write: Callable[[Durable], str | None]) -> None:
    assert isinstance(events, list | tuple)
    for event in events:
        # A newer server may have events that this client has no name for.
        if isinstance(event, Durable) and (line := write(event)) is not None:
            print(line, flush=True)


def _as_json(event: Durable) -> str:
    # Written anew: the codec's own JSON has characters beyond ASCII as they are.
    return json.dumps(json.loads(JsonLines(Limits()).encode(event)), separators=(",", ":"))


def _as_text(event: Durable) -> str | None:
    text = shown(event)
    return None if text is None else printable(text)
