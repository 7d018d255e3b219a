from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from slimkern.kernels import tuning
from slimkern.kernels.choice_table import fingerprint, read_table, write_table
from slimkern.kernels.configurations import SLAB_BY_SLAB
from slimkern.kernels.geometry import Geometry
from slimkern.kernels.launch import Unsuitable
from slimkern.kernels.problem import AnyConfiguration, Problem, turn
from slimkern.kernels.tuning import Tuner

CPU = torch.device("cpu")
HERE = fingerprint(CPU)
QUARTERS = (128, 256, 384, 512)
LAYER = Problem("forward", "bfloat16", 64, (4, 4), QUARTERS, QUARTERS, Geometry((3, 3), padding=(1, 1)))
CANDIDATES = LAYER.candidates(boxes=True, shared=1 << 30)


class Passes:
    """A pass that notes what it was launched with, and a clock that finds one configuration the fastest."""

    def __init__(self, fastest: AnyConfiguration | None = None, unsuitable: tuple[AnyConfiguration, ...] = ()) -> None:
        self.launched: list[AnyConfiguration] = []
        self.measured = 0
        self._fastest, self._unsuitable = fastest, unsuitable

    def launch(self, configuration: AnyConfiguration) -> str:
        if configuration in self._unsuitable:
            raise Unsuitable("doesn't suit")
        self.launched.append(configuration)
        return configuration.name

    def milliseconds(self, launch: Callable[[], object]) -> float:
        launch()
        self.measured += 1
        return 1.0 if self.launched.pop() == self._fastest else 2.0


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "choices.json"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "may_measure", lambda device: True)


def test_takes_the_best_guess_unless_asked_to_measure(own: Path) -> None:
    passes = Passes(fastest=CANDIDATES[-1])
    tuner = Tuner(CPU, own, measure=passes.milliseconds)
    assert tuner.run(LAYER, {"packed": passes.launch}) == CANDIDATES[0].name
    assert passes.measured == 0 and not own.exists()


@pytest.mark.usefixtures("benchmark")
def test_measures_once_and_remembers_in_the_cache(own: Path) -> None:
    passes = Passes(fastest=CANDIDATES[-1], unsuitable=(CANDIDATES[0],))
    tuner = Tuner(CPU, own, measure=passes.milliseconds)
    assert [tuner.run(LAYER, {"packed": passes.launch}) for _ in range(2)] == [CANDIDATES[-1].name] * 2
    assert passes.measured == len(CANDIDATES) - 1
    again = Passes()
    assert Tuner(CPU, own, measure=again.milliseconds).run(LAYER, {"packed": again.launch}) == CANDIDATES[-1].name
    assert again.measured == 0
    other = replace(LAYER, batch=128)
    Tuner(CPU, own, measure=again.milliseconds).run(other, {"packed": again.launch})
    assert again.measured == len(CANDIDATES)
    assert set(read_table(own)[HERE]) == {LAYER.key, other.key}


@pytest.mark.usefixtures("benchmark")
def test_every_way_is_measured_and_the_fastest_serves(own: Path) -> None:
    served: list[str] = []
    times = {"in place": 2.0, "packed": 1.0, "torch": 1.5, "torch on streams": 1.25}
    launches = {way: lambda configuration, way=way: served.append(way) for way in times}

    def measure(launch: Callable[[], object]) -> float:
        launch()
        return times[served[-1]]

    tuner = Tuner(CPU, own, measure=measure)
    for _ in range(2):
        tuner.run(LAYER, launches)
    assert served == ["in place"] * len(CANDIDATES) + ["packed"] * len(CANDIDATES) + [*times][2:] + ["packed"] * 2
    for way in ("torch", "torch on streams"):
        assert read_table(own)[HERE][LAYER.key][way] == {"configuration": None, "microseconds": 1e3 * times[way]}
    offered = {
        "torch": ["torch", "in place"],
        "torch on streams": ["torch on streams", "torch"],
        "in place": ["in place"],
    }
    for place, (way, others) in enumerate(offered.items()):
        tuner.record(LAYER, way, None if way in SLAB_BY_SLAB else CANDIDATES[0].name, 800.0 - 100 * place)
        assert Tuner(CPU, own).fastest(LAYER, launches) == tuner.fastest(LAYER, launches) == way
        assert tuner.fastest(LAYER, others) == (way if len(others) > 1 else None)
    assert tuner.fastest(replace(LAYER, batch=1), launches) is None


