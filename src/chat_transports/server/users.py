"""chat-serve user: accounts, looked after from the command line, beside a server or without one."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import IO, Any

import click
from attrs import evolve

import chatcore
from chat_transports.server.databases import database_option, kept
from chatcore import auth, dossier, model, names
from chatcore.accounts import newcomer
from chatcore.codec import JsonLines
from chatcore.errors import ChatError, Conflict, NotFound, OutcomeUnknown, SchemaError
from chatcore.events import ReportItem
from chatcore.folding import fold
from chatcore.model import INVITED, LOBBY, Account, Closing, Draft, Limits, Room

PAGE = 1_000

_name = click.argument("name")
_password_stdin = click.option(
    "--password-stdin", is_flag=True, help="Read the password from standard input."
)


@click.group()
def user() -> None:
    """Look after accounts.

    A server may have the database meanwhile: it takes notice within half a second.
    """


@user.command()
@_name
@click.option("--display-name", metavar="TEXT", help="What others see beside the username.")
@click.option("--bot", is_flag=True, help="It is a program; others are told so.")
@_password_stdin
@database_option
@click.pass_context
def add(
    context: click.Context,
    name: str,
    display_name: str | None,
    bot: bool,
    password_stdin: bool,
    database: str | None,
) -> None:
    """Create an account.  The password is asked for, and not shown."""
    with _opened(context, database) as repository:
        new = evolve(newcomer(name), bot=bot)
        if display_name is not None:
            new = evolve(new, display_name=model.display_name(display_name))
        if repository.user(new.username) is not None:
            raise Conflict(f"There is a user {new.username} already")
        if not repository.add_user(new, _hash(context, password_stdin)):
            raise Conflict(f"The name {new.username} looks like another user's")
    click.echo(f"{new.username} is there, shown as {new.display_name}.")


@user.command()
@_name
@_password_stdin
@database_option
@click.pass_context
def passwd(context: click.Context, name: str, password_stdin: bool, database: str | None) -> None:
    """Give a user another password, and end all of their logins.

    The password is asked for, and not shown.  A host's own user gets one, too.
    """
    with _opened(context, database) as repository:
        username = _there(repository, name).user.username
        repository.set_password(username, _hash(context, password_stdin), revoke=True)
    click.echo(f"{username} has another password; nobody is logged in with the old one.")


@user.command()
@_name
@click.argument("role", type=click.Choice(["owner", "moderator", "member", "reader"]))
@click.option("--room", default=LOBBY, show_default=True, help="The room.")
@database_option
@click.pass_context
def role(context: click.Context, name: str, role: str, room: str, database: str | None) -> None:
    """Say what a user is in a room, and make them a member where they are none.

    This is how the lobby gets its first owner, and a room another one whose last owner was
    deleted.  Who was banned there is not any more.
    """
    with _opened(context, database) as repository:
        username = _there(repository, name).user.username
        found = _room(repository, room)
        if found.kind == "direct":
            raise Conflict("A direct room is of two people: nobody else gets in, nor is its owner")
        standing = repository.membership(found.name, username)
        if standing is not None and standing.role == role:
            click.echo(f"{username} is {role} of {found.name} already.")
            return
        draft = Draft(
            room=found,
            sender=username,
            kind="member",
            body={
                "username": username,
                "action": "join" if standing is None or standing.role == INVITED else "role",
                "role": role,
            },
            timestamp=model.utcnow(),
            as_host=True,
        )
        (outcome,) = repository.append([draft])
        if isinstance(outcome, ChatError):
            raise outcome
    click.echo(f"{username} is {role} of {found.name}.")


@user.command()
@_name
@database_option
@click.pass_context
def disable(context: click.Context, name: str, database: str | None) -> None:
    """Let a user in no more, and end what they have open."""
    with _opened(context, database) as repository:
        username = _there(repository, name).user.username
        repository.disable(username)
    click.echo(f"{username} is disabled.")


@user.command()
@_name
@database_option
@click.pass_context
def enable(context: click.Context, name: str, database: str | None) -> None:
    """Let a user in again that was disabled."""
    with _opened(context, database) as repository:
        username = _there(repository, name).user.username
        repository.enable(username)
    click.echo(f"{username} is enabled.")


@user.command("list")
@database_option
@click.pass_context
def list_(context: click.Context, database: str | None) -> None:
    """List all accounts: username, status, and how they are shown."""
    with _opened(context, database) as repository:
        for account in _all(repository):
            shown = account.user
            kind = f"{account.status}{', bot' if shown.bot else ''}"
            click.echo(f"{shown.username}\t{kind}\t{shown.display_name}")


@user.command()
@_name
@click.option(
    "--messages",
    type=click.Choice(["keep", "erase"]),
    default="keep",
    show_default=True,
    help='Whether what they wrote stays, under the name "Deleted user".',
)
@click.option("--forget", is_flag=True, help="Erase the messages, and all else of the person.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@database_option
@click.pass_context
def delete(
    context: click.Context,
    name: str,
    messages: Closing,
    forget: bool,
    yes: bool,
    database: str | None,
) -> None:
    """Delete an account for ever; nobody else gets the name.

    What was interrupted is done by running this again, or by the next server that starts.
    """
    closing: Closing = "forget" if forget else messages
    with _opened(context, database) as repository:
        username = _account(repository, name).user.username
        if not yes:
            what = "their messages stay" if closing == "keep" else "their messages are erased"
            click.confirm(f"Delete {username} for ever ({what})?", abort=True)
        closed = repository.close_account(username, closing)
        assert closed is not None, "it was there, and none ever goes"
        assert closed.closing is not None
        left = gone = 0
        for step in dossier.departure(repository, closed, model.utcnow):
            if callable(step):
                step()
                continue
            dossier.check(repository.append(step))
            left += sum(draft.kind == "member" for draft in step)
            gone += sum(draft.kind == "delete" for draft in step)
        repository.account_closed(username, closed.closing)
    click.echo(f"{username} is deleted: rooms left {left}, messages erased {gone}.")


@user.command()
@_name
@click.argument("file", type=click.File("wb"), default="-")
@database_option
@click.pass_context
def export(context: click.Context, name: str, file: IO[bytes], database: str | None) -> None:
    """Write all that there is of a user into FILE, or to standard output, as lines of JSON."""
    with _opened(context, database) as repository:
        username = _account(repository, name).user.username
        for piece in dossier.exported(repository, username, JsonLines(Limits())):
            file.write(piece)


@user.command()
@click.option("--room", help="Of this room alone.")
@database_option
@click.pass_context
def reports(context: click.Context, room: str | None, database: str | None) -> None:
    """List what was reported, in all rooms, those of two people among them.

    A line each, with tabs in it: room, message, who wrote it, who reported it, when, why, and
    what the message says now.
    """
    with _opened(context, database) as repository:
        for name in _reported(repository) if room is None else [_room(repository, room).name]:
            for each in _reports(repository, name):
                window = each.seq - 1, each.seq + 1, 1
                found = repository.messages(name, *window, newest=False, upto=sys.maxsize)
                sender, said = next(((one.sender, one.content) for one in fold(found)), ("", ""))
                columns = (
                    *(name, str(each.seq), sender, each.username),
                    *(model.rfc3339(each.timestamp), each.reason, said),
                )
                click.echo("\t".join(" ".join(column.split()) for column in columns))


# What they share.


@contextlib.contextmanager
def _opened(context: click.Context, database: str | None) -> Iterator[chatcore.SqliteRepository]:
    """Open the database until the end of the block, and say in one sentence what went wrong."""
    repository = kept(database or context.obj)
    try:
        with contextlib.closing(repository):
            repository.open_beside()
            yield repository
    except OutcomeUnknown as error:
        raise click.ClickException(
            f"{error}. Whether it was done is not known; run this again"
        ) from error
    except (SchemaError, ChatError) as error:
        raise click.ClickException(str(error)) from error


def _account(repository: chatcore.SqliteRepository, name: str) -> Account:
    account = repository.user(names.username(name))
    if account is None:
        raise NotFound(f"There is no user {name}")
    return account


def _there(repository: chatcore.SqliteRepository, name: str) -> Account:
    account = _account(repository, name)
    if account.status == "deleted":
        raise Conflict(f"{account.user.username} was deleted")
    return account


def _room(repository: chatcore.SqliteRepository, name: str) -> Room:
    room = repository.room(names.room_name(name))
    if room is None:
        raise NotFound(f"There is no room {name}")
    return room


def _all(repository: chatcore.SqliteRepository) -> Iterator[Account]:
    after = ""
    while page := repository.users(after, PAGE):
        yield from page
        after = page[-1].user.username


def _reported(repository: chatcore.SqliteRepository) -> Iterator[str]:
    after = ""
    while page := repository.reported(after, PAGE):
        yield from page
        after = page[-1]


def _reports(repository: chatcore.SqliteRepository, room: str) -> Iterator[ReportItem]:
    after = 0
    while page := repository.reports(room, after, PAGE):
        yield from page
        after = page[-1].number


def _hash(context: click.Context, from_stdin: bool) -> str:
    """Ask for a password, and return what is stored of it.  Never an argument: others see those."""
    if from_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    elif sys.stdin is not None and sys.stdin.isatty():
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    else:
        raise click.UsageError("there is no terminal to ask in; use --password-stdin")
    auth.check_password(password)
    options: dict[str, Any] = context.find_root().params
    return auth.hashed(password, options["bcrypt_cost"])
