"""The result of a batch norm on an ordinary tensor, put off until what follows is known."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._pytree import tree_map_only

from slimkern.snapshot import in_inference_mode
from slimkern.width_batch import WidthBatch


class DeferredTensor(Tensor):
    """A tensor that is computed when it is first used, so that an addition and a ReLU that follow are done on the way.

    It has the shape, dtype and device of its result, but no memory. Every other function of torch computes it, and goes
    on with the ordinary tensor that it stands for. Code in C++ that asks for its memory meets an error.

    Attributes:
        batch: the work: one slab, of width 1.0.
    """

    batch: WidthBatch

    @staticmethod
    def of(batch: WidthBatch, like: Tensor) -> DeferredTensor:
        """What `batch`, whose one slab is put off, will give: a tensor like `like`."""
        grad = torch.is_grad_enabled()
        with torch._C.DisableTorchFunctionSubclass():  # to ask for its shape would compute it
            tensor = Tensor._make_wrapper_subclass(
                DeferredTensor, like.shape, dtype=like.dtype, device=like.device, requires_grad=grad
            )
            if grad:
                tensor.register_hook(_refuse_gradient)
        tensor.batch = batch
        return tensor

    @classmethod
    def __torch_function__(
        cls, func: Callable, types: Sequence[type], args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}  # functions of TorchScript have none
        in_place = name[-1:] == "_" or bool(kwargs.get("inplace"))
        if name in ("relu", "relu_"):
            (tensor,) = args or (kwargs["input"],)
            rectified: Any = F.relu(tensor.batch, in_place)
            return rectified.slabs[0]
        if name in ("add", "add_") and not kwargs and _alike(*args):
            left, right = args
            return _sum(left, right, in_place)
        computed: Any = tree_map_only(DeferredTensor, lambda tensor: tensor.batch.slabs[0], (args, kwargs))
        return func(*computed[0], **computed[1])

    @classmethod
    def __torch_dispatch__(cls, func: Callable, *_: Any) -> Any:
        raise RuntimeError(f"{func} met the result of a batch norm that was put off; {_REMEDY}")


_REMEDY = "clone it first, or set feeds_relu = False on the SwitchableBatchNorm2d that gave it"
"""What to do where torch doesn't notice that a deferred tensor is used."""


def can_be_put_off(tensor: Tensor) -> bool:
    """Whether work on `tensor` may wait: nobody traces, transforms or compiles, and changes in place are counted."""
    return (
        type(tensor) is Tensor
        and not torch.compiler.is_compiling()
        and not in_inference_mode()
        and not torch._C._get_tracing_state()
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
    )


def _alike(left: Any, right: Any) -> bool:
    tensors = isinstance(left, Tensor) and isinstance(right, Tensor)
    with torch._C.DisableTorchFunctionSubclass():
        return tensors and left.shape == right.shape and left.dtype == right.dtype and left.device == right.device


def _sum(left: Tensor, right: Tensor, in_place: bool) -> Tensor:
    total = (operator.iadd if in_place else operator.add)(_batch(left), _batch(right))
    if not total.is_put_off:
        return total.slabs[0]
    return left if in_place else DeferredTensor.of(total, left)


def _batch(tensor: Tensor) -> WidthBatch:
    return tensor.batch if isinstance(tensor, DeferredTensor) else WidthBatch((tensor,), (1.0,))


def _refuse_gradient(_: Tensor) -> None:
    raise RuntimeError(f"a gradient reached the result of a batch norm that was put off; {_REMEDY}")
