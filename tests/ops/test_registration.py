from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from slimkern.ops import scroll_linear, switchable_batch_norm
from slimkern.ops.registration import Signature
from tests.ops.registration import Recorder


class Pair(NamedTuple):
    first: Tensor
    rest: Sequence[int]


def scaled(slabs: Sequence[Tensor], pair: Pair, bias: Tensor | None) -> list[Tensor]:
    raise NotImplementedError


def arguments() -> tuple[list[Tensor], Tensor, Tensor]:
    torch.manual_seed(0)
    slabs = [torch.randn(3, size, requires_grad=True) for size in (2, 4)]
    return slabs, torch.randn(6, 4, requires_grad=True), torch.randn(6, requires_grad=True)


def results_and_gradients() -> list[Tensor]:
    slabs, weight, bias = arguments()
    results = scroll_linear(slabs, weight, bias, [3, 6], 2, 1)
    return [
        *results,
        *torch.autograd.grad(torch.stack([own.square().sum() for own in results]).sum(), [*slabs, weight, bias]),
    ]


def test_a_named_tuple_stands_for_its_fields() -> None:
    signature = Signature(scaled)
    assert signature.schema == "(Tensor[] slabs, Tensor pair_first, SymInt[] pair_rest, Tensor? bias) -> Tensor[]"
    assert signature.tensors == [(0, "slabs"), (1, "pair_first"), (3, "bias")]
    given = [[torch.ones(1)], Pair(torch.ones(2), [3]), None]
    flat = signature.flat(given)
    assert [type(own) for own in flat] == [list, Tensor, list, type(None)]
    assert signature.grouped(flat) == given


def test_the_dispatcher_gives_what_the_direct_call_gives() -> None:
    direct = results_and_gradients()
    with Recorder() as recorder:
        dispatched = results_and_gradients()
    assert [operator.name() for operator, _ in recorder.calls] == ["slimkern::scroll_linear"]
    for one, other in zip(direct, dispatched, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_tensors_without_data_give_shapes() -> None:
    with FakeTensorMode() as mode:
        slabs, weight, bias = arguments()
        results = scroll_linear(slabs, weight, bias, [3, 6])
    assert [tuple(result.shape) for result in results] == [(3, 3), (3, 6)]
    outside = scroll_linear([mode.from_tensor(torch.ones(2, 4))], mode.from_tensor(torch.ones(6, 4)), None, [6])
    assert type(outside[0]) is not Tensor and outside[0].shape == (2, 6)


def test_second_derivatives_are_refused() -> None:
    slabs, weight, bias = arguments()
    (result,) = scroll_linear(slabs[1:], weight, bias, [6])
    (grad,) = torch.autograd.grad(result.square().sum(), [weight], create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        grad.sum().backward()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_no_graph_is_built_where_none_is_wanted(mode: type[torch.no_grad]) -> None:
    slabs, weight, bias = arguments()
    with mode():
        assert not any(result.requires_grad for result in scroll_linear(slabs, weight, bias, [3, 6]))
    (result,) = scroll_linear([slabs[0].detach()], weight.detach(), None, [3])
    assert result.grad_fn is None


def test_graphs_name_the_operator_and_statistics_are_not_differentiable() -> None:
    slab, weight = torch.randn(4, 2, 3, 3, requires_grad=True), torch.ones(2, requires_grad=True)
    (result,), mean, variance = switchable_batch_norm([slab], weight, None, [0])
    assert result.grad_fn is not None and result.grad_fn.name() == "SwitchableBatchNormBackward"
    assert not mean.requires_grad and not variance.requires_grad


def test_only_what_requires_a_gradient_gets_one() -> None:
    slabs, weight, bias = arguments()
    slabs[0].requires_grad_(False)
    results = scroll_linear(slabs, weight, bias.detach(), [3, 6])
    torch.stack([own.sum() for own in results]).sum().backward()
    assert slabs[0].grad is None and slabs[1].grad is not None and weight.grad is not None and bias.grad is None


@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
def test_a_profiler_sees_the_operator(grad: bool) -> None:
    slabs, weight, bias = arguments()
    with torch.set_grad_enabled(grad), torch.autograd.profiler.profile() as profile:
        scroll_linear(slabs, weight, bias, [3, 6])
    assert "slimkern::scroll_linear" in {event.key for event in profile.key_averages()}
