"""Steps as CUDA graphs: recorded once, then replayed by a single launch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

Run = Callable[[], Any]


def capture(
    step: Callable[..., Any], *modules: nn.Module, eager_because: str | None = None, warmup: int = 2, most: int = 64
) -> CapturedStep:
    """Make a step of training or inference that becomes a CUDA graph by itself.

        step = sk.capture(step, net)
        for images, labels in batches:
            loss = step(images, labels)  # the first calls run eagerly, then one is recorded, and from then on replayed

    The step computes what it would without this; on a CPU it always runs eagerly. A graph holds for tensors of one
    shape, dtype and layout, for one set of keyword arguments, and for the modes of autograd, autocast and TF32: other
    calls get graphs of their own. What was recorded is dropped when `modules` gain or lose a layer, scroll, change
    between training and evaluation, or get other parameters, in another place or frozen. If a step can't be recorded
    it runs eagerly from then on, and `reason` says why.

    Args:
        step: a function of tensors, and of keyword arguments that can be hashed. All tensors that it reads or changes
            otherwise must stay where they are (weights, the state of a fused optimiser whose learning rate is a
            tensor); it must not read anything back to the host nor count on being called each time. A gradient is
            zeroed by `set_to_none=True`.
        modules: the networks that the step uses.
        eager_because: a reason never to record it.
        warmup: calls that run eagerly before a call of the same kind is recorded.
        most: graphs that are kept; calls of further kinds run eagerly, and `reason` says so.
    """
    return CapturedStep(step, modules, eager_because, warmup, most)


class Graphs(Protocol):
    """How steps are recorded."""

    def refuses(self, tensors: tuple[Tensor, ...]) -> str | None:
        """Why a call with these tensors can't be recorded; None if it can."""
        ...

    def warm_up(self, run: Run) -> Any:
        """Run eagerly, as recording needs it to have happened before; the result."""
        ...

    def record(self, run: Run) -> tuple[Run, Any]:
        """Record without running: what replays it, and the result, which each replay computes anew in place.

        Raises:
            RuntimeError: it holds something that can't be recorded.
        """
        ...


class CudaGraphs:
    """CUDA graphs that share one pool of memory, as never two of them run at a time."""

    def __init__(self) -> None:
        self._stream: torch.cuda.Stream | None = None
        self._pool: Any = None

    def refuses(self, tensors: tuple[Tensor, ...]) -> str | None:
        """Tensors must all be on one GPU, the present one."""
        devices = {tensor.device for tensor in tensors}
        if all(device.type == "cuda" for device in devices) and devices == {self._device()}:
            return None
        return f"a CUDA graph needs tensors on the present GPU; these are on {', '.join(sorted(map(str, devices)))}"

    def warm_up(self, run: Run) -> Any:
        """Run on the stream of the recordings to come."""
        stream, present = self._own_stream(), torch.cuda.current_stream()
        stream.wait_stream(present)
        with torch.cuda.stream(stream):
            result = run()
        present.wait_stream(stream)
        return result

    def record(self, run: Run) -> tuple[Run, Any]:
        """Record one graph."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, self._pool, self._own_stream(), capture_error_mode="thread_local"):
            result = run()
        self._pool = graph.pool()
        return graph.replay, result

    @staticmethod
    def _device() -> torch.device | None:
        return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else None

    def _own_stream(self) -> torch.cuda.Stream:
        self._stream = self._stream or torch.cuda.Stream()
        return self._stream


@dataclass
class _Recording:
    inputs: tuple[Tensor, ...]
    replay: Run
    result: Any

    def __call__(self, tensors: tuple[Tensor, ...]) -> Any:
        for own, given in zip(self.inputs, tensors, strict=True):
            own.copy_(given)
        self.replay()
        return self.result


class CapturedStep:
    """See `capture`. The tensors that a call returns are valid until the next one.

    Attributes:
        recorded: graphs recorded so far.
    """

    def __init__(
        self,
        step: Callable[..., Any],
        modules: tuple[nn.Module, ...] = (),
        eager_because: str | None = None,
        warmup: int = 2,
        most: int = 64,
        graphs: Callable[[], Graphs] = CudaGraphs,
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
            ValueError: a tensor that requires a gradient, which a graph's own copy could not pass on; one by keyword.
        """
        if by_keyword := [name for name, value in settings.items() if isinstance(value, Tensor)]:
            raise ValueError(f"a captured step takes tensors by position, but was given {by_keyword[0]} by keyword")
        if any(tensor.requires_grad for tensor in tensors):
            raise ValueError("tensors given to a captured step must not require gradients; pass them detached")
        if self._refusal is None:
            self._refusal = self._graphs.refuses(tensors)
        if self._refusal is not None:
            return self._step(*tensors, **settings)
        structure = self._structure_now()
        if structure != self._structure:
            self._forget(structure)
        kind = (
            *((t.shape, t.stride(), t.dtype, t.device) for t in tensors),
            frozenset((name, type(value), value) for name, value in settings.items()),  # 1 == 1.0 == True
            _modes(),
        )
        if kind in self._recordings:
            return self._recordings[kind](tensors)
        full = len(self._recordings) == self._most
        if full:
            self._beyond.add(kind)
        if full or self._calls[kind] < self._warmup:
            self._calls[kind] += 1
            return self._graphs.warm_up(lambda: self._step(*tensors, **settings))
        return self._record(kind, tensors, settings)

    def _record(self, kind: Hashable, tensors: tuple[Tensor, ...], settings: dict[str, Hashable]) -> Any:
        inputs = tuple(tensor.clone() for tensor in tensors)
        try:
            replay, result = self._graphs.record(lambda: self._step(*inputs, **settings))
        except RuntimeError as error:
            self._refusal = f"recording failed: {str(error).partition(chr(10))[0]}"
            self._forget(())
            return self._step(*tensors, **settings)
        self.recorded += 1
        self._recordings[kind] = _Recording(inputs, replay, result)
        return self._recordings[kind](tensors)

    def _forget(self, structure: tuple) -> None:
        self._structure = structure
        self._recordings: dict[Hashable, _Recording] = {}
        self._calls: Counter[Hashable] = Counter()
        self._beyond: set[Hashable] = set()
        self._graphs = self._make_graphs()

    def _structure_now(self) -> tuple:
        return tuple(
            (id(module), module.training, getattr(module, "scroll", None), *map(_place, _tensors(module)))
            for own in self._modules
            for module in own.modules()
        )


def _tensors(module: nn.Module) -> Iterable[Tensor | None]:
    return *module._parameters.values(), *module._buffers.values()  # names and recursion would take their time


def _place(tensor: Tensor | None) -> Hashable:
    return tensor if tensor is None else (tensor.data_ptr(), tensor.requires_grad)


def _modes() -> tuple[Hashable, ...]:
    """What a step may compute differently by, without being told."""
    cast = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None
    switches: Any = torch.backends
    float32 = switches.cuda.matmul.fp32_precision, switches.cudnn.conv.fp32_precision
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), cast, *float32
