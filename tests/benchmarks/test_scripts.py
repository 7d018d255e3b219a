"""Every benchmark runs, with few channels and images, and its rows can be stored."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from slimkern.continual.data import Dataset, ImageSet, MissingDataError
from slimkern.experiments.bench_report import PRECISIONS, STEPS, read_rows, section
from slimkern.ops import backends, native

rows = pytest.importorskip("rows")
steps = pytest.importorskip("steps")
SCRIPTS = sorted((Path(__file__).resolve().parents[2] / "benchmarks").glob("bench_*.py"))
# Fewer than 8 channels at the narrowest width make some versions of oneDNN hang in plain PyTorch.
LIMIT = 4
"""Python and framework of a slimkern step, in those of a plain step; about 2 was seen."""
FEW = ["--device", "cpu", "--channels", "32", "--repetitions", "3", "--budget", "600"]
compiled = pytest.mark.skipif(native.why_unavailable("cpu") is not None, reason="there are no compiled kernels")


def stored(name: str, arguments: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What a script stores."""
    script = pytest.importorskip(name)
    monkeypatch.setattr(rows, "RESULTS", folder)
    monkeypatch.setattr(sys, "argv", [name, *arguments, "--save"])
    monkeypatch.delenv("SLIMKERN_BACKEND", raising=False)
    script.main()
    monkeypatch.setenv("SLIMKERN_BACKEND", "")  # which a script may have set
    return [own for path in folder.glob("*.json") for own in json.loads(path.read_text())]


@compiled
def test_the_training_step_stores_what_the_report_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = [*FEW, "--batches", "2", "--precisions", "fp32", "--skip", "compiled"]
    told = stored("bench_training_step", arguments, tmp_path, monkeypatch)
    expected = {name for name in STEPS if name.endswith(("eager", "captured")) and "triton" not in name}
    assert {own["name"] for own in told} == expected
    for own in told:
        figures = own["figures"]
        assert own["case"] == {"batch": 2, "precision": "fp32", "widths": 4, "scroll": 0, "channels": 32}
        assert figures["peak MB"] > 1 and figures["launches"] > 100 and figures["ratio p50"] > 0
        assert figures["ratio to roofline"] > 1
    for own in told:  # as if it were the network that is reported
        own["case"] = {**own["case"], "batch": 64}
        del own["case"]["channels"]
    (tmp_path / "cpu.json").write_text(json.dumps(told))
    for other in tmp_path.glob("cpu-*.json"):
        other.unlink()
    assert "| slimkern native, eager | fp32 |" in section(read_rows(tmp_path))


def options(device: str, **changes: Any) -> Any:
    known = {"only": steps.KINDS, "backends": steps.BACKENDS, "skip": []}
    arguments = {"device": device, "widths": 4, "scroll": 0, "channels": 8, **known, **changes}
    return type("Options", (), arguments)


def test_the_report_knows_the_names_of_all_steps() -> None:
    assert set(PRECISIONS) == set(steps.DTYPES)
    on_cpu = {name for name, _ in steps.steps(options("cpu"), 2, "fp32")}
    assert on_cpu == set(STEPS) - {"passes, captured on streams"}
    left = {name for name, _ in steps.steps(options("cpu", skip=["compiled", "captured"], scroll=1), 2, "fp32")}
    assert left == {name for name in on_cpu if name.endswith("eager")} - {"masked, eager"}


@pytest.mark.gpu
def test_the_report_knows_the_names_of_all_steps_of_a_gpu() -> None:
    assert {name for name, _ in steps.steps(options("cuda"), 2, "fp32")} == set(STEPS)
    assert not any("captured" in name for name, _ in steps.steps(options("cuda", skip=["captured"]), 2, "fp32"))


