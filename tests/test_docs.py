"""What the documentation says is so: its programs run, and its examples are answered as shown."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import pkgutil
import re
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType, NoneType
from typing import Any, get_args, get_type_hints

import click
import orjson
import pytest
from attrs import NOTHING, fields_dict, frozen
from click.core import ParameterSource

import chatcore
from chat_cli.conversation import USAGE
from chat_transports.endpoints import ENDPOINTS
from chat_transports.server import cli
from chatcore import errors, policy, testing
from chatcore.chat import Chat
from chatcore.codec import COMMANDS, JsonLines
from chatcore.commands import Command, Since, word
from chatcore.errors import ChatError
from chatcore.events import (
    DURABLE,
    Bye,
    Close,
    Delete,
    Edit,
    Event,
    Member,
    MembershipChanged,
    Message,
    Presence,
    ProfileChanged,
    Reaction,
    Read,
    RoomChanged,
    Typing,
)
from chatcore.model import Limits, Rate, Room
from chatcore.repository.memory import MemoryRepository
from chatcore.repository.sql import SqliteRepository
from chatcore.testing import FakeClock, MemoryLink, Transcript, connect
from tests.capture import CAPTURE, play, without_times

DOCS = Path(__file__).parent.parent / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
PROTOCOL, SERVER, API = "reference/protocol.md", "guide/server.md", "reference/api.md"
HTTP, ROLES, TERMINAL = "reference/http.md", "reference/roles.md", "guide/terminal.md"
PASSWORD = "correct horse"


# Reading a page.


@frozen
class Block:
    """A fenced block of code."""

    page: str
    line: int
    language: str
    fence: str
    text: str
    section: str
    """The heading that it stands under."""

    @property
    def title(self) -> str:
        found = re.search(r'title="([^"]*)"', self.fence)
        return found[1] if found else f"block{self.line}.py"


def read(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def plain(cell: str) -> str:
    return cell.strip().strip("_`")


def blocks(page: str, language: str) -> list[Block]:
    """Return a page's blocks in one language."""
    found: list[Block] = []
    section, fence, start, body = "", "", 0, list[str]()
    for number, line in enumerate(read(page).splitlines(), 1):
        if fence:
            if line == "```":
                spoken = re.match(r"```(?:\{ \.)?(\w+)", fence)
                assert spoken, f"{page}:{start}: a block says its language"
                found.append(Block(page, start, spoken[1], fence, "\n".join(body) + "\n", section))
                fence = ""
            else:
                body.append(line)
        elif line.lstrip().startswith("```"):
            assert line[0] == "`", f"{page}:{number}: a block begins at the margin, or is not found"
            fence, start, body = line, number, []
        elif line.startswith("#"):
            section = plain(line.lstrip("#"))
    return [block for block in found if block.language == language]


