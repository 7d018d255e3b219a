"""The functions that may act on slabs, and why others may not.

A function is sound for slabs when its result for a slab is what the sub-network alone would compute, and when it leaves
the channel axis in order, so that scrolling the layers around it stays a mere renaming of channels.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

# Names rather than function objects: torch, torch.Tensor and torch.nn.functional each have their own.
_POINTWISE = frozenset(
    "abs add alpha_dropout celu clamp clip div dropout dropout2d elu exp feature_dropout gelu hardshrink hardsigmoid "
    "hardswish hardtanh leaky_relu log mish mul neg pow reciprocal relu relu6 rrelu rsub selu sigmoid silu "
    "softplus softshrink softsign sqrt square sub tanh tanhshrink true_divide "
    "add_ clamp_ div_ dropout_ elu_ hardtanh_ leaky_relu_ mul_ relu6_ relu_ sigmoid_ silu_ sub_ tanh_ "
    "clone contiguous detach bfloat16 double float half to type".split()
)
_SPATIAL = frozenset(
    "adaptive_avg_pool2d adaptive_max_pool2d avg_pool2d interpolate lp_pool2d max_pool2d pad upsample".split()
)
_RESHAPING = frozenset("flatten reshape squeeze view".split())
_REDUCING = frozenset("amax cross_entropy log_softmax mean normalize softmax sum".split())

SLABWISE = _POINTWISE | _SPATIAL | _RESHAPING | _REDUCING
"""Names of the functions that a WidthBatch answers, slab by slab."""


ALIASING = frozenset(
    "alpha_dropout contiguous detach dropout dropout2d feature_dropout flatten reshape squeeze to type view".split()
)
"""Those among them whose result may be the same memory as the slab."""


class UnsoundError(TypeError, AttributeError):
    """Slabs have no such method; an AttributeError too, so that `hasattr` answers no."""


def refusal(name: str) -> str:
    """Why the function `name` is not answered, for an error message."""
    return (
        f"{name} has no sound meaning for the slabs of a WidthBatch: only pointwise functions, pooling, flattening and "
        "reductions act on every sub-network alike. Swap layers that hold weights by slimkern.scrollify, or take one "
        "sub-network's tensor with batch.at(width)"
    )


def check_partner(name: str, slab: Tensor, arguments: tuple[Any, ...]) -> None:
    """Refuse a pointwise function of slabs and an ordinary tensor that has a channel axis of its own.

    Raises:
        TypeError: such a tensor is among `arguments`; it would be read by position, at one width only.
    """
    if name not in _POINTWISE:
        return
    for argument in arguments:
        if isinstance(argument, Tensor) and argument.dim() > slab.dim() - 2 and argument.shape[1 - slab.dim()] > 1:
            raise TypeError(
                f"{name} of a WidthBatch and a tensor of shape {tuple(argument.shape)}: the tensor has "
                f"{argument.shape[1 - slab.dim()]} channels for all widths; its channel axis must be of size 1"
            )


def check_result(name: str, slab: Tensor, result: Any) -> None:
    """Refuse a result whose channel axis is no longer the slab's.

    Raises:
        TypeError: it is no tensor, or channels were split, moved, padded or merged with the batch axis.
    """
    if not isinstance(result, Tensor):
        raise TypeError(f"{name} gave a {type(result).__name__} for a slab; only functions that give one tensor fit")
    if name in _REDUCING:
        return
    merged = name in _RESHAPING and result.dim() > 1 and result.shape[1] % slab.shape[1] == 0
    if result.shape[:1] != slab.shape[:1] or not (merged or result.shape[1:2] == slab.shape[1:2]):
        raise TypeError(
            f"{name} made {tuple(result.shape)} of a slab {tuple(slab.shape)}: axis 0 (batch) and the order of axis 1 "
            "(channels) of a slab must stay as they are"
        )
