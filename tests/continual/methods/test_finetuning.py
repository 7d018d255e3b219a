from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from slimkern.continual.heads import CorrectedHead
from slimkern.continual.methods import FineTuning, Step
from slimkern.continual.network import ContinualNet
from slimkern.models import resnet18
from slimkern.nn import ScrollLinear
from slimkern.width_batch import WidthBatch
from slimkern.widths import Widths
from tests.continual.few_digits import step_of

CLASSES = range(2, 5)


@pytest.fixture(params=[ScrollLinear, CorrectedHead], ids=["one operator", "plain torch"])
def net(request: pytest.FixtureRequest) -> ContinualNet:
    """Its 8 features are the logits of its heads, of 2, 3 and 3 classes, in float64."""
    net = ContinualNet(resnet18(None, Widths.of(1), in_channels=1, channels=1), Widths.of(1), request.param).double()
    for classes in (2, 3, 3):
        net.add_head(classes)
    with torch.no_grad():
        for head, rows in zip(net.heads, torch.eye(8, dtype=torch.float64).split([2, 3, 3]), strict=True):
            head.weight.copy_(rows)
            head.bias.zero_()
    return net


def step(net: ContinualNet, logits: Tensor, labels: Tensor) -> Step:
    maps = WidthBatch([logits[:, :, None, None]], (1.0,))
    return step_of(net, torch.zeros(len(labels), 1, 8, 8), labels, CLASSES, maps)


def test_the_loss_is_the_cross_entropy_of_the_tasks_own_classes(net: ContinualNet) -> None:
    torch.manual_seed(0)
    logits, labels = 3 * torch.randn(6, 8, dtype=torch.float64), torch.tensor([2, 3, 4, 4, 2, 3])
    own = logits[:, 2:5].numpy()
    log_normaliser = np.log(np.exp(own).sum(1))
    expected = np.mean(log_normaliser - own[np.arange(6), labels.numpy() - 2])
    parts = FineTuning().losses(step(net, logits, labels))
    assert list(parts) == ["cross-entropy"]
    assert parts["cross-entropy"].item() == pytest.approx(expected, rel=1e-9)


def test_logits_of_other_tasks_get_no_gradient(net: ContinualNet) -> None:
    logits = torch.randn(4, 8, dtype=torch.float64, requires_grad=True)
    FineTuning().losses(step(net, logits, torch.tensor([2, 3, 4, 2])))["cross-entropy"].backward()
    assert logits.grad is not None
    assert (logits.grad[:, :2] == 0).all() and (logits.grad[:, 5:] == 0).all()
    assert (logits.grad[:, 2:5] != 0).all()


def test_it_keeps_nothing_between_tasks(net: ContinualNet) -> None:
    method = FineTuning()
    method.before_task(net, 0)
    method.after_task(net, 0, [])
    assert method.state_dict() == {}
