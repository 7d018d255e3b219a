from __future__ import annotations

import numpy as np
import pytest
import torch

from slimkern.continual.methods import FineTuning, Step
from slimkern.continual.network import ContinualNet
from slimkern.models import resnet18
from slimkern.widths import Widths
from tests.continual.few_digits import step_with

CLASSES = range(2, 5)
NET = ContinualNet(resnet18(None, Widths.of(1), in_channels=1, channels=1), Widths.of(1))


def step(logits: torch.Tensor, labels: torch.Tensor) -> Step:
    return step_with(NET, torch.zeros(len(labels), 1, 8, 8), labels, logits, CLASSES, torch.zeros(len(labels), 8))


def test_the_loss_is_the_cross_entropy_of_the_tasks_own_classes() -> None:
    torch.manual_seed(0)
    logits, labels = 3 * torch.randn(6, 7), torch.tensor([2, 3, 4, 4, 2, 3])
    own = logits[:, 2:5].double().numpy()
    log_normaliser = np.log(np.exp(own).sum(1))
    expected = np.mean(log_normaliser - own[np.arange(6), labels.numpy() - 2])
    parts = FineTuning().losses(step(logits, labels))
    assert list(parts) == ["cross-entropy"]
    assert parts["cross-entropy"].item() == pytest.approx(expected, rel=1e-6)


def test_logits_of_other_tasks_get_no_gradient() -> None:
    logits = torch.randn(4, 7, requires_grad=True)
    FineTuning().losses(step(logits, torch.tensor([2, 3, 4, 2])))["cross-entropy"].backward()
    assert logits.grad is not None
    assert (logits.grad[:, :2] == 0).all() and (logits.grad[:, 5:] == 0).all()
    assert (logits.grad[:, 2:5] != 0).all()


def test_it_keeps_nothing_between_tasks() -> None:
    method = FineTuning()
    method.before_task(NET, 0)
    method.after_task(NET, 0, [])
    assert method.state_dict() == {}
