from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from slimkern.continual.methods import MAS
from slimkern.continual.network import ContinualNet
from slimkern.models import resnet18
from slimkern.nn import scroll_to
from slimkern.widths import Widths
from tests.continual.few_digits import restored, step_of, stored

Batches = list[tuple[Tensor, Tensor]]


@pytest.fixture
def net() -> ContinualNet:
    """Two heads, at scroll 1, in float64."""
    torch.manual_seed(0)
    net = ContinualNet(resnet18(None, Widths.of(4), in_channels=1, channels=4), Widths.of(4))
    net.add_head(2)
    net.add_head(3)
    scroll_to(net, task=1)
    return net.double()


def batches(sizes: list[int], seed: int = 5) -> Batches:
    numbers = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(size, 1, 8, 8, generator=numbers, dtype=torch.float64), torch.zeros(size, dtype=torch.int64))
        for size in sizes
    ]


def by_hand(net: ContinualNet, full: Batches) -> dict[str, NDArray[np.float64]]:
    """|gradient of the mean length of the logits| * B, over all images; the length's gradient is logits / length."""
    total = {name: np.zeros(weight.shape) for name, weight in net.backbone.named_parameters()}
    for images, _ in full:
        net.train().zero_grad()
        logits = net(images)
        assert isinstance(logits, Tensor)
        direction = logits.detach().numpy() / np.sqrt((logits.detach().numpy() ** 2).sum(1, keepdims=True))
        logits.backward(torch.from_numpy(direction / len(images)))
        for name, weight in net.backbone.named_parameters():
            if weight.grad is not None:
                total[name] += np.abs(weight.grad.numpy()) * len(images)
    net.zero_grad()
    return {name: sums / sum(len(images) for images, _ in full) for name, sums in total.items()}


def losses(method: MAS, net: ContinualNet) -> dict[str, Tensor]:
    (images, _) = batches([3])[0]
    return method.losses(step_of(net, images, torch.tensor([2, 3, 4]), range(2, 5)))


def test_importance_is_the_gradient_of_the_length_of_the_logits(net: ContinualNet) -> None:
    method = MAS()
    method.after_task(net, 0, batches([4, 4, 3]))
    expected = by_hand(net, batches([4, 4]))
    found = method.state_dict()["importance"]
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name].numpy(), values, rtol=1e-9, atol=1e-14, err_msg=name)
    assert any(values.any() for values in expected.values())


def test_importance_averages_over_tasks(net: ContinualNet) -> None:
    first, second = (by_hand(net, batches([4], seed)) for seed in (5, 6))
    method = MAS(alpha=0.25)
    for task, seed in enumerate((5, 6)):
        method.after_task(net, task, batches([4], seed))
    for name, found in method.state_dict()["importance"].items():
        expected = 0.25 * first[name] + 0.75 * second[name]
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-14, err_msg=name)


def test_the_penalty_is_half_the_strength_times_the_weighted_squares(net: ContinualNet) -> None:
    method = MAS(strength=7.0)
    method.after_task(net, 0, batches([4]))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    state = method.state_dict()
    terms = [
        (state["importance"][name] * (weight - state["anchor"][name]) ** 2).sum().item()
        for name, weight in net.backbone.named_parameters()
    ]
    parts = losses(method, net)
    assert list(parts) == ["cross-entropy", "penalty"]
    assert parts["penalty"].item() == pytest.approx(3.5 * sum(terms), rel=1e-9) and parts["penalty"] > 0


def test_stored_and_loaded_it_loses_the_same(net: ContinualNet) -> None:
    method, loaded = MAS(), MAS()
    method.after_task(net, 0, batches([4]))
    loaded.load_state_dict(restored(stored(method.state_dict())), net)
    with torch.no_grad():
        net.backbone.conv1.weight += 1
    expected, found = losses(method, net), losses(loaded, net)
    assert all(torch.equal(found[name], part) for name, part in expected.items()) and len(found) == 2
