"""What a process asks the kernel for, in order: strace, and whether each reply waited."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import define, field, frozen

CALLS = "pwrite64,write,writev,sendto,sendmsg,fsync,fdatasync"


def _why_not() -> str:
    if shutil.which("strace") is None:
        return "strace is not installed"
    done = subprocess.run(
        ["strace", "-o", "/dev/null", "true"], capture_output=True, text=True, check=False
    )
    return "" if done.returncode == 0 else f"strace may not trace: {done.stderr.strip()}"


_WHY_NOT = _why_not()
needs_strace = pytest.mark.skipif(bool(_WHY_NOT), reason=_WHY_NOT)


def under_strace(trace: Path) -> list[str]:
    """Return what stands before a command, so that `trace` gets its calls.

    With -D the command keeps the process that was started, and its signals.
    """
    return [
        *("strace", "-D", "-f", "-ttt", "-yy", "-xx", "-s", "70000", "--seccomp-bpf"),
        *("-e", f"trace={CALLS}", "-e", "signal=none", "-o", str(trace)),
    ]


@frozen
class Step:
    """A call that began, or one that ended."""

    ended: bool
    call: str
    file: str
    """The path, or TCP:[…]."""
    data: bytes
    failed: bool = False


_LINE = re.compile(r"(\d+) +([\d.]+) (.*)")
_CALL = re.compile(r"(\w+)\(\d+<(.*?)>(?:, |\)|$| <)(.*)")
_BYTES = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_RESULT = re.compile(r"= (-?\d+)")


def steps(trace: str) -> Iterator[Step]:
    """Yield the beginnings and ends of all calls, in the order in which strace saw them."""
    unfinished: dict[str, Step] = {}
    for line in trace.splitlines():
        found = _LINE.fullmatch(line)
        if found is None:
            continue
        thread, _, text = found.groups()
        if text.startswith("<... "):
            began = unfinished.pop(thread, None)
        else:
            began = _began(text)
            if began is not None:
                yield began
        if began is None:
            continue
        if text.endswith("<unfinished ...>"):
            unfinished[thread] = began
            continue
        result = _RESULT.search(text.rpartition(")")[2])
        failed = result is None or int(result[1]) < 0
        yield Step(True, began.call, began.file, began.data, failed)


def _began(text: str) -> Step | None:
    found = _CALL.match(text)
    if found is None:
        return None
    call, file, rest = found.groups()
    data = b"".join(bytes.fromhex(each.replace("\\x", "")) for each in _BYTES.findall(rest))
    return Step(False, call, re.sub(r"\\x([0-9a-f]{2})", lambda x: chr(int(x[1], 16)), file), data)


@define
class _Log:
    """What of the -wal file is on the disk."""

    frames: list[bytes] = field(factory=list)
    """Pages of the transaction that is being written."""
    header: bytes = b""
    committed: list[bytes] = field(factory=list)
    """Pages of those that are written, and not synced."""
    syncing: list[bytes] = field(factory=list)
    synced: list[bytes] = field(factory=list)

    def follow(self, step: Step) -> None:
        if step.call == "pwrite64" and step.ended and not step.failed:
            self._wrote(step.data)
        elif step.call in ("fsync", "fdatasync"):
            if not step.ended:
                self.syncing = [*self.committed]
            elif not step.failed:
                self.synced += self.syncing
                self.committed = self.committed[len(self.syncing) :]
                self.syncing = []

    def _wrote(self, data: bytes) -> None:
        if len(data) == 32:  # the file's own header
            return
        if len(data) == 24:
            self.header = data
            return
        self.frames.append(data)
        if int.from_bytes(self.header[4:8], "big"):  # the size after a commit, else 0
            self.committed += self.frames
            self.frames = []


def early(trace: str, texts: dict[bytes, bytes]) -> tuple[list[str], int]:
    """Name each reply or event that reached a socket before the -wal file was synced.

    `texts` has what each reply has in it, by a message's text.  Returns how many
    messages were replied to, too.  See SQLite's file format, section 4.1, for a frame.
    """
    log = _Log()
    found: list[str] = []
    answered: set[bytes] = set()
    for step in steps(trace):
        if step.file.endswith("-wal"):
            log.follow(step)
        elif step.file.startswith("TCP") and not step.ended:
            for text, reply in texts.items():
                told = reply in step.data
                if (told or b'"content":"' + text + b'"' in step.data) and not any(
                    text in page for page in log.synced
                ):
                    found.append(f"{text.decode()} was told before it was synced")
                if told:
                    answered.add(text)
    return found, len(answered)
