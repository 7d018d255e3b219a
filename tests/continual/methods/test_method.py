from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from slimkern.continual.config import ConfigError, MethodName, TrainConfig
from slimkern.continual.methods import EWC, METHODS, SCLPNC, FineTuning, LwF, Method, config_for, make_method
from slimkern.continual.methods.autoactivator import AutoActivator
from slimkern.continual.network import ContinualNet
from slimkern.models import resnet18
from slimkern.widths import Widths
from tests.continual.few_digits import step_of


def test_a_method_is_made_with_its_defaults_and_the_options_given() -> None:
    assert make_method(TrainConfig(method="ft")) == FineTuning()
    assert make_method(TrainConfig(method="lwf", options={"temperature": 3})) == LwF(strength=1.0, temperature=3.0)
    assert make_method(TrainConfig(method="ewc", options={"alpha": 0.9})) == EWC(strength=5000.0, alpha=0.9)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_brings_defaults_of_its_own_that_can_be_run(method: MethodName) -> None:
    config, plain = config_for(method), TrainConfig()
    assert config.method == method
    for name in ("epochs", "widths", "exemplars", "weight_decay", "model"):
        assert getattr(config, name) == METHODS[method].defaults.get(name, getattr(plain, name))


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("ft", {"strength": 1.0}, "options strength: method ft has no such options; it has: none"),
        (
            "lwf",
            {"beta": 1.0, "alpha": 0.5, "strength": 1.0},
            "options alpha, beta: method lwf has no such options; it has: strength (default 1.0), "
            "temperature (default 2.0)",
        ),
        (
            "ewc",
            {"temperature": 2.0},
            "options temperature: method ewc has no such options; it has: strength (default 5000.0), "
            "alpha (default 0.5)",
        ),
    ],
)
def test_options_of_another_method_are_refused(method: MethodName, options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        make_method(TrainConfig(method=method, options=options))


@pytest.mark.parametrize(("method", "option"), [("lwf", "strength"), ("lwf", "temperature"), ("ewc", "alpha")])
def test_negative_options_are_refused(method: MethodName, option: str) -> None:
    message = f"option {option}=-0.5 of {METHODS[method].__name__} must be finite and not negative"
    with pytest.raises(ConfigError, match=message):
        make_method(TrainConfig(method=method, options={option: -0.5}))


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("lwf", {"temperature": 0.0}),
        ("lwf", {"strength": float("nan")}),
        ("ewc", {"strength": float("inf")}),
        ("ewc", {"alpha": 1.5}),
    ],
    ids=["temperature-0", "strength-nan", "strength-inf", "alpha-above-1"],
)
def test_options_without_meaning_are_refused(method: MethodName, options: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        make_method(TrainConfig(method=method, options=options))


OF_NETWORKS_OF_THEIR_OWN = (AutoActivator, SCLPNC)
LEARN_BY_STEPS = {name: method for name, method in METHODS.items() if method not in OF_NETWORKS_OF_THEIR_OWN}


@pytest.mark.parametrize("method", LEARN_BY_STEPS.values(), ids=LEARN_BY_STEPS)
def test_a_fresh_method_loses_the_cross_entropy_alone_and_can_be_stored(method: type[Method]) -> None:
    torch.manual_seed(0)
    net = ContinualNet(resnet18(None, Widths.of(1), in_channels=1, channels=1), Widths.of(1))
    net.add_head(3)
    step = step_of(net, torch.randn(2, 1, 8, 8), torch.tensor([0, 2]), range(3))
    fresh, loaded = method(), method()
    loaded.load_state_dict(fresh.state_dict(), net)
    for one in (fresh, loaded):
        parts = one.losses(step)
        assert list(parts) == ["cross-entropy"]
        assert torch.equal(parts["cross-entropy"], FineTuning().losses(step)["cross-entropy"])


def test_the_base_has_no_loss() -> None:
    nothing: Any = None
    with pytest.raises(NotImplementedError):
        Method().losses(nothing)
