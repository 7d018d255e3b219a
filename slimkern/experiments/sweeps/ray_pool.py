"""A pool of tasks on a Ray cluster. Needs the extra slimkern[ray]."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from slimkern.continual.config import ConfigError
from slimkern.experiments.config_file import FolderInUseError
from slimkern.experiments.errors import MENDABLE, in_one_line
from slimkern.experiments.optional import load_extra
from slimkern.experiments.sweeps.job import Job, Outcome, attempt


class RayPool:
    """Hands jobs to a Ray cluster as tasks, which Ray places where their resources are free.

    A job whose node or process dies, or that fails in a way that may not come again, is started again, and goes on from
    its last checkpoint. So run folders and data have to lie on a path that every node sees, and slimkern has to be
    installed on every node.

    Args:
        address: of the cluster; "auto" for the one that this machine belongs to, "local" to start one here.
        cpus: CPU cores of each job.
        gpus: GPUs of each job; below 1, several jobs share one.
        retries: how often a job is started again.

    Raises:
        ImportError: Ray isn't installed.
        ConfigError: there is no cluster at this address.
    """

    slots = 1_000_000

    def __init__(self, address: str, cpus: float, gpus: float, retries: int = 3) -> None:
        self._ray = load_extra("ray", extra="ray")
        self._joined = not self._ray.is_initialized()
        if self._joined:
            try:
                self._ray.init(address, log_to_driver=False, include_dashboard=False if address == "local" else None)
            except (ConnectionError, ValueError) as cause:
                raise ConfigError(f"ray={address}: {in_one_line(cause)}") from cause
        # A fresh process for each job, so that it has the GPU's memory for itself and its own number of threads.
        self._train = self._ray.remote(
            num_cpus=cpus, num_gpus=gpus, max_retries=retries, retry_exceptions=True, max_calls=1
        )(_train)
        self._running: dict[Any, Job] = {}

    def __enter__(self) -> RayPool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for task in self._running:
            self._ray.cancel(task, force=True)
        if self._joined:
            self._ray.shutdown()

    def start(self, job: Job) -> None:
        """Hands the job to the cluster, which starts it when there is room."""
        self._running[self._train.remote(job)] = job

    def wait(self, seconds: float) -> list[Outcome]:
        """The jobs that have ended since the last call; waits at most so long for one."""
        done, _ = self._ray.wait(list(self._running), timeout=seconds)
        return [Outcome(self._running.pop(task), self._failure(task)) for task in done]

    def _failure(self, task: Any) -> str | None:
        try:
            return self._ray.get(task)
        except self._ray.exceptions.RayTaskError as error:
            return in_one_line(error.cause)
        except self._ray.exceptions.RayError as error:
            return in_one_line(error)


def _train(job: Job) -> str | None:
    """Trains the job; why it can't be, where another attempt would end alike."""
    try:
        attempt(job)
    except FolderInUseError:
        raise
    except MENDABLE as error:
        return in_one_line(error)
    return None
