"""Noting which operators a step calls, and on what."""

from __future__ import annotations

import operator
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, fx
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from slimkern.graphs.recorded import Step
from slimkern.ops.registration import called_directly

_ALIASES = {torch.ops.aten.detach.default, torch.ops.aten.alias.default}
"""Give a tensor that is known by its memory already."""

_LITERAL = (str, int, float, bool, complex, torch.dtype, torch.device, torch.memory_format, torch.layout, type(None))
"""What generated code can spell."""


class Recorder(TorchDispatchMode):
    """Writes down each operator as a node of a graph.

    Tensors are told by their memory: saved for the backward pass and taken out again, they are other objects. Those
    whose memory no operator of the step gave are the step's own surroundings, such as weights: the graph's further
    inputs.

    Attributes:
        refusal: why the step can't be replayed; None so far.
        computing: whether an operator is at work.
    """

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.refusal: str | None = None
        self.computing = False
        self._graph = fx.Graph()
        self._nodes: dict[tuple, fx.Node] = {}
        self._bases: dict[int, fx.Node] = {}
        self._kept: list[Any] = []
        self._surroundings: list[Any] = []
        self._leaves: dict[int, Tensor] = {}
        self._last_input: fx.Node | None = None
        self._inputs = [self._input(f"input_{place}") for place, _ in enumerate(inputs)]
        for tensor, node in zip(inputs, self._inputs, strict=True):
            self._know(tensor, node)
        self._random = torch.default_generator.get_state()

    def refuse(self, reason: str) -> None:
        """Don't hand out a replay; the first reason counts. The step goes on, as it has changed tensors already."""
        self.refusal = self.refusal or reason

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "profiler" or func in _ALIASES:
            return func(*args, **kwargs)
        if func is torch.ops.aten.lift_fresh.default:
            # A new tensor of Python's numbers, which the step may change: each replay gets it as it was.
            func, args = torch.ops.aten.clone.default, (args[0].clone(),)
            self._kept += args
        self._check(func, args)
        noted = tree_map(self._noted, (args, kwargs))
        self.computing = True
        try:
            result = func(*args, **kwargs)
        finally:
            self.computing = False
        if torch.Tag.nondeterministic_seeded in func.tags:
            self._random = torch.default_generator.get_state()
        self._know_all(result, self._graph.call_function(called_directly(func), *noted))
        return result

    def finish(self, result: Any) -> Step | None:
        """The replay of a step that gave this."""
        self._check_random()
        if _forgotten(self._surroundings):
            self.refuse("the step makes a tensor without an operator, or on a thread of its own")
        leaves, spec = tree_flatten(result)
        if others := {type(leaf).__name__ for leaf in leaves if not isinstance(leaf, (Tensor, *_LITERAL))}:
            self.refuse(f"the step gives something else than tensors: {', '.join(sorted(others))}")
        # Gradients that the step has left on weights: whoever reads them is to find a replay's own.
        learned = [
            (own, node)
            for own in self._leaves.values()
            if own.grad is not None
            if (node := self._nodes.get(_key(own.grad))) is not None and node.op != "placeholder"
        ]
        self._graph.output(([self._noted(leaf) for leaf in leaves], [node for _, node in learned]))
        if self.refusal is not None:
            return None
        run, surroundings = fx.GraphModule({}, self._graph).forward, self._surroundings
        owners = [own for own, _ in learned]

        def replay(*tensors: Tensor) -> Any:
            for own in owners:
                own.grad = None  # as the step did, before it gave new ones
            with torch.no_grad(), _uncast():
                found, gradients = run(*tensors, *surroundings)
            for own, gradient in zip(owners, gradients, strict=True):
                own.grad = gradient
            return tree_unflatten(found, spec)

        return replay

    def _check(self, func: Any, args: Sequence[Any]) -> None:
        if _depends_on_values(func, args):
            self.refuse(f"the step depends on the values of tensors by {func}")
        if func.namespace == "c10d" or func.namespace.startswith("_c10d"):
            self.refuse("several processes exchange tensors")
        if torch.Tag.nondeterministic_seeded in func.tags:
            self._check_random()

    def _check_random(self) -> None:
        with _disable_current_modes():  # it is no operator of the step
            same = torch.equal(self._random, torch.default_generator.get_state())
        if not same:
            self.refuse("the step sets the state of the random generator")

    def _input(self, name: str) -> fx.Node:
        """One more input of the graph, after those that there are."""
        with self._graph.inserting_after(self._last_input):
            self._last_input = self._graph.placeholder(name)
        return self._last_input

    def _noted(self, value: Any) -> Any:
        """The node that stands for an argument."""
        if isinstance(value, Tensor):
            if value.requires_grad and value.is_leaf:
                self._leaves[id(value)] = value
            key = _key(value)
            if key not in self._nodes:
                self._nodes[key] = self._seen_otherwise(value) or self._surrounding(value)
            return self._nodes[key]
        return value if isinstance(value, _LITERAL) else self._surrounding(value)

    def _surrounding(self, value: Any) -> fx.Node:
        self._surroundings.append(value)
        node = self._input(f"surrounding_{len(self._surroundings)}")
        if isinstance(value, Tensor):
            self._know(value, node)
        return node

    def _seen_otherwise(self, tensor: Tensor) -> fx.Node | None:
        """A view, which no operator gave, of memory that one did give."""
        base = None if tensor.is_mkldnn else self._bases.get(tensor.untyped_storage()._cdata)
        if base is None:
            return None
        if base in self._inputs:
            self.refuse("the step sees its input's memory without an operator")
        geometry = (list(tensor.shape), list(tensor.stride()), tensor.storage_offset())
        return self._graph.call_function(torch.ops.aten.as_strided.default, (base, *geometry))

    def _know_all(self, result: Any, node: fx.Node) -> None:
        if isinstance(result, Tensor):
            self._know(result, node)
        elif isinstance(result, list | tuple):
            for place, own in enumerate(result):
                if isinstance(own, Tensor | list | tuple):
                    self._know_all(own, self._graph.call_function(operator.getitem, (node, place)))

    def _know(self, tensor: Tensor, node: fx.Node) -> None:
        """From now on `node` stands for `tensor`, unless another one does: it was changed in place then."""
        if tensor.is_mkldnn:
            self._kept.append(tensor)  # it is told by its identity, which must not pass on
        else:
            storage = tensor.untyped_storage()
            if storage._cdata not in self._bases:
                self._bases[storage._cdata] = node
                self._kept.append(StorageWeakRef(storage))  # no other storage gets its address
        self._nodes.setdefault(_key(tensor), node)


