"""Real terminals to test in: panes of a tmux of their own."""

from __future__ import annotations

import asyncio
import itertools
import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

WAIT_SECONDS = 15


class Pane:
    """One command in one terminal.  It stays to be looked at when the command has ended."""

    def __init__(self, tmux: Tmux, id: str, status: Path) -> None:
        self._tmux = tmux
        self._id = id
        self._status = status

    async def type(self, text: str) -> None:
        await self._tmux.run("send-keys", "-t", self._id, "-l", text)

    async def press(self, *keys: str) -> None:
        """Press keys by their names in tmux: Enter, C-c, Up."""
        await self._tmux.run("send-keys", "-t", self._id, *keys)

    async def enter(self, *lines: str) -> None:
        for line in lines:
            await self.type(line)
            await self.press("Enter")

    async def record(self, file: Path) -> None:
        """Write to a file all that the command writes from now on, byte by byte."""
        await self._tmux.run("pipe-pane", "-O", "-t", self._id, f"cat >{shlex.quote(str(file))}")

    async def signal(self, number: int) -> None:
        """Send a signal to the command."""
        shell = int(await self._tmux.run("display-message", "-p", "-t", self._id, "#{pane_pid}"))
        children = Path(f"/proc/{shell}/task/{shell}/children")
        (command,) = (await asyncio.to_thread(children.read_text)).split()
        os.kill(int(command), number)

    async def lines(self) -> list[str]:
        """What can be seen, without the blank lines and tmux's own word on a command's end."""
        seen = await self._tmux.run("capture-pane", "-p", "-t", self._id)
        lines = (line.rstrip() for line in seen.splitlines())
        return [line for line in lines if line and not line.startswith("Pane is dead")]

    async def until(self, condition: Callable[[list[str]], bool]) -> list[str]:
        """Wait until something can be seen and is so, and return it.

        A screen is not drawn at once, so ask for all that belongs together.
        """
        seen: list[str] = []
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                while not ((seen := await self.lines()) and condition(seen)):  # noqa: ASYNC110 - no event
                    await asyncio.sleep(0.02)
        except TimeoutError:
            pytest.fail("this is what the terminal shows:\n" + "\n".join(seen))
        return seen

    async def until_shown(self, text: str) -> list[str]:
        return await self.until(lambda lines: any(text in line for line in lines))

    async def status(self) -> int:
        """Wait until the command ends, and return its exit status."""
        async with asyncio.timeout(WAIT_SECONDS):
            while not self._status.exists():  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.02)
        return int(self._status.read_text())


# tmux knows the status too, but not always: it may leave a child unreaped.
REMEMBER_STATUS = 'trap : INT; "$@"; echo $? >"$0.new"; mv "$0.new" "$0"'


class Tmux:
    """A tmux server that nobody else uses.  Without tmux the test is skipped."""

    def __init__(self, directory: Path) -> None:
        if shutil.which("tmux") is None:
            pytest.skip("tmux is not installed")
        configuration = directory / "tmux.conf"
        configuration.write_text("set -g remain-on-exit on\nset -g default-terminal screen\n")
        self._directory = directory
        self._panes = itertools.count()

    async def open(self, *command: str, width: int = 80, height: int = 24) -> Pane:
        status = self._directory / f"status-{next(self._panes)}"
        id = await self.run(
            *("new-session", "-d", "-P", "-F", "#{pane_id}"),
            *("-x", str(width), "-y", str(height)),
            shlex.join(["sh", "-c", REMEMBER_STATUS, str(status), *command]),
        )
        return Pane(self, id.strip(), status)

    async def close(self) -> None:
        """End the server and, by SIGHUP, what still runs in it."""
        await self.run("kill-server")

    async def run(self, *arguments: str) -> str:
        process = await asyncio.create_subprocess_exec(
            *("tmux", "-u", "-S", "socket", "-f", "tmux.conf", *arguments),
            cwd=self._directory,
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate()
        assert process.returncode == 0, arguments
        return out.decode()
