"""Activations that are computed again for the gradient instead of being kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from slimkern.width_batch import WidthBatch


def recomputed(module: nn.Module, input: Tensor | WidthBatch) -> Tensor | WidthBatch:
    """Call `module`, keeping only its input for the backward pass, which calls it again (Chen et al. 2016).

    Losses, gradients and running statistics are those of an ordinary call: batch norms count a batch once, and dropout
    drops the same both times. Where no gradient is wanted this is an ordinary call.

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
        return nullcontext(), _buffers_kept(module)

    random = any(isinstance(own, _DropoutNd) for own in module.modules())
    with set_checkpoint_early_stop(False):  # else a batch norm would be left before it has tracked its batch
        return checkpoint(settled, input, use_reentrant=False, context_fn=contexts, preserve_rng_state=random)


@contextmanager
def _buffers_kept(module: nn.Module) -> Iterator[None]:
    """Whatever is written to buffers meanwhile, such as running statistics, is lost."""
    kept = [(own, own._buffers.copy()) for own in module.modules() if own._buffers]
    for own, buffers in kept:
        own._buffers.update({name: None if buffer is None else buffer.clone() for name, buffer in buffers.items()})
    try:
        yield
    finally:
        for own, buffers in kept:
            own._buffers.update(buffers)
