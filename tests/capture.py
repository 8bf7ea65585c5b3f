"""What a terminal shows in a conversation with a restart in it: the README's capture.

`python -m tests.capture` plays it, and writes docs/captures/terminal.txt anew.
"""

from __future__ import annotations

import asyncio
import re
import signal
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from tests.support import PASSWORD, serving
from tests.terminal import Pane, Tmux

CAPTURE = Path(__file__).parent.parent / "docs" / "captures" / "terminal.txt"
CLIENT = (sys.executable, "-c", "from chat_cli import main; main()", "connect")


def without_times(text: str) -> str:
    return re.sub(r"^\[\d\d:\d\d\]", "[HH:MM]", text, flags=re.MULTILINE)


async def play(directory: Path) -> str:
    """Have two people talk, and kill the server under them; return what one of them sees."""
    database = directory / "chat.db"
    tmux = Tmux(directory)
    try:
        async with serving(database, transports=["ws"]) as server:
            url = server.urls["ws"]
            ada = await _enter(tmux, url, "1", "ada")
            bob = await _enter(tmux, url, "1", "bob")
            await ada.until_shown("bob joined")
            await _say(bob, ada, "Good morning")
            await _say(ada, bob, "Morning! I have put the kettle on")
            await _say(bob, ada, "Back in a minute")
            await bob.enter("/exit")
            await ada.until_shown("bob left")
            server.signal(signal.SIGKILL)
            await ada.until_shown("trying again")
            await ada.type("With mi")
            await ada.until(lambda lines: lines[-1] == "lobby> With mi")
        # Where ada's client does not look, so that bob is always before it.
        async with serving(database, transports=["ws"]) as elsewhere:
            bob = await _enter(tmux, elsewhere.urls["ws"], "2", "bob")
            await _say(bob, bob, "Tea is ready")
            await bob.enter("/exit")
            await bob.status()
        port = str(urlsplit(url).port)
        async with serving(database, "--port", port, transports=["ws"]):
            seen = await ada.until(
                lambda lines: "Tea is ready" in lines[-2] and lines[-1] == "lobby> With mi"
            )
    finally:
        await tmux.close()
    return "\n".join(["$ chat-cli connect", *seen]) + "\n"


async def _enter(tmux: Tmux, url: str, choice: str, name: str) -> Pane:
    pane = await tmux.open(*CLIENT, url)
    await pane.until_shown("Choose an option:")
    await pane.enter(choice, name, PASSWORD)
    await pane.until(lambda lines: "Online" in "".join(lines[-2:-1]) and lines[-1] == "lobby>")
    return pane


async def _say(one: Pane, other: Pane, text: str) -> None:
    await one.enter(text)
    for pane in (one, other):
        await pane.until(lambda lines: text in lines[-2] and lines[-1] == "lobby>")


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        CAPTURE.write_text(asyncio.run(play(Path(directory))), encoding="utf-8")


if __name__ == "__main__":
    main()
