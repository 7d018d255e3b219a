"""A unit: the nodes that were recruited for one task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from slimkern.continual.units.scan import Nonlinearity, node_outputs

_SAMPLES = 4096


@dataclass(frozen=True, eq=False)
class Unit:
    """One hidden layer of random nodes and a linear read-out; never changed once it is made.

    Attributes:
        weights: of the nodes, [L, M].
        biases: [L].
        read_out: [L, C].
        first_class: the label of its first class; its C classes are consecutive.
        threshold: the mean confidence on its own training samples (Eq. 11).
    """

    weights: Tensor
    biases: Tensor
    read_out: Tensor
    first_class: int
    threshold: float

    def outputs(self, inputs: Tensor, nonlinearity: Nonlinearity) -> Tensor:
        """Inputs [N, M] to the read-out [N, C]."""
        parts = [
            node_outputs(self.weights, self.biases, part, nonlinearity).t() @ self.read_out
            for part in inputs.split(_SAMPLES)
        ]
        return torch.cat(parts)

    @property
    def numbers(self) -> int:
        """How many numbers it holds, the threshold not counted."""
        return self.weights.numel() + self.biases.numel() + self.read_out.numel()


def confidence(outputs: Tensor) -> Tensor:
    """Largest softmax of each sample less what a guess would have: [N, C] to [N] (Eq. 11 before the mean)."""
    return outputs.softmax(1).amax(1) - 1 / outputs.shape[1]


def ask(units: Sequence[Unit], inputs: Tensor, nonlinearity: Nonlinearity) -> tuple[Tensor, Tensor]:
    """What each unit makes of inputs [N, M]: its confidence and the label it would give, both [N, units]."""
    outputs = [unit.outputs(inputs, nonlinearity) for unit in units]
    labels = [own.argmax(1) + unit.first_class for unit, own in zip(units, outputs, strict=True)]
    return torch.stack([confidence(own) for own in outputs], 1), torch.stack(labels, 1)
