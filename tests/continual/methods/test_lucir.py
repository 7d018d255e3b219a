from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from slimkern.continual.config import ConfigError
from slimkern.continual.methods import LUCIR, Step
from slimkern.continual.methods.lucir import less_forget, margin_ranking
from slimkern.continual.network import ContinualNet
from slimkern.models import resnet18
from slimkern.nn import scroll_to
from slimkern.widths import Widths
from tests.continual.few_digits import restored, step_of, stored

WIDTHS = Widths.of(4)
IMAGES = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
LABELS = torch.tensor([0, 3, 4, 1, 3, 2])
OLD = 2


@pytest.fixture
def net() -> ContinualNet:
    """A network after its first task of two classes, at scroll 0."""
    torch.manual_seed(0)
    net = LUCIR().network(resnet18(None, WIDTHS, in_channels=1, channels=4), WIDTHS)
    net.add_head(OLD)
    return net.double().eval()


def start_second_task(net: ContinualNet) -> None:
    torch.manual_seed(1)
    net.add_head(3)
    scroll_to(net.double(), task=1)


def step(net: ContinualNet) -> Step:
    return step_of(net, IMAGES, LABELS, range(5))


def test_the_loss_is_that_of_equation_9(net: ContinualNet) -> None:
    teacher = copy.deepcopy(net)
    method = LUCIR(strength=4.0, margin_strength=2.0, margin=0.6, hard_negatives=2)
    method.after_task(net, 0, [])
    start_second_task(net)
    with torch.no_grad():
        net.scale.factor.fill_(3.0)
        for parameter in net.backbone.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    parts = method.losses(step(net))
    with torch.no_grad():
        new, old = net.backbone(IMAGES).numpy(), teacher.backbone(IMAGES).numpy()
    channels = new.shape[1]
    new = new[:, [(channel - channels // 4) % channels for channel in range(channels)]]  # position to stored channel
    weight = torch.cat([head.weight for head in net.heads]).detach().numpy()
    cosines = new @ weight.T / np.linalg.norm(new, axis=1)[:, None] / np.linalg.norm(weight, axis=1)
    powers = np.exp(3 * cosines)
    cross_entropy = -np.log((powers / powers.sum(1, keepdims=True))[range(6), LABELS]).mean()
    apart = 1 - (new * old).sum(1) / np.linalg.norm(new, axis=1) / np.linalg.norm(old, axis=1)
    hinges = [
        max(0, 0.6 - cosines[row, label] + rival)
        for row, label in enumerate(LABELS.tolist())
        if label < OLD
        for rival in sorted(cosines[row, OLD:])[-2:]
    ]
    assert list(parts) == ["cross-entropy", "less-forget", "margin ranking"] and len(hinges) == 4
    assert parts["cross-entropy"].item() == pytest.approx(cross_entropy, rel=1e-9)
    assert parts["less-forget"].item() == pytest.approx(4 * math.sqrt(2 / 3) * apart.mean(), rel=1e-9)
    assert parts["margin ranking"].item() == pytest.approx(2 * np.mean(hinges), rel=1e-9)


def test_scrolling_alone_forgets_no_feature(net: ContinualNet) -> None:
    """At full width a scroll only renames channels, but for the batch norms, which here are all alike."""
    method = LUCIR()
    method.after_task(net, 0, [])
    start_second_task(net)
    assert method.losses(step(net))["less-forget"].item() == pytest.approx(0, abs=1e-12)
    now, teacher = step(net), method._teacher
    assert teacher is not None and less_forget(now.features, teacher.backbone(IMAGES)) > 0.1


def test_margin_ranking_by_hand() -> None:
    cosines = torch.tensor([[0.9, 0.1, 0.2, 0.3, 0.0], [0.5, 0.2, 0.4, -0.1, 0.1], [0.0, 0.0, 0.0, 0.0, 1.0]])
    labels = torch.tensor([0, 1, 4])
    first = (0.5 - 0.9 + 0.3, 0.5 - 0.9 + 0.2)
    second = (0.5 - 0.2 + 0.4, 0.5 - 0.2 + 0.1)
    expected = sum(max(0, hinge) for hinge in (*first, *second)) / 4
    assert margin_ranking(cosines, labels, OLD, 0.5, 2).item() == pytest.approx(expected)
    most = margin_ranking(cosines, labels, OLD, 0.5, 7).item()
    assert most == pytest.approx(sum(max(0, hinge) for hinge in (*first, 0.5 - 0.9, *second, 0.5 - 0.2 - 0.1)) / 6)
    assert margin_ranking(cosines[2:], labels[2:], OLD, 0.5, 2).item() == 0


def test_features_have_both_signs_and_old_heads_are_frozen(net: ContinualNet) -> None:
    start_second_task(net)
    features = step(net).features
    assert (features < 0).any() and (features > 0).any()
    for rehearsing in (True, False):
        assert LUCIR().frozen(net, rehearsing) == [net.heads[0]]
    learned = {name for name, _ in net.named_parameters()}
    assert {"scale.factor", "heads.1.weight"} <= learned and "heads.0.bias" not in learned


def test_the_gradient_reaches_the_network_and_the_factor_but_not_the_teacher(net: ContinualNet) -> None:
    method = LUCIR()
    method.after_task(net, 0, [])
    start_second_task(net)
    parts = method.losses(step(net))
    ranking = torch.autograd.grad(parts["margin ranking"], net.scale.factor, retain_graph=True, allow_unused=True)[0]
    assert ranking is None or ranking.item() == pytest.approx(0, abs=1e-12)
    torch.stack(list(parts.values())).sum().backward()
    reached = {name for name, weight in net.named_parameters() if weight.grad is not None and weight.grad.any()}
    assert {"scale.factor", "heads.0.weight", "heads.1.weight", "backbone.conv1.weight"} <= reached
    assert method._teacher is not None
    assert all(parameter.grad is None for parameter in method._teacher.parameters())


def test_stored_and_loaded_it_loses_the_same(net: ContinualNet) -> None:
    method, loaded = LUCIR(), LUCIR()
    method.after_task(net, 0, [])
    data = stored(method.state_dict())
    start_second_task(net)
    loaded.load_state_dict(restored(data), net)
    expected, found = method.losses(step(net)), loaded.losses(step(net))
    assert all(torch.equal(found[name], part) for name, part in expected.items()) and len(found) == 3


@pytest.mark.parametrize("count", [0.0, 1.5])
def test_hard_negatives_are_counted(count: float) -> None:
    with pytest.raises(ConfigError, match=f"option hard_negatives={count} of LUCIR must be a whole number above 0"):
        LUCIR(hard_negatives=count)


def test_a_batch_norm_that_differs_between_channels_shows_in_the_features(net: ContinualNet) -> None:
    """The other side of the test above: batch norms belong to positions, so less-forget has something to hold."""
    with torch.no_grad():
        norm = net.backbone.bn1
        norm.weight += torch.randn(norm.weight.shape)
    method = LUCIR()
    method.after_task(net, 0, [])
    start_second_task(net)
    assert method.losses(step(net))["less-forget"] > 1e-3


def test_by_channel_undoes_the_scroll(net: ContinualNet) -> None:
    features: Tensor = torch.arange(32.0)[None]
    assert torch.equal(net.by_channel(features), features)
    scroll_to(net, task=3)
    by_channel = net.by_channel(features)[0]
    assert all(by_channel[(position + 24) % 32] == position for position in range(32))
