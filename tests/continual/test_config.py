from __future__ import annotations

import json
import re
from dataclasses import FrozenInstanceError, replace
from itertools import pairwise
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimkern.continual.config import ConfigError, MethodName, TrainConfig
from slimkern.continual.data import DatasetName


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("data", "svhn", f"data='svhn' is unknown; allowed: {', '.join(get_args(DatasetName))}"),
        ("class_order", "random", "class_order='random' is unknown; allowed: seed, sorted, icarl"),
        (
            "augmentation",
            "flip",
            "augmentation='flip' is unknown; allowed: None, crop-resize, crop-flip, crop-flip-jitter, shift, none",
        ),
        ("model", "vit", "model='vit' is unknown; allowed: resnet18, resnet32-branches"),
        ("method", "si", f"method='si' is unknown; allowed: {', '.join(get_args(MethodName))}"),
        ("protocol", "facil", "protocol='facil' is unknown; allowed: paper, released"),
        ("precision", "fp8", "precision='fp8' is unknown; allowed: fp32, tf32, bf16, fp16"),
    ],
)
def test_an_unknown_name_is_refused_with_the_allowed_ones(field: str, value: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        replace(TrainConfig(), **{field: value})


@pytest.mark.parametrize(
    ("field", "low", "high", "below", "above"),
    [
        ("tasks", 1, 10**9, 0, 10**9 + 1),
        ("channels", 1, 10**9, 0, 10**9 + 1),
        ("scroll_step", 0, 10**9, -1, 10**9 + 1),
        ("epochs", 1, 10**9, 0, 10**9 + 1),
        ("batch_size", 2, 10**9, 1, 10**9 + 1),
        ("learning_rate", 0, 10**9, -0.1, 1e10),
        ("momentum", 0, 1, -0.1, 1.1),
        ("weight_decay", 0, 10**9, -1e-4, 1e10),
        ("decay_by", 0, 1, -0.1, 1.1),
        ("clip", 1e-9, 10**9, 0.0, float("inf")),
        ("seed", 0, 2**32 - 1, -1, 2**32),
    ],
)
def test_a_number_outside_its_range_is_refused(field: str, low: Any, high: Any, below: Any, above: Any) -> None:
    for allowed in (low, high):
        assert getattr(replace(TrainConfig(widths=(1.0,)), **{field: allowed}), field) == allowed
    for refused in (below, above, float("nan")):
        with pytest.raises(ConfigError, match=re.escape(f"{field}={refused} must lie in {low} to {high}")):
            replace(TrainConfig(), **{field: refused})


@pytest.mark.parametrize(
    ("widths", "channels", "message"),
    [
        ((1e9,), 64, "widths=1e+09 must be at most channels=64"),
        ((5.0,), 4, "widths=5 must be at most channels=4"),
        (
            (4.0,),
            6,
            "channels=6 can't be cut into the 4 blocks of widths (0.25, 0.5, 0.75, 1.0): it must be a multiple of 4",
        ),
        (
            (0.3, 1.0),
            64,
            "channels=64 can't be cut into the 10 blocks of widths (0.3, 1.0): it must be a multiple of 10",
        ),
    ],
    ids=str,
)
def test_channels_must_be_cut_into_the_blocks_of_the_widths(
    widths: tuple[float, ...], channels: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        TrainConfig(widths=widths, channels=channels)


@pytest.mark.parametrize(
    ("widths", "per_step", "message"),
    [
        ((8.0,), 1, "widths_per_step=1 must lie in 2 to 8, the number of widths"),
        ((0.25, 0.5, 1.0), 4, "widths_per_step=4 must lie in 2 to 3, the number of widths"),
        ((1.0,), 1, "widths_per_step=1 must be left out for a single width"),
    ],
    ids=["too few", "too many", "plain"],
)
def test_widths_a_step_that_cannot_be_are_refused(widths: tuple[float, ...], per_step: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainConfig(widths=widths, widths_per_step=per_step)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, 80.0, float("nan")])
def test_a_fall_of_the_rate_outside_the_task_is_refused(share: float) -> None:
    with pytest.raises(ConfigError, match=r"decay_at=\(0.5, .*\) must be shares of a task's epochs between 0 and 1"):
        TrainConfig(decay_at=(0.5, share))


@pytest.mark.parametrize(
    ("widths", "fractions"),
    [
        ((1.0,), (1.0,)),
        ((2.0,), (0.5, 1.0)),
        ((4.0,), (0.25, 0.5, 0.75, 1.0)),
        ((0.25, 0.5, 1.0), (0.25, 0.5, 1.0)),
        ((1 / 3, 1.0), (1 / 3, 1.0)),
    ],
    ids=str,
)
def test_widths_are_a_number_or_fractions(widths: tuple[float, ...], fractions: tuple[float, ...]) -> None:
    assert TrainConfig(widths=widths, channels=48).all_widths().fractions == fractions


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ((), r"must ascend and end in 1\.0"),
        ((0.5,), r"must ascend and end in 1\.0"),
        ((1.0, 0.5), r"must ascend and end in 1\.0"),
        ((0.5, 0.5, 1.0), r"must ascend and end in 1\.0"),
        ((2.5,), r"width 2\.5 is outside \(0, 1\]"),
        ((0.0, 1.0), r"width 0\.0 is outside \(0, 1\]"),
        ((2.0, 4.0), r"width 2\.0 is outside \(0, 1\]"),
        ((float("nan"),), r"width nan is outside \(0, 1\]"),
        ((float("inf"),), r"width inf is outside \(0, 1\]"),
        (("half", 1.0), r"a width must be a number in \(0, 1\], not 'half'"),
    ],
    ids=str,
)
def test_what_are_no_widths_is_refused(widths: tuple, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^widths: .*{message}"):
        TrainConfig(widths=widths)


def test_the_papers_learning_rate_falls_before_epochs_80_and_120() -> None:
    rates = [TrainConfig().learning_rate_at(epoch) for epoch in range(200)]
    assert rates == pytest.approx([0.1] * 80 + [0.01] * 40 + [0.001] * 80)


@given(
    epochs=st.integers(1, 300),
    falls=st.lists(st.floats(0.01, 0.99), max_size=3),
    by=st.floats(0, 1),
)
def test_the_learning_rate_starts_whole_and_never_grows(epochs: int, falls: list[float], by: float) -> None:
    config = TrainConfig(epochs=epochs, decay_at=tuple(falls), decay_by=by)
    rates = [config.learning_rate_at(epoch) for epoch in range(epochs)]
    assert all(later <= earlier for earlier, later in pairwise(rates))
    assert rates[0] == 0.1


@pytest.mark.parametrize("widths", [(1.0,), (4.0,), (0.25, 0.5, 1.0)], ids=str)
def test_to_dict_goes_through_json_and_back(widths: tuple[float, ...]) -> None:
    config = TrainConfig(method="ewc", options={"strength": 2.0}, widths=widths, first_task_classes=6)
    plain = config.to_dict()
    found = json.loads(json.dumps(plain))
    assert found == plain
    again = TrainConfig(**{**found, "widths": tuple(found["widths"]), "decay_at": tuple(found["decay_at"])})
    assert again == replace(config, widths=config.all_widths().fractions)
    assert again.to_dict() == plain


def test_the_number_of_widths_and_their_fractions_are_one_configuration() -> None:
    assert TrainConfig(widths=(2.0,)).to_dict() == TrainConfig(widths=(0.5, 1.0)).to_dict()


def test_a_configuration_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        TrainConfig().epochs = 3  # pyright: ignore[reportAttributeAccessIssue]
