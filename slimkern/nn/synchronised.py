"""Batch norm over the batches of all processes of a data-parallel training, as if they were one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_ALL_BUT_CHANNELS = (0, 2, 3)


def synchronised_batch_norm(
    slabs: Sequence[Tensor],
    weight: Tensor | None,
    bias: Tensor | None,
    offsets: Sequence[int],
    eps: float,
    group: dist.ProcessGroup,
) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    """Batch norm of slabs by the statistics of a process group, all slabs in two exchanges each way.

    Plain torch, so that it runs on any device; the sums over processes are differentiated as well, so gradients are
    those of the whole batch. The variance is taken around the mean of all processes, as one process would.

    Args:
        slabs: [N, C_s, H, W] each; N may differ between processes.
        weight: flat scale [P] of all widths, or None.
        bias: flat shift [P], or None.
        offsets: where each slab's channels start in them.
        eps: added to the variance.
        group: the processes, which all call this with slabs of the same channels.

    Returns:
        The results, of the slabs' dtype; mean and biased variance, flat [sum of C_s], detached; how many values a
        channel they are of, a scalar tensor.
    """
    dtype = torch.float64 if slabs[0].dtype == torch.float64 else torch.float32
    channels = [slab.shape[1] for slab in slabs]
    count = slabs[0].new_full((1,), slabs[0].numel() // channels[0], dtype=dtype)
    *sums, count = _total([*(slab.sum(_ALL_BUT_CHANNELS, dtype=dtype) for slab in slabs), count], group)
    means = [own / count for own in sums]
    centred = [slab - _spread(mean) for slab, mean in zip(slabs, means, strict=True)]
    variances = [own / count for own in _total([own.square().sum(_ALL_BUT_CHANNELS) for own in centred], group)]
    results = []
    for slab, own, variance, offset in zip(slabs, centred, variances, offsets, strict=True):
        here = slice(offset, offset + slab.shape[1])
        scale = torch.rsqrt(variance + eps)
        result = own * _spread(scale if weight is None else scale * weight[here])
        results.append((result if bias is None else result + _spread(bias[here])).to(slab.dtype))
    return results, torch.cat(means).detach(), torch.cat(variances).detach(), count.detach()


class _SumOverProcesses(torch.autograd.Function):
    """The sum of a tensor over a process group; every process's loss depends on every process's tensor."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        total = tensor.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _SumOverProcesses.apply(grad, ctx.group), None


def _total(vectors: Sequence[Tensor], group: dist.ProcessGroup) -> list[Tensor]:
    total = _SumOverProcesses.apply(torch.cat(list(vectors)), group)
    return list(total.split([len(vector) for vector in vectors]))


def _spread(vector: Tensor) -> Tensor:
    return vector[:, None, None]
