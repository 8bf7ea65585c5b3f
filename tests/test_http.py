"""The HTTP door: the first chatroom's statuses and texts, and what is new beside them.

Whatever a test here asks is checked against the served OpenAPI document as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import signal
import sqlite3
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, get_args

import aiohttp
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount, Route

from chat_transports import http, websocket
from chat_transports.endpoints import ENDPOINTS
from chatcore import Chat, Limits, MemoryRepository, Rate, User
from chatcore.commands import Bound, Command, Send
from chatcore.errors import ChatError, Muted, Unauthenticated
from chatcore.model import Credentials
from chatcore.testing import FaultyRepository, Refusal, eventually, failing
from chatcore.testing.drafts import THUMB
from tests.support import PASSWORD, connected, present, serving
from tests.test_errors import family
from tests.test_links import uvicorn_serving
from tests.test_server import stuck_peers

ADA = {"username": "ada", "password": PASSWORD}


class Answer:
    def __init__(self, status: int, headers: Mapping[str, str], json: Any) -> None:
        self.status = status
        self.headers = headers
        self.json = json

    @property
    def told(self) -> tuple[int, bool, str]:
        """What the first chatroom's clients read."""
        return self.status, self.json["success"], self.json["message"]

    @property
    def code(self) -> tuple[int, str]:
        return self.status, self.json["error"]["code"]


class Client:
    """Asks, and holds each answer against the document."""

    def __init__(self, session: aiohttp.ClientSession, root: str = "") -> None:
        self._session = session
        self._root = root
        self.token = ""

    async def ask(self, method: str, path: str, *, check: bool = True, **options: Any) -> Answer:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        headers |= options.pop("headers", {})
        url = f"{self._root}{path}"
        async with self._session.request(method, url, headers=headers, **options) as response:
            assert response.content_type == "application/json"
            answer = Answer(response.status, response.headers, await response.json())
        if check:
            await self._check(method, path.partition("?")[0], answer)
        return answer

    async def headers(self, method: str, path: str, headers: Mapping[str, str] = {}) -> Answer:
        """Ask for what is no JSON, and not in the document."""
        sent = {"Authorization": f"Bearer {self.token}", **headers}
        url = f"{self._root}{path}"
        async with self._session.request(method, url, headers=sent) as response:
            return Answer(response.status, response.headers, await response.read())

    async def get(self, path: str, **options: Any) -> Answer:
        return await self.ask("GET", path, **options)

    async def post(self, path: str, json: Any = None, **options: Any) -> Answer:
        return await self.ask("POST", path, json=json, **options)

    def another(self) -> Client:
        """Return somebody else at the same door."""
        return Client(self._session, self._root)

    async def log_in(self, **account: str) -> None:
        self.token = (await self.post("/login", account)).json["token"]

    async def _check(self, method: str, path: str, answer: Answer) -> None:
        async with self._session.get(f"{self._root}/openapi.json") as response:
            document = await response.json()
        shown = (each for each in document["paths"] if re.fullmatch(as_pattern(each), path))
        operation = document["paths"].get(next(shown, path), {}).get(method.lower())
        if operation is not None:
            response = operation["responses"][str(answer.status)]
            check(answer.json, response["content"]["application/json"]["schema"], document)
        else:
            assert answer.status in (404, 405)


def as_pattern(path: str) -> str:
    return re.sub(r"{\w+}", "[^/]+", path)


def check(value: Any, schema: Mapping[str, Any], document: Mapping[str, Any]) -> None:
    """Check a value against as much of JSON Schema as the document uses."""
    schema = resolved(schema, document)
    types = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}
    unknown = schema.keys() - {
        *("type", "required", "properties", "items", "const", "format", "minimum"),
        *("minLength", "maxLength", "additionalProperties"),
    }
    assert not unknown
    if "const" in schema:
        assert value == schema["const"]
        return
    wanted = (int, float) if schema["type"] == "number" else types[schema["type"]]
    assert isinstance(value, wanted), (value, schema)
    if isinstance(value, dict):
        assert set(schema.get("required", ())) <= value.keys()
        for name, inner in schema.get("properties", {}).items():
            if name in value:
                check(value[name], inner, document)
    if isinstance(value, list):
        for each in value:
            check(each, schema["items"], document)


