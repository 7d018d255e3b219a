"""AutoActivator: units of random nodes, recruited one task after the other (ICML 2024, arXiv 2406.02428)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from slimkern.continual.config import ConfigError
from slimkern.continual.methods.method import Method


@dataclass
class AutoActivator(Method):
    """Learn each task by a unit of its own, and wake one of the units at test time.

    Nothing is learned by gradients: a unit recruits random nodes by the supervisory criterion and solves for its
    read-out (see `slimkern.continual.units`), so epochs, rates and augmentation play no part, and neither do widths.
    Tasks are cut from the classes as the data set numbers them, as the paper's Split MNIST is. The paper shuffles the
    tasks; that changes nothing here but the draws, as units don't know of each other.

    Args:
        nodes: l, recruited at a time.
        candidates: T_max, groups of nodes drawn for each recruitment.
        limit: L_max, nodes of a unit.
        target: R, the accuracy on its training samples at which a unit is done.
        ratio: r, how slowly the residual may shrink: each class's squared residual has to fall by a share of
            (1 - r) L / (L + 1). Where no candidate does it, r goes on to 0.99, 0.999 ..., as in stochastic
            configuration networks (Wang & Li 2017).
        scale: lambda: random biases are uniform up to it to either side, weights up to lambda / sqrt(M) for M inputs,
            which are standardised.
        draws: how often candidates are drawn for a recruitment before the unit ends because none passes.
        true_fall: 1 takes the candidate by which the residual falls most together with the nodes that are there, 0 the
            one with the largest indicator, xi, which sees it by itself.
        copies: candidates that are nodes copied from earlier units rather than drawn.
        patience: recruitments without a smaller residual on the held-out samples before a unit goes back to its best.
    """

    defaults: ClassVar[dict[str, Any]] = {"widths": (1.0,), "class_order": "sorted"}

    nodes: float = 10
    candidates: float = 50
    limit: float = 200
    target: float = 0.99
    ratio: float = 0.9
    scale: float = 5.0
    draws: float = 3
    true_fall: float = 1
    copies: float = 0
    patience: float = 3

    def __post_init__(self) -> None:
        for name in ("nodes", "candidates", "limit", "draws", "patience"):
            value = getattr(self, name)
            if value < 1 or value != int(value):
                raise ConfigError(f"option {name}={value:g} of AutoActivator must be a whole number above 0")
        if self.nodes > self.limit:
            raise ConfigError(f"option nodes={self.nodes:g} of AutoActivator must be at most its limit={self.limit:g}")
        if self.true_fall not in (0, 1):
            raise ConfigError(f"option true_fall={self.true_fall:g} of AutoActivator must be 0 or 1")
        if not 0 <= self.copies <= self.candidates or self.copies != int(self.copies):
            raise ConfigError(
                f"option copies={self.copies:g} of AutoActivator must be a whole number, at most its "
                f"candidates={self.candidates:g}"
            )
        if not 0 < self.ratio < 1:
            raise ConfigError(f"option ratio={self.ratio} of AutoActivator must lie between 0 and 1")