@pytest.mark.parametrize("measured", [False, True], ids=["guessed", "measured"])
def test_what_stops_suiting_makes_way_for_the_next_best(
    measured: bool, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "may_measure", lambda device: measured)
    passes = Passes()
    tuner = Tuner(CPU, own, measure=passes.milliseconds)
    assert tuner.run(LAYER, {"packed": passes.launch}) == CANDIDATES[0].name
    later = Passes(unsuitable=(CANDIDATES[0], CANDIDATES[1]))
    assert [tuner.run(LAYER, {"packed": later.launch}) for _ in range(2)] == [CANDIDATES[2].name] * 2
    faulty = ValueError("a fault of the caller's")

    def fail(configuration: AnyConfiguration) -> str:
        raise faulty

    with pytest.raises(ValueError, match="a fault of the caller's"):
        tuner.run(LAYER, {"packed": fail})


def test_problems_differ_where_their_boxes_do() -> None:
    turned = [replace(LAYER, turns=(turn(offset, 512), 0)) for offset in (0, 128, 256, 384)]
    assert len(set(turned)) == len({own.key for own in turned}) == 3 and turned[1] == turned[3]
    assert replace(LAYER, side_by_side=False).key != LAYER.key


def test_the_shipped_table_is_obeyed(own: Path, tmp_path: Path) -> None:
    shipped = tmp_path / "shipped.json"
    chosen = CANDIDATES[3]
    write_table(shipped, {"cpu": {LAYER.key: {"packed": {"configuration": chosen.name, "microseconds": 1.0}}}})
    passes = Passes()
    assert Tuner(CPU, own, shipped).run(LAYER, {"packed": passes.launch}) == chosen.name


def test_a_choice_that_is_no_longer_listed_is_passed_over(own: Path) -> None:
    write_table(own, {HERE: {LAYER.key: {"packed": {"configuration": "7x7x7", "microseconds": 1.0}}}})
    assert Tuner(CPU, own).run(LAYER, {"packed": Passes().launch}) == CANDIDATES[0].name


@pytest.mark.usefixtures("benchmark")
def test_a_choice_that_is_no_longer_listed_is_measured_again(own: Path) -> None:
    write_table(own, {HERE: {LAYER.key: {"packed": {"configuration": "7x7x7", "microseconds": 1.0}}}})
    passes = Passes(fastest=CANDIDATES[3])
    assert Tuner(CPU, own, measure=passes.milliseconds).run(LAYER, {"packed": passes.launch}) == CANDIDATES[3].name
    assert read_table(own)[HERE][LAYER.key]["packed"] == {"configuration": CANDIDATES[3].name, "microseconds": 1e3}


def test_a_configuration_of_a_way_that_takes_none_is_passed_over(own: Path) -> None:
    write_table(own, {HERE: {LAYER.key: {"torch": {"configuration": "7x7x7", "microseconds": 1.0}}}})
    assert Tuner(CPU, own).run(LAYER, {"torch": lambda configuration: configuration}) is None


