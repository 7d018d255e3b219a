"""Lists of operators: what they replay, and what they refuse."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import slimkern as sk
from slimkern.graphs.operators import OperatorGraphs
from slimkern.graphs.recorded import Step
from slimkern.width_batch import WidthBatch

IMAGES = torch.randn(4, 3, 8, 8)


def replay_of(step: Step, *tensors: Tensor) -> Step:
    recorded = OperatorGraphs().record(step, tensors)
    assert recorded.reason is None and recorded.replay is not None
    return recorded.replay


def reason(step: Step, *tensors: Tensor) -> str:
    recorded = OperatorGraphs().record(step, tensors or (torch.ones(3),))
    assert recorded.replay is None
    return recorded.reason or ""


def network(widths: int | None) -> nn.Module:
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3, stride=2), nn.BatchNorm2d(4)]
    plain = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.5), nn.Linear(16, 4))
    return plain if widths is None else sk.scrollify(plain, widths, whole_in=["0"], whole_out=["7"])


@pytest.mark.parametrize("widths", [None, 4], ids=["plain", "every width"])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["float32", "autocast"])
def test_a_replayed_step_does_what_an_eager_one_does(widths: int | None, dtype: torch.dtype | None) -> None:
    def step_of(net: nn.Module) -> tuple[nn.Module, Step]:
        optimiser = torch.optim.SGD(net.parameters(), torch.tensor(0.1), momentum=0.9, fused=True)

        def step(images: Tensor) -> Tensor:
            optimiser.zero_grad(set_to_none=True)
            with torch.autocast("cpu", dtype, enabled=dtype is not None):
                slabs = [net(images)] if widths is None else net(sk.every_width(images)).slabs
            losses = torch.stack([slab.float().square().mean() for slab in slabs])
            losses.sum().backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()
            return losses.detach()

        return net, step

    (eager_net, eager), (net, own) = step_of(base := network(widths)), step_of(copy.deepcopy(base))
    batches = [torch.randn(4, 3, 8, 8) for _ in range(4)]
    torch.manual_seed(0)
    expected = [eager(images) for images in batches]
    torch.manual_seed(0)
    found = [own(batches[0])]
    recorded = OperatorGraphs().record(own, (batches[1],))
    assert recorded.replay is not None
    found += [recorded.result, *map(recorded.replay, batches[2:])]
    assert torch.equal(torch.stack(found), torch.stack(expected))
    for one, other in zip(eager_net.state_dict().values(), net.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    for one, other in zip(eager_net.parameters(), net.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None and torch.equal(one.grad, other.grad)


def test_results_keep_their_structure_and_plain_values() -> None:
    replay = replay_of(lambda x: {"both": (x + 1, [x * 2]), "name": "one"}, torch.zeros(2))
    found = replay(torch.ones(2))
    assert found["name"] == "one" and found["both"][0].tolist() == [2, 2] and found["both"][1][0].tolist() == [2, 2]


def test_a_number_that_becomes_a_tensor_starts_anew_each_time() -> None:
    def step(x: Tensor) -> Tensor:
        total = torch.tensor(1.0)
        total += x.sum()
        return total

    replay = replay_of(step, torch.ones(2))
    assert [float(replay(torch.ones(2))) for _ in range(2)] == [3, 3]


def test_random_numbers_are_drawn_anew_from_where_the_generator_is() -> None:
    replay = replay_of(lambda x: F.dropout(x, 0.5), torch.ones(64))
    torch.manual_seed(3)
    first, second = replay(torch.ones(64)), replay(torch.ones(64))
    torch.manual_seed(3)
    assert torch.equal(first, F.dropout(torch.ones(64), 0.5)) and not torch.equal(first, second)


def test_surroundings_are_read_as_they_are_and_changed_in_place() -> None:
    weight, count = torch.ones(2), torch.zeros(())
    replay = replay_of(lambda x: (count.add_(1), x * weight)[1], torch.ones(2))
    weight.fill_(5)
    assert replay(torch.ones(2)).tolist() == [5, 5] and float(count) == 2


def test_views_of_inputs_and_of_results_follow_them() -> None:
    def step(x: Tensor) -> Tensor:
        top, rest = x[:1], (x * 2)[1:]
        top.add_(1)
        rest.t().mul_(3)
        return torch.cat([x[:1], rest])

    replay = replay_of(step, torch.ones(2, 2))
    assert replay(torch.full((2, 2), 2.0)).tolist() == [[3, 3], [12, 12]]


def test_a_gradient_that_is_left_behind_is_the_replays_own() -> None:
    weight = torch.ones(2, requires_grad=True)

    def step(x: Tensor) -> None:
        weight.grad = None
        (x * weight).sum().backward()

    replay = replay_of(step, torch.ones(2))
    replay(torch.full((2,), 7.0))
    assert weight.grad is not None and weight.grad.tolist() == [7, 7]


def test_a_step_that_reads_the_gradients_of_the_one_before_is_refused() -> None:
    weight = torch.ones(2, requires_grad=True)
    weight.grad = torch.ones(2)

    def step(x: Tensor) -> Tensor:
        assert weight.grad is not None
        norm, weight.grad = weight.grad.norm(), None
        (x * weight).sum().backward()
        return norm

    assert "without an operator" in reason(step, torch.ones(2))


def test_autocast_outside_of_a_replay_changes_nothing() -> None:
    weight = torch.randn(4, 4)
    replay = replay_of(lambda x: x @ weight, torch.randn(2, 4))
    x = torch.randn(2, 4)
    with torch.autocast("cpu", torch.bfloat16):
        result = replay(x)
    assert torch.equal(result, x @ weight)


def test_neither_recording_nor_replaying_keeps_results() -> None:
    alive: list[weakref.ref] = []

    def step(x: Tensor) -> Tensor:
        own = x * 2
        alive.append(weakref.ref(own.untyped_storage()))
        return own.sum()

    replay = replay_of(step, torch.ones(8))
    gc.collect()
    assert alive[0]() is None
    assert float(replay(torch.ones(8))) == 16


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda x: x.sum().item(), "depends on the values of tensors by aten._local_scalar_dense"),
        (lambda x: bool(x[0] > 0), "depends on the values of tensors by aten._local_scalar_dense"),
        (lambda x: x[x > 0], "depends on the values of tensors by aten.index.Tensor"),
        (lambda x: x.nonzero(), "depends on the values of tensors by aten.nonzero"),
        (lambda x: torch.equal(x, x), "depends on the values of tensors by aten.equal"),
        (lambda x: x.tolist(), "reads a tensor by tolist"),
        (lambda x: x.detach().numpy(), "reads a tensor by numpy"),
        (lambda x: repr(x), "reads a tensor by __repr__"),
        (lambda x: torch.tensor([x.sum(), x.mean()]), "reads a tensor by tensor"),
        (lambda x: torch.manual_seed(1), "sets the state of the random generator"),
        (lambda x: x + torch.randn(3, generator=torch.Generator()), "takes a Generator"),
        (lambda x: copy.deepcopy(x * 2), "takes a UntypedStorage"),
        (lambda x: torch.eye(3).to_sparse() @ x, "tensors of layout torch.sparse_coo"),
        (lambda x: nn.LSTM(3, 2)(x[None]), "depends on the mode of autograd"),
        (lambda x: x.requires_grad_(), "asks for the gradient of a tensor that it is given"),
    ],
    ids=[
        "item",
        "bool",
        "mask",
        "nonzero",
        "equal",
        "tolist",
        "numpy",
        "repr",
        "tensor",
        "seed",
        "generator",
        "storage",
        "sparse",
        "lstm",
        "gradient",
    ],
)
def test_a_step_that_python_decides_by_values_in_is_taken_but_not_recorded(
    read: Callable[[Tensor], Any], message: str
) -> None:
    steps = torch.zeros(())

    def step(x: Tensor) -> None:
        steps.add_(1)
        read(x)
        steps.add_(1)

    assert message in reason(step)
    assert float(steps) == 2


def test_a_step_that_puts_the_random_generator_back_is_not_recorded() -> None:
    def step(x: Tensor) -> None:
        y = x.clone().requires_grad_()
        checkpoint(F.dropout, y, use_reentrant=False).sum().backward()

    assert "sets the state of the random generator" in reason(step)


def test_an_error_of_the_step_is_the_callers() -> None:
    with pytest.raises(ZeroDivisionError):
        OperatorGraphs().record(lambda x: 1 // 0, (torch.ones(1),))


def test_what_is_compiled_is_refused() -> None:
    graphs, net = OperatorGraphs(), nn.Linear(2, 2)
    assert graphs.refuses_step(net, [nn.Sequential(net)]) is None
    for step, modules in ((torch.compile(lambda x: x), []), (net, [nn.Sequential(torch.compile(net))])):
        assert graphs.refuses_step(step, modules) == "it is compiled, or a part of it"
    net.compile()
    assert graphs.refuses_step(lambda x: x, [net]) == "it is compiled, or a part of it"


def test_tensors_elsewhere_and_subclasses_are_refused() -> None:
    graphs = OperatorGraphs()
    assert graphs.refuses([torch.ones(1)]) is None
    assert "some are on meta" in (graphs.refuses([torch.ones(1), torch.ones(1, device="meta")]) or "")
    assert "some are Parameter" in (graphs.refuses([nn.Parameter(torch.ones(1))]) or "")


def test_inputs_may_share_memory_with_what_the_step_reads() -> None:
    data = torch.arange(6.0)
    replay = replay_of(lambda x: x + 100 * data[0], data[:2])
    data[0] = 1
    assert replay(data[4:]).tolist() == [104, 105]


def test_inputs_that_share_memory_with_each_other_are_refused() -> None:
    x = torch.ones(4)
    assert "some share their memory" in (OperatorGraphs().refuses([x, x[1:]]) or "")
    assert "conjugated or negated" in (OperatorGraphs().refuses([torch.ones(1, dtype=torch.complex64).conj()]) or "")


def test_inputs_are_changed_in_place_by_the_recorded_call_too() -> None:
    x = torch.zeros(3)
    replay = replay_of(lambda x: x.add_(1), x)
    assert x.tolist() == [1, 1, 1]
    replay(x)
    assert x.tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    "view", [lambda x: x[::2], lambda x: x.t(), lambda x: x[:1].expand(4, 4), lambda x: x[:0]], ids=list("stef")
)
def test_inputs_keep_their_layout(view: Callable[[Tensor], Tensor]) -> None:
    strides = []
    replay = replay_of(lambda x: (strides.append(x.stride()), x * 2)[1], view(torch.ones(4, 4)))
    x = view(torch.randn(4, 4))
    assert torch.equal(replay(x), 2 * x) and strides == [x.stride()]


def test_a_result_of_another_kind_is_refused() -> None:
    assert reason(lambda x: WidthBatch((x,), (1.0,))) == "the step gives something else than tensors: WidthBatch"


def test_a_tensor_that_no_operator_makes_is_noticed() -> None:
    def step(x: Tensor) -> Tensor:
        return x + ThreadPoolExecutor(1).submit(lambda: x * 2).result()

    assert "without an operator, or on a thread of its own" in reason(step)


def test_a_step_of_inference_mode() -> None:
    net = nn.Linear(3, 2)
    step = sk.capture(lambda x: net(x), net, warmup=0)
    with torch.inference_mode():
        for _ in range(3):
            x = torch.randn(4, 3)
            assert torch.equal(step(x), net(x))
    assert step.recorded == 1 and step.reason is None


def test_what_was_cast_before_in_the_same_context_is_cast_again() -> None:
    layer = nn.Linear(2, 2, bias=False)
    launch = sk.capture(lambda x: layer(x).sum().detach(), layer)
    for value in range(1, 4):
        with torch.no_grad():
            layer.weight.fill_(value)
        with torch.autocast("cpu", torch.bfloat16):
            assert [float(launch(torch.ones(1, 2))) for _ in range(3)] == [4 * value] * 3


def test_conjugated_views_are_told_apart() -> None:
    replay = replay_of(lambda x: x.conj() * 2 + x, torch.ones(2, dtype=torch.complex64))
    assert replay(torch.full((2,), 1 + 1j)).tolist() == [3 - 1j] * 2


def test_a_step_that_makes_its_state_while_it_is_recorded_is_refused() -> None:
    weight = nn.Parameter(torch.ones(2))
    optimiser = torch.optim.SGD([weight], 0.1, momentum=0.9)

    def step(x: Tensor) -> None:
        optimiser.zero_grad()
        (x * weight).sum().backward()
        optimiser.step()

    launch = sk.capture(step, warmup=0)
    launch(torch.ones(2))
    assert "keeps a tensor that it makes" in (launch.reason or "")
    later = sk.capture(step, warmup=1)
    for _ in range(3):
        later(torch.ones(2))
    assert later.recorded == 1 and later.reason is None


def test_what_is_derived_from_frozen_weights_is_derived_anew() -> None:
    layer = nn.Linear(1, 1, bias=False).eval().requires_grad_(False)
    kept: dict[int, Tensor] = {}

    def step(x: Tensor) -> Tensor:
        version = layer.weight._version
        if version not in kept:
            kept[version] = layer.weight * 2
        return x * kept[version]

    launch = sk.capture(step, layer, warmup=1)
    for value in (1.0, 5.0):
        layer.weight.fill_(value)
        assert [float(launch(torch.ones(1, 1))) for _ in range(3)] == [2 * value] * 3
