"""What each method's losses and answers are in a short run of two tasks, and what they were when they were recorded.

`python -m tests.continual.methods.trajectories` records them anew, which a change of a method's numbers asks for.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from slimkern.continual.methods import METHODS
from slimkern.continual.training import Trainer
from tests.continual.few_digits import TINY, Listener, few_digits

RECORDED = Path(__file__).parent / "trajectories.json"
NAMES = tuple(name for name in METHODS if name not in ("autoactivator", "scl-pnc"))
"""Those that learn by gradient steps."""
OPTIONS: dict[str, dict[str, float]] = {"ewc": {"strength": 20.0}, "mas": {"strength": 100.0}}
"""So strong that penalties show in losses, in runs as short as these."""


@torch.no_grad()
def trajectory(method: str) -> dict[str, Any]:
    """Losses of each epoch, and scores of two test images at each width in the end.

    In float64 and with batch norms that shift: with few images they make much of small differences, and where a channel
    is constant a fresh one puts a ReLU at 0 give or take a rounding. The order of sums, which changes with the number
    of threads, would make another run of it.
    """
    config = replace(
        TINY,
        method=method,
        exemplars=30 if METHODS[method].needs_exemplars else 0,
        options=OPTIONS.get(method, {}),
        widths=(0.25, 0.5, 1.0),
        momentum=0.0,
        batch_size=16,
        learning_rate=0.01,
    )
    told = Listener()
    trainer = Trainer(config, few_digits(), torch.device("cpu"))
    for parameter in trainer.net.double().parameters():
        if parameter.ndim == 1:
            parameter += 0.3 * torch.randn(parameter.shape)
    pixels = trainer.augmentation
    trainer.augmentation = replace(pixels, scale=pixels.scale.double(), shift=pixels.shift.double())
    with torch.enable_grad():
        trainer.run(told)
    images = trainer.augmentation.normalise(few_digits().test.images[::20])
    scores = trainer.method.scores(trainer.net.eval(), images)
    return {
        "losses": [epoch.losses for epoch in told.epochs],
        "scores": {f"{width:g}": slab.tolist() for width, slab in scores},
    }


def rounded(value: Any) -> Any:
    """The same with six significant digits."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: rounded(own) for key, own in value.items()}
    return [rounded(own) for own in value]


if __name__ == "__main__":
    lines = (f'"{name}": {json.dumps(rounded(trajectory(name)))}' for name in NAMES)
    RECORDED.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
