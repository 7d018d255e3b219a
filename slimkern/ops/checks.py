"""What every operator demands of its arguments, checked before anything is launched."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def check_slabs(operator: str, slabs: Sequence[Tensor], dim: int | None = None) -> None:
    """Refuse slabs that aren't one batch: none at all, another rank, an empty batch, mixed dtypes or devices.

    Raises:
        ValueError: the message names the slab, what it was and what it must be.
    """
    if not slabs:
        raise ValueError(f"{operator}: slabs is empty; at least one slab is needed")
    dtype, device = slabs[0].dtype, slabs[0].device
    for place, slab in enumerate(slabs):
        if dim is not None and slab.dim() != dim:
            raise ValueError(f"{operator}: slabs[{place}] has shape {tuple(slab.shape)}; it must have {dim} axes")
        if slab.numel() == 0:
            raise ValueError(f"{operator}: slabs[{place}] of shape {tuple(slab.shape)} is empty; no axis may be")
        if not dtype.is_floating_point:
            raise ValueError(f"{operator}: slabs[{place}] is {slab.dtype}; it must be of a floating-point dtype")
        if slab.dtype != dtype or slab.device != device:
            raise ValueError(
                f"{operator}: slabs[{place}] is {slab.dtype} on {slab.device}, slabs[0] is {dtype} on {device}; all "
                "slabs must agree"
            )


def check_weight(operator: str, name: str, weight: Tensor | None, slab: Tensor, any_dtype: bool = False) -> None:
    """Refuse a weight on another device than the slabs, or of another dtype.

    Raises:
        ValueError: the message names the argument, its device and dtype, and those of the slabs.
    """
    if weight is not None and (weight.device != slab.device or (weight.dtype != slab.dtype and not any_dtype)):
        raise ValueError(
            f"{operator}: {name} is {weight.dtype} on {weight.device}, the slabs are {slab.dtype} on {slab.device}; "
            "they must agree"
        )


def check_channels(
    operator: str, slabs: Sequence[Tensor], axis: int, outputs: Sequence[int], weight: tuple[int, int]
) -> None:
    """Refuse slabs and outputs that don't fit a weight of (outputs, inputs).

    Raises:
        ValueError: there are neither as many slabs as outputs nor a single shared one, or one has too many channels.
    """
    if len(slabs) not in (1, len(outputs)):
        raise ValueError(f"{operator}: {len(slabs)} slabs for {len(outputs)} outputs; give as many, or one to share")
    for place, slab in enumerate(slabs):
        if slab.shape[axis] > weight[1]:
            raise ValueError(
                f"{operator}: slabs[{place}] has {slab.shape[axis]} channels; the weight takes at most {weight[1]}"
            )
    for place, count in enumerate(outputs):
        if not 0 < count <= weight[0]:
            raise ValueError(f"{operator}: output {place} has {count} channels; the weight gives 1 to {weight[0]}")


def check_bias(operator: str, bias: Tensor | None, outputs: int) -> None:
    """Refuse a bias that isn't one number per output channel of the weight.

    Raises:
        ValueError: its shape isn't (outputs,).
    """
    if bias is not None and tuple(bias.shape) != (outputs,):
        raise ValueError(f"{operator}: bias has {bias.numel()} entries; the weight's outputs are {outputs}")


def check_offset(operator: str, name: str, offset: int, channels: int) -> None:
    """Refuse an offset that is no channel of its axis.

    Raises:
        ValueError: `offset` is outside [0, channels).
    """
    if not 0 <= offset < channels:
        raise ValueError(f"{operator}: {name}={offset} must be a channel of the weight, 0 to {channels - 1}")


def autocast(
    slabs: Sequence[Tensor], weight: Tensor, bias: Tensor | None
) -> tuple[list[Tensor], Tensor, Tensor | None]:
    """Cast arguments as PyTorch's autocast does for convolutions and linear layers, where it is switched on."""
    dtype = autocast_dtype(slabs[0]) if slabs else None
    if dtype is None:
        return list(slabs), weight, bias
    return [slab.to(dtype) for slab in slabs], weight.to(dtype), None if bias is None else bias.to(dtype)


def autocast_dtype(slab: Tensor) -> torch.dtype | None:
    """The dtype that PyTorch's autocast computes with a slab in; None where it leaves it as it is."""
    device = slab.device.type
    if not torch.is_autocast_enabled(device) or slab.dtype == torch.float64:
        return None
    return torch.get_autocast_dtype(device)
