"""Which channel axes of a network belong together, and which of them are whole.

Additions, pointwise functions, pooling and batch norms tie the channels of what goes in to those of what comes out;
convolutions and linear layers part them. An axis tied to the network's input (image channels) or output (classes) is
whole; all others can be sliced.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from slimkern.nn.tracing import name_of, trace
from slimkern.slabwise import SLABWISE

_QUERIES = frozenset({"size", "dim", "shape", "ndim", "device", "dtype"})
_SOUND = SLABWISE | {"iadd", "imul", "isub", "itruediv", "truediv"}
_SOUND_MODULES = (
    nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.AlphaDropout, nn.AvgPool2d, nn.CELU, nn.Dropout, nn.Dropout2d,
    nn.ELU, nn.FeatureAlphaDropout, nn.Flatten, nn.GELU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh,
    nn.Identity, nn.LeakyReLU, nn.LPPool2d, nn.MaxPool2d, nn.Mish, nn.RReLU, nn.ReLU, nn.ReLU6, nn.ReflectionPad2d,
    nn.ReplicationPad2d, nn.SELU, nn.Sequential, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Softshrink, nn.Softsign, nn.Tanh,
    nn.Tanhshrink, nn.Upsample, nn.ZeroPad2d,
)  # fmt: skip
_WHOLE = "whole"


@dataclass(frozen=True)
class Axes:
    """Whether the input and the output channels of a layer are whole."""

    whole_in: bool
    whole_out: bool


class _Sets:
    """Disjoint sets of channel axes; each set is named by one of its members."""

    def __init__(self) -> None:
        self._parents: dict[Any, Any] = {}

    def name(self, axis: Any) -> Any:
        while (parent := self._parents.get(axis, axis)) != axis:
            axis = parent
        return axis

    def tie(self, *axes: Any) -> None:
        first, *others = (self.name(axis) for axis in axes)
        for other in others:
            self._parents[other] = first


def find_axes(net: nn.Module, layers: dict[str, nn.Module]) -> tuple[dict[str, Axes], dict[str, str]]:
    """Follow the channels of `net` through its forward pass, traced symbolically by `torch.fx`.

    Args:
        net: the network.
        layers: the layers to classify, by name: convolutions, linear layers and batch norms.

    Returns:
        The axes of each layer; and, by name, what can't be part of a slimmable network and why.

    Raises:
        Exception: whatever `torch.fx` raises where the forward pass depends on its data.
    """
    modules = dict(net.named_modules())
    sets = _Sets()
    numbers: set[fx.Node] = set()
    calls: dict[str, list[fx.Node]] = {}
    doubtful: list[tuple[fx.Node, str, str]] = []
    nodes = trace(net, layers.values())
    for node in nodes:
        inputs = [argument for argument in node.all_input_nodes if argument not in numbers]
        if node.op in ("placeholder", "get_attr", "output"):
            sets.tie(_WHOLE, node, *inputs)
        elif node.op == "call_module" and node.target in layers:
            calls.setdefault(str(node.target), []).append(node)
            called = calls[str(node.target)]
            sets.tie(*(call.all_input_nodes[0] for call in called))
            sets.tie(*called)
            if not _parts(layers[str(node.target)]):
                sets.tie(node, inputs[0])
        elif _is_number(node, inputs):
            numbers.add(node)
            if _counts_channels(node) and node.users:
                doubtful.append((node, node.name, "asks for a number of channels, which sub-networks don't share"))
        else:
            sets.tie(node, *inputs)
            why = _doubt(node, modules)
            if why is not None:
                doubtful.append((node, *why))
    whole = sets.name(_WHOLE)
    axes = {
        name: Axes(sets.name(called[0].all_input_nodes[0]) == whole, sets.name(called[0]) == whole)
        for name, called in calls.items()
    }
    split = _split(nodes, layers, axes)
    obstacles = {name: why for node, name, why in doubtful if not split.isdisjoint(_tensors_behind(node, numbers))}
    obstacles |= {name: "is never reached by the forward pass" for name in layers if name not in calls}
    return axes, obstacles


def _split(nodes: list[fx.Node], layers: dict[str, nn.Module], axes: dict[str, Axes]) -> set[fx.Node]:
    """The nodes at which the sub-networks no longer see one shared tensor."""
    split: set[fx.Node] = set()
    for node in nodes:
        layer = layers.get(str(node.target)) if node.op == "call_module" else None
        parts = layer is not None and (isinstance(layer, nn.BatchNorm2d) or axes[str(node.target)] != Axes(True, True))
        if parts or not split.isdisjoint(node.all_input_nodes):
            split.add(node)
    return split


def _parts(layer: nn.Module) -> bool:
    """Whether the output channels of a layer are others than its input channels; where it has groups, they aren't."""
    return isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)


def _doubt(node: fx.Node, modules: dict[str, nn.Module]) -> tuple[str, str] | None:
    """What slabs can't pass through, by name, and why; None for what they can."""
    if node.op != "call_module":
        name = name_of(node)
        return None if name in _SOUND else (f"{node.name} ({name})", "has no sound meaning for slabs")
    module = modules[str(node.target)]
    name = f"{node.target} ({type(module).__name__})"
    if next(module.parameters(), None) is not None:
        return name, "holds weights and has no slimmable form"
    return None if isinstance(module, _SOUND_MODULES) else (name, "has no sound meaning for slabs")


def _counts_channels(node: fx.Node) -> bool:
    """Whether a node is `x.size(1)`, `x.shape[1]` or the like."""
    if name_of(node) == "getitem":
        return name_of(node.all_input_nodes[0]) in ("getattr", "size") and node.args[1:] == (1,)
    return name_of(node) == "size" and node.args[1:] == (1,)


def _tensors_behind(node: fx.Node, numbers: set[fx.Node]) -> set[fx.Node]:
    """The tensors that a node is computed from, or that its numbers were asked of."""
    return {t for i in node.all_input_nodes for t in (_tensors_behind(i, numbers) if i in numbers else {i})}


def _is_number(node: fx.Node, inputs: list[fx.Node]) -> bool:
    """Whether a node is a size or the like, computed from other numbers or asked of a tensor."""
    asked = node.args[1] if name_of(node) == "getattr" else name_of(node)
    return asked in _QUERIES or (bool(node.all_input_nodes) and not inputs)
