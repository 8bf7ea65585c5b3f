"""A Participant that asks by HTTP, and hears nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar
from urllib.parse import quote

import aiohttp
import orjson

from chat_transports.endpoints import ENDPOINTS, Endpoint
from chatcore import Participant, User
from chatcore.codec import JsonLines
from chatcore.commands import Command
from chatcore.errors import ChatError
from chatcore.events import Answer, Event, Notice, Reply
from chatcore.model import Limits, Membership

R = TypeVar("R", bound=Reply)

_PLACES: dict[type, tuple[str, Endpoint]] = {
    endpoint.command: (path, endpoint)
    for path, methods in ENDPOINTS.items()
    for endpoint in methods.values()
}


class HttpParticipant(Participant):
    def __init__(self, session: aiohttp.ClientSession, token: str) -> None:
        self._session = session
        self._headers = {"Authorization": f"Bearer {token}"}
        self._wire = JsonLines(Limits())

    @property
    def user(self) -> User | None:
        return None

    @property
    def memberships(self) -> Sequence[Membership]:
        return ()

    async def __anext__(self) -> Event | Notice:
        raise StopAsyncIteration

    async def _ask(self, command: Command, expected: type[R]) -> R:
        path, endpoint = _PLACES[type(command)]
        fields: dict[str, Any] = orjson.loads(self._wire.command(command, None))
        del fields["cmd"]
        for name in [name for name in fields if f"{{{name}}}" in path]:
            path = path.replace(f"{{{name}}}", quote(str(fields.pop(name)), safe=""))
        if endpoint.in_query:
            texts = {
                name: ",".join(value) if isinstance(value, list) else str(value)
                for name, value in fields.items()
            }
            asking = self._session.request(
                endpoint.method, path, params=texts, headers=self._headers
            )
        else:
            asking = self._session.request(
                endpoint.method, path, json=fields, headers=self._headers
            )
        async with asking as response:
            told = await response.json()
        if response.ok:
            told = {"reply": endpoint.word, "id": 1, **told}
        answer = self._wire.told(orjson.dumps(told))
        assert isinstance(answer, Answer)
        if isinstance(answer.outcome, ChatError):
            raise answer.outcome
        assert isinstance(answer.outcome, expected)
        return answer.outcome
