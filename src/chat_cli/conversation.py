"""What a person does in the chat, and what comes meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import textwrap
from collections.abc import Callable, Coroutine, Iterable, Sequence

from chat_cli import slash
from chat_cli.lines import dated
from chat_cli.lines import line as shown
from chat_cli.reading import Reading
from chat_cli.screen import Screen, open_screen
from chat_cli.slash import Misused, Slash
from chat_transports.client import Client, connect
from chatcore.errors import ChatError
from chatcore.events import (
    TYPING_SECONDS,
    Connected,
    Durable,
    Event,
    Lost,
    Member,
    MembershipChanged,
    Message,
    Notice,
    Presence,
    ProfileChanged,
    Reconnecting,
    Reset,
    Resumed,
    Typing,
)
from chatcore.model import INVITED, Room

TYPING_TOLD = 3.0
"""How far apart others are told that one is typing: twice within what it holds for."""
LEAVE_SECONDS = 3
"""How long somebody who leaves waits for what they sent, where the server is silent."""

FOUND = 20
"""Messages that a search shows."""

MENU = ("1. Register", "2. Login", "3. Exit")
USAGE = (
    ("/users", "who is online here"),
    ("/rooms", "the rooms there are"),
    ("/join ROOM", "join a room, or turn to it"),
    ("/leave [ROOM]", "leave a room, this one or another"),
    ("/create ROOM [private]", "make a room that is yours"),
    ("/msg NAME [TEXT]", "talk with one person alone"),
    ("/history [N]", "the newest N messages"),
    ("/search WORDS", "find messages; from:NAME and in:ROOM narrow it"),
    *slash.USAGE,
    ("/whoami", "who you are, and where"),
    ("/name NAME", "change the name that others see too"),
    ("/password", "change your password, not shown"),
    ("/help", "these lines"),
    ("/exit", "leave the chat, as Ctrl+C and Ctrl+D do"),
    ("//text", "send a text that begins with a slash"),
)
WORDS = frozenset(usage.split()[0] for usage, _ in USAGE) | {"/direct"}


async def converse(target: str, room: str, token: str | None) -> int:
    """Lead one person from the menu to their leaving; return an exit status.

    A token skips the menu, and is still good afterwards.  SIGTERM and SIGHUP are ways to
    leave, too.  Raises CannotConnect, BadCredentials, and OSError where standard input
    cannot be read.
    """
    async with connect(target, token=token) as chat:
        screen = open_screen()
        conversation = Conversation(chat, screen, room)
        talk = asyncio.create_task(conversation.talk())
        follow = asyncio.create_task(conversation.follow())
        signals: list[int] = []

        def on_signal(number: int) -> None:
            signals.append(number)
            talk.cancel()

        _on_signals(on_signal)
        try:
            await asyncio.wait((talk, follow), return_when=asyncio.FIRST_COMPLETED)
            if signals:
                screen.say("Goodbye!")
                return 128 + signals[0]
            if talk.done():
                return talk.result()
            talk.cancel()
            await asyncio.wait((talk,))  # which takes the input line away
            follow.result()
            screen.say(f"[System] Disconnected from server: {chat.error}")
            return 1
        except asyncio.CancelledError:
            talk.cancel()
            await asyncio.wait((talk,))
            screen.say("Goodbye!")
            raise
        finally:
            talk.cancel()
            follow.cancel()
            await asyncio.wait((talk, follow))
            screen.close()
            if token is None and chat.token is not None and chat.state == "connected":
                with contextlib.suppress(ChatError, TimeoutError):
                    async with asyncio.timeout(LEAVE_SECONDS):
                        await chat.logout()


def _on_signals(do: Callable[[int], object]) -> None:
    """Have the end of the terminal, or of the system, be told before it is one's own."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(NotImplementedError):  # Windows, which has neither
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, do, number)


