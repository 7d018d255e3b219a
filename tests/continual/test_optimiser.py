from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from slimkern.continual.config import TrainConfig
from slimkern.continual.optimiser import Optimiser
from tests.continual.few_digits import restored, stored

PLAIN = TrainConfig(learning_rate=0.1, momentum=0.9, weight_decay=0.01, clip=0.5)


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(torch.linspace(-1, 1, size)) for size in (3, 5)]


def loss_of(given: list[nn.Parameter]) -> torch.Tensor:
    return sum((own.square() * (1 + place)).sum() for place, own in enumerate(given))  # type: ignore[return-value]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_it_is_sgd_on_clipped_gradients(precision: str) -> None:
    config = replace(PLAIN, precision=precision)
    own, truth = parameters(), [given.detach().double().requires_grad_() for given in parameters()]
    optimiser = Optimiser(own, config)
    reference = torch.optim.SGD(truth, 0.1, momentum=0.9, weight_decay=0.01)
    for rate in (0.1, 0.1, 0.01):
        optimiser.set_rate(rate)
        optimiser.step(loss_of(own))
        reference.param_groups[0]["lr"] = rate
        reference.zero_grad()
        loss_of(truth).backward()
        nn.utils.clip_grad_norm_(truth, 0.5)
        reference.step()
    for mine, true in zip(own, truth, strict=True):
        torch.testing.assert_close(mine.double(), true, rtol=1e-5, atol=1e-6)


def test_groups_are_clipped_by_their_own_norms_and_weights_decay_as_told() -> None:
    own, truth = parameters(), parameters()
    Optimiser(own, PLAIN, weight_decay=0.1, clipped=[own[:1], own[1:]]).step(loss_of(own))
    reference = torch.optim.SGD(truth, 0.1, momentum=0.9, weight_decay=0.1)
    loss_of(truth).backward()
    for parameter in truth:
        nn.utils.clip_grad_norm_([parameter], 0.5)
    reference.step()
    for mine, true in zip(own, truth, strict=True):
        torch.testing.assert_close(mine, true)


@pytest.mark.parametrize("steps", [0, 1])
def test_an_overflow_of_float16_skips_the_step_and_lowers_the_scale(steps: int) -> None:
    own = parameters()
    optimiser = Optimiser(own, replace(PLAIN, precision="fp16"))
    for _ in range(steps):
        optimiser.step(loss_of(own))
    before, scale = [given.detach().clone() for given in own], optimiser.state_dict()["scaler"]["scale"]
    optimiser.step(loss_of(own) * torch.inf)
    assert all(torch.equal(one, other) for one, other in zip(own, before, strict=True))
    assert optimiser.state_dict()["scaler"]["scale"] == scale / 2


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_step_that_broke_off_late_is_taken_again(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own, truth = parameters(), parameters()
    broken, whole = (Optimiser(given, replace(PLAIN, precision=precision)) for given in (own, truth))

    def refuse(*arguments: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="not permitted"):
        patch.setattr(nn.utils, "clip_grad_norm_", refuse)
        broken.step(loss_of(own))
    for optimiser, given in ((broken, own), (whole, truth)):
        optimiser.step(loss_of(given))
    assert all(torch.equal(one, other) for one, other in zip(own, truth, strict=True))


def test_after_a_first_step_that_was_skipped_nothing_is_left_of_it() -> None:
    config, (one, other) = replace(PLAIN, precision="fp16"), (parameters(), parameters())
    skipped, fresh = Optimiser(one, config), Optimiser(other, config)
    assert all(not own["momentum_buffer"].any() for own in fresh.state_dict()["sgd"]["state"].values())
    skipped.step(loss_of(one) * torch.inf)
    for optimiser, own in ((skipped, one), (fresh, other)):
        optimiser.step(loss_of(own))
    assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_stored_state_goes_on_bit_for_bit(precision: str) -> None:
    config = replace(PLAIN, precision=precision)
    own = parameters()
    optimiser = Optimiser(own, config)
    optimiser.step(loss_of(own) * (torch.inf if precision == "fp16" else 1))
    optimiser.set_rate(0.03)
    other = [nn.Parameter(given.detach().clone()) for given in own]
    resumed = Optimiser(other, config)
    resumed.load_state_dict(restored(stored(optimiser.state_dict())))
    for _ in range(3):
        optimiser.step(loss_of(own))
        resumed.step(loss_of(other))
    assert all(torch.equal(one, two) for one, two in zip(own, other, strict=True))


def test_the_norm_shows_a_weight_that_is_no_number() -> None:
    own = parameters()
    optimiser = Optimiser(own, PLAIN)
    assert float(optimiser.norm()) == pytest.approx(float(torch.cat(own).detach().norm()), rel=1e-6)
    nn.init.constant_(own[1], torch.nan)
    assert optimiser.norm().isnan()
