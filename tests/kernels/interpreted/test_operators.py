"""The operators of `slimkern.ops` with the backend triton, as users reach them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from slimkern import every_width, scroll_to, scrollify
from slimkern.kernels.configurations import Configuration
from slimkern.kernels.geometry import Geometry
from slimkern.kernels.scroll_conv2d import forward
from slimkern.kernels.slab_table import nested
from slimkern.kernels.tuning import Tuner
from slimkern.ops import backends, native, scroll_conv2d, scroll_linear
from tests.ops.registration import check_registration
from tests.ops.truth import assert_near, doubles

Operator = Callable[[Sequence[Tensor], Tensor, Tensor | None], list[Tensor]]


@pytest.fixture(autouse=True)
def triton_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIMKERN_BACKEND", "triton,torch")


@dataclass(frozen=True)
class Case:
    """A call of `scroll_conv2d`, or of `scroll_linear` where there is no kernel."""

    inputs: tuple[int, ...] = (8, 16)
    outputs: tuple[int, ...] = (16, 32)
    channels: tuple[int, int] = (32, 16)
    offsets: tuple[int, int] = (16, 8)
    kernel: int | None = 3
    stride: int = 1
    bias: bool = True
    images_need_gradients: bool = True
    transposed: bool = False
    image: tuple[int, ...] = (4, 5)

    def leaves(self) -> list[Tensor]:
        torch.manual_seed(0)
        slabs = [self._slab(count).requires_grad_(self.images_need_gradients) for count in self.inputs]
        taps = () if self.kernel is None else (self.kernel, self.kernel)
        weight = torch.randn(*self.channels, *taps)
        if self.transposed:
            weight = torch.randn(*self.channels[::-1], *taps).transpose(0, 1)
        biases = [torch.randn(self.channels[0]).requires_grad_()] if self.bias else []
        return [*slabs, weight.requires_grad_(), *biases]

    def _slab(self, channels: int) -> Tensor:
        if self.kernel is None:
            return torch.randn(2, *self.image, channels)
        return torch.randn(2, channels, *self.image).contiguous(memory_format=torch.channels_last)

    def __call__(self, leaves: Sequence[Tensor]) -> list[Tensor]:
        slabs, (weight, *biases) = leaves[: len(self.inputs)], leaves[len(self.inputs) :]
        bias = biases[0] if biases else None
        if self.kernel is None:
            return scroll_linear(slabs, weight, bias, self.outputs, *self.offsets)
        steps, pads = (self.stride, self.stride), (self.kernel // 2, self.kernel // 2)
        return scroll_conv2d(slabs, weight, bias, self.outputs, *self.offsets, steps, pads)

    def backward(self) -> None:
        sum((result.square().sum() for result in self(self.leaves())), torch.zeros(())).backward()


CASES = {
    "all_widths": Case(),
    "stride_2": Case(stride=2, bias=False),
    "contiguous_weight_of_one_tap": Case(kernel=1),
    "weight_with_its_axes_transposed": Case(transposed=True),
    "three_image_channels": Case((3,), channels=(32, 3), offsets=(16, 0), images_need_gradients=False),
    "gradient_of_three_image_channels": Case((3,), channels=(32, 3), offsets=(16, 0)),
    "wide_shared_input": Case((16,), offsets=(16, 0)),
    "linear": Case(kernel=None),
    "linear_without_leading_axes": Case(kernel=None, image=(), bias=False),
    "linear_of_a_shared_input": Case((16,), offsets=(16, 0), kernel=None),
    "linear_transposed": Case(kernel=None, transposed=True),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def check(case: Case) -> None:
    leaves = case.leaves()
    exact = doubles(leaves)
    results = case(leaves)
    with pytest.warns(UserWarning, match="torch serves a call that Triton doesn't take: torch.float64"):
        truths = case(exact)
    grads = [torch.randn_like(result) for result in results]
    torch.autograd.backward(results, grads)
    torch.autograd.backward(truths, [grad.double() for grad in grads])
    for result, true in zip(results, truths, strict=True):
        assert_near("result", result, true, 1e-5)
    for leaf, true in zip(leaves, exact, strict=True):
        if leaf.requires_grad:
            assert_near(f"gradient of {tuple(leaf.shape)}", leaf.grad, true.grad, 1e-5)


@every_case
def test_equals_the_reference(case: Case) -> None:
    check(case)


def measured(monkeypatch: pytest.MonkeyPatch, way: str) -> list[str]:
    """Have a way measured as the fastest wherever there is it; gives the list of what then serves."""
    served: list[str] = []

    def fastest(tuner: Tuner, problem: object, ways: Sequence[str]) -> str:
        served.append(way if way in ways else "in place")
        return served[-1]

    monkeypatch.setattr(Tuner, "fastest", fastest)
    return served


@pytest.mark.parametrize("way", ["packed", "torch", "torch on streams"])
@pytest.mark.parametrize("name", ["all_widths", "gradient_of_three_image_channels", "wide_shared_input", "linear"])
def test_the_way_that_was_measured_to_be_fastest_serves(name: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    served = measured(monkeypatch, way)
    check(CASES[name])
    stems = name == "gradient_of_three_image_channels"  # of whose passes none packs
    several = name == "all_widths"  # convolutions, which may go on several streams
    assert (way in served) == (several if way == "torch on streams" else way == "torch" or not stems)


def test_a_weight_is_packed_once_a_step_though_triton_alone_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIMKERN_BACKEND", "triton")
    served = measured(monkeypatch, "packed")
    packing = importlib.import_module("slimkern.ops.pack_weights")
    packed: list[object] = []

    def flat_of(*arguments: object) -> Tensor:
        packed.append(arguments)
        return own(*arguments)

    own = packing.flat_of
    monkeypatch.setattr(packing, "flat_of", flat_of)
    Case().backward()
    assert served == ["packed", "packed", "in place"] and len(packed) == 1


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=["channels_last", "contiguous"])
def test_boxes_make_way_where_they_would_wrap_around(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    slabs = [torch.randn(2, count, 8, 8).half().contiguous(memory_format=torch.channels_last) for count in (16, 32)]
    weight = torch.randn(32, 32, 2, 2).half()
    asked = []
    for offset, memory in ((0, torch.channels_last), (8, layout), (0, layout), (16, torch.channels_last)):
        stored = weight.contiguous(memory_format=memory)
        rest = ((16, 32), offset, offset, (1, 1), (1, 1), (2, 2))
        with pytest.warns(UserWarning, match="torch.float64"):
            truths = scroll_conv2d([slab.double() for slab in slabs], stored.double(), None, *rest)
        for result, true in zip(scroll_conv2d(slabs, stored, None, *rest), truths, strict=True):
            assert_near(f"offset {offset}", result, true, 4e-3)
        asked.append(stored.stride(1))
    assert asked[1:3] == [1 if layout is torch.channels_last else 4] * 2


@pytest.mark.filterwarnings("ignore:torch serves")
@pytest.mark.parametrize(
    "name",
    [
        "all_widths",
        "stride_2",
        "weight_with_its_axes_transposed",
        "three_image_channels",
        "gradient_of_three_image_channels",
        "wide_shared_input",
        "linear",
        "linear_transposed",
    ],
)
def test_registration(name: str) -> None:
    check_registration(CASES[name].backward)


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        ("all_widths", "inductor"),
        ("stride_2", "aot_eager"),
        ("gradient_of_three_image_channels", "aot_eager"),
        ("wide_shared_input", "aot_eager"),
        ("linear", "aot_eager"),
    ],
)
def test_compiles_into_one_graph(name: str, backend: str) -> None:
    case = CASES[name]
    leaves, same = case.leaves(), case.leaves()
    compiled = torch.compile(case, fullgraph=True, backend=backend)
    results, others = case(leaves), compiled(same)
    for result, other in zip(results, others, strict=True):
        assert torch.equal(result, other) and result.stride() == other.stride()
    for found in (results, others):
        torch.autograd.backward(found, [torch.ones_like(result) for result in found])
    for leaf, other in zip(leaves, same, strict=True):
        assert leaf.grad is not None and other.grad is not None
        assert torch.equal(leaf.grad, other.grad)


@pytest.mark.parametrize("kernel", [3, None], ids=["conv2d", "linear"])
def test_a_bias_alone_is_trained(kernel: int | None) -> None:
    case = Case(kernel=kernel, images_need_gradients=False)
    *_, weight, bias = leaves = case.leaves()
    weight.requires_grad_(False)
    results = case(leaves)
    torch.autograd.backward(results, [torch.ones_like(result) for result in results])
    assert weight.grad is None and bias.grad is not None
    pixels = results[0].numel() // 16
    expected = torch.full((32,), float(pixels))
    expected[16:] = 2 * pixels  # positions of both sub-networks
    assert torch.equal(bias.grad, expected)


@pytest.mark.parametrize(
    ("case", "groups", "reason"),
    [
        pytest.param(Case((4, 16)), 1, "multiples of 8, 4 isn't", id="inputs"),
        pytest.param(Case(outputs=(12, 32)), 1, "multiples of 8, 12 isn't", id="outputs"),
        pytest.param(Case(offsets=(16, 4)), 1, "multiples of 8, 4 isn't", id="offset"),
        pytest.param(Case((8, 16), (8, 16), (16, 8), (8, 8)), 2, "groups=2", id="groups"),
    ],
)
def test_torch_serves_what_is_refused_and_says_why(case: Case, groups: int, reason: str) -> None:
    *slabs, weight, bias = case.leaves()
    with pytest.warns(UserWarning, match=f"scroll_conv2d: torch serves a call that Triton doesn't take: .*{reason}"):
        scroll_conv2d(slabs, weight, bias, case.outputs, *case.offsets, (1, 1), (1, 1), (1, 1), groups)


@pytest.mark.filterwarnings("ignore:.*torch serves")
def test_a_whole_network_of_all_widths_trains_as_with_plain_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5),
    )  # fmt: skip
    net = scrollify(plain, widths=4)
    scroll_to(net, task=3)
    images = torch.randn(2, 3, 6, 6)
    found = {}
    for backend in ("triton,native,torch", "torch"):
        monkeypatch.setenv("SLIMKERN_BACKEND", backend)
        net.zero_grad()
        sum((logits.square().sum() for _, logits in net(every_width(images))), torch.zeros(())).backward()
        found[backend] = {name: own.grad.clone() for name, own in net.named_parameters() if own.grad is not None}
    asked, plain_torch = found.values()
    assert asked.keys() == plain_torch.keys() == dict(net.named_parameters()).keys()
    for name, gradient in asked.items():
        assert_near(name, gradient, plain_torch[name].double(), 1e-4)


@pytest.mark.skipif(native.why_unavailable("cpu") is not None, reason=f"{native.why_unavailable('cpu')}")
def test_moments_spare_the_batch_norm_a_pass() -> None:
    case = Case(bias=False)
    *slabs, weight = case.leaves()
    configuration = Configuration(16, 16, 16, 4, 3, 128, 64 * 1024)
    table = nested(weight, case.inputs, case.outputs, *case.offsets)
    results, moments = forward(slabs, [weight], None, table, Geometry((3, 3), padding=(1, 1)), configuration, True)
    vectors = torch.rand(2, sum(case.outputs)).unbind()
    offsets = [row.norm_offset for row in table]
    with_moments, without = (
        native.batch_norm_forward(results, *vectors, offsets, None, None, 1e-5, [], True, given)
        for given in (moments, None)
    )
    for first, second in zip((*with_moments[0], *with_moments[1:]), (*without[0], *without[1:]), strict=True):
        assert_near("batch norm", first, second.double(), 1e-5)


def test_triton_serves_only_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLIMKERN_BACKEND")
    for device in ("cpu", "cuda"):
        assert backends.choose("scroll_conv2d", device) == "torch"
        assert backends.why_not("scroll_conv2d", "triton", device) == (
            "not yet proven on such hardware; SLIMKERN_BACKEND=triton asks for it"
        )
