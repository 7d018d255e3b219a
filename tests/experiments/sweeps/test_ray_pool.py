from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slimkern.continual.config import ConfigError
from slimkern.experiments.config_file import RunFolderError
from slimkern.experiments.sweeps.job import Job, Outcome, progress_of
from slimkern.experiments.sweeps.ray_pool import RayPool, _train
from tests.experiments.sweeps.small_jobs import small_job, starts, until

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A Ray cluster of one node with one core."""
    pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    from ray.cluster_utils import Cluster

    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield started
    started.shutdown()


def has_begun(job: Job) -> bool:
    """Whether an epoch is done. A folder may be looked at while it comes into being."""
    try:
        return progress_of(job).share > 0
    except (RunFolderError, OSError):
        return False


def test_a_job_whose_node_dies_goes_on_elsewhere(cluster: Any, tmp_path: Path) -> None:
    first, second = (small_job(tmp_path / f"seed-{seed}", seed=seed, epochs=40) for seed in range(2))
    outcomes: list[Outcome] = []
    with RayPool(cluster.address, cpus=1, gpus=0) as pool:
        pool.start(first)
        until(lambda: has_begun(first), "the first job doesn't start")
        doomed = cluster.add_node(num_cpus=1)
        pool.start(second)
        until(lambda: has_begun(second), "the second job doesn't start")
        assert progress_of(second).kind == "unfinished"
        cluster.remove_node(doomed, allow_graceful=False)
        until(lambda: len(outcomes) == 2 or bool(outcomes.extend(pool.wait(1.0))), "the jobs don't end")
    assert {outcome.job.name: outcome.failure for outcome in outcomes} == {"seed-0": None, "seed-1": None}
    assert [progress_of(job).kind for job in (first, second)] == ["finished", "finished"]
    assert starts(first) == [(0, 0)]
    begun, again = starts(second)
    assert begun == (0, 0) < again


def test_a_job_that_would_fail_again_is_not_tried_again(tmp_path: Path) -> None:
    assert _train(small_job(tmp_path, tasks=3)) == (
        "10 classes do not split evenly into 3 tasks; these numbers do: 1, 2, 5, 10"
    )


def test_a_job_that_was_tried_in_vain_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    pool = object.__new__(RayPool)
    pool._ray = ray

    def failure(error: Exception) -> str | None:
        def get(task: Any) -> None:
            raise error

        monkeypatch.setattr(ray, "get", get)
        return pool._failure(None)

    of_the_job = ray.exceptions.RayTaskError("_train", "a traceback", OSError("no space\nleft"))
    assert failure(of_the_job) == "OSError: no space; left"
    died = failure(ray.exceptions.WorkerCrashedError())
    assert died is not None and died.startswith("WorkerCrashedError: The worker died")


def test_no_cluster_at_the_address_is_said() -> None:
    pytest.importorskip("ray")
    with pytest.raises(ConfigError, match="ray=auto: "):
        RayPool("auto", cpus=1, gpus=0)


def test_ray_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'slimkern\[ray\]'"):
        RayPool("auto", cpus=1, gpus=0)
