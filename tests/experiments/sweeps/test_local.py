from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from slimkern.experiments.sweeps.job import Outcome, progress_of
from slimkern.experiments.sweeps.local import LocalPool, slots
from slimkern.experiments.sweeps.sweep import sweep
from tests.experiments.sweeps.small_jobs import small_job, starts, until

ROOT = Path(__file__).resolve().parents[3]
CPU = torch.device("cpu")
LONG = 10_000

HOLDER = """
import sys, torch
from pathlib import Path
from slimkern.experiments.sweeps.local import LocalPool
from slimkern.experiments.sweeps.sweep import sweep
from tests.experiments.sweeps.small_jobs import small_job
folder = Path(sys.argv[1])
sweep([small_job(folder / "long", epochs=10_000)], LocalPool(1, torch.device("cpu"), folder / "logs"))
"""


def workers(folder: Path) -> str:
    """The holder of the lock, as it signed itself."""
    return (folder / "lock").read_text()


def test_jobs_train_beside_each_other_and_one_that_fails_says_why(tmp_path: Path) -> None:
    good, bad = small_job(tmp_path / "good"), small_job(tmp_path / "bad", tasks=3)
    outcomes = sweep([bad, good], LocalPool(2, CPU, tmp_path / "logs"))
    failures = {outcome.job.name: outcome.failure for outcome in outcomes}
    reason = "10 classes do not split evenly into 3 tasks; these numbers do: 1, 2, 5, 10"
    assert failures == {"good": None, "bad": reason}
    assert progress_of(good).kind == "finished" and not bad.folder.exists()
    assert "task 2/2  epoch 2/2" in (tmp_path / "logs" / "good.log").read_text()


def test_a_job_that_is_killed_is_reported(tmp_path: Path) -> None:
    job = small_job(tmp_path / "run", epochs=LONG)
    with LocalPool(1, CPU, tmp_path / "logs", retries=0) as pool:
        pool.start(job)
        until((job.folder / "last.pt").exists, "no checkpoint")
        os.kill(int(workers(job.folder).split()[1]), signal.SIGKILL)
        (outcome,) = pool.wait(60.0)
    assert outcome.failure == f"killed by SIGKILL; its output is in {tmp_path / 'logs' / 'run.log'}"


def test_a_job_that_is_killed_is_started_again(tmp_path: Path) -> None:
    job, outcomes = small_job(tmp_path / "run", epochs=20), list[Outcome]()
    with LocalPool(1, CPU, tmp_path / "logs", retries=1) as pool:
        pool.start(job)
        until((job.folder / "last.pt").exists, "no checkpoint")
        os.kill(int(workers(job.folder).split()[1]), signal.SIGKILL)
        until(lambda: bool(outcomes.extend(pool.wait(1.0)) or outcomes), "the job doesn't end")
    assert outcomes == [Outcome(job)] and progress_of(job).kind == "finished"
    begun, again = starts(job)
    assert begun == (0, 0) < again


def test_leaving_a_pool_ends_its_jobs(tmp_path: Path) -> None:
    job = small_job(tmp_path / "run", epochs=LONG)
    with LocalPool(1, CPU, tmp_path / "logs") as pool:
        pool.start(job)
        until((job.folder / "last.pt").exists, "no checkpoint")
    with pytest.raises(ProcessLookupError):
        os.kill(int(workers(job.folder).split()[1]), 0)


def test_jobs_die_with_a_killed_sweep(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], env=environment)
    until((tmp_path / "long" / "last.pt").exists, "no checkpoint")
    process = int(workers(tmp_path / "long").split()[1])
    assert process != holder.pid
    holder.kill()
    holder.wait()
    until(lambda: not Path(f"/proc/{process}").exists(), "the worker lives on")


def test_threads_are_divided_on_a_cpu() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(8)
    try:
        assert [slot["OMP_NUM_THREADS"] for slot in slots(3, CPU)] == ["2"] * 3
        assert [slot["OMP_NUM_THREADS"] for slot in slots(20, CPU)] == ["1"] * 20
        assert "CUDA_VISIBLE_DEVICES" not in slots(1, CPU)[0]
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("device", "visible", "expected"),
    [
        ("cuda", "4,6", ["4", "6", "4", "6", "4"]),
        ("cuda:1", "4,6", ["6"] * 5),
        ("cuda", "GPU-a1", ["GPU-a1"] * 5),
        ("cuda", None, ["0", "1", "2", "0", "1"]),
    ],
)
def test_jobs_are_spread_over_the_gpus(
    monkeypatch: pytest.MonkeyPatch, device: str, visible: str | None, expected: list[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in slots(5, torch.device(device))] == expected
