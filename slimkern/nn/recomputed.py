"""Activations that are computed again for the gradient instead of being kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.checkpoint import checkpoint

from slimkern.nn.switchable_batch_norm import SwitchableBatchNorm2d
from slimkern.width_batch import WidthBatch


def recomputed(module: nn.Module, input: Tensor | WidthBatch) -> Tensor | WidthBatch:
    """Call `module`, keeping only its input for the backward pass, which calls it again (Chen et al. 2016).

    Losses, gradients and running statistics are those of an ordinary call: batch norms count a batch once, and dropout
    drops the same the second time. Where no gradient is wanted this is an ordinary call.

    Args:
        module: answers in kind; it must compute the same both times.
        input: a tensor, or slabs.
    """
    if not torch.is_grad_enabled():
        return module(input)

    def settled(input: Tensor | WidthBatch) -> Tensor | WidthBatch:
        result = module(input)
        if isinstance(result, WidthBatch):
            result.slabs  # noqa: B018 - what was put off has to be done here
        return result

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        return nullcontext(), _untracked(module)

    random = any(isinstance(own, _DropoutNd) for own in module.modules())
    return checkpoint(settled, input, use_reentrant=False, context_fn=contexts, preserve_rng_state=random)


@contextmanager
def _untracked(module: nn.Module) -> Iterator[None]:
    """Batch norms use the batch's statistics as they do in training, and leave their running ones alone."""
    tracking = [
        own
        for own in module.modules()
        if isinstance(own, (_BatchNorm, SwitchableBatchNorm2d)) and own.training and own.track_running_stats
    ]
    for own in tracking:
        own.track_running_stats = False
    try:
        yield
    finally:
        for own in tracking:
            own.track_running_stats = True
