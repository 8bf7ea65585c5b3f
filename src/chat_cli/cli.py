"""chat-cli's command line."""

from __future__ import annotations

import sys

import click

import chatcore

TIPS = """\
  - Is the server running? `chat-serve` starts one.
  - Is that its address? `chat-cli connect ws://HOST:PORT/ws` connects to another.
  - Does a firewall stand in between?"""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(chatcore.__version__, prog_name="chat-cli")
def main() -> None:
    """Chat in a terminal."""


@main.command()
@click.argument("url", envvar="SERVER_URL", default="ws://localhost:5050/ws")
@click.option("--room", default="lobby", show_default=True, help="The room to join.")
def connect(url: str, room: str) -> None:
    """Chat with who is at URL: ws://, wss://, tcp://, http:// or https://.

    Without URL it is the environment's SERVER_URL, or else ws://localhost:5050/ws.
    Where standard input is not a terminal, what it has is read line by line: the
    choice of the menu, username, password, then messages.
    """
    import asyncio  # what follows is slow to import, and --help needs none of it

    from chat_cli.conversation import converse
    from chat_cli.printable import printable
    from chat_cli.wire import CannotConnect, address

    try:
        target = address(url)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="URL") from error
    try:
        status = asyncio.run(converse(target, room))
    except CannotConnect as why:
        click.echo(printable(f"Cannot connect to server at {url} ({why})"), err=True)
        click.echo(TIPS, err=True)
        status = 1
    except KeyboardInterrupt:
        click.echo("Goodbye!")
        status = 0
    sys.exit(status)
