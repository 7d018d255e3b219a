"""A pool of processes on this machine."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch

from slimkern.experiments.atomic import make_folder
from slimkern.experiments.sweeps import worker
from slimkern.experiments.sweeps.job import Job, Outcome

_POLL = 0.05


@dataclass
class _Running:
    job: Job
    process: subprocess.Popen[bytes]
    slot: dict[str, str]
    retries: int


class LocalPool:
    """Trains each job in a process of its own, so that no job brings down another, or this process.

    Each process writes what it prints to a file beside the run folders. It dies with this process, however that ends.
    A job whose process is killed, as it is where memory runs out, is started again and goes on from its last
    checkpoint; one that fails by itself isn't.

    Args:
        parallel: jobs at a time. On a CPU they share the threads of this process; jobs on GPUs are spread evenly over
            those that this process sees, several to a GPU if there are more jobs than GPUs.
        device: cpu, cuda for all GPUs, or one GPU such as cuda:1.
        logs: folder for what the processes print.
        retries: how often a job that was killed is started again.
    """

    def __init__(self, parallel: int, device: torch.device, logs: Path, retries: int = 1) -> None:
        self.slots = parallel
        self._logs, self._retries = logs, retries
        self._free = slots(parallel, device)
        self._running: list[_Running] = []

    def __enter__(self) -> LocalPool:
        make_folder(self._logs)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for own in self._running:
            own.process.kill()
        for own in self._running:
            own.process.wait()

    def start(self, job: Job) -> None:
        """Starts a process for the job; there must be a free slot."""
        self._launch(job, self._free.pop(0), self._retries)

    def _launch(self, job: Job, slot: dict[str, str], retries: int) -> None:
        with self._log(job).open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", worker.__name__],
                stdin=subprocess.PIPE, stdout=log, stderr=log, env=os.environ | slot, start_new_session=True,
            )  # fmt: skip
        assert process.stdin is not None
        process.stdin.write(pickle.dumps(job))
        # Not closed: its end tells the worker that this process has died.
        process.stdin.flush()
        self._running.append(_Running(job, process, slot, retries))

    def wait(self, seconds: float) -> list[Outcome]:
        """The jobs that have ended since the last call; waits at most so long for one."""
        deadline = time.monotonic() + seconds
        while True:
            ended = [own for own in self._running if own.process.poll() is not None]
            if ended or time.monotonic() > deadline:
                break
            time.sleep(_POLL)
        outcomes = []
        for own in ended:
            self._running.remove(own)
            assert own.process.stdin is not None
            own.process.stdin.close()
            if own.process.returncode < 0 and own.retries:
                self._launch(own.job, own.slot, own.retries - 1)
                continue
            self._free.append(own.slot)
            outcomes.append(Outcome(own.job, self._failure(own)))
        return outcomes

    def _log(self, job: Job) -> Path:
        return self._logs / f"{job.name}.log"

    def _failure(self, own: _Running) -> str | None:
        code, log = own.process.returncode, self._log(own.job)
        if code == 0:
            return None
        if code < 0:
            return f"killed by {signal.Signals(-code).name}; its output is in {log}"
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        return lines[-1] if lines else f"ended with status {code}"


def slots(parallel: int, device: torch.device) -> list[dict[str, str]]:
    """The environment of each of so many processes: its share of the threads, and its GPU."""
    threads = str(max(1, torch.get_num_threads() // parallel))
    share = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    if device.type == "cpu":
        return [share] * parallel
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]
    chosen = names if device.index is None else [names[device.index]]
    return [share | {"CUDA_VISIBLE_DEVICES": chosen[index % len(chosen)]} for index in range(parallel)]