def resolved(schema: Mapping[str, Any], document: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" not in schema:
        return schema
    found: Any = document
    for part in schema["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    return found  # type: ignore[no-any-return] # a schema


@contextlib.asynccontextmanager
async def door(chat: Chat, **options: Any) -> AsyncIterator[Client]:
    """The door in this process, mounted below another path."""
    host = Starlette(routes=[websocket.route(chat), Mount("/a/b", http.app(chat, **options))])
    async with (
        chat,
        uvicorn_serving(host) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
    ):
        yield Client(session, "/a/b")


@contextlib.asynccontextmanager
async def client(*options: str, database: str | Path = "memory:") -> AsyncIterator[Client]:
    async with (
        serving(database, *options, transports=["ws"]) as server,
        aiohttp.ClientSession(server.http) as session,
    ):
        yield Client(session)


def memory_chat(**limits: Any) -> Chat:
    return Chat(MemoryRepository(), bcrypt_cost=4, limits=Limits(**limits))


# The first chatroom's endpoints.


async def test_the_first_chatrooms_statuses_and_texts() -> None:
    async with client() as asking:
        assert (await asking.post("/register", ADA)).told == (201, True, "Registration successful")
        assert (await asking.post("/login", ADA)).told == (200, True, "Login successful")
        for path in ("/register", "/login"):
            empty: tuple[Any, ...] = ({}, [], None, "")
            for nothing in empty:
                told = (await asking.post(path, nothing)).told
                assert told == (400, False, "No data provided")
            assert (await asking.post(path, data=b"")).told == (400, False, "No data provided")
            for fields in ({"username": "x"}, {**ADA, "username": ""}, {**ADA, "password": None}):
                told = (await asking.post(path, fields)).told
                assert told == (400, False, "Username and password are required")
        told = (await asking.post("/register", ADA)).told
        assert told == (409, False, "Username already exists")
        for wrong in (
            {**ADA, "password": "no"},
            {**ADA, "username": "bob"},
            {**ADA, "username": "?"},
        ):
            told = (await asking.post("/login", wrong)).told
            assert told == (401, False, "Invalid username or password")
        assert (await asking.get("/nothing")).told == (404, False, "Not found")


async def test_what_is_no_request_of_ours_is_answered_in_json() -> None:
    async with client() as asking:
        for path in ("/register", "/login", "/logout"):
            wrong = await asking.get(path)
            assert wrong.told == (405, False, "Method not allowed")
            assert wrong.headers["Allow"] == "POST"
        assert (await asking.ask("DELETE", "/rooms")).code == (405, "invalid")
        for path in ("/login/", "/rooms/a/b/messages", "/rooms/lobby/tea"):
            assert (await asking.get(path)).code == (404, "not_found")
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        assert (await asking.post("/login", data=b"username=a", headers=form)).told == (
            415,
            False,
            "Send the body as Content-Type: application/json",
        )
        json = {"Content-Type": "application/json; charset=utf-8"}
        for body, text in (
            (b"{", "The body is not JSON"),
            (b"\xff", "The body is not JSON"),
            (b'{"username":"\\ud800"}', "The body is not JSON"),
            (b"[" * 10_000, "The body is not JSON"),
            (b"[1]", "The body is not a JSON object"),
            (b'{"username":1,"password":2}', "Username and password are strings"),
        ):
            assert (await asking.post("/login", data=body, headers=json)).told == (400, False, text)
        large = await asking.post("/register", {**ADA, "more": "x" * 70_000})
        assert large.told == (413, False, "A request's body has at most 65536 bytes")


async def test_a_name_or_a_password_that_cannot_be_is_a_bad_request() -> None:
    async with client() as asking:
        assert (await asking.post("/register", {**ADA, "username": "a b"})).status == 400
        assert (await asking.post("/register", {**ADA, "password": "short"})).told == (
            400,
            False,
            "A password has at least 8 characters",
        )


async def test_too_many_attempts_are_told_when_to_come_back() -> None:
    async with door(memory_chat(attempts=Rate(0.1, 1))) as asking:
        assert (await asking.post("/register", ADA)).status == 201
        refused = await asking.post("/login", ADA)
        assert refused.told == (429, False, "Too many attempts; wait a little")
        assert 1 <= int(refused.headers["Retry-After"]) <= 10


async def test_a_database_failure_says_so_and_nothing_of_the_database(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    async with client(database=path) as asking:
        await asking.post("/register", ADA)
        await asking.log_in(**ADA)
        assert (await asking.get("/readyz")).status == 200
        with contextlib.closing(sqlite3.connect(path)) as db, db:
            db.execute("DROP VIEW messages")
            db.execute("ALTER TABLE users RENAME TO gone")
            db.execute("ALTER TABLE rooms RENAME TO lost")
        for path_, action in (("/register", "Registration"), ("/login", "Login")):
            assert (await asking.post(path_, ADA)).told == (
                500,
                False,
                f"{action} failed: The server's database did not answer; try again",
            )
        assert (await asking.get("/rooms")).code == (503, "unavailable")
        assert (await asking.get("/readyz")).code == (503, "unavailable")
        assert (await asking.get("/healthz")).status == 200


async def test_a_defect_is_an_internal_error_and_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken = FaultyRepository(
        MemoryRepository(), failing("user", Refusal(ZeroDivisionError("a secret")))
    )
    async with door(Chat(broken, bcrypt_cost=4)) as asking:
        assert (await asking.post("/login", ADA)).told == (500, False, "Internal server error")
    logged = [record for record in caplog.records if record.exc_info]
    assert [record.levelno for record in logged] == [logging.ERROR]


# Tokens and rooms.


async def test_a_token_of_a_login_is_good_at_every_door_until_logout() -> None:
    async with (
        serving(transports=["ws"]) as server,
        aiohttp.ClientSession(server.http) as session,
        connected(server.urls["ws"]) as peer,
        connected(server.urls["ws"]) as other,
    ):
        asking = Client(session)
        await asking.post("/register", {**ADA, "username": "Ada"})
        login = await asking.post("/login", ADA)
        assert login.json["username"] == "ada"
        assert login.json["expires"].endswith("Z")
        asking.token = login.json["token"]
        assert "token" in await peer.do("login", token=asking.token)
        assert "token" in await other.do("login", **ADA)
        done = await asking.post("/logout")
        assert done.told == (200, True, "Logged out")
        assert (await peer.goodbye())["code"] == 4502
        refused = await asking.post("/logout")
        assert refused.code == (401, "bad_credentials")
        assert refused.headers["WWW-Authenticate"] == "Bearer"
        assert "reply" in await other.do("ping")
        await asking.log_in(**ADA)
        assert (await asking.post("/logout", {"everywhere": 1})).code == (400, "invalid")
        assert (await asking.post("/logout", {"everywhere": True})).status == 200
        assert (await other.goodbye())["code"] == 4502


async def test_a_password_and_a_display_name_are_changed() -> None:
    async with (
        serving(transports=["ws"]) as server,
        aiohttp.ClientSession(server.http) as session,
        connected(server.urls["ws"]) as same,
        connected(server.urls["ws"]) as other,
    ):
        asking, new = Client(session), {"old": PASSWORD, "new": "battery staple"}
        await asking.post("/register", ADA)
        assert (await asking.post("/password", new)).code == (401, "unauthenticated")
        await asking.log_in(**ADA)
        await same.do("login", token=asking.token)
        await other.do("login", **ADA)

        named = await asking.ask("PATCH", "/profile", json={"display_name": "Ada L."})
        assert (named.status, named.json) == (
            200,
            {"user": {"username": "ada", "display_name": "Ada L."}},
        )
        assert (await other.event("profile"))["display_name"] == "Ada L."
        for wrong in ({}, {"display_name": ""}, {"display_name": 1}, {"bot": True}):
            refused = await asking.ask("PATCH", "/profile", json=wrong)
            assert refused.code == (400, "invalid")

        refused = await asking.post("/password", {**new, "old": "wrong horse"})
        assert refused.code == (401, "bad_credentials")
        assert (await asking.post("/password", {**new, "new": "short"})).code == (400, "invalid")
        changed = await asking.post("/password", {**new, "end_others": True})
        assert changed.told == (200, True, "Password changed")
        assert (await other.goodbye())["code"] == 4502
        assert "reply" in await same.do("ping")
        assert (await asking.get("/rooms")).status == 200
        assert (await asking.post("/login", ADA)).status == 401
        await asking.log_in(username="ada", password="battery staple")


async def test_rooms_and_messages() -> None:
    async with (
        serving(transports=["ws"]) as server,
        aiohttp.ClientSession(server.http) as session,
        present(server.urls["ws"], "ada") as ada,
    ):
        asking = Client(session)
        for path in ("/rooms", "/rooms/lobby/messages"):
            assert (await asking.get(path)).code == (401, "unauthenticated")
        await asking.log_in(**ADA)
        await ada.do("create", room="tea")
        lobby = {"name": "lobby", "kind": "public", "title": "Lobby", "topic": ""}
        listed = await asking.get("/rooms?limit=1")
        assert listed.json == {"rooms": [{**lobby, "role": "member"}], "complete": False}
        rest = await asking.get("/rooms?after=lobby")
        assert [room["name"] for room in rest.json["rooms"]] == ["tea"]

        sent = await asking.post("/rooms/lobby/messages", {"content": "hi ☃", "txn_id": "t"})
        assert (sent.status, sent.json["room"], sent.json["seq"]) == (201, "lobby", 2)
        heard = await ada.event("message")
        assert (heard["content"], heard["timestamp"]) == ("hi ☃", sent.json["timestamp"])
        again = await asking.post("/rooms/%23Lobby/messages", {"content": "hi ☃", "txn_id": "t"})
        assert (again.status, again.json) == (200, {**sent.json, "duplicate": True})
        other = await asking.post("/rooms/lobby/messages", {"content": "ho", "txn_id": "t"})
        assert other.code == (409, "txn_conflict")

        for text in ("two", "three"):
            await ada.do("send", room="lobby", content=text)
        for query, texts, complete in (
            ("", ["hi ☃", "two", "three"], True),
            ("?limit=1", ["three"], False),
            ("?before=4", ["hi ☃", "two"], True),
            ("?after=2", ["two", "three"], True),
            ("?around=3&limit=2", ["hi ☃", "two"], False),
        ):
            page = (await asking.get(f"/rooms/lobby/messages{query}")).json
            assert texts == [message["content"] for message in page["messages"]]
            assert complete == page["complete"]
            assert page["head"] == 4

        answer = {"content": "hi @ada", "reply_to": 2}
        replied = await asking.post("/rooms/lobby/messages", answer)
        assert replied.status == 201
        newest = (await asking.get("/rooms/lobby/messages?limit=1")).json["messages"]
        assert newest[0]["reply_to"] == 2
        missing = await asking.post("/rooms/lobby/messages", {**answer, "reply_to": 99})
        assert missing.code == (404, "not_found")

        await ada.do("react", room="lobby", seq=5, emoji=THUMB)
        edited = await ada.do("edit", room="lobby", seq=2, content="hey")
        await ada.do("delete", room="lobby", seq=3)
        messages = (await asking.get("/rooms/lobby/messages?limit=4")).json["messages"]
        told = [[each.get(name) for name in ("content", "edited", "erased")] for each in messages]
        assert told == [
            ["hey", edited["timestamp"], None],
            ["", None, True],
            ["three", None, None],
            ["hi @ada", None, None],
        ]
        assert messages[3]["reactions"] == [{"emoji": THUMB, "count": 1, "me": True}]
        document = (await asking.get("/openapi.json")).json
        fields = document["components"]["schemas"]["Message"]["properties"]
        assert {name for message in messages for name in message} == set(fields)


async def test_searching() -> None:
    chat = memory_chat(messages=None)
    async with door(chat) as asking:
        assert (await asking.get("/search?query=tea")).code == (401, "unauthenticated")
        await asking.post("/register", ADA)
        await asking.log_in(**ADA)
        await chat.join(User("ada", "ada"), "lobby")
        for text in ("one", "two", "three"):
            assert (await asking.post("/rooms/lobby/messages", {"content": text})).status == 201
        for query, seqs in (
            ("query=TWO+from:ada", [3]),
            ("query=four", []),
            ("query=in:lobby", [4, 3, 2]),
        ):
            page = (await asking.get(f"/search?{query}&room=%23lobby")).json
            assert [(each["seq"], each["head"]) for each in page["messages"]] == [
                (seq, 4) for seq in seqs
            ]
            assert "next" not in page
        first = (await asking.get("/search?query=from:ada&limit=1")).json
        rest = (await asking.get(f"/search?query=from:ada&cursor={first['next']}")).json
        found = [*first["messages"], *rest["messages"]]
        assert [each["content"] for each in found] == ["three", "two", "one"]
        document = (await asking.get("/openapi.json")).json
        check(first, document["components"]["schemas"]["SearchReply"], document)
        for wrong in (
            "",
            "?query=",
            "?query=%22tea",
            "?query=tea&limit=0",
            "?query=tea&q=tea",
            "?query=tea&more=1",
        ):
            assert (await asking.get(f"/search{wrong}")).code == (400, "invalid")
        assert (await asking.get("/search?query=tea&room=none")).code == (404, "not_found")


@pytest.mark.parametrize(
    ("fields", "refusal"),
    [
        ({"content": ""}, (400, "invalid")),
        ({"content": 1}, (400, "invalid")),
        ({}, (400, "invalid")),
        ({"content": "x", "cmd": "leave"}, (400, "invalid")),
        ({"content": "x", "room": "tea"}, (400, "invalid")),
        ({"content": "x", "id": 1}, (400, "invalid")),
        ({"content": "x", "txn_id": ""}, (400, "invalid")),
        ({"content": "x" * 4_001}, (413, "too_large")),
        ({"content": "x"}, (403, "not_member")),
    ],
)
async def test_a_message_that_is_refused(fields: Any, refusal: tuple[int, str]) -> None:
    async with door(memory_chat()) as asking:
        await asking.post("/register", ADA)
        await asking.log_in(**ADA)
        assert (await asking.post("/rooms/lobby/messages", fields)).code == refusal


async def test_reading_that_is_refused() -> None:
    async with door(memory_chat()) as asking:
        await asking.post("/register", ADA)
        await asking.log_in(**ADA)
        for query in (
            "before=x",
            "before=-1",
            "limit=0",
            "before=1&after=1",
            "more=1",
            "limit=9e9",
        ):
            assert (await asking.get(f"/rooms/lobby/messages?{query}")).code == (400, "invalid")
        digits = "9" * 25
        assert (await asking.get(f"/rooms/lobby/messages?after={digits}")).code == (400, "invalid")
        assert (await asking.get("/rooms/none/messages")).code == (404, "not_found")
        assert (await asking.get("/rooms/a%2Fb/messages")).status == 404


async def test_whatever_one_does_in_a_room_is_done_by_http() -> None:
    """The paths, and what each says, to the letter; the walk of all roles is elsewhere."""
    async with door(memory_chat()) as asking:
        people = {name: asking.another() for name in ("ada", "bob", "cy")}
        for name, person in people.items():
            await asking.post("/register", {"username": name, "password": PASSWORD})
            await person.log_in(username=name, password=PASSWORD)
        ada, bob, cy = people.values()

        made = await ada.post("/rooms", {"room": "tea", "kind": "private", "topic": "Green"})
        room = {"name": "tea", "kind": "private", "title": "", "topic": "Green"}
        assert (made.status, made.json) == (201, {"room": room})
        assert (await ada.post("/rooms", {"room": "tea"})).code == (409, "conflict")
        assert (await bob.post("/rooms/tea/join")).code == (404, "not_found")

        # Who comes.
        invited = await ada.ask("PUT", "/rooms/tea/invitations/bob", json={"txn_id": "t"})
        assert (invited.status, invited.json["room"], invited.json["seq"]) == (200, "tea", 2)
        again = await ada.ask("PUT", "/rooms/tea/invitations/bob", json={"txn_id": "t"})
        assert again.json == {**invited.json, "duplicate": True}
        joined = await bob.post("/rooms/tea/join", {"history": 10})
        assert (joined.status, joined.json["role"], joined.json["head"]) == (200, "member", 3)
        since = {"since": {"epoch": joined.json["epoch"], "seq": 1}}
        assert (await bob.post("/rooms/tea/join", since)).json["recovered"]
        members = (await bob.get("/rooms/tea/members?after=ada&limit=1")).json["members"]
        assert members == [{"username": "bob", "display_name": "bob", "role": "member"}]
        assert (await bob.get("/rooms/tea/online")).json == {"online": [], "count": 0}

        # What they say.
        said = (await bob.post("/rooms/tea/messages", {"content": "hi"})).json["seq"]
        message = f"/rooms/tea/messages/{said}"
        assert (await bob.post("/rooms/tea/typing")).json == {}
        assert (await bob.ask("PATCH", message, json={"content": "hey"})).status == 200
        reaction = f"{message}/reactions/{THUMB}"
        put = await ada.ask("PUT", reaction)
        assert (put.status, put.json["seq"]) == (200, 6)
        assert (await ada.ask("PUT", reaction)).json["duplicate"]
        assert (await ada.ask("DELETE", reaction)).json["seq"] == 7
        read = (await ada.ask("PUT", "/rooms/tea/read", json={"seq": said})).json
        assert read == {"read": said, "unread": 0, "unread_mentions": 0, "head": 7}
        assert (await ada.post(f"{message}/reports", {"reason": "spam"})).json == {}
        (report,) = (await ada.get("/rooms/tea/reports?after=0&limit=9")).json["reports"]
        assert (report["number"], report["seq"], report["reason"]) == (1, said, "spam")
        deleted = await ada.ask("DELETE", f"{message}?reason=rude&txn_id=d")
        assert (deleted.status, deleted.json["seq"]) == (200, 8)

        # How order is kept.
        until = {"until": "2126-11-22T08:00:00Z", "reason": "rude"}
        for known in (None, True):
            put = await ada.ask("PUT", "/rooms/tea/mutes/bob", json=until)
            assert (put.status, put.json["seq"], put.json.get("duplicate")) == (200, 9, known)
        muted = await bob.post("/rooms/tea/messages", {"content": "hi"})
        assert muted.code == (403, "muted")
        assert (await ada.ask("DELETE", "/rooms/tea/mutes/bob")).status == 200
        role = {"role": "moderator"}
        assert (await ada.ask("PATCH", "/rooms/tea/members/bob", json=role)).status == 200
        assert (await bob.ask("DELETE", "/rooms/tea/members/ada")).code == (403, "forbidden")
        assert (await ada.ask("DELETE", "/rooms/tea/members/bob?txn_id=k")).status == 200
        for known in (None, True):
            put = await ada.ask("PUT", "/rooms/tea/bans/bob", json=until)
            assert (put.status, put.json["seq"], put.json.get("duplicate")) == (200, 13, known)
        (banned,) = (await ada.get("/rooms/tea/bans?after=ada&limit=9")).json["bans"]
        assert (banned["username"], banned["ban"]["seq"]) == ("bob", 13)
        assert (await ada.get("/rooms/tea/bans?after=bob")).json == {"bans": [], "complete": True}
        assert (await bob.post("/rooms/tea/join")).code == (404, "not_found")
        assert (await ada.ask("DELETE", "/rooms/tea/bans/bob")).status == 200
        update = {"title": "Tea", "slow_mode": 5}
        assert (await ada.ask("PATCH", "/rooms/tea", json=update)).status == 200
        assert (await ada.ask("PATCH", "/rooms/tea", json=update)).code == (409, "conflict")

        # Parting, and two people alone.
        assert (await ada.post("/rooms/tea/leave")).code == (409, "conflict")
        pair = (await ada.ask("PUT", "/direct/cy")).json["room"]
        assert pair == (await cy.ask("PUT", "/direct/ada")).json["room"]
        assert (await ada.post(f"/rooms/{pair['name']}/leave")).json == {"room": pair["name"]}


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PATCH", "/rooms/lobby/messages/one", {"content": "x"}),
        ("PATCH", "/rooms/lobby/messages/1", {"content": "x", "seq": 2}),
        ("DELETE", "/rooms/lobby/messages/1?seq=2", None),
        ("DELETE", "/rooms/lobby/messages/1?id=2", None),
        ("PUT", "/rooms/lobby/messages/1/reactions/x", None),
        ("PUT", "/rooms/lobby/bans/bob", {"until": "tomorrow"}),
        ("PUT", "/rooms/lobby/read", None),
        ("POST", "/rooms/lobby/join", {"since": 1}),
        ("PATCH", "/rooms/lobby", {}),
        ("PATCH", "/rooms/lobby/members/bob", {"role": "king"}),
    ],
)
async def test_what_makes_no_command_is_refused(method: str, path: str, body: Any) -> None:
    async with door(memory_chat()) as asking:
        await asking.post("/register", ADA)
        await asking.log_in(**ADA)
        assert (await asking.ask(method, path, json=body)).code == (400, "invalid")


async def test_a_body_that_is_no_object_is_no_command_without_fields() -> None:
    """A ban, say, which would be for ever."""
    async with door(memory_chat()) as asking:
        await asking.post("/register", ADA)
        await asking.log_in(**ADA)
        await asking.post("/rooms", {"room": "tea"})
        json = {"Content-Type": "application/json"}
        for body in (b"[]", b"0", b"false", b'""', b"null", b"[1]", b" "):
            for method, path in (
                ("PUT", "/rooms/tea/bans/ada"),
                ("POST", "/rooms/tea/join"),
                ("POST", "/logout"),
                ("POST", "/password"),
            ):
                refused = await asking.ask(method, path, data=body, headers=json)
                assert refused.code == (400, "invalid")
                assert refused.json["error"]["message"].startswith("The body is not ")
        assert (await asking.post("/rooms/tea/join", {})).status == 200
        assert (await asking.post("/rooms/tea/join")).status == 200


async def test_fields_in_the_wrong_place_are_refused_and_not_passed_over() -> None:
    async with door(memory_chat()) as asking:
        await asking.post("/register", ADA)
        await asking.log_in(**ADA)
        await asking.post("/rooms", {"room": "tea"})
        seq = (await asking.post("/rooms/tea/messages", {"content": "x"})).json["seq"]
        message = f"/rooms/tea/messages/{seq}"
        reason = {"reason": "rude"}
        for method, path in (("DELETE", message), ("GET", "/rooms")):
            refused = await asking.ask(method, path, json=reason)
            assert (refused.status, refused.json["error"]["message"]) == (
                400,
                f"{method} takes no body: its fields are in the query",
            )
        for method, path in (
            ("PUT", "/rooms/tea/bans/bob?until=2126-11-22T08:00:00Z"),
            ("POST", "/logout?everywhere=true"),
        ):
            refused = await asking.ask(method, path)
            assert (refused.status, refused.json["error"]["message"]) == (
                400,
                f"{method} takes no query: its fields are in the body",
            )
        assert (await asking.ask("DELETE", f"{message}?reason=rude")).status == 200
        (deleted,) = (await asking.get("/rooms/tea/messages?types=delete")).json["events"]
        assert deleted["reason"] == "rude"


async def test_what_is_nested_deeply_is_refused_however_deeply() -> None:
    async with door(memory_chat()) as asking:
        await asking.post("/register", ADA)
        await asking.log_in(**ADA)
        for depth in (2, 200, 300, 1000, 2000):
            body = b'{"room":' + b"[" * depth + b"]" * depth + b"}"
            json = {"Content-Type": "application/json"}
            assert (await asking.post("/rooms", data=body, headers=json)).code == (400, "invalid")


def test_every_command_has_a_path() -> None:
    """But for those of a connection, of which HTTP has what it needs by itself."""
    taken = [each.command for methods in ENDPOINTS.values() for each in methods.values()]
    assert set(taken) == set(get_args(Command)) - set(get_args(Bound))
    assert len(taken) == len(set(taken))


async def test_a_rate_is_the_same_at_every_door() -> None:
    chat = memory_chat(messages=Rate(0.5, 2))
    async with door(chat) as asking:
        await asking.post("/register", ADA)
        await asking.log_in(**ADA)
        ada = User("ada", "ada")
        await chat.join(ada, "lobby")
        await chat.send(ada, "lobby", "one")
        assert (await asking.post("/rooms/lobby/messages", {"content": "two"})).status == 201
        refused = await asking.post("/rooms/lobby/messages", {"content": "three"})
        assert refused.code == (429, "rate_limited")
        assert refused.headers["Retry-After"] == "2"
        assert (await asking.get("/search?query=one")).code == (429, "rate_limited")


async def test_a_hosts_own_users_and_policy() -> None:
    class Sessions:
        async def authenticate(self, credentials: Credentials) -> User | None:
            name = credentials.cookies.get("session")
            return User(name, name.title()) if name else None

    class Quiet:
        def check(self, actor: User, command: object, room: object) -> None:
            if isinstance(command, Send):
                raise Muted("Nobody says anything here")

    chat = Chat(MemoryRepository(), authenticator=Sessions(), policy=Quiet(), bcrypt_cost=4)
    async with door(chat) as asking:
        cookie = {"Cookie": "session=ada"}
        assert (await asking.get("/rooms", headers=cookie)).status == 200
        outside = await asking.post("/rooms/lobby/messages", {"content": "x"}, headers=cookie)
        assert outside.code == (403, "not_member"), "which comes before the host's own"
        await chat.join(User("ada", "Ada"), "lobby")
        await chat.create(User("ada", "Ada"), "tea")
        audit = await asking.get("/rooms/tea/messages?types=member,room", headers=cookie)
        assert [event["action"] for event in audit.json["events"]] == ["join"]
        unknown = await asking.get("/rooms/tea/messages?types=member,", headers=cookie)
        assert unknown.code == (400, "invalid")
        others = await asking.get("/rooms/lobby/messages?types=member", headers=cookie)
        assert others.code == (403, "forbidden")
        refused = await asking.post("/rooms/lobby/messages", {"content": "x"}, headers=cookie)
        assert refused.code == (403, "muted")


async def test_a_host_that_lets_no_strangers_in_has_no_accounts_made_here() -> None:
    class Sessions:
        async def authenticate(self, credentials: Credentials) -> User | None:
            assert credentials.token is None, "that is not the host's to judge"
            name = credentials.cookies.get("session")
            if name is None:
                raise Unauthenticated("Sign in at the front page")
            return User(name, name.title())

    chat = Chat(MemoryRepository(), authenticator=Sessions(), bcrypt_cost=4)
    async with door(chat) as asking:
        bob = {**ADA, "username": "bob"}
        token = (await chat.issue_token(await chat.register("bob", PASSWORD))).secret
        for asking.token in ("", token):
            for path, account in (("/register", ADA), ("/login", bob)):
                refused = await asking.post(path, account)
                assert refused.told == (401, False, "Sign in at the front page")
        asking.token = ""
        cookie = {"Cookie": "session=ada"}
        assert (await asking.get("/rooms", headers=cookie)).status == 200
        for path, account in (("/register", {**ADA, "username": "cyd"}), ("/login", bob)):
            refused = await asking.post(path, account, headers=cookie)
            assert refused.told == (409, False, "Logged in as ada; log out first")
        own = await asking.post("/login", bob, headers={"Cookie": "session=bob"})
        assert own.told == (200, True, "Login successful")


def test_every_error_has_a_status() -> None:
    assert {error.code for error in family(ChatError)} == set(http.STATUS)


# A page of another origin.


async def test_a_page_of_another_origin_may_not_ask_unless_it_is_allowed() -> None:
    async with door(memory_chat(), allow_origins=["https://example.org"]) as asking:
        evil = await asking.post("/register", ADA, headers={"Origin": "https://evil.example"})
        assert evil.status == 403
        assert "Access-Control-Allow-Origin" not in evil.headers
        good = await asking.post("/register", ADA, headers={"Origin": "https://example.org"})
        assert good.status == 201
        assert good.headers["Access-Control-Allow-Origin"] == "https://example.org"
        assert good.headers["Access-Control-Expose-Headers"] == "retry-after"


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
async def test_whatever_changes_something_is_for_pages_of_the_same_origin(method: str) -> None:
    async with door(memory_chat(), allow_origins=["https://example.org"]) as asking:
        await asking.post("/register", ADA)
        await asking.log_in(**ADA)
        await asking.post("/rooms", {"room": "tea"})
        seq = (await asking.post("/rooms/tea/messages", {"content": "x"})).json["seq"]
        path = f"/rooms/tea/messages/{seq}"
        asked: dict[str, Any] = {}
        match method:
            case "PUT":
                path += f"/reactions/{THUMB}"
            case "PATCH":
                asked["json"] = {"content": "y"}
        evil = await asking.ask(method, path, headers={"Origin": "https://evil.example"}, **asked)
        assert evil.code == (403, "forbidden")
        assert (await asking.get("/rooms/tea/messages")).json["head"] == seq, "nothing was done"
        good = await asking.ask(method, path, headers={"Origin": "https://example.org"}, **asked)
        assert good.status == 200
        preflight = {"Origin": "https://example.org", "Access-Control-Request-Method": method}
        allowed = await asking.headers("OPTIONS", path, preflight)
        assert allowed.status == 200
        assert method in allowed.headers["Access-Control-Allow-Methods"]
        refused = await asking.headers(
            "OPTIONS", path, {**preflight, "Origin": "https://evil.example"}
        )
        assert refused.status == 400
        assert "Access-Control-Allow-Origin" not in refused.headers


async def test_head_is_answered_as_get_is_without_the_body() -> None:
    async with door(memory_chat()) as asking:
        await asking.post("/register", ADA)
        assert (await asking.headers("HEAD", "/rooms")).status == 401
        await asking.log_in(**ADA)
        for path in ("/rooms?limit=1", "/rooms/lobby/online", "/openapi.json", "/healthz"):
            got, head = await asking.get(path), await asking.headers("HEAD", path)
            assert (head.status, head.json) == (200, b"")
            for name in ("Content-Length", "Content-Type", "Cache-Control"):
                assert head.headers[name] == got.headers[name]
        assert (await asking.headers("HEAD", "/rooms/lobby/messages?limit=0")).status == 400
        assert (await asking.headers("HEAD", "/login")).status == 405


# What is asked about the server.


async def test_home_names_the_document() -> None:
    async with door(memory_chat(), server="chatcore/x") as asking:
        home = await asking.get("/")
        assert home.json == {"server": "chatcore/x", "api": "/a/b/openapi.json"}


async def test_the_document_is_true_to_the_routes() -> None:
    routes = http.app(memory_chat()).routes
    served = {
        route.path: {method.lower() for method in route.methods or ()} - {"head"}
        for route in routes
        if isinstance(route, Route)
    }
    async with door(memory_chat()) as asking:
        document = (await asking.get("/openapi.json")).json
    assert document["openapi"] == "3.1.0"
    assert document["servers"] == [{"url": "/a/b"}]
    assert set(document) == {"openapi", "info", "servers", "paths", "components"}
    assert served == {path: set(item) for path, item in document["paths"].items()}
    operations = [
        (path, operation) for path, item in document["paths"].items() for operation in item.values()
    ]
    ids = [operation["operationId"] for _, operation in operations]
    assert len(ids) == len(set(ids))
    for path, operation in operations:
        given = operation.get("parameters", [])
        in_path = [each["name"] for each in given if each["in"] == "path" and each["required"]]
        assert re.findall(r"\{(\w+)\}", path) == in_path
        assert operation["responses"]
        for response in operation["responses"].values():
            assert response["description"]
        for requirement in operation.get("security", []):
            assert requirement.keys() <= document["components"]["securitySchemes"].keys()
    for reference in re.findall(r"'\$ref': '([^']+)'", str(document)):
        resolved({"$ref": reference}, document)


async def test_a_chat_that_was_not_started_is_not_ready(caplog: pytest.LogCaptureFixture) -> None:
    host = http.app(memory_chat())
    async with (
        uvicorn_serving(host) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
    ):
        asking = Client(session)
        assert (await asking.get("/healthz")).status == 200
        assert (await asking.get("/readyz")).code == (503, "unavailable")
        assert (await asking.post("/login", ADA)).told == (503, False, "The server is not running")
    ours = [record for record in caplog.records if record.name.startswith("chat")]
    assert [(record.levelno, record.exc_info) for record in ours] == [(logging.ERROR, None)] * 2


async def test_a_draining_server_is_not_ready_and_takes_nothing_new() -> None:
    async with serving("memory:", "--limits", "none") as server, stuck_peers(server):
        connector = aiohttp.TCPConnector(limit=1)  # what is open stays open, and no more come
        async with aiohttp.ClientSession(server.http, connector=connector) as session:
            asking = Client(session)
            assert (await asking.get("/readyz")).status == 200
            server.signal(signal.SIGTERM)
            await eventually(lambda: "stopping" in server.log[-1])
            unready = await asking.get("/readyz")
            assert unready.code == (503, "unavailable")
            assert unready.headers["Retry-After"] == "1"
            refused = await asking.post("/login", ADA)
            assert refused.told == (503, False, "The server is shutting down; come back soon")
        assert await server.exit_code() == 0


async def test_what_was_asked_before_the_drain_is_stored_and_answered(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    async with (
        serving(path, "--limits", "none") as server,
        aiohttp.ClientSession(server.http) as session,
        present(server.urls["ws"], "ada"),
    ):
        asking = Client(session)
        await asking.log_in(**ADA)

        async def send(text: str) -> Answer:
            return await asking.post("/rooms/lobby/messages", {"content": text}, check=False)

        sending = [asyncio.ensure_future(send(str(n))) for n in range(50)]
        await asyncio.wait(sending, return_when="FIRST_COMPLETED")
        server.signal(signal.SIGTERM)
        answers = await asyncio.gather(*sending, return_exceptions=True)
        assert await server.exit_code() == 0
    answered = [each for each in answers if isinstance(each, Answer)]
    assert {each.status for each in answered} <= {201, 503}
    acknowledged = {each.json["seq"] for each in answered if each.status == 201}
    with contextlib.closing(sqlite3.connect(path)) as db:
        stored = {seq for (seq,) in db.execute("SELECT seq FROM events WHERE kind='message'")}
    assert acknowledged
    assert acknowledged <= stored
