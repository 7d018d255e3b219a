"""Twenty steps of a small ResNet-18 as a CUDA graph, by the kernels, beside plain torch's, launched one by one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import slimkern as sk
from slimkern.continual.config import TrainConfig
from slimkern.continual.optimiser import Optimiser
from slimkern.continual.precision import PrecisionName, autocast, tensor_float_32
from slimkern.models import resnet18

pytestmark = pytest.mark.gpu

DEVICE = "cuda"
KERNELS, PLAIN = "triton,native,torch", "torch"
STEPS, BATCHES, IMAGES, CLASSES = 20, 5, 16, 10
TOLERANCE = {"fp32": 1e-2, "bf16": 0.1}


def trained(backend: str, precision: PrecisionName, scroll: int, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The losses of all steps and then the weights; captured unless plain torch is asked for."""
    monkeypatch.setenv("SLIMKERN_BACKEND", backend)
    torch.manual_seed(0)
    net = resnet18(CLASSES, widths=4, channels=32).to(DEVICE, memory_format=torch.channels_last).train()
    sk.scroll_to(net, task=scroll)
    optimiser = Optimiser(list(net.parameters()), TrainConfig(learning_rate=0.01, precision=precision))
    batches = [
        (torch.randn(IMAGES, 3, 32, 32, device=DEVICE), torch.randint(CLASSES, (IMAGES,), device=DEVICE))
        for _ in range(BATCHES)
    ]

    def step(images: Tensor, labels: Tensor) -> Tensor:
        with autocast(precision, torch.device(DEVICE)):
            loss = sk.cross_entropies(net.maps(sk.every_width(images)), [net.head], labels).sum()
        optimiser.step(loss)
        return loss.detach()

    taken = sk.capture(step, net, eager_because="it is the measure" if backend == PLAIN else None)
    with tensor_float_32(precision):
        losses = [taken(*batches[number % BATCHES]).clone() for number in range(STEPS)]
    if backend != PLAIN:
        assert (taken.reason, taken.recorded) == (None, 1)
    return [torch.stack(losses), *(own.detach().clone() for own in net.parameters())]


def largest_difference(own: Tensor, other: Tensor) -> float:
    """Relative to the other's."""
    return ((own - other).abs() / other.abs()).max().item()


def same_bits(own: list[Tensor], others: list[Tensor]) -> bool:
    return all(torch.equal(first, second) for first, second in zip(own, others, strict=True))


@pytest.mark.parametrize("scroll", range(4))
@pytest.mark.parametrize("precision", TOLERANCE)
def test_captured_steps_by_kernels_lose_what_plain_torch_loses(
    precision: PrecisionName, scroll: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (trained(KERNELS, precision, scroll, monkeypatch) for _ in range(2))
    plain = trained(PLAIN, precision, scroll, monkeypatch)
    assert largest_difference(first[0], plain[0]) < TOLERANCE[precision], [first[0].tolist(), plain[0].tolist()]
    assert same_bits(first, second)
