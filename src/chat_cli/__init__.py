"""chat-cli: the chat in a terminal."""

from __future__ import annotations

import sys


def main() -> None:
    """Run chat-cli, or say what to install where its extra is not."""
    try:
        from chat_cli.cli import main as chat
    except ModuleNotFoundError as error:
        sys.exit(f"chat-cli needs {error.name}: pip install 'chatcore[client]'")
    except KeyboardInterrupt:  # before there is anything that could be interrupted
        sys.exit(130)
    chat()
