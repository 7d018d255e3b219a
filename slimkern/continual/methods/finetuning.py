"""FT: fine-tuning, the lower bound. Nothing is done against forgetting."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from slimkern.continual.methods.method import Method, Step


@dataclass
class FineTuning(Method):
    """Cross-entropy on the classes of the present task (Eq. 1 of ScrollNet; with more widths, Eqs. 4 and 6)."""

    def losses(self, step: Step) -> dict[str, Tensor]:
        """The cross-entropy alone."""
        return {"cross-entropy": step.cross_entropy}
