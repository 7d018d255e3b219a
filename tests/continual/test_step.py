from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from slimkern.captured_step import CapturedStep
from slimkern.continual.config import TrainConfig
from slimkern.continual.data.augment import Augmentation
from slimkern.continual.loss_ring import LossRing
from slimkern.continual.methods import make_method
from slimkern.continual.network import ContinualNet
from slimkern.continual.optimiser import Optimiser
from slimkern.continual.step import TrainStep
from slimkern.models import resnet18
from slimkern.models.resnet import ResNet
from slimkern.nn import scrollify
from slimkern.widths import Widths
from tests.logged_graphs import LoggedGraphs

STEPS = 5
TOLERANCE = {"fp32": 1e-5, "tf32": 1e-5, "bf16": 0.05, "fp16": 0.01}
CPU = torch.device("cpu")

Launch = Callable[..., Any]


class TwoLayers(nn.Module):
    features = 8

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8)]
        self.layers = scrollify(nn.Sequential(*layers), widths, whole_in=["0"])

    def maps(self, images: Any) -> Any:
        return self.layers(images)


def make_step(precision: Any = "fp32", recompute: bool = False, backbone: nn.Module | None = None) -> TrainStep:
    torch.manual_seed(0)
    config = TrainConfig(channels=4, learning_rate=0.05, momentum=0.9, precision=precision)
    widths = config.all_widths()
    backbone = backbone or resnet18(None, widths, in_channels=1, channels=4, recompute=recompute)
    net = ContinualNet(cast(ResNet, backbone), widths)
    net.add_head(5)
    return TrainStep(
        net.to(memory_format=torch.channels_last).train(),
        make_method(config),
        range(5),
        Optimiser(list(net.parameters()), config),
        Augmentation.named("crop-flip", [0.3], [0.2]),
        precision,
        LossRing(STEPS, CPU),
    )


def losses_of(step: TrainStep, launch: Launch | None = None, sizes: tuple[int, ...] = (8,) * STEPS) -> Tensor:
    """What a few steps lose, float32 [steps, widths]."""
    torch.manual_seed(1)
    for size in sizes:
        images = torch.randint(256, (size, 1, 8, 8), dtype=torch.uint8)
        (launch or step)(images, torch.arange(size) % 5)
    return step.ring.read()[1]


def logged(step: TrainStep) -> CapturedStep:
    LoggedGraphs.log.clear()
    return CapturedStep(step, (step.net,), graphs=LoggedGraphs, warmup=1)


@pytest.mark.parametrize("precision", TOLERANCE)
def test_a_recorded_step_loses_what_an_eager_one_does(precision: str) -> None:
    eager, recorded = make_step(precision), make_step(precision)
    launch = logged(recorded)
    assert torch.equal(losses_of(eager), losses_of(recorded, launch))
    assert LoggedGraphs.log == ["eager", "recorded", *["replayed"] * (STEPS - 2)] and launch.reason is None
    for one, other in zip(eager.net.state_dict().values(), recorded.net.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_recorded_steps_follow_the_learning_rate_and_shorter_batches() -> None:
    eager, recorded = make_step(), make_step()
    launch = logged(recorded)
    sizes = (8, 8, 5, 5, 8)
    for rate in (0.05, 0.005):
        for step, way in ((eager, eager), (recorded, launch)):
            step.optimiser.set_rate(rate)
            step.ring.rewind()
            losses_of(step, way, sizes)
        assert torch.equal(eager.ring.read()[1], recorded.ring.read()[1])
    assert launch.recorded == 2


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_compiled_step_loses_what_an_eager_one_does(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    backbone = TwoLayers(Widths.of(4))
    truth = losses_of(make_step(precision, backbone=copy.deepcopy(backbone)))
    monkeypatch.setattr(TrainStep, "losses", torch.compile(TrainStep.losses, fullgraph=True, backend="aot_eager"))
    compiled = losses_of(make_step(precision, backbone=backbone))
    torch.testing.assert_close(compiled, truth, rtol=TOLERANCE[precision], atol=TOLERANCE[precision])


def test_resnet18_compiled_by_inductor_loses_what_an_eager_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = (8,) * 3
    truth = losses_of(make_step(), sizes=sizes)
    monkeypatch.setattr(TrainStep, "losses", torch.compile(TrainStep.losses))
    compiled = losses_of(make_step(), sizes=sizes)
    # Of 18 layers, whose sums are taken in another order from step to step.
    torch.testing.assert_close(compiled, truth, rtol=1e-3, atol=1e-3)
    assert (compiled[0] > 0).all() and not torch.equal(compiled[0], compiled[2])


@pytest.mark.parametrize("precision", TOLERANCE)
def test_precisions_agree_within_their_tolerance(precision: str) -> None:
    exact, rough = (losses_of(make_step(own), sizes=(8,)) for own in ("fp32", precision))
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=TOLERANCE[precision], atol=TOLERANCE[precision])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_weights_gradients_and_statistics_stay_float32(precision: str) -> None:
    step = make_step(precision)
    losses_of(step)
    tensors = [*step.net.state_dict().values(), *(own.grad for own in step.net.parameters() if own.grad is not None)]
    assert {tensor.dtype for tensor in tensors} == {torch.float32, torch.int64}


@pytest.mark.parametrize("launch", [None, logged], ids=["eager", "recorded"])
def test_recomputing_loses_the_same(launch: Callable[[TrainStep], Launch] | None) -> None:
    kept, again = make_step(), make_step(recompute=True)
    truth = losses_of(kept)
    assert torch.equal(losses_of(again, launch and launch(again)), truth)
    for one, other in zip(kept.net.state_dict().values(), again.net.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_a_step_may_train_some_widths() -> None:
    step = make_step()
    losses_of(step, partial(step, widths=(0.25, 1.0)), (8, 8))
    names, losses, present = step.ring.read()
    assert names == ["cross-entropy", "cross-entropy at 0.25"]
    assert present[:2].all() and (losses[:2] > 0).all()
    with pytest.raises(ValueError, match=r"widths \(0\.3, 1\.0\) met a layer of widths"):
        losses_of(step, partial(step, widths=(0.3, 1.0)), (8,))
