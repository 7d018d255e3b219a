"""The scroll of a whole network."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from slimkern.nn.scroll_layer import ScrollLayer


def scroll_to(net: nn.Module, task: int, step: int = 1) -> int:
    """Re-rank the weights of `net` for `task`: scroll every layer to (task * step) mod blocks.

    Equation 5 of ScrollNet with a constant step: the block that was most important for the last task becomes the least
    important. Weights stay where they are; only the indices that they are read through move.

    Args:
        net: a network with scrolling layers.
        task: number of the task, from 0.
        step: blocks to scroll by from one task to the next; 0 keeps the ranking of the first task.

    Returns:
        The scroll, in blocks.

    Raises:
        ValueError: `task` or `step` is negative, or `net` has no scrolling layer.
    """
    if task < 0 or step < 0:
        raise ValueError(f"task={task} and step={step} must not be negative")
    return set_scroll(net, task * step)


def set_scroll(net: nn.Module, scroll: int) -> int:
    """Roll the ranking of every layer of `net` to `scroll`, taken modulo the number of blocks.

    For rankings that follow no constant step; otherwise as `scroll_to`.

    Args:
        net: a network with scrolling layers.
        scroll: the block that is to be the most important one.

    Returns:
        The scroll, in blocks.

    Raises:
        ValueError: `net` has no scrolling layer.
    """
    layers = list(_scroll_layers(net))
    for layer in layers:
        layer.scroll = scroll % layer.widths.blocks
    return layers[0].scroll


def current_scroll(net: nn.Module) -> int:
    """The scroll of `net`, in blocks.

    Raises:
        ValueError: `net` has no scrolling layer, or its layers disagree.
    """
    scrolls = {layer.scroll for layer in _scroll_layers(net)}
    if len(scrolls) > 1:
        raise ValueError(f"the layers of this network are at different scrolls: {sorted(scrolls)}")
    return scrolls.pop()


def _scroll_layers(net: nn.Module) -> Iterator[ScrollLayer]:
    layers = [module for module in net.modules() if isinstance(module, ScrollLayer)]
    if not layers:
        raise ValueError(f"{type(net).__name__} has no scrolling layer; convert it with slimkern.scrollify first")
    return iter(layers)
