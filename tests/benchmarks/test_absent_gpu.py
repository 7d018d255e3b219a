"""The GPU that isn't there: what comes to the driver's door, and what is compiled for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

import absent_gpu
from convolutions import Layer, Work
from dry_runs import training
from triton.runtime.jit import JITFunction

from slimkern.kernels import scroll_conv2d_plan
from slimkern.ops import backends
from tests.benchmarks.few_launches import stem

ROOT = Path(__file__).resolve().parents[2]
CONVOLUTIONS = 20
"""Of a ResNet-18; its images want no gradient."""


@pytest.fixture(autouse=True)
def backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(backends.ENVIRONMENT_VARIABLE, "torch")  # a step sets it
    yield


def test_every_launch_of_a_step_comes_to_the_door() -> None:
    run, planned = JITFunction.run, scroll_conv2d_plan.programs
    with absent_gpu.absent_gpu() as launches:
        training(4, "bf16", scroll=1, channels=32)()
    counts = Counter(own.kernel for own in launches)
    assert counts["gather"] + counts["gather_boxes"] == 2 * (CONVOLUTIONS - 1)
    assert counts["sum_pixels"] + counts["sum_boxes"] == counts["add_partial_sums"] == CONVOLUTIONS
    assert counts["gather_few_channels"] == 1
    assert all(own.code is None and min(own.grid) > 0 for own in launches)
    assert sum(own.problem.startswith("input gradient") for own in launches) == CONVOLUTIONS - 1
    assert (JITFunction.run, scroll_conv2d_plan.programs) == (run, planned)


def test_launches_are_spread_over_the_processors_that_the_gpu_would_have() -> None:
    work = Work(Layer(64, 64, 3, 1, 32, 1), 64, torch.bfloat16, "cpu")
    problem, launch = work.by_triton("forward", "in place")
    with absent_gpu.absent_gpu() as launches:
        launch(next(own for own in problem.candidates(True, 1 << 20) if not own.boxes))
    (own,) = launches
    assert own.grid[0] % absent_gpu.GPU.multi_processor_count == 0


def test_what_is_compiled_tells_what_it_takes() -> None:
    with absent_gpu.absent_gpu(lambda key: key.startswith("gather_few_channels")) as launches:
        stem()
    (own,) = launches
    needed = absent_gpu.resources(own.code)
    assert 16 < needed.registers <= 255 and needed.stack == 0 and 0 < needed.shared <= 10 * 1024


def test_nothing_but_hardware_fails_the_tests_on_a_gpu(tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    counts = tmp_path / "launches"
    plugins = ["-p", "no:cacheprovider", "-p", "tests.without_gpu", "--launches", counts]
    files = [f"tests/gpu/test_{name}.py" for name in ("scroll_conv2d", "exactness", "training_steps")]
    command = [sys.executable, "-m", "pytest", "-q", *plugins, *files]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout[-5000:] + ended.stderr[-2000:]
    assert "skipped" not in ended.stdout
    lines = [json.loads(line) for line in counts.read_text().splitlines()]
    assert {Path(own["test"].split("::")[0]).name for own in lines if own["launches"]} == {Path(f).name for f in files}
