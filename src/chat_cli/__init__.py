"""chat-cli: the chat in a terminal."""

from __future__ import annotations

import atexit
import gc
import sys


def main() -> None:
    """Run chat-cli, or say what to install where its extra is not."""
    # As chat-serve does: a tenth of what a short command takes.
    gc.set_threshold(10_000, 20, 50)
    atexit.register(gc.freeze)
    try:
        from chat_cli.cli import main as chat
    except ModuleNotFoundError as error:
        sys.exit(f"chat-cli needs {error.name}: pip install 'chatcore[client]'")
    except KeyboardInterrupt:  # before there is anything that could be interrupted
        sys.exit(130)
    chat()
