from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from slimkern.continual.config import ConfigError
from slimkern.continual.heads import CorrectedHead
from slimkern.continual.methods import BiC
from slimkern.continual.methods.bic import correction_loss
from slimkern.continual.network import ContinualNet
from slimkern.models import resnet18
from slimkern.nn import scroll_to
from slimkern.width_batch import WidthBatch, every_width
from slimkern.widths import Widths
from tests.continual.few_digits import restored, step_of, stored

WIDTHS = Widths.of((0.25, 0.5, 1.0))
IMAGES = torch.randn(10, 1, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
LABELS = torch.arange(10) % 5


@pytest.fixture
def net() -> ContinualNet:
    """A network in its second task, at scroll 1, whose first head has been corrected."""
    torch.manual_seed(0)
    net = BiC().network(resnet18(None, WIDTHS, in_channels=1, channels=4), WIDTHS)
    net.add_head(2)
    net.add_head(3)
    scroll_to(net, task=1)
    first = net.heads[0]
    assert isinstance(first, CorrectedHead)
    first.alpha.copy_(torch.tensor([0.5, 2.0, 3.0]))
    first.beta.copy_(torch.tensor([0.1, 0.2, -0.3]))
    return net.double().eval()


def softmax(logits: NDArray[np.float64], temperature: float = 1.0) -> NDArray[np.float64]:
    powers = np.exp(logits / temperature)
    return powers / powers.sum(1, keepdims=True)


def test_stage_1_weighs_distillation_by_the_share_of_old_classes(net: ContinualNet) -> None:
    teacher = copy.deepcopy(net)
    method = BiC(temperature=3.0)
    method.after_task(net, 1, [])
    torch.manual_seed(1)
    net.add_head(3)
    scroll_to(net.double(), task=2)
    logits, targets = net(IMAGES), teacher(IMAGES)
    assert isinstance(logits, Tensor) and isinstance(targets, Tensor)
    parts = method.losses(step_of(net, IMAGES, LABELS, range(8)))
    own, before = logits.detach().numpy(), targets.detach().numpy()
    distilled = -(softmax(before, 3.0) * np.log(softmax(own[:, :5], 3.0))).sum(1).mean()
    assert parts["cross-entropy"].item() == pytest.approx(
        3 / 8 * -np.log(softmax(own)[range(10), LABELS]).mean(), rel=1e-9
    )
    assert parts["distillation"].item() == pytest.approx(5 / 8 * distilled, rel=1e-9)


def test_stage_2_loses_the_cross_entropy_of_corrected_logits_and_a_pull_on_beta() -> None:
    numbers = torch.Generator().manual_seed(4)
    logits = torch.randn(3, 10, 5, generator=numbers, dtype=torch.float64)
    alpha, beta = torch.randn(2, 3, generator=numbers, dtype=torch.float64)
    expected = 0.0
    for at in range(3):
        corrected = logits[at].numpy().copy()
        corrected[:, 2:] = alpha[at].item() * corrected[:, 2:] + beta[at].item()
        expected += -np.log(softmax(corrected)[range(10), LABELS]).mean() + 0.1 * beta[at].item() ** 2 / 2
    assert correction_loss(logits, LABELS, 3, alpha, beta).item() == pytest.approx(expected, rel=1e-9)


def corrections(net: ContinualNet) -> list[tuple[Tensor, Tensor]]:
    return [(head.alpha.clone(), head.beta.clone()) for head in net.heads]


def raw_logits(net: ContinualNet) -> Tensor:
    """At each width, [S, N, classes], with no correction of the newest head."""
    with torch.no_grad():
        answers = net(every_width(IMAGES))
    assert isinstance(answers, WidthBatch)
    return torch.stack(answers.slabs)


def test_stage_2_finds_each_widths_best_correction_of_the_newest_head_and_changes_nothing_else(
    net: ContinualNet,
) -> None:
    before, logits = corrections(net), raw_logits(net)
    weights = {name: value.clone() for name, value in net.state_dict().items() if "heads.1.alpha" not in name}
    BiC(bias_epochs=2000).after_selection(net, [], [(IMAGES[:7], LABELS[:7]), (IMAGES[7:], LABELS[7:])])
    old, new = corrections(net)
    assert all(torch.equal(own, was) for own, was in zip(old, before[0], strict=True))
    assert new[0].unique().numel() == new[1].unique().numel() == 3
    alpha, beta = (own.clone().requires_grad_() for own in new)
    pull = torch.autograd.grad(correction_loss(logits, LABELS, 3, alpha, beta), [alpha, beta])
    assert all(own.abs().max() < 1e-3 for own in pull)
    changed = {name for name, value in net.state_dict().items() if name in weights and (value != weights[name]).any()}
    assert changed == {"heads.1.beta"}


def test_after_stage_2_new_classes_are_no_longer_preferred(net: ContinualNet) -> None:
    with torch.no_grad():
        net.heads[1].bias += 5
    preferred = raw_logits(net).argmax(-1) >= 2
    BiC().after_selection(net, [], [(IMAGES, LABELS)])
    corrected = raw_logits(net).argmax(-1) >= 2
    assert preferred.all() and corrected.float().mean() < 0.9


def test_the_first_task_is_not_corrected(net: ContinualNet) -> None:
    net.heads = net.heads[:1]
    before = corrections(net)
    BiC().after_selection(net, [], [(IMAGES, LABELS % 2)])
    assert all(torch.equal(own, was) for own, was in zip(corrections(net)[0], before[0], strict=True))


def test_corrections_travel_with_the_teacher_and_the_network(net: ContinualNet) -> None:
    method, loaded = BiC(), BiC()
    method.after_selection(net, [], [(IMAGES, LABELS)])
    method.after_task(net, 1, [])
    other = BiC().network(resnet18(None, WIDTHS, in_channels=1, channels=4), WIDTHS)
    other.add_head(2)
    other.add_head(3)
    other.double().load_state_dict(restored(stored(net.state_dict())))
    loaded.load_state_dict(restored(stored(method.state_dict())), other)
    assert torch.equal(other.eval()(IMAGES), net(IMAGES))
    for one in (method, loaded):
        assert one._teacher is not None and torch.equal(one._teacher(IMAGES), net(IMAGES))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "option temperature=0.0 of BiC must be above 0"),
        ({"held_out": 0.0}, "option held_out=0.0 of BiC must lie between 0 and 1"),
        ({"held_out": 1.0}, "option held_out=1.0 of BiC must lie between 0 and 1"),
        ({"bias_epochs": 0.5}, "option bias_epochs=0.5 of BiC must be a whole number"),
    ],
    ids=str,
)
def test_options_without_meaning_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BiC(**options)
