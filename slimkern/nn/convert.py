"""Turning an ordinary network into a slimmable one that scrolls."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TypeVar

from torch import nn

from slimkern.nn.axes import Axes, find_axes
from slimkern.nn.relus import notice_relus
from slimkern.nn.scroll_conv2d import ScrollConv2d
from slimkern.nn.scroll_layer import ScrollLayer
from slimkern.nn.scroll_linear import ScrollLinear
from slimkern.nn.switchable_batch_norm import SwitchableBatchNorm2d
from slimkern.widths import Widths

Net = TypeVar("Net", bound=nn.Module)


class ConversionError(ValueError):
    """A network has parts that can't be made slimmable; the message names each and says why."""


def scrollify(
    net: Net,
    widths: int | Sequence[float] | Widths = 4,
    *,
    whole_in: Collection[str] | None = None,
    whole_out: Collection[str] | None = None,
    keep: Collection[str] = (),
) -> Net:
    """Swap the convolutions, linear layers and batch norms of `net` for slimmable ones, in place.

    Convolutions and linear layers keep their parameters (the same objects); each batch norm is copied to every width,
    so make optimisers afterwards. The channels of the images and the classes are found by tracing the forward pass with
    `torch.fx`, and stay whole; so does whatever is added to them.

    Args:
        net: the network; left as it was when anything is refused.
        widths: a number of even widths, or ascending fractions that end in 1.0.
        whole_in: names of the layers whose input is whole. Give it, and `whole_out`, where tracing fails.
        whole_out: names of the layers whose output is whole.
        keep: names of modules to leave as they are, with all that is in them.

    Returns:
        `net` itself.

    Raises:
        ConversionError: it can't be traced, or parts of it can't be made slimmable; the message names each and why.
        ValueError: `widths` aren't widths.
    """
    widths = Widths.of(widths)
    candidates = {
        name: module
        for name, module in net.named_modules()
        if name and not any(name == kept or name.startswith(f"{kept}.") for kept in keep)
    }
    _check_names(net, {"whole_in": whole_in or (), "whole_out": whole_out or (), "keep": keep})
    layers = {name: module for name, module in candidates.items() if type(module) in _CONVERSIONS}
    obstacles = {
        name: f"a {type(module).__name__} holds weights and has no slimmable form"
        for name, module in candidates.items()
        if name not in layers and _has_own_weights(module)
    }
    if not layers:
        raise ConversionError(f"{type(net).__name__} holds no Conv2d, Linear or BatchNorm2d to swap{_hint(net)}")
    if whole_in is None and whole_out is None:
        axes, obstacles = _traced(net, layers)
    else:
        axes = {name: Axes(name in (whole_in or ()), name in (whole_out or ())) for name in layers}
    replacements: dict[nn.Module, nn.Module] = {}
    for name, layer in layers.items():
        if name in obstacles:
            continue
        if layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks:
            obstacles[name] = "has hooks, which would be lost"
            continue
        try:
            replacements[layer] = _convert(layer, widths, axes[name])
        except ValueError as error:
            obstacles[name] = str(error)
    if obstacles:
        reasons = dict.fromkeys(obstacles.values())
        listed = "\n".join(f"  {', '.join(n for n in obstacles if obstacles[n] == why)}: {why}" for why in reasons)
        raise ConversionError(
            f"{type(net).__name__} can't be made slimmable at widths {widths.fractions}; nothing was changed:\n{listed}"
        )
    for parent in list(net.modules()):
        for name, child in parent._modules.items():
            if child in replacements:
                parent._modules[name] = replacements[child]
    notice_relus(net)
    return net


_CONVERSIONS = {nn.Conv2d, nn.Linear, nn.BatchNorm2d}


def _convert(layer: nn.Module, widths: Widths, axes: Axes) -> nn.Module:
    if isinstance(layer, nn.Conv2d):
        return ScrollConv2d.from_parent(layer, widths, axes.whole_in, axes.whole_out)
    if isinstance(layer, nn.Linear):
        return ScrollLinear.from_parent(layer, widths, axes.whole_in, axes.whole_out)
    assert isinstance(layer, nn.BatchNorm2d)
    return SwitchableBatchNorm2d.from_parent(layer, widths, whole=axes.whole_out)


def _traced(net: nn.Module, layers: dict[str, nn.Module]) -> tuple[dict[str, Axes], dict[str, str]]:
    try:
        return find_axes(net, layers)
    except Exception as error:  # torch.fx raises whatever the traced code does
        raise ConversionError(
            f"the forward pass of {type(net).__name__} can't be traced ({error}); name the layers at its ends instead: "
            "scrollify(net, whole_in=['stem'], whole_out=['head'])"
        ) from error


def _hint(net: nn.Module) -> str:
    if any(isinstance(module, (ScrollLayer, SwitchableBatchNorm2d)) for module in net.modules()):
        return "; it is slimmable already"
    if type(net) in _CONVERSIONS:
        return "; it is such a layer itself: use the from_parent of its slimmable form"
    return ""


def _has_own_weights(module: nn.Module) -> bool:
    slimmable = isinstance(module, (ScrollLayer, SwitchableBatchNorm2d))
    return not slimmable and next(module.parameters(recurse=False), None) is not None


def _check_names(net: nn.Module, arguments: dict[str, Collection[str]]) -> None:
    names = dict(net.named_modules())
    for argument, given in arguments.items():
        if isinstance(given, str):
            raise ConversionError(f"{argument}={given!r} must be a collection of names, not one string")
        unknown = [name for name in given if name not in names]
        if unknown:
            raise ConversionError(f"{argument}={unknown}: {type(net).__name__} has no such modules")
