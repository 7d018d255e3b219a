"""Convolutions slab by slab on several streams, captured in a CUDA graph, beside the same calls one after the other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from slimkern.ops import scroll_conv2d, streams
from slimkern.ops.batch_norm import BatchNorm
from slimkern.ops.convolution import Convolution
from slimkern.ops.scroll_conv2d_batch_norm import scroll_conv2d_batch_norm
from slimkern.ops.streams import in_sequence, on_streams

pytestmark = pytest.mark.gpu

COUNTS = (16, 32, 48, 64)
CONVOLUTION = (48, 48, (1, 1), (1, 1), (1, 1))
LAYERS = 4


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, device="cuda")


def images() -> list[Tensor]:
    return [random(8, count, 9, 9).contiguous(memory_format=torch.channels_last) for count in COUNTS]


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-4 * other.square().mean().sqrt().item())


def test_branches_of_a_graph_give_what_the_calls_give_one_after_the_other() -> None:
    slabs, grads, bias = images(), images(), random(64)
    convolution = Convolution(random(64, 64, 3, 3), *CONVOLUTION, 1)

    def all_of(run: streams.Run) -> list[Tensor]:
        results = convolution.apply_all(slabs, bias, COUNTS, run)
        of_slabs, *others = convolution.backward_all(grads, slabs, [True] * 3, run)
        return [*results, *of_slabs, *others]

    all_of(on_streams)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = all_of(on_streams)
    for _ in range(20):
        for tensor in (*slabs, *grads):
            tensor.normal_()
        graph.replay()
        assert_same(found, all_of(in_sequence))


@pytest.mark.parametrize("norms", [False, True], ids=["scroll_conv2d", "scroll_conv2d_batch_norm"])
def test_memory_of_a_captured_step_of_many_layers_is_not_reused_too_early(
    norms: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slimkern.kernels.tuning import Tuner

    served: set[str] = set()
    way = "torch on streams"

    def fastest(tuner: Tuner, problem: object, ways: object) -> str:
        served.add(way)
        return way

    monkeypatch.setattr(Tuner, "fastest", fastest)
    monkeypatch.setenv("SLIMKERN_BACKEND", "triton,torch")
    slabs = images()
    weights = [(random(64, 64, 3, 3) / 24).requires_grad_() for _ in range(LAYERS)]

    def step() -> list[Tensor]:
        seen = slabs
        for weight in weights:
            if norms:
                norm = BatchNorm(None, None, None, None, 1e-5)
                convolution = Convolution(weight, *CONVOLUTION, 1)
                seen, *_ = scroll_conv2d_batch_norm(seen, convolution, None, COUNTS, norm, [0, 16, 48, 96])
            else:
                seen = scroll_conv2d(seen, weight, None, COUNTS, *CONVOLUTION)
            seen = [own.relu() for own in seen]
        loss = torch.stack([own.square().sum() for own in seen]).sum()
        return [loss.detach(), *torch.autograd.grad(loss, weights)]

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
        found = step()
    assert served == {way}
    for _ in range(20):
        for slab in slabs:
            slab.normal_()
        graph.replay()
        assert_same(found, step())


def test_the_tuner_measures_streams_in_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    from slimkern.kernels.tuning import milliseconds

    slabs, captured = images(), []
    convolution = Convolution(random(64, 64, 3, 3), *CONVOLUTION, 1)
    side = streams._side
    monkeypatch.setattr(streams, "_side", lambda *place: captured.append(place) or side(*place))
    assert milliseconds(lambda: convolution.apply_all(slabs, None, COUNTS, on_streams)) > 0
    assert len(captured) == len(COUNTS) - 1
