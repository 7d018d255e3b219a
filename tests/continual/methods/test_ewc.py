from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from slimkern.continual.config import Protocol, TrainConfig
from slimkern.continual.methods import EWC, Method, make_method
from slimkern.continual.network import ContinualNet
from slimkern.models import resnet18
from slimkern.nn import scroll_to
from slimkern.widths import Widths
from tests.continual.few_digits import restored, step_of, stored

IMAGES = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
LABELS = torch.tensor([2, 3, 4])
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


def batches(seed: int, sizes: Sequence[int]) -> Batches:
    numbers = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(size, 1, 8, 8, generator=numbers, dtype=torch.float64), torch.zeros(size, dtype=torch.int64))
        for size in sizes
    ]


def backbone(net: ContinualNet) -> Iterator[tuple[str, torch.nn.Parameter]]:
    return net.backbone.named_parameters()


def facils_fisher(net: ContinualNet, full: Batches) -> dict[str, NDArray[np.float64]]:
    """F += (gradient of the batch's mean loss)^2 * B over full batches, divided by the images in them."""
    total = {name: np.zeros(weight.shape) for name, weight in backbone(net)}
    for images, _ in full:
        net.train().zero_grad()
        logits = net(images)
        assert isinstance(logits, Tensor)
        predicted = [max(range(5), key=row.__getitem__) for row in logits.tolist()]
        F.cross_entropy(logits, torch.tensor(predicted)).backward()
        for name, weight in backbone(net):
            if weight.grad is not None:
                total[name] += weight.grad.numpy() ** 2 * len(images)
    net.zero_grad()
    return {name: sums / sum(len(images) for images, _ in full) for name, sums in total.items()}


def assert_fisher(method: Method, expected: dict[str, NDArray[np.float64]]) -> None:
    fisher = method.state_dict()["importance"]
    assert fisher.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(fisher[name].numpy(), values, rtol=1e-9, atol=1e-14, err_msg=name)


@torch.no_grad()
def nudge(net: ContinualNet, seed: int = 1) -> None:
    torch.manual_seed(seed)
    for parameter in net.parameters():
        parameter += 0.05 * torch.randn_like(parameter)


def losses(method: Method, net: ContinualNet) -> dict[str, Tensor]:
    return method.losses(step_of(net, IMAGES, LABELS, range(2, 5)))


def expected_penalty(method: Method, net: ContinualNet, strength: float) -> float:
    state = method.state_dict()
    terms = [
        (state["importance"][name] * (weight.detach() - state["anchor"][name]) ** 2).sum()
        for name, weight in backbone(net)
    ]
    return strength / 2 * float(sum(terms))


def test_fisher_is_facils_squares_of_batch_gradients(net: ContinualNet) -> None:
    data = batches(5, [4, 4, 4])
    method = EWC()
    method.after_task(net, 0, data)
    expected = facils_fisher(net, data)
    assert_fisher(method, expected)
    assert max(values.max() for values in expected.values()) > 0


def test_fisher_leaves_out_a_last_smaller_batch(net: ContinualNet) -> None:
    data = batches(5, [4, 4, 3])
    method = EWC()
    method.after_task(net, 0, data)
    assert_fisher(method, facils_fisher(net, data[:2]))


def test_a_single_batch_smaller_than_a_full_one_counts(net: ContinualNet) -> None:
    data = batches(5, [3])
    method = EWC()
    method.after_task(net, 0, iter(data))
    assert_fisher(method, facils_fisher(net, data))


