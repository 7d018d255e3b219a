"""The Triton kernels on a GPU: every configuration, beside cuDNN at the same precision and float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from slimkern.kernels.geometry import Geometry, Pair
from slimkern.ops import pack_weights, scroll_conv2d, scroll_linear

pytestmark = pytest.mark.gpu

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
    dilation: int = 1
    bias: bool = False
    layout: torch.memory_format = torch.channels_last


CASES = {
    "narrow_32x32": Case((64, 64), 32),
    "stride_2": Case((128, 64), 32, stride=2),
    "one_by_one_stride_2": Case((256, 128), 16, stride=2, kernel=1),
    "wide_4x4": Case((512, 512), 4, batch=20),
    "odd_14x14": Case((96, 96), 14, batch=3),
    "odd_33x33_stride_2": Case((64, 32), 33, stride=2, batch=1),
    "stem": Case((64, 3), 32, bias=True),
    "biased_dilated": Case((128, 128), 16, dilation=2, bias=True),
    "contiguous_weight": Case((64, 64), 16, layout=torch.contiguous_format),
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
        padding = case.dilation * (case.kernel // 2)
        self.geometry = Geometry((case.kernel,) * 2, (case.stride,) * 2, (padding,) * 2, (case.dilation,) * 2)
        self.outputs = tuple(rows * share // 4 for share in SHARES)
        self.inputs = (3,) if self.stem else tuple(columns * share // 4 for share in SHARES)
        self.offsets = (rows * 3 // 4, 0 if self.stem else columns * 3 // 4)
        result = self.geometry.result(self.image)
        self.slabs = [packed(case.batch, count, *self.image, dtype=dtype) for count in self.inputs]
        self.grads = [packed(case.batch, count, *result, dtype=dtype) for count in self.outputs]
        self.weight = packed(rows, columns, case.kernel, case.kernel, dtype=dtype).contiguous(memory_format=case.layout)
        self.biases = [torch.randn(rows, device=DEVICE, dtype=dtype)] if case.bias else None
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
                bias = None
                if self.biases:
                    bias = self.biases[0].roll(-self.offsets[0])[: len(part)].to(dtype)
                results.append(F.conv2d(x, w, bias, stride, padding, dilation))
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
            lambda own: weight_gradient(self.grads, self.slabs, [master], self.biases, nests, self.geometry, own)[0],
        )
        if self.stem:
            yield (
                "stem",
                "in place",
                lambda own: forward_shared(
                    self.slabs[0], self.weight, self.biases and self.biases[0], nests, self.geometry, own
                )[0],
            )
            return
        storage = self.parts[0].untyped_storage()
        flat = self.weight.new_empty(0).set_(storage, 0, (storage.nbytes() // self.weight.element_size(),))
        for way, table, weight in (
            ("in place", nests, self.weight),
            ("packed", packed_table(self.parts, self.inputs, len(self.weight), self.offsets[0]), flat),
        ):
            yield "forward", way, partial(self._forward, forward, table, weight)
            yield (
                "input gradient",
                way,
                partial(input_gradient, self.grads, [weight], table, self.geometry, self.image),
            )

    def _forward(self, forward: Callable[..., Any], table: Any, weight: Tensor, own: Any) -> list[Tensor]:
        return forward(self.slabs, [weight], self.biases, table, self.geometry, own)[0]

    def candidates(self, operation: str) -> list[Any]:
        from slimkern.kernels.problem import Problem

        properties = torch.cuda.get_device_properties(DEVICE)
        inputs = tuple(slab.shape[1] for slab in self.seen)
        problem = Problem(operation, self.kind, self.batch, self.image, inputs, self.outputs, self.geometry)
        return problem.candidates(properties.major >= 9, properties.shared_memory_per_block_optin)


def packed(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(*shape, device=DEVICE, dtype=dtype).contiguous(memory_format=torch.channels_last)


def times_torch(kind: str) -> int:
    """How many times plain torch's error is allowed; factors of TF32 may be cut off where others round them."""
    return 4 if kind == "tf32" else 2


