"""The steps of a Dockerfile, taken in a folder, for machines that have no Docker.

The files of an image lie below `root` in place of `/`.  A stage is moved away at its end, so
the next one has of it what it copies.  Where the tests are root, what the Dockerfile runs is
run by a user who is not, and what it starts by its own, who is another.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from attrs import define, field, frozen

BUILDER = 10002
"""Stands for the root of a build, who owns what is installed."""
MINE = r"/(opt|data)\b"
"""The folders that an image adds to those of its base."""


@frozen
class Instruction:
    keyword: str
    flags: Mapping[str, str]
    rest: str


def instructions(dockerfile: str) -> Iterator[Instruction]:
    text = re.sub(r"^\s*#.*\n", "", dockerfile, flags=re.MULTILINE)
    for line in re.sub(r"\\[ \t]*\n", "", text).splitlines():
        if line.strip():
            keyword, _, rest = line.partition(" ")
            flags = {}
            while given := re.match(r"--([\w-]+)=(\S+) +", rest):
                flags[given[1]] = given[2]
                rest = rest[given.end() :]
            yield Instruction(keyword, flags, rest.strip())


class Ignored:
    """What a .dockerignore keeps out: of the patterns that match, the last one decides."""

    def __init__(self, text: str) -> None:
        lines = [line for line in map(str.strip, text.splitlines()) if line and line[0] != "#"]
        self._rules = [(line[0] == "!", _pattern(line.lstrip("!"))) for line in lines]

    def __contains__(self, path: PurePosixPath) -> bool:
        ignored = False
        for let_in, pattern in self._rules:
            if any(pattern.fullmatch(str(each)) for each in (path, *path.parents)):
                ignored = not let_in
        return ignored


def _pattern(line: str) -> re.Pattern[str]:
    words = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", line.strip("/"))
    return re.compile("".join(words.get(part, re.escape(part)) for part in parts))


def as_user(uid: int | None) -> dict[str, Any]:
    """Arguments of a subprocess that is another user's; where we are not root it is ours."""
    if uid is None or os.geteuid() != 0:
        return {}
    return {"user": uid, "group": uid, "extra_groups": []}


def python_for(uid: int) -> str:
    """Return a Python with pip that a user can run: it may not be the one that runs the tests."""
    fit = "import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))"
    here = f"{sys.base_prefix}/bin/python3.{sys.version_info.minor}"
    for name in (here, "python3.11", "python3"):
        python = shutil.which(name, path="/usr/local/bin:/usr/bin")
        try:
            if python:
                subprocess.run([python, "-c", fit], check=True, **as_user(uid))
                return python
        except (PermissionError, subprocess.CalledProcessError):
            continue
    pytest.skip("no Python of 3.11 or later, with venv and pip, can be run by another user")


def python_and_pip(folder: Path) -> Path:
    """Make what stands for the image that others begin from; return the folder of its commands."""
    folder.mkdir()
    if os.geteuid() == 0:
        os.chown(folder, BUILDER, BUILDER)
    make = [python_for(BUILDER), "-m", "venv", str(folder)]
    subprocess.run(make, umask=0o022, check=True, **as_user(BUILDER))
    return folder / "bin"


@define
class Image:
    """What the last stage says, and its files."""

    root: Path
    env: dict[str, str]
    uid: int | None = None
    cwd: Path = field(init=False)
    ports: list[int] = field(factory=list)
    stop_signal: str = "SIGTERM"
    healthcheck: Sequence[str] = ()
    command: Sequence[str] = ()

    def __attrs_post_init__(self) -> None:
        self.cwd = self.root

    def path(self, text: str) -> Path:
        """Where a path of the image's is; a relative one is from its working directory."""
        return self.root / text[1:] if text.startswith("/") else self.cwd / text

    def here(self, text: str) -> str:
        """A text with the image's own folders where they are."""
        return re.sub(MINE, rf"{self.root}/\1", text)

    def process(self, **env: str) -> dict[str, Any]:
        """Arguments of a subprocess that is one of a container's."""
        return {"cwd": self.cwd, "env": {**self.env, **env}, **as_user(self.uid)}


