"""Where a person reads and types: a terminal, or plain lines.

Either prints an entry, made `printable`, with `say`, which returns at once.  `ask`
and `line` return what was typed, or None for the wish to leave.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import os
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, TypeAlias

from chat_cli.printable import hidden_characters, printable, wrapped

if TYPE_CHECKING:
    from prompt_toolkit.buffer import Buffer

LINES_AHEAD = 100
"""Of a pipe, read before they are wanted."""


class Terminal:
    """An input line at the bottom; what is said stands above it and scrolls away."""

    patient = False

    on_typing: Callable[[str], object] = staticmethod(lambda _: None)
    """Is called with what stands in the input line, whenever it has changed."""

    def __init__(self) -> None:
        from prompt_toolkit import PromptSession  # a pipe never pays for it
        from prompt_toolkit.application import run_in_terminal
        from prompt_toolkit.history import DummyHistory
        from prompt_toolkit.layout.screen import Char
        from prompt_toolkit.output import DummyOutput
        from prompt_toolkit.utils import is_dumb_terminal

        self._run_in_terminal = run_in_terminal
        # What is pasted is text from elsewhere too; the library knows of C0 and C1 alone.
        Char.display_mappings.update(hidden_characters())
        # Where the cursor cannot be moved, it would show what is typed, hidden or not.
        self._hidden: PromptSession[str] | None = None
        if is_dumb_terminal():
            self._hidden = PromptSession(history=DummyHistory(), output=DummyOutput())
        # Without it, the up arrow would bring back a password, and show it.
        self._questions: PromptSession[str] = PromptSession(history=DummyHistory())
        # A message that was typed is taken away: it comes back as an event.
        self._prompt = "> "
        self._aside = ""
        self._chat: PromptSession[str] = PromptSession(
            lambda: self._prompt, rprompt=lambda: self._aside, erase_when_done=True
        )
        self._chat.default_buffer.on_text_changed += self._text_changed
        self._unsaid: list[str] = []
        # What is typed between two questions is for the next one, a password perhaps.
        self._restore = _without_echo()

    async def ask(self, question: str, *, hidden: bool = False) -> str | None:
        self.flush()  # now, while there is no input line: later it may come below the question
        with contextlib.suppress(KeyboardInterrupt, EOFError):
            if hidden and self._hidden is not None:
                self.say(question)
                return await self._hidden.prompt_async()
            return await self._questions.prompt_async(question, is_password=hidden)
        return None

    async def line(self) -> str | None:
        with contextlib.suppress(KeyboardInterrupt, EOFError):
            return await self._chat.prompt_async()
        return None

    def turn_to(self, room: str) -> None:
        """Have the input line show in which room it is."""
        self._prompt = printable(f"{room}> ")
        self._chat.app.invalidate()

    def _text_changed(self, buffer: Buffer) -> None:
        self.on_typing(buffer.text)

    def note(self, aside: str) -> None:
        """Have this stand at the right of the input line, as long as there is room for it."""
        self._aside = printable(aside)
        self._chat.app.invalidate()

    def say(self, text: str) -> None:
        # Not patch_stdout: its thread may write between two input lines, and then onto one.
        self._unsaid.append(printable(text))
        if len(self._unsaid) == 1:
            self._saying = self._run_in_terminal(self.flush)

    def flush(self) -> None:
        """Print what was said and is not there yet."""
        if self._unsaid:
            width = self._chat.app.output.get_size().columns
            unsaid, self._unsaid = self._unsaid, []
            with contextlib.suppress(OSError):  # the terminal is gone
                print("\n".join(wrapped(text, width) for text in unsaid), flush=True)

    def close(self) -> None:
        """Leave the terminal as it was found."""
        self.flush()
        self._restore()


class Plain:
    """Lines in, lines out, nothing redrawn: for pipes and scripts.  Made on the event loop.

    `line` and `ask` raise OSError where standard input cannot be read.
    """

    on_typing: Callable[[str], object] = staticmethod(lambda _: None)
    """Is never called: a line is there at once."""

    patient = True
    """A line may wait until the one before it has been dealt with."""

    def __init__(self) -> None:
        self._lines: asyncio.Queue[str | OSError | None] = asyncio.Queue()
        self._room = threading.Semaphore(LINES_AHEAD)
        # A thread, since a loop cannot wait for a file; a daemon, since nothing can end
        # its reading.
        reading = threading.Thread(
            target=self._read, args=(asyncio.get_running_loop(),), daemon=True
        )
        reading.start()

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            try:
                for line in _stdin():
                    self._room.acquire()
                    loop.call_soon_threadsafe(self._lines.put_nowait, line.removesuffix("\n"))
            except OSError as error:
                loop.call_soon_threadsafe(self._lines.put_nowait, error)
            else:
                loop.call_soon_threadsafe(self._lines.put_nowait, None)

    async def ask(self, question: str, *, hidden: bool = False) -> str | None:
        self.say(question.rstrip())
        return await self.line()

    async def line(self) -> str | None:
        line = await self._lines.get()
        if isinstance(line, OSError):
            raise OSError(line.errno, f"Standard input cannot be read: {line.strerror}")
        self._room.release()
        return line

    def turn_to(self, room: str) -> None:
        """Do nothing: there is no input line."""

    def note(self, aside: str) -> None:
        """Do nothing: there is no input line."""

    def say(self, text: str) -> None:
        print(printable(text), flush=True)

    def close(self) -> None:
        """Do nothing: every line is there already."""


Screen: TypeAlias = Terminal | Plain


def _stdin() -> Iterator[str]:
    if sys.stdin is None:  # closed, and its number may be another file's by now
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    # Not sys.stdin itself: Python's exit would find its lock taken by the thread, and abort.
    with open(0, encoding=sys.stdin.encoding, errors="replace", closefd=False) as lines:
        yield from lines


def clock(timestamp: datetime) -> str:
    """Return a time of day, here."""
    try:
        return f"{timestamp.astimezone():%H:%M}"
    except (ValueError, OverflowError):  # a year that no local time has
        return "--:--"


def _without_echo() -> Callable[[], None]:
    """Have the terminal show nothing of what is typed; call the result to undo it."""
    try:
        import termios
    except ImportError:  # Windows, where prompt_toolkit reads the console itself
        return lambda: None
    before = termios.tcgetattr(0)
    silent = termios.tcgetattr(0)
    silent[3] &= ~termios.ECHO
    termios.tcsetattr(0, termios.TCSANOW, silent)

    def undo() -> None:
        with contextlib.suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(0, termios.TCSADRAIN, before)

    return undo


def open_screen() -> Screen:
    """Return what fits standard input."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # what its encoding has no bytes for
    return Terminal() if interactive() else Plain()


def interactive() -> bool:
    """Say whether somebody sits there."""
    return sys.stdin is not None and sys.stdin.isatty()
