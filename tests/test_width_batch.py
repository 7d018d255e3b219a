from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from slimkern.width_batch import WidthBatch, at_width, at_widths, every_width
from slimkern.widths import Widths

WIDTHS = (0.5, 1.0)


def slabs(seed: int = 0) -> list[Tensor]:
    torch.manual_seed(seed)
    return [torch.randn(2, 2, 3, 3), torch.randn(2, 4, 3, 3)]


def batch(seed: int = 0) -> Any:
    return WidthBatch(slabs(seed), WIDTHS)


def assert_slabs(given: Any, expected: Sequence[Tensor]) -> None:
    torch.testing.assert_close(list(given.slabs), list(expected), rtol=0, atol=0)


class Doubling:
    """Work put off: doubles the slabs, and remembers how it was asked for."""

    def __init__(self, seed: int = 0) -> None:
        self.given = slabs(seed)
        self.calls: list[tuple[int, bool]] = []
        self.batch: Any = WidthBatch.deferred(self, WIDTHS)

    def __call__(self, residuals: Sequence[Tensor], relu: bool) -> list[Tensor]:
        self.calls.append((len(residuals), relu))
        sums = [2 * slab + (residuals[place] if residuals else 0) for place, slab in enumerate(self.given)]
        return [total.relu() for total in sums] if relu else sums


def test_every_width_shares_one_tensor_until_widths_are_known() -> None:
    images = torch.ones(2, 3, 4, 4)
    shown = every_width(images)
    assert shown.shared and shown.widths is None and shown.slabs == (images,) and len(shown) == 1
    assert shown.resolve(Widths.of(4)) == (0.25, 0.5, 0.75, 1.0)
    with pytest.raises(ValueError, match="met no sliced layer yet"):
        iter(shown)
    assert repr(shown) == "WidthBatch(widths=every, shared [2, 3, 4, 4])"


def test_at_width_shows_one_width() -> None:
    images = torch.ones(2, 3)
    shown = at_width(images, 1)
    assert shown.shared and shown.widths == (1.0,)
    assert shown.at(1.0) is images and [width for width, _ in shown] == [1.0]


@pytest.mark.parametrize("width", [0, -0.5, 1.1, float("nan")])
def test_at_width_refuses_what_is_no_width(width: float) -> None:
    with pytest.raises(ValueError, match=rf"width={width} must be in \(0, 1\]"):
        at_width(torch.ones(1), width)


def test_at_widths_shows_some() -> None:
    images = torch.ones(2, 3)
    shown = at_widths(images, (0.25, 1))
    assert shown.widths == (0.25, 1.0) and shown.shared
    assert all(slab is images for _, slab in shown)


@pytest.mark.parametrize("widths", [(), (0.5, 0.5), (1.0, 0.5), (0.0, 1.0), (0.5, 1.5)], ids=str)
def test_at_widths_refuses_what_are_no_ascending_widths(widths: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=rf"widths={re.escape(str(widths))} must be in \(0, 1\] and ascend"):
        at_widths(torch.ones(1), widths)


@pytest.mark.parametrize("show", [every_width, lambda images: at_width(images, 0.5)], ids=["every_width", "at_width"])
def test_only_tensors_can_be_shown(show: Callable[[Any], WidthBatch]) -> None:
    with pytest.raises(TypeError, match=r"images must be a torch.Tensor, not list"):
        show([1.0])


def test_slabs_and_widths_must_pair_up() -> None:
    with pytest.raises(ValueError, match=r"2 slabs need as many widths, not \(0.5,\)"):
        WidthBatch(slabs(), (0.5,))
    with pytest.raises(ValueError, match="2 slabs need as many widths, not None"):
        WidthBatch(slabs(), None)


