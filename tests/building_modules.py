"""Modules of the build, which lie outside of the package."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

BUILDING = Path(__file__).parents[1] / "building"


def load(name: str) -> ModuleType:
    """A fresh copy of one module; the others that it imports are those of the folder too."""
    sys.path.insert(0, str(BUILDING))
    try:
        spec = importlib.util.spec_from_file_location(name, BUILDING / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(BUILDING))
    return module
