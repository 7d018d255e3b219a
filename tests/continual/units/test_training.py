from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from slimkern.continual.config import ConfigError, TrainConfig
from slimkern.continual.trainers import make_trainer
from slimkern.continual.training import train
from slimkern.continual.units.unit import Unit
from slimkern.experiments import run as module
from slimkern.experiments.run import run
from slimkern.experiments.run_folder import RunFolder
from tests.continual.few_digits import Noting, differences, few_digits, restored, stored

CONFIG = TrainConfig(method="autoactivator", widths=(1.0,), options={"candidates": 8, "limit": 40, "nodes": 5})


def trained(config: TrainConfig = CONFIG, **sizes: int) -> Noting:
    told = Noting()
    train(config, few_digits(**sizes), told)
    return told


def test_a_run_learns_each_task_and_counts_single_images() -> None:
    told = trained(train=60, test=20)
    counts = told.counts
    assert counts is not None and counts.complete and counts.widths == (1.0,) and counts.totals == (40,) * 5
    assert (counts.aware[-1, :, 0] >= 34).all()
    activated = [facts for kind, facts in told.notes if kind == "activated"][-1]
    assert activated["images"] == [40] * 5
    for kind in ("task", "class", "none"):
        assert activated["correct"][kind][1] == counts.agnostic[-1, :, 0].tolist()
    alone, together = (sum(activated["correct"]["task"][size]) for size in (1, 50))
    assert together > alone + 20
    assert sum(activated["correct"]["none"][1000]) < together


def test_what_is_recruited_is_told() -> None:
    told = trained()
    recruited = [facts for kind, facts in told.notes if kind == "recruited"]
    assert [facts["task"] for facts in recruited] == list(range(5))
    for facts in recruited:
        assert facts["nodes"] in [step["nodes"] for step in facts["steps"]]
        assert facts["ended"] in ("target", "limit", "held-out samples", "no candidate")
        assert (
            facts["steps"][0]["draws"] == 1
            and facts["steps"][0]["passed"] <= 8
            and 0.9 <= facts["steps"][0]["ratio"] < 1
        )
    assert [epoch.task for epoch in told.epochs] == list(range(5)) and told.epochs[0].validation_accuracy is not None


def test_its_own_test_batch_is_evaluated_too() -> None:
    told = trained(replace(CONFIG, test_batch=7, homogeneous="class"))
    assert 7 in told.notes[-1][1]["correct"]["class"]


def test_old_units_and_what_they_give_stay_bit_for_bit() -> None:
    told, images = trained(), torch.randn(30, 64)
    by_task = [[Unit(**unit) for unit in restored(stored)["units"]] for stored in told.checkpoints]
    assert [len(units) for units in by_task] == [1, 2, 3, 4, 5]
    for units in by_task:
        for then, now in zip(units, by_task[-1], strict=False):
            assert not differences(asdict(then), asdict(now))
            assert torch.equal(then.outputs(images, torch.sigmoid), now.outputs(images, torch.sigmoid))


def test_copies_of_earlier_nodes_leave_their_unit_alone() -> None:
    options = {**CONFIG.options, "copies": 8}
    told = trained(replace(CONFIG, options=options))
    first, second = (Unit(**unit) for unit in restored(told.checkpoints[1])["units"])
    known = {tuple(row) for row in first.weights.tolist()}
    assert second.weights.tolist() and all(tuple(row) in known for row in second.weights.tolist())
    assert not differences(asdict(first), restored(told.checkpoints[0])["units"][0])


@pytest.mark.parametrize("stop", [0, 3])
def test_a_resumed_run_ends_bit_for_bit_the_same(stop: int) -> None:
    unbroken, resumed = trained(), Noting()
    torch.manual_seed(7)
    counts = train(CONFIG, few_digits(), resumed, state=restored(unbroken.checkpoints[stop]))
    assert counts == unbroken.counts and resumed.began == [(stop + 1, 0)]
    assert not differences(restored(unbroken.checkpoints[-1]), restored(resumed.checkpoints[-1]))
    assert resumed.notes[-1] == unbroken.notes[-1]


def test_a_run_fills_a_folder_and_goes_on_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "load", lambda name, root, download: few_digits())
    counts = run(CONFIG, tmp_path)
    folder = RunFolder.read(tmp_path)
    kinds = [event["kind"] for event in folder.events()]
    assert kinds == ["started", *["recruited", "epoch_finished", "activated", "task_finished"] * 5, "finished"]
    assert folder.config["options"]["nodes"] == 5 and folder.config["options"]["ratio"] == 0.9
    assert run(CONFIG, tmp_path) == counts


class Halved(nn.Module):
    """A network that sees half of the pixels, and would drop some in training."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(images[:, :, ::2], 0.5, self.training)


def test_features_of_a_frozen_network_stand_for_the_pixels(tmp_path: Path) -> None:
    images = torch.zeros(2, 1, 8, 8)
    exported = torch.export.export(Halved().eval(), (images,), dynamic_shapes=({0: torch.export.Dim("images", min=1)},))
    torch.export.save(exported, tmp_path / "net.pt2")
    from_file = make_trainer(replace(CONFIG, features=str(tmp_path / "net.pt2")), few_digits(), torch.device("cpu"))
    from_module = make_trainer(CONFIG, few_digits(), torch.device("cpu"), features=Halved())
    assert from_module._nonlinearity is torch.relu  # type: ignore[union-attr]
    ends = [from_file.run(Noting()), from_module.run(Noting())]
    assert ends[0] == ends[1] and not differences(restored(stored(from_file.state_dict())), from_module.state_dict())
    assert from_file.units[0].weights.shape[1] == 32  # type: ignore[union-attr]


def test_a_file_that_is_no_network_is_refused(tmp_path: Path) -> None:
    (tmp_path / "net.pt2").write_text("nothing")
    for file in ("net.pt2", "absent.pt2: there is no such file"):
        with pytest.raises(ConfigError, match=rf"features=.*{file}.*must be a network saved by torch.export.save"):
            make_trainer(
                replace(CONFIG, features=str(tmp_path / file.partition(":")[0])), few_digits(), torch.device("cpu")
            )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widths": (4.0,)}, r"widths=\(4.0,\): autoactivator has no widths; give --widths 1"),
        ({"search": True}, "search=True: autoactivator trains no network and keeps no images; leave it out"),
        ({"exemplars": 100}, "exemplars=100: autoactivator trains no network"),
        ({"epochs": 3, "momentum": 0.9}, "epochs=3: autoactivator trains no network"),
        ({"precision": "bf16"}, "precision='bf16': autoactivator trains no network"),
        ({"homogeneous": "colour"}, "homogeneous='colour' is unknown; allowed: none, task, class"),
        ({"test_batch": 0}, "test_batch=0 must lie in 1"),
        ({"method": "ft", "test_batch": 9, "options": {}}, "test_batch=9 is for method autoactivator, not ft"),
    ],
    ids=["widths", "search", "exemplars", "epochs", "precision", "homogeneous", "test batch", "another method"],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(CONFIG, **changes)


def test_more_nodes_at_a_time_than_images_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"option nodes=30: a task has only 18 training images"):
        train(replace(CONFIG, options={"nodes": 30}), few_digits())


def test_tasks_of_one_class_are_refused() -> None:
    for changes in ({"tasks": 10}, {"tasks": 2, "first_task_classes": 9}):
        with pytest.raises(ConfigError, match=r"10 classes: a task of one class gives its unit nothing to tell apart"):
            train(replace(CONFIG, **changes), few_digits())
