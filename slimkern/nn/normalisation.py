"""A batch norm that is put off until the addition and the ReLU that may follow it are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from slimkern.ops import switchable_batch_norm

Track = Callable[[Tensor, Tensor, int], None]
"""Told the batch's mean, its biased variance, and how many values a channel they are of."""


@dataclass
class Normalisation:
    """One call of `switchable_batch_norm`, as it was asked for, and what else to do with its statistics.

    Calling it computes the slabs. A second call, where one batch norm feeds two uses, computes them again but tracks no
    statistics.
    """

    slabs: Sequence[Tensor]
    weight: Tensor | None
    bias: Tensor | None
    offsets: list[int]
    running_mean: Tensor | None
    running_var: Tensor | None
    eps: float
    track: Track | None
    versions: list[int | None] = field(init=False)
    grad: bool = field(default_factory=torch.is_grad_enabled)

    def __post_init__(self) -> None:
        self.versions = [_version(slab) for slab in self.slabs]

    def __call__(self, residuals: Sequence[Tensor], relu: bool) -> list[Tensor]:
        """The normalised slabs, plus `residuals` (one a slab, or none), through a ReLU if asked for.

        Raises:
            RuntimeError: the input was modified in place since the batch norm was asked for.
        """
        if self.versions != [_version(slab) for slab in self.slabs]:
            raise RuntimeError(
                "the input of a SwitchableBatchNorm2d was modified in place before its output was used; use the output "
                "first, or modify a copy"
            )
        alike = all(r.shape == s.shape and r.dtype == s.dtype for r, s in zip(residuals, self.slabs, strict=False))
        with torch.set_grad_enabled(self.grad):
            results, mean, variance = switchable_batch_norm(
                self.slabs, self.weight, self.bias, self.offsets, self.running_mean, self.running_var, self.eps,
                residuals if alike else (), relu and alike,
            )  # fmt: skip
            if not alike:
                results = [result + residual for result, residual in zip(results, residuals, strict=True)]
                results = [result.relu_() for result in results] if relu else results
        if self.track is not None:
            track, self.track = self.track, None
            track(mean, variance, self.slabs[0].numel() // self.slabs[0].shape[1])
        return results


def _version(slab: Tensor) -> int | None:
    """The count of in-place changes that PyTorch keeps of a tensor, where it does."""
    return None if torch.compiler.is_compiling() or slab.is_inference() else slab._version
