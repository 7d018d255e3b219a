from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from slimkern.continual.methods import LwF
from slimkern.continual.methods.teacher import distillation
from slimkern.continual.network import ContinualNet
from slimkern.models import resnet18
from slimkern.nn import scroll_to
from slimkern.nn.scroll import current_scroll
from slimkern.widths import Widths
from tests.continual.few_digits import restored, step_of, stored

IMAGES = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
LABELS = torch.tensor([2, 3, 4, 4, 3, 2])


def softened(logits: Tensor, temperature: float) -> NDArray[np.float64]:
    powers = np.exp(logits.detach().double().numpy() / temperature)
    return powers / powers.sum(1, keepdims=True)


def expected_distillation(logits: Tensor, targets: Tensor, temperature: float) -> float:
    student, teacher = softened(logits, temperature), softened(targets, temperature)
    return float(-(teacher * np.log(student)).sum(1).mean())


@pytest.fixture
def net() -> ContinualNet:
    """A network after its first task, of two classes, at scroll 1, in float64."""
    torch.manual_seed(0)
    net = ContinualNet(resnet18(None, Widths.of(4), in_channels=1, channels=4), Widths.of(4))
    net.add_head(2)
    scroll_to(net, task=1)
    return net.double()


@torch.no_grad()
def move_on(net: ContinualNet) -> None:
    """What a second task does to the network: one more head, another scroll, other weights."""
    torch.manual_seed(1)
    net.add_head(3)
    scroll_to(net, task=2)
    for parameter in net.parameters():
        parameter += 0.1 * torch.randn_like(parameter)


def losses(method: LwF, net: ContinualNet) -> dict[str, Tensor]:
    return method.losses(step_of(net, IMAGES, LABELS, range(2, 5)))


@given(
    seed=st.integers(0, 1000),
    classes=st.integers(1, 6),
    temperature=st.floats(0.5, 10),
    spread=st.floats(0.1, 20),
)
def test_distillation_is_the_cross_entropy_of_softened_softmaxes(
    seed: int, classes: int, temperature: float, spread: float
) -> None:
    numbers = torch.Generator().manual_seed(seed)
    logits, targets = spread * torch.randn(2, 5, classes, generator=numbers, dtype=torch.float64)
    found = distillation(logits, targets, temperature).item()
    assert found == pytest.approx(expected_distillation(logits, targets, temperature), rel=1e-9, abs=1e-12)


def test_the_loss_adds_the_distillation_of_old_heads_times_its_strength(net: ContinualNet) -> None:
    old = copy.deepcopy(net).eval()
    method = LwF(strength=3.0, temperature=2.5)
    method.after_task(net, 0, [])
    move_on(net)
    net.eval()
    parts, logits, targets = losses(method, net), net(IMAGES), old(IMAGES)
    assert isinstance(logits, Tensor) and isinstance(targets, Tensor) and targets.shape == (6, 2)
    own = softened(logits[:, 2:], 1.0)
    assert list(parts) == ["cross-entropy", "distillation"]
    assert parts["cross-entropy"].item() == pytest.approx(-np.log(own[range(6), LABELS - 2]).mean(), rel=1e-9)
    expected = 3 * expected_distillation(logits[:, :2], targets, 2.5)
    assert parts["distillation"].item() == pytest.approx(expected, rel=1e-9)


def test_the_teacher_is_frozen_at_its_weights_scroll_and_heads(net: ContinualNet) -> None:
    before = stored(copy.deepcopy(net.state_dict()))
    method = LwF()
    method.after_task(net.train(), 0, [])
    move_on(net)
    losses(method, net.train())["distillation"].backward()
    state, original = method.state_dict(), restored(before)
    assert state["heads"] == 1
    assert state["teacher"].keys() == original.keys()
    assert all(torch.equal(state["teacher"][name], value) for name, value in original.items())
    assert {own["scroll"] for own in state["teacher"]._metadata.values() if "scroll" in own} == {1}
    assert current_scroll(net) == 2


def test_the_gradient_reaches_the_network_but_not_the_teacher(net: ContinualNet) -> None:
    method = LwF()
    method.after_task(net, 0, [])
    move_on(net)
    losses(method, net)["distillation"].backward()
    reached = {name for name, weight in net.named_parameters() if weight.grad is not None and weight.grad.any()}
    assert {"heads.0.weight", "heads.0.bias", "backbone.conv1.weight"} <= reached
    assert reached.isdisjoint({"heads.1.weight", "heads.1.bias"})
    assert method._teacher is not None
    assert all(not parameter.requires_grad and parameter.grad is None for parameter in method._teacher.parameters())
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_a_later_teacher_takes_the_place_of_the_first(net: ContinualNet) -> None:
    method = LwF()
    method.after_task(net, 0, [])
    move_on(net)
    method.after_task(net, 1, [])
    assert method.state_dict()["heads"] == 2
    assert torch.equal(method.state_dict()["teacher"]["backbone.conv1.weight"], net.backbone.conv1.weight)


def test_stored_and_loaded_it_loses_the_same(net: ContinualNet) -> None:
    method = LwF(strength=2.0)
    method.after_task(net, 0, [])
    data = stored(method.state_dict())
    move_on(net)
    loaded = LwF(strength=2.0)
    loaded.load_state_dict(restored(data), net)
    net.eval()
    expected, found = losses(method, net), losses(loaded, net)
    assert all(torch.equal(found[name], part) for name, part in expected.items()) and len(found) == 2
    # The copy is not the network itself.
    with torch.no_grad():
        net.backbone.conv1.weight.zero_()
    assert loaded.state_dict()["teacher"]["backbone.conv1.weight"].any()
