from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from slimkern.continual.branches.etf import equiangular_frame
from slimkern.continual.config import ConfigError
from slimkern.continual.methods.scl_pnc import SCLPNC, branch_distillation, class_weights, dot_regression

LABELS = torch.tensor([0, 0, 0, 2, 2, 4])


def frame() -> Tensor:
    torch.manual_seed(0)
    return equiangular_frame(8, 5).double()


def directions() -> Tensor:
    torch.manual_seed(1)
    return F.normalize(torch.randn(len(LABELS), 8, dtype=torch.float64))


def test_the_loss_is_its_formula() -> None:
    m, h = frame(), directions()
    expected = sum(0.5 * float(m[:, y] @ own - m[:, y].norm()) ** 2 for own, y in zip(h, LABELS.tolist(), strict=True))
    assert dot_regression(h, m, LABELS).item() == pytest.approx(expected / 6, abs=1e-14)


def test_the_loss_is_zero_exactly_at_the_class_directions_and_positive_elsewhere() -> None:
    m = F.normalize(frame(), dim=0)
    assert dot_regression(m.t()[LABELS], m, LABELS).item() < 1e-30
    for place in range(len(LABELS)):
        h = m.t()[LABELS].clone()
        h[place] = F.normalize(h[place] + 0.01 * directions()[place], dim=0)
        assert dot_regression(h, m, LABELS).item() > 1e-12
    assert dot_regression(directions(), m, LABELS).item() > 0


def test_rare_classes_of_a_batch_weigh_more() -> None:
    weights = class_weights(LABELS, 6).double()
    expected = [(2 / 3) ** 0.5, 1, 1, 1, 2**0.5, 1]
    assert weights.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("reweighted", [0, 1])
def test_weights_scale_the_frame(reweighted: float) -> None:
    m, h = frame(), directions()
    parts = SCLPNC(reweighted=reweighted).parts(h, m, LABELS, ())
    scaled = m * (class_weights(LABELS, 5) if reweighted else 1)
    assert parts.keys() == {"dot regression"}
    assert parts["dot regression"].item() == pytest.approx(dot_regression(h, scaled, LABELS).item())


def test_distillation_is_a_sum_over_the_batch_of_its_formula() -> None:
    torch.manual_seed(0)
    older, newer = torch.randn(2, 6, 4, dtype=torch.float64)
    cosines = [float(a @ b / (a.norm() * b.norm())) for a, b in zip(older, newer, strict=True)]
    expected = sum(0.5 * (cosine - 1) ** 2 for cosine in cosines)
    assert branch_distillation(older, newer).item() == pytest.approx(expected)
    assert branch_distillation(older, 3 * older).item() == pytest.approx(0, abs=1e-20)
    parts = SCLPNC(strength=0.5).parts(directions(), frame(), LABELS, (older, newer))
    assert parts["distillation"].item() == pytest.approx(0.5 * expected)


@pytest.mark.parametrize(
    ("columns", "released", "expected"),
    [(0, False, [50, 60, 70]), (0, True, [100, 110, 120]), (80, False, [80, 90, 100]), (55, True, [55, 65, 75])],
)
def test_columns_are_the_classes_seen_or_what_is_asked_for(columns: int, released: bool, expected: list[int]) -> None:
    assert SCLPNC(columns=columns).columns_of([50, 60, 70], released) == expected


@pytest.mark.parametrize(("columns", "ends", "task"), [(4, [5, 10], 0), (0, [1, 2], 0)])
def test_too_few_columns_are_refused(columns: int, ends: list[int], task: int) -> None:
    with pytest.raises(ConfigError, match=f"task {task} has .* columns for {ends[task]} classes seen; it needs"):
        SCLPNC(columns=columns).columns_of(ends, False)


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("distilled", 1.5, "must lie in 0 to 1"),
        ("target", 2.0, "must lie in 0 to 1"),
        ("reweighted", 0.5, "must be 0 or 1"),
        ("columns", 1.0, "must be 0 or a whole number above 1"),
        ("columns", 10.5, "must be 0 or a whole number above 1"),
        ("probe_epochs", 0.0, "must be a whole number above 0"),
        ("strength", -1.0, "must be finite and not negative"),
    ],
)
def test_options_that_cannot_be_are_refused(option: str, value: float, allowed: str) -> None:
    with pytest.raises(ConfigError, match=rf"option {option}={re.escape(f'{value:g}')}(\.0)? of SCLPNC {allowed}"):
        SCLPNC.from_options({**SCLPNC.options(), option: value}, 1)
