"""Where a person reads and types: a terminal, or plain lines.

Either prints an entry, made `printable`, with `say`, which returns at once.  `ask`
and `line` return what was typed, or None for the wish to leave.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import sys
import threading
from collections.abc import Callable
from datetime import datetime
from typing import TypeAlias

from chat_cli.printable import printable


class Terminal:
    """An input line at the bottom; what is said stands above it and scrolls away."""

    patient = False

    def __init__(self) -> None:
        from prompt_toolkit import PromptSession  # a pipe never pays for it
        from prompt_toolkit.application import run_in_terminal
        from prompt_toolkit.history import DummyHistory

        self._run_in_terminal = run_in_terminal
        # Without it, the up arrow would bring back a password, and show it.
        self._questions: PromptSession[str] = PromptSession(history=DummyHistory())
        # A message that was typed is taken away: it comes back as an event.
        self._prompt = "> "
        self._chat: PromptSession[str] = PromptSession(lambda: self._prompt, erase_when_done=True)
        self._unsaid: list[str] = []
        # What is typed between two questions is for the next one, a password perhaps.
        self._restore = _without_echo()

    async def ask(self, question: str, *, hidden: bool = False) -> str | None:
        with contextlib.suppress(KeyboardInterrupt, EOFError):
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

    def say(self, text: str) -> None:
        # Not patch_stdout: its thread may write between two input lines, and then onto one.
        self._unsaid.append(printable(text))
        if len(self._unsaid) == 1:
            self._saying = self._run_in_terminal(self.flush)

    def flush(self) -> None:
        """Print what was said and is not there yet."""
        if self._unsaid:
            print("\n".join(self._unsaid), flush=True)
            self._unsaid.clear()

    def close(self) -> None:
        """Leave the terminal as it was found."""
        self.flush()
        self._restore()


class Plain:
    """Lines in, lines out, nothing redrawn: for pipes and scripts.  Made on the event loop."""

    patient = True
    """A line may wait until the one before it has been dealt with."""

    def __init__(self) -> None:
        self._lines: asyncio.Queue[str | None] = asyncio.Queue()
        # A thread, since a loop cannot wait for a file; a daemon, since nothing can end
        # its reading.
        reading = threading.Thread(
            target=self._read, args=(asyncio.get_running_loop(),), daemon=True
        )
        reading.start()

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        # Not sys.stdin: Python's exit would find its lock taken by this thread, and abort.
        stdin = open(0, encoding=sys.stdin.encoding, errors="replace", closefd=False)  # noqa: SIM115
        with stdin, contextlib.suppress(RuntimeError):  # the loop has been closed
            for line in stdin:
                loop.call_soon_threadsafe(self._lines.put_nowait, line.removesuffix("\n"))
            loop.call_soon_threadsafe(self._lines.put_nowait, None)

    async def ask(self, question: str, *, hidden: bool = False) -> str | None:
        self.say(question.rstrip())
        return await self.line()

    async def line(self) -> str | None:
        return await self._lines.get()

    def turn_to(self, room: str) -> None:
        """Do nothing: there is no input line."""

    def say(self, text: str) -> None:
        print(printable(text), flush=True)

    def close(self) -> None:
        """Do nothing: every line is there already."""


Screen: TypeAlias = Terminal | Plain


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
    return lambda: termios.tcsetattr(0, termios.TCSADRAIN, before)


def open_screen() -> Screen:
    """Return what fits standard input."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # what its encoding has no bytes for
    return Terminal() if sys.stdin.isatty() else Plain()
