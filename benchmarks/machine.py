"""What a benchmark ran on."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import sqlite3
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

PACKAGES = (
    "chatcore",
    "flask-socketio",
    "gevent",
    "orjson",
    "python-socketio",
    "sqlalchemy",
    "starlette",
    "uvicorn",
    "uvloop",
    "websockets",
)

NODE = Path(__file__).parent / "peers" / "node"
"""Where node's servers are, and what they need."""
NODE_PACKAGES = ("socket.io", "ws")
PROGRAMS = {"node": "node", "nats-server": "NATS", "inspircd": "InspIRCd"}
"""What there is besides, by command."""


def describe(directory: Path) -> dict[str, str]:
    """Describe the machine, the disk under the directory, and the versions of all involved."""
    found = {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": _cpu(),
        "cores": str(len(os.sched_getaffinity(0))),
        "kernel": f"{platform.system()} {platform.release().partition('-')[0]}",
        "file system": _file_system(directory),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "sqlite": sqlite3.sqlite_version,
    }
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    for program, name in PROGRAMS.items():
        if shutil.which(program):
            ran = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
            version = re.search(r"[0-9]+(\.[0-9]+)+", ran.stdout)
            found[name] = version[0] if version else "?"
    if "node" in found:
        for package in NODE_PACKAGES:
            manifest = NODE / "node_modules" / package / "package.json"
            if manifest.exists():
                found[f"node's {package}"] = json.loads(manifest.read_text("utf-8"))["version"]
    return found


class Others:
    """How much of the machine's CPU time went to anybody but this process and its children."""

    def __init__(self) -> None:
        self._before = self._used()

    def share(self) -> float:
        """Return it since the beginning; children count once they have ended."""
        wall, all_busy, ours = (b - a for a, b in zip(self._before, self._used(), strict=True))
        return max(0.0, all_busy - ours) / wall

    @staticmethod
    def _used() -> tuple[float, float, float]:
        line = Path("/proc/stat").read_text("ascii").splitlines()[0]
        user, nice, system, idle, waiting, interrupts, soft, stolen = map(int, line.split()[1:9])
        busy = user + nice + system + stolen
        ticks = os.sysconf("SC_CLK_TCK")
        wall = (busy + idle + waiting + interrupts + soft) / ticks
        return wall, busy / ticks, sum(os.times()[:4])


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _file_system(directory: Path) -> str:
    """Return the type of the file system that is mounted closest above the directory."""
    where, best = directory.resolve(), ("", "unknown")
    for line in Path("/proc/mounts").read_text("utf-8").splitlines():
        _, mount, kind, *_ = line.split()
        if where.is_relative_to(mount) and len(mount) >= len(best[0]):
            best = (mount, kind)
    return best[1]
