"""chat-serve's command line."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import ssl
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import click
from attrs import evolve

import chatcore
from chat_transports.server.app import Options, ServerError, run
from chat_transports.server.databases import Check, database_option, kept, named
from chat_transports.server.users import user
from chatcore.chat import prepare
from chatcore.errors import ChatError, OutcomeUnknown, SchemaError
from chatcore.model import Limits

LEVELS = ("critical", "error", "warning", "info", "debug")


@click.group(
    invoke_without_command=True,
    context_settings={
        "auto_envvar_prefix": "CHAT",
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
    },
)
@click.option(
    "--transport",
    "transports",
    type=click.Choice(["ws", "tcp", "socketio"]),
    envvar="CHAT_TRANSPORT",
    multiple=True,
    default=("ws",),
    show_default=True,
    help="A door to open; give it again for another.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=5050,
    show_default=True,
    help="The port of WebSocket, Socket.IO and HTTP; 0 takes a free one.",
)
@click.option(
    "--tcp-port",
    type=click.IntRange(0, 65535),
    default=5051,
    show_default=True,
    help="The TCP door's port; 0 takes a free one.",
)
@click.option(
    "--database",
    default="sqlite:///chatcore.db",
    show_default=True,
    help="sqlite:///relative/path, sqlite:////absolute/path, or memory: which forgets all.",
)
@click.option(
    "--certfile",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A certificate (PEM), for TLS on every door.",
)
@click.option(
    "--keyfile",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The certificate's key, where it is not in the same file.",
)
@click.option(
    "--allow-origin",
    "allow_origins",
    envvar="CHAT_ALLOW_ORIGIN",
    multiple=True,
    metavar="ORIGIN",
    help="A web page's origin that may connect beside our own, such as https://example.org.",
)
@click.option(
    "--forwarded-allow-ips",
    default="127.0.0.1",
    show_default=True,
    help="Proxies whose X-Forwarded-… headers are believed, separated by commas.",
)
@click.option(
    "--limits",
    type=click.Choice(["default", "none"]),
    default="default",
    show_default=True,
    help="none lifts rates and connection counts: for benchmarks and trusted networks.",
)
@click.option(
    "--edit-seconds",
    type=click.FloatRange(min=0),
    help="How long after it was sent a message may be edited; for ever without it, 0 for never.",
)
@click.option(
    "--reactions",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="Different emoji that a message may have; 0 for no reactions.",
)
@click.option(
    "--token-days",
    type=click.FloatRange(min=0, min_open=True, max=3650),
    default=30.0,
    show_default=True,
    help="How long a login lasts.",
)
@click.option(
    "--bcrypt-cost",
    type=click.IntRange(4, 31),
    default=12,
    show_default=True,
    help="The work a password's hash takes; one more doubles it.",
)
@click.option(
    "--legacy-join",
    is_flag=True,
    help="Let old Socket.IO clients join by a name that has just logged in from their address.",
)
@click.option(
    "--check",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    help="Read the whole database at the start, to see that nothing of it is damaged;"
    " auto does so where it is not as a server left it.",
)
@click.option("--log-level", type=click.Choice(LEVELS), default="info", show_default=True)
@click.version_option(chatcore.__version__, prog_name="chat-serve")
@click.pass_context
def main(
    context: click.Context,
    transports: tuple[str, ...],
    host: str,
    port: int,
    tcp_port: int,
    database: str,
    certfile: Path | None,
    keyfile: Path | None,
    allow_origins: tuple[str, ...],
    forwarded_allow_ips: str,
    limits: str,
    edit_seconds: float | None,
    reactions: int,
    token_days: float,
    bcrypt_cost: int,
    legacy_join: bool,
    check: Check,
    log_level: str,
) -> None:
    """Serve a chat until Ctrl+C or SIGTERM, which let everyone finish first.

    Each option may come from the environment too: CHAT_PORT, CHAT_DATABASE, ….
    """
    os.umask(0o077)  # the database has what people wrote, and their passwords' hashes
    context.obj = database
    if context.invoked_subcommand is not None:
        return
    if math.isnan(token_days):  # which is within every range
        raise click.BadParameter("nan is no number of days", param_hint="--token-days")
    if edit_seconds is not None and math.isnan(edit_seconds):
        raise click.BadParameter("nan is no number of seconds", param_hint="--edit-seconds")
    if not host.strip():
        raise click.BadParameter(
            "an address is missing: 127.0.0.1, or 0.0.0.0 for every one", param_hint="--host"
        )
    if keyfile is not None and certfile is None:
        raise click.UsageError("--keyfile needs --certfile")
    if legacy_join and "socketio" not in transports:
        raise click.UsageError("--legacy-join needs --transport socketio")
    if "socketio" in transports and find_spec("socketio") is None:
        raise click.UsageError("--transport socketio needs pip install 'chatcore[socketio]'")
    _log_to_stderr(log_level)
    options = Options(
        transports=frozenset(transports),
        host=host,
        port=port,
        tcp_port=tcp_port,
        repository=named(database, check),
        database=database,
        tls=_tls(certfile, keyfile),
        allow_origins=allow_origins,
        forwarded_allow_ips=forwarded_allow_ips,
        limits=evolve(
            Limits.none() if limits == "none" else Limits(),
            edit_seconds=edit_seconds,
            reactions=reactions,
        ),
        token_days=token_days,
        bcrypt_cost=bcrypt_cost,
        legacy_join=legacy_join,
    )
    try:
        run(options)
    except (ServerError, SchemaError) as error:
        raise click.ClickException(str(error)) from error


@main.command("import")
@click.argument("old", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@database_option
@click.pass_obj
def import_(serving_from: str, old: Path, database: str | None) -> None:
    """Bring the users and messages of OLD, the first chatroom's database, into the lobby.

    Passwords go on working.  OLD stays as it is.  Each message comes once, so the import
    may be run again, and then brings what is new; stop the server for it.
    """
    # Here, so that a server that keeps all in memory loads no database.
    from chat_transports.server import first_chatroom
    from chat_transports.server.importing import Import

    repository = kept(database or serving_from)
    try:
        with first_chatroom.read(old) as chatroom, contextlib.closing(repository):
            prepare(repository)
            bar = click.progressbar(
                length=chatroom.count(), label="Importing", file=sys.stderr, show_pos=True
            )
            with bar:
                report = Import(chatroom, repository).run(bar.update)
    except SchemaError as error:
        raise click.ClickException(str(error)) from error
    except (ChatError, OutcomeUnknown, KeyboardInterrupt) as error:
        why = str(error) or "Interrupted"
        raise click.ClickException(
            f"{why}. What came in stays; run this again for the rest"
        ) from error
    for line in report.lines():
        click.echo(line)


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@database_option
@click.pass_obj
def backup(serving_from: str, file: Path, database: str | None) -> None:
    """Copy the database into FILE, a new one, while a server goes on with it.

    FILE is one moment's state, checked, for its owner alone to read, and there only once all
    of it is on the disk.  To restore it, stop the server, move the database and its -wal and
    -shm files away, put FILE in its place, and start the server: clients that had seen more
    are told so.
    """
    repository = kept(database or serving_from)
    signal.signal(signal.SIGTERM, _exit)  # which leaves nothing behind, as Ctrl+C does
    try:
        with click.progressbar(
            length=1, label="Copying", file=sys.stderr, hidden=not sys.stderr.isatty()
        ) as bar:

            def progress(done: int, pages: int) -> None:
                bar.length = pages
                bar.update(done - bar.pos)

            copied = repository.backup(file, progress)
    except SchemaError as error:
        raise click.ClickException(str(error)) from error
    except FileExistsError as error:
        raise click.ClickException(
            f"{file} is there already; name another file, or move that one away"
        ) from error
    except OSError as error:
        raise click.ClickException(
            f"Cannot write {file}: {error.strerror}. Nothing is left of it"
        ) from error
    click.echo(f"{file}: rooms {copied.rooms}, messages {copied.messages}, bytes {copied.bytes}.")


@main.command()
@database_option
@click.pass_obj
def restored(serving_from: str, database: str | None) -> None:
    """Tell clients to read afresh, after an older database was put in place by other means.

    Such as a plain copy of the file, or a snapshot of the disk; what chat-serve backup made
    does not need it.  Run it before the server is started: clients may have seen messages
    that this database does not have, and whose numbers it will give out again.  It checks
    the database too.  Once too often does no harm.
    """
    repository = kept(database or serving_from, check="always")
    try:
        rooms = repository.renew_epochs()
    except (SchemaError, ChatError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"New epochs: {rooms}.  Clients that come back read these rooms afresh.")


main.add_command(user)


def _exit(number: int, _: object) -> NoReturn:
    sys.exit(128 + number)


def _tls(certfile: Path | None, keyfile: Path | None) -> ssl.SSLContext | None:
    if certfile is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certfile, keyfile)
    except (ssl.SSLError, OSError) as error:
        raise click.BadParameter(
            f"no certificate and key in {certfile}: {error}", param_hint="--certfile"
        ) from error
    return context


def _log_to_stderr(level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.addFilter(_one_line)
    logging.basicConfig(level=level.upper(), handlers=[handler])
    for chatty in ("uvicorn", "alembic", "asyncio"):
        quiet = max(logging.WARNING, getattr(logging, level.upper()))
        logging.getLogger(chatty).setLevel(quiet)


def _one_line(record: logging.LogRecord) -> bool:
    """Let what a peer did wrong be one line, and no error of ours."""
    if record.name == "uvicorn.error":
        if record.getMessage().startswith("Invalid UTF-8"):  # with a traceback
            record.exc_info = None
            record.levelno, record.levelname = logging.INFO, "INFO"
        elif "without completing handshake" in record.msg:  # a refusal; the door tells of it
            return False
    return True
