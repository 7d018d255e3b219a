"""The forward pass of a network as a graph."""

from __future__ import annotations

from collections.abc import Iterable

from torch import fx, nn


class _Tracer(fx.Tracer):
    """Stops at the modules of torch, and at given ones."""

    def __init__(self, leaves: set[nn.Module]) -> None:
        super().__init__()
        self._leaves = leaves

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return m in self._leaves or super().is_leaf_module(m, module_qualified_name)


def trace(net: nn.Module, leaves: Iterable[nn.Module]) -> list[fx.Node]:
    """The calls of the forward pass of `net` in order, traced symbolically; modules of torch and `leaves` are one call.

    Raises:
        Exception: whatever `torch.fx` raises where the forward pass depends on its data.
    """
    return list(_Tracer(set(leaves)).trace(net).nodes)


def name_of(node: fx.Node) -> str:
    """The name of the function or method that a node calls, or of the module as the network knows it."""
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
