"""How many programs a launch has, on a GPU that isn't here."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from triton.runtime.errors import OutOfResources

from slimkern.kernels import launch, scroll_conv2d_plan, scroll_conv2d_weight_gradient
from slimkern.kernels.configurations import Configuration, ReductionConfiguration
from slimkern.kernels.geometry import Geometry
from slimkern.kernels.slab_table import nested

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
GPU = SimpleNamespace(multi_processor_count=10, shared_memory_per_multiprocessor=228 * 1024)
TILES = Configuration(64, 16, 16, warps=4, stages=1, registers=64, shared=1024)
SUMS = ReductionConfiguration(1, 16, 16, 64, warps=4, stages=1, registers=64, shared=1024, waves=1)
THREE = Geometry((3, 3), padding=(1, 1))
TABLE = nested(torch.empty(16, 16, 3, 3), (8, 16), (8, 16))


class Code:
    """What Triton compiles: it knows its registers once it is loaded."""

    metadata = SimpleNamespace(shared=1024)

    def __init__(self, registers: int) -> None:
        self._registers, self._has_failed = registers, False

    @property
    def run(self) -> None:
        if self._registers <= 255:
            self.n_regs = self._registers
        elif not self._has_failed:
            self._has_failed = True  # from then on it is a function that raises
            raise OutOfResources(self._registers, 255, "registers")


class Kernel:
    """Notes its launches; its code takes more registers with moments, which come as a tensor after the results."""

    def __init__(self, registers: int = 128, with_moments: int = 255) -> None:
        self.compiled: list[int] = []
        self.grids: list[int] = []
        self._registers, self._with_moments = registers, with_moments

    def warmup(self, *arguments: Any, grid: Any, **constants: Any) -> Code:
        has_moments = isinstance(arguments[4], torch.Tensor) and arguments[4].dim() == 3
        self.compiled.append(self._with_moments if has_moments else self._registers)
        return Code(self.compiled[-1])

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *arguments, **constants: self.grids.append(grid[0])


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: GPU)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    launch.resident.cache_clear()
    yield
    launch.resident.cache_clear()


@pytest.mark.parametrize(
    ("warps", "registers", "shared", "at_once"),
    [(4, 128, 1024, 4), (4, 129, 1024, 3), (8, 255, 1024, 1), (4, 32, 75 * 1024, 3), (4, 32, 1024, 8)],
    ids=["registers", "registers_by_eights", "one_of_255", "shared_memory", "no_more_than_eight"],
)
def test_what_a_multiprocessor_holds(warps: int, registers: int, shared: int, at_once: int) -> None:
    assert launch.resident(CUDA, warps, registers, shared) == 10 * at_once


def test_programs_are_counted_by_what_the_code_really_takes() -> None:
    arguments = [None] * 5
    assert launch.programs(CPU, TILES, None, arguments, {}) == launch.INTERPRETED_PROGRAMS
    assert launch.programs(CUDA, TILES, Kernel(registers=128), arguments, {}) == 40
    assert launch.programs(CUDA, TILES, Kernel(registers=0), arguments, {}) == 80  # nobody counted: the budget
    assert launch.programs(CUDA, TILES, SimpleNamespace(warmup=lambda *a, **k: None), arguments, {}) == 80
    code = Code(300)
    kernel = SimpleNamespace(warmup=lambda *arguments, **constants: code)
    with pytest.raises(OutOfResources, match="registers"):
        launch.programs(CUDA, TILES, kernel, arguments, {})
    assert launch.programs(CUDA, TILES, kernel, arguments, {}) == 80  # its launch will raise


def on_gpu(monkeypatch: pytest.MonkeyPatch, planner: Any) -> None:
    """Plan as for a GPU, with tensors of the CPU."""
    monkeypatch.setattr(planner, "programs", lambda device, *needed: launch.programs(CUDA, *needed))


def test_a_launch_is_planned_once_for_each_code(monkeypatch: pytest.MonkeyPatch) -> None:
    on_gpu(monkeypatch, scroll_conv2d_plan)
    kernel, image = Kernel(), (64, 64)
    monkeypatch.setattr(scroll_conv2d_plan, "gather", kernel)
    plan = scroll_conv2d_plan.forward_plan.__wrapped__(TABLE, THREE, 2, image, (8, 16), TILES, CPU)
    slabs = [torch.empty(2, count, *image) for count in (8, 16)]
    weights, moments = [torch.empty(16, 16, 3, 3)], torch.empty(3, 128, 24)
    for noted in (None, moments, None, moments):
        plan.launch(slabs, weights, None, slabs, noted, None)
    assert kernel.compiled == [128, 255] and kernel.grids == [40, 20, 40, 20]
    plan.launch([slab.bfloat16() for slab in slabs], weights, None, slabs, None, None)
    assert kernel.compiled == [128, 255, 128]


def test_sums_are_cut_for_the_programs_that_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    on_gpu(monkeypatch, scroll_conv2d_weight_gradient)
    monkeypatch.setattr(scroll_conv2d_weight_gradient, "add_partial_sums", Kernel())
    cuts = []
    for registers in (128, 255):
        kernel = Kernel(registers)
        monkeypatch.setattr(scroll_conv2d_weight_gradient, "sum_pixels", kernel)
        scroll_conv2d_weight_gradient._plan.cache_clear()
        slabs = [torch.empty(2, count, 64, 64) for count in (8, 16)]
        for _ in range(2):
            scroll_conv2d_weight_gradient.weight_gradient(
                slabs, slabs, [torch.empty(16, 16, 3, 3)], None, TABLE, THREE, SUMS
            )
        assert kernel.compiled == [registers] and kernel.grids[0] == kernel.grids[1]
        cuts += kernel.grids[:1]
    scroll_conv2d_weight_gradient._plan.cache_clear()
    assert 40 <= cuts[0] < 60 and 20 <= cuts[1] < 40


@pytest.mark.parametrize("operation", ["forward", "weight gradient"])
def test_a_new_kind_of_launch_is_refused_while_a_graph_is_captured(
    operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    planner: Any = scroll_conv2d_plan if operation == "forward" else scroll_conv2d_weight_gradient
    on_gpu(monkeypatch, planner)
    kernel = Kernel()
    for name in ("gather", "sum_pixels", "add_partial_sums"):
        monkeypatch.setattr(planner, name, kernel, raising=False)
    slabs, weights = [torch.empty(1, count, 8, 8) for count in (8, 16)], [torch.empty(16, 16, 3, 3)]
    if operation == "forward":
        plan = scroll_conv2d_plan.forward_plan.__wrapped__(TABLE, THREE, 1, (8, 8), (8, 16), TILES, CPU)
        run = lambda slabs: plan.launch(slabs, weights, None, slabs, None, None)  # noqa: E731
    else:
        planner._plan.cache_clear()
        sizes = ((8, 8), (8, 8), 64, (8, 16))
        plan = planner._plan.__wrapped__(TABLE, THREE, *sizes, SUMS, False, CPU)
        run = lambda slabs: plan.launch(slabs, slabs, 64, weights, None, None)  # noqa: E731
    run(slabs)
    launched = len(kernel.grids)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    run(slabs)
    assert len(kernel.grids) == 2 * launched
    with pytest.raises(RuntimeError, match="has no plan yet"):
        run([slab.bfloat16() for slab in slabs])
    assert len(kernel.grids) == 2 * launched and len(kernel.compiled) == 1


@pytest.mark.parametrize("capturing", [False, True])
def test_plans_that_a_graph_reads_outlive_the_cache(capturing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = [weakref.ref(plan) for plan in launched_plans(capturing, monkeypatch)]
    scroll_conv2d_plan.forward_plan.cache_clear()
    scroll_conv2d_weight_gradient._plan.cache_clear()
    gc.collect()
    assert [plan() is not None for plan in kept] == [capturing] * 2


def launched_plans(capturing: bool, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A plan of each kind, launched once before and once while a graph is captured, if one is."""
    slabs, weights = [torch.empty(1, count, 8, 8) for count in (8, 16)], [torch.empty(16, 16, 3, 3)]
    plans = []
    for planner, names in (
        (scroll_conv2d_plan, ["gather"]),
        (scroll_conv2d_weight_gradient, ["sum_pixels", "add_partial_sums"]),
    ):
        for name in names:
            monkeypatch.setattr(planner, name, Kernel())
        keep = planner.keep_for_graphs
        monkeypatch.setattr(planner, "keep_for_graphs", lambda plan, device, keep=keep: keep(plan, CUDA))
    plans.append(scroll_conv2d_plan.forward_plan(TABLE, THREE, 1, (8, 8), (8, 16), TILES, CPU))
    plans.append(scroll_conv2d_weight_gradient._plan(TABLE, THREE, (8, 8), (8, 8), 64, (8, 16), SUMS, False, CPU))
    for captured in (False, capturing):
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda captured=captured: captured)
        plans[0].launch(slabs, weights, None, slabs, None, None)
        plans[1].launch(slabs, slabs, 64, weights, None, None)
    return plans
