from __future__ import annotations

import pytest
import torch

from slimkern.continual.data import IMAGE_SHAPES, load
from slimkern.experiments.analysis.cost import Shape, cost_table, costs
from slimkern.models import resnet18

SHAPE = Shape("digits", 8, (0.25, 0.5, 1.0), (3, 2))


def by_hand(channels: int, classes: int, side: int = 8) -> int:
    """Multiply-adds of ResNet-18 with its 3x3 stem, layer by layer."""
    total, inputs = side**2 * 9 * channels, channels
    for stage in range(4):
        outputs, stride = channels * 2**stage, 1 + (stage > 0)
        side = -(-side // stride)
        first = inputs * outputs * 9 + (inputs * outputs if stride > 1 else 0)
        total += side**2 * (first + 3 * 9 * outputs**2)
        inputs = outputs
    return total + inputs * classes


def test_multiply_adds_are_those_of_the_layers() -> None:
    found = costs(SHAPE, (), 0, "cpu")
    assert [cost.width for cost in found] == [0.25, 0.5, 1.0]
    assert [cost.multiply_adds for cost in found] == [by_hand(channels, 5) for channels in (2, 4, 8)]


def test_parameters_are_those_of_an_ordinary_network_of_that_size() -> None:
    for cost, channels in zip(costs(SHAPE, (), 0, "cpu"), (2, 4, 8), strict=True):
        ordinary = resnet18(5, None, in_channels=1, channels=channels)
        # Two heads have two biases' worth of classes, one head as many.
        assert cost.parameters == sum(parameter.numel() for parameter in ordinary.parameters())


@pytest.mark.parametrize(("method", "beside_weights"), [("ft", 5), ("ewc", 5), ("bic", 5), ("lucir", 1)])
def test_the_network_is_the_methods(method: str, beside_weights: int) -> None:
    """LUCIR's heads have no biases, and one factor for all of their cosines."""
    config = {"data": "digits", "channels": 8, "widths": [0.25, 0.5, 1.0], "method": method}
    shape = Shape.of(config, (3, 2))
    assert str(shape) == "digits, 8 channels" + {"bic": ", BiC", "lucir": ", LUCIR"}.get(method, "")
    backbone = sum(parameter.numel() for parameter in resnet18(None, None, 1, 4).parameters())
    (cost,) = costs(shape, [0.5], 1, "cpu")
    assert (cost.parameters, cost.multiply_adds) == (backbone + 5 * 32 + beside_weights, by_hand(4, 5))


def test_latency_is_measured_for_the_widths_asked_for() -> None:
    (cost,) = costs(SHAPE, [0.5], 2, "cpu")
    assert cost.milliseconds is not None
    median, low, high = cost.milliseconds
    assert 0 < low <= median <= high


def test_a_table_compares_with_the_whole_network() -> None:
    table = cost_table([SHAPE], [0.5], 0, "cpu")
    name, width, multiply_adds, share, parameters, *_ = table.rows[0]
    whole = costs(SHAPE, [1.0], 0, "cpu")[0]
    assert (name, width) == ("digits, 8 channels", "0.5") and isinstance(parameters, int)
    assert isinstance(multiply_adds, int) and str(share) == f"{100 * multiply_adds / whole.multiply_adds:.2f}"
    assert "n/a" in table.markdown()


def test_image_shapes_are_those_of_the_data() -> None:
    pytest.importorskip("sklearn")
    assert tuple(load("digits").train.images.shape[1:]) == IMAGE_SHAPES["digits"]
    assert torch.zeros(IMAGE_SHAPES["cifar100"]).numel() == 3072
