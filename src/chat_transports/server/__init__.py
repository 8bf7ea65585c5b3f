"""chat-serve: the doors, on one chat, in one process."""

from __future__ import annotations

import sys


def main() -> None:
    """Run chat-serve, or say what to install where its extra is not."""
    try:
        from chat_transports.server.cli import main as serve
    except ModuleNotFoundError as error:
        sys.exit(f"chat-serve needs {error.name}: pip install 'chatcore[server]'")
    serve()
