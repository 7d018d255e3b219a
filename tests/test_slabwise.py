from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from slimkern.slabwise import SLABWISE
from slimkern.width_batch import WidthBatch

WIDTHS = (0.5, 1.0)
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(["add", "add_", "div", "div_", "mul", "mul_", "sub", "sub_", "true_divide", "rsub", "pow"], (2,)),
    **dict.fromkeys(["clamp", "clamp_", "clip"], (0.2, 0.7)),
    **dict.fromkeys(["dropout", "dropout2d", "dropout_", "alpha_dropout", "feature_dropout"], (0.5, True)),
    **dict.fromkeys(["adaptive_avg_pool2d", "adaptive_max_pool2d"], (1,)),
    **dict.fromkeys(["avg_pool2d", "max_pool2d"], ((2, 1),)),
    "lp_pool2d": (2, (2, 1)),
    **dict.fromkeys(["interpolate", "upsample"], (None, 2)),
    "pad": ([1, 0, 0, 2],),
    "flatten": (1,),
    **dict.fromkeys(["reshape", "view"], ((2, -1),)),
    "squeeze": (3,),
    **dict.fromkeys(["amax", "mean", "sum"], ((2, 3),)),
    **dict.fromkeys(["log_softmax", "softmax"], (1,)),
    "normalize": (2.0, 1),
    "cross_entropy": (torch.zeros(2, 4, 1, dtype=torch.long),),
    **dict.fromkeys(["to", "type"], (torch.float64,)),
}


def slabs(seed: int = 0) -> list[Tensor]:
    torch.manual_seed(seed)
    return [torch.rand(2, 2, 4, 1), torch.rand(2, 4, 4, 1)]


def spellings() -> Iterator[Any]:
    """Every answered function, as a function of torch, of torch.nn.functional, and as a method."""
    for name in sorted(SLABWISE):
        for place, namespace in {"torch": torch, "F": F, "Tensor": Tensor}.items():
            function = getattr(namespace, name, None)
            if callable(function):
                method = namespace is Tensor
                yield pytest.param(called(name) if method else function, ARGUMENTS.get(name, ()), id=f"{place}.{name}")


def called(name: str) -> Callable[..., Any]:
    return lambda x, *arguments: getattr(x, name)(*arguments)


def test_arguments_are_of_answered_functions() -> None:
    assert set(ARGUMENTS) <= SLABWISE


@pytest.mark.filterwarnings("ignore:.*upsample.* is deprecated")
@pytest.mark.parametrize(("function", "arguments"), list(spellings()))
def test_acts_on_each_slab_alone(function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    batch = WidthBatch(slabs(), WIDTHS)
    torch.manual_seed(1)
    results = function(batch, *arguments)
    alone = slabs()
    torch.manual_seed(1)
    expected = [function(slab, *arguments) for slab in alone]
    assert isinstance(results, WidthBatch) and results.widths == WIDTHS
    torch.testing.assert_close(list(results.slabs), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (lambda x: torch.cat([x, x]), "cat of a list"),
        (lambda x: torch.stack([x]), "stack of a list"),
        (lambda x: torch.max(x), "max"),
        (lambda x: torch.permute(x, (0, 2, 3, 1)), "permute"),
        (lambda x: x.permute(0, 2, 3, 1), "Tensor.permute"),
        (lambda x: x.chunk(2, 1), "Tensor.chunk"),
        (lambda x: F.conv2d(x, torch.ones(2, 2, 1, 1)), "conv2d"),
        (lambda x: F.linear(x, torch.ones(2, 1)), "linear"),
        (lambda x: F.group_norm(x, 2), "group_norm"),
        (lambda x: F.layer_norm(x, (1,)), "layer_norm"),
        (lambda x: F.prelu(x, torch.ones(2)), "prelu"),
        (lambda x: x.requires_grad, "Tensor.requires_grad"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_functions_are_refused_by_name(function: Callable[..., Any], named: str) -> None:
    with pytest.raises(TypeError, match=f"^{named}.* has no sound meaning for the slabs of a WidthBatch"):
        function(WidthBatch(slabs(), WIDTHS))


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (lambda x: x + torch.ones(4, 1, 1), "add .* the tensor has 4 channels"),
        (lambda x: torch.ones(2, 4, 4, 1) * x, "mul .* the tensor has 4 channels"),
        (lambda x: x.view(-1), "view made"),
        (lambda x: x.view(4, -1), "view made"),
        (lambda x: x.flatten(0, 1), "flatten made"),
        (lambda x: F.pad(x, [0, 0, 0, 0, 1, 1]), "pad made"),
    ],
    ids=["add_channels", "multiply_channels", "view_flat", "view_batch", "flatten_batch", "pad_channels"],
)
def test_what_would_move_or_mix_channels_is_refused(function: Callable[..., Any], named: str) -> None:
    with pytest.raises(TypeError, match=named):
        function(WidthBatch(slabs(), WIDTHS))


@pytest.mark.parametrize(
    "partner",
    [2, torch.tensor(2.0), torch.rand(4, 1), torch.rand(2, 1, 4, 1)],
    ids=["number", "scalar", "image", "mask"],
)
def test_partners_without_channels_meet_every_slab(partner: Any) -> None:
    results = WidthBatch(slabs(), WIDTHS) * partner
    torch.testing.assert_close(list(results.slabs), [slab * partner for slab in slabs()], rtol=0, atol=0)
