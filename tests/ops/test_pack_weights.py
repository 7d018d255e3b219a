from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from slimkern.ops import Part, native, pack_weights
from tests.ops import truth
from tests.ops.registration import check_registration

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
without_kernels = native.why_unavailable("cpu")
BACKENDS = [
    "torch",
    pytest.param("native", marks=pytest.mark.skipif(without_kernels is not None, reason=str(without_kernels))),
]
pytestmark = pytest.mark.parametrize("backend", BACKENDS)


@pytest.fixture(autouse=True)
def forced_backend(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIMKERN_BACKEND", backend)


def four_widths(weight: int, rows: int, columns: int, scroll: int, whole_in: bool = False) -> list[Part]:
    return [
        Part(weight, rows // 4 * q, columns if whole_in else columns // 4 * q, rows // 4 * scroll,
             0 if whole_in else columns // 4 * scroll)
        for q in (1, 2, 3, 4)
    ]  # fmt: skip


@dataclass(frozen=True)
class Case:
    """Stored weights of these shapes, and the parts that are read of them."""

    shapes: tuple[tuple[int, ...], ...]
    parts: tuple[Part, ...]
    layout: str = "contiguous"

    def weights(self, dtype: torch.dtype) -> list[Tensor]:
        torch.manual_seed(len(self.shapes))
        return [self.laid_out(torch.randn(shape, dtype=dtype)) for shape in self.shapes]

    def laid_out(self, weight: Tensor) -> Tensor:
        if self.layout == "channels_last" and weight.dim() == 4:
            return weight.contiguous(memory_format=torch.channels_last)
        if self.layout == "misaligned":
            return torch.cat([weight.new_zeros(1), weight.flatten()])[1:].view(weight.shape)
        if self.layout == "every_other_row":
            return weight.repeat_interleave(2, dim=0)[::2]
        if self.layout == "uneven_taps":
            return weight.repeat_interleave(2, dim=-1)[..., ::2].transpose(-1, -2).contiguous().transpose(-1, -2)
        return weight


NETWORK = ((8, 3, 3, 3), (12, 8, 3, 3), (12, 8, 1, 1), (5, 12))
NETWORK_PARTS = (
    *four_widths(0, 8, 3, 3, whole_in=True),
    *four_widths(1, 12, 8, 3),
    *four_widths(2, 12, 8, 3),
    *(Part(3, 5, 3 * q, 0, 9) for q in (1, 2, 3, 4)),
)
CASES = {
    "a_network": Case(NETWORK, NETWORK_PARTS),
    "a_network_channels_last": Case(NETWORK, NETWORK_PARTS, layout="channels_last"),
    "narrowest_only": Case(((8, 8, 3, 3),), (Part(0, 2, 2, 6, 4),)),
    "wraps_around_both_axes": Case(((8, 8, 2, 3),), (Part(0, 6, 6, 6, 6),), layout="channels_last"),
    "the_same_part_twice": Case(((4, 4, 1, 1),), (Part(0, 2, 2, 3, 3),) * 2),
    "a_weight_no_part_reads": Case(((4, 4, 1, 1), (2, 2)), (Part(0, 4, 4),)),
    "one_channel": Case(((1, 1, 3, 3),), (Part(0, 1, 1),)),
    "odd_channels": Case(((17, 3, 3, 3), (64, 17, 3, 3)), (Part(0, 11, 3, 9, 2), Part(1, 64, 11, 5, 9))),
    "odd_channels_channels_last": Case(((17, 33, 3, 3),), (Part(0, 17, 20, 9, 30),), layout="channels_last"),
    "2049_channels": Case(((3, 2049, 1, 1),), (Part(0, 2, 2048, 2, 1500), Part(0, 3, 2049))),
    "wide": Case(((64, 64, 3, 3),), tuple(four_widths(0, 64, 64, 1)), layout="channels_last"),
    "misaligned": Case(NETWORK, NETWORK_PARTS, layout="misaligned"),
    "every_other_row": Case(NETWORK, NETWORK_PARTS, layout="every_other_row"),
    "uneven_taps": Case(((4, 4, 2, 3),), tuple(four_widths(0, 4, 4, 1)), layout="uneven_taps"),
}


def true_part(weight: Tensor, part: Part) -> Tensor:
    """Value by value: position (i, j) is channel ((i + out_offset) mod C_out, (j + in_offset) mod C_in)."""
    rows = [(i + part.out_offset) % weight.shape[0] for i in range(part.rows)]
    columns = [(j + part.in_offset) % weight.shape[1] for j in range(part.columns)]
    return weight[rows][:, columns]


def check(case: Case, dtype: torch.dtype, device: str = "cpu") -> None:
    drawn = case.weights(torch.float64 if dtype == torch.float64 else torch.float32)
    weights = [case.laid_out(weight.to(device)) for weight in drawn]
    exact = truth.doubles(weights)
    packed = pack_weights([weight.requires_grad_() for weight in weights], case.parts, dtype)
    truths = [true_part(exact[part.weight], part) for part in case.parts]
    grads = [torch.randn_like(part) for part in packed]
    torch.autograd.backward(packed, grads)
    torch.autograd.backward(truths, [grad.double() for grad in grads])
    start = packed[0].untyped_storage().data_ptr()
    for place, (part, true) in enumerate(zip(packed, truths, strict=True)):
        assert part.dtype == dtype and torch.equal(part, true.to(weights[0].dtype).to(dtype)), f"part {place}"
        assert part.dim() != 4 or part.is_contiguous(memory_format=torch.channels_last)
        assert part.untyped_storage().data_ptr() == start and part.storage_offset() % 8 == 0
    for place, (weight, true) in enumerate(zip(weights, exact, strict=True)):
        if true.grad is None:
            assert weight.grad is not None and not weight.grad.any()
            continue
        truth.assert_near(f"gradient of weight {place}", weight.grad, true.grad, TOLERANCE[dtype])
        assert weight.grad is not None and not weight.grad[true.grad == 0].any()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_equals_the_definition(case: Case, dtype: torch.dtype) -> None:
    check(case, dtype)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    shapes = tuple(
        (draw(st.integers(1, 9)), draw(st.integers(1, 20)), *draw(st.sampled_from([(), (1, 1), (3, 3), (2, 3)])))
        for _ in range(draw(st.integers(1, 3)))
    )
    parts = []
    for _ in range(draw(st.integers(1, 6))):
        weight = draw(st.integers(0, len(shapes) - 1))
        rows, columns = shapes[weight][:2]
        own = [draw(st.integers(1, rows)), draw(st.integers(1, columns))]
        parts.append(Part(weight, *own, draw(st.integers(0, rows - 1)), draw(st.integers(0, columns - 1))))
    layout = draw(st.sampled_from(["contiguous", "channels_last", "misaligned", "every_other_row"]))
    return Case(shapes, tuple(parts), layout)


@given(case=cases(), dtype=st.sampled_from(list(TOLERANCE)))
def test_equals_the_definition_for_drawn_parts(backend: str, case: Case, dtype: torch.dtype) -> None:
    check(case, dtype)


def test_gradients_add_up_in_the_order_of_the_parts() -> None:
    weight = torch.zeros(1, 1, requires_grad=True)
    packed = pack_weights([weight], [(0, 1, 1, 0, 0)] * 3)
    torch.autograd.backward(packed, [torch.full((1, 1), value) for value in (1e8, 1.0, -1e8)])
    assert weight.grad is not None and weight.grad.item() == 0.0  # 1e8 + 1 is 1e8 in float32


def test_equals_itself_with_any_number_of_threads() -> None:
    case = Case(((96, 96, 3, 3), (64, 40, 3, 3)), (*four_widths(0, 96, 96, 3), *four_widths(1, 64, 40, 2)))
    threads, outcomes = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3, 1):
            torch.set_num_threads(count)
            weights = [weight.requires_grad_() for weight in case.weights(torch.float32)]
            packed = pack_weights(weights, case.parts, torch.bfloat16)
            torch.autograd.backward(packed, [part.detach().cos() for part in packed])
            outcomes.append([*packed, *(weight.grad for weight in weights)])
    finally:
        torch.set_num_threads(threads)
    for outcome in outcomes[1:]:
        assert all(torch.equal(first, other) for first, other in zip(outcomes[0], outcome, strict=True))


def test_gradient_only_of_the_weights_that_want_one() -> None:
    case = CASES["a_network"]
    weights = case.weights(torch.float32)
    weights[2].requires_grad_()
    packed = pack_weights(weights, case.parts)
    torch.autograd.backward(packed, [torch.ones_like(part) for part in packed])
    reads = torch.zeros(12, 8, 1, 1)
    for part in case.parts[8:12]:
        reads[[[(i + 9) % 12] for i in range(part.rows)], [(j + 6) % 8 for j in range(part.columns)]] += 1
    assert weights[2].grad is not None and torch.equal(weights[2].grad, reads)
    assert [weight.grad is None for weight in weights] == [True, True, False, True]


@pytest.mark.parametrize("name", ["a_network", "wraps_around_both_axes"])
def test_gradcheck(name: str) -> None:
    case = CASES[name]

    def function(*weights: Tensor) -> tuple[Tensor, ...]:
        return tuple(pack_weights(weights, case.parts))

    weights = [weight.requires_grad_() for weight in case.weights(torch.float64)]
    assert torch.autograd.gradcheck(function, weights, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_registration(dtype: torch.dtype) -> None:
    case = CASES["a_network_channels_last"]
    weights = [weight.requires_grad_() for weight in case.weights(torch.float32)]
    check_registration(lambda: pack_weights(weights, case.parts, dtype))


def test_compiles_as_one_graph() -> None:
    case = CASES["a_network"]
    outcomes = []
    for compiled in (False, True):
        weights = [weight.requires_grad_() for weight in case.weights(torch.float32)]

        def sums(weights: list[Tensor]) -> Tensor:
            return torch.stack([part.sin().sum() for part in pack_weights(weights, case.parts, torch.bfloat16)]).sum()

        function = torch.compile(sums, fullgraph=True, backend="aot_eager") if compiled else sums
        result = function(weights)
        result.backward()
        outcomes.append([result, *(weight.grad for weight in weights)])
    assert all(torch.equal(plain, other) for plain, other in zip(*outcomes, strict=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": []}, "0 weights and 1 parts; at least one of each is needed"),
        ({"parts": []}, "1 weights and 0 parts; at least one of each is needed"),
        ({"weights": [torch.ones(4)]}, r"weights\[0\] is torch.float32 of shape \(4,\)"),
        ({"weights": [torch.ones(4, 4, dtype=torch.long)]}, r"weights\[0\] is torch.int64"),
        ({"weights": [torch.ones(4, 4), torch.ones(4, 4).double()]}, "all weights must agree"),
        ({"parts": [(1, 1, 1, 0, 0)]}, r"parts\[0\] is of weight 1; there are 1"),
        ({"parts": [(0, 5, 4, 0, 0)]}, r"parts\[0\] has 5 by 4 channels; weights\[0\] gives 1 by 1 to 4 by 4"),
        ({"parts": [(0, 4, 0, 0, 0)]}, r"parts\[0\] has 4 by 0 channels"),
        ({"parts": [(0, 4, 4, 4, 0)]}, r"parts\[0\].out_offset=4 must be a channel of the weight, 0 to 3"),
        ({"parts": [(0, 4, 4, 0, -1)]}, r"parts\[0\].in_offset=-1 must be a channel of the weight, 0 to 3"),
        ({"dtype": torch.int8}, "dtype=torch.int8 must be a floating-point dtype"),
    ],
    ids=lambda value: value[:40].replace(" ", "_") if isinstance(value, str) else "",
)
def test_bad_arguments_are_named(changes: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"weights": [torch.ones(4, 4)], "parts": [(0, 4, 4, 0, 0)], "dtype": None}
    pack_weights(**good)
    with pytest.raises(ValueError, match=f"pack_weights: .*{message}"):
        pack_weights(**(good | changes))


def test_the_kernel_itself_refuses_an_empty_weight(backend: str) -> None:
    if backend != "native":
        pytest.skip("plain torch has nothing to read")
    with pytest.raises(RuntimeError, match="weights holds an empty tensor"):
        torch.ops.slimkern_native.pack_weights_backward(torch.empty(0), [], [torch.empty(0, 4)])


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ([0, 4, 4, 0, 0], "parts come as 6 numbers each, not 5"),
        ([1, 4, 4, 0, 0, 0], "weight 1 of a part is none of the 1"),
        ([0, 5, 4, 0, 0, 0], "a part of 5 by 4 doesn't fit a weight of 4 by 4"),
        ([0, 4, 4, 0, 4, 0], "a part starts at channel 0, 4, outside of its weight"),
        ([0, 4, 4, 0, 0, 1], "a part at 1 reaches beyond the 16 packed values"),
    ],
    ids=["numbers", "weight", "channels", "offset", "start"],
)
def test_the_kernel_itself_refuses_what_would_read_elsewhere(backend: str, numbers: list[int], message: str) -> None:
    if backend != "native":
        pytest.skip("plain torch checks its indices")
    weights, packed = [torch.ones(4, 4)], torch.empty(16)
    for call in (
        lambda: torch.ops.slimkern_native.pack_weights(weights, numbers, packed),
        lambda: torch.ops.slimkern_native.pack_weights_backward(packed, numbers, weights),
    ):
        with pytest.raises(RuntimeError, match=message):
            call()
