"""What benchmarks/bench_scroll_conv2d.py times as Triton's is what it times as PyTorch's."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from tests.ops.truth import assert_near

BENCHMARKS = str(Path(__file__).resolve().parents[3] / "benchmarks")


@pytest.mark.parametrize("way", ["in place", "packed"])
def test_every_pass_of_a_layer_and_of_a_stem(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import convolutions

    for inputs in (3, 32):
        work = convolutions.Work(convolutions.Layer(inputs, 32, 3, 2, 4, 1), 1, torch.float32, "cpu")
        assert (work.by_triton("weight gradient", "packed"), inputs == 3 and work.by_triton("forward", "packed")) == (
            None,
            None if inputs == 3 else False,
        )
        for operation in ("forward", "input gradient", "weight gradient"):
            found = work.by_triton(operation, way) if inputs > 3 or operation != "input gradient" else None
            if found is None:
                continue
            problem, launch = found
            given = launch(problem.candidates(boxes=False, shared=1 << 30)[0])
            if operation == "weight gradient":
                assert given[0][0].shape == work.master.shape
                continue
            truths = [call() for call in work.by_torch(operation)]
            for own, true in zip(given[-len(truths) :], truths, strict=True) if inputs > 3 else ():
                assert_near(f"{operation} {way}", own, true.double(), 1e-5)
    sys.modules.pop("convolutions")
