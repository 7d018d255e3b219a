"""Random numbers as a function of where a run is, so that a resumed run draws what an unbroken one draws."""

from __future__ import annotations

import numpy as np
import torch


def seed_for(seed: int, *place: int) -> None:
    """Seed torch's global generators, on all devices, for one place of a run: a task, an epoch and so on."""
    mixed = np.random.SeedSequence([seed, *place]).generate_state(1, np.uint64)[0]
    torch.manual_seed(int(mixed))
