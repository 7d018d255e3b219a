"""A batch norm by the moments that the convolution before it has noted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from slimkern.kernels import scroll_conv2d as kernel
from slimkern.kernels.tuning import Tuner
from slimkern.ops import scroll_conv2d_batch_norm
from slimkern.ops.batch_norm import BatchNorm
from slimkern.ops.convolution import Convolution
from slimkern.ops.scroll_conv2d import scroll_conv2d_moments
from tests.ops.registration import check_registration
from tests.ops.truth import assert_near

INPUTS, OUTPUTS = (8, 16), (16, 32)


@pytest.fixture(autouse=True)
def triton_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIMKERN_BACKEND", "triton,torch")


def leaves(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    torch.manual_seed(0)
    slabs = [torch.randn(3, count, 7, 9).contiguous(memory_format=torch.channels_last) for count in INPUTS]
    # Means of some twenty deviations: from sums of squares the variance would lose digits.
    vectors = [10 + torch.randn(32), torch.rand(48) + 0.5, torch.randn(48)]
    return [own.to(dtype).requires_grad_() for own in (*slabs, 0.05 * torch.randn(32, 16, 3, 3), *vectors)]


def call(leaves: Sequence[Tensor], running: tuple[Tensor, Tensor] | tuple[None, None] = (None, None)) -> Any:
    slabs, (weight, bias, scale, shift) = leaves[:2], leaves[2:]
    convolution = Convolution(weight, 8, 8, (1, 1), (1, 1), (1, 1), 1)
    norm = BatchNorm(scale, shift, *running, 1e-5)
    return scroll_conv2d_batch_norm(slabs, convolution, bias, OUTPUTS, norm, (0, 16), relu=True)


def test_results_statistics_and_gradients_are_those_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    given, truth = leaves(), leaves(torch.float64)
    found = call(given)
    sum(result.square().sum() for result in found[0]).backward()
    monkeypatch.setenv("SLIMKERN_BACKEND", "torch")
    expected = call(truth)
    sum(result.square().sum() for result in expected[0]).backward()
    for one, other in zip((*found[0], *found[2:]), (*expected[0], *expected[2:]), strict=True):
        assert_near("result", one, other, 1e-4)
    for one, other in zip(given, truth, strict=True):
        if one is not given[3]:  # the bias, which a batch norm takes away again
            assert_near("gradient", one.grad, other.grad, 1e-3)


def test_registration() -> None:
    given = leaves()
    convolution = Convolution(given[2], 8, 8, (1, 1), (1, 1), (1, 1), 1)
    check_registration(lambda: scroll_conv2d_moments(given[:2], convolution, given[3], OUTPUTS))


def test_it_is_the_moments_that_say_what_the_statistics_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def doctored(*arguments: Any, forward: Any = kernel.forward) -> Any:
        results, noted = forward(*arguments)
        noted[1] += 5
        return results, noted

    _, _, mean, variance = call(leaves())
    monkeypatch.setattr(kernel, "forward", doctored)
    _, _, moved, same = call(leaves())
    torch.testing.assert_close(moved, mean + 5)
    torch.testing.assert_close(same, variance)


def test_running_statistics_need_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(*arguments: Any, forward: Any = kernel.forward) -> Any:
        assert arguments[6] is False, "moments were asked for"
        return forward(*arguments)

    monkeypatch.setattr(kernel, "forward", without)
    running = torch.zeros(48), torch.ones(48)
    _, convolved, mean, _ = call(leaves(), running)
    assert not mean.any() and len(convolved) == 2


def test_there_are_none_where_torch_is_the_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    given = leaves()
    convolution = Convolution(given[2], 8, 8, (1, 1), (1, 1), (1, 1), 1)
    assert scroll_conv2d_moments(given[:2], convolution, given[3], OUTPUTS)[1] is not None
    monkeypatch.setattr(Tuner, "fastest", lambda *_: "torch")
    results, moments = scroll_conv2d_moments(given[:2], convolution, given[3], OUTPUTS)
    assert moments is None and results[0].requires_grad
