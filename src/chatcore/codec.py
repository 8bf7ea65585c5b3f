"""Frames to commands, events and replies to frames: the protocol's JSON.

cattrs is lenient where a wire must not be: it turns null into "None", lets True pass
for an integer and ignores unknown keys.  The hooks here are strict, and whatever
fails becomes one Invalid with a sentence that says where.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cache
from math import ceil
from types import NoneType
from typing import Any, get_args

import cattrs
import orjson
from attrs import fields_dict, has
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from chatcore import events, model
from chatcore.commands import Command, Request, word
from chatcore.errors import ChatError, Internal, Invalid, TooLarge, UnknownCommand
from chatcore.events import Answer, Bye, Durable, Event, Hello, Other, Page, Reply, Told
from chatcore.model import INTEGERS, RequestId

PROTOCOL = 1

_ID_CHARACTERS = 255
_NOTHING = object()


class JsonLines:
    """The wire protocol as UTF-8 JSON, each frame one line that ends in a newline.

    JSON has no raw newline inside, so joined frames can be taken apart again: a
    transport with a framing of its own splits there.
    """

    def __init__(self, limits: model.Limits) -> None:
        self._frame_bytes = limits.frame_bytes

    def decode(self, frame: bytes) -> Request:
        """Read one frame.  Never raises."""
        if len(frame) > self._frame_bytes:
            return Request(
                _id_of(_loads(frame)),
                TooLarge(f"A frame has at most {self._frame_bytes} bytes"),
            )
        fields = _loads(frame)
        if type(fields) is not dict:
            return Request(None, Invalid("A frame is one JSON object, in UTF-8"))
        id = _id_of(fields)
        if fields.pop("id", _NOTHING) is not _NOTHING and id is None:
            return Request(None, Invalid("id is a string of at most 255 characters, or an integer"))
        try:
            return Request(id, _command(fields))
        except ChatError as error:
            return Request(id, error)

    def encode(self, item: Hello | Event | Bye) -> bytes:
        return _line(_out.unstructure(item))

    def reply(self, answer: Reply | ChatError, id: RequestId | None) -> bytes:
        if isinstance(answer, ChatError):
            frame: dict[str, object] = {"error": _error(answer)}
            if id is not None:
                frame["id"] = id
        else:
            fields = _out.unstructure(answer)
            frame = {"reply": fields.pop("reply"), "id": id, **fields}
        return _line(frame)

    # The client's side.

    def command(self, command: Command, id: RequestId | None) -> bytes:
        """Write one frame.  Raises Invalid for a text that UTF-8 has no bytes for."""
        fields = _out.unstructure(command)
        frame = {"cmd": word(type(command)), **fields}
        if id is not None:
            frame["id"] = id
        try:
            return _line(frame)
        except orjson.JSONEncodeError:
            raise Invalid("A text cannot have half of a surrogate pair") from None

    def told(self, frame: bytes) -> Told | None:
        """Read what a server sent; None for what this version can make nothing of.

        Never raises.  Unknown fields are ignored, so that a newer server may add some.
        """
        fields = _loads(frame)
        try:
            return _told(fields)
        except _UNREADABLE:
            pass
        match fields:
            case {"reply": str(word)}:
                error = Internal(f"The server's reply to {word[:40]} cannot be understood")
                return Answer(_id_of(fields), error)
            case {"event": str()}:
                return _other(fields)
        return None


def _line(fields: object) -> bytes:
    # A copy: what orjson returns keeps the 4 KiB that it was written in, and frames may wait.
    return orjson.dumps(fields) + b"\n"


def _loads(frame: bytes) -> Any:  # whatever JSON there is
    try:
        return orjson.loads(frame)
    except orjson.JSONDecodeError:
        return None


def _id_of(fields: Any) -> RequestId | None:
    id = fields.get("id") if type(fields) is dict else None
    if type(id) is str and len(id) <= _ID_CHARACTERS:
        return id
    if type(id) is int and -INTEGERS < id < INTEGERS:
        return id
    return None


def _error(error: ChatError) -> dict[str, object]:
    fields: dict[str, object] = {
        "code": error.code,
        "message": error.message,
        "retryable": error.retryable,
    }
    if error.retry_after is not None:
        fields["retry_after"] = ceil(error.retry_after * 1000) / 1000
    return fields


# In: JSON values to commands.


def _command(fields: dict[str, Any]) -> Command:
    cmd = fields.pop("cmd", None)
    if type(cmd) is not str:
        raise Invalid('A command names itself: {"cmd": "send", …}')
    if cmd not in _COMMANDS:
        raise UnknownCommand(f"There is no command {cmd[:40]!r} here; hello.features says what is")
    command, structure = _COMMANDS[cmd]
    try:
        return structure(fields, command)  # type: ignore[no-any-return] # an instance of command
    except ChatError:
        raise
    except (ValueError, TypeError, KeyError, cattrs.ForbiddenExtraKeysError):
        pass
    raise Invalid(f"{cmd}: {_explain(cmd, fields)}")


def _strict(accepted: type) -> Callable[[Any, Any], Any]:
    def check(value: Any, _: Any) -> Any:
        if type(value) is not accepted:  # not isinstance, to which True is an int
            raise TypeError(f"expected {_WORDS[accepted]}")
        if type(value) is int and not -INTEGERS < value < INTEGERS:
            raise ValueError("an integer is below 2^53")
        return value

    return check


def _moment(value: Any, _: Any) -> datetime:
    if type(value) is str:
        with contextlib.suppress(ValueError):
            return datetime.fromisoformat(value)
    raise TypeError("expected a timestamp")


def _strings(value: Any, _: Any) -> tuple[str, ...]:
    if type(value) is not list or not all(type(each) is str for each in value):
        raise TypeError("expected an array of strings")
    return tuple(value)


_WORDS = {str: "a string", int: "an integer", bool: "true or false"}


def _incoming(detailed: bool) -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True, detailed_validation=detailed)
    for type_ in (str, int, bool):
        converter.register_structure_hook(type_, _strict(type_))
    converter.register_structure_hook(datetime, _moment)
    converter.register_structure_hook_func(lambda t: t == tuple[str, ...], _strings)

    def present(optional: Any) -> Callable[[Any, Any], Any]:
        # Left out is not null: an optional field that is there has a value.
        (type_,) = (arm for arm in get_args(optional) if arm is not NoneType)
        return lambda value, _: converter.structure(value, type_)

    def an_object(class_: Any) -> Callable[[Any, Any], Any]:
        structure = make_dict_structure_fn(
            class_,
            converter,
            _cattrs_forbid_extra_keys=True,
            _cattrs_detailed_validation=detailed,
        )

        def check(value: Any, _: Any) -> Any:
            if type(value) is not dict:
                raise TypeError("expected an object")
            return structure(value, class_)

        return check

    converter.register_structure_hook_factory(lambda t: NoneType in get_args(t), present)
    converter.register_structure_hook_factory(has, an_object)
    return converter


def _structures(converter: cattrs.Converter) -> Mapping[str, tuple[type, Any]]:
    return {
        word(command): (command, converter.get_structure_hook(command))
        for command in get_args(Command)
    }


_COMMANDS = _structures(_incoming(detailed=False))


@cache
def _explained() -> Mapping[str, tuple[type, Any]]:
    """Return those that say what is wrong: made where it is asked, for it takes 10 ms."""
    return _structures(_incoming(detailed=True))


def _explain(cmd: str, fields: dict[str, Any]) -> str:
    """Structure once more, slowly, to say what was wrong and where."""
    try:
        command, structure = _explained()[cmd]
        structure(fields, command)
    except cattrs.BaseValidationError as error:
        lines = cattrs.transform_error(error, path="", format_exception=_words)
        _let_go(error)
        return "; ".join(
            f"{path[1:]}: {what}" if path else what
            for what, _, path in (line.rpartition(" @ ") for line in lines)
        )
    return "not understood"


def _let_go(error: BaseException) -> None:
    # cattrs' frames hold the errors that hold them, and all that called them: the connection.
    traceback.clear_frames(error.__traceback__)
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            _let_go(each)


def _words(error: BaseException, _: type | None) -> str:
    match error:
        case cattrs.ForbiddenExtraKeysError(extra_fields=extra):
            some = ", ".join(repr(key[:40]) for key in sorted(extra)[:3])
            return f"there is no field {some}" + (", …" if len(extra) > 3 else "")
        case KeyError():
            return "missing"
        case _:
            return str(error)


# Out: events and replies to JSON values.


def _outgoing() -> cattrs.Converter:
    converter = cattrs.Converter(omit_if_default=False)
    converter.register_unstructure_hook(datetime, model.rfc3339)

    def fields_of(class_: Any) -> Callable[[Any], dict[str, Any]]:
        # A default on a command or an event means "left out when so", and only there.
        always = {
            name: override(omit_if_default=False) for name in _ALWAYS & {*fields_dict(class_)}
        }
        hook = make_dict_unstructure_fn(
            class_,
            converter,
            _cattrs_omit_if_default=class_.__module__ != model.__name__,
            **always,  # type: ignore[arg-type] # each of them an override
        )
        tag = _TAGS.get(class_)
        if tag is None:
            return hook
        key, word = tag
        if key == word:
            return lambda item: {key: hook(item)}
        return lambda item: {key: word, **hook(item)}

    def page_of(events: Sequence[Durable]) -> object:
        if not isinstance(events, Page):
            return [converter.unstructure(event) for event in events]
        if events.spelled is None:
            events.spelled = orjson.dumps([converter.unstructure(event) for event in events])
        return orjson.Fragment(events.spelled)

    converter.register_unstructure_hook_factory(has, fields_of)
    converter.register_unstructure_hook_func(lambda t: t == Sequence[Durable], page_of)
    for room in (model.Room, model.Listed):
        # What most rooms have nothing of is told where one has.
        mostly = fields_dict(room).keys() - {"name", "kind", "title", "topic", "epoch"}
        told = {name: override(omit_if_default=True) for name in mostly}
        converter.register_unstructure_hook(
            room,
            make_dict_unstructure_fn(
                room,
                converter,
                epoch=override(omit=True),
                **told,  # type: ignore[arg-type] # each of them an override
            ),
        )
    converter.register_unstructure_hook(
        model.User,
        make_dict_unstructure_fn(model.User, converter, bot=override(omit_if_default=True)),
    )
    converter.register_unstructure_hook(
        model.Limits,
        make_dict_unstructure_fn(
            model.Limits,
            converter,
            **{  # type: ignore[arg-type] # each of them an override
                name: override(omit=True) for name in fields_dict(model.Limits).keys() - set(_TOLD)
            },
        ),
    )
    return converter


_ALWAYS = frozenset({"unread_mentions"})
"""What is told where it is 0, too: it has a default for a client of older servers."""

_TOLD = (
    "frame_bytes",
    "content_chars",
    "history",
    "resume",
    "in_flight",
    "messages",
    "edit_seconds",
    "reactions",
)

_TAGS: Mapping[type, tuple[str, str]] = {
    **{reply: ("reply", word(reply).removesuffix("_reply")) for reply in get_args(Reply)},
    events.Found: ("event", "message"),  # before the messages that a client reads by this word
    **{event: ("event", word) for word, event in events.DURABLE.items()},
    events.MembershipChanged: ("event", "membership"),
    events.ProfileChanged: ("event", "profile"),
    events.Read: ("event", "read"),
    events.Presence: ("event", "presence"),
    events.Typing: ("event", "typing"),
    events.Hello: ("hello", "hello"),
    events.Bye: ("bye", "bye"),
}

_out = _outgoing()


# The client's side: JSON values to replies and events.

_REPLIES = {_TAGS[reply][1]: reply for reply in get_args(Reply)}
_EVENTS = {word: class_ for class_, (key, word) in _TAGS.items() if key == "event"}
_ERRORS: dict[str, type[ChatError]] = {}


def _error_classes(class_: type[ChatError]) -> None:
    for each in class_.__subclasses__():
        _ERRORS[each.code] = each
        _error_classes(each)


_error_classes(ChatError)


def _told(fields: Any) -> Told | None:
    match fields:
        case {"reply": str(word)}:
            return Answer(_id_of(fields), _in(fields, _REPLIES[word]))
        case {"error": dict(error)}:
            return Answer(_id_of(fields), _told_error(error))
        case {"event": str()}:
            return _told_event(fields)
        case {"hello": dict(hello)}:
            return _in(hello, Hello)
        case {"bye": dict(bye)}:
            return _in(bye, Bye)
    return None


def _told_error(fields: dict[str, Any]) -> ChatError:
    code, message = str(fields.get("code")), str(fields.get("message"))
    error = _ERRORS.get(code, ChatError)(message)
    if type(error) is ChatError:  # a code that is newer than this version
        error.code, error.retryable = code, bool(fields.get("retryable"))
    after = fields.get("retry_after")
    error.retry_after = float(after) if isinstance(after, int | float) else None
    return error


def _told_event(fields: dict[str, Any]) -> Event | Other:
    class_ = _EVENTS.get(fields["event"])
    return _other(fields) if class_ is None else _in(fields, class_)


def _other(fields: dict[str, Any]) -> Other:
    seq = fields.get("seq")
    return Other(str(fields.get("room")), seq if type(seq) is int else None)


def _client() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=False, detailed_validation=False)
    converter.register_structure_hook(datetime, lambda text, _: datetime.fromisoformat(text))
    converter.register_structure_hook_func(
        lambda t: t in (Durable, Durable | Other), lambda fields, _: _told_event(fields)
    )
    return converter


_in = _client().structure

_UNREADABLE = (
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    cattrs.StructureHandlerNotFoundError,
)
"""What cattrs raises for a value that is not of its type's shape."""

COMMANDS = tuple(sorted(_COMMANDS))
"""Every `cmd` that decodes."""

__all__ = ["COMMANDS", "PROTOCOL", "JsonLines"]
