"""Waking a unit at test time: a decision for a whole batch."""

from __future__ import annotations

import torch
from torch import Tensor


def wake(confidences: Tensor, thresholds: Tensor, batches: Tensor) -> Tensor:
    """The unit whose threshold is nearest to the mean confidence of a sample's batch (AutoActivator, Eq. 12).

    Args:
        confidences: of each unit on each sample, [N, units].
        thresholds: of the units, [units].
        batches: the number of each sample's batch, int64 [N].

    Returns:
        The unit of each sample, int64 [N]; equal within a batch.
    """
    count = int(batches.max()) + 1 if len(batches) else 0
    sums = confidences.new_zeros(count, len(thresholds)).index_add_(0, batches, confidences)
    means = sums / torch.bincount(batches, minlength=count)[:, None]
    return (means - thresholds).abs().argmin(1)[batches]


def in_batches(kinds: Tensor, size: int) -> Tensor:
    """Deal samples into batches of one kind each, in a random order drawn from torch's global generator.

    Args:
        kinds: int64 [N]: the task or the class of a sample, or zeros where batches are mixed.
        size: samples a batch; the last one of each kind is what is left.

    Returns:
        The number of each sample's batch, int64 [N].
    """
    batches, begun = torch.empty_like(kinds), 0
    for kind in kinds.unique().tolist():
        members = (kinds == kind).nonzero().squeeze(1)
        shuffled = members[torch.randperm(len(members), device=kinds.device)]
        batches[shuffled] = begun + torch.arange(len(members), device=kinds.device) // size
        begun += -(-len(members) // size)
    return batches
