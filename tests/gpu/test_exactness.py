"""Every operator by its kernels on a GPU: its error beside that of plain torch at the same precision, by float64.

Whoever runs this gets the figures as well, as properties of the tests in a report (`--junit-xml`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from slimkern.continual.precision import tensor_float_32
from slimkern.ops import pack_weights, ragged_head, scroll_conv2d, scroll_linear, switchable_batch_norm
from slimkern.ops.batch_norm import BatchNorm
from slimkern.ops.convolution import Convolution
from slimkern.ops.scroll_conv2d_batch_norm import scroll_conv2d_batch_norm

pytestmark = pytest.mark.gpu

DEVICE = "cuda"
DTYPES = {"ieee": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
COUNTS, OFFSETS = (16, 32, 48, 64), (0, 16, 48, 96)
SIDE, BATCH, CLASSES = 16, 16, 10
TIMES = {"ieee": 2, "tf32": 4, "bfloat16": 2, "float16": 2}
"""As many times plain torch's error are allowed. Hopper's tensor cores cut numbers to TF32 that others round."""

SLACK = {"ieee": 3e-6, "tf32": 3e-6, "bfloat16": 1e-5, "float16": 1e-5}
"""Of a result's size: where plain torch happens to be exact, or adds float32 up in a luckier order."""

Named = dict[str, Tensor]
Operator = Callable[[Callable[..., Tensor], int], Sequence[Tensor]]
"""Given what draws tensors that want gradients, and the scroll: the results."""


def convolved(draw: Callable[..., Tensor], scroll: int) -> Sequence[Tensor]:
    slabs = [draw(BATCH, count, SIDE, SIDE) for count in COUNTS]
    return scroll_conv2d(slabs, draw(64, 64, 3, 3), None, COUNTS, 16 * scroll, 16 * scroll, (1, 1), (1, 1))


def strided(draw: Callable[..., Tensor], scroll: int) -> Sequence[Tensor]:
    slabs = [draw(BATCH, count, SIDE, SIDE) for count in COUNTS]
    outputs = [2 * count for count in COUNTS]
    return scroll_conv2d(slabs, draw(128, 64, 3, 3), draw(128), outputs, 32 * scroll, 16 * scroll, (2, 2), (1, 1))


def stem(draw: Callable[..., Tensor], scroll: int) -> Sequence[Tensor]:
    return scroll_conv2d([draw(BATCH, 3, SIDE, SIDE)], draw(64, 3, 3, 3), None, COUNTS, 16 * scroll, 0, (1, 1), (1, 1))


def linear(draw: Callable[..., Tensor], scroll: int) -> Sequence[Tensor]:
    slabs = [draw(BATCH, count) for count in COUNTS]
    return scroll_linear(slabs, draw(64, 64), draw(64), COUNTS, 16 * scroll, 16 * scroll)


def convolved_and_normalised(draw: Callable[..., Tensor], scroll: int) -> Sequence[Tensor]:
    """The convolution notes the moments that the batch norm takes."""
    slabs, residuals = ([draw(BATCH, count, SIDE, SIDE) for count in COUNTS] for _ in range(2))
    convolution = Convolution(draw(64, 64, 3, 3), 16 * scroll, 16 * scroll, (1, 1), (1, 1), (1, 1), 1)
    norm = BatchNorm(draw(160, float32=True), draw(160, float32=True), None, None, 1e-5)
    results, _, mean, variance = scroll_conv2d_batch_norm(
        slabs, convolution, None, COUNTS, norm, OFFSETS, residuals, True
    )
    return [*results, mean, variance]


def normalised(draw: Callable[..., Tensor], scroll: int) -> Sequence[Tensor]:
    slabs, residuals = ([draw(BATCH, count, SIDE, SIDE) for count in COUNTS] for _ in range(2))
    vectors = draw(160, float32=True), draw(160, float32=True)
    results, mean, variance = switchable_batch_norm(slabs, *vectors, OFFSETS, residuals=residuals, relu=True)
    return [*results, mean, variance]


