"""Each example, started by the command in its docstring and used from outside, twice."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import os
import re
import runpy
import shlex
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
from attrs import define, field

from chatcore.codec import JsonLines
from chatcore.model import MAX_FRAME, Limits
from chatcore.ports import Link
from chatcore.testing import PATIENCE, LinkPeer, Transcript, check_link, eventually
from tests.support import Lines, present, serving

ROOT = Path(__file__).parent.parent
PASSWORD = "correct horse"


@define(eq=False)
class Example:
    """A process, and what it has said so far."""

    process: asyncio.subprocess.Process
    out: list[str] = field(factory=list)
    err: list[str] = field(factory=list)

    async def read(self) -> None:
        """Read until it has ended."""
        await asyncio.gather(
            _lines(self.process.stdout, self.out), _lines(self.process.stderr, self.err)
        )

    async def said(self, pattern: str) -> str:
        """Wait for a line that matches; return the pattern's group."""
        found: list[str] = []

        def look() -> bool:
            assert self.process.returncode is None, self.err
            found[:] = re.findall(pattern, "\n".join(self.out + self.err))
            return bool(found)

        await eventually(look)
        return found[0]


async def _lines(stream: asyncio.StreamReader | None, lines: list[str]) -> None:
    assert stream is not None
    async for raw in stream:
        lines.append(raw.decode().rstrip())  # noqa: PERF401 - each as it comes


SLOW = re.compile(r"Executing <.*> took \d+\.\d+ seconds")


def command(name: str) -> tuple[dict[str, str], list[str]]:
    """Return what a docstring says to type first: variables of the environment, and arguments."""
    docstring = ast.get_docstring(ast.parse((ROOT / "examples" / name).read_text()))
    assert docstring
    words = shlex.split(re.findall(r"^    (.*)$", docstring, re.MULTILINE)[0])
    variables = dict(word.split("=") for word in words if "=" in word)
    python, file, *arguments = words[len(variables) :]
    assert (python, file) == ("python", f"examples/{name}")
    strictly = [sys.executable, "-X", "dev", "-W", "error", str(ROOT / file)]
    return variables, [*strictly, *arguments]


@contextlib.asynccontextmanager
async def running(name: str, cwd: Path, *arguments: str) -> AsyncIterator[Example]:
    """Start an example as its docstring says, on a free port; at the end press Ctrl+C.

    `arguments` take the place of those that the docstring has.
    """
    variables, words = command(name)
    process = await asyncio.create_subprocess_exec(
        *(words[:6] if arguments else words),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=cwd,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "PORT": "0", **variables},
    )
    example = Example(process)
    reading = asyncio.create_task(example.read())
    try:
        yield example
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        async with asyncio.timeout(PATIENCE):
            assert await process.wait() == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await reading
        print(*example.out, *example.err, sep="\n")  # noqa: T201 - pytest shows it where a test failed
    assert not any("Traceback" in line or "Warning" in line for line in example.err)


async def test_the_readmes_example_is_the_file_and_runs(tmp_path: Path) -> None:
    example = (ROOT / "examples" / "embed.py").read_text()
    shown = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert shown[0] in example
    for said in (["Hello, world"], ["Hello, world"] * 2):
        _, words = command("embed.py")
        process = await asyncio.create_subprocess_exec(
            *words,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=tmp_path,
        )
        out, err = await process.communicate()
        # On a busy machine the development mode remarks on what took a tenth of a second.
        remarks = [line for line in err.decode().splitlines() if not SLOW.fullmatch(line)]
        assert (process.returncode, out.decode(), remarks) == (0, f"{said}\n", [])


# A bot.


async def test_echo_bot(tmp_path: Path) -> None:
    async with serving() as server, present(server.urls["ws"], "ada") as ada:
        await ada.do("send", room="lobby", content="x" * 4000)  # one word more is too much
        for _ in range(2):
            async with running("echo_bot.py", tmp_path, server.urls["ws"]):
                while "echo" not in (await ada.event("presence")).get("online", ()):
                    pass
                for text in ("Hello", "Is that all?"):
                    await ada.do("send", room="lobby", content=text)
                    # Had it answered itself, that would come before the next answer.
                    assert await ada.messages(2) == [text, f"ada said: {text}"]
            while "echo" not in (await ada.event("presence")).get("offline", ()):
                pass


# In a FastAPI application.


@contextlib.asynccontextmanager
async def browser() -> AsyncIterator[aiohttp.ClientSession]:
    """One person's: with cookies of its own, and an origin that it tells WebSockets."""
    jar = aiohttp.CookieJar(unsafe=True)  # of an address without a name, that is
    async with aiohttp.ClientSession(cookie_jar=jar) as session:
        yield session


@contextlib.asynccontextmanager
async def page(session: aiohttp.ClientSession, url: str) -> AsyncIterator[Transcript]:
    """Open the WebSocket, as the page does."""
    async with session.ws_connect(url + "/chat/ws", protocols=["chat.v1"], origin=url) as socket:
        yield Transcript(lambda frame: socket.send_str(frame.decode()), socket.receive_str)


