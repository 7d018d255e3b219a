from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slimkern.nn.axes import Axes, find_axes

SLICED, WHOLE = Axes(False, False), Axes(True, True)
STEM, HEAD = Axes(True, False), Axes(False, True)


class Net(nn.Module):
    """Layers a, b, c of eight channels that a function puts together."""

    def __init__(self, together: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.depthwise, self.norm = nn.Conv2d(8, 8, 1, groups=8), nn.BatchNorm2d(8)
        self.offset, self.together = nn.Parameter(torch.zeros(1, 8, 1, 1)), together

    def forward(self, x: Tensor) -> Any:
        return self.together(self, x)


def axes_of(together: Callable[[Any, Tensor], Any], names: str) -> tuple[dict[str, Axes], dict[str, str]]:
    net = Net(together)
    return find_axes(net, {name: net.get_submodule(name) for name in names.split()})


@pytest.mark.parametrize(
    ("together", "expected"),
    [
        (lambda n, x: n.c(n.b(n.a(x))), {"a": STEM, "b": SLICED, "c": HEAD}),
        (lambda n, x: n.a(x), {"a": WHOLE}),
        (lambda n, x: n.c(n.b(n.a(x)).relu() + n.a(x)), {"a": STEM, "b": SLICED, "c": HEAD}),
        (lambda n, x: n.c(n.b(n.a(x)) + x), {"a": STEM, "b": HEAD, "c": WHOLE}),
        (lambda n, x: (n.c(n.b(n.a(x))), n.b(n.a(x))), {"a": STEM, "b": HEAD, "c": WHOLE}),
        (lambda n, x: n.c(n.b(n.a(x)) * n.offset), {"a": STEM, "b": HEAD, "c": WHOLE}),
        (lambda n, x: n.b(n.norm(n.a(x))), {"a": STEM, "norm": SLICED, "b": HEAD}),
        (lambda n, x: n.b(n.a(n.norm(x))), {"norm": WHOLE, "a": STEM, "b": HEAD}),
        (lambda n, x: n.b(n.depthwise(n.a(x))), {"a": STEM, "depthwise": SLICED, "b": HEAD}),
        (lambda n, x: n.a(n.depthwise(x)), {"depthwise": WHOLE, "a": WHOLE}),
        (lambda n, x: n.c(n.b(n.b(n.a(x)))), {"a": STEM, "b": SLICED, "c": HEAD}),
        (lambda n, x: n.a(n.a(x)), {"a": WHOLE}),
        (lambda n, x: n.b(n.a(x).reshape(x.size(0), -1, x.shape[2] // 1, 1)), {"a": STEM, "b": HEAD}),
    ],
    ids="chain alone shortcut shortcut_of_the_input second_output parameter norm norm_first depthwise "
    "depthwise_first used_twice used_as_stem_and_head sizes".split(),
)
def test_axes_tied_to_the_ends_are_whole(together: Callable[[Any, Tensor], Any], expected: dict[str, Axes]) -> None:
    axes, obstacles = axes_of(together, " ".join(expected))
    assert axes == expected
    assert obstacles == {}


@pytest.mark.parametrize(
    ("together", "names", "obstacles"),
    [
        (lambda n, x: n.b(n.a(x).permute(0, 1, 3, 2)), "a b", {"permute (permute)": "has no sound meaning for slabs"}),
        (lambda n, x: n.b(torch.sort(n.a(x))[0]), "a b", {"sort (sort)": "has no sound meaning for slabs"}),
        (lambda n, x: n.c(n.b(n.a(x))), "a c", {"b (Conv2d)": "holds weights and has no slimmable form"}),
        (lambda n, x: n.a(x), "a b", {"b": "is never reached by the forward pass"}),
    ],
    ids=["method", "function", "module", "unreached"],
)
def test_what_cannot_act_on_slabs_is_named(
    together: Callable[[Any, Tensor], Any], names: str, obstacles: dict[str, str]
) -> None:
    assert obstacles.items() <= axes_of(together, names)[1].items()


def test_before_the_first_sliced_layer_anything_goes() -> None:
    axes, obstacles = axes_of(lambda n, x: n.b(n.a(n.c(x.permute(0, 1, 3, 2)).flip(3))), "a b")
    assert axes == {"a": STEM, "b": HEAD} and obstacles == {}