def errors(given: Sequence[Tensor], truths: Sequence[Tensor]) -> float:
    """The largest root mean square of an error, relative to the truth's."""
    sizes = [
        ((own.double() - true).square().mean() / true.square().mean()).sqrt()
        for own, true in zip(given, truths, strict=True)
    ]
    return torch.stack(sizes).max().item()  # Python's max may pass over what is no number


def largest(tensors: Sequence[Tensor]) -> float:
    """The largest of all absolute values."""
    return torch.stack([tensor.abs().max() for tensor in tensors]).max().item()


def same_bits(given: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    return all(torch.equal(first, second) for first, second in zip(given, others, strict=True))


def suitable(configurations: Sequence[Any], launch: Callable[[Any], Any]) -> Iterator[tuple[Any, Any]]:
    """Those configurations that suit, and what comes of each; at least one must."""
    from slimkern.kernels.tuning import UNSUITABLE

    served = 0
    for configuration in configurations:
        try:
            result = launch(configuration)
        except UNSUITABLE:
            continue
        served += 1
        yield configuration, result
    assert served, "nothing serves"


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
    layer = Layer(case, kind)
    for operation, way, launch in layer.by_triton():
        computed = "forward" if operation == "stem" else operation
        truths = layer.by_torch(computed, torch.float64)
        allowed = times_torch(kind) * errors(layer.by_torch(computed, DTYPES[kind]), truths) + SLACK
        for configuration, given in suitable(layer.candidates(operation), launch):
            error = errors(given, truths)
            assert error <= allowed, f"{operation} {way} {configuration.name}: {error:.1e} exceeds {allowed:.1e}"


@pytest.mark.parametrize("kind", ["bfloat16"])
@every_case
def test_a_captured_launch_gives_the_same_bits(case: Case, kind: str) -> None:
    layer = Layer(case, kind)
    for operation, way, launch in layer.by_triton():
        for configuration, eager in suitable(layer.candidates(operation), launch):
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                replayed = launch(configuration)
            for _ in range(2):
                for result in replayed:
                    result.fill_(torch.nan)
                graph.replay()
                assert same_bits(eager, replayed), f"{operation} {way} {configuration.name}"


@pytest.mark.parametrize("name", ["narrow_32x32", "stride_2", "wide_4x4"])
def test_boxes_are_among_what_suits(name: str) -> None:
    layer = Layer(CASES[name], "bfloat16")
    for operation, way, launch in layer.by_triton():
        families = {configuration.boxes for configuration, _ in suitable(layer.candidates(operation), launch)}
        assert families == {False, True}, f"{operation} {way}"


def test_a_launch_that_was_never_made_is_refused_in_a_graph() -> None:
    layer = Layer(Case((64, 64), 9, batch=5), "bfloat16")
    operation, _, launch = next(layer.by_triton())
    by_pointers = next(own for own in layer.candidates(operation) if not own.boxes)
    with (
        pytest.raises(RuntimeError, match="run the same call once before the capture"),
        torch.cuda.graph(torch.cuda.CUDAGraph()),
    ):
        launch(by_pointers)


@pytest.mark.usefixtures("precision")
@pytest.mark.parametrize(
    ("kind", "boxes"), [("ieee", False), *product(("tf32", "bfloat16", "float16"), (False, True))]
)  # none of the boxes multiplies float32 exactly
def test_moments_are_those_of_the_results(kind: str, boxes: bool) -> None:
    from slimkern.kernels.scroll_conv2d import forward
    from slimkern.kernels.slab_table import nested

    layer = Layer(Case((256, 256), 8, batch=9), kind)
    table = nested(layer.weight, layer.inputs, layer.outputs, *layer.offsets)
    configurations = [own for own in layer.candidates("forward") if own.boxes == boxes]
    for _, (results, moments) in suitable(
        configurations, lambda own: forward(layer.slabs, [layer.weight], None, table, layer.geometry, own, moments=True)
    ):
        count, mean, squares = moments.double()
        pixelwise = torch.cat([result.double().movedim(1, -1).flatten(0, 2) for result in results], 1)
        total = (count * mean).sum(0) / len(pixelwise)
        assert errors([count.sum(0)], [torch.full_like(total, len(pixelwise))]) == 0
        variance = (squares + count * (mean - total).square()).sum(0) / len(pixelwise)
        assert errors([total, variance], [pixelwise.mean(0), pixelwise.var(0, unbiased=False)]) < 1e-4


@pytest.mark.usefixtures("precision")
@every_kind
def test_private_weights_and_a_frozen_slab(kind: str) -> None:
    from slimkern.kernels.scroll_conv2d import forward, input_gradient
    from slimkern.kernels.scroll_conv2d_weight_gradient import weight_gradient
    from slimkern.kernels.slab_table import frozen, private

    layer = Layer(Case((64, 64), 16), kind)
    weights = [part.clone(memory_format=torch.channels_last) for part in layer.parts]
    biases = [torch.randn(len(weight), device=DEVICE, dtype=weight.dtype) for weight in weights]
    table = frozen(private(weights, layer.inputs), [1])
    geometry, options = layer.geometry, (layer.geometry.stride, layer.geometry.padding)
    leaves = [[own.double().requires_grad_() for own in each] for each in (layer.slabs, weights, biases)]
    truths = [F.conv2d(*each, *options) for each in zip(*leaves, strict=True)]
    torch.autograd.backward(truths, [grad.double() for grad in layer.grads])
    slack = {"ieee": 1e-5, "tf32": 2e-3, "bfloat16": 1e-2, "float16": 2e-3}[kind]
    for _, (results, _moments) in suitable(
        layer.candidates("forward"), lambda own: forward(layer.slabs, weights, biases, table, geometry, own)
    ):
        assert errors(results, [true.detach() for true in truths]) < slack
    for _, of_slabs in suitable(
        layer.candidates("input gradient"),
        lambda own: input_gradient(layer.grads, weights, table, geometry, layer.image, own),
    ):
        assert of_slabs[1] is None
        assert errors(of_slabs[::2], [slab.grad for slab in leaves[0][::2]]) < slack
    for _, (of_weights, of_biases) in suitable(
        layer.candidates("weight gradient"),
        lambda own: weight_gradient(layer.grads, layer.slabs, weights, biases, table, geometry, own),
    ):
        assert largest([of_weights[1], of_biases[1]]) == 0
        for given, each in zip((of_weights, of_biases), leaves[1:], strict=True):
            assert errors(given[::2], [own.grad for own in each[::2]]) < slack


@pytest.mark.usefixtures("precision")
@every_kind
@pytest.mark.parametrize("linear", [False, True], ids=["scroll_conv2d", "scroll_linear"])
@pytest.mark.parametrize("way", ["in place", "packed"])
def test_operators_are_as_exact_as_plain_torch(
    way: str, linear: bool, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slimkern.kernels.tuning import Tuner

    monkeypatch.setattr(Tuner, "fastest", lambda tuner, problem, ways: way if way in ways else None)
    torch.manual_seed(0)
    dtype, image = DTYPES[kind], () if linear else (9, 9)
    tensors = [torch.randn(4, count, *image, device=DEVICE) for count in (32, 64)]
    tensors += [torch.randn(64, 64, *(() if linear else (3, 3)), device=DEVICE), torch.randn(64, device=DEVICE)]

    def run(backend: str, dtype: torch.dtype) -> list[Tensor]:
        monkeypatch.setenv("SLIMKERN_BACKEND", backend)
        *slabs, weight, bias = leaves = [own.to(DTYPES[kind]).to(dtype).requires_grad_() for own in tensors]
        if linear:
            results = scroll_linear(slabs, weight, bias, (32, 64), 32, 32)
        else:
            results = scroll_conv2d(slabs, weight, bias, (32, 64), 32, 32, (2, 2), (1, 1))
        sum(result.double().square().sum() for result in results).backward()
        return [*(result.detach() for result in results), *(leaf.grad for leaf in leaves)]

    truths = run("torch", torch.float64)
    allowed = times_torch(kind) * errors(run("torch", dtype), truths) + SLACK
    assert errors(run("triton", dtype), truths) <= allowed
