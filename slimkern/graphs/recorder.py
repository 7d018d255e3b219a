"""Noting which operators a step calls, and on what."""

from __future__ import annotations

import gc
import operator
import sys
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, fx
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from slimkern.graphs.gradients import Gradients
from slimkern.graphs.recorded import Step
from slimkern.ops.registration import called_directly

_ALIASES = {torch.ops.aten.detach.default, torch.ops.aten.alias.default}
"""Give a tensor that is known by its memory already."""

_OF_THE_MODE = {torch.ops.aten.mkldnn_rnn_layer.default}
"""Compute otherwise where autograd is switched off, as it is in a replay."""

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

    def __init__(self, inputs: Sequence[Tensor], weights: Iterable[Tensor]) -> None:
        super().__init__()
        self.refusal: str | None = None
        self.computing = False
        self._graph = fx.Graph()
        self._nodes: dict[tuple, fx.Node] = {}
        self._bases: dict[int, fx.Node] = {}
        self._dtypes: dict[fx.Node, torch.dtype] = {}
        self._kept: list[Any] = []
        self._surroundings: list[Tensor] = []
        self._made: list[StorageWeakRef] = []
        self._gradients = Gradients(weights)
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

    def leave(self) -> None:
        """Take back what was lent to the step."""
        self._gradients.take_back()

    def finish(self, result: Any) -> Step | None:
        """The replay of a step that gave this."""
        self._check_random()
        if _forgotten(self._surroundings):
            self.refuse("the step makes a tensor without an operator, or on a thread of its own")
        leaves, spec = tree_flatten(result)
        if others := {type(leaf).__name__ for leaf in leaves if not isinstance(leaf, (Tensor, *_LITERAL))}:
            self.refuse(f"the step gives something else than tensors: {', '.join(sorted(others))}")
        given = [(own, gradient, self._nodes.get(_key(gradient))) for own, gradient in self._gradients.given()]
        if any(node is not None and node.op == "placeholder" for _, _, node in given):
            self.refuse("the step adds to gradients that it finds; let it drop them first")
        learned = [(own, node) for own, _, node in given if node is not None]
        self._check_kept([*leaves, *(gradient for _, gradient, _ in given)])
        self._graph.output(([self._noted(leaf) for leaf in leaves], [node for _, node in learned]))
        if self.refusal is not None:
            return None
        run, surroundings = fx.GraphModule({}, self._graph).forward, self._surroundings
        owners = [own for own, _ in learned]
        bare = [*owners, *self._gradients.dropped()]

        def replay(*tensors: Tensor) -> Any:
            for own in bare:
                own.grad = None
            with torch.no_grad(), _uncast():
                found, gradients = run(*tensors, *surroundings)
            for own, gradient in zip(owners, gradients, strict=True):
                own.grad = gradient
            return tree_unflatten(found, spec)

        return replay

    def _check(self, func: Any, args: Sequence[Any]) -> None:
        if _depends_on_values(func, args):
            self.refuse(f"the step depends on the values of tensors by {func}")
        if func.namespace.startswith(("c10d", "_c10d")):
            self.refuse("several processes exchange tensors")
        if func in _OF_THE_MODE:
            self.refuse(f"{func} depends on the mode of autograd")
        if torch.Tag.nondeterministic_seeded in func.tags:
            self._check_random()

    def _check_random(self) -> None:
        with _disable_current_modes():  # it is no operator of the step
            same = torch.equal(self._random, torch.default_generator.get_state())
        if not same:
            self.refuse("the step sets the state of the random generator")

    def _check_kept(self, given: Sequence[Any]) -> None:
        """Refuse a step that keeps a tensor which it made, as a replay would make it again."""
        known = {own.untyped_storage()._cdata for own in given if isinstance(own, Tensor) and not _is_opaque(own)}

        def is_kept() -> bool:
            return any(own.cdata not in known and not own.expired() for own in self._made)

        if is_kept():
            gc.collect()  # what waits for the collector isn't kept
            if is_kept():
                self.refuse("the step keeps a tensor that it makes; let it be made before, or in one more warm-up")

    def _input(self, name: str) -> fx.Node:
        """One more input of the graph, after those that there are."""
        with self._graph.inserting_after(self._last_input):
            self._last_input = self._graph.placeholder(name)
        return self._last_input

    def _noted(self, value: Any) -> Any:
        """The node that stands for an argument."""
        if isinstance(value, Tensor):
            key = _key(value)
            if key not in self._nodes:
                self._nodes[key] = self._seen_otherwise(value) or self._surrounding(value)
            if self._nodes[key].op == "placeholder":
                self._gradients.note(value)
            return self._nodes[key]
        if not isinstance(value, _LITERAL):
            self.refuse(f"an operator of the step takes a {type(value).__name__}")
            return None
        return value

    def _surrounding(self, tensor: Tensor) -> fx.Node:
        self._surroundings.append(tensor)
        node = self._input(f"surrounding_{len(self._surroundings)}")
        self._know(tensor, node)
        return node

    def _seen_otherwise(self, tensor: Tensor) -> fx.Node | None:
        """A view, which no operator gave, of memory that one did give."""
        base = None if _is_opaque(tensor) else self._bases.get(tensor.untyped_storage()._cdata)
        if base is None:
            return None
        if base in self._inputs or tensor.is_conj() or tensor.is_neg() or tensor.dtype != self._dtypes[base]:
            self.refuse("the step sees a tensor's memory in another way without an operator")
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
        if _is_opaque(tensor):
            self._kept.append(tensor)  # it is told by its identity, which must not pass on
            if not tensor.is_mkldnn:
                self.refuse(f"the step has tensors of layout {tensor.layout}")
        else:
            storage = tensor.untyped_storage()
            if storage._cdata not in self._bases:
                self._bases[storage._cdata], self._dtypes[node] = node, tensor.dtype
                known = StorageWeakRef(storage)  # no other storage gets its address
                (self._kept if node.op == "placeholder" else self._made).append(known)
        self._nodes.setdefault(_key(tensor), node)


