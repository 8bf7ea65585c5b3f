"""One walk through the chat, the same by each way in."""

from __future__ import annotations

import asyncio
import re
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
)
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar

import pytest

from chat_transports.client import connect as connect_from_afar
from chatcore import Chat, ChatError, MemoryRepository, Message, Participant, connect
from chatcore.portal import portal
from chatcore.testing import PATIENCE
from tests.support import PASSWORD, serving
from tests.terminal import Pane, Tmux

T = TypeVar("T")

CLIENT = [sys.executable, "-c", "from chat_cli import main; main()"]


class Someone(Protocol):
    """A person in the chat: what they can do, and what they have seen.

    Whatever is refused raises ChatError, with the words that the person is told.
    """

    async def join(self, room: str) -> None:
        """Be in a room, and see its newest messages."""

    async def leave(self, room: str) -> None: ...

    async def send(self, room: str, text: str) -> None: ...

    async def sees(self, *lines: str) -> None:
        """Return when these are the next messages seen, each as `sender: text`."""

    async def history(self, room: str) -> list[str]: ...

    async def who(self, room: str) -> list[str]: ...

    async def rooms(self) -> list[str]: ...


Enter: TypeAlias = Callable[[str], Awaitable[Someone]]
"""Bring in a new user, who stays until the walk is over."""


async def walk(ada: Someone, bob: Someone) -> None:
    """Talk, miss something, find it, and part.  Somebody else has a private room, the den."""
    # What is private is not there for others, and whoever is out cannot leave.
    with pytest.raises(ChatError, match="There is no such room"):
        await ada.join("den")
    with pytest.raises(ChatError, match="You must join the chat first"):
        await ada.leave("lobby")

    # They meet and talk, and each message is seen once, by both, in one order.
    await ada.join("lobby")
    await bob.join("lobby")
    assert await ada.rooms() == ["lobby"]
    assert await ada.who("lobby") == ["ada", "bob"]
    await ada.send("lobby", "hi, bob ☃")
    await bob.sees("ada: hi, bob ☃")
    await bob.send("lobby", "hi, ada")
    await ada.sees("ada: hi, bob ☃", "bob: hi, ada")
    await bob.sees("bob: hi, ada")

    # bob is away, misses something, and finds it when he is back.
    await bob.leave("lobby")
    with pytest.raises(ChatError, match="You must join the chat first"):
        await bob.leave("lobby")
    await ada.send("lobby", "bob?")
    await ada.sees("ada: bob?")
    assert await ada.who("lobby") == ["ada"]
    await bob.join("lobby")
    await bob.sees("ada: hi, bob ☃", "bob: hi, ada", "ada: bob?")
    await ada.send("lobby", "there you are")
    await bob.sees("ada: there you are")

    # What was said stays.
    said = ["ada: hi, bob ☃", "bob: hi, ada", "ada: bob?", "ada: there you are"]
    assert await bob.history("lobby") == said


class ByProgram:
    """Somebody who is a Participant; `call` is how its methods are called."""

    def __init__(self, chat: Participant, call: Callable[..., Awaitable[Any]]) -> None:
        self._chat = chat
        self._call = call
        self._seen: list[str] = []

    async def join(self, room: str) -> None:
        joined = await self._call(self._chat.join, room)
        self._seen = _lines(joined.events)

    async def leave(self, room: str) -> None:
        await self._call(self._chat.leave, room)

    async def send(self, room: str, text: str) -> None:
        await self._call(self._chat.send, room, text)

    async def sees(self, *lines: str) -> None:
        async with asyncio.timeout(PATIENCE):
            while len(self._seen) < len(lines):
                self._seen += _lines([await self._call(self._chat.__anext__)])
        assert list(lines) == self._seen[: len(lines)]
        del self._seen[: len(lines)]

    async def history(self, room: str) -> list[str]:
        return _lines((await self._call(self._chat.history, room)).messages)

    async def who(self, room: str) -> list[str]:
        return list((await self._call(self._chat.who, room)).online)

    async def rooms(self) -> list[str]:
        return [room.name for room in (await self._call(self._chat.rooms)).rooms]


def _lines(events: Any) -> list[str]:
    return [f"{event.sender}: {event.content}" for event in events if isinstance(event, Message)]


async def directly(function: Callable[..., Awaitable[Any]], *arguments: object) -> Any:
    return await function(*arguments)


@asynccontextmanager
async def in_process() -> AsyncIterator[Enter]:
    async with AsyncExitStack() as stack:
        chat = await stack.enter_async_context(Chat(MemoryRepository(), bcrypt_cost=4))

        async def participant(name: str) -> Participant:
            user = await chat.register(name, PASSWORD)
            return await stack.enter_async_context(connect(chat, user))

        async def enter(name: str) -> Someone:
            return ByProgram(await participant(name), directly)

        await (await participant("cyd")).create("den", kind="private")
        yield enter


