"""Configurations that are right, wrong, or end the process that tries them."""

from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.gpu import test_scroll_conv2d

check = pytest.importorskip("check_scroll_conv2d")
convolutions = pytest.importorskip("convolutions")

SCRIPT = """
import json, os, sys, time
start = int(sys.argv[sys.argv.index("--start") + 1])
for number in range(start + 1, 5):
    print(json.dumps({"number": number}), flush=True)
    if number == 2:
        print("the driver says farewell", file=sys.stderr, flush=True)
        os.abort()
    if number == 3:
        time.sleep(600)
    print("a warning of some library")
    print(json.dumps({"number": number, "status": "right"}), flush=True)
"""
OPTIONS = SimpleNamespace(batch=1, device="cpu", shrink=1, silence=3.0)
SHARE = check.Share(2, "ieee", 1)


def verdicts(tmp_path: Path, text: str) -> list[dict]:
    script = tmp_path / "child.py"
    script.write_text(text)
    return list(check.verdicts_of(SHARE, OPTIONS, str(script)))


def test_a_configuration_that_ends_its_process_is_named_and_the_next_one_is_tried(tmp_path: Path) -> None:
    told = verdicts(tmp_path, SCRIPT)
    assert [(own["number"], own["status"]) for own in told] == [(1, "right"), (2, "crashed"), (3, "hung"), (4, "right")]
    assert told[1]["why"] == "the driver says farewell\n"


def test_a_process_that_dies_before_it_tries_anything_is_told_once(tmp_path: Path) -> None:
    assert verdicts(tmp_path, "raise SystemExit('no such GPU')") == [
        {"layer": 2, "kind": "ieee", "scroll": 1, "status": "crashed", "why": "no such GPU\n"}
    ]


def test_what_a_library_prints_is_no_verdict(tmp_path: Path) -> None:
    noise = "{no JSON", '{"number": 1', '{"level": "warning"}', "[1]"
    text = "".join(f"print({line!r})\n" for line in noise) + 'print(\'{"number": 1, "status": "right"}\')'
    assert verdicts(tmp_path, text) == [{"number": 1, "status": "right"}]


def test_who_interrupts_it_blames_no_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "import json, os, signal\nprint(json.dumps({'number': 1}), flush=True)\nos.kill(os.getpid(), signal.SIGINT)"
    with pytest.raises(KeyboardInterrupt):
        verdicts(tmp_path, text)


def test_an_interrupted_check_keeps_nothing_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(share: object, options: object) -> list:
        raise KeyboardInterrupt

    monkeypatch.setattr(check, "verdicts_of", interrupted)
    judging = check.Judging(SimpleNamespace(processes=1, out=tmp_path / "out"))
    judging.judge_all([SHARE, SHARE])
    assert judging.interrupted.is_set() and not any(judging.counts.values()) and not (tmp_path / "out").exists()


def test_a_child_whose_child_lives_on_is_not_waited_for(tmp_path: Path) -> None:
    number = tmp_path / "number"
    text = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(3600)'])\n"
        f"open({str(number)!r}, 'w').write(str(child.pid))\nsys.exit('no')"
    )
    (verdict,) = verdicts(tmp_path, text)
    os.kill(int(number.read_text()), signal.SIGKILL)  # which fails if it has ended
    assert verdict["status"] in ("crashed", "hung")


def test_one_number_that_is_missing_makes_the_error_so() -> None:
    true = torch.ones(3)
    for results in ([true, true * torch.nan], [true * torch.nan, true]):
        assert math.isnan(check.error(results, [true, true]))
        assert math.isnan(test_scroll_conv2d.errors(results, [true, true]))
        assert math.isnan(test_scroll_conv2d.largest(results))


def small_work(scroll: int) -> object:
    layer = convolutions.LAYERS[2]._replace(inputs=8, outputs=16, side=4)
    return convolutions.Work(layer, 2, torch.float32, "cpu", scroll)


@pytest.mark.parametrize("scroll", [0, 3])
@pytest.mark.parametrize("operation", check.PASSES)
def test_the_truth_is_the_gradient_of_what_each_slab_computes(operation: str, scroll: int) -> None:
    work = small_work(scroll)
    weight = work.master.double().requires_grad_()
    slabs = [slab.double().requires_grad_() for slab in work.slabs]
    results = []
    for slab, outputs in zip(slabs, work.outputs, strict=True):
        turned = weight.roll([-work.offsets[0], -work.offsets[1]], [0, 1])[:outputs, : slab.shape[1]]
        results.append(torch.nn.functional.conv2d(slab, turned, None, *work.geometry[1:]))
    torch.autograd.backward(results, [grad.double() for grad in work.grads])
    expected = {
        "forward": [result.detach() for result in results],
        "input gradient": [slab.grad for slab in slabs],
        "weight gradient": [weight.grad],
    }[operation]
    assert check.error(check.truths(work, operation, torch.float64), expected) < 1e-12
    assert 1e-9 < check.error(check.truths(work, operation, torch.float32), expected) < 1e-5


class Launch:
    """Stands for a pass whose results are the truth, but for what is done to them."""

    def __init__(self, spoil: object) -> None:
        self.spoil, self.calls = spoil, 0

    def __call__(self, configuration: object) -> list[torch.Tensor]:
        self.calls += 1
        results = [result.float() for result in check.truths(WORK, "forward", torch.float64)]
        self.spoil(results[0], self.calls)
        return results


WORK = small_work(1)


def unsuitable(result: torch.Tensor, call: int) -> None:
    from slimkern.kernels.launch import Unsuitable

    raise Unsuitable("odd sides")


@pytest.mark.parametrize(
    ("spoil", "status", "why"),
    [
        (lambda result, call: None, "right", ""),
        (lambda result, call: result[0, 0, 0, :1].fill_(float("nan")), "wrong", "error nan exceeds"),
        (lambda result, call: result.mul_(1.001), "wrong", "error 1"),
        (lambda result, call: result.mul_(1 + 1e-7 * call), "wrong", "other bits eagerly"),
        (unsuitable, "unsuitable", "odd sides"),
        (lambda result, call: result.no_such_thing, "raised", "AttributeError"),
    ],
    ids=["right", "unwritten", "inexact", "differs", "unsuitable", "raises"],
)
def test_verdicts(spoil: object, status: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    problem = SimpleNamespace(candidates=lambda boxes, shared: [SimpleNamespace(name="small")])

    def by_triton(operation: str, way: str) -> tuple | None:
        return (problem, Launch(spoil)) if (operation, way) == ("forward", "in place") else None

    monkeypatch.setattr(WORK, "by_triton", by_triton, raising=False)
    trying, verdict = check.check(WORK, SHARE, 0, "cpu")
    assert "status" not in trying and trying["configuration"] == "small"
    assert verdict["status"] == status and why in verdict["why"]
    assert json.loads(json.dumps(verdict)) == verdict or verdict["error"] != verdict["error"]
    assert list(check.check(WORK, SHARE, 1, "cpu")) == []
