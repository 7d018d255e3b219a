from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from slimkern.continual.config import ConfigError, MethodName, TrainConfig
from slimkern.continual.data import CorruptDataError, MissingDataError
from slimkern.continual.recorder import Recorder
from slimkern.continual.tasks import TaskError
from slimkern.experiments import run as module
from slimkern.experiments.config_file import RunFolderError
from slimkern.experiments.run import default_folder, resolved, run
from slimkern.experiments.run_folder import RunFolder
from tests.continual.few_digits import TINY, Listener, differences, few_digits

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in the processes started here, so that results can be compared to the bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "load", lambda name, root, download: few_digits())


def contents(folder: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.name != "lock"}


def checkpoint(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "last.pt", weights_only=True)


def assert_same_end(one: Path, other: Path) -> None:
    assert differences(checkpoint(one), checkpoint(other)) == []
    assert (one / "counts.json").read_bytes() == (other / "counts.json").read_bytes()


def kinds(folder: Path) -> list[str]:
    return [event["kind"] for event in RunFolder.read(folder).events()]


class Stop(Recorder):
    """Interrupts a run when its checkpoint has been stored for the n-th time."""

    def __init__(self, after: int) -> None:
        self.left = after

    def checkpoint(self, state: dict[str, Any]) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.usefixtures("small")
def test_a_run_fills_its_folder(tmp_path: Path) -> None:
    config, told = replace(TINY, method="ewc"), Listener()
    counts = run(config, tmp_path / "deep" / "run", recorders=[told])
    found = RunFolder.read(tmp_path / "deep" / "run")
    names = {entry.name for entry in found.path.iterdir()}
    assert names == {"config.json", "counts.json", "events.jsonl", "last.pt", "lock"}
    assert found.config == resolved(config, "shift")
    assert found.counts() == counts == told.counts and counts.complete
    a_task = ["scrolled", "epoch_finished", "epoch_finished", "moved", "task_finished"]
    assert kinds(found.path) == ["started", *a_task * 2, "finished"]
    assert len(told.epochs) == 4 and checkpoint(found.path)["task"] == 2


@pytest.mark.usefixtures("small")
def test_the_same_command_again_trains_nothing(tmp_path: Path) -> None:
    first, again = run(TINY, tmp_path), Listener()
    before = contents(tmp_path)
    assert run(TINY, tmp_path, recorders=[again]) == first
    assert not again.epochs and not again.checkpoints
    assert contents(tmp_path) == before


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("stops", [(1,), (3,), (1, 1, 2), (6,)], ids=str)
def test_an_interrupted_run_goes_on_to_the_same_end(tmp_path: Path, stops: tuple[int, ...]) -> None:
    config, told = replace(TINY, method="lwf"), Listener()
    for after in stops:
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path / "broken", recorders=[Stop(after)])
    assert run(config, tmp_path / "broken", recorders=[told]) == run(config, tmp_path / "whole")
    assert len(told.checkpoints) == 2 * (TINY.epochs + 1) - sum(stops)
    assert_same_end(tmp_path / "broken", tmp_path / "whole")


# As its user would type it; the data set is that of digits, whole.
def train_command(out: Path, method: str) -> list[str]:
    options = "--device cpu --tasks 2 --epochs 3 --channels 4 --momentum 0.9 --learning-rate 0.02 --method"
    return [sys.executable, "-m", "slimkern", "train", *options.split(), method, "--out", str(out)]


def config_of_command(method: MethodName) -> TrainConfig:
    return TrainConfig(tasks=2, epochs=3, channels=4, momentum=0.9, learning_rate=0.02, method=method)


def start(out: Path, method: str, **options: Any) -> subprocess.Popen[str]:
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(train_command(out, method), cwd=ROOT, env=environment, **pipes, **options)


def kill(process: subprocess.Popen[str]) -> int:
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.001)


def wait_for_line(process: subprocess.Popen[str], part: str) -> None:
    assert process.stdout is not None
    assert any(part in line for line in process.stdout), process.communicate()[1]


