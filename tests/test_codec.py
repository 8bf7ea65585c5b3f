"""Frames become commands or one clear error, and what is told becomes the protocol's JSON."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, get_args

import attrs
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatcore import commands
from chatcore.codec import COMMANDS, JsonLines
from chatcore.commands import Command, Request, Since
from chatcore.errors import ChatError, Invalid, RateLimited, TooLarge, UnknownCommand
from chatcore.events import (
    BanItem,
    BanReply,
    BansReply,
    Bye,
    CreateReply,
    Delete,
    DeleteReply,
    DirectReply,
    Edit,
    EditReply,
    Event,
    Found,
    Hello,
    HistoryReply,
    InviteReply,
    JoinReply,
    KickReply,
    LeaveReply,
    LoginReply,
    LogoutReply,
    MarkReadReply,
    Member,
    MemberItem,
    MembershipChanged,
    MembersReply,
    Message,
    MuteReply,
    Page,
    PasswordReply,
    PingReply,
    Presence,
    ProfileChanged,
    ProfileReply,
    Reaction,
    ReactReply,
    Read,
    RegisterReply,
    Reply,
    ReportItem,
    ReportReply,
    ReportsReply,
    RoomChanged,
    RoomsReply,
    Sanction,
    SearchReply,
    SendReply,
    SetRoleReply,
    Tally,
    Typing,
    TypingReply,
    UnbanReply,
    UnmuteReply,
    UnreactReply,
    UpdateReply,
    WhoReply,
)
from chatcore.model import MAX_FRAME, Limits, Listed, Membership, Room, User
from tests.support import weight

WIRE = JsonLines(Limits())


# In: what is no command.

MALFORMED: dict[str, tuple[bytes, object, str]] = {
    # what it is: the frame, the id that can be read, what the sentence must say
    "empty": (b"", None, "JSON object"),
    "not JSON": (b"hello", None, "JSON object"),
    "cut": (b'{"cmd":"ping"', None, "JSON object"),
    "two values": (b'{"cmd":"ping"}{}', None, "JSON object"),
    "not UTF-8": (b'{"cmd":"ping","id":"\xff"}', None, "UTF-8"),
    "a byte order mark": (b'\xef\xbb\xbf{"cmd":"ping"}', None, "JSON object"),
    "NaN": (b'{"cmd":"ping","id":NaN}', None, "JSON object"),
    "infinite": (b'{"cmd":"ping","id":1e999}', None, "JSON object"),
    "a lone surrogate": (b'{"cmd":"ping","id":"\\ud800"}', None, "JSON object"),
    "surrogates swapped": (b'{"cmd":"ping","id":"\\udc00\\ud800"}', None, "JSON object"),
    "a raw control character": (b'{"cmd":"ping","id":"\x00"}', None, "JSON object"),
    "a list": (b'[{"cmd":"ping","id":1}]', None, "JSON object"),
    "a string": (b'"ping"', None, "JSON object"),
    "null": (b"null", None, "JSON object"),
    "too deep": (b'{"id":1,"cmd":' + b"[" * 9_000 + b"]" * 9_000 + b"}", None, "JSON object"),
    "deep": (b'{"id":1,"cmd":' + b"[" * 900 + b"]" * 900 + b"}", 1, "A command names itself"),
    "no cmd": (b'{"id":1}', 1, "A command names itself"),
    "cmd null": (b'{"id":1,"cmd":null}', 1, "A command names itself"),
    "cmd a number": (b'{"id":1,"cmd":1}', 1, "A command names itself"),
    "cmd a list": (b'{"id":1,"cmd":["ping"]}', 1, "A command names itself"),
    "id null": (b'{"cmd":"ping","id":null}', None, "id is a string of at most 255"),
    "id true": (b'{"cmd":"ping","id":true}', None, "id is a string"),
    "id 1.0": (b'{"cmd":"ping","id":1.0}', None, "id is a string"),
    "id a list": (b'{"cmd":"ping","id":[]}', None, "id is a string"),
    "id too long": (b'{"cmd":"ping","id":"%s"}' % (b"x" * 256), None, "id is a string"),
    "id 2^53": (b'{"cmd":"ping","id":9007199254740992}', None, "id is a string"),
    "id -2^53": (b'{"cmd":"ping","id":-9007199254740992}', None, "id is a string"),
    "id beyond any integer": (b'{"cmd":"ping","id":%s}' % (b"9" * 300), None, "id is a string"),
    "null for a string": (b'{"cmd":"leave","id":1,"room":null}', 1, "room: expected a string"),
    "a number for a string": (b'{"cmd":"leave","id":1,"room":7}', 1, "room: expected a string"),
    "true for an integer": (b'{"cmd":"rooms","id":1,"limit":true}', 1, "limit: expected an int"),
    "1.0 for an integer": (b'{"cmd":"rooms","id":1,"limit":1.0}', 1, "limit: expected an int"),
    "1e3 for an integer": (b'{"cmd":"rooms","id":1,"limit":1e3}', 1, "limit: expected an int"),
    "a string for an integer": (b'{"cmd":"rooms","id":1,"limit":"9"}', 1, "limit: expected an int"),
    "2^53": (b'{"cmd":"rooms","id":1,"limit":9007199254740992}', 1, "limit: an integer is below"),
    "0 for true": (b'{"cmd":"logout","id":1,"everywhere":0}', 1, "everywhere: expected true or"),
    "null for left out": (b'{"cmd":"rooms","id":1,"limit":null}', 1, "limit: expected an int"),
    "one missing": (b'{"cmd":"send","id":1,"room":"x"}', 1, "content: missing"),
    "one too many": (b'{"cmd":"ping","id":1,"nonsense":1}', 1, "no field 'nonsense'"),
    "two too many": (b'{"cmd":"ping","id":1,"b":1,"a":1}', 1, "no field 'a', 'b'"),
    "two wrong": (
        b'{"cmd":"send","id":1,"room":1}',
        1,
        "room: expected a string; content: missing",
    ),
    "nested, no object": (b'{"cmd":"join","id":1,"room":"x","since":[]}', 1, "since: expected an"),
    "nested, null": (b'{"cmd":"join","id":1,"room":"x","since":null}', 1, "since: expected an"),
    "nested, empty": (b'{"cmd":"join","id":1,"room":"x","since":{}}', 1, "since.seq: missing"),
    "nested, wrong": (
        b'{"cmd":"join","id":1,"room":"x","since":{"epoch":"e","seq":"9"}}',
        1,
        "since.seq: expected an integer",
    ),
    "a time that is a number": (
        b'{"cmd":"ban","id":1,"room":"x","username":"y","until":1}',
        1,
        "until: expected a timestamp",
    ),
    "a time that is none": (
        b'{"cmd":"ban","id":1,"room":"x","username":"y","until":"soon"}',
        1,
        "until: expected a timestamp",
    ),
    "a time without a zone": (
        b'{"cmd":"mute","id":1,"room":"x","username":"y","until":"2026-11-22T08:00:00"}',
        1,
        "until is a moment with its zone",
    ),
    "a time before all": (
        b'{"cmd":"mute","id":1,"room":"x","username":"y","until":"0001-01-01T00:00:00+09:00"}',
        1,
        "until is a moment with its zone",
    ),
    "a string for an array": (
        b'{"cmd":"history","id":1,"room":"x","types":"member"}',
        1,
        "types: expected an array of strings",
    ),
    "an array of something else": (
        b'{"cmd":"history","id":1,"room":"x","types":["member",1]}',
        1,
        "types: expected an array of strings",
    ),
    "below zero": (b'{"cmd":"history","id":1,"room":"x","before":-1}', 1, "before is 0 or more"),
    "a limit of zero": (b'{"cmd":"rooms","id":1,"limit":0}', 1, "limit is 1 or more"),
    "no credentials": (b'{"cmd":"login","id":1}', 1, "Username and password are required"),
}


@pytest.mark.parametrize(("frame", "id", "says"), MALFORMED.values(), ids=MALFORMED)
def test_what_is_no_command_is_invalid_and_the_answer_says_where(
    frame: bytes, id: object, says: str
) -> None:
    request = WIRE.decode(frame)
    assert isinstance(request.command, Invalid)
    assert ("invalid", id) == (request.command.code, request.id)
    assert says in request.command.message


def test_a_field_too_many_inside_another_is_looked_for_there() -> None:
    frame = b'{"cmd":"join","room":"x","since":{"epoch":"e","seq":1,"room":"x"}}'
    command = WIRE.decode(frame).command
    assert isinstance(command, Invalid)
    assert "since" in command.message, "join itself has a field of that name"


def test_an_error_is_a_sentence_however_much_was_wrong() -> None:
    frame = orjson.dumps({"cmd": "ping", **{str(n): n for n in range(4000)}})
    command = WIRE.decode(frame).command
    assert isinstance(command, Invalid)
    assert len(command.message) < 1000


def test_an_unknown_command_is_told_apart_and_named() -> None:
    request = WIRE.decode(b'{"cmd":"dance","id":"a","with":null}')
    assert isinstance(request.command, UnknownCommand)
    assert request.id == "a"
    assert "'dance'" in request.command.message
    assert type(WIRE.decode(b'{"cmd":"PING"}').command) is UnknownCommand


@pytest.mark.parametrize("id", [0, -1, 2**53 - 1, 1 - 2**53, "", "x" * 255, "☃\n"])
def test_an_id_is_any_short_string_or_exact_integer(id: str | int) -> None:
    frame = orjson.dumps({"cmd": "ping", "id": id})
    assert Request(id, commands.Ping()) == WIRE.decode(frame)


def test_of_two_equal_keys_the_last_wins() -> None:
    frame = b'{"cmd":"dance","id":1,"room":"a","cmd":"leave","room":"b","id":2}'
    assert Request(2, commands.Leave("b")) == WIRE.decode(frame)


def test_white_space_around_a_frame_is_no_part_of_it() -> None:
    assert Request(None, commands.Ping()) == WIRE.decode(b' {"cmd" : "ping"} \r\n')


def test_a_frame_is_too_large_only_above_the_limit() -> None:
    wire = JsonLines(Limits(frame_bytes=100))
    frame = b'{"cmd":"ping","id":1}'.ljust(100)
    assert Request(1, commands.Ping()) == wire.decode(frame)
    request = wire.decode(frame + b" ")
    assert isinstance(request.command, TooLarge)
    assert request.id == 1
    assert "100 bytes" in request.command.message


def test_a_frame_that_came_cut_is_too_large_without_an_id() -> None:
    request = WIRE.decode((b'{"id":1,"content":"' + b"x" * MAX_FRAME)[: MAX_FRAME + 1])
    assert isinstance(request.command, TooLarge)
    assert request.id is None


# In: what is a command.

TEXT = st.text(max_size=20)
NATURAL = st.integers(0, 2**53 - 1)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "room": TEXT,
    "username": TEXT,
    "password": TEXT,
    "token": TEXT,
    "old": TEXT,
    "new": TEXT,
    "end_others": st.booleans(),
    "display_name": TEXT,
    "everywhere": st.booleans(),
    "kind": st.sampled_from(["public", "private"]),
    "title": TEXT,
    "topic": TEXT,
    "content": TEXT,
    "seq": NATURAL,
    "reason": st.none() | TEXT,
    "txn_id": st.none() | st.text("abc:0-9 ☃", min_size=1, max_size=64),
    "since": st.none() | st.builds(Since, TEXT, NATURAL),
    "history": NATURAL,
    "query": TEXT,
    "cursor": st.none() | TEXT,
    "limit": st.none() | st.integers(1, 2**53 - 1),
    "after": st.none() | TEXT,
    "until": st.none() | st.datetimes(timezones=st.just(UTC)),
    "role": st.sampled_from(["owner", "moderator", "member", "reader"]),
    "slow_mode": st.none() | st.integers(0, commands.SLOWEST),
    "archived": st.booleans(),
    "retention_days": st.none() | st.integers(0, commands.LONGEST),
    "reply_to": st.none() | NATURAL,
    "emoji": TEXT,
}
EXCLUSIVE: dict[type, list[list[str]]] = {  # of these, one set at a time
    commands.Login: [["username", "password"], ["token"]],
    commands.History: [
        ["room", "limit"],
        ["room", "before"],
        ["room", "after"],
        ["room", "around"],
        ["room", "types"],
    ],
}
KINDS = st.lists(st.sampled_from(commands.LOGGED), min_size=1).map(tuple)


def some(command: type[Command]) -> st.SearchStrategy[Any]:
    fields = [field.name for field in attrs.fields(command)]
    values = FIELDS | dict.fromkeys(["before", "around"], NATURAL) | {"types": KINDS}
    if command in (commands.History, commands.Reports):
        values["after"] = NATURAL
    if command is commands.Report:
        values["reason"] = TEXT
    choices: list[st.SearchStrategy[Any]] = [
        st.builds(command, **{name: values[name] for name in names})
        for names in EXCLUSIVE.get(command, [fields])
    ]
    return st.one_of(choices)


@pytest.mark.parametrize("command", get_args(Command))
@given(data=st.data())
@settings(max_examples=25)
def test_every_command_is_its_name_as_a_word_and_its_fields(
    data: st.DataObject, command: type[Command]
) -> None:
    expected = data.draw(some(command))
    fields = attrs.asdict(expected, filter=lambda _, value: value is not None)
    frame = orjson.dumps({**fields, "cmd": commands.word(command), "id": 1})
    assert Request(1, expected) == WIRE.decode(frame)


def test_hello_can_tell_of_every_command() -> None:
    assert tuple(sorted(map(commands.word, get_args(Command)))) == COMMANDS
    assert {"set_role", "send"} < {*COMMANDS}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(["id", *FIELDS, "before", "around", "epoch"]) | TEXT
OBJECTS = st.builds(
    lambda fields, cmd: {**fields, "cmd": cmd},
    st.dictionaries(KEYS, VALUES, max_size=5),
    st.sampled_from(COMMANDS) | VALUES,
)


def answered(frame: bytes) -> None:
    request = WIRE.decode(frame)
    if not isinstance(request.command, ChatError):
        assert isinstance(request.command, get_args(Command))
        return
    assert request.command.message
    answer = orjson.loads(WIRE.reply(request.command, request.id))
    assert request.command.code == answer["error"]["code"]
    assert request.id == answer.get("id")


@given(st.binary() | st.text().map(str.encode))
@settings(max_examples=200)
def test_no_bytes_whatever_make_decode_raise(frame: bytes) -> None:
    answered(frame)


@given(OBJECTS | VALUES)
@settings(max_examples=300)
def test_no_json_whatever_makes_decode_raise(value: object) -> None:
    answered(orjson.dumps(value))


# Out.

AT = datetime(2026, 11, 22, 8, 0, 0, 123_999, tzinfo=UTC)
ADA = User("ada", "Ada")
LOBBY = Room("lobby", title="Lobby", epoch="k3x9")
MEMBERSHIP = Membership(LOBBY, "member", "k3x9", 1, 121, 118, 3, 1)
HI = Message("lobby", 122, "ada", AT, "hi")

TIME = '"2026-11-22T08:00:00.123Z"'
ROOM = '{"name": "lobby", "kind": "public", "title": "Lobby", "topic": ""}'
MESSAGE = (
    '{"event": "message", "room": "lobby", "seq": 122, "sender": "ada", "content": "hi",'
    f' "timestamp": {TIME}}}'
)
FOUND = MESSAGE.replace("122", "121").removesuffix("}") + ', "head": 122}'
USER_AND_ROOMS = (
    '"user": {"username": "ada", "display_name": "Ada"},'
    f' "rooms": [{{"room": {ROOM}, "role": "member", "epoch": "k3x9",'
    ' "first": 1, "head": 121, "read": 118, "unread": 3, "unread_mentions": 1}]'
)
ACKNOWLEDGEMENTS: dict[str, Callable[[str, int, datetime], Reply]] = {
    "invite": InviteReply,
    "kick": KickReply,
    "ban": BanReply,
    "unban": UnbanReply,
    "mute": MuteReply,
    "unmute": UnmuteReply,
    "set_role": SetRoleReply,
    "update": UpdateReply,
}
SHAPES: list[tuple[Reply | Event | Hello | Bye, str]] = [
    (
        RegisterReply(ADA, "cc_x", AT, [MEMBERSHIP]),
        f'{{"reply": "register", "id": 3, "token": "cc_x", "expires": {TIME}, {USER_AND_ROOMS}}}',
    ),
    (
        LoginReply(ADA, "cc_x", AT, [MEMBERSHIP]),
        f'{{"reply": "login", "id": 3, "token": "cc_x", "expires": {TIME}, {USER_AND_ROOMS}}}',
    ),
    (LogoutReply(), '{"reply": "logout", "id": 3}'),
    (PasswordReply(), '{"reply": "password", "id": 3}'),
    (
        ProfileReply(User("r2", "R2", bot=True)),
        '{"reply": "profile", "id": 3,'
        ' "user": {"username": "r2", "display_name": "R2", "bot": true}}',
    ),
    (
        RoomsReply([Listed("lobby", title="Lobby"), Listed("tea", role="invited")], True),
        f'{{"reply": "rooms", "id": 3, "rooms": [{ROOM}, {{"name": "tea", "kind": "public",'
        ' "title": "", "topic": "", "role": "invited"}], "complete": true}',
    ),
    (
        DirectReply(Room("tea", slow_mode=5, archived=True)),
        '{"reply": "direct", "id": 3, "room": {"name": "tea", "kind": "public", "title": "",'
        ' "topic": "", "slow_mode": 5, "archived": true}}',
    ),
    *(
        (
            reply("lobby", 122, AT),
            f'{{"reply": "{word}", "id": 3, "room": "lobby", "seq": 122, "timestamp": {TIME}}}',
        )
        for word, reply in ACKNOWLEDGEMENTS.items()
    ),
    (ReportReply(), '{"reply": "report", "id": 3}'),
    (
        ReportsReply([ReportItem(1, 122, "bob", "spam", AT)], True),
        '{"reply": "reports", "id": 3, "reports": [{"number": 1, "seq": 122, "username": "bob",'
        f' "reason": "spam", "timestamp": {TIME}}}], "complete": true}}',
    ),
    (
        BansReply(
            [
                BanItem(
                    "bob", Sanction(AT, 122, "ada", AT, "spam"), Sanction(None, 121, "ada", AT)
                ),
                BanItem("cyd", mute=Sanction()),
            ],
            True,
        ),
        f'{{"reply": "bans", "id": 3, "bans": [{{"username": "bob", "ban": {{"until": {TIME},'
        f' "seq": 122, "sender": "ada", "timestamp": {TIME}, "reason": "spam"}},'
        f' "mute": {{"seq": 121, "sender": "ada", "timestamp": {TIME}}}}},'
        ' {"username": "cyd", "mute": {}}], "complete": true}',
    ),
    (CreateReply(LOBBY), f'{{"reply": "create", "id": 3, "room": {ROOM}}}'),
    (
        JoinReply(LOBBY, "member", "k3x9", 1, 122, 118, 3, False, [HI], unread_mentions=1),
        f'{{"reply": "join", "id": 3, "room": {ROOM}, "role": "member", "epoch": "k3x9",'
        ' "first": 1, "head": 122, "read": 118, "unread": 3, "unread_mentions": 1,'
        ' "recovered": false,'
        f' "events": [{MESSAGE}]}}',
    ),
    (
        JoinReply(LOBBY, "member", "k3x9", 1, 122, 118, 3, True, Page([HI]), unread_mentions=1),
        f'{{"reply": "join", "id": 3, "room": {ROOM}, "role": "member", "epoch": "k3x9",'
        ' "first": 1, "head": 122, "read": 118, "unread": 3, "unread_mentions": 1,'
        ' "recovered": true,'
        f' "events": [{MESSAGE}]}}',
    ),
    (LeaveReply("lobby"), '{"reply": "leave", "id": 3, "room": "lobby"}'),
    (
        SendReply("lobby", 122, AT),
        f'{{"reply": "send", "id": 3, "room": "lobby", "seq": 122, "timestamp": {TIME}}}',
    ),
    (
        HistoryReply([HI], "k3x9", 1, 122, False),
        f'{{"reply": "history", "id": 3, "messages": [{MESSAGE}], "epoch": "k3x9",'
        ' "first": 1, "head": 122, "complete": false}',
    ),
    (
        HistoryReply([], "k3x9", 1, 122, True, [RoomChanged("lobby", 122, "ada", AT, "Tea")]),
        '{"reply": "history", "id": 3, "messages": [], "epoch": "k3x9", "first": 1,'
        ' "head": 122, "complete": true, "events": [{"event": "room", "room": "lobby",'
        f' "seq": 122, "sender": "ada", "timestamp": {TIME}, "title": "Tea"}}]}}',
    ),
    (TypingReply(), '{"reply": "typing", "id": 3}'),
    (
        SearchReply([Found("lobby", 121, "ada", AT, "hi", head=122)], "121"),
        f'{{"reply": "search", "id": 3, "messages": [{FOUND}], "next": "121"}}',
    ),
    (SearchReply([]), '{"reply": "search", "id": 3, "messages": []}'),
    (WhoReply(["ada"], 1), '{"reply": "who", "id": 3, "online": ["ada"], "count": 1}'),
    (
        MembersReply([MemberItem("ada", "Ada", "owner")], True),
        '{"reply": "members", "id": 3, "complete": true,'
        ' "members": [{"username": "ada", "display_name": "Ada", "role": "owner"}]}',
    ),
    (
        MembersReply([MemberItem("r2", "R2", "reader", bot=True)], True),
        '{"reply": "members", "id": 3, "complete": true, "members": [{"username": "r2",'
        ' "display_name": "R2", "role": "reader", "bot": true}]}',
    ),
    (PingReply(), '{"reply": "ping", "id": 3}'),
    (
        EditReply("lobby", 123, AT),
        f'{{"reply": "edit", "id": 3, "room": "lobby", "seq": 123, "timestamp": {TIME}}}',
    ),
    (
        DeleteReply("lobby", 124, AT, duplicate=True),
        f'{{"reply": "delete", "id": 3, "room": "lobby", "seq": 124, "timestamp": {TIME},'
        ' "duplicate": true}',
    ),
    (
        ReactReply("lobby", 125, AT),
        f'{{"reply": "react", "id": 3, "room": "lobby", "seq": 125, "timestamp": {TIME}}}',
    ),
    (
        UnreactReply("lobby", 122, AT, duplicate=True),
        f'{{"reply": "unreact", "id": 3, "room": "lobby", "seq": 122, "timestamp": {TIME},'
        ' "duplicate": true}',
    ),
    (
        MarkReadReply(122, 3, 1, 125),
        '{"reply": "mark_read", "id": 3, "read": 122, "unread": 3, "unread_mentions": 1,'
        ' "head": 125}',
    ),
    (
        Read("lobby", "ada", 122, 3, 1, 125),
        '{"event": "read", "room": "lobby", "username": "ada", "seq": 122, "unread": 3,'
        ' "unread_mentions": 1, "head": 125}',
    ),
    (HI, MESSAGE),
    (
        Message("lobby", 122, "ada", AT, "Hi!", edited=AT),
        f'{{"event": "message", "room": "lobby", "seq": 122, "sender": "ada", "timestamp": {TIME},'
        f' "content": "Hi!", "edited": {TIME}}}',
    ),
    (
        Message("lobby", 122, "ada", AT, "", erased=True),
        f'{{"event": "message", "room": "lobby", "seq": 122, "sender": "ada", "timestamp": {TIME},'
        ' "content": "", "erased": true}',
    ),
    (
        Edit("lobby", 123, "ada", AT, 122, "Hi!"),
        f'{{"event": "edit", "room": "lobby", "seq": 123, "sender": "ada", "timestamp": {TIME},'
        ' "target": 122, "content": "Hi!"}',
    ),
    (
        Edit("lobby", 123, "ada", AT, 122, "", erased=True),
        f'{{"event": "edit", "room": "lobby", "seq": 123, "sender": "ada", "timestamp": {TIME},'
        ' "target": 122, "content": "", "erased": true}',
    ),
    (
        Delete("lobby", 124, "ada", AT, 122),
        f'{{"event": "delete", "room": "lobby", "seq": 124, "sender": "ada", "timestamp": {TIME},'
        ' "target": 122}',
    ),
    (
        Delete("lobby", 124, "ada", AT, 122, "spam"),
        f'{{"event": "delete", "room": "lobby", "seq": 124, "sender": "ada", "timestamp": {TIME},'
        ' "target": 122, "reason": "spam"}',
    ),
    (
        Message(
            "lobby",
            122,
            "ada",
            AT,
            "Hi!",
            reply_to=7,
            mentions=("bob",),
            reactions=(Tally("☕", 2, me=False),),
        ),
        f'{{"event": "message", "room": "lobby", "seq": 122, "sender": "ada", "timestamp": {TIME},'
        ' "content": "Hi!", "reply_to": 7, "mentions": ["bob"],'
        ' "reactions": [{"emoji": "☕", "count": 2, "me": false}]}',
    ),
    (
        Reaction("lobby", 125, "ada", AT, 122, "☕", "add"),
        f'{{"event": "reaction", "room": "lobby", "seq": 125, "sender": "ada",'
        f' "timestamp": {TIME}, "target": 122, "emoji": "☕", "action": "add"}}',
    ),
    (
        Member("lobby", 1, "ada", AT, "bob", "role", "reader"),
        f'{{"event": "member", "room": "lobby", "seq": 1, "sender": "ada", "timestamp": {TIME},'
        ' "username": "bob", "action": "role", "role": "reader"}',
    ),
    (
        Member("lobby", 1, "ada", AT, "bob", "ban", None, AT, "spam"),
        f'{{"event": "member", "room": "lobby", "seq": 1, "sender": "ada", "timestamp": {TIME},'
        f' "username": "bob", "action": "ban", "until": {TIME}, "reason": "spam"}}',
    ),
    (
        RoomChanged("lobby", 1, "ada", AT, "", "", 0, False, 0),
        f'{{"event": "room", "room": "lobby", "seq": 1, "sender": "ada", "timestamp": {TIME},'
        ' "title": "", "topic": "", "slow_mode": 0, "archived": false,'
        ' "retention_days": 0}',
    ),
    (
        MembershipChanged(LOBBY, "join", "k3x9", 1, 5, 5, 0, "member"),
        f'{{"event": "membership", "room": {ROOM}, "change": "join", "role": "member",'
        ' "epoch": "k3x9", "first": 1, "head": 5, "read": 5, "unread": 0}',
    ),
    (
        ProfileChanged("ada", "Ada L."),
        '{"event": "profile", "username": "ada", "display_name": "Ada L."}',
    ),
    (
        Presence("lobby", 1, ["ada"], []),
        '{"event": "presence", "room": "lobby", "online": ["ada"], "offline": [], "count": 1}',
    ),
    (Typing("lobby", "ada"), '{"event": "typing", "room": "lobby", "username": "ada"}'),
    (
        Hello(1, "chatcore/0.1.0", ["ping"], 25.0, Limits()),
        '{"hello": {"v": 1, "server": "chatcore/0.1.0", "features": ["ping"], "ping": 25.0,'
        ' "limits": {"frame_bytes": 65536, "content_chars": 4000, "history": 200,'
        ' "resume": 10000, "in_flight": 64, "messages": {"rate": 5, "burst": 10},'
        ' "edit_seconds": null, "reactions": 20}}}',
    ),
    (
        Hello(1, "x", [], 9.5, Limits.none(), ADA, [MEMBERSHIP]),  # to somebody, and no rates
        '{"hello": {"v": 1, "server": "x", "features": [], "ping": 9.5,'
        ' "limits": {"frame_bytes": 65536, "content_chars": 4000, "history": 200,'
        f' "resume": 10000, "in_flight": 64, "messages": null,'
        f' "edit_seconds": null, "reactions": 20}}, {USER_AND_ROOMS}}}}}',
    ),
    (
        Bye(4001, "shutdown", True, 1.3),
        '{"bye": {"code": 4001, "reason": "shutdown", "reconnect": true, "retry_after": 1.3}}',
    ),
    (
        Bye(4502, "revoked", False),
        '{"bye": {"code": 4502, "reason": "revoked", "reconnect": false}}',
    ),
]


def spelled(item: Any) -> Any:
    """Encode as a client would see it, 3 being the id of what a reply answers."""
    is_reply = isinstance(item, (*get_args(Reply), ChatError))
    return orjson.loads(WIRE.reply(item, 3) if is_reply else WIRE.encode(item))


@pytest.mark.parametrize(("item", "shape"), SHAPES)
def test_what_is_told_has_the_shape_that_the_protocol_gives_it(item: object, shape: str) -> None:
    for _ in range(2):  # what was kept of the first time is the same
        assert orjson.loads(shape) == spelled(item)


def test_every_reply_and_event_there_is_has_its_shape_above() -> None:
    assert {*get_args(Reply), *get_args(Event), Hello, Bye} == {type(item) for item, _ in SHAPES}


def test_what_an_event_does_not_have_is_left_out() -> None:
    assert "role" not in spelled(Member("lobby", 1, "ada", AT, "ada", "leave"))
    assert "role" not in spelled(MembershipChanged(LOBBY, "leave", "k3x9", 1, 5, 5, 0, None))


def test_a_reply_says_duplicate_where_it_is_one() -> None:
    assert spelled(SendReply("lobby", 1, AT, duplicate=True))["duplicate"] is True


def test_a_time_is_told_in_utc_to_the_millisecond() -> None:
    moment = datetime(2026, 1, 1, 1, 30, tzinfo=timezone(timedelta(hours=2)))
    event = spelled(Message("lobby", 1, "ada", moment, "hi"))
    assert event["timestamp"] == "2025-12-31T23:30:00.000Z"


def test_an_error_says_whether_and_when_to_try_again() -> None:
    error = {"code": "rate_limited", "message": "Slow", "retryable": True, "retry_after": 0.8}
    assert {"error": error, "id": 3} == spelled(RateLimited("Slow", retry_after=0.8))
    error = {"code": "invalid", "message": "No", "retryable": False}
    assert {"error": error} == orjson.loads(WIRE.reply(Invalid("No"), None))


@pytest.mark.parametrize(
    "make",
    [
        lambda: WIRE.encode(Message("lobby", 1, "ada", AT, "hi")),
        lambda: WIRE.reply(PingReply(), 1),
        lambda: WIRE.reply(Invalid("No"), None),
        lambda: WIRE.command(commands.Ping(), 1),
    ],
    ids=["event", "reply", "error", "command"],
)
def test_a_frame_takes_no_more_memory_than_it_has_bytes(make: Callable[[], bytes]) -> None:
    """For what may wait for a peer is bounded by the frames' lengths."""
    assert weight(make) < len(make()) + 200


@given(st.text() | st.text(alphabet='\r\n\u2028\u2029\x85\x0b\x0c\x1c a"\\'))
@settings(max_examples=100)
def test_a_frame_is_one_line_whatever_its_text(text: str) -> None:
    frames = WIRE.encode(Message("lobby", 1, "ada", AT, text)), WIRE.reply(Invalid(text), text)
    for frame in frames:
        assert [frame] == frame.splitlines(keepends=True)
        assert frame.endswith(b"}\n")
    assert text == orjson.loads(frames[0])["content"]
    assert text == orjson.loads(frames[1])["id"]
