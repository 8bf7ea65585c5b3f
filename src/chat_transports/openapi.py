"""What the HTTP door's endpoints are, in the words of OpenAPI 3.1."""

from __future__ import annotations

from typing import Any

from chatcore.codec import PROTOCOL

_TEXT = {"type": "string"}
_NATURAL = {"type": "integer", "minimum": 0}
_TIME = {"type": "string", "format": "date-time"}


def document(server: str, root: str) -> dict[str, Any]:
    """Return the document for a door that is found at the path `root`."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "chatcore",
            "summary": "Accounts, rooms and messages; events come by WebSocket or Socket.IO.",
            "version": server.rpartition("/")[2] if "/" in server else str(PROTOCOL),
        },
        "servers": [{"url": root}],
        "paths": _PATHS,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": _SCHEMAS,
        },
    }


def _schema(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    return {"type": "object", "required": [*required], "properties": {**required, **optional}}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _body(schema: dict[str, Any], *, required: bool = True) -> dict[str, Any]:
    return {"required": required, "content": _json(schema)}


def _query(**schemas: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"name": name, "in": "query", "schema": schema} for name, schema in schemas.items()]


def _message(**more: Any) -> dict[str, Any]:
    fields = {
        "event": {"const": "message"},
        "room": _TEXT,
        "seq": _NATURAL,
        "sender": _TEXT,
        "timestamp": _TIME,
        "content": _TEXT,
        **more,
    }
    return _object(
        fields,
        edited=_TIME,
        erased={"type": "boolean"},
        reply_to=_NATURAL,
        mentions=_list(_TEXT),
        reactions=_list(
            _object({"emoji": _TEXT, "count": _NATURAL, "me": {"type": "boolean"}}),
        ),
    )


_WHY = {
    400: "The request is not what the endpoint asks for",
    401: "Nobody, or not with these credentials",
    403: "Known, and not allowed",
    404: "Not there, or not there for you",
    409: "It exists already, or contradicts what exists",
    413: "Too large",
    415: "A body that is not application/json",
    429: "Too many; Retry-After says when there may be more",
    500: "The server failed",
    503: "Not now; Retry-After says when, where it is known",
    507: "The storage is full, and nothing was stored",
}


def _responses(
    good: dict[int, tuple[str, dict[str, Any]]], *wrong: int, form: str
) -> dict[str, Any]:
    responses = {
        str(status): {"description": text, "content": _json(schema)}
        for status, (text, schema) in good.items()
    }
    for status in sorted(wrong):
        responses[str(status)] = {"description": _WHY[status], "content": _json(_schema(form))}
    return responses


_ACCOUNT = (400, 403, 413, 415, 429, 500, 503)
_CHANGE = (400, 401, 403, 413, 415, 429, 500, 503, 507)
_TOKEN: list[dict[str, Any]] = [{"token": []}]
_ROOM = {"name": "room", "in": "path", "required": True, "schema": _TEXT}

_PATHS: dict[str, Any] = {
    "/": {
        "get": {
            "operationId": "home",
            "summary": "Say what this is",
            "responses": _responses(
                {200: ("Where to read on", _object({"server": _TEXT, "api": _TEXT}))}, form="Error"
            ),
        }
    },
    "/register": {
        "post": {
            "operationId": "register",
            "summary": "Create an account",
            "requestBody": _body(_schema("Account")),
            "responses": _responses(
                {201: ("The account is there", _schema("Done"))}, *_ACCOUNT, 409, form="Done"
            ),
        }
    },
    "/login": {
        "post": {
            "operationId": "login",
            "summary": "Get a token for a name and a password",
            "requestBody": _body(_schema("Account")),
            "responses": _responses(
                {200: ("The token", _schema("Login"))}, *_ACCOUNT, 401, form="Done"
            ),
        }
    },
    "/logout": {
        "post": {
            "operationId": "logout",
            "summary": "Revoke the token, or all of one's own, and end their connections",
            "security": _TOKEN,
            "requestBody": _body(_object({}, everywhere={"type": "boolean"}), required=False),
            "responses": _responses(
                {200: ("Revoked", _schema("Done"))},
                400,
                401,
                403,
                413,
                415,
                500,
                503,
                507,
                form="Error",
            ),
        }
    },
    "/password": {
        "post": {
            "operationId": "password",
            "summary": "Change one's password; with end_others, all other tokens are revoked",
            "security": _TOKEN,
            "requestBody": _body(_schema("Password")),
            "responses": _responses({200: ("Changed", _schema("Done"))}, *_CHANGE, form="Error"),
        }
    },
    "/profile": {
        "patch": {
            "operationId": "profile",
            "summary": "Change one's display name",
            "security": _TOKEN,
            "requestBody": _body(_schema("Profile")),
            "responses": _responses(
                {200: ("As it is now", _schema("Profiled"))}, *_CHANGE, form="Error"
            ),
        }
    },
    "/rooms": {
        "get": {
            "operationId": "rooms",
            "summary": "List the rooms that one may see, by name",
            "security": _TOKEN,
            "parameters": _query(after=_TEXT, limit={"type": "integer", "minimum": 1}),
            "responses": _responses(
                {200: ("A page of rooms", _schema("Rooms"))}, 400, 401, 500, 503, form="Error"
            ),
        }
    },
    "/rooms/{room}/messages": {
        "parameters": [_ROOM],
        "get": {
            "operationId": "history",
            "summary": "Read a page of messages, the newest where no edge is given",
            "security": _TOKEN,
            "parameters": _query(
                before=_NATURAL,
                after=_NATURAL,
                around=_NATURAL,
                limit={"type": "integer", "minimum": 1},
                types=_TEXT,
            ),
            "responses": _responses(
                {200: ("A page of messages", _schema("History"))},
                400,
                401,
                403,
                404,
                500,
                503,
                form="Error",
            ),
        },
        "post": {
            "operationId": "send",
            "summary": "Store a message; it is durable when this answers",
            "security": _TOKEN,
            "requestBody": _body(_schema("Send")),
            "responses": _responses(
                {
                    200: ("This txn_id was used before; nothing new is stored", _schema("Sent")),
                    201: ("Stored", _schema("Sent")),
                },
                *(400, 401, 403, 404, 409, 413, 415, 429, 500, 503, 507),
                form="Error",
            ),
        },
    },
    "/search": {
        "get": {
            "operationId": "search",
            "summary": "Find messages in the rooms that one may read, the newest first",
            "security": _TOKEN,
            "parameters": _query(
                q=_TEXT, room=_TEXT, cursor=_TEXT, limit={"type": "integer", "minimum": 1}
            ),
            "responses": _responses(
                {200: ("A page of messages", _schema("Found"))},
                400,
                401,
                403,
                404,
                429,
                500,
                503,
                form="Error",
            ),
        }
    },
    "/openapi.json": {
        "get": {
            "operationId": "openapi",
            "summary": "This document",
            "responses": _responses({200: ("This document", {"type": "object"})}, form="Error"),
        }
    },
    "/healthz": {
        "get": {
            "operationId": "healthz",
            "summary": "Say that the process answers",
            "responses": _responses({200: ("It does", _schema("Status"))}, form="Error"),
        }
    },
    "/readyz": {
        "get": {
            "operationId": "readyz",
            "summary": "Say whether the chat runs and its database answers",
            "responses": _responses({200: ("It can", _schema("Status"))}, 500, 503, form="Error"),
        }
    },
}

_SCHEMAS: dict[str, Any] = {
    "Account": _object({"username": _TEXT, "password": _TEXT}),
    "Done": _object({"success": {"type": "boolean"}, "message": _TEXT}),
    "Login": _object(
        {
            "success": {"type": "boolean"},
            "message": _TEXT,
            "token": _TEXT,
            "username": _TEXT,
            "expires": _TIME,
        }
    ),
    "Password": {
        **_object({"old": _TEXT, "new": _TEXT}, end_others={"type": "boolean"}),
        "additionalProperties": False,
    },
    "Profile": {**_object({"display_name": _TEXT}), "additionalProperties": False},
    "Profiled": _object(
        {"user": _object({"username": _TEXT, "display_name": _TEXT}, bot={"type": "boolean"})}
    ),
    "Error": _object(
        {
            "error": _object(
                {"code": _TEXT, "message": _TEXT, "retryable": {"type": "boolean"}},
                retry_after={"type": "number"},
            )
        }
    ),
    "Status": _object({"status": _TEXT}),
    "Room": _object(
        {"name": _TEXT, "kind": _TEXT, "title": _TEXT, "topic": _TEXT},
        role=_TEXT,
        slow_mode=_NATURAL,
        archived={"type": "boolean"},
        retention_days=_NATURAL,
    ),
    "Rooms": _object({"rooms": _list(_schema("Room")), "complete": {"type": "boolean"}}),
    "Message": _message(),
    "FoundMessage": _message(head=_NATURAL),
    "History": _object(
        {
            "messages": _list(_schema("Message")),
            "epoch": _TEXT,
            "first": _NATURAL,
            "head": _NATURAL,
            "complete": {"type": "boolean"},
        },
        events=_list({"type": "object"}),
    ),
    "Found": _object(
        {
            "messages": _list(_schema("FoundMessage")),
        },
        next=_TEXT,
    ),
    "Send": {
        **_object(
            {"content": _TEXT},
            txn_id={"type": "string", "minLength": 1, "maxLength": 64},
            reply_to=_NATURAL,
        ),
        "additionalProperties": False,
    },
    "Sent": _object(
        {"room": _TEXT, "seq": _NATURAL, "timestamp": _TIME}, duplicate={"type": "boolean"}
    ),
}
