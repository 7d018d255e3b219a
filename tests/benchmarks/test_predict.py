"""What a step is predicted to launch and to take."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

import predict
from absent_gpu import Resources, absent_gpu
from operator_launches import OperatorLaunches
from time_model import GAP, Work, microseconds

from slimkern.ops import backends, native

CONVOLUTIONS = 20
ONE = np.ones(264, np.int64)
WORK = Work(ONE, 9 * ONE, 128 * 128 * 64, 256 * 64 * 2, 10**6, "half", "gather", warps=8, stages=3)


@pytest.mark.skipif(native.why_unavailable("cpu") is not None, reason="the compiled operators are counted")
def test_a_step_is_counted(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(backends.ENVIRONMENT_VARIABLE, "torch")  # the step sets it
    predict.main(["--batch", "2", "--channels", "32", "--scroll", "1", "--no-compile"])
    lines = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    cells = {row[0]: [cell.strip() for cell in row[1:] if cell.strip()] for row in lines}
    launches = {
        part: int(cells[f"convolutions, {part}"][0]) for part in ("forward", "input gradient", "weight gradient")
    }
    assert launches == {
        "forward": CONVOLUTIONS,
        "input gradient": CONVOLUTIONS - 1,
        "weight gradient": 2 * CONVOLUTIONS,
    }
    # The stem's results have no moments: it is a launch more.
    assert int(cells["batch norms"][0]) == CONVOLUTIONS * (2 + 4) + 1
    assert int(cells["step"][0]) == sum(launches.values()) + int(cells["batch norms"][0]) + int(cells["all else"][0])
    assert float(cells["step"][1]) > float(cells["step"][2]) > 0
    assert cells["ragged_head"][:2] == ["1", "2"] and "_local_scalar_dense" not in cells


def test_operators_are_counted_by_what_they_launch() -> None:
    x = torch.ones(4, 4)
    many = [torch.ones(3) for _ in range(111)]
    with OperatorLaunches() as operators:
        x.view(16)[2:].t().detach()
        torch.empty(3)
        assert not operators.called
        torch.cat([x, x + 1])
        torch._foreach_mul_(many, 2.0)
    assert [(own.name, own.launches) for own in operators.called] == [("add", 1), ("cat", 1), ("_foreach_mul_", 2)]


def test_what_takes_longer_is_predicted_to() -> None:
    needed = Resources(128, 0, 98 * 1024)
    with absent_gpu():
        usual = microseconds(WORK, needed)
        assert usual > GAP
        assert microseconds(replace(WORK, moved=10**9), needed) == pytest.approx(usual + 333, rel=0.1)
        for slower in (replace(WORK, kind="ieee"), replace(WORK, tiles=4 * ONE), replace(WORK, ending="moments")):
            assert microseconds(slower, needed) > usual
        assert microseconds(WORK, needed._replace(registers=255)) > usual
