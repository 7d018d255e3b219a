"""The compiled kernels: whether they are there, what they take, and calling them.

They register `slimkern_native::batch_norm_forward`, `pack_weights` and `ragged_head`, each with its backward pass, for
the CPU and, if they were compiled, for CUDA; and for the CPU the transforms of `slimkern.ops.winograd`. They know
neither autograd nor fake tensors: those stay with the operators here. Only the batch norm is called in more than one
place, and so has functions of its own below.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from slimkern.ops import native_library

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
HOW_TO_BUILD = (
    "install a C++ compiler, for GPUs also nvcc, and reinstall slimkern from its sources with SLIMKERN_BUILD=cpu or "
    "SLIMKERN_BUILD=cuda, which stops at the first error instead of leaving a part out"
)


def _load_all() -> dict[str, str | None]:
    # The library for CUDA adds to that for the CPU.
    of_cpu = native_library.load("cpu")
    return {"cpu": of_cpu, "cuda": of_cpu or native_library.load("cuda")}


_UNAVAILABLE = _load_all()


def why_unavailable(device: str) -> str | None:
    """Why there are no compiled kernels for a type of device; None if there are."""
    if device in _UNAVAILABLE:
        return _UNAVAILABLE[device]
    return f"compiled kernels are for {' and '.join(native_library.LIBRARIES)}"


def takes_batch_norm(slabs: Sequence[Tensor], vectors: Sequence[Tensor | None], like_slabs: Sequence[Tensor]) -> bool:
    """Whether the kernels take these packed slabs, vectors of float32, and tensors of the slabs' dtype."""
    dtype = slabs[0].dtype
    if dtype not in DTYPES:
        return False
    for slab in slabs:
        if not is_packed(slab):
            return False
    for vector in vectors:
        if vector is not None and not (vector.dtype == torch.float32 and vector.is_contiguous()):
            return False
    return all(tensor.dtype == dtype for tensor in like_slabs)


def is_packed(slab: Tensor) -> bool:
    """Whether a tensor [N, C] or [N, C, H, W] has the channels of each pixel side by side, without gaps."""
    if slab.dim() == 4:
        return slab.is_contiguous(memory_format=torch.channels_last)
    return slab.dim() == 2 and slab.is_contiguous()


def packed(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The same tensors in packed memory; those that lie so already are not copied."""
    return [
        tensor.contiguous(memory_format=torch.channels_last if tensor.dim() == 4 else torch.contiguous_format)
        for tensor in tensors
    ]


def batch_norm_forward(
    slabs: Sequence[Tensor],
    weight: Tensor | None,
    bias: Tensor | None,
    offsets: Sequence[int],
    running_mean: Tensor | None,
    running_var: Tensor | None,
    eps: float,
    residuals: Sequence[Tensor],
    relu: bool,
    moments: Tensor | None = None,
) -> tuple[list[Tensor], Tensor, Tensor]:
    """The results, packed like the slabs, and the statistics in float32; see `switchable_batch_norm`.

    `moments` [3, tiles, sum of C_s] spares the pass over the slabs that takes the batch's statistics: counts, means and
    sums of squared deviations of their parts, as whoever wrote the slabs can note them on the way.
    """
    return torch.ops.slimkern_native.batch_norm_forward(
        slabs, weight, bias, offsets, running_mean, running_var, eps, packed(residuals), relu,
        None if moments is None else moments.contiguous(),
    )  # fmt: skip


def batch_norm_backward(
    grads: Sequence[Tensor],
    slabs: Sequence[Tensor],
    results: Sequence[Tensor],
    weight: Tensor | None,
    bias: Tensor | None,
    offsets: Sequence[int],
    mean: Tensor,
    variance: Tensor,
    batch_statistics: bool,
    eps: float,
    relu: bool,
    to_slabs: bool,
    to_weight: Tensor | None,
    to_bias: Tensor | None,
) -> tuple[list[Tensor], list[Tensor]]:
    """Gradients of the slabs, if wanted, and of what went into the ReLU, if `results` are given to mask it by.

    Without results the ReLU's mask is computed again from the slabs, which holds where no residual was added. The
    vectors `to_weight` and `to_bias` receive theirs in the slabs' stretches.
    """
    return torch.ops.slimkern_native.batch_norm_backward(
        packed(grads), slabs, results, weight, bias, offsets, mean, variance, batch_statistics, eps, relu, to_slabs,
        to_weight, to_bias,
    )  # fmt: skip
