"""CUDA graphs played on a CPU: a recording holds the operators on tensors, and a replay runs those and no Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Run = Callable[[], Any]


class Tape(TorchDispatchMode):
    """Notes each operator with the very tensors that it read, and those that it gave."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple, dict, list[Tensor | None]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        read = {_memory(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        # Views and what was changed in place are up to date once the operator has run again.
        new = [leaf if isinstance(leaf, Tensor) and _memory(leaf) not in read else None for leaf in tree_leaves(result)]
        self.calls.append((func, args, kwargs or {}, new))
        return result

    @torch.no_grad()
    def replay(self) -> None:
        """Run the operators again, into the same memory."""
        for func, args, kwargs, new in self.calls:
            for own, again in zip(new, tree_leaves(func(*args, **kwargs)), strict=True):
                if own is not None:
                    own.copy_(again)


def _memory(tensor: Tensor) -> int:
    # Weights in a layout of oneDNN's own have no storage, and no views.
    return id(tensor) if tensor.is_mkldnn else tensor.untyped_storage()._cdata


class TapedGraphs:
    """As `CudaGraphs`; `log` tells what was done, over all its instances."""

    log: list[str] = []  # noqa: RUF012 - shared on purpose, as a step makes new instances

    def refuses(self, tensors: tuple[Tensor, ...]) -> str | None:
        return None

    def warm_up(self, run: Run) -> Any:
        self.log.append("eager")
        return run()

    def record(self, run: Run) -> tuple[Run, Any]:
        self.log.append("recorded")
        with Tape() as tape:
            result = run()
        replays = iter([lambda: None])  # the recording has computed the first call

        def replay() -> None:
            self.log.append("replayed")
            next(replays, tape.replay)()

        return replay, result
