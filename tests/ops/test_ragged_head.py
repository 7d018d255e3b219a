from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from slimkern.ops import native, ragged_head
from tests.ops import truth
from tests.ops.registration import check_registration

TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
without_kernels = native.why_unavailable("cpu")
BACKENDS = [
    "torch",
    pytest.param("native", marks=pytest.mark.skipif(without_kernels is not None, reason=str(without_kernels))),
]
pytestmark = pytest.mark.parametrize("backend", BACKENDS)


@pytest.fixture(autouse=True)
def forced_backend(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIMKERN_BACKEND", backend)


@dataclass(frozen=True)
class Case:
    """Slabs of these channels before a head of `features`, and which classes compete."""

    channels: tuple[int, ...] = (4, 8, 12, 16)
    features: int = 16
    batch: int = 5
    image: tuple[int, ...] = (3, 2)
    classes: int = 7
    in_offset: int = 0
    first: int = 0
    last: int | None = None
    bias: bool = True
    layout: str = "packed"
    scale: float = 1.0

    def slab(self, channels: int, dtype: torch.dtype) -> Tensor:
        shape = (self.batch, *self.image, channels)
        drawn = (torch.randn(shape, dtype=torch.float64) * self.scale).to(dtype)
        if self.layout == "misaligned":
            drawn = torch.cat([drawn.new_zeros(1), drawn.flatten()])[1:].view(shape)
        slab = drawn.movedim(-1, 1)
        if self.layout == "contiguous":
            return slab.contiguous()
        return slab.repeat_interleave(2, dim=0)[::2] if self.layout == "every_other_image" else slab

    def tensors(self, dtype: torch.dtype) -> dict[str, Any]:
        torch.manual_seed(self.features + self.batch)
        precise = torch.float64 if dtype == torch.float64 else torch.float32
        last = self.classes if self.last is None else self.last
        return {
            "slabs": [self.slab(channels, dtype) for channels in self.channels],
            "weight": torch.randn(self.classes, self.features, dtype=precise) * self.features**-0.5,
            "bias": torch.randn(self.classes, dtype=precise) if self.bias else None,
            "labels": torch.randint(self.first, last, (self.batch,)),
            "in_offset": self.in_offset,
            "first": self.first,
            "last": self.last,
        }


CASES = {
    "four_widths": Case(),
    "scroll_wraps_around": Case(in_offset=12),
    "any_offset": Case(in_offset=5, channels=(3, 9, 16)),
    "own_classes_of_a_task": Case(in_offset=8, first=2, last=5),
    "one_class_in_the_range": Case(first=3, last=4),
    "no_bias": Case(bias=False, in_offset=4),
    "already_pooled": Case(image=(), in_offset=4),
    "one_channel": Case(channels=(1,), features=1),
    "three_channels": Case(channels=(3,), features=3, in_offset=2),
    "seventeen_channels": Case(channels=(17, 34), features=34, in_offset=17),
    "sixty-four_channels_many_classes": Case(channels=(16, 64), features=64, in_offset=48, classes=100, batch=20),
    "2049_channels": Case(channels=(2048, 2049), features=2049, in_offset=2048, batch=2),
    "batch_of_one": Case(batch=1, in_offset=4),
    "misaligned": Case(layout="misaligned", in_offset=4),
    "contiguous": Case(layout="contiguous", in_offset=4),
    "every_other_image": Case(layout="every_other_image", in_offset=4),
    "one_slab_of_a_few": Case(channels=(8,), in_offset=12),
}


def true_head(exact: dict[str, Any], case: Case) -> tuple[list[Tensor], list[Tensor]]:
    """Losses and logits in float64, sum by sum."""
    losses, logits = [], []
    last = case.classes if case.last is None else case.last
    for slab in exact["slabs"]:
        pooled = slab.flatten(2).mean(2) if slab.dim() == 4 else slab
        features = [(j + case.in_offset) % case.features for j in range(slab.shape[1])]
        own = (pooled[:, None, :] * exact["weight"][:, features]).sum(2)
        own = own + (0 if exact["bias"] is None else exact["bias"])
        of_label = own[torch.arange(case.batch), exact["labels"]]
        losses.append((own[:, case.first : last].logsumexp(1) - of_label).mean())
        logits.append(own)
    return losses, logits


def leaves(arguments: dict[str, Any]) -> dict[str, Tensor]:
    named = {f"slab {place}": slab for place, slab in enumerate(arguments["slabs"])}
    return named | {name: arguments[name] for name in ("weight", "bias") if arguments[name] is not None}


def check(case: Case, dtype: torch.dtype, through_logits: bool, tolerance: float | None = None) -> None:
    arguments = case.tensors(dtype)
    tolerance = TOLERANCE[dtype] if tolerance is None else tolerance
    exact = arguments | {"slabs": truth.doubles(arguments["slabs"])}
    exact |= {name: truth.doubles([arguments[name]])[0] for name in ("weight", "bias") if arguments[name] is not None}
    for leaf in leaves(arguments).values():
        leaf.requires_grad_()
    losses, logits = ragged_head(**arguments)
    true_losses, true_logits = true_head(exact, case)
    to_losses = torch.rand_like(losses) + 0.5
    outputs, grads = [losses], [to_losses]
    true_outputs, true_grads = [*true_losses], [*to_losses.double()]
    if through_logits:
        to_logits = [torch.randn_like(own) for own in logits]
        outputs, grads = outputs + logits, grads + to_logits
        true_outputs, true_grads = true_outputs + true_logits, true_grads + [own.double() for own in to_logits]
    torch.autograd.backward(outputs, grads)
    torch.autograd.backward(true_outputs, true_grads)
    precise = torch.float64 if dtype == torch.float64 else torch.float32
    assert losses.dtype == precise and all(own.dtype == precise for own in logits)
    truth.assert_each_near("losses", losses, torch.stack(true_losses), tolerance)
    for place, (own, true) in enumerate(zip(logits, true_logits, strict=True)):
        truth.assert_each_near(f"logits {place}", own, true, tolerance)
    for (name, leaf), true in zip(leaves(arguments).items(), leaves(exact).values(), strict=True):
        assert leaf.grad is not None and leaf.grad.dtype == leaf.dtype
        truth.assert_each_near(f"gradient of {name}", leaf.grad, true.grad, tolerance)


@pytest.mark.parametrize("through_logits", [False, True], ids=["losses", "losses_and_logits"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_equals_float64(case: Case, dtype: torch.dtype, through_logits: bool) -> None:
    check(case, dtype, through_logits)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    features, classes = draw(st.integers(1, 40)), draw(st.integers(1, 9))
    first = draw(st.integers(0, classes - 1))
    return Case(
        channels=tuple(draw(st.lists(st.integers(1, features), min_size=1, max_size=4))),
        features=features,
        batch=draw(st.integers(1, 18)),
        image=draw(st.sampled_from([(), (1, 1), (2, 3), (4, 4)])),
        classes=classes,
        in_offset=draw(st.integers(0, features - 1)),
        first=first,
        last=draw(st.integers(first + 1, classes)),
        bias=draw(st.booleans()),
        layout=draw(st.sampled_from(["packed", "misaligned", "contiguous", "every_other_image"])),
    )


@given(case=cases(), dtype=st.sampled_from([torch.float64, torch.float32]), through_logits=st.booleans())
def test_equals_float64_for_drawn_shapes(backend: str, case: Case, dtype: torch.dtype, through_logits: bool) -> None:
    if case.last is not None and case.last - case.first == 1 and not through_logits:
        through_logits = True  # a single class has no loss, so no gradient to measure errors by
    check(case, dtype, through_logits, tolerance=1e-4 if dtype == torch.float32 else 1e-9)


@pytest.mark.parametrize("sign", [1, -1])
def test_logits_of_ten_thousand(sign: int) -> None:
    case = Case(channels=(1,), features=1, image=(), classes=3, batch=2, bias=False)
    arguments = case.tensors(torch.float32)
    slab = torch.full((2, 1), 1e4 * sign).requires_grad_()
    arguments |= {"slabs": [slab], "weight": torch.tensor([[1.0], [0.5], [-1.0]]), "labels": torch.tensor([0, 2])}
    losses, (logits,) = ragged_head(**arguments)
    losses.sum().backward()
    assert torch.equal(logits, slab.detach() * torch.tensor([1.0, 0.5, -1.0]))
    assert losses.item() == 1e4  # one image's loss is 0, the other's 2e4
    assert slab.grad is not None and torch.equal(
        slab.grad, torch.tensor([[0.0], [1.0]] if sign > 0 else [[-1.0], [0.0]])
    )


def test_large_logits_equal_float64() -> None:
    check(Case(scale=1e4, in_offset=4, image=()), torch.float32, True, tolerance=1e-4)


def test_only_the_logits_are_used() -> None:
    case = CASES["scroll_wraps_around"]
    arguments = case.tensors(torch.float32)
    arguments["weight"].requires_grad_()
    _, logits = ragged_head(**arguments)
    logits[1].sum().backward()
    features = [(j + 12) % 16 for j in range(8)]
    expected = torch.zeros(7, 16)
    expected[:, features] = arguments["slabs"][1].mean([2, 3]).sum(0).expand(7, -1)
    torch.testing.assert_close(arguments["weight"].grad, expected)


def test_gradient_is_exactly_zero_where_no_slab_or_class_takes_part() -> None:
    case = Case(channels=(4, 8), in_offset=12, first=2, last=5)
    arguments = case.tensors(torch.float32)
    weight, bias = arguments["weight"].requires_grad_(), arguments["bias"].requires_grad_()
    ragged_head(**arguments)[0].sum().backward()
    read = torch.zeros(7, 16, dtype=torch.bool)
    read[2:5, [12, 13, 14, 15, 0, 1, 2, 3]] = True
    assert (weight.grad[~read] == 0).all() and (weight.grad[read] != 0).all()
    assert (bias.grad != 0).tolist() == [False, False, True, True, True, False, False]


def test_equals_itself_with_any_number_of_threads(backend: str) -> None:
    case = Case(channels=(17, 64), features=64, batch=40, classes=30, in_offset=30)
    threads, outcomes = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3, 1):
            torch.set_num_threads(count)
            arguments = case.tensors(torch.float32)
            named = leaves(arguments)
            for leaf in named.values():
                leaf.requires_grad_()
            losses, logits = ragged_head(**arguments)
            losses.sum().backward()
            outcomes.append([losses, *logits, *(leaf.grad for leaf in named.values())])
    finally:
        torch.set_num_threads(threads)
    for outcome in outcomes[1:]:
        for first, other in zip(outcomes[0], outcome, strict=True):
            if backend == "native":
                assert torch.equal(first, other)
            else:  # matrix products of libraries may add up in another order
                torch.testing.assert_close(first, other)


@pytest.mark.parametrize("name", ["scroll_wraps_around", "own_classes_of_a_task", "already_pooled"])
def test_gradcheck(name: str) -> None:
    arguments = replace(CASES[name], batch=2).tensors(torch.float64)

    def function(weight: Tensor, bias: Tensor, *slabs: Tensor) -> tuple[Tensor, ...]:
        losses, logits = ragged_head(**arguments | {"weight": weight, "bias": bias, "slabs": slabs})
        return losses, *logits

    inputs = [arguments["weight"], arguments["bias"], *arguments["slabs"]]
    assert torch.autograd.gradcheck(function, [tensor.requires_grad_() for tensor in inputs], fast_mode=True)


@pytest.mark.parametrize("name", ["scroll_wraps_around", "no_bias", "already_pooled", "contiguous"])
def test_registration(name: str) -> None:
    arguments = CASES[name].tensors(torch.float32)
    for leaf in leaves(arguments).values():
        leaf.requires_grad_()
    check_registration(lambda: ragged_head(**arguments))


def test_compiles_as_one_graph() -> None:
    case = CASES["own_classes_of_a_task"]
    outcomes = []
    for compiled in (False, True):
        arguments = case.tensors(torch.float32)
        named = leaves(arguments)
        for leaf in named.values():
            leaf.requires_grad_()

        def loss(arguments: dict[str, Any]) -> Tensor:
            losses, logits = ragged_head(**arguments)
            return losses.sum() + logits[0].square().mean()

        function = torch.compile(loss, fullgraph=True, backend="aot_eager") if compiled else loss
        result = function(arguments)
        result.backward()
        outcomes.append([result, *(leaf.grad for leaf in named.values())])
    for plain, other in zip(*outcomes, strict=True):
        torch.testing.assert_close(plain, other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"slabs": []}, "slabs is empty"),
        ({"slabs": [torch.ones(2, 4, 3)]}, r"slabs\[0\] has shape \(2, 4, 3\)"),
        ({"slabs": [torch.ones(2, 4), torch.ones(3, 4)]}, "of one batch and image"),
        ({"slabs": [torch.ones(2, 5)]}, r"slabs\[0\] has 5 channels; the weight takes at most 4"),
        ({"weight": torch.ones(3, 4).double()}, "weight is torch.float64"),
        ({"weight": torch.ones(3, 4, device="meta")}, "weight is torch.float32 .* on meta"),
        ({"bias": torch.ones(2)}, "bias has 2 entries; the weight gives 3 classes"),
        ({"labels": torch.zeros(3, dtype=torch.long)}, r"labels are torch.int64 of shape \(3,\)"),
        ({"labels": torch.zeros(2)}, "labels are torch.float32"),
        ({"labels": torch.tensor([0, 3])}, "labels reach from 0 to 3; they must be classes from 0 to 2"),
        ({"labels": torch.tensor([0, 1]), "first": 1}, "labels reach from 0 to 1; they must be classes from 1 to 2"),
        ({"in_offset": 4}, "in_offset=4 must be a channel of the weight, 0 to 3"),
        ({"first": 2, "last": 2}, "classes 2 to 2 are no range within the 3 of the weight"),
        ({"last": 4}, "classes 0 to 4 are no range"),
    ],
    ids=lambda value: value[:40].replace(" ", "_") if isinstance(value, str) else "",
)
def test_bad_arguments_are_named(changes: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {
        "slabs": [torch.ones(2, 4)],
        "weight": torch.ones(3, 4),
        "bias": None,
        "labels": torch.tensor([0, 2]),
    }
    ragged_head(**good)
    with pytest.raises(ValueError, match=f"ragged_head: .*{message}"):
        ragged_head(**(good | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"slabs": []}, "slabs is empty"),
        ({"slabs": [torch.ones(2, 4, 3, 3)]}, "slabs must be packed"),
        ({"slabs": [torch.ones(0, 4)]}, "slabs holds an empty tensor"),
        ({"slabs": [torch.ones(2, 0)]}, "slabs holds an empty tensor"),
        ({"labels": torch.zeros(0, dtype=torch.long)}, "labels is empty"),
        ({"slabs": [torch.ones(2, 5)]}, "5 channels of a slab; the weight takes 4"),
        ({"slabs": [torch.ones(3, 4)]}, "slabs must have 2 images of 1 pixels"),
        ({"weight": torch.ones(3, 4).double()}, "weight must be contiguous float32 of 12 values"),
        ({"bias": torch.ones(2)}, "bias must be contiguous float32 of 3 values"),
        ({"labels": torch.tensor([0, 3])}, "label 3 is outside of the classes 0 to 2"),
        ({"in_offset": 4}, "in_offset 4 is none of the 4 features"),
        ({"last": 4}, "classes 0 to 4 are no range of the 3"),
    ],
    ids=lambda value: value[:40].replace(" ", "_") if isinstance(value, str) else "",
)
def test_the_kernel_itself_refuses_what_would_read_elsewhere(
    backend: str, changes: dict[str, Any], message: str
) -> None:
    if backend != "native":
        pytest.skip("plain torch checks its indices")
    good: dict[str, Any] = {
        "slabs": [torch.ones(2, 4)],
        "weight": torch.ones(3, 4),
        "bias": None,
        "labels": torch.tensor([0, 2]),
        "in_offset": 0,
        "first": 0,
        "last": 3,
    }
    with pytest.raises(RuntimeError, match=message):
        torch.ops.slimkern_native.ragged_head(*(good | changes).values())


def test_autocast_changes_nothing(backend: str) -> None:
    results = []
    for enabled in (False, True):
        arguments = CASES["four_widths"].tensors(torch.float32)
        for leaf in leaves(arguments).values():
            leaf.requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses, logits = ragged_head(**arguments)
        losses.sum().backward()
        results.append([losses, *logits, *(leaf.grad for leaf in leaves(arguments).values())])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