class Conversation:
    def __init__(self, chat: Client, screen: Screen, room: str) -> None:
        self._chat = chat
        self._screen = screen
        self._first = room
        self._current = ""
        self._slash = Slash(chat, screen.say)
        self._reading = Reading(chat)
        self._labels: dict[str, str] = {}
        """What a room is called here, where it is not its name: that of two people."""
        self._online: dict[str, set[str]] = {}
        """Of each room joined, in the order of joining."""
        self._heads: dict[str, int] = {}
        """The last seq of each room that was shown."""
        self._typing: dict[tuple[str, str], asyncio.TimerHandle] = {}
        """Who is typing in which room, until that does not hold any more."""
        self._typed_at = -TYPING_TOLD
        """When others were last told that this one is."""
        self._moved = asyncio.Event()
        # What follows a join must not be shown before what the join brings.
        self._order = asyncio.Lock()
        # A line is meant for the room that the commands before it lead to.
        self._turn = asyncio.Lock()
        self._sending: set[asyncio.Future[None]] = set()
        """One for each text under way, done when it is answered."""
        self._away = False
        self._tasks: set[asyncio.Task[None]] = set()

    # Going up.

    async def talk(self) -> int:
        """Log in, join, and send what is typed; return when all of it has been dealt with."""
        if self._chat.user is not None or await self._log_in():
            try:
                await self._join(self._first)
            except ChatError as error:
                self._screen.say(f"[System] {error}")
                return 1
            for each in self._chat.memberships:
                self._hear_of(each.room, each.role, each.unread, each.unread_mentions)
            self._screen.on_typing = self._tell_typing
            try:
                await self._converse()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LEAVE_SECONDS):
                        await self._reading.tell()
            finally:
                await self._reading.close()
                for task in [*self._tasks]:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)
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
            enter = {"1": self._chat.register, "2": self._chat.login}.get(choice.strip())
            if enter is None:
                self._screen.say("Invalid choice. Please enter 1, 2, or 3.")
                continue
            username = await self._screen.ask("Username: ")
            if username is None:
                return False
            password = await self._screen.ask("Password: ", hidden=True)
            if password is None:
                return False
            if self._chat.state != "connected":
                self._tell_away()
            try:
                await enter(username.strip(), password)
                return True
            except ChatError as error:
                self._screen.say(str(error))

    async def _converse(self) -> None:
        while (line := await self._screen.line()) is not None and line.split()[:1] != ["/exit"]:
            asks = line.split() == ["/password"]
            doing = await self._ask_passwords() if asks else self._obey(line)
            if doing is None:
                break
            if self._screen.patient:
                await doing
            else:
                self._start(doing)
        await self._finish()

    async def _finish(self) -> None:
        """Wait for what is under way: as long as a server is there, and else for a moment."""
        late = self._tasks and (await asyncio.wait(self._tasks, timeout=0.3))[1]
        if late:
            self._screen.say("[System] Sending what is not sent yet; Ctrl+C leaves at once")
            _, late = await asyncio.wait(late, timeout=LEAVE_SECONDS)
        while late and self._chat.state == "connected":
            _, late = await asyncio.wait(late, timeout=LEAVE_SECONDS)

    async def _ask_passwords(self) -> Coroutine[None, None, None] | None:
        """Ask for what `/password` needs; return what is then to be done, None to leave.

        Nothing else may be read meanwhile.
        """
        answers: list[str] = []
        for question in ("Old password: ", "New password: ", "The new one again: "):
            answer = await self._screen.ask(question, hidden=True)
            if answer is None:
                return None
            answers.append(answer)
        old, new, again = answers
        if new != again:
            return self._tell_unchanged("The new passwords differ")
        everywhere = await self._screen.ask("End your other logins? (y/N) ")
        if everywhere is None:
            return None
        return self._change_password(old, new, everywhere.strip().lower() in ("y", "yes"))

    async def _tell_unchanged(self, why: str) -> None:
        self._screen.say(f"[System] {why}. Your password is as it was")

    async def _change_password(self, old: str, new: str, end_others: bool) -> None:
        try:
            await self._chat.change_password(old, new, end_others=end_others)
        except ChatError as error:
            await self._tell_unchanged(str(error))
        else:
            others = "; your other logins have ended" if end_others else ""
            self._screen.say(f"[System] Your password is changed{others}")

    def _start(self, doing: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(doing)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _obey(self, line: str) -> None:
        try:
            if not line.strip():
                self._screen.say("Message cannot be empty")
            elif line.startswith("/") and not line.startswith("//"):
                async with self._turn:
                    await self._command(line)
            else:
                async with self._turn:
                    room = self._current
                await self._send(room, line.removeprefix("/"))
        except ChatError as error:
            self._screen.say(f"[System] {error}")
        except Misused as error:
            self._screen.say(str(error))

    async def _command(self, line: str) -> None:
        say, chat = self._screen.say, self._chat
        word, *arguments = line.split()
        match (word, *arguments):
            case ("/help",):
                for usage, text in USAGE:
                    say(f"{usage:<30}{text}")
            case ("/users",) | ("/leave",) | ("/history",) | ("/history", _) if not self._current:
                say("You are in no room: /join one")
            case _ if word in slash.WORDS:
                if not self._current:
                    raise Misused("You are in no room: /join one")
                rest = line.strip().removeprefix(word)
                room = self._current
                if self._sending:  # one of them may be the last message, which this is about
                    await asyncio.wait([*self._sending])
                await self._shown(room, await self._slash.obey(room, word, rest.strip()))
            case ("/users",):
                await self._who(self._current)
            case ("/rooms",):
                after, complete = None, False
                while not complete:
                    page = await chat.rooms(after=after)
                    for each in page.rooms:
                        after = each.name
                        mark = "*" if each.name in self._online else " "
                        mark = "?" if each.role == INVITED else mark
                        label = self._label(each)
                        title = each.title if label == each.name else ""
                        say(f"{mark} {label}  {title}".rstrip())
                    complete = page.complete or not page.rooms
            case ("/join", room) if self._named(room) in self._online:
                self._turn_to(self._named(room))
            case ("/join", room):
                await self._join(self._named(room))
            case ("/create", room) | ("/create", room, "private" | "public"):
                kind = arguments[1] if len(arguments) > 1 else "public"
                await self._join((await chat.create(room, kind=kind)).name)
            case ("/direct", name) | ("/msg", name):
                room = await self._pair(name)
                if room in self._online:
                    self._turn_to(room)
                else:
                    await self._join(room)
            case ("/msg", name, _, *_):
                room = await self._pair(name)
                await self._listen(room)
                await self._send(room, line.split(maxsplit=2)[2])
            case ("/leave",) | ("/leave", _):
                room = self._named(arguments[0]) if arguments else self._current
                await chat.leave(room)
                self._drop(room)
            case ("/history",) | ("/history", _):
                number = arguments[0] if arguments else "20"
                if not (number.isdecimal() and len(number) < 10 and int(number)):
                    say("/history takes a number, 1 or more")
                    return
                page_ = await chat.history(self._current, limit=int(number))
                self._show_all(page_.messages)
            case ("/search", _, *_):
                await self._search(line.split(maxsplit=1)[1])
            case ("/whoami",):
                me = chat.user
                name = me.username if me else "nobody"
                rooms = ", ".join(self._labels.get(room, room) for room in self._online)
                say(f"[System] You are {name}, in {rooms or 'no room'}")
            case ("/name", _, *_):
                user = await chat.change_profile(display_name=" ".join(arguments))
                say(f"[System] You are shown as {user.display_name}")
            case _ if word in WORDS:
                raise Misused(f"{word} is not used like that: /help says how")
            case _:
                say(f"There is no command {word}: /help lists them, and /{word} sends it as text")

    async def _search(self, text: str) -> None:
        found = await self._chat.search(text, limit=FOUND)
        me = self._chat.user.username if self._chat.user else ""
        for message in reversed(found.messages):
            label = self._labels.get(message.room, message.room)
            where, about = (
                "" if message.room == self._current else label,
                self._slash.about(message),
            )
            self._screen.say(dated(message, where, me=me, about=about))
        if found.next is not None:
            self._screen.say(f"[System] These are the newest {FOUND}; say more to find others")
        elif not found.messages:
            self._screen.say("[System] Nothing was found")

    async def _join(self, room: str) -> None:
        async with self._order:
            joined = await self._chat.join(room)
            name = joined.room.name
            label = self._label(joined.room)
            self._online.setdefault(name, set())
            self._heads[name] = joined.head
            self._turn_to(name)
            self._show_all(joined.events)
            if joined.unread:
                self._reading.shown(name, joined.head)
        me = self._chat.user
        as_me = f" as {me.username}" if me else ""
        self._screen.say(f"[System] Joined {label}{as_me}; /help lists the commands")
        await self._who(name)

    async def _pair(self, name: str) -> str:
        """Return the room of this user and another."""
        room = await self._chat.direct(name.removeprefix("@"))
        self._label(room)
        return room.name

    async def _listen(self, room: str) -> None:
        """Hear what is said in a room without turning to it."""
        async with self._order:
            if room not in self._online:
                joined = await self._chat.join(room, history=0)
                self._label(joined.room)
                self._online[room] = set()
                self._heads[room] = joined.head

    def _hear_of(
        self, room: Room, role: str | None, unread: int = 0, unread_mentions: int = 0
    ) -> None:
        """Somebody has invited this user, or opened a room for the two of them."""
        label = self._label(room)
        if role == INVITED:
            self._screen.say(f"[System] You are invited to {label}: /join {label}")
        elif room.kind == "direct" and role is not None and room.name not in self._online:
            if unread:
                name = label.removeprefix("@")
                messages = "1 message" if unread == 1 else f"{unread} messages"
                self._screen.say(f"[System] {label} has {messages} for you: /msg {name}")
            self._start(self._hear(room.name))
        elif unread_mentions and room.name not in self._online:
            messages = "1 message" if unread_mentions == 1 else f"{unread_mentions} messages"
            self._screen.say(f"[System] {label} has {messages} for you: /join {label}")

    async def _hear(self, room: str) -> None:
        with contextlib.suppress(ChatError):  # it may have been left again
            await self._listen(room)

    def _label(self, room: Room) -> str:
        """Return what a room is called here: by the other's name, where it is of two people."""
        if room.kind != "direct":
            return room.name
        me = self._chat.user.username if self._chat.user else ""
        other = next((name for name in room.title.split(", ") if name != me), room.name)
        return self._labels.setdefault(room.name, f"@{other}")

    def _named(self, label: str) -> str:
        """Return the room that is called so here."""
        return next((room for room, other in self._labels.items() if other == label), label)

    async def _who(self, room: str) -> None:
        reply = await self._chat.who(room)
        if room in self._online:
            self._online[room] = set(reply.online)
        self._screen.say(f"[System] Online ({reply.count}): {', '.join(reply.online)}")

    async def _refresh(self, room: str) -> None:
        """Learn who is online now: nothing tells who came and went meanwhile."""
        with contextlib.suppress(ChatError):
            reply = await self._chat.who(room)
            if room in self._online:
                self._online[room] = set(reply.online)

    def _tell_typing(self, text: str) -> None:
        now = asyncio.get_running_loop().time()
        hello = self._chat.hello
        if (
            text.strip()
            and (not text.startswith("/") or text.startswith("//"))
            and self._current
            and now >= self._typed_at + TYPING_TOLD
            and self._chat.state == "connected"
            and hello is not None
            and "typing" in hello.features
        ):
            self._typed_at = now
            self._start(self._type(self._current))

    async def _type(self, room: str) -> None:
        with contextlib.suppress(ChatError):  # a hint, which nobody waits for
            await self._chat.typing(room)

    async def _send(self, room: str, text: str) -> None:
        """Send a message; where lines are waited for, return when it has been shown."""
        if not room:
            self._screen.say("You are in no room: /join one")
            return
        unsent = f"Not sent: {textwrap.shorten(text, 60, placeholder='…')}"
        answered = asyncio.get_running_loop().create_future()
        self._sending.add(answered)
        try:
            reply = await self._chat.send(room, text)
            self._slash.sent(reply, text)
        except ChatError as error:
            self._screen.say(f"[System] {error}. {unsent}")
            return
        except asyncio.CancelledError:
            self._screen.say(f"[System] {unsent}")
            raise
        finally:
            self._sending.remove(answered)
            answered.set_result(None)
        await self._shown(room, reply.seq)

    async def _shown(self, room: str, seq: int) -> None:
        """Where lines are waited for, return when an event has been shown."""
        while self._screen.patient and self._heads.get(room, seq) < seq:
            self._moved.clear()
            await self._moved.wait()

    # Coming down.

    async def follow(self) -> None:
        """Show what comes, until the client will not come back."""
        async for event in self._chat:
            if isinstance(event, Reconnecting | Connected):
                self._show(event)
            else:
                async with self._order:
                    self._show(event)

    def _show_all(self, events: Iterable[object]) -> None:
        for event in events:
            if isinstance(event, Durable):  # and no newer server's
                self._tell(event)

    def _show(self, event: Event | Notice) -> None:
        say = self._screen.say
        me = self._chat.user.username if self._chat.user else ""
        match event:
            case Member(username=name) if name == me and event.ends:
                self._tell(event)
                # Not where this comes late, and the room has been joined again since.
                if event.seq > self._heads.get(event.room, 0):
                    self._drop(event.room)
            case _ if isinstance(event, Durable):
                self._tell(event)
                if isinstance(event, Message) and event.sender != me:
                    self._reading.shown(event.room, event.seq)
            case MembershipChanged(room=room, role=role):
                self._hear_of(room, role)
            case ProfileChanged(username=name, display_name=display_name) if name != me:
                say(f"[System] {name} is shown as {display_name}")
            case Typing(room=room, username=name):
                self._types(room, name)
            case Presence():
                self._presence(event, me)
            case Reconnecting(reason=reason) if self._chat.user is not None:
                # Whoever is at the menu yet is told when it matters.
                self._tell_away(reason)
            case Connected() if self._away:
                self._away = False
                say("[System] Connected again")
            case Resumed(room=room):
                self._start(self._refresh(room))
            case Reset(room=room, joined=joined):
                say(f"[System] {room} could not go on where it was; this is the newest")
                self._slash.forget(room)
                self._show_all(joined.events)
                self._heads[room] = joined.head
                self._start(self._refresh(room))
            case Lost(room=room, error=error):
                say(f"[System] {error}")
                self._drop(room)
        if isinstance(event, Member) and event.ends:
            self._types_no_more(event.room, event.username)
        if isinstance(event, Message):
            self._types_no_more(event.room, event.sender)
            self._typed_at = -TYPING_TOLD if event.sender == me else self._typed_at
        if isinstance(event, Durable):
            self._heads[event.room] = max(event.seq, self._heads.get(event.room, 0))
        self._moved.set()

    def _tell_away(self, reason: str = "the connection was lost") -> None:
        if not self._away:
            self._away = True
            self._screen.say(f"[System] Disconnected from server: {reason}; trying again")

    def _tell(self, event: Durable) -> None:
        me = self._chat.user.username if self._chat.user else ""
        about = self._slash.about(event)
        self._slash.note(event)
        where = self._labels.get(event.room, event.room)
        text = shown(event, "" if event.room == self._current else where, me=me, about=about)
        if text is not None:
            self._screen.say(text)

    def _presence(self, event: Presence, me: str) -> None:
        before = self._online.get(event.room)
        if before is None or event.online is None:
            return
        came: Sequence[str] = event.online
        # As many names as there are people: these are all of them.
        everyone = len(came) == event.count
        now = set(came) if everyone else before - set(event.offline or ()) | set(came)
        label = self._labels.get(event.room, event.room)
        where = "" if event.room == self._current else f" {label}"
        for name in sorted(now - before - {me}):
            self._screen.say(f"[System] {name} joined{where}")
        for name in sorted(before - now - {me}):
            self._screen.say(f"[System] {name} left{where}")
        self._online[event.room] = now

    def _types(self, room: str, name: str) -> None:
        before = self._typing.pop((room, name), None)
        if before is not None:
            before.cancel()
        self._typing[room, name] = asyncio.get_running_loop().call_later(
            TYPING_SECONDS, self._types_no_more, room, name
        )
        self._note_typing()

    def _types_no_more(self, room: str, name: str) -> None:
        timer = self._typing.pop((room, name), None)
        if timer is not None:
            timer.cancel()
            self._note_typing()

    def _note_typing(self) -> None:
        here = [name for room, name in self._typing if room == self._current]
        match here:
            case []:
                self._screen.note("")
            case [name]:
                self._screen.note(f"{name} is typing")
            case _:
                self._screen.note(f"{len(here)} are typing")

    def _turn_to(self, room: str) -> None:
        self._current = room
        self._screen.turn_to(self._labels.get(room, room))
        self._note_typing()

    def _drop(self, room: str) -> None:
        if self._online.pop(room, None) is None:
            return
        self._heads.pop(room, None)
        self._reading.forget(room)
        self._slash.forget(room)
        self._screen.say(f"[System] You are no longer in {self._labels.get(room, room)}")
        if room == self._current:
            self._turn_to(next(reversed(self._online), ""))