def test_iteration_length_at_and_repr() -> None:
    given = batch()
    assert [(width, slab.shape[1]) for width, slab in given] == [(0.5, 2), (1.0, 4)]
    assert len(given) == 2
    assert given.at(0.5) is given.slabs[0]
    assert repr(given) == "WidthBatch(widths=(0.5, 1.0), [2, 2, 3, 3], [2, 4, 3, 3])"
    with pytest.raises(ValueError, match=r"width 0.25 is none of this batch's widths \(0.5, 1.0\)"):
        given.at(0.25)


def test_a_layer_must_have_the_widths_of_the_batch() -> None:
    assert batch().resolve(Widths.of(4)) == WIDTHS
    with pytest.raises(ValueError, match=r"of widths \(0.5, 1.0\) met a layer of widths \(0.33.*, 1.0\)"):
        batch().resolve(Widths.of(3))


def test_sizes_are_those_on_which_the_slabs_agree() -> None:
    given = batch()
    assert (given.size(0), given.shape[-1], given.dim(), len(given.size())) == (2, 3, 4, 4)
    assert given.dtype == torch.float32 and given.device == torch.device("cpu")
    with pytest.raises(TypeError, match=r"the slabs of this WidthBatch differ on axis 1: \[2, 4\]; use -1, or flatten"):
        given.size(1)


def test_unknown_attributes_are_missing() -> None:
    assert not hasattr(batch(), "no_such_attribute")


@pytest.mark.parametrize(
    "operation",
    [
        lambda a, b: a + b,
        lambda a, b: a - b,
        lambda a, b: a * b,
        lambda a, b: a / b,
        lambda a, b: -a,
        lambda a, b: 1 + a,
        lambda a, b: 1 - a,
        lambda a, b: 3 * a,
        lambda a, b: torch.add(a, b, alpha=2),
        lambda a, b: torch.add(input=a, other=b),
        lambda a, b: a.clone().add_(b),
    ],
    ids="a+b a-b a*b a/b -a 1+a 1-a 3*a alpha keywords add_".split(),
)
def test_arithmetic_acts_on_each_width(operation: Callable[[Any, Any], Any]) -> None:
    expected = [operation(one, other) for one, other in zip(slabs(0), slabs(1), strict=True)]
    assert_slabs(operation(batch(0), batch(1)), expected)


@pytest.mark.parametrize("operation", [lambda a, b: a.add_(b), lambda a, b: a.__iadd__(b)], ids=["add_", "+="])
def test_in_place_functions_change_the_slabs(operation: Callable[[Any, Any], Any]) -> None:
    given = batch()
    results = operation(given, 1)
    assert_slabs(given, [slab + 1 for slab in slabs()])
    assert all(result is slab for result, slab in zip(results.slabs, given.slabs, strict=True))


def test_multiplying_in_place_changes_the_slabs() -> None:
    given = same = batch()
    given *= 2
    assert_slabs(same, [2 * slab for slab in slabs()])


def test_shared_tensors_meet_slabs_and_each_other() -> None:
    images = torch.rand(2, 1, 3, 3)
    shown = every_width(images)
    assert_slabs(batch() * shown, [slab * images for slab in slabs()])
    squared = shown * shown
    assert squared.shared and squared.widths is None and torch.equal(squared.slabs[0], images * images)


def test_before_the_first_sliced_layer_any_function_is_answered() -> None:
    images = torch.rand(2, 1, 3, 3)
    shown: Any = every_width(images)
    permuted: Any = torch.permute(shown, (0, 2, 3, 1))
    assert permuted.shared and permuted.slabs[0].shape == (2, 3, 3, 1)


@pytest.mark.parametrize("widths", [(1.0,), (0.25, 1.0)], ids=str)
def test_batches_of_other_widths_do_not_mix(widths: tuple[float, ...]) -> None:
    other: Any = WidthBatch(slabs()[-len(widths) :], widths)
    with pytest.raises(ValueError, match=r"add of WidthBatches of widths \(0.5, 1.0\) and "):
        torch.add(batch(), other)


