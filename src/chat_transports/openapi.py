"""What the HTTP door's endpoints are, in the words of OpenAPI 3.1."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, get_args, get_origin

from attrs import has

from chat_transports.endpoints import ENDPOINTS, Endpoint, required, types_of
from chatcore.codec import PROTOCOL
from chatcore.events import Acknowledged, CreateReply, Message, SendReply
from chatcore.model import Listed, Room

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
        "paths": {**_PATHS, **_COMMANDS},
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


_ACCOUNT = (400, 401, 403, 409, 413, 415, 429, 500, 503)
_READ = (400, 401, 403, 404, 429, 500, 503)
_WRITE = (*_READ, 409, 413, 415, 507)
_TOKEN: list[dict[str, Any]] = [{"token": []}]

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
                {201: ("The account is there", _schema("Done"))}, *_ACCOUNT, form="Done"
            ),
        }
    },
    "/login": {
        "post": {
            "operationId": "login",
            "summary": "Get a token for a name and a password",
            "requestBody": _body(_schema("Account")),
            "responses": _responses({200: ("The token", _schema("Login"))}, *_ACCOUNT, form="Done"),
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
            "responses": _responses({200: ("Changed", _schema("Done"))}, *_WRITE, form="Error"),
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
}


# Commands and replies, as their classes say.


def _of_type(type_: Any) -> dict[str, Any]:
    """Return the schema of a field's values."""
    if type_ in _SIMPLE:
        return _SIMPLE[type_]
    if get_origin(type_) in (tuple, Sequence):
        return _list(_of_type(get_args(type_)[0]))
    if has(type_):
        return _of_class(type_)
    return {"type": "object"}  # one of several events


_SIMPLE: Mapping[type, dict[str, Any]] = {
    str: _TEXT,
    int: _NATURAL,
    bool: {"type": "boolean"},
    datetime: _TIME,
}

_NARROWER = {
    "limit": {"type": "integer", "minimum": 1},
    "txn_id": {"type": "string", "minLength": 1, "maxLength": 64},
}
"""By the names of fields."""


def _of_class(class_: type) -> dict[str, Any]:
    """Return the schema of an object, which has a name in the document."""
    if class_ in (Room, Listed):  # of which a door tells less than there is
        return _schema("Room")
    if issubclass(class_, Acknowledged):
        class_ = Acknowledged
    told = {"event": {"const": "message"}} if issubclass(class_, Message) else {}
    _SCHEMAS[class_.__name__] = _fields(class_, told)
    return _schema(class_.__name__)


def _fields(class_: type, told: Mapping[str, Any], *left_out: str) -> dict[str, Any]:
    schemas = {
        name: _NARROWER.get(name) or _of_type(type_)
        for name, type_ in types_of(class_).items()
        if name not in left_out
    }
    always = {name: schemas.pop(name) for name in required(class_) if name in schemas}
    return _object({**told, **always}, **schemas)


def _spelled(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Say that the values of a list in a query have commas between them."""
    return {"explode": False} if schema["type"] == "array" else {}


def _operation(path: str, endpoint: Endpoint) -> dict[str, Any]:
    in_path: list[str] = re.findall(r"{(\w+)}", path)
    asked = _fields(endpoint.command, {}, *in_path)
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": _of_type(type_)}
        for name, type_ in endpoint.types.items()
        if name in in_path
    ]
    body: dict[str, Any] = {}
    if endpoint.in_query:
        parameters += [
            {"name": name, "in": "query", "schema": schema, **_spelled(schema)}
            for name, schema in asked["properties"].items()
        ]
    elif asked["properties"]:
        asked["additionalProperties"] = False
        body["requestBody"] = _body(asked, required=bool(asked["required"]))
    shown, good = _of_class(endpoint.reply), {}
    if endpoint.reply is not CreateReply:
        good[200] = "Done, now or before", shown
    if endpoint.reply in (SendReply, CreateReply):
        good[201] = "Stored", shown
    return {
        "operationId": endpoint.word,
        "summary": endpoint.summary,
        "security": _TOKEN,
        "parameters": parameters,
        **body,
        "responses": _responses(good, *(_READ if endpoint.reads else _WRITE), form="Error"),
    }


_COMMANDS = {
    path: {method.lower(): _operation(path, endpoint) for method, endpoint in methods.items()}
    for path, methods in ENDPOINTS.items()
}
