"""uvicorn as it may be one day: something inside has another name."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType


def rename(module: str, name: str) -> ModuleType:
    """Give an attribute or a method another name in all of a module, and have that imported."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    source, count = re.subn(
        rf"((?:self|cycle)\.|def ){name}\b",
        rf"\1{name}_of_tomorrow",
        Path(spec.origin).read_text(),
    )
    assert count
    changed = ModuleType(module)
    exec(compile(source, spec.origin, "exec"), vars(changed))
    sys.modules[module] = changed
    return changed


def move(module: str) -> None:
    """Have a module found no more, except by uvicorn's own choice of a protocol."""
    importlib.import_module(module.rpartition(".")[0] + ".auto")
    sys.modules[module] = None  # type: ignore[assignment] # as the import system has it
