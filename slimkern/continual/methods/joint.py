"""Joint training, the upper bound: each task is learned together with all images of the earlier ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from slimkern.continual.methods.finetuning import FineTuning


@dataclass
class Joint(FineTuning):
    """Cross-entropy over all classes seen, on all images seen; the network goes on from the task before."""

    keeps_all_images: ClassVar[bool] = True
