from __future__ import annotations

import pytest
import torch

floors = pytest.importorskip("floors")
rows = pytest.importorskip("rows")
H200 = floors.Machine(flops=790e12, bandwidth=4.3e12)
FOUR = [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(("shares", "expected"), [([1.0], 281e-6), (FOUR, 540e-6)], ids=["plain", "all widths"])
def test_convolutions_at_batch_64_in_bfloat16(shares: list[float], expected: float) -> None:
    """Sums of a table of all layers, worked out apart from this code."""
    own = floors.step_floor(H200, 64, shares, 2)
    assert own["convolutions forward"] + own["convolutions backward"] == pytest.approx(expected, rel=0.01)


def test_where_arithmetic_decides_all_widths_cost_their_squares() -> None:
    machine = floors.Machine(flops=1.0, bandwidth=1e30)
    plain, every = (floors.step_floor(machine, 8, shares, 4)["convolutions forward"] for shares in ([1.0], FOUR))
    # All but the stem, which reads three channels at every width.
    assert every / plain == pytest.approx(1.875, rel=0.01)


def test_where_memory_decides_activations_cost_their_widths() -> None:
    machine = floors.Machine(flops=1e30, bandwidth=1.0)
    plain, every = (floors.step_floor(machine, 8, shares, 4) for shares in ([1.0], FOUR))
    assert every["batch norm, ReLU, addition"] / plain["batch norm, ReLU, addition"] == pytest.approx(2.5)
    assert every["update of the weights"] == plain["update of the weights"]


def test_what_is_timed_are_random_numbers() -> None:
    operands = [own for call, _ in floors.arithmetic(torch.float32, "cpu").values() for own in call.args]
    assert len(operands) == 10 and all(own.std() > 0.5 for own in operands)


def test_no_arithmetic_of_a_step_is_faster_than_the_machine() -> None:
    """Convolutions beat products of matrices on some machines: a floor of products alone would be none."""
    machine = floors.Machine.measured(torch.float32, "cpu", budget=1.0)
    assert machine is floors.Machine.measured(torch.float32, "cpu", budget=1.0)
    work = floors.arithmetic(torch.float32, "cpu")
    times = rows.in_turns({name: call for name, (call, _) in work.items()}, 3)
    for name, (_, flops) in work.items():
        assert flops / rows.percentiles(times[name])["p50"] < 1.3 * machine.flops
    assert len(times) == 5
