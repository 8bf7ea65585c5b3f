"""What uvicorn speaks on each connection: ours, or its own where ours cannot stand on that.

Ours take from uvicorn's what it promises nobody, so that is looked for before anyone comes.
"""

from __future__ import annotations

import asyncio
import dis
import inspect
import logging
from collections.abc import Callable, Mapping
from functools import partial
from importlib import metadata

from chatcore.roster import Roster

logger = logging.getLogger("chat_transports.server")


def websockets() -> type[asyncio.Protocol] | None:
    """Return ours for WebSockets; None, and a line in the log, where uvicorn is another."""
    try:
        from chat_transports.server.frames import NEEDED, Frames

        _check(NEEDED)
    except ImportError as error:
        _warn(error, "WebSockets go through ASGI, slower")
        return None
    return Frames


def requests(roster: Roster) -> Callable[..., asyncio.Protocol] | None:
    """Return ours for HTTP, counted in a roster; None, and a line, where uvicorn is another."""
    try:
        from chat_transports.server.requests import NEEDED, Requests

        _check(NEEDED)
    except ImportError as error:
        _warn(error, "who asks by HTTP is neither counted nor timed")
        return None
    return partial(Requests, roster)


def _warn(error: ImportError, instead: str) -> None:
    version = metadata.version("uvicorn")
    logger.warning("uvicorn %s is not as we know it (%s): %s", version, error, instead)


def _check(needed: Mapping[type, tuple[str, ...]]) -> None:
    if absent := missing(needed):
        raise ImportError(f"no {', '.join(absent)}")


def missing(needed: Mapping[type, tuple[str, ...]]) -> list[str]:
    """Return which of the names that are needed of each class it does not have any more."""
    return [
        f"{owner.__name__}.{name}"
        for owner, names in needed.items()
        for name in sorted({*names} - own_names(owner))
    ]


def own_names(owner: type) -> set[str]:
    """Return the methods of a class of uvicorn's, and the attributes that their code sets.

    Some are set by a handshake alone, so an instance would not tell.
    """
    names: set[str] = set()
    for each in owner.__mro__:
        if each.__module__.startswith("uvicorn."):  # not what asyncio does instead: nothing
            names.update(vars(each))
            for method in filter(inspect.isfunction, vars(each).values()):
                code = dis.get_instructions(method)
                names.update(one.argval for one in code if one.opname == "STORE_ATTR")
    return names