def test_fisher_and_weights_cover_the_backbone_without_heads_and_narrower_batch_norms(net: ContinualNet) -> None:
    method = EWC()
    method.after_task(net, 0, batches(5, [4]))
    state = method.state_dict()
    assert state["importance"].keys() == state["anchor"].keys() == dict(backbone(net)).keys()
    assert all(torch.equal(state["anchor"][name], weight) for name, weight in backbone(net))
    norms = {name: fisher for name, fisher in state["importance"].items() if ".bn" in name or name.startswith("bn")}
    assert norms
    for fisher in norms.values():
        # Narrower widths come first and have 1 + 2 + 3 of 1 + 2 + 3 + 4 parts.
        narrower, full = fisher.split([len(fisher) * 6 // 10, len(fisher) * 4 // 10])
        assert not narrower.any() and full.any()


def test_fishers_of_tasks_are_merged_by_alpha(net: ContinualNet) -> None:
    method = EWC(alpha=0.3)
    first, second = batches(5, [4, 4]), batches(6, [4, 4])
    method.after_task(net, 0, first)
    expected_first = facils_fisher(net, first)
    nudge(net)
    method.after_task(net, 1, second)
    expected_second = facils_fisher(net, second)
    merged = {name: 0.3 * expected_first[name] + 0.7 * expected_second[name] for name in expected_first}
    assert_fisher(method, merged)
    assert torch.equal(method.state_dict()["anchor"]["conv1.weight"], net.backbone.conv1.weight)


def test_the_loss_adds_half_strength_times_weighted_squares(net: ContinualNet) -> None:
    method = EWC(strength=7.0)
    method.after_task(net, 0, batches(5, [4, 4]))
    assert losses(method, net)["penalty"].item() == 0
    nudge(net)
    parts = losses(method, net)
    logits = net(IMAGES)
    assert isinstance(logits, Tensor)
    own = logits.detach().numpy()[:, 2:]
    cross_entropy = np.mean(np.log(np.exp(own).sum(1)) - own[range(3), range(3)])
    assert list(parts) == ["cross-entropy", "penalty"]
    assert parts["cross-entropy"].item() == pytest.approx(cross_entropy, rel=1e-9)
    assert parts["penalty"].item() == pytest.approx(expected_penalty(method, net, 7.0), rel=1e-9)
    assert parts["penalty"] > 0


def test_the_penalty_pulls_each_weight_by_its_fisher(net: ContinualNet) -> None:
    method = EWC(strength=7.0)
    method.after_task(net, 0, batches(5, [4, 4]))
    nudge(net)
    losses(method, net)["penalty"].backward()
    state = method.state_dict()
    for name, weight in backbone(net):
        assert weight.grad is not None
        pull = 7.0 * state["importance"][name] * (weight.detach() - state["anchor"][name])
        torch.testing.assert_close(weight.grad, pull, rtol=1e-9, atol=1e-14)
    assert all(head.weight.grad is None for head in net.heads)


def test_measuring_leaves_no_gradients_behind(net: ContinualNet) -> None:
    EWC().after_task(net, 0, batches(5, [4]))
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize(
    ("protocol", "widths", "times"),
    [("paper", (4.0,), 1), ("released", (4.0,), 4), ("released", (0.25, 0.5, 1.0), 3), ("released", (1.0,), 1)],
    ids=str,
)
def test_released_adds_the_penalty_once_for_each_width(
    net: ContinualNet, protocol: Protocol, widths: tuple[float, ...], times: int
) -> None:
    config = TrainConfig(method="ewc", options={"strength": 7.0}, protocol=protocol, widths=widths)
    method = make_method(config)
    method.after_task(net, 0, batches(5, [4]))
    nudge(net)
    assert losses(method, net)["penalty"].item() == pytest.approx(times * expected_penalty(method, net, 7.0), rel=1e-9)


def test_stored_and_loaded_it_loses_the_same(net: ContinualNet) -> None:
    method, loaded = EWC(strength=7.0), EWC(strength=7.0)
    method.after_task(net, 0, batches(5, [4, 4]))
    data = stored(method.state_dict())
    nudge(net)
    loaded.load_state_dict(restored(data), net)
    expected, found = losses(method, net), losses(loaded, net)
    assert all(torch.equal(found[name], part) for name, part in expected.items()) and len(found) == 2
    for one in (method, loaded):
        one.after_task(net, 1, batches(6, [4]))
    assert torch.equal(losses(method, net)["penalty"], losses(loaded, net)["penalty"])
    nudge(net, seed=2)
    assert torch.equal(losses(method, net)["penalty"], losses(loaded, net)["penalty"])
