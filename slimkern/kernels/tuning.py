"""Which configuration serves a pass: the measured one where there is a measurement, else what should be the fastest.

Measurements are data: `choices.json` in this package holds those of known devices, a file in the user's cache those of
others. A pass that neither knows is measured where PyTorch's own switch asks for it, `torch.backends.cudnn.benchmark`,
and never while a CUDA graph is being captured. That takes seconds to minutes for each, and is told when it begins.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import cache, partial
from math import inf
from pathlib import Path
from typing import Any, TypeVar

import torch
from triton.runtime.errors import OutOfResources

from slimkern.kernels.capturing import capturing
from slimkern.kernels.choice_table import SHIPPED, add_entry, cache_file, fingerprint, name_of, read_table
from slimkern.kernels.configurations import SLAB_BY_SLAB
from slimkern.kernels.launch import Unsuitable
from slimkern.kernels.problem import AnyConfiguration, Problem

UNSUITABLE = (Unsuitable, OutOfResources)
"""What a launch raises whose configuration doesn't suit it."""

INTERPRETER_SHARED = 1 << 30

Result = TypeVar("Result")


@cache
def tuner(device: torch.device) -> Tuner:
    """The tuner of a device."""
    return Tuner(device)


def milliseconds(launch: Callable[[], object]) -> float:
    """Median time of a launch on the GPU, the cache flushed before each.

    It is captured in a CUDA graph, so that a way of several launches isn't blamed for what their calls cost the host,
    and one that differs from another in graphs alone is told apart from it.
    """
    from triton.testing import do_bench

    for _ in range(3):  # compiles and plans, which a capture can't
        launch()
    graph = torch.cuda.CUDAGraph()
    with capturing(graph):
        launch()
    return float(do_bench(graph.replay, warmup=5, rep=30, return_mode="median"))  # pyright: ignore[reportArgumentType]


def _name(configuration: AnyConfiguration | None) -> str | None:
    return None if configuration is None else configuration.name


def may_measure(device: torch.device) -> bool:
    """Whether PyTorch's switch asks for it; never in the interpreter, nor while a CUDA graph is being captured."""
    is_cuda = device.type == "cuda"
    return is_cuda and torch.backends.cudnn.benchmark and not torch.cuda.is_current_stream_capturing()


class Tuner:
    """Runs passes by the configuration that suits them best, and remembers which that is.

    Args:
        device: that all passes run on.
        own: file of this user's measurements, kept by `fingerprint`; by default `cache_file()`.
        shipped: file of those that come with the package, by the device's name. As `own`, it is written.
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
        self._told = False
        self._ranked: dict[tuple[Problem, str], list[AnyConfiguration]] = {}
        self._place = name_of(device) if self._own == shipped else fingerprint(device)
        self._known = read_table(shipped).get(name_of(device), {})
        for key, ways in read_table(self._own).get(self._place, {}).items():
            self._known.setdefault(key, {}).update(ways)

    def run(self, problem: Problem, launches: Mapping[str, Callable[[Any], Result]]) -> Result:
        """Run a pass the fastest way, and that by its best configuration.

        Args:
            problem: the pass.
            launches: by way, what runs it by a configuration (none slab by slab), and raises one of UNSUITABLE where
                that doesn't suit. The first way serves where nothing was measured.
        """
        way = self.fastest(problem, launches)
        if way is None and may_measure(self._device):
            for own, launch in launches.items():
                self._ranked[problem, own] = self._rank(problem, own, launch)
            way = self.fastest(problem, launches)
        way = way or next(iter(launches))
        launch = launches[way]
        ranked = self._ranked.get((problem, way)) or self._rank(problem, way, launch)
        for place, configuration in enumerate(ranked):
            try:
                result = launch(configuration)
            except UNSUITABLE:
                if configuration is ranked[-1]:
                    raise
                continue
            # What didn't suit goes last, not away: where a weight lies may differ from call to call.
            self._ranked[problem, way] = ranked[place:] + ranked[:place]
            return result
        raise AssertionError("there is a configuration for every pass")

    def fastest(self, problem: Problem, ways: Iterable[str]) -> str | None:
        """The one of these ways that was measured to be the fastest; None if fewer than two were measured."""
        known = self._known.get(problem.key, {})
        times = {way: known[way]["microseconds"] for way in ways if way in known}
        return min(times, key=times.__getitem__) if len(times) > 1 else None

    def record(self, problem: Problem, way: str, configuration: str | None, microseconds: float) -> None:
        """Keep a measurement, here and in the user's cache."""
        # A coarse clock may read 0, and a file that holds such a time is no table.
        entry = {"configuration": configuration, "microseconds": max(round(microseconds, 2), 0.01)}
        self._known.setdefault(problem.key, {})[way] = entry
        try:
            add_entry(self._own, self._place, problem.key, way, entry)
        except OSError as error:
            warnings.warn(f"{self._own} can't be written ({error}): measurements end with this process", stacklevel=2)

    def _rank(self, problem: Problem, way: str, launch: Callable[[Any], object]) -> list[Any]:
        """All candidates of a way, the known or measured best one first."""
        candidates = [None] if way in SLAB_BY_SLAB else problem.candidates(*self._limits())
        entry = self._known.get(problem.key, {}).get(way)
        known = entry["configuration"] if entry else ""
        candidates.sort(key=lambda own: _name(own) != known)
        if known == _name(candidates[0]) or not may_measure(self._device):
            return candidates
        self._tell(f"{len(candidates)} candidates for {problem.key}, {way}")
        times = dict.fromkeys(candidates, inf)
        for configuration in candidates:
            with suppress(*UNSUITABLE):
                times[configuration] = self._measure(partial(launch, configuration))
        best, *_ = ranked = sorted(candidates, key=times.__getitem__)
        if times[best] < inf:
            self.record(problem, way, _name(best), times[best] * 1e3)
        return ranked

    def _tell(self, first: str) -> None:
        """Say once what takes so long."""
        if not self._told:
            self._told = True
            logging.getLogger(__name__).warning(
                "measuring kernels, as torch.backends.cudnn.benchmark asks: %s, then those of every other pass that is "
                "new. Each is compiled first, so the first step takes minutes; what is measured is kept in %s",
                first,
                self._own,
            )

    def _limits(self) -> tuple[bool, int]:
        if self._device.type != "cuda":
            return True, INTERPRETER_SHARED
        properties = torch.cuda.get_device_properties(self._device)
        return properties.major >= 9, properties.shared_memory_per_block_optin
