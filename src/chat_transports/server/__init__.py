"""chat-serve: the doors, on one chat, in one process."""

from __future__ import annotations

import atexit
import gc
import sys


def main() -> None:
    """Run chat-serve, or say what to install where its extra is not."""
    # A chat's objects nearly all die young, and what is imported never does: to look for what
    # of it is garbage, meanwhile and once more at the end, is a fifth of a short command.
    gc.set_threshold(10_000, 20, 50)
    atexit.register(gc.freeze)
    try:
        from chat_transports.server.cli import main as serve
    except ModuleNotFoundError as error:
        sys.exit(f"chat-serve needs {error.name}: pip install 'chatcore[server]'")
    serve()
