"""Which commands are legal, for nobody and for somebody."""

from __future__ import annotations

from typing import get_args

import pytest

from chatcore.commands import (
    Ban,
    Bans,
    Command,
    Create,
    Delete,
    Direct,
    Edit,
    History,
    Invite,
    Join,
    Kick,
    Leave,
    Login,
    Logout,
    MarkRead,
    Members,
    Mute,
    Password,
    Ping,
    Profile,
    React,
    Register,
    Report,
    Reports,
    Rooms,
    Search,
    Send,
    SetRole,
    Typing,
    Unban,
    Unmute,
    Unreact,
    Update,
    Who,
)
from chatcore.errors import ChatError, Conflict, Unauthenticated
from chatcore.model import User
from chatcore.session import Session

ADA = User("ada", "Ada")

LEGAL: list[tuple[Command, type[ChatError] | None, type[ChatError] | None]] = [
    # command                     nobody           somebody
    (Ping(), None, None),
    (Login(token="cc_x"), None, None),  # whose it is, only the accounts know
    (Register("ada", "secret"), None, Conflict),
    (Logout(), Unauthenticated, None),
    (Password("secret", "another"), Unauthenticated, None),
    (Profile("Ada"), Unauthenticated, None),
    (Rooms(), Unauthenticated, None),
    (Create("den"), Unauthenticated, None),
    (Direct("bob"), Unauthenticated, None),
    (Update("den", topic="Tea"), Unauthenticated, None),
    (Join("den"), Unauthenticated, None),
    (Leave("den"), Unauthenticated, None),
    (Send("den", "hi"), Unauthenticated, None),
    (Edit("den", 1, "hi"), Unauthenticated, None),
    (Delete("den", 1), Unauthenticated, None),
    (Invite("den", "bob"), Unauthenticated, None),
    (Kick("den", "bob"), Unauthenticated, None),
    (Ban("den", "bob"), Unauthenticated, None),
    (Unban("den", "bob"), Unauthenticated, None),
    (Mute("den", "bob"), Unauthenticated, None),
    (Unmute("den", "bob"), Unauthenticated, None),
    (SetRole("den", "bob", "reader"), Unauthenticated, None),
    (MarkRead("den", 1), Unauthenticated, None),
    (React("den", 1, "\u2615"), Unauthenticated, None),
    (Unreact("den", 1, "\u2615"), Unauthenticated, None),
    (Report("den", 1, "spam"), Unauthenticated, None),
    (Reports("den"), Unauthenticated, None),
    (Bans("den"), Unauthenticated, None),
    (History("den"), Unauthenticated, None),
    (Typing("den"), Unauthenticated, None),
    (Search("tea"), Unauthenticated, None),
    (Who("den"), Unauthenticated, None),
    (Members("den"), Unauthenticated, None),
]


def verdict(session: Session, command: Command) -> type[ChatError] | None:
    try:
        session.admit(command)
    except ChatError as error:
        return type(error)
    return None


@pytest.mark.parametrize(("command", "nobody", "somebody"), LEGAL)
def test_a_command_is_legal_for_nobody_or_for_somebody(
    command: Command, nobody: type[ChatError] | None, somebody: type[ChatError] | None
) -> None:
    assert (nobody, somebody) == (verdict(Session(), command), verdict(Session(ADA), command))


def test_the_table_has_every_command() -> None:
    assert set(get_args(Command)) == {type(command) for command, _, _ in LEGAL}


def test_the_actor_is_who_logged_in() -> None:
    session = Session()
    with pytest.raises(Unauthenticated, match="Log in or register first"):
        session.actor()
    session.user = ADA
    assert session.actor() == ADA


def test_who_is_somebody_is_told_who() -> None:
    with pytest.raises(Conflict, match="Logged in as ada"):
        Session(ADA).admit(Register("bob", "secret"))


def test_the_fifth_malformed_frame_in_a_row_is_one_too_many() -> None:
    session = Session()
    assert [session.malformed() for _ in range(5)] == [False, False, False, False, True]


def test_any_command_starts_the_count_again_legal_or_not() -> None:
    for command in (Ping(), Send("den", "hi")):
        session = Session()
        for _ in range(4):
            session.malformed()
        verdict(session, command)
        assert [session.malformed() for _ in range(5)] == [False, False, False, False, True]
