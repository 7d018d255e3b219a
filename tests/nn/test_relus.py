from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models

from slimkern import SwitchableBatchNorm2d, scrollify
from slimkern.models import resnet18


class Net(nn.Module):
    """Two convolutions with batch norms that a function puts together."""

    def __init__(self, together: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)
        self.norm_a, self.norm_b, self.relu = nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.together = together

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.together(self, x))


def add_in_place(n: Any, x: Tensor) -> Tensor:
    y = n.norm_a(n.a(x))
    z = n.norm_b(n.b(y.sigmoid()))
    z += n.a(x)
    return n.relu(z)


def feeding(net: nn.Module) -> list[bool]:
    return [module.feeds_relu for module in net.modules() if isinstance(module, SwitchableBatchNorm2d)]


@pytest.mark.parametrize(
    ("together", "expected"),
    [
        (lambda n, x: n.norm_b(n.b(F.relu(n.norm_a(n.a(x))))), [True, False]),
        (lambda n, x: n.norm_b(n.b(n.relu(n.norm_a(n.a(x))))).relu_(), [True, True]),
        (lambda n, x: F.relu(n.norm_a(n.a(x)) + n.norm_b(n.b(n.a(x)))), [True, True]),
        (lambda n, x: F.silu(n.norm_a(n.a(x)) + n.norm_b(n.b(n.a(x)))), [False, False]),
        (lambda n, x: F.relu(n.norm_a(n.a(x)) + n.norm_b(n.b(n.a(x))) + n.a(x)), [False, False]),
        (lambda n, x: (y := n.norm_a(n.a(x))).relu() * n.norm_b(n.b(y)), [False, False]),
        (lambda n, x: n.norm_a(n.a(n.norm_b(n.b(n.norm_a(n.a(x)).relu())).relu()[:, :3])), [False, True]),
        (add_in_place, [False, True]),
    ],
    ids="relu module_and_method add another two_adds read_twice called_twice in_place".split(),
)
def test_what_nothing_but_a_relu_reads_is_found(
    together: Callable[[Any, Tensor], Tensor], expected: list[bool]
) -> None:
    net = scrollify(Net(together), 2, whole_in=["a"], whole_out=["head"])
    assert feeding(net) == expected


def test_all_batch_norms_of_residual_networks_feed_a_relu() -> None:
    assert all(feeding(scrollify(models.resnet18()))) and all(feeding(resnet18(None, widths=4)))


def test_where_tracing_fails_none_is_told_so() -> None:
    net = Net(lambda n, x: n.norm_b(n.b(F.relu(n.norm_a(n.a(x))))) if x.sum() > 0 else x)
    assert feeding(scrollify(net, 2, whole_in=["a"], whole_out=["head"])) == [False, False]
