"""How many kernels a GPU would be given for operators that run on the CPU, and the bytes that they move.

The rule: an operator that makes a view, or memory that nobody fills, launches nothing; the compiled operators of
slimkern launch what their sources say; PyTorch's operators on lists of tensors take as many tensors and blocks at once
as the arguments of a kernel have room for; whatever else there is launches one kernel.
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

from time_model import GAP, MEMORY, MERGE, tensors_of
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from slimkern.ops import registration

EMPTY = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view", "lift_fresh", "set_"}
NOTES = {"_record_function_enter_new", "_record_function_exit", "item"}
"""For profilers; and what calls another operator that copies."""

SHARES = 8
"""Threads among which the parts of a channel's moments are shared out, see csrc/cuda/statistics.cu."""

ROWS = 16
"""Slabs of one launch of a compiled operator."""

TENSORS, BLOCKS, CHUNK = {1: 110, 2: 64, 3: 48, 4: 36, 5: 30}, 320, 65536
"""By how many lists of tensors are gone through together: the tensors of a launch; its blocks; elements of a block."""


class Called(NamedTuple):
    """Of one call: the operator's name, the kernels it launches, and microseconds that they should take."""

    name: str
    launches: int
    microseconds: float


class OperatorLaunches(TorchDispatchMode):
    """Notes the operators that are called within.

    Attributes:
        called: those that launch anything, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.called: list[Called] = []

    def __torch_dispatch__(self, operator: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        own = registration._OPERATORS.get(operator)
        if own is not None:  # ours are made of others
            with self:
                return own._compute(*own.signature.grouped(arguments))
        result = operator(*arguments, **(named or {}))
        name = operator._schema.name.split("::")[1]
        launches = _launches(operator, name, arguments, result)
        if launches:
            moved = sum(_bytes(each) for each in (arguments, result))
            busy = moved / MEMORY / 1e3 * _passes(name) + _merging(name, arguments)
            self.called.append(Called(name, launches, launches * GAP + busy))
        return result


def _launches(operator: Any, name: str, arguments: Any, result: Any) -> int:
    given = list(tensors_of([arguments]))
    if operator.namespace == "slimkern_native":
        return _of_compiled(name, arguments)
    if name.startswith(("_foreach", "_fused")):
        lists = sum(isinstance(own, list | tuple) and bool(own) for own in arguments)
        (first, *_) = (own for own in arguments if isinstance(own, list | tuple))
        blocks = sum(-(-own.numel() // CHUNK) for own in first)
        of_norm = name == "_foreach_norm"  # sums by blocks, then of blocks
        return max(-(-len(first) // TENSORS[min(lists, 5)]), -(-blocks // BLOCKS)) + of_norm
    is_view = operator.is_view or name in EMPTY | NOTES | {"detach"}
    same = isinstance(result, Tensor) and any(result is own for own in given) and not operator._schema.is_mutable
    nothing = isinstance(result, Tensor) and not result.numel()
    return 0 if is_view or same or nothing else 1


def _of_compiled(name: str, arguments: Any) -> int:
    if name == "batch_norm_forward":  # norms and results, and before them moments unless they are given
        return -(-len(arguments[0]) // ROWS) * (3 if _moments(arguments) is None else 2)
    if name == "batch_norm_backward":  # norms, sums, slopes and gradients
        return -(-len(arguments[0]) // ROWS) * 4
    return 2 if name.startswith("ragged_head") else 1


def _passes(name: str) -> float:
    """How often operators read or write all that they are given; the backward pass of a norm reads slabs twice."""
    return 5 / 3 if name == "batch_norm_backward" else 1.0


def _merging(name: str, arguments: Any) -> float:
    """Microseconds of adding up moments one after the other, for which most of the GPU waits."""
    moments = _moments(arguments) if name == "batch_norm_forward" else None
    return 0.0 if moments is None else -(-moments.shape[1] // SHARES) * MERGE


def _moments(arguments: Any) -> Tensor | None:
    """Those that a batch norm is given; PyTorch leaves out last arguments that are as by default."""
    return arguments[9] if len(arguments) > 9 else None


def _bytes(values: Any) -> int:
    return sum(prod(own.shape) * own.element_size() for own in tensors_of([values]))
