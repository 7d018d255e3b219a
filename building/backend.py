"""setuptools' build backend, which asks for torch only where something can be compiled against it.

So an installation without a C++ compiler doesn't download torch for a build that has no use for it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403 - a backend offers all hooks of the one it extends
from toolchain import Toolchain

REQUIREMENTS = Path(__file__).with_name("requirements.txt")

Settings = dict[str, Any] | None


def _requirements(hook: Callable[[Settings], list[str]], settings: Settings) -> list[str]:
    return hook(settings) + (REQUIREMENTS.read_text().split() if Toolchain.find().cxx else [])


def get_requires_for_build_wheel(config_settings: Settings = None) -> list[str]:
    """What to install before a wheel is built."""
    return _requirements(build_meta.get_requires_for_build_wheel, config_settings)


def get_requires_for_build_editable(config_settings: Settings = None) -> list[str]:
    """What to install before an editable installation is built."""
    return _requirements(build_meta.get_requires_for_build_editable, config_settings)