def test_adding_slabs_to_a_shared_tensor_in_place_keeps_widths_apart() -> None:
    shown = every_width(torch.zeros(2, 4, 3, 3))
    branches = [torch.ones(2, 4, 3, 3), torch.full((2, 4, 3, 3), 2.0)]
    shown += WidthBatch(branches, WIDTHS)
    assert_slabs(shown, branches)


def test_relu_by_keyword() -> None:
    assert_slabs(torch.relu(input=batch()), [slab.relu() for slab in slabs()])


def test_work_put_off_is_done_once_when_slabs_are_asked_for() -> None:
    work = Doubling()
    assert len(work.batch) == 2 and work.calls == []
    assert_slabs(work.batch, [2 * slab for slab in slabs()])
    assert work.batch.shape[0] == 2 and work.calls == [(0, False)]


@pytest.mark.parametrize(
    ("use", "calls"),
    [
        (lambda y, r: F.relu(y + r), [(2, True)]),
        (lambda y, r: F.relu(r + y), [(2, True)]),
        (lambda y, r: F.relu(y + r, inplace=True), [(2, True)]),
        (lambda y, r: (y + r).relu_(), [(2, True)]),
        (lambda y, r: torch.relu(y), [(0, True)]),
        (lambda y, r: y.relu(), [(0, True)]),
        (lambda y, r: y + r, [(2, False)]),
        (lambda y, r: y.__iadd__(r), [(2, False)]),
        (lambda y, r: F.relu(y + r + r), [(2, False)]),
        (lambda y, r: F.relu(y + 1), [(0, False)]),
        (lambda y, r: torch.add(y, r, alpha=2), [(0, False)]),
        (lambda y, r: F.relu6(y + r), [(2, False)]),
        (lambda y, r: F.relu(F.relu(y) + r), [(0, True)]),
        (lambda y, r: y + y, [(0, False)]),
        (lambda y, r: r.add_(y), [(0, False)]),
    ],
    ids="y+r|relu r+y|relu y+r|relu(inplace) y+r|relu_ relu(y) y.relu() y+r y+=r y+r+r|relu y+1|relu alpha "
    "relu6 relu|+r|relu y+y r.add_(y)".split(),
)
def test_an_addition_and_a_relu_join_work_put_off(
    use: Callable[[Any, Any], Any], calls: list[tuple[int, bool]]
) -> None:
    work = Doubling()
    results = use(work.batch, batch(1))
    expected = [use(2 * slab, other) for slab, other in zip(slabs(0), slabs(1), strict=True)]
    assert_slabs(results, expected)
    assert work.calls == calls


def test_two_uses_of_one_batch_put_off_are_independent() -> None:
    work = Doubling()
    rectified, sums = F.relu(work.batch), work.batch + batch(1)
    assert_slabs(sums, [2 * slab + other for slab, other in zip(slabs(0), slabs(1), strict=True)])
    assert_slabs(rectified, [(2 * slab).relu() for slab in slabs()])
    assert_slabs(work.batch, [2 * slab for slab in slabs()])


def test_two_batches_put_off_add_up() -> None:
    one, other = Doubling(0), Doubling(1)
    results = F.relu(one.batch + other.batch)
    assert_slabs(results, [(2 * a + 2 * b).relu() for a, b in zip(slabs(0), slabs(1), strict=True)])
    assert sorted(one.calls + other.calls) == [(0, False), (2, True)]


@pytest.mark.parametrize("relu", [lambda y: y.relu_(), lambda y: F.relu(y, inplace=True)], ids=["relu_", "inplace"])
def test_a_relu_in_place_changes_a_batch_put_off(relu: Callable[[Any], Any]) -> None:
    work = Doubling()
    results = relu(work.batch)
    assert results is work.batch
    assert_slabs(work.batch, [(2 * slab).relu() for slab in slabs()])


def test_an_addend_modified_later_does_not_change_the_sum() -> None:
    work, addend = Doubling(), batch(1)
    results = work.batch + addend
    addend += 1
    assert_slabs(results, [2 * slab + other for slab, other in zip(slabs(0), slabs(1), strict=True)])
