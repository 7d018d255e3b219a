from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from slimkern.continual.config import ConfigError
from slimkern.continual.methods.autoactivator import AutoActivator
from slimkern.continual.units import recruiting
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


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-4)], ids=str)
def test_the_residual_never_grows_and_is_orthogonal_to_all_nodes(dtype: torch.dtype, tolerance: float) -> None:
    making = recruiter(dtype=dtype)
    last = making.residual.square().sum(0)
    while making.ended() is None:
        assert making.recruit()
        now = making.residual.square().sum(0)
        assert (now < last).all()
        own = outputs(making)
        assert (own.t() @ making.residual).abs().max() < tolerance
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
    while making.ended() is None:
        making.recruit()
    assert making.history[-1].accuracy >= 0.6 and making.history[-1].nodes < 40
    assert all(step.accuracy < 0.6 for step in making.history[:-1])


def test_a_unit_that_learns_nothing_more_for_held_out_samples_goes_back_to_its_best() -> None:
    making = recruiter(replace(RULES, limit=200), held_out=30)
    while making.ended() is None:
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
    while making.ended() is None and making.recruit():
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


def test_the_score_may_be_the_indicator_or_the_true_fall() -> None:
    taken = []
    for true_fall in (0, 1):
        making = recruiter(replace(RULES, candidates=50, true_fall=true_fall))
        for _ in range(4):
            making.recruit()
        torch.manual_seed(1)
        weights, biases = making._candidates()
        drops, scores = making._scanned(weights, biases)
        gained = []
        for k in range(50):
            both = torch.cat(
                [outputs(making), node_outputs(weights[k], biases[k], making._train.inputs, torch.tanh).t()], 1
            )
            left = targets(making._train) - both @ torch.linalg.lstsq(both, targets(making._train)).solution
            gained.append(making.residual.square().sum() - left.square().sum())
        torch.testing.assert_close(scores, torch.stack(gained) if true_fall else drops.sum(1))
        taken.append(int(scores.argmax()))
    assert taken[0] != taken[1]


def test_where_none_passes_candidates_are_drawn_anew_and_no_unit_stays_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([None, (2, 0.99, 1), None, None, None])
    monkeypatch.setattr(recruiting, "choose", lambda *_: next(answers))
    making = recruiter()
    assert making.recruit() and (making.history[0].draws, making.history[0].ratio) == (2, 0.99)
    assert not making.recruit() and len(making.history) == 1
    monkeypatch.setattr(recruiting, "choose", lambda *_: None)
    empty = recruiter()
    assert empty.recruit() and not empty.recruit()
    (step,) = empty.history
    assert (step.ratio, step.passed, step.draws, step.nodes) == (1.0, 0, 3, 4) and step.residual < 1
    assert len(empty.unit().biases) == 4


def test_a_class_with_nothing_left_to_explain_is_no_hindrance() -> None:
    torch.manual_seed(0)
    points = torch.randn(200, 5, dtype=torch.float64)
    own = Samples(points, (points[:, 0] > 0).long())
    making = Recruiter(own, samples(0), range(3), RULES, torch.tanh)
    while making.ended() is None and making.recruit():
        pass
    assert making.ended() in ("limit", "target") and making.history[-1].accuracy > 0.9


def test_nodes_that_give_nothing_at_all_are_an_error() -> None:
    making = recruiter(replace(RULES, scale=0.0))
    with pytest.raises(ConfigError, match="classes 4 to 6: no node of 3 draws explains anything"):
        making.recruit()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nodes": 0}, "nodes=0 .* whole number above 0"),
        ({"candidates": 2.5}, "candidates=2.5 .* whole number above 0"),
        ({"limit": 5}, "nodes=10 .* at most its limit=5"),
        ({"draws": 0}, "draws=0 .* whole number above 0"),
        ({"true_fall": 0.5}, "true_fall=0.5 .* 0 or 1"),
        ({"copies": 51}, "copies=51 .* at most its candidates=50"),
        ({"ratio": 1}, "ratio=1 .* between 0 and 1"),
    ],
    ids=str,
)
def test_impossible_options_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AutoActivator(**options)
