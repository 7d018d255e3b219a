"""Which configuration serves a pass: the measured one where there is a measurement, else what should be the fastest.

Measurements are data: `choices.json` in this package holds those of known devices, a file in the user's cache those of
others. A pass that neither knows is measured where PyTorch's own switch asks for it, `torch.backends.cudnn.benchmark`,
and never while a CUDA graph is being captured.
"""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from triton.runtime.errors import OutOfResources

from slimkern.kernels.problem import AnyConfiguration, Problem

VERSION = 1
SHIPPED = Path(__file__).with_name("choices.json")
WAYS = ("torch", "packed", "in place")
"""How a pass may be served: slab by slab in plain torch, or by one launch that reads weights packed or in place."""

UNSUITABLE = (ValueError, OutOfResources)
"""What a launch raises whose configuration doesn't suit it."""

INTERPRETER_SHARED = 1 << 30

Result = TypeVar("Result")
Table = dict[str, dict[str, dict[str, dict[str, Any]]]]
"""Device, problem, way: the configuration's name (none for torch) and the microseconds it took."""


def cache_file() -> Path:
    """Where this user's measurements are kept: under XDG_CACHE_HOME, or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slimkern" / f"choices-{VERSION}.json"


@cache
def tuner(device: torch.device) -> Tuner:
    """The tuner of a device."""
    return Tuner(device)


def read_table(path: Path) -> Table:
    """The measurements in a file; none, with a warning, if it is broken or of another version."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        warnings.warn(f"{path} can't be read ({error}): kernels are chosen without it", stacklevel=2)
        return {}
    if not _is_table(content):
        warnings.warn(f"{path} isn't a table of version {VERSION}: kernels are chosen without it", stacklevel=2)
        return {}
    return content["devices"]


def _is_table(content: Any) -> bool:
    try:
        entries = [
            (entry["configuration"], float(entry["microseconds"]))
            for problems in content["devices"].values()
            for ways in problems.values()
            for entry in ways.values()
        ]
    except (AttributeError, KeyError, TypeError, ValueError):
        return False
    return content.get("version") == VERSION and all(isinstance(name, str | None) for name, _ in entries)


def write_table(path: Path, table: Table) -> None:
    """Replace a file of measurements at once, so that readers see the old or the new one.

    Raises:
        OSError: the folder can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({"version": VERSION, "devices": table}, file, indent=1, sort_keys=True)
        os.replace(beside, path)
    except BaseException:
        os.unlink(beside)
        raise


def milliseconds(launch: Callable[[], object]) -> float:
    """Median time of a launch on the GPU, the cache flushed before each."""
    from triton.testing import do_bench

    return float(do_bench(launch, warmup=5, rep=30, return_mode="median"))  # pyright: ignore[reportArgumentType]


def may_measure(device: torch.device) -> bool:
    """Whether PyTorch's switch asks for it; never in the interpreter, nor while a CUDA graph is being captured."""
    is_cuda = device.type == "cuda"
    return is_cuda and torch.backends.cudnn.benchmark and not torch.cuda.is_current_stream_capturing()


class Tuner:
    """Runs passes by the configuration that suits them best, and remembers which that is.

    Args:
        device: that all passes run on.
        own: file of this user's measurements; by default `cache_file()`.
        shipped: file of those that come with the package.
        measure: gives the milliseconds that a launch takes.
    """

    def __init__(
        self,
        device: torch.device,
        own: Path | None = None,
        shipped: Path = SHIPPED,
        measure: Callable[[Callable[[], object]], float] = milliseconds,
    ) -> None:
        self._device = device
        self._own = own or cache_file()
        self._measure = measure
        self._chosen: dict[tuple[Problem, str], AnyConfiguration] = {}
        self._name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        self._known = read_table(shipped).get(self._name, {})
        for key, ways in read_table(self._own).get(self._name, {}).items():
            self._known.setdefault(key, {}).update(ways)

    def run(self, problem: Problem, way: str, launch: Callable[[AnyConfiguration], Result]) -> Result:
        """Launch a pass by its best configuration.

        Args:
            problem: the pass.
            way: packed or in place, how it reads weights.
            launch: runs it; raises one of UNSUITABLE for a configuration that doesn't suit.
        """
        if configuration := self._chosen.get((problem, way)):
            return launch(configuration)
        candidates = problem.candidates(*self._limits())
        known = self._known.get(problem.key, {}).get(way, {}).get("configuration")
        candidates.sort(key=lambda own: own.name != known)
        if known != candidates[0].name and may_measure(self._device):
            candidates = self._measured(problem, way, candidates, launch)
        for configuration in candidates:
            try:
                result = launch(configuration)
            except UNSUITABLE:
                if configuration is candidates[-1]:
                    raise
                continue
            self._chosen[problem, way] = configuration
            return result
        raise AssertionError("there is a configuration for every pass")

    def fastest(self, problem: Problem) -> str | None:
        """The way that was measured to be the fastest; None if fewer than two were measured."""
        ways = self._known.get(problem.key, {})
        return min(ways, key=lambda way: ways[way]["microseconds"]) if len(ways) > 1 else None

    def record(self, problem: Problem, way: str, configuration: str | None, microseconds: float) -> None:
        """Keep a measurement, here and in the user's cache."""
        entry = {"configuration": configuration, "microseconds": round(microseconds, 2)}
        self._known.setdefault(problem.key, {})[way] = entry
        try:
            table = read_table(self._own)
            table.setdefault(self._name, {}).setdefault(problem.key, {})[way] = entry
            write_table(self._own, table)
        except OSError as error:
            warnings.warn(f"{self._own} can't be written ({error}): measurements end with this process", stacklevel=2)

    def _measured(
        self,
        problem: Problem,
        way: str,
        candidates: list[AnyConfiguration],
        launch: Callable[[AnyConfiguration], object],
    ) -> list[AnyConfiguration]:
        """The candidates that suit, fastest first."""
        times: dict[AnyConfiguration, float] = {}
        for configuration in candidates:
            try:
                times[configuration] = self._measure(partial(launch, configuration))
            except UNSUITABLE:
                continue
        if not times:
            return candidates
        best = min(times, key=times.__getitem__)
        self.record(problem, way, best.name, times[best] * 1e3)
        return sorted(times, key=times.__getitem__)

    def _limits(self) -> tuple[bool, int]:
        if self._device.type != "cuda":
            return True, INTERPRETER_SHARED
        properties = torch.cuda.get_device_properties(self._device)
        return properties.major >= 9, properties.shared_memory_per_block_optin
