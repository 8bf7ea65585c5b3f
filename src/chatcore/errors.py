"""What can go wrong, as stable codes.

ChatError                     anything a client is told; has code, message, retryable
├── Invalid                   the frame or a value in it is not what the protocol asks for
│   └── UnknownCommand
├── TooLarge
├── Unauthenticated           log in first
│   └── BadCredentials
├── Forbidden                 known, in place, and still not allowed
│   ├── NotMember
│   ├── Banned
│   └── Muted
├── NotFound                  not there, or not there for you
├── Conflict                  it exists already, or contradicts what exists
│   └── TxnConflict
├── RateLimited               certainly not stored
├── StorageFull               certainly not stored
├── Unavailable               not known to be stored; repeat with the same txn_id
└── Internal                  a defect of the server

LinkClosed                    the peer is gone; the only thing Link.receive raises
OutcomeUnknown                a commit that may or may not have happened
SchemaError                   a database that this version cannot use

Codes are part of the wire protocol and never reused.  Mistakes of the programmer
are TypeError, RuntimeError or AssertionError and belong to nobody's `except`.
"""

from __future__ import annotations

from collections.abc import Sequence


class ChatError(Exception):
    """Something a client asked for did not happen.

    `message` is for people: what happened, and what to do.  `retryable` says
    whether the same command may succeed later, `retry_after` (seconds) when.
    """

    code: str
    retryable: bool = False

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after


class Invalid(ChatError):
    code = "invalid"


class UnknownCommand(Invalid):
    code = "unknown_command"


class TooLarge(ChatError):
    code = "too_large"


class Unauthenticated(ChatError):
    code = "unauthenticated"


class BadCredentials(Unauthenticated):
    code = "bad_credentials"


class Forbidden(ChatError):
    code = "forbidden"


class NotMember(Forbidden):
    code = "not_member"


class Banned(Forbidden):
    code = "banned"


class Muted(Forbidden):
    code = "muted"


class NotFound(ChatError):
    code = "not_found"


class Conflict(ChatError):
    code = "conflict"


class TxnConflict(Conflict):
    code = "txn_conflict"


class RateLimited(ChatError):
    code = "rate_limited"
    retryable = True


class StorageFull(ChatError):
    code = "storage_full"
    retryable = True


class Unavailable(ChatError):
    code = "unavailable"
    retryable = True


class Internal(ChatError):
    code = "internal"


class LinkClosed(Exception):
    """The peer is gone, or this side closed the link."""


class OutcomeUnknown(Exception):
    """A commit was asked for and no good answer came.

    `outcomes` is what `Repository.append` would have returned; `Repository.stored`
    tells which of them the log really holds, and `error` is for those that it does not.
    """

    def __init__(self, outcomes: Sequence[object], error: ChatError) -> None:
        super().__init__(error.message)
        self.outcomes = outcomes
        self.error = error


class SchemaError(Exception):
    """The database cannot be used as it is; the text is one sentence that says why."""