def test_steps_without_room_in_the_budget_are_left_out(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = pytest.importorskip("bench_training_step")
    taken: list[str] = []

    class Slow:
        def __init__(self, name: str) -> None:
            self.name = name

        def select(self) -> None:
            taken.append(self.name)

        def __call__(self) -> None:
            if self.name == "broken, eager":
                raise RuntimeError("no such kernel\nmore")

        def profile(self) -> tuple[int, int]:
            return 1, 2

    names = ["plain, eager", "broken, eager", "long, eager", "late, eager"]
    monkeypatch.setattr(script, "steps", lambda *arguments: [(name, lambda name=name: Slow(name)) for name in names])
    monkeypatch.setattr(script, "_seconds", lambda call: [call(), 60.0 if call.name == "long, eager" else 30.0][1])
    made = script.ready(options("cpu", budget=200.0), 64, "bf16")
    assert list(made) == ["plain, eager"] and taken == names[:3]
    assert capsys.readouterr().err.splitlines() == [
        "left out: broken, eager, bf16, batch 64: RuntimeError: no such kernel",
        "left out: long, eager, bf16, batch 64: 3 turns with it would take 270 s; see --budget",
        "left out: late, eager, bf16, batch 64: 3 turns of the others already take 270 s; see --budget",
    ]


def images(of_each: int) -> ImageSet:
    labels = torch.arange(100).repeat(of_each)
    return ImageSet(torch.randint(256, (len(labels), 3, 32, 32), dtype=torch.uint8), labels)


def test_a_run_is_called_what_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = pytest.importorskip("bench_run")
    dataset = Dataset(
        "cifar100", images(4), images(1), tuple(map(str, range(100))), (0.5,) * 3, (0.25,) * 3, "crop-flip"
    )
    monkeypatch.setattr(script, "load", lambda *arguments: dataset)
    (told,) = stored("bench_run", [*FEW, "--widths", "4"], tmp_path, monkeypatch)
    assert told["name"] == "one task, captured" and told["figures"]["eager because"] is None
    assert told["case"]["batch"] == 64 and told["figures"]["estimate of a full cell, hours"] > 0


def test_without_cifar_100_random_images_stand_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = pytest.importorskip("bench_run")
    whole = (script.TRAINING * 100, script.TEST * 100)

    def missing(*arguments: object) -> Dataset:
        raise MissingDataError("no such folder")

    monkeypatch.setattr(script, "load", missing)
    monkeypatch.setattr(script, "TRAINING", 4)
    monkeypatch.setattr(script, "TEST", 1)
    (told,) = stored("bench_run", [*FEW, "--widths", "4"], tmp_path, monkeypatch)
    assert told["case"]["data"] == "random images of cifar100's shape" and whole == (50_000, 10_000)
    assert "random ones stand in: no such folder" in capsys.readouterr().err
    made = script.stand_in()
    assert made.train.images.shape == (400, 3, 32, 32) and made.test.images.shape == (100, 3, 32, 32)
    assert made.train.images.float().std() > 50


@compiled
def test_the_breakdown_shares_out_the_whole_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = stored("bench_step_breakdown", [*FEW, "--batch", "2"], tmp_path, monkeypatch)
    shares = {own["name"]: own["figures"]["share"] for own in told}
    assert sum(shares.values()) == pytest.approx(1, rel=1e-3) and all(share > 0 for share in shares.values())
    assert {own["name"] for own in told if own["figures"]["floor ms"] is None} == {"heads and losses", "all else"}


@compiled
def test_the_breakdown_is_that_of_the_backend_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served: set[str | None] = set()
    call, contenders = steps.Training.__call__, pytest.importorskip("contenders")
    made, scrolls = contenders.slimkern, []

    def noted(training: Any) -> None:
        served.add(os.environ.get(backends.ENVIRONMENT_VARIABLE))
        call(training)

    monkeypatch.setattr(steps.Training, "__call__", noted)
    monkeypatch.setattr(contenders, "slimkern", lambda *asked: [made(*asked), scrolls.append(asked[-1])][0])
    told = stored(
        "bench_step_breakdown", [*FEW, "--batch", "2", "--backend", "torch", "--scroll", "1"], tmp_path, monkeypatch
    )
    assert served == {"torch"} and scrolls == [1]
    assert all((own["case"]["backend"], own["case"]["scroll"]) == ("torch", 1) for own in told)


def test_a_gpu_is_timed_scrolled_and_unscrolled(monkeypatch: pytest.MonkeyPatch) -> None:
    script = pytest.importorskip("bench_training_step")
    measured: list[tuple[str, int, int]] = []

    def measure(options: Any, batch: int, precision: str) -> list[Any]:
        measured.append((precision, batch, options.scroll))
        return []

    monkeypatch.setattr(script, "measure", measure)
    for device, asked, scrolls in (("cuda", [], [0, 1]), ("cpu", [], [0]), ("cpu", ["--scrolls", "3"], [3])):
        arguments = ["--device", device, "--batches", "2", "--precisions", "fp32", *asked]
        monkeypatch.setattr(sys, "argv", ["bench_training_step", *arguments])
        script.main()
        assert measured == [("fp32", 2, scroll) for scroll in scrolls]
        measured.clear()


@compiled
def test_python_takes_no_longer_than_a_few_plain_steps() -> None:
    """The limit is one of ratios: both are work of Python and PyTorch's framework, and slow down alike."""
    script = pytest.importorskip("bench_python")
    plain, captured, captured_strictly, eager, eager_strictly = (
        row["milliseconds"]["p20"] for row in script.measure(4, 30)
    )
    assert captured < eager < eager_strictly < LIMIT * plain
    assert captured < captured_strictly < LIMIT * plain


def test_every_script_stores_its_rows_when_asked() -> None:
    help_ = {path.name: path.read_text(encoding="utf-8") for path in SCRIPTS}
    assert [name for name, text in help_.items() if not re.search(r"\bparser\(__doc__, ", text)] == []
    assert [name for name, text in help_.items() if "finish(" not in text] == []


def test_peak_memory_is_that_of_the_call() -> None:
    profiled = pytest.importorskip("profiled")
    kept: list[Tensor] = []

    def call() -> None:
        one = torch.ones(2**18)
        two = one + 1
        del one
        kept.append(two * 2)

    profile = profiled.profiled(call, "cpu")
    assert 2 * 2**20 <= profile.peak_bytes < 2.1 * 2**20
    assert profile.launches == 3


def test_without_compiled_kernels_the_rest_goes_on(tmp_path: Path) -> None:
    for name in ("bench_python", "bench_switchable_batch_norm"):
        code = (
            "import sys; sys.path.insert(0, sys.argv.pop(1)); from slimkern.ops import native; "
            f"native.why_unavailable = lambda device: 'not here'; import {name}; {name}.main()"
        )
        command = [sys.executable, "-c", code, str(SCRIPTS[0].parent), "--device", "cpu"]
        environment = {**os.environ, "PYTHONPATH": str(SCRIPTS[0].parents[1])}
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
        assert done.returncode == 0 and done.stderr.startswith("left out: ") and "not here" in done.stderr