def classified(draw: Callable[..., Tensor], scroll: int) -> Sequence[Tensor]:
    labels = torch.arange(BATCH, device=DEVICE) % CLASSES
    slabs = [draw(BATCH, count, 4, 4) for count in COUNTS]
    losses, logits = ragged_head(
        slabs, draw(CLASSES, 64, float32=True), draw(CLASSES, float32=True), labels, 16 * scroll
    )
    return [losses, *logits]


def packed(draw: Callable[..., Tensor], scroll: int) -> Sequence[Tensor]:
    weight = draw(64, 64, 3, 3, float32=True)
    return pack_weights([weight], [(0, count, count, 16 * scroll, 16 * scroll) for count in COUNTS])


OPERATORS: dict[str, tuple[Operator, str]] = {
    "scroll_conv2d": (convolved, "triton"),
    "scroll_conv2d_strided": (strided, "triton"),
    "scroll_conv2d_stem": (stem, "triton"),
    "scroll_linear": (linear, "triton"),
    "scroll_conv2d_batch_norm": (convolved_and_normalised, "triton,native"),
    "switchable_batch_norm": (normalised, "native"),
    "ragged_head": (classified, "native"),
    "pack_weights": (packed, "native"),
}


def outcome(operator: Operator, scroll: int, dtype: torch.dtype, computed: torch.dtype) -> Named:
    """Results and gradients of what is drawn in `dtype`, `computed` in that or in float64."""
    torch.manual_seed(scroll)
    leaves: list[Tensor] = []

    def draw(*shape: int, float32: bool = False) -> Tensor:
        values = torch.randn(*shape, device=DEVICE).to(torch.float32 if float32 else dtype)
        if len(shape) == 4:
            values = values.contiguous(memory_format=torch.channels_last)
        wide = computed if computed == torch.float64 else values.dtype
        leaves.append(values.to(wide).requires_grad_())
        return leaves[-1]

    results = operator(draw, scroll)
    differentiable = [own for own in results if own.requires_grad]
    torch.autograd.backward(differentiable, [own.detach().cos() for own in differentiable])
    gradients = {f"gradient of {place}": leaf.grad for place, leaf in enumerate(leaves)}
    return {f"result {place}": own.detach() for place, own in enumerate(results)} | gradients


def error(own: Tensor, true: Tensor) -> float:
    """The root mean square of an error, relative to the truth's."""
    return ((own.double() - true).square().mean() / true.square().mean()).sqrt().item()


def same_bits(first: Named, second: Named) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def fresh_tuner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No choices but what is tried first."""
    from slimkern.kernels import tuning

    none = tmp_path / "none.json"
    monkeypatch.setattr(tuning, "tuner", cache(lambda device: tuning.Tuner(device, own=none, shipped=none)))
    yield


@pytest.mark.usefixtures("fresh_tuner")
@pytest.mark.parametrize("scroll", [0, 1])
@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("name", OPERATORS)
def test_kernels_are_as_exact_as_plain_torch(
    name: str,
    kind: str,
    scroll: int,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    operator, backends = OPERATORS[name]
    dtype = DTYPES[kind]
    with tensor_float_32("tf32" if kind == "tf32" else "fp32"):
        monkeypatch.setenv("SLIMKERN_BACKEND", "torch")
        true, plain = (outcome(operator, scroll, dtype, computed) for computed in (torch.float64, dtype))
        monkeypatch.setenv("SLIMKERN_BACKEND", backends)
        first, second = (outcome(operator, scroll, dtype, dtype) for _ in range(2))
    assert same_bits(first, second)
    for what in true:
        own, torchs = error(first[what], true[what]), error(plain[what], true[what])
        record_property(what, f"{own:.2e}, plain torch {torchs:.2e}")
        assert own <= TIMES[kind] * torchs + SLACK[kind], f"{what}: {own:.1e}, plain torch {torchs:.1e}"
