"""What a person does in the chat, and what comes meanwhile."""

from __future__ import annotations

import asyncio
import secrets
import textwrap
from datetime import datetime

from chat_cli.screen import Screen, open_screen
from chat_cli.wire import Frame, Refused, Wire, dial

LEAVE_SECONDS = 3
"""How long somebody who leaves waits for what they sent, where the server is silent."""

MENU = ("1. Register", "2. Login", "3. Exit")
HELP = (
    "/users  who is online",
    "/help   these lines",
    "/exit   leave, as Ctrl+C and Ctrl+D do",
    "//text  send a text that begins with a slash",
)


async def converse(target: str, room: str) -> int:
    """Lead one person from the menu to their leaving; return an exit status.

    Raises CannotConnect.
    """
    wire = await dial(target)
    screen = open_screen()
    conversation = Conversation(wire, screen, room)
    talk = asyncio.create_task(conversation.talk())
    follow = asyncio.create_task(conversation.follow())
    try:
        await asyncio.wait((talk, follow), return_when=asyncio.FIRST_COMPLETED)
        if talk.done():
            return talk.result()
        talk.cancel()
        await asyncio.wait((talk,))  # which takes the input line away
        await follow
        why = f": {wire.farewell}" if wire.farewell else ""
        screen.say(f"[System] Disconnected from server{why}")
        return 1
    finally:
        screen.close()
        await wire.close()


class Conversation:
    def __init__(self, wire: Wire, screen: Screen, room: str) -> None:
        self._wire = wire
        self._screen = screen
        self._room = room
        self._me = ""
        self._online: set[str] = set()
        self._head = 0
        """The last seq that was shown."""
        self._moved = asyncio.Event()

    # Going up.

    async def talk(self) -> int:
        """Log in, join, and send what is typed; return when all of it has been dealt with."""
        try:
            if await self._log_in():
                await self._wire.request("join", room=self._room)
                await self._wire.request("who", room=self._room)
                await self._chat()
        except Refused as error:
            self._screen.say(f"[System] {error}")
            return 1
        self._screen.say("Goodbye!")
        return 0

    async def _log_in(self) -> bool:
        """Go round the menu until somebody is logged in, or wants to leave."""
        while True:
            for item in MENU:
                self._screen.say(item)
            choice = await self._screen.ask("Choose an option: ")
            if choice is None or choice.strip() == "3":
                return False
            cmd = {"1": "register", "2": "login"}.get(choice.strip())
            if cmd is None:
                self._screen.say("Invalid choice. Please enter 1, 2, or 3.")
                continue
            username = await self._screen.ask("Username: ")
            if username is None:
                return False
            password = await self._screen.ask("Password: ", hidden=True)
            if password is None:
                return False
            try:
                await self._wire.request(cmd, username=username.strip(), password=password)
                return True
            except Refused as error:
                self._screen.say(str(error))

    async def _chat(self) -> None:
        unanswered: set[asyncio.Task[None]] = set()
        while (line := await self._screen.line()) is not None and line.split()[:1] != ["/exit"]:
            if self._screen.patient:
                await self._obey(line)
            else:
                task = asyncio.create_task(self._obey(line))
                unanswered.add(task)
                task.add_done_callback(unanswered.discard)
        if unanswered:
            await asyncio.wait(unanswered, timeout=LEAVE_SECONDS)

    async def _obey(self, line: str) -> None:
        if not line.strip():
            self._screen.say("Message cannot be empty")
        elif line.startswith("/") and not line.startswith("//"):
            await self._command(line.split(maxsplit=1)[0])
        else:
            await self._send(line.removeprefix("/"))

    async def _command(self, word: str) -> None:
        match word:
            case "/help":
                for item in HELP:
                    self._screen.say(item)
            case "/users":
                try:
                    await self._wire.request("who", room=self._room)
                except Refused as error:
                    self._screen.say(f"[System] {error}")
            case _:
                self._screen.say(
                    f"There is no command {word}: /help lists them, and /{word} sends it as text"
                )

    async def _send(self, text: str) -> None:
        """Send a message, and return when it has been shown."""
        txn_id = secrets.token_hex(8)
        while True:
            try:
                reply = await self._wire.request(
                    "send", room=self._room, content=text, txn_id=txn_id
                )
            except Refused as error:
                if not self._screen.patient or error.retry_after is None:
                    unsent = textwrap.shorten(text, 60, placeholder="…")
                    self._screen.say(f"[System] {error}. Not sent: {unsent}")
                    return
                await asyncio.sleep(error.retry_after)
            else:
                while self._head < reply["seq"]:
                    self._moved.clear()
                    await self._moved.wait()
                return

    # Coming down.

    async def follow(self) -> None:
        """Show what comes, until the connection ends."""
        async for frame in self._wire.frames():
            self._show(frame)

    def _show(self, frame: Frame) -> None:
        say = self._screen.say
        match frame:
            case {"reply": "register" | "login", "user": {"username": str(me)}}:
                self._me = me
            case {"reply": "join", "room": {"name": str(name)}, "head": int(head)}:
                self._room, self._head = name, head
                for event in frame.get("events", ()):
                    self._show(event)
                say(f"[System] Joined {name} as {self._me}; /help lists the commands")
            case {"reply": "who", "online": list(online), "count": int(count)}:
                self._online = set(online)
                say(f"[System] Online ({count}): {', '.join(online)}")
            case {
                "event": "message",
                "sender": str(sender),
                "content": str(content),
                "timestamp": str(timestamp),
            }:
                say(f"[{_clock(timestamp)}] {sender}: {content}")
            case {
                "event": "presence",
                "online": list(came),
                "offline": list(went),
                "count": int(count),
            }:
                # As many names as there are people: these are all of them.
                now = set(came) if len(came) == count else self._online - set(went) | set(came)
                for name in sorted(now - self._online - {self._me}):
                    say(f"[System] {name} joined")
                for name in sorted(self._online - now - {self._me}):
                    say(f"[System] {name} left")
                self._online = now
            case {"event": "member", "username": self._me, "action": "leave" | "kick" | "ban"}:
                say(f"[System] You are no longer in {self._room}")
            case {"error": {"message": str(message)}} if "id" not in frame:
                say(f"[System] {message}")
        if "event" in frame and isinstance(seq := frame.get("seq"), int):
            self._head = max(self._head, seq)
            self._moved.set()


def _clock(timestamp: str) -> str:
    try:
        return f"{datetime.fromisoformat(timestamp).astimezone():%H:%M}"
    except (ValueError, OverflowError):
        return "--:--"
