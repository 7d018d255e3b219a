from __future__ import annotations

from pathlib import Path

import pytest

from slimkern.continual.config import ConfigError
from slimkern.continual.tasks import TaskError
from slimkern.experiments.reproduction.cells import cells
from slimkern.experiments.reproduction.selection import Selection
from slimkern.experiments.reproduction.targets import TARGETS

TABLE1 = TARGETS["table1"]


def test_every_cell_of_table_1_has_its_published_figures(tmp_path: Path) -> None:
    table = cells(TABLE1, Selection(), tmp_path, None, "cpu")
    assert len(table) == 3 * 7 * 3 and {len(cell.jobs) for cell in table} == {3}
    assert all(set(cell.published) == {"agnostic", "aware"} for cell in table)
    first = table[0]
    assert (first.method, first.variant, first.tasks) == ("FT", "baseline", 5)
    assert (first.published["agnostic"].mean, first.published["aware"].mean) == (25.47, 54.23)


def test_jobs_train_as_the_paper_does(tmp_path: Path) -> None:
    selection = Selection(methods=("icarl",), splits=(10,), widths=(4,), seeds=(7,))
    ((job,),) = [cell.jobs for cell in cells(TABLE1, selection, tmp_path, tmp_path / "data", "cuda")]
    config = job.config
    assert (config.data, config.tasks, config.method, config.seed) == ("cifar100", 10, "icarl", 7)
    assert (config.epochs, config.channels, config.classes, config.exemplars) == (200, 64, None, 2000)
    assert config.all_widths().fractions == (0.25, 0.5, 0.75, 1.0)
    assert (job.folder, job.root, job.device) == (
        tmp_path / "cifar100-10-icarl-widths-4-seed-7",
        tmp_path / "data",
        "cuda",
    )


def test_methods_without_exemplars_get_none(tmp_path: Path) -> None:
    for cell in cells(TABLE1, Selection(methods=("ft", "mas")), tmp_path, None, "cpu"):
        assert {job.config.exemplars for job in cell.jobs} == {0}


def test_shortened_runs_lie_in_folders_of_their_own(tmp_path: Path) -> None:
    selection = Selection(methods=("ft",), widths=(1,), seeds=(0,), tasks=2, epochs=2, classes=20, channels=8)
    ((job,),) = [cell.jobs for cell in cells(TABLE1, selection, tmp_path, None, "cpu")]
    assert job.name == "cifar100-2-ft-widths-1-seed-0-epochs-2-classes-20-channels-8"
    assert (job.config.tasks, job.config.epochs, job.config.classes, job.config.channels) == (2, 2, 20, 8)


def test_another_protocol_or_precision_is_another_run(tmp_path: Path) -> None:
    selection = Selection(methods=("icarl",), splits=(5,), widths=(4,), seeds=(0,), protocol="released")
    ((job,),) = [cell.jobs for cell in cells(TABLE1, selection, tmp_path, None, "cpu")]
    assert job.name == "cifar100-5-icarl-widths-4-seed-0-protocol-released"
    assert (job.config.protocol, job.config.precision) == ("released", "fp32")


def test_figures_share_the_runs_of_their_table(tmp_path: Path) -> None:
    names = [
        {job.folder for cell in cells(TARGETS[name], Selection(), tmp_path, None, "cpu") for job in cell.jobs}
        for name in ("table1", "figure4", "figure5")
    ]
    assert names[0] == names[1] == names[2] and len(names[0]) == 189


def test_units_are_tested_in_batches_of_one_task(tmp_path: Path) -> None:
    mnist, fashion = cells(TARGETS["autoactivator"], Selection(), tmp_path, None, "cpu")
    assert (len(mnist.jobs), mnist.variant, mnist.method) == (5, "", "AutoActivator")
    config = mnist.jobs[4].config
    assert (config.data, config.tasks, config.seed, config.widths) == ("mnist", 5, 4, (1.0,))
    assert (config.test_batch, config.homogeneous, config.class_order) == (100, "task", "sorted")
    assert [{judged: row.mean for judged, row in cell.published.items()} for cell in (mnist, fashion)] == [
        {"batches": 97.32},
        {"batches": 88.46},
    ]


def test_branches_are_learned_as_their_method_is_by_default(tmp_path: Path) -> None:
    table = cells(TARGETS["scl-pnc"], Selection(), tmp_path, None, "cpu")
    assert [cell.published["agnostic"].mean for cell in table] == [70.92, 70.82, 64.90]
    configs = [cell.jobs[0].config for cell in table]
    assert [(own.first_task_classes, own.tasks) for own in configs] == [(50, 6), (50, 11), (None, 10)]
    for own in configs:
        assert (own.class_order, own.epochs, own.exemplars, own.validation) == ("icarl", 200, 3312, 0)
        assert (own.batch_size, own.momentum, own.first_task_weight_decay) == (128, 0.9, 5e-4)


def test_a_seed_that_can_not_be_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="seed=-1 must lie in 0 to"):
        cells(TABLE1, Selection(seeds=(-1,)), tmp_path, None, "cpu")


@pytest.mark.parametrize(("classes", "tasks"), [(20, 3), (None, 3), (4, 5)])
def test_a_split_that_can_not_be_is_refused_at_once(tmp_path: Path, classes: int | None, tasks: int) -> None:
    with pytest.raises(TaskError, match=f"{classes or 100} classes"):
        cells(TABLE1, Selection(classes=classes, tasks=tasks), tmp_path, None, "cpu")
