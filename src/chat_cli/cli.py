"""chat-cli's command line."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Coroutine
from typing import Any, NoReturn, TypeVar

import click
from click.core import ParameterSource

import chatcore
from chat_cli.printable import printable

TIPS = """\
  - Is the server running? `chat-serve` starts one.
  - Is that its address? `chat-cli connect ws://HOST:PORT/ws` connects to another.
  - Does a firewall stand in between?"""

INTERRUPTED = 130
"""The exit status after Ctrl+C, as a shell has it for who dies of the signal."""

T = TypeVar("T")

_URL = "ws://localhost:5050/ws"
_server = click.option(
    "--server",
    "url",
    metavar="URL",
    envvar="SERVER_URL",
    default=_URL,
    show_default=True,
    show_envvar=True,
    help="The server's address.",
)
_room = click.option("--room", default="lobby", show_default=True, help="The room.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(chatcore.__version__)
def commands() -> None:
    """Chat in a terminal, or from a script."""


def main() -> None:
    """Do what the command line says, and end the program."""
    try:
        sys.exit(commands.main(prog_name="chat-cli", standalone_mode=False))
    except click.Abort:  # Ctrl+C, or the end of the input at a question
        sys.exit(INTERRUPTED)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.UsageError as error:
        if error.ctx is not None:
            click.echo(error.ctx.get_usage(), err=True)
            click.echo(f"Try '{error.ctx.command_path} --help' for help.\n", err=True)
        # It repeats the command line, and a script may have that from anywhere.
        click.echo(printable(f"Error: {error.format_message()}"), err=True)
        sys.exit(error.exit_code)


@commands.command()
@click.argument("url", envvar="SERVER_URL", default=_URL)
@click.option("--room", default="lobby", show_default=True, help="The room to join first.")
@click.option("--server", metavar="URL", help="The same as URL, for who is used to it.")
@click.pass_context
def connect(context: click.Context, url: str, room: str, server: str | None) -> None:
    """Chat with who is at URL: ws://, wss://, tcp://, tcps://, http:// or https://.

    Without URL it is the environment's SERVER_URL, or else ws://localhost:5050/ws.
    A login kept by `chat-cli login`, or a token in CHAT_TOKEN, skips the menu.
    Where standard input is not a terminal, what it has is read line by line: the
    choice of the menu, username, password, then messages.  No login skips the menu then.
    """
    if server is not None:
        if context.get_parameter_source("url") is ParameterSource.COMMANDLINE:
            raise click.UsageError("URL and --server are the same thing; give one of them")
        url = server
    target = _target(url, "URL")
    from chat_cli.screen import interactive  # slow to import, and --help does without

    # Lines that are meant for the menu must not become messages on the day that a login is kept.
    token = _token(target) if interactive() else None
    try:
        from chat_cli.conversation import converse

        sys.exit(_run(converse(target, room, token), url, _renew(target)))
    except KeyboardInterrupt:  # one of the ways to leave
        sys.exit(0)


@commands.command()
@click.argument("url", envvar="SERVER_URL", default=_URL)
@click.option("--username", help="Who logs in; asked for where it is not given.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@click.option("--register", is_flag=True, help="Create the account first.")
def login(url: str, username: str | None, password_stdin: bool, register: bool) -> None:
    """Log in at URL and keep the login, in a file that only you may read.

    From then on connect, send and tail are you there, until `chat-cli logout`.  A
    login that was kept for URL before is revoked.
    """
    from chat_cli import tokens
    from chat_cli.screen import interactive

    target = _target(url, "URL")
    try:
        before = tokens.kept(target)  # which finds fault with the file before anybody types
        if username is None and password_stdin:
            raise click.UsageError("--password-stdin needs --username")
        if not password_stdin and not interactive():
            raise click.UsageError("there is no terminal to ask in; use --password-stdin")
        if username is None:
            username = click.prompt("Username", type=str)
        if password_stdin:
            password = sys.stdin.readline().rstrip("\r\n")
        else:
            password = click.prompt("Password", hide_input=True, confirmation_prompt=register)
        from chat_cli.scripts import log_in

        token = _run(log_in(target, username, password, new=register), url)
        try:
            tokens.keep(target, token)
        except tokens.Unusable:
            _run(_revoke(target, token), url)  # nobody else has it
            raise
        if before is not None:
            _run(_revoke(target, before), url)
    except tokens.Unusable as error:
        _fail(error)
    click.echo(printable(f"Logged in as {username}; kept in {tokens.path()}"))


@commands.command()
@click.argument("url", envvar="SERVER_URL", default=_URL)
def logout(url: str) -> None:
    """Revoke the login that was kept for URL, and forget it."""
    from chat_cli import tokens

    target = _target(url, "URL")
    try:
        token = tokens.kept(target)
        if token is None:
            _fail(f"No login is kept for {target}")
        _run(_revoke(target, token), url)
        tokens.keep(target, None)
    except tokens.Unusable as error:
        _fail(error)
    click.echo("Logged out")


@commands.command()
@_server
@_room
@click.argument("text", nargs=-1)
def send(url: str, room: str, text: tuple[str, ...]) -> None:
    """Send TEXT as one message, or each line of standard input.

    Joins the room where needed, and returns when all is stored.  A line that cannot be a
    message is told, and left out; the status is then 1.  Needs a login that was kept, or
    CHAT_TOKEN.
    """
    target = _target(url, "--server")
    token = _needed(target)
    from chat_cli import scripts

    left_out = _run(
        scripts.send(target, token, room, " ".join(text) if text else None), url, _renew(target)
    )
    for number, why in left_out:
        click.echo(printable(f"Error: line {number} was not sent: {why}"), err=True)
    sys.exit(1 if left_out else 0)


@commands.command()
@_server
@_room
@click.option("--json", "as_json", is_flag=True, help="Print each event as a line of JSON.")
@click.option(
    "-n",
    "last",
    type=click.IntRange(0, (1 << 53) - 1),
    default=10,
    show_default=True,
    help="How many to begin.",
)
@click.option("--follow/--no-follow", default=True, show_default=True, help="Wait for more.")
def tail(url: str, room: str, as_json: bool, last: int, follow: bool) -> None:
    """Print a room's newest messages, and each one that comes.

    Joins the room where needed.  Needs a login that was kept, or CHAT_TOKEN.
    """
    target = _target(url, "--server")
    token = _needed(target)
    from chat_cli import scripts

    tailing = scripts.tail(target, token, room, last, follow=follow, as_json=as_json)
    _run(tailing, url, _renew(target))


async def _revoke(target: str, token: str) -> None:
    from chat_cli.scripts import log_out
    from chatcore.errors import BadCredentials

    with contextlib.suppress(BadCredentials):  # it is none any more
        await log_out(target, token)


def _target(url: str, hint: str) -> str:
    from chat_transports.pipe import address

    try:
        return address(url)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=hint) from error


def _token(target: str) -> str | None:
    from chat_cli import tokens

    try:
        return os.environ.get("CHAT_TOKEN") or tokens.kept(target)
    except tokens.Unusable as error:
        _fail(error)


def _needed(target: str) -> str:
    return _token(target) or _fail(f"Log in first: chat-cli login {target}")


def _renew(target: str) -> str:
    """Say what to do where the server does not know the login any more."""
    if os.environ.get("CHAT_TOKEN"):
        return "; CHAT_TOKEN has it"
    return f"; `chat-cli login {target}` logs in anew"


def _run(doing: Coroutine[Any, Any, T], url: str, renew: str = "") -> T:
    """Run it, and end the program where it fails."""
    import asyncio

    from chatcore.errors import BadCredentials, ChatError, Unavailable

    try:
        return asyncio.run(doing)
    except BrokenPipeError:  # click would have it as a failure
        _leave_output()  # nobody reads on: nothing is wrong
        sys.exit(0)
    except Unavailable as why:  # a hello that never came, too
        click.echo(printable(f"Cannot connect to server at {url} ({why})"), err=True)
        click.echo(TIPS, err=True)
        sys.exit(1)
    except BadCredentials as error:
        _fail(f"{error}{renew}")
    except ChatError as error:
        _fail(error)
    except OSError as error:  # of standard input or output
        _leave_output()
        _fail(error.strerror or error)


def _leave_output() -> None:
    """Write what can be written, and have Python's exit not try once more."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _fail(why: object) -> NoReturn:
    click.echo(printable(f"Error: {why}"), err=True)
    sys.exit(1)