@pytest.mark.parametrize(
    ("device", "asked", "capturing", "expected"),
    [
        ("cuda", True, False, True),
        ("cuda", True, True, False),
        ("cuda", False, False, False),
        ("cpu", True, False, False),
    ],
    ids=["asked", "capturing", "not_asked", "in_the_interpreter"],
)
def test_measures_where_pytorch_is_asked_to_but_not_in_a_graph(
    device: str, asked: bool, capturing: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", asked)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
    assert tuning.may_measure(torch.device(device)) is expected


def test_nothing_suits(own: Path) -> None:
    with pytest.raises(Unsuitable, match="doesn't suit"):
        Tuner(CPU, own).run(LAYER, {"packed": Passes(unsuitable=tuple(CANDIDATES)).launch})


def test_candidates_respect_what_a_device_has() -> None:
    few = LAYER.candidates(boxes=False, shared=80 * 1024)
    assert few and all(not own.boxes and own.shared <= 80 * 1024 for own in few)
    assert {own.name for own in few} < {own.name for own in CANDIDATES}


@pytest.mark.parametrize(
    ("operation", "channels", "side", "expected"),
    [
        ("forward", (16, 32, 48, 64), 32, lambda own: own.channels <= 64),
        ("forward", QUARTERS, 16, lambda own: own.pixels * own.channels >= 128 * 64),
        ("weight gradient", (16, 32, 48, 64), 32, lambda own: own.inputs <= 64 and own.outputs <= 64),
        ("weight gradient", QUARTERS, 4, lambda own: own.inputs == 128),
    ],
    ids=["narrow_forward", "wide_forward", "narrow_weight_gradient", "wide_weight_gradient"],
)
def test_the_first_guess_fits_the_channels(
    operation: str, channels: tuple[int, ...], side: int, expected: Callable[[AnyConfiguration], bool]
) -> None:
    problem = replace(LAYER, operation=operation, inputs=channels, outputs=channels, image=(side, side))
    assert expected(problem.candidates(boxes=True, shared=1 << 30)[0])


def test_a_stem_sums_its_taps_together() -> None:
    problem = replace(LAYER, operation="weight gradient", inputs=(3,), outputs=(64,), image=(32, 32))
    assert problem.candidates(boxes=True, shared=1 << 30)[0].inputs == 4


@pytest.mark.usefixtures("benchmark")
def test_it_says_once_that_it_measures(own: Path, caplog: pytest.LogCaptureFixture) -> None:
    passes = Passes(fastest=CANDIDATES[-1])
    tuner = Tuner(CPU, own, measure=passes.milliseconds)

    def told_before(launch: Callable[[], object]) -> float:
        assert len(caplog.records) == 1
        return passes.milliseconds(launch)

    tuner._measure = told_before
    for problem in (LAYER, replace(LAYER, batch=128)):
        tuner.run(problem, {"packed": passes.launch})
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and f"{len(CANDIDATES)} candidates for {LAYER.key}" in record.getMessage()
    assert str(own) in record.getMessage()
    Tuner(CPU, own).run(LAYER, {"packed": passes.launch})  # known by now
    assert len(caplog.records) == 1


def test_measurements_of_other_versions_do_not_count(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Tuner(CPU, own).record(LAYER, "packed", CANDIDATES[3].name, 1.0)
    assert Tuner(CPU, own).run(LAYER, {"packed": Passes().launch}) == CANDIDATES[3].name
    monkeypatch.setattr(torch, "__version__", "9.9")
    assert Tuner(CPU, own).run(LAYER, {"packed": Passes().launch}) == CANDIDATES[0].name
    Tuner(CPU, own).record(LAYER, "packed", CANDIDATES[2].name, 1.0)
    monkeypatch.undo()
    assert Tuner(CPU, own).run(LAYER, {"packed": Passes().launch}) == CANDIDATES[3].name


def test_the_shipped_table_is_written_by_the_devices_name(own: Path) -> None:
    Tuner(CPU, own, shipped=own).record(LAYER, "packed", CANDIDATES[3].name, 1.0)
    assert set(read_table(own)) == {"cpu"}
    other = own.with_name("other.json")
    assert Tuner(CPU, other, shipped=own).run(LAYER, {"packed": Passes().launch}) == CANDIDATES[3].name
