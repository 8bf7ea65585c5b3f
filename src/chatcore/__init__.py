"""A chat core that any Python application can embed."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chatcore.accounts import Token
    from chatcore.chat import Chat
    from chatcore.commands import Since
    from chatcore.connection import serve
    from chatcore.errors import ChatError
    from chatcore.events import Delete, Edit, Member, Message, Reaction
    from chatcore.folding import fold
    from chatcore.model import Credentials, Limits, Rate, Room, User
    from chatcore.participant import Participant
    from chatcore.peer import Peer, connect
    from chatcore.repository.memory import MemoryRepository
    from chatcore.repository.sql import SqliteRepository

__version__ = "0.1.0"

_HOMES = {
    "Chat": "chatcore.chat",
    "ChatError": "chatcore.errors",
    "Credentials": "chatcore.model",
    "Delete": "chatcore.events",
    "Edit": "chatcore.events",
    "Limits": "chatcore.model",
    "Member": "chatcore.events",
    "MemoryRepository": "chatcore.repository.memory",
    "Message": "chatcore.events",
    "Participant": "chatcore.participant",
    "Peer": "chatcore.peer",
    "Rate": "chatcore.model",
    "Reaction": "chatcore.events",
    "Room": "chatcore.model",
    "Since": "chatcore.commands",
    "SqliteRepository": "chatcore.repository.sql",
    "Token": "chatcore.accounts",
    "User": "chatcore.model",
    "connect": "chatcore.peer",
    "fold": "chatcore.folding",
    "serve": "chatcore.connection",
}

__all__ = [  # the keys above, once more: type checkers and editors read it
    "Chat",
    "ChatError",
    "Credentials",
    "Delete",
    "Edit",
    "Limits",
    "Member",
    "MemoryRepository",
    "Message",
    "Participant",
    "Peer",
    "Rate",
    "Reaction",
    "Room",
    "Since",
    "SqliteRepository",
    "Token",
    "User",
    "connect",
    "fold",
    "serve",
]


def __getattr__(name: str) -> Any:  # PEP 562: a name costs its module only once it is used
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
