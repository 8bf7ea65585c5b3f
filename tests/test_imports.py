"""`import chatcore` is cheap, and its names are there when they are asked for."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import subprocess
import sys

import pytest

import chatcore


def loaded(*statements: str) -> set[str]:
    """Run statements in a fresh interpreter; say what they loaded."""
    program = "import sys, json; before = set(sys.modules)\n{}\nprint(json.dumps(sorted({})))"
    newly = "set(sys.modules) - before"
    done = subprocess.run(
        [sys.executable, "-I", "-c", program.format("\n".join(statements), newly)],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(done.stdout))


def packages(modules: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules}


HEAVY = {"sqlalchemy", "alembic", "starlette", "uvicorn", "websockets"}


def test_import_loads_nothing_but_a_little_of_the_standard_library() -> None:
    modules = loaded("import chatcore")
    assert {"chatcore"} == {name for name in modules if name.startswith("chat")}
    assert {"chatcore"} == packages(modules) - sys.stdlib_module_names
    assert not packages(modules) & {"asyncio", "concurrent", "logging", "socket", "sqlite3", "ssl"}


def test_a_chat_in_memory_needs_no_database_and_no_web() -> None:
    modules = loaded("import chatcore", "chatcore.Chat(chatcore.MemoryRepository())")
    assert "chatcore.chat" in modules
    assert not packages(modules) & (HEAVY | {"sqlite3"})


def test_a_server_that_keeps_all_in_memory_needs_no_database() -> None:
    assert "sqlalchemy" not in packages(loaded("import chat_transports.server.cli"))


def test_a_chat_in_a_file_needs_no_web() -> None:
    modules = loaded("from chatcore import Chat, SqliteRepository, serve")
    assert "sqlalchemy" in modules
    assert not packages(modules) & (HEAVY - {"sqlalchemy"})


def test_star_brings_all_names() -> None:
    modules = loaded("from chatcore import *", "Chat, serve, User")
    assert "chatcore.repository.sql" in modules


def test_every_public_name_is_there_and_is_what_its_module_has() -> None:
    homes = imported_for_type_checkers()
    assert sorted(chatcore.__all__) == sorted(homes)
    for name, home in homes.items():
        assert getattr(importlib.import_module(home), name) is getattr(chatcore, name)


def imported_for_type_checkers() -> dict[str, str]:
    """Return each name under `if TYPE_CHECKING` and where it says that it is from."""
    tree = ast.parse(inspect.getsource(chatcore))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    return {
        alias.name: str(node.module)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_what_loads_at_run_time_is_what_type_checkers_see() -> None:
    assert imported_for_type_checkers() == vars(chatcore)["_HOMES"]


def test_dir_tells_the_public_names() -> None:
    assert sorted([*chatcore.__all__, "__version__"]) == dir(chatcore)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'chatcore' has no attribute 'Room5'"):
        chatcore.Room5  # noqa: B018 - asking is the test
    assert not hasattr(chatcore, "attrs")


@pytest.mark.parametrize(
    ("entry", "missing", "extra"),
    [
        ("chat_transports.server", "click", "server"),
        ("chat_transports.server", "uvicorn", "server"),
        ("chat_cli", "click", "client"),
    ],
)
def test_a_command_without_its_extra_says_what_to_install(
    entry: str, missing: str, extra: str
) -> None:
    script = f"""
import sys
sys.modules[{missing!r}] = None  # what an import of something missing finds
sys.argv = ["x", "--version"]
from {entry} import main
main()
"""
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 1
    assert f"pip install 'chatcore[{extra}]'" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_the_socketio_door_without_its_extra_says_what_to_install() -> None:
    script = """
import sys
sys.modules["socketio"] = None
sys.argv = ["chat-serve", "--transport", "socketio"]
from chat_transports.server import main
main()
"""
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 2
    assert "pip install 'chatcore[socketio]'" in ran.stderr
    assert "Traceback" not in ran.stderr