@pytest.mark.parametrize(("method", "more_kills"), [("ewc", 2), ("lwf", 1)])
def test_a_run_killed_again_and_again_ends_bit_for_bit_as_an_unbroken_one(
    tmp_path: Path, method: MethodName, more_kills: int
) -> None:
    pytest.importorskip("sklearn")
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    process = start(broken, method)
    wait_for(broken / "last.pt", process)
    assert kill(process) == -signal.SIGKILL
    assert checkpoint(broken)["task"] == 0
    for _ in range(more_kills):
        process = start(broken, method)
        wait_for_line(process, "resumed after")
        wait_for_line(process, " epoch ")
        time.sleep(random.uniform(0, 0.1))
        assert kill(process) == -signal.SIGKILL
    process = start(broken, method)
    printed, complaints = process.communicate()
    assert process.returncode == 0, complaints
    assert "resumed after" in printed and "finished after" in printed
    run(config_of_command(method), whole)
    assert_same_end(broken, whole)
    told = [(event["task"], event["epoch"]) for event in RunFolder.read(broken).events() if "loss" in event]
    assert all(earlier < later for earlier, later in pairwise(told))


def test_a_full_disk_keeps_the_checkpoint_and_the_run_goes_on_when_there_is_room(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    full, config = tmp_path / "full", config_of_command("ft")
    with pytest.raises(KeyboardInterrupt):
        run(config, full, recorders=[Stop(1)])
    before = contents(full)
    limit = len(before["last.pt"]) // 2
    process = start(full, "ft", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    complaint = process.communicate()[1]
    assert process.returncode == 1
    assert complaint.startswith(f"slimkern: could not write {full / 'last.pt'} (")
    assert complaint.endswith("File too large; the earlier file is kept\n") and complaint.count("\n") == 1
    after = contents(full)
    assert after.pop("events.jsonl").startswith(before.pop("events.jsonl"))
    assert after == before
    assert run(config, full).complete


def cut_cifar100(root: Path) -> None:
    """CIFAR-100 with its training file cut short; the other files are the official ones where those are at hand."""
    folder, official = root / "cifar-100-python", Path(os.environ.get("SLIMKERN_DATA", "/nowhere")) / "cifar-100-python"
    folder.mkdir(parents=True)
    for name in ("train", "test", "meta"):
        if not official.is_dir():
            (folder / name).write_bytes(b"\x80\x02}q\x01")
        elif name == "train":
            with (official / name).open("rb") as file:
                (folder / name).write_bytes(file.read(2**20))
        else:
            (folder / name).symlink_to(official / name)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"tasks": 3}, TaskError, "10 classes do not split evenly into 3 tasks; these numbers do: 1, 2, 5, 10"),
        ({"options": {"strength": 1.0}}, ConfigError, "method ft has no such options"),
        ({"data": "cifar100", "tasks": 10}, MissingDataError, "there is no folder .*cifar-100-python.*--download"),
        ({"data": "tiny-imagenet", "tasks": 10}, MissingDataError, "tiny-imagenet"),
    ],
    ids=["split", "option", "missing cifar", "missing tiny imagenet"],
)
def test_what_can_not_run_leaves_no_folder(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    pytest.importorskip("torchvision")
    with pytest.raises(error, match=message):
        run(replace(TINY, **changes), tmp_path / "run", root=tmp_path / "data")
    assert not list(tmp_path.iterdir())


def test_data_needs_a_root(tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    with pytest.raises(MissingDataError, match="needs a data folder and none was given"):
        run(replace(TINY, data="cifar10"), tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_truncated_data_file_is_named_and_leaves_no_folder(tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    cut_cifar100(tmp_path)
    with pytest.raises(CorruptDataError, match=r"cifar-100-python/train is truncated or corrupt.*delete"):
        run(replace(TINY, data="cifar100", tasks=10), tmp_path / "run", root=tmp_path)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("small")
def test_a_folder_of_another_configuration_is_refused_by_its_differences(tmp_path: Path) -> None:
    run(replace(TINY, method="ewc"), tmp_path)
    before = contents(tmp_path)
    with pytest.raises(RunFolderError) as refusal:
        run(replace(TINY, method="ewc", seed=1, options={"alpha": 0.25}, widths=(2.0,)), tmp_path)
    first, *rest = str(refusal.value).splitlines()
    assert str(tmp_path) in first and "another configuration" in first
    assert rest == [
        "  options: given {'strength': 5000.0, 'alpha': 0.25}, found {'strength': 5000.0, 'alpha': 0.5}",
        "  seed: given 1, found 0",
        "  widths: given [0.5, 1.0], found [0.25, 0.5, 0.75, 1.0]",
    ]
    assert contents(tmp_path) == before


@pytest.mark.usefixtures("small")
def test_defaults_spelled_out_are_the_same_configuration(tmp_path: Path) -> None:
    first = run(replace(TINY, method="ewc", widths=(2.0,)), tmp_path)
    spelled = {"options": {"alpha": 0.5, "strength": 5000}, "widths": (0.5, 1.0), "augmentation": "shift"}
    assert run(replace(TINY, method="ewc", **spelled), tmp_path) == first
    assert kinds(tmp_path).count("epoch_finished") == 4


@pytest.mark.usefixtures("small")
def test_a_truncated_checkpoint_is_refused_and_kept(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(TINY, tmp_path, recorders=[Stop(2)])
    path = tmp_path / "last.pt"
    path.write_bytes(path.read_bytes()[:1000])
    before = contents(tmp_path)
    with pytest.raises(RunFolderError, match=r"last\.pt can't be read .* delete last\.pt to start the run again"):
        run(TINY, tmp_path)
    assert contents(tmp_path) == before
    path.unlink()
    assert run(TINY, tmp_path) == run(TINY, tmp_path / "whole")


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("spoil", "cause"),
    [
        (lambda state: state.pop("task"), "KeyError 'task'"),
        (lambda state: state.pop("movement"), "KeyError 'movement'"),
        (lambda state: state.pop("scroll_policy"), "KeyError 'scroll_policy'"),
        (
            lambda state: state["net"].update(renamed=state["net"].pop("backbone.conv1.weight")),
            r'RuntimeError Error.*Missing key\(s\) in state_dict: "backbone\.conv1\.weight"',
        ),
        (
            lambda state: state["net"].update({"backbone.conv1.weight": torch.zeros(9, 1, 3, 3)}),
            r"RuntimeError Error.*size mismatch for backbone\.conv1\.weight",
        ),
    ],
    ids=["no task", "no movement", "no scroll policy", "renamed weight", "other shape"],
)
def test_a_checkpoint_of_another_version_is_refused_and_kept(
    tmp_path: Path, spoil: Callable[[dict[str, Any]], Any], cause: str
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(TINY, tmp_path, recorders=[Stop(2)])
    state = checkpoint(tmp_path)
    spoil(state)
    torch.save(state, tmp_path / "last.pt")
    before = contents(tmp_path)
    with pytest.raises(RunFolderError, match=rf"last\.pt is no checkpoint .*{cause}.* delete it to start") as refusal:
        run(TINY, tmp_path)
    assert "\n" not in str(refusal.value)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (TrainConfig(), "digits-5-ft-widths-0.25-0.5-0.75-1-epochs-200-seed-0"),
        (TrainConfig(widths=(1.0,), method="ewc", epochs=3, seed=7), "digits-5-ewc-widths-1-epochs-3-seed-7"),
        (TrainConfig(data="cifar100", tasks=10, widths=(0.5, 1.0)), "cifar100-10-ft-widths-0.5-1-epochs-200-seed-0"),
    ],
    ids=["default", "plain", "fractions"],
)
def test_a_folder_is_named_after_its_run(config: TrainConfig, name: str) -> None:
    assert default_folder(config) == Path("runs") / name