class Build:
    """Builds an image of a context, in a folder that everybody may look into."""

    def __init__(self, context: Path, folder: Path, base: Path) -> None:
        self._context = context
        self._ignored = Ignored((context / ".dockerignore").read_text("utf-8"))
        self._folder = folder
        self._base = base
        self._uids: dict[str, int] = {}

    def run(self, dockerfile: str) -> Image:
        name, image = "", Image(self._folder / "image", {})
        for each in instructions(dockerfile):
            if each.keyword == "FROM":
                if name:
                    image.root.rename(self._folder / name)
                of = re.fullmatch(r"python:3\.\d+-slim-\w+(?: AS (\w+))?", each.rest)
                assert of, f"these steps begin with Python and pip: {each.rest}"
                name = of[1] or "last"
                path = f"{self._base}:/usr/bin:/bin"
                image = Image(image.root, {"PATH": path, "HOME": str(self._folder)})
                self._make(image.root)
            else:
                self._take(each, image)
        return image

    def _take(self, step: Instruction, image: Image) -> None:
        match step.keyword:
            case "RUN" if step.rest.startswith("useradd "):
                self._add_user(step.rest, image)
            case "RUN":
                assert image.uid is None, "after USER nothing is installed"
                self._shell(image.here(step.rest), image)
            case "COPY":
                self._copy(step, image)
            case "ENV":
                for word in shlex.split(step.rest):
                    key, _, text = word.partition("=")
                    value = re.sub(r"\$(\w+)", lambda name: image.env[name[1]], image.here(text))
                    image.env[key] = value
            case "WORKDIR":
                image.cwd = image.path(step.rest)
                self._make(image.cwd)
            case "USER":
                image.uid = int(step.rest)
                assert image.uid in self._uids.values(), "the image has this user"
            case "EXPOSE":
                image.ports.append(int(step.rest))
            case "STOPSIGNAL":
                image.stop_signal = step.rest
            case "HEALTHCHECK":
                keyword, _, words = step.rest.partition(" ")
                assert keyword == "CMD"
                image.healthcheck = json.loads(words)
            case "CMD":
                image.command = json.loads(step.rest)
            case other:
                raise AssertionError(f"nobody has said here how to take a step {other}")

    def _shell(self, command: str, image: Image) -> None:
        # What pip needs to find its packages here is the machine's to say, not the image's.
        passed = {key: value for key, value in os.environ.items() if key.startswith("PIP_")}
        subprocess.run(
            ["/bin/sh", "-c", command],
            cwd=image.cwd,
            env={**passed, **image.env},
            umask=0o022,
            check=True,
            **as_user(BUILDER),
        )

    def _add_user(self, command: str, image: Image) -> None:
        """Only root can; and on this machine there need be no such user."""
        add, *others = [shlex.split(part) for part in command.split("&&")]
        uid = int(add[add.index("--uid") + 1])
        self._uids[add[-1]] = uid
        for words in others:
            assert words[:2] == ["install", "--directory"], words
            given = dict(word.removeprefix("--").split("=") for word in words[2:-1])
            directory = image.path(words[-1])
            directory.mkdir(parents=True)
            directory.chmod(int(given["mode"], 8))
            if os.geteuid() == 0:
                os.chown(directory, self._uids[given["owner"]], self._uids[given["group"]])

    def _copy(self, step: Instruction, image: Image) -> None:
        *sources, destination = step.rest.split()
        target = image.path(destination)
        if "from" in step.flags:
            (source,) = sources
            stage = self._folder / step.flags["from"]
            shutil.copytree(stage / source[1:], target, symlinks=True)
        for source in () if "from" in step.flags else sources:
            found = [*self._sent(source)]
            assert found, f"COPY {source}: the context has no such file"
            for path in found:
                relative = path.relative_to(source) if path != PurePosixPath(source) else path.name
                file = target / relative if destination.endswith("/") else target
                self._make(file.parent)
                shutil.copy(self._context / path, file)
        self._own(target)

    def _sent(self, source: str) -> Iterator[PurePosixPath]:
        """The files that Docker would be sent, of one that is copied or below it."""
        top = self._context / source
        for path in [top, *top.rglob("*")]:
            relative = PurePosixPath(path.relative_to(self._context).as_posix())
            if path.is_file() and relative not in self._ignored:
                yield relative

    def _make(self, directory: Path) -> None:
        for each in [*reversed(directory.parents), directory]:
            if not each.exists():
                each.mkdir()
                self._own(each)

    def _own(self, top: Path) -> None:
        if os.geteuid() == 0:
            for path in [top, *top.rglob("*")]:
                os.chown(path, BUILDER, BUILDER, follow_symlinks=False)
