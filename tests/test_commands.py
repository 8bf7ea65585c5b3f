"""A command is judged at birth."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import get_args

import attrs
import pytest

from chatcore import commands
from chatcore.commands import (
    Ban,
    Bans,
    Command,
    Create,
    Delete,
    Edit,
    History,
    Join,
    Kick,
    Login,
    Members,
    Password,
    Register,
    Report,
    Reports,
    Rooms,
    Send,
    SetRole,
    Since,
    Update,
)
from chatcore.errors import Invalid

NAIVE = datetime(2026, 1, 1)  # noqa: DTZ001 - which is what is refused
EARLY = datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=9)))


@pytest.mark.parametrize(
    ("command", "fields", "says"),
    [
        (Send, {"room": "lobby", "content": "hi", "txn_id": ""}, "txn_id has 1 to 64"),
        (Send, {"room": "lobby", "content": "hi", "txn_id": "x" * 65}, "txn_id has 1 to 64"),
        (Edit, {"room": "lobby", "seq": -1, "content": "hi"}, "seq is 0 or more"),
        (Edit, {"room": "lobby", "seq": 1, "content": "hi", "txn_id": ""}, "txn_id has 1 to 64"),
        (Delete, {"room": "lobby", "seq": 2**53}, "below 2\\^53"),
        (Delete, {"room": "lobby", "seq": 1, "txn_id": ""}, "txn_id has 1 to 64"),
        (Since, {"epoch": "e", "seq": -1}, "seq is 0 or more"),
        (Join, {"room": "lobby", "history": -1}, "history is 0 or more"),
        (History, {"room": "lobby", "before": -1}, "before is 0 or more"),
        (History, {"room": "lobby", "after": -1}, "after is 0 or more"),
        (History, {"room": "lobby", "around": -1}, "around is 0 or more"),
        (History, {"room": "lobby", "limit": 0}, "limit is 1 or more"),
        (History, {"room": "lobby", "before": 0, "after": 0}, "one of before, after and around"),
        (History, {"room": "lobby", "before": 1, "around": 1}, "one of before, after and around"),
        (Rooms, {"limit": 0}, "limit is 1 or more"),
        (Members, {"room": "lobby", "limit": 0}, "limit is 1 or more"),
        (Bans, {"room": "lobby", "limit": 0}, "limit is 1 or more"),
        (Create, {"room": "den", "kind": "direct"}, "public or private"),
        (
            Update,
            {"room": "den"},
            "update takes a title, a topic, slow_mode, archived or retention_days",
        ),
        (Update, {"room": "den", "slow_mode": -1}, "slow_mode has 0 to 86400 seconds"),
        (Update, {"room": "den", "slow_mode": 86_401}, "slow_mode has 0 to 86400 seconds"),
        (Update, {"room": "den", "retention_days": -1}, "retention_days has 0 to 36500 days"),
        (Update, {"room": "den", "retention_days": 36_501}, "retention_days has 0 to 36500 days"),
        (SetRole, {"room": "den", "username": "ada", "role": "king"}, "role is owner, moder"),
        (Ban, {"room": "den", "username": "ada", "until": NAIVE}, "until is a moment with its"),
        (Ban, {"room": "den", "username": "ada", "until": EARLY}, "until is a moment with its"),
        (Kick, {"room": "den", "username": "ada", "txn_id": ""}, "txn_id has 1 to 64"),
        (Report, {"room": "den", "seq": -1, "reason": "x"}, "seq is 0 or more"),
        (Reports, {"room": "den", "after": -1}, "after is 0 or more"),
        (History, {"room": "den", "types": ()}, "types has one or more of message, edit"),
        (History, {"room": "den", "types": ("message", "join")}, "types has one or more of"),
        (Login, {}, "Username and password are required"),
        (Login, {"username": "ada"}, "Username and password are required"),
        (Login, {"password": "secret"}, "Username and password are required"),
        (Login, {"username": "ada", "password": "secret", "token": "cc_x"}, "not with both"),
        (Login, {"username": "ada", "token": "cc_x"}, "not with both"),
        (Login, {"password": "secret", "token": "cc_x"}, "not with both"),
    ],
)
def test_what_cannot_be_meant_is_invalid(
    command: type, fields: dict[str, object], says: str
) -> None:
    with pytest.raises(Invalid, match=says):
        command(**fields)


@pytest.mark.parametrize(
    "command",
    [
        Send("lobby", "hi", "x" * 64),
        Join("lobby", Since("e", 0), history=0),
        History("lobby", before=0, limit=1),
        Login("", ""),  # for Chat.login to answer, as an empty form was
        Login(token="cc_x"),
    ],
)
def test_the_edges_are_legal(command: Command) -> None:
    assert isinstance(command, get_args(Command))


def test_no_secret_is_printed() -> None:
    for command in (
        Register("ada", "s3cret"),
        Login("ada", "s3cret"),
        Login(token="s3cret"),
        Password("s3cret", "s3cret"),
    ):
        assert "s3cret" not in repr(command)


def test_commands_are_values() -> None:
    send = Send("lobby", "hi")
    assert send == Send("lobby", "hi")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        send.content = "other"  # type: ignore[misc] # what the test is about


def test_a_command_is_either_durable_or_immediate() -> None:
    durable, immediate = get_args(commands.Durable), get_args(commands.Immediate)
    assert {*durable, *immediate} == set(get_args(Command))
    assert not {*durable} & {*immediate}
    classes = vars(commands).values()
    verbs = {each for each in classes if attrs.has(each)} - {Since, commands.Request}
    assert verbs == set(get_args(Command)), "no verb is forgotten in the union"


@pytest.mark.parametrize("txn_id", ["", "x" * 65, "a\0b", "a\nb", "\x7f", "\ud800", "\u2028"])
def test_a_txn_id_is_something_that_every_database_keeps(txn_id: str) -> None:
    """SQLite's JSON ends a text at NUL, and two ids would be one."""
    with pytest.raises(Invalid):
        Send("lobby", "hello", txn_id)
