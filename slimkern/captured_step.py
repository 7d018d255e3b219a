"""Steps recorded once, then replayed without their Python: on a GPU by a single launch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from slimkern.graphs.cuda import CudaGraphs
from slimkern.graphs.operators import OperatorGraphs
from slimkern.graphs.recorded import Graphs, Step


def capture(
    step: Callable[..., Any], *modules: nn.Module, eager_because: str | None = None, warmup: int = 2, most: int = 64
) -> CapturedStep:
    """Make a step of training or inference that records itself, and from then on takes itself without its Python.

        step = sk.capture(step, net)
        for images, labels in batches:
            loss = step(images, labels)  # the first calls run eagerly, then one is recorded, and from then on replayed

    On a GPU the recording is a CUDA graph, launched at once; on a CPU it is the list of the operators that the step
    called, which are called again. The step computes what it would without this. A recording holds for tensors of one
    shape, dtype and layout, for one set of keyword arguments, and for the modes of autograd, autocast and TF32: other
    calls get recordings of their own. What was recorded is dropped when `modules` gain or lose a layer, scroll, change
    between training and evaluation, or get other parameters, in another place or frozen. If a step can't be recorded
    it runs eagerly from then on, and `reason` says why.

    Args:
        step: a function of tensors, and of keyword arguments that can be hashed. All tensors that it reads or changes
            otherwise must stay where they are (weights, the state of a fused optimiser whose learning rate is a
            tensor); it must not read anything back to the host nor count on being called each time. Gradients are
            zeroed within it, by `set_to_none=True`. What a replay gives has no graph of autograd. On a CPU, no part of
            it may be compiled: where it or one of `modules` is, it runs eagerly.
        modules: the networks that the step uses, all whose gradients anybody reads after it among them.
        eager_because: a reason never to record it.
        warmup: calls that run eagerly before a call of the same kind is recorded, so that all state is made by then.
        most: recordings that are kept; calls of further kinds run eagerly, and `reason` says so.
    """
    return CapturedStep(step, modules, eager_because, warmup, most)


class CapturedStep:
    """See `capture`. The tensors that a call returns are valid until the next one.

    Attributes:
        recorded: recordings so far.
    """

    def __init__(
        self,
        step: Callable[..., Any],
        modules: tuple[nn.Module, ...] = (),
        eager_because: str | None = None,
        warmup: int = 2,
        most: int = 64,
        graphs: Callable[[], Graphs] | None = None,
    ) -> None:
        self._refusal, self.recorded = eager_because, 0
        self._step, self._modules, self._warmup, self._most, self._make_graphs = step, modules, warmup, most, graphs
        self._forget(())

    @property
    def reason(self) -> str | None:
        """Why steps run eagerly, or some of them; None as long as nothing speaks against recording all."""
        if self._refusal is None and self._beyond:
            return f"{self._most} kinds of calls are recorded at most, and {len(self._beyond)} others were made"
        return self._refusal

    def __call__(self, *tensors: Tensor, **settings: Hashable) -> Any:
        """Take the step, eagerly or by replaying it.

        Raises:
            ValueError: a tensor that requires a gradient, which no replay could pass on; one by keyword.
        """
        if by_keyword := [name for name, value in settings.items() if isinstance(value, Tensor)]:
            raise ValueError(f"a captured step takes tensors by position, but was given {by_keyword[0]} by keyword")
        if any(tensor.requires_grad for tensor in tensors):
            raise ValueError("tensors given to a captured step must not require gradients; pass them detached")
        step = partial(self._step, **settings)
        if self._refusal is not None:
            return step(*tensors)
        structure = self._structure_now()
        if structure != self._structure:
            self._forget(structure)
        if self._graphs is None:
            self._graphs = (self._make_graphs or _graphs_for(tensors))()
            self._refusal = self._graphs.refuses_step(self._step, self._modules)
        self._refusal = self._refusal or self._graphs.refuses(tensors)
        if self._refusal is not None:
            return step(*tensors)
        kind = (
            *((t.shape, t.stride(), t.dtype, t.device) for t in tensors),
            frozenset((name, type(value), value) for name, value in settings.items()),  # 1 == 1.0 == True
            _modes(),
        )
        if kind in self._replays:
            return self._replays[kind](*tensors)
        full = len(self._replays) == self._most
        if full:
            self._beyond.add(kind)
        if full or self._calls[kind] < self._warmup:
            self._calls[kind] += 1
            return self._graphs.warm_up(step, tensors)
        result, replay, reason = self._graphs.record(step, tensors, self._modules)
        if replay is None:
            self._refusal = f"recording failed: {reason}"
            self._forget(())
        else:
            self._replays[kind] = replay
            self.recorded += 1
        return result

    def _forget(self, structure: tuple) -> None:
        self._structure = structure
        self._replays: dict[Hashable, Step] = {}
        self._calls: Counter[Hashable] = Counter()
        self._beyond: set[Hashable] = set()
        self._graphs: Graphs | None = None

    def _structure_now(self) -> tuple:
        return tuple(
            (
                id(module),
                module.training,
                getattr(module, "scroll", None),
                *(_place(tensor, not module.training) for tensor in _tensors(module)),
            )
            for own in self._modules
            for module in own.modules()
        )


def _graphs_for(tensors: Iterable[Tensor]) -> Callable[[], Graphs]:
    return CudaGraphs if any(tensor.device.type == "cuda" for tensor in tensors) else OperatorGraphs


def _tensors(module: nn.Module) -> Iterable[Tensor | None]:
    return *module._parameters.values(), *module._buffers.values()  # names and recursion would take their time


def _place(tensor: Tensor | None, settled: bool) -> Hashable:
    """Where it lies, and for what is frozen its values' version: something may be derived from them once and kept."""
    if tensor is None:
        return None
    frozen = settled and not tensor.requires_grad and not tensor.is_inference()
    return tensor.data_ptr(), tensor.requires_grad, tensor._version if frozen else None


def _modes() -> tuple[Hashable, ...]:
    """What a step may compute differently by, without being told."""
    cast = [torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None for kind in ("cuda", "cpu")]
    switches: Any = torch.backends
    float32 = switches.cuda.matmul.fp32_precision, switches.cudnn.conv.fp32_precision
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), *cast, *float32
