from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from slimkern.continual.config import ConfigError
from slimkern.continual.methods.autoactivator import AutoActivator
from slimkern.continual.units.recruiting import Recruiter, Samples, choose
from slimkern.continual.units.scan import node_outputs
from slimkern.continual.units.unit import confidence

RULES = AutoActivator(nodes=4, candidates=6, limit=40, target=1.0)


def samples(count: int, dtype: torch.dtype = torch.float64) -> Samples:
    """Two rings of points, three classes by angle."""
    points = torch.randn(count, 5, dtype=dtype)
    return Samples(points, ((points[:, 0].sin() + points[:, 1] * points[:, 2]) > 0).long() + (points[:, 3] > 1))


def recruiter(rules: AutoActivator = RULES, held_out: int = 0, dtype: torch.dtype = torch.float64) -> Recruiter:
    torch.manual_seed(0)
    return Recruiter(samples(300, dtype), samples(held_out, dtype), range(4, 7), rules, torch.tanh)


def targets(own: Samples) -> Tensor:
    return torch.nn.functional.one_hot(own.labels, 3).to(own.inputs.dtype)


def outputs(making: Recruiter) -> Tensor:
    return node_outputs(making._weights, making._biases, making._train.inputs, torch.tanh).t()


def test_the_residual_never_grows_and_is_orthogonal_to_all_nodes() -> None:
    making = recruiter()
    last = making.residual.square().sum(0)
    while not making.done():
        assert making.recruit()
        now = making.residual.square().sum(0)
        assert (now < last).all()
        own = outputs(making)
        assert (own.t() @ making.residual).abs().max() < 1e-9
        last = now
    assert len(making.history) == 10 and making.history[-1].nodes == 40


def test_every_step_falls_at_least_as_far_as_the_criterion_demands() -> None:
    making = recruiter()
    for _ in range(8):
        before = making.residual.square().sum(0)
        making.recruit()
        step = making.history[-1]
        demanded = (1 - step.ratio) * step.nodes / (step.nodes + 1)
        assert (making.residual.square().sum(0) < (1 - demanded) * before).all()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 2e-3)], ids=str)
def test_updating_step_by_step_equals_least_squares(dtype: torch.dtype, tolerance: float) -> None:
    making = recruiter(dtype=dtype)
    for _ in range(6):
        making.recruit()
    unit, own = making.unit(), outputs(making)
    expected = torch.linalg.lstsq(own.double(), targets(making._train).double()).solution
    torch.testing.assert_close(unit.read_out.double(), expected, rtol=0, atol=tolerance)
    torch.testing.assert_close(unit.outputs(making._train.inputs, torch.tanh), own @ unit.read_out)


def test_the_threshold_is_the_mean_confidence_on_the_training_samples() -> None:
    making = recruiter()
    for _ in range(3):
        making.recruit()
    unit = making.unit()
    answers = unit.outputs(making._train.inputs, torch.tanh)
    expected = (answers.softmax(1).max(1).values - 1 / 3).mean()
    assert unit.threshold == pytest.approx(float(expected), abs=1e-9)
    assert confidence(torch.eye(2)).tolist() == pytest.approx([0.2310585] * 2)
    assert unit.first_class == 4


def test_a_unit_is_done_at_its_target() -> None:
    making = recruiter(replace(RULES, target=0.6))
    while not making.done():
        making.recruit()
    assert making.history[-1].accuracy >= 0.6 and making.history[-1].nodes < 40
    assert all(step.accuracy < 0.6 for step in making.history[:-1])


def test_a_unit_that_learns_nothing_more_for_held_out_samples_goes_back_to_its_best() -> None:
    making = recruiter(replace(RULES, limit=200), held_out=30)
    while not making.done():
        making.recruit()
    held_out = [step.held_out_residual for step in making.history]
    best = held_out.index(min(held_out))  # type: ignore[type-var]
    assert len(held_out) == best + 1 + RULES.patience < 50
    unit = making.unit()
    assert len(unit.biases) == making.history[best].nodes < making.history[-1].nodes
    wrong = unit.outputs(making._held_out.inputs, torch.tanh) - targets(making._held_out)
    assert float(wrong.square().sum() / 30) == pytest.approx(held_out[best])
    own = outputs(making)[:, : len(unit.biases)]
    torch.testing.assert_close(unit.read_out, torch.linalg.lstsq(own, targets(making._train)).solution)


def test_nodes_that_depend_on_others_are_left_out() -> None:
    making = recruiter()
    weights, biases = torch.randn(4, 5, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    weights[2], biases[2] = weights[0], biases[0]
    assert making._add(weights, biases) and len(making._biases) == 3
    assert not making._add(weights[:2], biases[:2]) and len(making._biases) == 3
    assert making._read_out(3).isfinite().all()


def test_more_nodes_than_samples_are_never_recruited() -> None:
    torch.manual_seed(0)
    few = samples(6)
    making = Recruiter(few, samples(0), range(3), RULES, torch.tanh)
    while not making.done() and making.recruit():
        pass
    assert making.history[-1].nodes == 4


def test_among_those_that_pass_the_largest_fall_is_taken() -> None:
    drops = torch.tensor([[5.0, 5.0], [9.0, 0.1], [4.0, 4.0]], dtype=torch.float64)
    falls, lengths = torch.tensor([11.0, 30.0, 12.0]), torch.tensor([20.0, 20.0])
    # (1 - 0.9) * 9 / 10 * 20 = 1.8 is demanded of each class.
    assert choose(drops, falls, lengths, 9, 0.9) == (2, pytest.approx(0.9), 2)


def test_where_none_passes_the_ratio_climbs_its_ladder() -> None:
    drops = torch.tensor([[5.0, 0.01], [5.0, 0.001]], dtype=torch.float64)
    falls, lengths = torch.tensor([1.0, 2.0]), torch.tensor([20.0, 20.0])
    assert choose(drops, falls, lengths, 9, 0.9) == (0, pytest.approx(0.9999), 1)
    assert choose(torch.zeros(2, 2), falls, lengths, 9, 0.9) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nodes": 0}, "nodes=0 .* whole number above 0"),
        ({"candidates": 2.5}, "candidates=2.5 .* whole number above 0"),
        ({"limit": 5}, "nodes=10 .* at most its limit=5"),
        ({"ratio": 1}, "ratio=1 .* between 0 and 1"),
    ],
    ids=str,
)
def test_impossible_options_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AutoActivator(**options)
