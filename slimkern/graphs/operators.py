"""Steps as lists of operators: what a CUDA graph is to a GPU, for a CPU.

Python decides once which operators a step calls, on which tensors; a replay calls those one after the other. Modules,
checks, the autograd graph and the optimiser's bookkeeping are not gone through again, and autograd is switched off.
Results live as short as they do in the step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from slimkern.graphs.recorded import Recorded, Step
from slimkern.graphs.recorder import Recorder

_PAST_OPERATORS = {Tensor.numpy, Tensor.tolist, Tensor.__array__, Tensor.__dlpack__, Tensor.data_ptr, Tensor.__repr__}
"""Let Python, or a library of its, come at values without an operator."""

_OF_NUMBERS = {torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor}
"""Read tensors without an operator, if they are given several of them."""


class OperatorGraphs:
    """Lists of the operators that steps on a CPU call."""

    def refuses_step(self, step: Step, modules: Sequence[nn.Module]) -> str | None:
        """Nothing may be compiled, as such code calls no operators that could be listed."""
        parts = (step, *(own for module in modules for own in module.modules()))
        return "it is compiled, or a part of it" if any(map(_is_compiled, parts)) else None

    def refuses(self, tensors: Sequence[Tensor]) -> str | None:
        """Tensors must all be on a CPU, and plain ones."""
        if others := {str(tensor.device) for tensor in tensors if tensor.device.type != "cpu"}:
            return f"a list of operators needs tensors on a CPU; some are on {', '.join(sorted(others))}"
        if len({tensor.untyped_storage()._cdata for tensor in tensors}) < len(tensors):
            return "a list of operators needs tensors apart from each other; some share their memory"
        if any(tensor.is_conj() or tensor.is_neg() for tensor in tensors):
            return "a list of operators needs plain tensors; some are conjugated or negated on reading"
        if others := {type(tensor).__name__ for tensor in tensors if type(tensor) is not Tensor}:
            return f"a list of operators needs plain tensors; some are {', '.join(sorted(others))}"
        return None

    def warm_up(self, step: Step, tensors: Sequence[Tensor]) -> Any:
        """Take the step."""
        return step(*tensors)

    def record(self, step: Step, tensors: Sequence[Tensor], modules: Sequence[nn.Module] = ()) -> Recorded:
        """Take the step and note its operators."""
        own = [_moved(tensor) for tensor in tensors]  # to be told from all else that the step may see of their memory
        torch.clear_autocast_cache()  # what lies there was cast by no operator of the step
        recorder = Recorder(own, [weight for module in modules for weight in module.parameters()])
        try:
            with _Reading(recorder), recorder:
                result = step(*own)
        finally:
            recorder.leave()
            for mine, given in zip(own, tensors, strict=True):
                if mine._version:
                    given.copy_(mine)
        if any(mine.requires_grad for mine in own):
            recorder.refuse("the step asks for the gradient of a tensor that it is given")
        return Recorded(result, recorder.finish(result), recorder.refusal)


class _Reading(TorchFunctionMode):
    """Notes that Python reads a tensor, and may decide by it what no replay decides again."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        reads = func in _PAST_OPERATORS or (func in _OF_NUMBERS and _holds_tensors(args, kwargs))
        if reads and not self._recorder.computing:
            self._recorder.refuse(f"the step reads a tensor by {func.__name__}")
        return func(*args, **(kwargs or {}))


def _is_compiled(part: Step | nn.Module) -> bool:
    if isinstance(part, nn.Module):
        return part._compiled_call_impl is not None or "_orig_mod" in part._modules
    return hasattr(part, "_torchdynamo_orig_callable")


def _holds_tensors(args: Sequence[Any], kwargs: dict[str, Any] | None) -> bool:
    given = [*args, *(kwargs or {}).values()]
    return any(isinstance(leaf, Tensor) for own in given if isinstance(own, list | tuple) for leaf in tree_leaves(own))


def _moved(tensor: Tensor) -> Tensor:
    """A copy with the same strides, whatever they are, which counts its changes."""
    span = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    with torch.inference_mode(False):
        if not tensor.numel():
            return tensor.clone()
        return tensor.as_strided((span,), (1,)).clone().as_strided(tensor.shape, tensor.stride()).detach()
