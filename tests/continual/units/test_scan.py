from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from slimkern.continual.methods.autoactivator import AutoActivator
from slimkern.continual.units import scan as module
from slimkern.continual.units.recruiting import Recruiter, Samples
from slimkern.continual.units.scan import NONLINEARITIES, explained, node_outputs, scan


def problem(samples: int, width: int, classes: int, candidates: int, nodes: int, dtype: torch.dtype = torch.float64):
    torch.manual_seed(samples + nodes)
    inputs, residual = torch.randn(samples, width, dtype=dtype), torch.randn(samples, classes, dtype=dtype)
    weights, biases = torch.randn(candidates, nodes, width, dtype=dtype), torch.randn(candidates, nodes, dtype=dtype)
    return inputs, residual, weights, biases


@given(
    samples=st.integers(1, 40), width=st.integers(1, 5), classes=st.integers(1, 3), candidates=st.integers(1, 6),
    nodes=st.integers(1, 4), piece=st.integers(1, 50), name=st.sampled_from(sorted(NONLINEARITIES)),
)  # fmt: skip
def test_one_scan_equals_a_loop_over_candidates(
    samples: int, width: int, classes: int, candidates: int, nodes: int, piece: int, name: str
) -> None:
    inputs, residual, weights, biases = problem(samples, width, classes, candidates, nodes)
    nonlinearity = NONLINEARITIES[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_SAMPLES", piece)
        grams, crosses = scan(inputs, residual, weights, biases, nonlinearity)
    for k in range(candidates):
        outputs = nonlinearity(inputs @ weights[k].t() + biases[k])
        torch.testing.assert_close(grams[k], outputs.t() @ outputs)
        torch.testing.assert_close(crosses[k], outputs.t() @ residual)


def explicit(outputs: Tensor, residual: Tensor) -> Tensor:
    """<e_c, G beta_c> as the paper writes it."""
    beta = torch.linalg.pinv(outputs.t() @ outputs) @ outputs.t() @ residual
    return (residual * (outputs @ beta)).sum(0)


@pytest.mark.parametrize("copies", [1, 2], ids=["independent", "dependent nodes"])
def test_what_a_candidate_explains_follows_from_its_products(copies: int) -> None:
    inputs, residual, weights, biases = problem(60, 6, 3, 4, 5)
    weights, biases = weights.repeat(1, copies, 1), biases.repeat(1, copies)
    found = explained(*scan(inputs, residual, weights, biases, torch.tanh))
    for k in range(4):
        outputs = node_outputs(weights[k], biases[k], inputs, torch.tanh).t()
        torch.testing.assert_close(found[k], explicit(outputs, residual))


def test_together_with_earlier_nodes_a_candidate_explains_the_true_fall_and_never_less() -> None:
    inputs, targets, weights, biases = problem(60, 6, 3, 4, 5)
    earlier = torch.tanh(torch.randn(60, 7, dtype=torch.float64))
    basis = torch.linalg.qr(earlier).Q
    residual = targets - basis @ (basis.t() @ targets)
    grams, crosses = scan(inputs, torch.cat([residual, basis], 1), weights, biases, torch.tanh)
    crosses, inside = crosses.split([3, 7], 2)
    falls, alone = explained(grams, crosses, inside), explained(grams, crosses)
    for k in range(4):
        outputs = node_outputs(weights[k], biases[k], inputs, torch.tanh).t()
        together = torch.cat([earlier, outputs], 1)
        left = targets - together @ torch.linalg.lstsq(together, targets).solution
        torch.testing.assert_close(falls[k], residual.square().sum(0) - left.square().sum(0))
    assert (falls >= alone - 1e-9).all() and (falls > alone + 1e-3).any()


def test_single_precision_finds_the_same() -> None:
    exact = problem(3000, 50, 2, 8, 6)
    single = [tensor.float() for tensor in exact]
    expected, found = (explained(*scan(*given, torch.relu)) for given in (exact, single))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


class LargestTensor(TorchDispatchMode):
    """Notes the largest tensor that any operator makes."""

    def __init__(self) -> None:
        super().__init__()
        self.values = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, Tensor) and tensor._base is None:
                self.values = max(self.values, tensor.numel())
        return result


@pytest.mark.parametrize(("samples", "candidates"), [(4096, 40), (16384, 40), (16384, 120)])
def test_memory_does_not_grow_with_candidates_times_samples(samples: int, candidates: int) -> None:
    inputs, residual, weights, biases = problem(samples, 8, 2, candidates, 10, torch.float32)
    with LargestTensor() as seen:
        scan(inputs, residual, weights, biases, torch.relu)
    assert seen.values == 1024 * candidates * 10
    rules = AutoActivator(candidates=candidates)
    making = Recruiter(
        Samples(inputs, (residual[:, 0] > 0).long()),
        Samples(inputs[:0], torch.zeros(0).long()),
        range(2),
        rules,
        torch.tanh,
    )
    with LargestTensor() as seen:
        assert making.recruit()
    assert seen.values == 1024 * candidates * 10 < samples * candidates * 10 / 3


def ratio_of_a_loop(threads: int) -> float:
    """The time of the fastest loop over candidates that we know, in that of a scan; the best of many rounds of each."""
    inputs, residual, weights, biases = problem(11_000, 784, 2, 50, 10, torch.float32)
    columns = (
        inputs.t().contiguous()
    )  # samples as columns, so that products read their rows; transposed once beforehand

    def loop() -> None:
        for own_weights, own_biases in zip(weights, biases, strict=True):
            outputs = torch.sigmoid(torch.addmm(own_biases[:, None], own_weights, columns))
            outputs @ outputs.t(), outputs @ residual

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        rounds = [
            (seconds(lambda: scan(inputs, residual, weights, biases, torch.sigmoid)), seconds(loop)) for _ in range(8)
        ]
    finally:
        torch.set_num_threads(before)
    own, looped = (min(times) for times in zip(*rounds, strict=True))
    return looped / own


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def test_a_scan_is_at_least_twice_as_fast_as_a_loop_over_candidates() -> None:
    """On all cores, as runs use them. Where other tests hold those, one may tell more: a loop waits for memory."""
    assert ratio_of_a_loop(os.cpu_count() or 1) >= 2 or ratio_of_a_loop(1) >= 2
