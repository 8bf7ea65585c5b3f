"""Our server keeps serving on a uvicorn whose internals are others than it knows."""

from __future__ import annotations

import contextlib
import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import aiohttp
import pytest
from websockets.asyncio.client import connect

from chat_transports.server import protocols
from chat_transports.server.frames import NEEDED, Frames
from chat_transports.server.requests import NEEDED as NEEDED_BY_REQUESTS
from chat_transports.server.requests import Requests
from chatcore.testing import Transcript
from tests import support
from tests.support import connected, serving
from tests.uvicorn_changed import rename

ALL = {**NEEDED, **NEEDED_BY_REQUESTS}
WEBSOCKETS = "uvicorn.protocols.websockets.websockets_sansio_impl"
HTTP = "uvicorn.protocols.http.httptools_impl"
SLOWER = "WebSockets go through ASGI, slower"
UNBOUNDED = "who asks by HTTP is neither counted nor timed"


@contextlib.contextmanager
def modules_restored() -> Iterator[None]:
    before = dict(sys.modules)
    try:
        yield
    finally:
        sys.modules.update(before)


@pytest.mark.parametrize("owner", ALL, ids=lambda owner: owner.__name__)
def test_each_name_that_is_needed_is_missed(owner: type) -> None:
    assert protocols.missing({owner: ALL[owner]}) == []
    for name in ALL[owner]:
        with modules_restored():
            changed = getattr(rename(owner.__module__, name), owner.__name__)
        assert protocols.missing({changed: ALL[owner]}) == [f"{owner.__name__}.{name}"]


@pytest.mark.parametrize("ours", [Frames, Requests], ids=lambda ours: ours.__name__)
def test_all_that_ours_take_from_uvicorns_is_needed(ours: type) -> None:
    (theirs,) = ours.__bases__
    named = re.findall(r"(?:self|super\(\))\.(\w+)|def (\w+)", inspect.getsource(ours))
    taken = {"".join(each) for each in named} & protocols.own_names(theirs) - {"__init__"}
    assert taken == {*ALL[theirs]}


def prelude(change: str) -> str:
    """Return a script that changes uvicorn and then is chat-serve."""
    return f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from tests.uvicorn_changed import move, rename
{change}
from chat_transports.server import main
main()
"""


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        (f"rename({WEBSOCKETS!r}, 'writable')", [SLOWER]),
        (f"rename({WEBSOCKETS!r}, 'scope')", [SLOWER]),
        (f"rename({WEBSOCKETS!r}, 'send_receive_event_to_app')", [SLOWER]),
        (f"rename({HTTP!r}, 'cycle')", [UNBOUNDED]),
        (f"move({WEBSOCKETS!r}); move({HTTP!r})", [SLOWER, UNBOUNDED]),
    ],
    ids=["writable", "scope", "send_receive_event_to_app", "cycle", "modules"],
)
async def test_on_another_uvicorn_all_goes_the_slow_way(change: str, lines: Sequence[str]) -> None:
    async with (
        serving(script=prelude(change), transports=["ws"]) as server,
        connected(server.urls["ws"]) as other,
        connect(server.urls["ws"], ping_interval=None) as websocket,
        aiohttp.ClientSession(server.http) as session,
    ):
        peer = support.Frames(websocket)
        talk = Transcript(peer.send, peer.receive)
        await (await websocket.ping())
        assert "reply" in await talk.do("ping")
        await websocket.send(['{"id":"in parts",', '"cmd":', '"ping"}'])
        assert "reply" in await talk.answer("in parts")
        await websocket.send(b"no text")
        assert (await talk.goodbye())["code"] == 4505
        async with session.get("/healthz") as healthy:
            assert healthy.status == 200
        assert "reply" in await other.do("ping")
    warned = [line for line in server.log if " INFO " not in line]
    assert len(warned) == len(lines)
    for line, instead in zip(warned, lines, strict=True):
        assert re.search(rf" uvicorn [\d.]+ is not as we know it \(.*\): {instead}$", line)
