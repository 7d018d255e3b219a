"""The Triton kernels on a GPU: every configuration, beside cuDNN at the same precision and float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from slimkern.kernels import why_unavailable
from slimkern.kernels.geometry import Geometry, Pair
from slimkern.ops import pack_weights

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable())),
]

DEVICE = "cuda"
DTYPES = {"ieee": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SHARES = (1, 2, 3, 4)
SLACK = 1e-6
"""Of the result's size: where cuDNN happens to be exact."""


@dataclass(frozen=True)
class Case:
    """Four widths of a layer, three quarters scrolled."""

    channels: Pair
    side: int
    stride: int = 1
    kernel: int = 3
    batch: int = 8


CASES = {
    "narrow_32x32": Case((64, 64), 32),
    "stride_2": Case((128, 64), 32, stride=2),
    "one_by_one_stride_2": Case((256, 128), 16, stride=2, kernel=1),
    "wide_4x4": Case((512, 512), 4, batch=20),
    "odd_14x14": Case((96, 96), 14, batch=3),
    "odd_33x33_stride_2": Case((64, 32), 33, stride=2, batch=1),
    "stem": Case((64, 3), 32),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
every_kind = pytest.mark.parametrize("kind", DTYPES, ids=["float32_exact", "float32_as_tf32", "bfloat16", "float16"])


class Layer:
    """The tensors of a case."""

    def __init__(self, case: Case, kind: str) -> None:
        torch.manual_seed(0)
        dtype = DTYPES[kind]
        rows, columns = case.channels
        self.kind, self.stem, self.batch, self.image = kind, columns == 3, case.batch, (case.side, case.side)
        self.geometry = Geometry((case.kernel,) * 2, (case.stride,) * 2, (case.kernel // 2,) * 2)
        self.outputs = tuple(rows * share // 4 for share in SHARES)
        self.inputs = (3,) if self.stem else tuple(columns * share // 4 for share in SHARES)
        self.offsets = (rows * 3 // 4, 0 if self.stem else columns * 3 // 4)
        result = self.geometry.result(self.image)
        self.slabs = [packed(case.batch, count, *self.image, dtype=dtype) for count in self.inputs]
        self.grads = [packed(case.batch, count, *result, dtype=dtype) for count in self.outputs]
        self.weight = packed(rows, columns, case.kernel, case.kernel, dtype=dtype)
        self.seen = self.slabs * (len(SHARES) // len(self.slabs))
        sizes = zip(self.outputs, [slab.shape[1] for slab in self.seen], strict=True)
        self.parts = pack_weights([self.weight.float()], [(0, *size, *self.offsets) for size in sizes], dtype)

    def by_torch(self, operation: str, dtype: torch.dtype) -> list[Tensor]:
        """Slab by slab; the weight's gradients are added up in float64."""
        of_weight = torch.zeros(self.weight.shape, dtype=torch.float64, device=DEVICE)
        results = []
        for slab, grad, part in zip(self.seen, self.grads, self.parts, strict=True):
            x, w, g = slab.to(dtype), part.to(dtype), grad.to(dtype)
            _, stride, padding, dilation = self.geometry
            if operation == "forward":
                results.append(F.conv2d(x, w, None, stride, padding, dilation))
                continue
            of_slab, of_part, _ = torch.ops.aten.convolution_backward(
                g, x, w, None, stride, padding, dilation, False, [0, 0], 1, [True, True, False]
            )
            results.append(of_slab)
            rows, columns = (
                (torch.arange(count, device=DEVICE) + offset) % total
                for count, offset, total in zip(part.shape, self.offsets, self.weight.shape, strict=False)
            )
            of_weight[rows[:, None], columns] += of_part.double()
        return [of_weight] if operation == "weight gradient" else results

    def by_triton(self) -> Iterator[tuple[str, str, Callable[[Any], Sequence[Tensor]]]]:
        """Each pass and way, and a launch by a configuration."""
        from slimkern.kernels.scroll_conv2d import forward, input_gradient
        from slimkern.kernels.scroll_conv2d_stem import forward_shared
        from slimkern.kernels.scroll_conv2d_weight_gradient import weight_gradient
        from slimkern.kernels.slab_table import nested
        from slimkern.kernels.slab_table import packed as packed_table

        nests, master = nested(self.weight, self.inputs, self.outputs, *self.offsets), self.weight.float()
        yield (
            "weight gradient",
            "in place",
            lambda own: weight_gradient(self.grads, self.slabs, [master], None, nests, self.geometry, own)[0],
        )
        if self.stem:
            yield (
                "stem",
                "in place",
                lambda own: forward_shared(self.slabs[0], self.weight, None, nests, self.geometry, own)[0],
            )
            return
        storage = self.parts[0].untyped_storage()
        flat = self.weight.new_empty(0).set_(storage, 0, (storage.nbytes() // self.weight.element_size(),))
        for way, table, weight in (
            ("in place", nests, self.weight),
            ("packed", packed_table(self.parts, self.inputs), flat),
        ):
            yield "forward", way, partial(self._forward, forward, table, weight)
            yield (
                "input gradient",
                way,
                partial(input_gradient, self.grads, [weight], table, self.geometry, self.image),
            )

    def _forward(self, forward: Callable[..., Any], table: Any, weight: Tensor, own: Any) -> list[Tensor]:
        return forward(self.slabs, [weight], None, table, self.geometry, own)[0]

    def candidates(self, operation: str) -> list[Any]:
        from slimkern.kernels.problem import Problem

        properties = torch.cuda.get_device_properties(DEVICE)
        inputs = tuple(slab.shape[1] for slab in self.seen)
        problem = Problem(operation, self.kind, self.batch, self.image, inputs, self.outputs, self.geometry)
        return problem.candidates(properties.major >= 9, properties.shared_memory_per_block_optin)


def packed(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(*shape, device=DEVICE, dtype=dtype).contiguous(memory_format=torch.channels_last)


def errors(given: Sequence[Tensor], truths: Sequence[Tensor]) -> float:
    """The largest root mean square of an error, relative to the truth's."""
    return max(
        ((own.double() - true).square().mean() / true.square().mean()).sqrt().item()
        for own, true in zip(given, truths, strict=True)
    )


@pytest.fixture
def precision(kind: str) -> Iterator[None]:
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = kind == "tf32"
    yield
    torch.backends.cudnn.allow_tf32 = allowed


@pytest.mark.usefixtures("precision")
@every_kind
@every_case
def test_every_configuration_is_as_exact_as_cudnn(case: Case, kind: str) -> None:
    from slimkern.kernels.tuning import UNSUITABLE

    layer = Layer(case, kind)
    for operation, way, launch in layer.by_triton():
        computed = "forward" if operation == "stem" else operation
        truths = layer.by_torch(computed, torch.float64)
        allowed = 2 * errors(layer.by_torch(computed, DTYPES[kind]), truths) + SLACK
        served = 0
        for configuration in layer.candidates(operation):
            try:
                given = launch(configuration)
            except UNSUITABLE:
                continue
            served += 1
            error = errors(given, truths)
            assert error <= allowed, f"{operation} {way} {configuration.name}: {error:.1e} exceeds {allowed:.1e}"
        assert served, f"nothing serves {operation} {way}"


@pytest.mark.parametrize("kind", ["bfloat16"])
@every_case
def test_a_captured_launch_gives_the_same_bits(case: Case, kind: str) -> None:
    layer = Layer(case, kind)
    for operation, _, launch in layer.by_triton():
        configuration = layer.candidates(operation)[-1]
        eager = launch(configuration)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            replayed = launch(configuration)
        for _ in range(2):
            graph.replay()
            assert all(torch.equal(first, second) for first, second in zip(eager, replayed, strict=True))


def test_a_launch_that_was_never_made_is_refused_in_a_graph() -> None:
    layer = Layer(Case((64, 64), 9, batch=5), "bfloat16")
    operation, _, launch = next(layer.by_triton())
    with (
        pytest.raises(RuntimeError, match="run the same call once before the capture"),
        torch.cuda.graph(torch.cuda.CUDAGraph()),
    ):
        launch(layer.candidates(operation)[-1])