def _forgotten(values: list[Any]) -> list[Tensor]:
    """Tensors that nobody keeps but this list: their memory has but one user, and we look at it."""
    (of_a_list,) = _references([torch.empty(0)])
    return [
        value
        for value, references in zip(values, _references(values), strict=True)
        if isinstance(value, Tensor) and references <= of_a_list
        if value.is_mkldnn or torch._C._storage_Use_Count(value.untyped_storage()._cdata) == 2
    ]


def _references(values: list[Any]) -> list[int]:
    return [sys.getrefcount(value) for value in values]


def _depends_on_values(func: Any, args: Sequence[Any]) -> bool:
    """Whether Python may come to know the values of the tensors, be it by the size of a result."""
    if torch.Tag.dynamic_output_shape in func.tags:
        by_indices = func.overloadpacket in (torch.ops.aten.index, torch.ops.aten._unsafe_index)
        return not by_indices or any(own is not None and own.dtype in (torch.bool, torch.uint8) for own in args[1])
    return torch.Tag.data_dependent_output in func.tags


def _key(tensor: Tensor) -> tuple:
    """Tells tensors apart by the memory that they show, and how."""
    if tensor.is_mkldnn:  # a layout of oneDNN's own, without a storage
        return (id(tensor),)
    storage = tensor.untyped_storage()._cdata
    return storage, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype


def _uncast() -> AbstractContextManager[Any]:
    """Autocast has been applied to what was recorded."""
    return torch.autocast("cpu", enabled=False) if torch.is_autocast_enabled("cpu") else nullcontext()
