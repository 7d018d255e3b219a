from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from slimkern.continual.methods import ICaRL
from slimkern.continual.methods.icarl import sigmoid_distillation
from slimkern.continual.network import ContinualNet
from slimkern.models import resnet18
from slimkern.nn import scroll_to
from slimkern.width_batch import WidthBatch, at_width, every_width
from slimkern.widths import Widths
from tests.continual.few_digits import restored, step_of, stored

IMAGES = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(3))
LABELS = torch.tensor([0, 3, 4, 1, 3, 2])
WIDTHS = Widths.of((0.25, 0.5, 1.0))


def expected_distillation(logits: Tensor, targets: Tensor) -> float:
    """For each old class the mean over images of -q log g - (1 - q) log (1 - g), all added."""
    g, q = (1 / (1 + np.exp(-values.detach().double().numpy())) for values in (logits, targets))
    # 1 - g and 1 - q, which subtracting would leave with few digits
    not_g, not_q = (1 / (1 + np.exp(values.detach().double().numpy())) for values in (logits, targets))
    return float((-q * np.log(g) - not_q * np.log(not_g)).mean(0).sum())


@pytest.fixture
def net() -> ContinualNet:
    """A network after its second task, at scroll 1."""
    torch.manual_seed(0)
    net = ContinualNet(resnet18(None, WIDTHS, in_channels=1, channels=4), WIDTHS)
    net.add_head(2)
    net.add_head(3)
    scroll_to(net, task=1)
    return net


@given(seed=st.integers(0, 1000), classes=st.integers(1, 6), spread=st.floats(0.1, 8))
def test_distillation_is_the_binary_cross_entropy_of_sigmoids(seed: int, classes: int, spread: float) -> None:
    numbers = torch.Generator().manual_seed(seed)
    logits, targets = spread * torch.randn(2, 5, classes, generator=numbers, dtype=torch.float64)
    found = sigmoid_distillation(logits, targets).item()
    assert found == pytest.approx(expected_distillation(logits, targets), rel=1e-9)


def test_the_loss_adds_the_distillation_of_old_classes_times_its_strength(net: ContinualNet) -> None:
    teacher = copy.deepcopy(net).double().eval()
    method = ICaRL(strength=3.0)
    method.after_task(net.double(), 1, [])
    torch.manual_seed(1)
    net.add_head(2)
    scroll_to(net.double(), task=2)
    images = IMAGES.double()
    logits = net.eval()(images)
    assert isinstance(logits, Tensor)
    parts = method.losses(step_of(net, images, LABELS, range(7)))
    targets = teacher(images)
    assert isinstance(targets, Tensor) and targets.shape == (6, 5) and logits.shape == (6, 7)
    powers = np.exp(logits.detach().numpy())
    own = (powers / powers.sum(1, keepdims=True))[range(6), LABELS]
    assert list(parts) == ["cross-entropy", "distillation"]
    assert parts["cross-entropy"].item() == pytest.approx(-np.log(own).mean(), rel=1e-9)
    assert parts["distillation"].item() == pytest.approx(3 * expected_distillation(logits[:, :5], targets), rel=1e-9)


def features_at(net: ContinualNet, images: Tensor, width: float) -> np.ndarray:
    with torch.no_grad():
        answers = net.eval().backbone(at_width(images, width))
    values = answers.slabs[0].double().numpy()
    return values / np.linalg.norm(values, axis=1, keepdims=True)


@torch.no_grad()
def test_images_go_to_the_nearest_mean_of_exemplars_at_each_width(net: ContinualNet) -> None:
    method = ICaRL()
    exemplars = torch.randn(20, 1, 8, 8)
    labels = torch.arange(20) % 5
    method.after_selection(net.train(), [(exemplars[:8], labels[:8]), (exemplars[8:], labels[8:])], [])
    scores = method.scores(net.eval(), IMAGES)
    assert scores.widths == WIDTHS.fractions
    for width, found in scores:
        features = features_at(net, exemplars, width)
        means = np.stack([features[labels.numpy() == label].mean(0) for label in range(5)])
        means /= np.linalg.norm(means, axis=1, keepdims=True)
        distances = np.linalg.norm(features_at(net, IMAGES, width)[:, None] - means, axis=2)
        np.testing.assert_allclose(found.double().numpy(), 1 - distances**2 / 2, atol=1e-5)
        assert found.argmax(1).tolist() == distances.argmin(1).tolist()


@torch.no_grad()
def test_distances_are_not_rounded_to_the_precision_of_the_network(net: ContinualNet) -> None:
    """An image that is the only exemplar of its class is its mean: the score is 1, in bfloat16 give or take 1/256."""
    method = ICaRL()
    with torch.autocast("cpu", torch.bfloat16):
        method.after_selection(net, [(IMAGES, torch.arange(6))], [])
        scores = method.scores(net.eval(), IMAGES)
    for _, found in scores:
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.diagonal(), torch.ones(6), atol=1e-6, rtol=0)


@torch.no_grad()
def test_it_does_not_answer_by_its_logits(net: ContinualNet) -> None:
    method = ICaRL()
    means = net.eval().backbone(every_width(IMAGES))
    assert isinstance(means, WidthBatch)
    method.after_selection(net, [(IMAGES, torch.arange(6) % 5)], [])
    before = method.scores(net, IMAGES)
    for head in net.heads:
        head.weight.zero_()
    assert all(torch.equal(a, b) for a, b in zip(before.slabs, method.scores(net, IMAGES).slabs, strict=True))
    assert (before.at(1.0).argmax(1)[1:5] == torch.arange(1, 5)).all()


@torch.no_grad()
def test_stored_and_loaded_it_answers_the_same(net: ContinualNet) -> None:
    method, loaded = ICaRL(), ICaRL()
    method.after_selection(net, [(IMAGES, torch.arange(6) % 5)], [])
    method.after_task(net, 1, [])
    loaded.load_state_dict(restored(stored(method.state_dict())), net)
    for one, other in zip(method.scores(net, IMAGES).slabs, loaded.scores(net, IMAGES).slabs, strict=True):
        assert torch.equal(one, other)
    assert loaded.state_dict()["heads"] == 2
