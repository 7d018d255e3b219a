"""No step makes the host wait for the device: counted on a CPU, by what would do so on a GPU."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from slimkern.continual.config import MethodName
from slimkern.continual.methods import METHODS, FineTuning, Method, Step
from slimkern.continual.training import train
from tests.continual.few_digits import TINY, Listener, few_digits

OF_UNKNOWN_SIZE = {
    "nonzero", "masked_select", "unique_dim", "_unique", "_unique2", "unique_consecutive", "bincount",
    "repeat_interleave",
}  # fmt: skip
"""Operators whose result has a size that only the device knows."""
READBACKS = {"_local_scalar_dense", "equal", "is_nonzero", "item", *OF_UNKNOWN_SIZE}
BY_INDICES = {"index", "index_put", "index_put_", "_unsafe_index"}
BY_STEPS = [name for name, method in METHODS.items() if method.losses is not Method.losses]


class CountReadbacks(TorchDispatchMode):
    """Counts the operators that make the host wait for a device."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = func.overloadpacket.__name__
        self.seen[name] += name in READBACKS or (name in BY_INDICES and any(map(_is_mask, args[1])))
        return func(*args, **(kwargs or {}))


def _is_mask(index: Tensor | None) -> bool:
    return index is not None and index.dtype in (torch.bool, torch.uint8)


@contextmanager
def readbacks() -> Iterator[Counter[str]]:
    """Counts also what a CPU does without an operator, and tensors made of the host's numbers, which are copied."""
    with pytest.MonkeyPatch.context() as patch, CountReadbacks() as mode:
        for owner, names in ((Tensor, ("cpu", "tolist", "numpy")), (torch, ("tensor", "as_tensor"))):
            for name in names:
                patch.setattr(owner, name, counted(owner, name, mode.seen))
        yield mode.seen


def counted(owner: Any, name: str, seen: Counter[str]) -> Callable[..., Any]:
    own = getattr(owner, name)

    def call(*args: Any, **options: Any) -> Any:
        seen[name] += 1
        return own(*args, **options)

    return call


class AtSteps(Listener):
    """What had been counted when each step of an epoch had been launched."""

    def __init__(self, seen: Counter[str]) -> None:
        super().__init__()
        self.seen = seen
        self.launched: dict[tuple[int, int], list[Counter[str]]] = defaultdict(list)

    def step_launched(self, task: int, epoch: int, steps: int) -> None:
        self.launched[task, epoch].append(Counter(self.seen))


def readbacks_between_steps(**changes: Any) -> Counter[str]:
    """Of all epochs of a run, each from its first step to its last."""
    config, data = replace(TINY, epochs=1, **changes), few_digits()
    with readbacks() as seen:
        told = AtSteps(seen)
        train(config, data, told, eager=True)  # a replay doesn't go through what a step does in Python
    assert all(len(epoch) > 1 for epoch in told.launched.values()) and len(told.launched) == 2
    assert seen.total() > 0  # the losses of an epoch are read
    return sum((epoch[-1] - epoch[0] for epoch in told.launched.values()), Counter())


@pytest.mark.parametrize("method", BY_STEPS)
def test_no_step_reads_back_from_the_device(method: MethodName) -> None:
    extra: dict[str, Any] = {"exemplars": 20} if METHODS[method].needs_exemplars else {}
    assert not readbacks_between_steps(method=method, **extra)


@pytest.mark.parametrize("changes", [{"precision": "fp16"}, {"widths": (4.0,), "widths_per_step": 2}], ids=str)
def test_no_setting_of_a_step_reads_back(changes: dict[str, Any]) -> None:
    assert not readbacks_between_steps(**changes)


@pytest.mark.parametrize(
    "read",
    [
        lambda loss: loss.item(),
        lambda loss: loss.reshape(1)[loss.reshape(1) > 0],
        lambda loss: loss.reshape(1).nonzero(),
        lambda loss: loss.detach().reshape(1).unique(),
        lambda loss: loss.detach().long().reshape(1).bincount(),
        lambda loss: torch.ones(1).repeat_interleave(loss.detach().long().reshape(1)),
        lambda loss: torch.tensor([1.0]),
        lambda loss: loss.detach().cpu(),
    ],
    ids=["item", "mask", "nonzero", "unique", "bincount", "repeat", "number", "copy"],
)
def test_a_method_that_waits_for_the_device_is_noticed(
    read: Callable[[Tensor], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Impatient(FineTuning):
        def losses(self, step: Step) -> dict[str, Tensor]:
            parts = super().losses(step)
            read(parts["cross-entropy"])
            return parts

    monkeypatch.setitem(METHODS, "ft", Impatient)
    assert readbacks_between_steps().total() >= 2 * 5
