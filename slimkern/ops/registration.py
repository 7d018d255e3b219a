"""Operators as PyTorch knows them: a schema, an implementation, a fake, a gradient, and little between them and a call.

`torch.library.custom_op` registers the same, but checks every call again and walks through all arguments several times:
0.15 ms for an operator with its gradient, which a network of small layers pays some forty times a step.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, get_args, get_type_hints

import torch
from torch import Tensor
from torch._C._autograd import _profiler_enabled
from torch.autograd.function import once_differentiable

Save = Callable[[Any, Sequence[Any], Any], None]
"""Told a node of the autograd graph, the arguments and the results: keeps there what the gradients will need."""

Gradients = Callable[..., dict[str, Any]]
"""Given the node and a gradient for each result, nested like them: the gradients by the schema's names of arguments."""

Sizes = list[int | None]
"""Of nested tensors: how many a list holds, None for a tensor by itself."""

_LIBRARY = torch.library.Library("slimkern", "FRAGMENT")
_NESTED = (list, tuple)
_PLAIN = frozenset({Tensor, torch.nn.Parameter, type(None)})

_OPERATORS: dict[Any, Operator] = {}
"""Those of this module, by what PyTorch knows them as."""


class Signature:
    """The arguments of an operator: as its function takes them, and flat, as PyTorch does.

    A NamedTuple among them stands for its fields, which the schema calls `<argument>_<field>`.

    Attributes:
        schema: what goes in and what comes out, in the language of `torch.library`.
        tensors: position in the flat arguments, and name, of tensors, optional tensors and lists of them.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        hints = get_type_hints(function)
        result = hints.pop("return")
        fields: dict[str, Any] = {}
        self._groups: list[tuple[slice, type]] = []
        for name, hint in hints.items():
            if hasattr(hint, "_fields"):
                self._groups.append((slice(len(fields), len(fields) + len(hint._fields)), hint))
                fields |= {f"{name}_{field}": own for field, own in get_type_hints(hint).items()}
            else:
                fields[name] = hint
        self.tensors = [
            (place, name) for place, (name, hint) in enumerate(fields.items()) if Tensor in (hint, *get_args(hint))
        ]
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters = [inspect.Parameter(name, kind, annotation=hint) for name, hint in fields.items()]

        def flat() -> None: ...

        flat.__signature__ = inspect.Signature(parameters, return_annotation=result)  # type: ignore[attr-defined]
        self.schema = torch.library.infer_schema(flat, mutates_args=())

    def flat(self, arguments: Sequence[Any]) -> Sequence[Any]:
        """The arguments with the fields of a NamedTuple in its place."""
        flat = list(arguments)
        for own, _ in self._groups:
            flat[own.start : own.start + 1] = flat[own.start]
        return flat

    def grouped(self, flat: Sequence[Any]) -> Sequence[Any]:
        """The reverse of `flat`."""
        arguments, end = [], 0
        for own, kind in self._groups:
            arguments += [*flat[end : own.start], kind(*flat[own])]
            end = own.stop
        return [*arguments, *flat[end:]] if self._groups else flat


class Operator:
    """A function registered as `torch.ops.slimkern.<name>`.

    Calling it goes through PyTorch's dispatcher where somebody there has to know of the call: while tracing or
    compiling, under a mode, a transform or a profiler, for subclasses of tensors. Elsewhere it is a call of the
    function.

    Args:
        name: its name.
        compute: the implementation, for any device; its annotations give the schema. It may take NamedTuples. No result
            shares memory with an argument.
        fake: gives empty results of the right shapes for arguments without data; by default `compute` itself.
    """

    def __init__(self, name: str, compute: Callable[..., Any], fake: Callable[..., Any] | None = None) -> None:
        self.name, self.signature, self._compute = name, Signature(compute), compute
        self._places = [place for place, _ in self.signature.tensors]
        self._node: type[torch.autograd.Function] | None = None
        _LIBRARY.define(name + self.signature.schema, tags=(torch.Tag.pt2_compliant_tag,))
        _LIBRARY.impl(name, self._ungrouped(compute), "CompositeExplicitAutograd")
        torch.library.register_fake(f"slimkern::{name}", self._ungrouped(fake or compute), lib=_LIBRARY)
        self._overload = getattr(torch.ops.slimkern, name).default
        _OPERATORS[self._overload] = self

    def __call__(self, *arguments: Any) -> Any:
        """Call it with arguments and results as `compute` has them."""
        flat = self.signature.flat(arguments)
        tensors = self._tensors(flat)
        if not _is_direct(tensors):
            return self._overload(*flat)
        if not (torch.is_grad_enabled() and torch._C._any_requires_grad(*tensors)):
            return self._compute(*arguments)
        return self._overload(*flat) if self._node is None else self._apply(self._compute, arguments, flat, tensors)

    def directly(self, *flat: Any) -> Any:
        """Compute without a gradient, given plain tensors, in the arguments as PyTorch has them."""
        if _is_watched():
            return self._overload(*flat)
        return self._compute(*self.signature.grouped(flat))

    def differentiate(self, save: Save, gradients: Gradients, again: Gradients | None = None) -> None:
        """Register how its results are differentiated; twice only where `again` is given.

        Args:
            save: takes the arguments as `compute` does, its results, and a node to store on what is needed of them
                (see `torch.autograd.Function`). May mark results as not differentiable.
            gradients: asks `wants` of the node which of them are wanted; what it gives besides is dropped.
            again: the same, by functions that can be differentiated; serves where a backward pass is to have a graph.
        """
        names = [name for _, name in self.signature.tensors]

        class Node(torch.autograd.Function):
            @staticmethod
            def forward(
                ctx: Any,
                compute: Callable[..., Any],
                arguments: Sequence[Any],
                sizes: Sizes,
                result_sizes: Sizes,
                *_: Any,
            ) -> Any:
                results = compute(*arguments)
                save(ctx, arguments, results)
                several = results if isinstance(results, tuple) else (results,)
                result_sizes += _sizes(several)
                ctx.sizes, ctx.result_sizes = sizes, result_sizes
                return _flatten(several)

            @staticmethod
            def backward(ctx: Any, *grads: Tensor | None) -> Any:
                if not torch.is_grad_enabled():
                    return answer(gradients, ctx, *grads)
                return answer_once(ctx, *grads) if again is None else answer(again, ctx, *grads)

        def answer(gradients: Gradients, ctx: Any, *grads: Tensor | None) -> tuple:
            asked = ctx.needs_input_grad[4:]
            ctx.wanted = dict(zip(names, _nest(asked, ctx.sizes), strict=True))
            found = gradients(ctx, *_nest(grads, ctx.result_sizes))
            given: list[Tensor | None] = [None] * 4
            for name, size in zip(names, ctx.sizes, strict=True):
                own = found.get(name)
                given += [own] if size is None else own or [None] * size
            return tuple([own if wanted else None for own, wanted in zip(given, ctx.needs_input_grad, strict=True)])

        answer_once = once_differentiable(partial(answer, gradients))
        # A subclass has the name that graphs show.
        self._node = type("".join(map(str.capitalize, self.name.split("_"))), (Node,), {})
        _LIBRARY.impl(self.name, self._dispatched, "Autograd")

    def _ungrouped(self, function: Callable[..., Any]) -> Callable[..., Any]:
        grouped = self.signature.grouped
        return lambda *flat: function(*grouped(flat))

    def _tensors(self, flat: Sequence[Any]) -> tuple[Tensor | None, ...]:
        return _flatten([flat[place] for place in self._places])

    def _apply(
        self,
        compute: Callable[..., Any],
        arguments: Sequence[Any],
        flat: Sequence[Any],
        tensors: Sequence[Tensor | None],
    ) -> Any:
        assert self._node is not None
        result_sizes: Sizes = []
        sizes = _sizes([flat[place] for place in self._places])
        results = _nest(self._node.apply(compute, arguments, sizes, result_sizes, *tensors), result_sizes)
        return results[0] if len(results) == 1 else tuple(results)

    def _dispatched(self, *flat: Any) -> Any:
        if not (torch.is_grad_enabled() and torch._C._any_requires_grad(*flat)):
            with torch._C._AutoDispatchBelowAutograd():
                return self._overload(*flat)
        return self._apply(self._below_autograd, self.signature.grouped(flat), flat, self._tensors(flat))

    def _below_autograd(self, *arguments: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return self._overload(*self.signature.flat(arguments))


def _is_direct(tensors: Sequence[Tensor | None]) -> bool:
    """Whether PyTorch's dispatcher would do nothing with a call but pass it on."""
    return (
        not torch.compiler.is_compiling()
        and not _is_watched()
        and not torch._C._len_torch_function_stack()
        and not torch._C._are_functorch_transforms_active()
        and not torch._C._get_tracing_state()
        and _PLAIN.issuperset(map(type, tensors))
    )


