"""Where many runs are trained, as a user says it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from slimkern.continual.config import ConfigError
from slimkern.experiments.sweeps.local import LocalPool
from slimkern.experiments.sweeps.ray_pool import RayPool
from slimkern.experiments.sweeps.sweep import Pool


@dataclass(frozen=True)
class Workplace:
    """This machine, or a Ray cluster."""

    parallel: int = 1
    """Runs at a time on this machine: spread over its GPUs, or sharing its cores."""
    ray: str | None = None
    """Train on the Ray cluster of this address instead: auto for the one here, local for a new one."""
    cpus_per_run: float = 1
    """CPU cores of each run on Ray."""
    gpus_per_run: float = 1
    """GPUs of each run on Ray, unless --device is cpu; below 1, several runs share one."""
    retries: int = 3
    """How often a run is started again that was killed, or on Ray failed in a way that may not come again."""

    def __post_init__(self) -> None:
        for name in ("parallel", "cpus_per_run", "gpus_per_run"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}={getattr(self, name)} must be above 0")
        if self.retries < 0:
            raise ConfigError(f"retries={self.retries} must be at least 0")

    def pool(self, device: torch.device, logs: Path) -> Pool:
        """Makes the pool.

        Args:
            device: where to train: cpu, cuda, or one GPU of this machine.
            logs: folder for what processes of this machine print.

        Raises:
            ImportError: Ray is asked for and isn't installed.
            ConfigError: there is no Ray cluster at this address.
        """
        if self.ray is None:
            return LocalPool(self.parallel, device, logs, self.retries)
        gpus = 0 if device.type == "cpu" else self.gpus_per_run
        return RayPool(self.ray, self.cpus_per_run, gpus, self.retries)
