"""uvicorn's HTTP, with our bounds on who asks."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from chat_transports import tcp
from chatcore.chat import LINGER_SECONDS
from chatcore.errors import RateLimited
from chatcore.events import Close
from chatcore.model import User
from chatcore.roster import Roster

NEEDED: dict[type, tuple[str, ...]] = {
    HttpToolsProtocol: (
        *("connection_made", "data_received", "connection_lost", "handle_websocket_upgrade"),
        *("on_message_begin", "on_headers_complete", "on_message_complete"),
        *("client", "config", "cycle", "flow", "loop", "scope", "transport"),
    ),
    RequestResponseCycle: (
        *("disconnected", "message_event", "response_complete", "response_started", "scope"),
    ),
    FlowControl: ("read_paused",),
    ProxyHeadersMiddleware: ("trusted_hosts",),
}
"""What `Requests` stands on, of uvicorn's internals."""
BODY_SECONDS = 30.0
"""What a request's body may take; it has at most 64 KiB."""


class Requests(HttpToolsProtocol):
    """uvicorn's HTTP, counted; and who does not ask, or not to the end, is there not for long.

    The head of a request has tcp.HANDSHAKE_SECONDS, from the connection's beginning or the
    head's own; its body has BODY_SECONDS.  What a request waits for here has no limit, and
    between two of them uvicorn's own holds.  A WebSocket is counted by its door as soon as
    it is one.
    """

    peer = ""
    user: User | None = None
    digest: bytes | None = None

    def __init__(self, roster: Roster, **given: Any) -> None:
        super().__init__(**given)
        self._roster = roster
        self._counted = False
        self._timer: asyncio.TimerHandle | None = None
        self._cycles: list[RequestResponseCycle] = []
        """Of the requests that are not answered: one, or more where they were pipelined."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # uvicorn's own
        super().connection_made(transport)
        proxy: ProxyHeadersMiddleware = self.config.loaded_app
        if self.client and self.client[0] not in proxy.trusted_hosts:
            self.peer = self.client[0]
        try:
            self._roster.add(self)
        except RateLimited:
            transport.abort()
        else:
            self._counted = True
            self._due_in(tcp.HANDSHAKE_SECONDS)

    def data_received(self, data: bytes) -> None:
        # Empty lines before a request begin none, and yet they end uvicorn's wait for one.
        if self._timer is None and all(each.response_complete for each in self._cycles):
            self._due_in(tcp.HANDSHAKE_SECONDS)
        super().data_received(data)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._timer is None:
            self._due_in(tcp.HANDSHAKE_SECONDS)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if self.cycle:  # type: ignore[truthy-bool] # None until a request has come
            unanswered = [each for each in self._cycles if not each.response_complete]
            self._cycles = [*unanswered, self.cycle]
        self._due_in(BODY_SECONDS)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._due_in(None)

    def _due_in(self, seconds: float | None) -> None:
        """Give the peer so long for what it has to say next; None where it is our turn."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(seconds, self._end_late) if seconds else None

    def _end_late(self) -> None:
        if self.flow.read_paused:  # it is we who do not listen
            self._due_in(BODY_SECONDS)
            return
        may_answer = self.scope is not None and not any(  # type: ignore[redundant-expr] # at first it is
            each.response_started if each.scope is self.scope else not each.response_complete
            for each in self._cycles
        )
        self._cut_off()
        if not may_answer:
            self.transport.abort()
            return
        self.transport.write(_TIMEOUT)
        self.transport.close()
        self.loop.call_later(LINGER_SECONDS, self.transport.abort)

    def end(self, code: Close, reason: str, retry_after: float | None = None) -> None:
        self.transport.close()

    def handle_websocket_upgrade(self) -> None:
        self._forget()
        super().handle_websocket_upgrade()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        self._cut_off()
        super().connection_lost(exc)

    def _cut_off(self) -> None:
        """Have nobody wait for this peer or write to it; uvicorn tells only the last request."""
        for cycle in self._cycles:
            cycle.disconnected = True
            cycle.message_event.set()

    def _forget(self) -> None:
        self._due_in(None)
        if self._counted:
            self._counted = False
            self._roster.remove(self)


_TIMEOUT = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