def _forgotten(values: list[Tensor]) -> list[Tensor]:
    """Tensors that nobody keeps but this list: their memory has but one user, and we look at it."""
    (of_a_list,) = _references([torch.empty(0)])
    return [
        value
        for value, references in zip(values, _references(values), strict=True)
        if references <= of_a_list
        if _is_opaque(value) or torch._C._storage_Use_Count(value.untyped_storage()._cdata) == 2
    ]


def _references(values: list[Tensor]) -> list[int]:
    return [sys.getrefcount(value) for value in values]


def _depends_on_values(func: Any, args: Sequence[Any]) -> bool:
    """Whether Python may come to know the values of the tensors, be it by the size of a result."""
    if torch.Tag.dynamic_output_shape in func.tags:
        by_indices = func.overloadpacket in (torch.ops.aten.index, torch.ops.aten._unsafe_index)
        return not by_indices or any(own is not None and own.dtype in (torch.bool, torch.uint8) for own in args[1])
    return torch.Tag.data_dependent_output in func.tags


def _key(tensor: Tensor) -> tuple:
    """Tells tensors apart by the memory that they show, and how."""
    if _is_opaque(tensor):
        return (id(tensor),)
    storage, bits = tensor.untyped_storage()._cdata, (tensor.is_conj(), tensor.is_neg())
    return storage, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype, *bits


def _is_opaque(tensor: Tensor) -> bool:
    """Whether it has no storage to be told by: a layout of oneDNN's own, or a sparse one."""
    return tensor.layout != torch.strided


def _uncast() -> AbstractContextManager[Any]:
    """Autocast has been applied to what was recorded."""
    return torch.autocast("cpu", enabled=False) if torch.is_autocast_enabled("cpu") else nullcontext()