async def test_fastapi(tmp_path: Path) -> None:
    for already in ([], ["Hello, Grace"]):
        async with (
            running("fastapi_app.py", tmp_path) as example,
            browser() as ada,
            browser() as grace,
        ):
            url = await example.said(r"running on (http://[\d.:]+)")
            async with ada.get(url) as shown:
                assert (shown.status, shown.content_type) == (200, "text/html")
                assert 'new WebSocket(location.origin.replace("http", "ws") + "/chat/ws"' in (
                    await shown.text()
                )
            async with page(ada, url) as stranger:
                bye = await stranger.goodbye()
                assert (bye["code"], bye["reason"]) == (4500, "Log in first")
            wrong = {"username": "ada", "password": "a guess"}
            async with ada.post(url + "/login", json=wrong) as refused:
                assert (refused.status, (await refused.json())["detail"]) == (
                    401,
                    "Invalid username or password",
                )
            for session, name in ((ada, "ada"), (grace, "grace")):
                right = {"username": name, "password": PASSWORD}
                async with session.post(url + "/login", json=right) as answer:
                    assert answer.status == 200
            async with page(ada, url) as first, page(grace, url) as second:
                joined = await first.do("join", room="lobby")
                assert first.hello["user"] == {"username": "ada", "display_name": "Ada"}
                assert already == [
                    e["content"] for e in joined["events"] if e["event"] == "message"
                ]
                await second.do("join", room="lobby")
                await first.do("send", room="lobby", content="Hello, Grace")
                heard = await second.event("message")
                assert (heard["sender"], heard["content"]) == ("ada", "Hello, Grace")
                async with ada.post(url + "/logout") as answer:
                    assert answer.status == 200
                assert (await first.goodbye())["code"] == 4502
                assert (await second.do("ping"))["reply"] == "ping"
            async with page(ada, url) as stranger:
                assert (await stranger.goodbye())["code"] == 4500


# In a Flask application.


async def test_flask(tmp_path: Path) -> None:
    ada, grace = "ada:secret", "grace:secret"
    said: list[dict[str, object]] = []
    for run in ("first", "second"):
        async with running("flask_app.py", tmp_path) as example:
            url = await example.said(r"Running on (http://[\d.:]+)") + "/messages"
            for stranger in ("", "ada:guess", "eve:"):
                assert await ask(url, stranger, content="Hello") == (401, "Who are you?")
            assert await ask(url, ada) == (200, said)
            form = {"content": "Hello from Flask", "txn_id": run}
            status, answer = await ask(url, ada, **form)
            said.append({"seq": answer["seq"], "sender": "ada", "content": form["content"]})
            assert (201, answer) == (status, answer)
            assert (201, answer) == await ask(url, ada, **form), "stored once"
            assert await ask(url, grace) == (200, said)
            assert await ask(f"{url}?after={answer['seq']}", grace) == (200, [])
            empty = {"error": "invalid", "message": "Message cannot be empty"}
            assert await ask(url, ada, content="") == (400, empty)
            flood = await asyncio.gather(*(ask(url, grace, content="and") for _ in range(60)))
            assert {status for status, _ in flood} == {201, 429}
            _, said = await ask(url, ada)


async def ask(url: str, login: str, **form: str) -> tuple[int, Any]:
    """GET, or POST a form, as curl does; return the status and what it says."""
    username, _, password = login.partition(":")
    headers = {"Authorization": aiohttp.encode_basic_auth(username, password)} if login else {}
    method = "POST" if form else "GET"
    async with (
        browser() as session,
        session.request(method, url, data=form, headers=headers) as answer,
    ):
        json = answer.content_type == "application/json"
        return answer.status, await (answer.json() if json else answer.text())


# On a Unix socket.


@contextlib.asynccontextmanager
async def line(path: Path) -> AsyncIterator[Transcript]:
    peer = Lines(*await asyncio.open_unix_connection(path, limit=MAX_FRAME))
    try:
        yield Transcript(peer.send, peer.receive)
    finally:
        await peer.close()


async def test_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "chat.sock"
    for cmd in ("register", "login"):
        async with running("unix_socket.py", tmp_path) as example:
            await example.said("Listening on (chat.sock)")
            async with line(path) as ada, line(path) as bob:
                for peer, name in ((ada, "ada"), (bob, "bob")):
                    await peer.do(cmd, username=name, password=PASSWORD)
                    await peer.do("join", room="lobby")
                await ada.do("send", room="lobby", content="Hello from a Unix socket")
                heard = await bob.event("message")
                assert heard["content"] == "Hello from a Unix socket"
                example.process.send_signal(signal.SIGINT)
                assert (await ada.goodbye())["reason"] == "shutdown"
                assert await example.process.wait() == 0


async def test_the_link_of_the_unix_socket_keeps_the_contract(tmp_path: Path) -> None:
    make: Any = runpy.run_path(str(ROOT / "examples" / "unix_socket.py"))["LineLink"]

    @contextlib.asynccontextmanager
    async def connected() -> AsyncIterator[tuple[Link, LinkPeer]]:
        links: list[Link] = []

        async def welcome(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            links.append(make(reader, writer, JsonLines(Limits())))
            await links[0].closed()

        server = await asyncio.start_unix_server(welcome, tmp_path / "link", limit=MAX_FRAME)
        peer = Lines(*await asyncio.open_unix_connection(tmp_path / "link", limit=4 * MAX_FRAME))
        await eventually(lambda: links)
        try:
            yield links[0], peer
        finally:
            server.close()
            links[0].close(1000, "")
            await peer.close()
            await links[0].closed()

    await check_link(connected)
