"""Logins that were kept by wish: one file, which only its owner may read."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import IO


class Unusable(Exception):
    """The file cannot be used; the text says why and what to do."""


def path() -> Path:
    """Return where tokens are kept, as the XDG base directory specification has it."""
    state = os.environ.get("XDG_STATE_HOME") or ""
    home = Path(state) if Path(state).is_absolute() else Path.home() / ".local" / "state"
    return home / "chatcore" / "tokens.json"


def kept(target: str) -> str | None:
    """Return the token for an `address`.  Raises Unusable."""
    return _read().get(target)


def keep(target: str, token: str | None) -> None:
    """Keep a token for an `address`, or forget it.  Raises Unusable."""
    file = path()
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with file.with_suffix(".lock").open("a") as lock:
            _lock(lock)  # until it is closed: another login may be about to do the same
            _replace(file, target, token)
    except OSError as error:
        raise Unusable(f"{file} cannot be written: {error.strerror}") from error


def _replace(file: Path, target: str, token: str | None) -> None:
    tokens = _read()
    if token is None:
        tokens.pop(target, None)
    else:
        tokens[target] = token
    # A file of mkstemp's is 0600 from its first moment; the renaming is all or nothing.
    descriptor, new = tempfile.mkstemp(dir=file.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as out:
            json.dump(tokens, out, indent=1)
            out.flush()
            os.fsync(out.fileno())
        Path(new).replace(file)
    except BaseException:
        Path(new).unlink(missing_ok=True)
        raise


def _read() -> dict[str, str]:
    file = path()
    try:
        with file.open(encoding="utf-8") as text:
            if os.name == "posix" and os.fstat(text.fileno()).st_mode & 0o077:
                raise Unusable(f"{file} may be read by others: chmod 600 it, and log in anew")
            tokens = json.load(text)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise Unusable(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError):
        tokens = None
    if not isinstance(tokens, dict) or not all(isinstance(each, str) for each in tokens.values()):
        raise Unusable(f"{file} is damaged: delete it, and log in anew")
    return tokens


def _lock(file: IO[str]) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        return
    fcntl.flock(file, fcntl.LOCK_EX)