@asynccontextmanager
async def from_threads() -> AsyncIterator[Enter]:
    """Each call comes from a thread that has no event loop."""
    async with AsyncExitStack() as stack:
        chat = Chat(MemoryRepository(), bcrypt_cost=4)
        door = await stack.enter_async_context(_in_threads(portal(chat)))

        async def call(function: Callable[..., Awaitable[Any]], *arguments: object) -> Any:
            return await asyncio.to_thread(door.call, function, *arguments)

        async def participant(name: str) -> Participant:
            user = await call(chat.register, name, PASSWORD)
            return await stack.enter_async_context(_in_threads(door.connect(user)))

        async def enter(name: str) -> Someone:
            return ByProgram(await participant(name), call)

        await call(partial((await participant("cyd")).create, "den", kind="private"))
        yield enter


@asynccontextmanager
async def _in_threads(manager: AbstractContextManager[T]) -> AsyncIterator[T]:
    """Enter and leave, from a thread, a context that blocks."""
    value = await asyncio.to_thread(manager.__enter__)
    try:
        yield value
    finally:
        await asyncio.to_thread(manager.__exit__, None, None, None)


@asynccontextmanager
async def from_afar(door: str) -> AsyncIterator[Enter]:
    async with serving() as server, AsyncExitStack() as stack:

        async def participant(name: str) -> Participant:
            client = await stack.enter_async_context(connect_from_afar(server.urls[door]))
            await client.register(name, PASSWORD)
            return client

        async def enter(name: str) -> Someone:
            return ByProgram(await participant(name), directly)

        await (await participant("cyd")).create("den", kind="private")
        yield enter


class AtTheTerminal:
    """Somebody who types, and reads what the terminal shows."""

    def __init__(self, name: str, pane: Pane) -> None:
        self._name = name
        self._pane = pane
        self._seen = 0
        """Messages of the screen that were looked at."""

    async def join(self, room: str) -> None:
        await self._do(f"/join {room}", done=r"\[System\] Online")

    async def leave(self, room: str) -> None:
        await self._do(f"/leave {room}", done=r"\[System\] You are no longer in")

    async def send(self, room: str, text: str) -> None:
        await self._do(text, done=rf"\[..:..\] {self._name}: {re.escape(text)}")

    async def sees(self, *lines: str) -> None:
        end = self._seen + len(lines)
        shown = await self._pane.until(lambda shown: len(_messages(shown)) >= end)
        assert list(lines) == _messages(shown)[self._seen : end]
        self._seen = end

    async def history(self, room: str) -> list[str]:
        # The answers come in order, so what is shown before who is online is the history.
        said = _messages(await self._do("/history", "/users", done=r"\[System\] Online"))
        self._seen += len(said)
        return said

    async def who(self, room: str) -> list[str]:
        shown = await self._do("/users", done=r"\[System\] Online")
        return shown[-1].partition(": ")[2].split(", ")

    async def rooms(self) -> list[str]:
        shown = await self._do("/rooms", "/users", done=r"\[System\] Online")
        return [line.split()[1] for line in shown if line.startswith("* ")]

    async def _do(self, *typed: str, done: str) -> list[str]:
        """Type lines, and return what is shown from then until it is done, or was refused."""
        before = len(await self._pane.lines()) - 1  # the last is where one types
        await self._pane.enter(*typed)

        def end(shown: list[str]) -> int | None:
            for number, line in enumerate(shown[before:-1], before):
                if re.match(done, line) or _refusal(line):
                    return number
            return None

        shown = await self._pane.until(lambda shown: end(shown) is not None)
        last = end(shown)
        assert last is not None
        if refusal := _refusal(shown[last]):
            raise ChatError(refusal)
        return shown[before : last + 1]


def _messages(shown: list[str]) -> list[str]:
    return [line[8:] for line in shown if re.match(r"\[..:..\] ", line)]


def _refusal(line: str) -> str | None:
    """What a line refuses, if it does, and is not the news."""
    news = r"\[System\] (Online|Joined|You are|\w+ joined|\w+ left)"
    return line[9:] if line.startswith("[System] ") and not re.match(news, line) else None


@asynccontextmanager
async def at_terminals() -> AsyncIterator[Enter]:
    """chat-cli, which joins the lobby by itself: whoever enters leaves it first."""
    async with serving() as server, AsyncExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())  # a short path
        tmux = Tmux(Path(directory))
        stack.push_async_callback(tmux.close)

        async def enter(name: str) -> Someone:
            pane = await tmux.open(*CLIENT, "connect", server.urls["ws"], width=100, height=60)
            await pane.until_shown("Choose an option:")
            await pane.enter("1", name, PASSWORD)
            await pane.until(lambda lines: any("Online (" in line for line in lines))
            someone = AtTheTerminal(name, pane)
            await someone.leave("lobby")
            return someone

        async with connect_from_afar(server.urls["ws"]) as cyd:
            await cyd.register("cyd", PASSWORD)
            await cyd.create("den", kind="private")
        yield enter


WAYS: dict[str, Callable[[], AbstractAsyncContextManager[Enter]]] = {
    "in process": in_process,
    "portal": from_threads,
    "ws": partial(from_afar, "ws"),
    "tcp": partial(from_afar, "tcp"),
    "terminal": at_terminals,
}


@pytest.mark.parametrize("way", WAYS)
async def test_a_walk(way: str) -> None:
    async with WAYS[way]() as enter:
        await walk(await enter("ada"), await enter("bob"))
