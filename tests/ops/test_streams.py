from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from slimkern.ops import streams
from slimkern.ops.convolution import Convolution
from slimkern.ops.rotation import Gradient
from slimkern.ops.streams import in_sequence, on_streams, slab_by_slab

EARLIER = "what the present stream did before"


class Stream:
    """A stream that knows what is sure to be done before what it does next."""

    device = torch.device("cuda", 0)

    def __init__(self, device: object = None) -> None:
        self.done: set[object] = set()

    def wait_stream(self, other: Stream) -> None:
        self.done |= other.done


class Streams:
    """Streams in a capture; `before` holds, for each thing that was done, what was sure to be done by then."""

    def __init__(self) -> None:
        self.present = self.current = Stream()
        self.present.done.add(EARLIER)
        self.before: dict[object, set[object]] = {}
        self.made = 0

    def make(self, device: object) -> Stream:
        self.made += 1
        return Stream()

    @contextmanager
    def entered(self, stream: Stream) -> Iterator[None]:
        outer, self.current = self.current, stream
        yield
        self.current = outer

    def do(self, name: object) -> object:
        self.before[name] = set(self.current.done)
        self.current.done.add(name)
        return name


@pytest.fixture
def capture(monkeypatch: pytest.MonkeyPatch) -> Iterator[Streams]:
    own = Streams()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: own.current)
    monkeypatch.setattr(torch.cuda, "stream", own.entered)
    monkeypatch.setattr(torch.cuda, "Stream", own.make)
    streams._side.cache_clear()
    yield own
    streams._side.cache_clear()


def calls_of(own: Streams, names: Sequence[str]) -> list[Callable[[], object]]:
    return [lambda name=name: own.do(name) for name in names]


def test_calls_wait_for_what_came_before_and_not_for_one_another(capture: Streams) -> None:
    names = ["a", "b", "c"]
    assert list(on_streams(calls_of(capture, names))) == names
    assert [capture.before[name] for name in names] == [{EARLIER}] * 3
    assert capture.present.done == {EARLIER, *names} and capture.current is capture.present


def test_the_next_calls_wait_for_all_of_the_last_ones_on_the_same_streams(capture: Streams) -> None:
    on_streams(calls_of(capture, ["a", "b", "c"]))
    capture.do("between")
    on_streams(calls_of(capture, ["d", "e"]))
    assert all(capture.before[name] == {EARLIER, "a", "b", "c", "between"} for name in ("d", "e"))
    assert capture.made == 2


def test_streams_are_joined_though_a_call_fails(capture: Streams) -> None:
    def fail() -> None:
        capture.do("failed")
        raise ArithmeticError("a fault")

    with pytest.raises(ArithmeticError, match="a fault"):
        on_streams([*calls_of(capture, ["a", "b"]), fail])
    assert capture.present.done == {EARLIER, "a", "b", "failed"}


@pytest.mark.parametrize("missing", ["is_available", "is_current_stream_capturing"])
def test_without_a_capture_calls_run_one_after_the_other(
    missing: str, capture: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, missing, lambda: False)
    assert list(on_streams(calls_of(capture, ["a", "b"]))) == ["a", "b"]
    assert capture.before == {"a": {EARLIER}, "b": {EARLIER, "a"}} and capture.made == 0


def test_in_sequence_no_results_pile_up() -> None:
    asked: list[str] = []
    results = iter(in_sequence([lambda name=name: asked.append(name) for name in "ab"]))
    next(results)
    assert asked == ["a"]


def test_one_slab_has_no_use_for_streams() -> None:
    assert [list(slab_by_slab(on_streams, slabs)) for slabs in (1, 2)] == [["torch"], ["torch", "torch on streams"]]


def test_gradients_of_a_weight_are_added_up_once_all_slabs_have_theirs(
    capture: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    slabs = [torch.randn(2, count, 5, 5) for count in (2, 4, 8)]
    convolution = Convolution(torch.randn(12, 8, 3, 3), 3, 2, [2, 2], [1, 1], [1, 1], 1)
    bias, counts, own, add = torch.randn(12), (3, 6, 12), Convolution._gradients, Gradient.add

    def all_of(run: streams.Run) -> list[Tensor]:
        results = convolution.apply_all(slabs, bias, counts, run)
        of_slabs, *others = convolution.backward_all([y.cos() for y in results], slabs, [True] * 3, run)
        return [*results, *of_slabs, *others]

    expected = all_of(in_sequence)

    def gradients(own_convolution: Convolution, grad: Tensor, slab: Tensor, needed: Sequence[bool]) -> tuple:
        capture.do(slab.shape[1])
        return own(own_convolution, grad, slab, needed)

    def adding(total: Gradient, *arguments: object) -> None:
        assert capture.current is capture.present and capture.present.done == {EARLIER, 2, 4, 8}
        add(total, *arguments)

    monkeypatch.setattr(Convolution, "_gradients", gradients)
    monkeypatch.setattr(Gradient, "add", adding)
    found = all_of(on_streams)
    assert [capture.before[count] for count in (2, 4, 8)] == [{EARLIER}] * 3
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))