def _is_watched() -> bool:
    """Whether somebody counts, changes or times the operators that are called."""
    return bool(torch._C._len_torch_dispatch_stack()) or _profiler_enabled()


def called_directly(overload: Any) -> Callable[..., Any]:
    """What computes the same as an operator of PyTorch or of slimkern, past the dispatcher if it can be."""
    own = _OPERATORS.get(overload)
    return overload if own is None else own.directly


def wants(node: Any, *names: str) -> list[bool]:
    """Whether gradients are wanted of arguments, of any in a list, by their names in the schema."""
    return [any(own) if isinstance(own, list) else own for own in map(node.wanted.get, names)]


def _sizes(values: Iterable[Any]) -> Sizes:
    return [len(own) if isinstance(own, _NESTED) else None for own in values]


def _flatten(values: Iterable[Any]) -> tuple[Any, ...]:
    flat = []
    for own in values:
        if isinstance(own, _NESTED):
            flat += own
        else:
            flat.append(own)
    return tuple(flat)


def _nest(flat: Sequence[Any], sizes: Sizes) -> list[Any]:
    """The reverse of `_flatten`, given the sizes of the lists."""
    nested, place = [], 0
    for size in sizes:
        nested.append(flat[place] if size is None else list(flat[place : place + size]))
        place += 1 if size is None else size
    return nested
