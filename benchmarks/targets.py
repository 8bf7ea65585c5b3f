"""Who is measured: chat-serve, and beside it other servers and the least that there can be."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import evolve, frozen

from benchmarks import generator
from benchmarks.machine import NODE
from benchmarks.report import Options
from benchmarks.server import populate, serving, started

PEERS = Path(__file__).parent / "peers"

FLOOR, OURS = "Python floor", "chat-serve"
NAIVE, SOCKETIO, FIRST = "Starlette, a send each", "python-socketio", "the first chatroom's stack"
NATS, INSPIRCD = "NATS", "InspIRCd"
WS, SIO = "ws://127.0.0.1:{port}/", "sio://127.0.0.1:{port}/socket.io/?EIO=4&transport=websocket"


@frozen
class Target:
    """A server, and how its clients come in and send.  `ROOM` stands for the room's name."""

    name: str
    url: str = WS
    steps: Sequence[str] = ()
    send: str = '{"content":"%B"}'
    answer: str = ""
    """How the answer to a message begins, up to the message's number."""
    peer: str | None = None
    """Its module in `benchmarks.peers`, or its script for node."""
    needs: Sequence[str] = ()
    """The modules without which it cannot run."""
    prelude: str = ""
    """Of chat-serve: Python that runs before it."""
    command: Sequence[str] = ()
    """Of another program: the words that start it, with `{port}` and `{configuration}`."""

    def missing(self) -> str | None:
        """Say what is missing to run it."""
        if self.peer and self.peer.endswith(".js"):
            if shutil.which("node") is None:
                return "node"
            absent = [name for name in self.needs if not (NODE / "node_modules" / name).exists()]
        elif self.command:
            absent = [name for name in self.command[:1] if shutil.which(name) is None]
        else:
            absent = [name for name in self.needs if importlib.util.find_spec(name) is None]
        return " and ".join(absent) or None


CHAT = Target(
    OURS,
    f"{WS}ws",
    (
        's:{"cmd":"login","id":1,"token":"cc_user%d"}',
        'w:"reply":"login"',
        's:{"cmd":"join","id":2,"room":"ROOM","history":0}',
        'w:"reply":"join"',
    ),
    '{"cmd":"send","id":%q,"room":"ROOM","content":"%B"}',
    '{"reply":"send","id":',
)
WITHOUT_LOWAT = evolve(CHAT, prelude="import socket; del socket.TCP_NOTSENT_LOWAT")
FIRST_CHATROOM = Target(
    FIRST,
    SIO,
    ("w:sid", "s:40", "w:40{", 's:42["join",{"username":"u%d","room":"ROOM"}]', "w:joined"),
    '42%q["send_message",{"content":"%B"}]',
    "43",
    "first_chatroom",
    ("flask_socketio", "flask_sqlalchemy", "gevent", "geventwebsocket"),
)
SIO_STEPS = ("w:sid", "s:40", "w:40{")
SIO_SEND = '42["send_message",{"content":"%B"}]'
TARGETS = (
    Target(FLOOR, peer="floor"),
    CHAT,
    Target(NAIVE, peer="naive"),
    Target("websockets broadcast", peer="broadcast"),
    Target(SOCKETIO, SIO, SIO_STEPS, SIO_SEND, peer="room", needs=("socketio",)),
    FIRST_CHATROOM,
    Target("node ws", peer="ws.js", needs=("ws",)),
    Target("node socket.io", SIO, SIO_STEPS, SIO_SEND, peer="socketio.js", needs=("socket.io",)),
    Target(
        NATS,
        "crlf://127.0.0.1:{port}/",
        ("w:INFO", 's:CONNECT {"verbose":false}', "s:SUB ROOM 1", "s:PING", "w:PONG"),
        "PUB ROOM %L\r\n%B",
        command=("nats-server", "--addr", "127.0.0.1", "--port", "{port}", "--log", os.devnull),
    ),
    Target(
        INSPIRCD,
        "irc://127.0.0.1:{port}/",
        ("s:NICK u%d", "s:USER u%d 0 * :u", "w: 001 ", "s:JOIN #ROOM", "w: 366 "),
        "PRIVMSG #ROOM :%B",
        command=("inspircd", "--nofork", "--nopid", "--runasroot", "--config", "{configuration}"),
    ),
)


def available(
    targets: Sequence[Target] = TARGETS,
) -> tuple[list[Target], list[str]]:
    """Return the targets that can run here, and a sentence for each that cannot."""
    missing = [(target, target.missing()) for target in targets]
    return (
        [target for target, what in missing if what is None],
        [f"Without {target.name}: {what} is not here." for target, what in missing if what],
    )


def measure(
    target: Target,
    options: Options,
    people: int,
    room: str,
    *more: object,
    during: Sequence[str],
    answered: bool = False,
) -> Sequence[Mapping[str, Any]]:
    """Start a target, have people in a room, run phases of load, and return what each did.

    A room named with `%d` is one for each.  `answered` is to wait for the answer to a
    message, and not until everybody has it.
    """
    program = generator.build(options.directory)
    with running(target, options.directory, people, room) as (pid, port):
        send = target.send.replace("ROOM", room)
        words = ["--answer", target.answer] if answered else []
        return generator.phases(
            program,
            target.url.format(port=port),
            pid,
            people,
            [step.replace("ROOM", room) for step in target.steps],
            *("--send", send, *words, *more, "--settle", 0.1 if options.quick else 1),
            during=during,
        )


@contextlib.contextmanager
def running(target: Target, directory: Path, people: int, room: str) -> Iterator[tuple[int, int]]:
    """Run a target's server on the first core; give its process and its port."""
    if target.peer is None and not target.command:
        rooms: dict[str, list[str]] = {}
        for number in range(people):
            rooms.setdefault(room.replace("%d", str(number)), []).append(f"user{number}")
        populate(directory / "chat.db", rooms)
        with serving(directory / "chat.db", prelude=target.prelude) as server:
            yield server.pid, server.ports["ws"]
        return
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with started(_words(target, port, directory)) as process:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            with contextlib.suppress(subprocess.TimeoutExpired):
                raise RuntimeError(f"{target.name} did not start: {process.wait(0.01)}")
        yield process.pid, port


def _words(target: Target, port: int, directory: Path) -> Sequence[str]:
    """Spell the command that starts a server that is not ours, on a port that is free."""
    if target.command:
        configuration = directory / f"{target.command[0]}.conf"
        template = PEERS / configuration.name
        if template.exists():
            text = template.read_text("utf-8").replace("{port}", str(port))
            configuration.write_text(text, "utf-8")
        return [word.format(port=port, configuration=configuration) for word in target.command]
    assert target.peer is not None
    if target.peer.endswith(".js"):
        program = ["node", str(NODE / target.peer)]
    else:
        program = [sys.executable, "-m", f"benchmarks.peers.{target.peer}"]
    return [*program, str(port), str(directory)]