def part(page: str, heading: str) -> str:
    """Return what stands under a heading, up to the next of its level or above."""
    level = heading.partition(" ")[0]
    _, found, rest = read(page).partition(f"\n{heading}\n")
    assert found, f"{page} has no {heading!r}"
    return re.split(rf"^#{{1,{len(level)}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def table(text: str) -> list[list[str]]:
    """Return the rows of the first table, without its head."""
    lines = text.splitlines()
    start = next((n for n, line in enumerate(lines) if line.startswith("|")), len(lines))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def headings(text: str) -> list[str]:
    return re.findall(r"^### `(\w+)`$", text, re.MULTILINE)


# HTTP.


def test_the_page_of_http_has_every_endpoint_and_its_fields() -> None:
    listed = {
        plain(endpoint): (re.findall(r"\[`(\w+)`\]", command), set(re.findall(r"`(\w+)`", fields)))
        for endpoint, command, fields in table(part(HTTP, "## Commands"))
    }
    there = {
        f"{method} {path}": (
            [endpoint.word],
            fields_dict(endpoint.command).keys() - {*re.findall(r"{(\w+)}", path)},
        )
        for path, methods in ENDPOINTS.items()
        for method, endpoint in methods.items()
    }
    assert {
        name: (word, fields - {"duplicate"}) for name, (word, fields) in listed.items()
    } == there


# The site.


def test_the_site_builds_and_asks_no_other_host_for_anything(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(tmp_path)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        build, cwd=DOCS.parent, env=quiet, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    fetched = re.compile(
        r"""<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=["']?(?:https?:)?//[^>]*"""
        r"""|url\(["']?(?:https?:)?//[^)]*"""
    )
    built = [*tmp_path.rglob("*.html"), *tmp_path.rglob("*.css")]
    assert len(built) > len(PAGES)
    assert [] == [found for path in built for found in fetched.findall(path.read_text("utf-8"))]


# Programs.


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_the_programs_of_a_page_run(page: str, tmp_path: Path) -> None:
    """One after the other, in one directory, each as the file that its title names.

    Where the page shows what `python FILE` prints, it prints that.
    """
    printed: dict[str, str] = {}
    for block in blocks(page, "python"):
        if block.text.startswith("--8<--"):
            continue  # a file of examples/, which has tests of its own
        if ".fragment" in block.fence:
            compile(block.text, block.page, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            continue
        (tmp_path / block.title).write_text(block.text, encoding="utf-8")
        run = [sys.executable, "-W", "error", "-X", "dev", block.title]
        done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=False)
        # How long a turn of the loop took is the machine's affair, not the program's.
        told = [each for each in done.stderr.splitlines() if not each.startswith("Executing <")]
        assert (done.returncode, told) == (0, []), f"{page}:{block.line}"
        shown = re.findall(r"^ *print\(.*\)  # (.*)$", block.text, re.MULTILINE)
        assert shown == done.stdout.splitlines()
        printed[block.title] = done.stdout
    for block in blocks(page, "console"):
        for file, shown in re.findall(r"^\$ python (\w+\.py)\n([^$]*)", block.text, re.MULTILINE):
            assert printed[file] == shown


# The terminal.


def test_the_page_of_the_terminal_has_every_command_as_help_has_it() -> None:
    commands = [
        usage
        for line in read(TERMINAL).splitlines()
        if line.startswith("| `/")
        for usage in re.findall(r"`(/[^`]+)`", line.split("|")[1])
    ]
    assert sorted(commands) == sorted(usage for usage, _ in USAGE)


def test_the_readme_shows_the_capture() -> None:
    shown = re.findall(
        r"```text\n(.*?)```", (DOCS.parent / "README.md").read_text("utf-8"), re.DOTALL
    )
    assert [CAPTURE.read_text("utf-8")] == shown


async def test_the_capture_is_what_a_terminal_shows() -> None:
    """Apart from the times; where it is not, `python -m tests.capture` makes it anew."""
    with tempfile.TemporaryDirectory() as directory:  # a socket's path must be short
        seen = await play(Path(directory))
    assert without_times(CAPTURE.read_text("utf-8")) == without_times(seen)


# The protocol's examples.


ROOMS = (
    Room("lobby", title="Lobby", epoch="d385e2d6"),
    Room("tea", title="Tea", topic="The kettle is on", epoch="9c41f0aa"),
)
SAID = (("bob", "Good morning"), ("ada", "Morning! Tea?"), ("bob", "Yes, please"))
NOT_YET_SOMEBODY = ("hello", "register", "login")
VARIES = {"token": "cc_…", "server": "…", "epoch": "…"}
"""What each run has anew."""


@frozen
class Line:
    """What one side says in an example."""

    who: str
    up: bool
    frame: dict[str, Any]


def conversation(block: Block) -> list[Line]:
    spoken: list[tuple[str, str, str]] = []
    for line in block.text.splitlines():
        if begins := re.match(r"(\w+ )?([→←]) (.*)", line):
            spoken.append((begins[1] or "ada", begins[2], begins[3]))
        else:
            who, arrow, frame = spoken.pop()
            spoken.append((who, arrow, frame + line.strip()))
    return [Line(who.strip(), arrow == "→", orjson.loads(frame)) for who, arrow, frame in spoken]


class Stage:
    """A chat with ada and bob in it, and whoever else speaks."""

    def __init__(self, chat: Chat, stack: contextlib.AsyncExitStack) -> None:
        self._chat = chat
        self._stack = stack
        self._links: dict[str, MemoryLink] = {}

    async def enter(self, name: str) -> Transcript:
        peer, self._links[name] = await self._stack.enter_async_context(connect(self._chat))
        return peer

    async def say(self, line: Line) -> None:
        if line.who not in self._links:
            await self._chat.register(line.who, PASSWORD)
            await (await self.enter(line.who)).do("login", username=line.who, password=PASSWORD)
        self._links[line.who].send(orjson.dumps(line.frame))

    async def hear(self, line: Line) -> dict[str, Any]:
        """Return the next frame of the kind that is shown."""
        while True:
            frame: dict[str, Any] = orjson.loads(await self._links[line.who].next())
            if kind(frame) == kind(line.frame):
                return frame


def kind(frame: dict[str, Any]) -> tuple[object, ...]:
    if "event" in frame:
        return ("event", frame["event"])
    return ("answer", frame["id"]) if "id" in frame else (*frame,)


def steady(value: Any) -> Any:
    """Return a frame without what each run has anew."""
    if isinstance(value, dict):
        return {key: VARIES.get(key, steady(inner)) for key, inner in value.items()}
    return [steady(inner) for inner in value] if isinstance(value, list) else value


@contextlib.asynccontextmanager
async def stage(lines: Sequence[Line]) -> AsyncIterator[Stage]:
    """Put everything where the page says that it is when an example begins."""
    first = lines[0]
    in_hall = any(line.frame.get("room") == "hall" for line in lines)
    clock = FakeClock(datetime(2026, 11, 22, 8, tzinfo=UTC))
    repository = MemoryRepository()
    for room in ROOMS:
        repository.add_room(room)
    async with (
        Chat(repository, clock=clock, bcrypt_cost=4) as chat,
        contextlib.AsyncExitStack() as stack,
    ):
        users = {name: await chat.register(name.title(), PASSWORD) for name in ("bob", "ada")}
        for user in users.values():
            await chat.join(user, "lobby")
        await chat.join(users["bob"], "tea")
        for name, text in SAID:
            clock.advance(10)
            await chat.send(users[name], "lobby", text)
        if in_hall:
            await chat.create(users["ada"], "hall", title="The hall")
            await chat.join(users["bob"], "hall")
            await chat.send(users["bob"], "hall", "Cheap watches!")
        present = Stage(chat, stack)
        bob, ada = await present.enter("bob"), await present.enter("ada")
        await bob.do("login", username="bob", password=PASSWORD)
        await bob.do("join", room="lobby")
        if in_hall:
            await bob.do("join", room="hall")
        if str(first.frame.get("cmd", "hello")) not in NOT_YET_SOMEBODY:
            await ada.do("login", username="ada", password=PASSWORD)
            if (
                first.who != "ada"
                or first.frame.get("room") != "lobby"
                or first.frame["cmd"] != "join"
            ):
                await ada.do("join", room="lobby")
                while (await ada.event("presence"))["count"] < 2:
                    pass
            if in_hall:
                await ada.do("join", room="hall")
        yield present


EXAMPLES = [block for block in blocks(PROTOCOL, "text") if ".transcript" in block.fence]


@pytest.mark.parametrize("block", EXAMPLES, ids=lambda block: f"{block.section}-{block.line}")
async def test_an_example_is_answered_as_it_is_shown(block: Block) -> None:
    lines = conversation(block)
    async with stage(lines) as present:
        for line in lines:
            if line.up:
                await present.say(line)
            else:
                heard = await present.hear(line)
                assert json.dumps(steady(line.frame)) == json.dumps(steady(heard))


def test_a_frame_that_stands_alone_is_what_the_server_would_send() -> None:
    wire = JsonLines(Limits())
    by_code = {error.code: error for error in family(ChatError)}
    for block in blocks(PROTOCOL, "json"):
        match orjson.loads(block.text):
            case {"error": {"code": code, "message": text, "retry_after": seconds}, "id": id}:
                expected = wire.reply(by_code[code](text, retry_after=seconds), id)
            case {"bye": fields}:
                expected = wire.encode(Bye(**fields))
            case other:
                raise AssertionError(other)
        assert expected.decode() == "".join(map(str.strip, block.text.splitlines())) + "\n"


# The protocol's tables.


def family(error: type[ChatError]) -> list[type[ChatError]]:
    return [each for child in error.__subclasses__() for each in (child, *family(child))]


def test_every_command_has_its_section_with_an_example() -> None:
    shown = headings(part(PROTOCOL, "## Commands"))
    assert sorted(shown) == sorted(COMMANDS)
    for cmd in shown:
        sent = [
            line.frame["cmd"]
            for block in EXAMPLES
            if block.section == cmd
            for line in conversation(block)
            if line.up
        ]
        assert cmd in sent


JSON_TYPES: dict[object, str] = {
    str: "string",
    int: "integer",
    bool: "boolean",
    Since: "object",
    datetime: "timestamp",
    tuple[str, ...]: "array",
}


@pytest.mark.parametrize("command", get_args(Command))
def test_a_commands_table_has_its_fields(command: type) -> None:
    def spelled(annotation: Any) -> str:
        arms = (annotation,) if annotation in JSON_TYPES else get_args(annotation)
        return next(JSON_TYPES[arm] for arm in arms if arm is not NoneType)

    hints = get_type_hints(command)
    expected = [
        (f"`{name}`" if attribute.default is NOTHING else f"_`{name}`_", spelled(hints[name]))
        for name, attribute in fields_dict(command).items()
    ]
    section = part(PROTOCOL, f"### `{word(command)}`")
    rows = table(section) if expected else []
    assert expected == [(row[0], row[1]) for row in rows]


AT = datetime(2026, 11, 22, 8, tzinfo=UTC)
EVENTS: Sequence[Event] = (
    Message("lobby", 1, "ada", AT, "hi"),
    Edit("lobby", 2, "ada", AT, 1, "Hi!"),
    Delete("lobby", 3, "ada", AT, 1),
    Reaction("lobby", 4, "ada", AT, 1, "\u2615", "add"),
    Member("lobby", 1, "ada", AT, "ada", "join", "member"),
    RoomChanged("lobby", 1, "ada", AT, "Lobby"),
    MembershipChanged(ROOMS[0], "join", "e1", 1, 1, 1, 0, "member"),
    ProfileChanged("bob", "Bob"),
    Read("lobby", "ada", 1, 0, 0, 1),
    Presence("lobby", 1, ["ada"], []),
    Typing("lobby", "bob"),
)


def test_every_event_has_its_section_with_an_example() -> None:
    assert {type(event) for event in EVENTS} == set(get_args(Event))
    words = [orjson.loads(JsonLines(Limits()).encode(event))["event"] for event in EVENTS]
    assert set(DURABLE) <= set(words)
    assert headings(part(PROTOCOL, "## Events")) == words
    for each in words:
        told = [
            line.frame.get("event")
            for block in EXAMPLES
            if block.section == each
            for line in conversation(block)
        ]
        assert each in told


def test_the_table_of_roles_is_the_one_that_is_asked() -> None:
    page = read(ROLES)
    shown = [[plain(cell) for cell in row] for row in table(page)]
    assert shown == [[action, *cells.values()] for action, cells in policy.MAY.items()]
    head = next(line for line in page.splitlines() if line.startswith("| action |"))
    columns = [cell.strip() for cell in head.strip("|").split("|")]
    assert columns == ["action", *next(iter(policy.MAY.values()))]
    explained = table(page.partition("What the actions are:")[2])
    assert [plain(row[0]) for row in explained] == [*policy.MAY]


def test_the_table_of_ranks_is_the_one_that_is_asked() -> None:
    section = part(ROLES, "## Upon whom")
    roles = [*reversed(policy.ROLES), None]
    assert table(section) == [
        [role, *("yes" if policy.outranks(role, other) else "no" for other in roles)]
        for role in ("owner", "moderator")
    ]


def test_every_error_is_in_the_table() -> None:
    expected = {error.code: error.retryable for error in family(ChatError)}
    shown = {
        code: row[1] == "yes"
        for row in table(part(PROTOCOL, "## Errors"))
        for code in re.findall(r"`(\w+)`", row[0])
    }
    assert expected == shown


def test_every_close_code_is_in_the_table() -> None:
    expected = {close.value: close < Close.BAD_TOKEN for close in Close}
    rows = table(part(PROTOCOL, "## Close codes"))
    assert expected == {int(row[0]): row[1] == "yes" for row in rows}


def test_every_limit_is_in_the_table() -> None:
    def spelled(value: object) -> str:
        match value:
            case None:
                return "none"
            case bool():
                return "yes" if value else "no"
            case Rate(rate, burst):
                return f"{rate:g} a second, {burst} at once"
            case _:
                return f"{value:,.0f}"

    expected = {name: spelled(getattr(Limits(), name)) for name in fields_dict(Limits)}
    assert expected == {plain(row[0]): row[1] for row in table(part(PROTOCOL, "## Limits"))}


# The server.


def test_every_option_of_the_server_is_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its environment variable, which is tried, and its default."""
    rows = {plain(row[0].split("<br>")[0]): row for row in table(part(SERVER, "## Options"))}
    options = [each for each in cli.main.params if each.expose_value]
    assert sorted(rows) == sorted(option.opts[0] for option in options)
    for option in options:
        both, default, _ = rows[option.opts[0]]
        variable = both.split("<br>")[1]
        plainly = cli.main.make_context("chat-serve", [])
        assert plain(default) == as_typed(option.get_default(plainly))
        unset = "1" if isinstance(option.type, click.FloatRange) else "https://example.org"
        value = __file__ if isinstance(option.type, click.Path) else plain(default)
        with monkeypatch.context() as environment:
            environment.setenv(plain(variable), value or unset)
            context = cli.main.make_context("chat-serve", [])
        assert option.name is not None
        assert context.get_parameter_source(option.name) is ParameterSource.ENVIRONMENT


def as_typed(value: object) -> str:
    match value:
        case tuple():
            return " ".join(value)
        case float():
            return f"{value:g}"
        case str() | int():
            return str(value)
    return ""


def test_the_sql_of_the_servers_page_runs(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    shown = []
    with contextlib.closing(SqliteRepository(path)) as repository:
        repository.open()
        with contextlib.closing(sqlite3.connect(path)) as db:
            for block in blocks(SERVER, "sql"):
                for statement in block.text.strip().splitlines():
                    columns = db.execute(statement).description
                    shown.append([name for name, *_ in columns])
    assert shown == [
        ["id", "username", "password_hash"],
        ["id", "username", "content", "timestamp", "room"],
    ]


# The modules.


def test_every_public_name_is_in_the_reference() -> None:
    shown = re.findall(r"^::: chatcore\.([A-Za-z]+)$", read(API), re.MULTILINE)
    names = [name for name in shown if not isinstance(getattr(chatcore, name), ModuleType)]
    assert sorted(chatcore.__all__) == sorted(names)
    kit = re.findall(r"^        - (\w+)$", part(API, "## Testing"), re.MULTILINE)
    assert sorted(testing.__all__) == sorted(kit)


def test_every_member_that_the_reference_names_is_there() -> None:
    """What is not is left out of the page, without a word."""
    named = re.findall(
        r"^::: ([\w.]+)\n(?:    .*\n)*?      members: \[(.+)\]$", read(API), re.MULTILINE
    )
    assert named
    for path, members in named:
        shown = pkgutil.resolve_name(path)
        for member in members.split(", "):
            assert hasattr(shown, member), f"{path}.{member}"


def test_the_tree_of_errors_is_the_one_that_is_drawn() -> None:
    assert errors.__doc__ is not None
    (tree,) = blocks(API, "text")
    assert tree.text.strip() in errors.__doc__
