from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from slimkern.continual.data import Dataset, ImageSet, load
from slimkern.continual.tasks import TaskError, build_tasks, class_order, split_sizes

ICARL_ORDER = (
    68, 56, 78, 8, 23, 84, 90, 65, 74, 76, 40, 89, 3, 92, 55, 9, 26, 80, 43, 38, 58, 70, 77, 1, 85, 19, 17, 50, 28, 53,
    13, 81, 45, 82, 6, 59, 83, 16, 15, 44, 91, 41, 72, 60, 79, 52, 20, 10, 31, 54, 37, 95, 14, 71, 96, 98, 97, 2, 64,
    66, 42, 22, 35, 86, 24, 34, 87, 21, 99, 0, 88, 27, 18, 94, 11, 12, 47, 25, 30, 46, 62, 69, 36, 61, 7, 63, 75, 5, 32,
    4, 51, 48, 73, 93, 39, 67, 29, 49, 57, 33,
)  # fmt: skip


def numbered_dataset(classes: int, per_class: int, tests_per_class: int = 3) -> Dataset:
    """Images that carry their number within the split (first two pixels) and their class (third pixel)."""

    def part(each: int) -> ImageSet:
        labels = torch.arange(classes).repeat(each)
        number = torch.arange(classes * each)
        pixels = torch.stack((number // 256, number % 256, labels, labels), dim=1)
        return ImageSet(pixels.to(torch.uint8).reshape(-1, 1, 2, 2), labels)

    names = tuple(f"class {label}" for label in range(classes))
    return Dataset("numbered", part(per_class), part(tests_per_class), names, (0.5,), (0.5,), "none")


def numbers(part: ImageSet) -> list[int]:
    pixels = part.images.reshape(-1, 4).to(torch.int64)
    return (pixels[:, 0] * 256 + pixels[:, 1]).tolist()


@pytest.mark.parametrize(
    ("arguments", "sizes"),
    [
        ((100, 10), (10,) * 10),
        ((10, 1), (10,)),
        ((10, 10), (1,) * 10),
        ((100, 6, 50), (50, 10, 10, 10, 10, 10)),
        ((10, 1, 10), (10,)),
        ((10, 3, 8), (8, 1, 1)),
    ],
    ids=str,
)
def test_split_sizes(arguments: tuple[int, ...], sizes: tuple[int, ...]) -> None:
    assert split_sizes(*arguments) == sizes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((10, 3), "10 classes do not split evenly into 3 tasks; these numbers do: 1, 2, 5, 10"),
        ((10, 4, 5), "5 classes do not split evenly into 3 tasks; these numbers do: 1, 5"),
        ((10, 0), "between 1 and 10 tasks, not 0"),
        ((10, 11), "between 1 and 10 tasks, not 11"),
        ((10, 3, 9), "1 to 8 of 10 classes, not 9"),
        ((10, 3, 0), "1 to 8 of 10 classes, not 0"),
        ((10, 1, 5), "a single task holds all 10 classes, not 5"),
    ],
    ids=str,
)
def test_split_sizes_that_cannot_be(arguments: tuple[int, ...], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        split_sizes(*arguments)


def test_the_icarl_order_is_the_published_one() -> None:
    assert class_order("icarl", 100, seed=7) == ICARL_ORDER


@given(classes=st.integers(1, 200), seed=st.integers(0, 2**32 - 1))
def test_a_seeded_order_is_numpys_permutation(classes: int, seed: int) -> None:
    assert class_order("seed", classes, seed) == tuple(np.random.RandomState(seed).permutation(classes))


def test_sorted_order_is_the_datasets_own() -> None:
    assert class_order("sorted", 4, seed=3) == (0, 1, 2, 3)


@pytest.mark.parametrize(
    ("rule", "classes", "seed", "message"),
    [
        ("alphabetical", 10, 0, "'alphabetical'; allowed: seed, sorted, icarl"),
        ("icarl", 10, 0, "for 100 classes, not 10"),
        ("seed", 10, -1, "lie in 0..4294967295, got -1"),
    ],
    ids=["rule", "icarl", "seed"],
)
def test_class_orders_that_cannot_be(rule: str, classes: int, seed: int, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        class_order(rule, classes, seed)


@given(
    split=st.sampled_from([(1, None), (3, None), (6, None), (2, 4), (5, 2)]),
    per_class=st.integers(1, 12),
    share=st.floats(0, 0.99),
    order=st.sampled_from(["seed", "sorted"]),
    seed=st.integers(0, 100),
)
def test_tasks_partition_the_data(
    split: tuple[int, int | None], per_class: int, share: float, order: str, seed: int
) -> None:
    tasks, first = split
    dataset = numbered_dataset(6, per_class)
    built = build_tasks(dataset, tasks=tasks, first_task_classes=first, order=order, seed=seed, validation=share)
    learned = [number for task in built for part in (task.train, task.validation) for number in numbers(part)]
    tested = [number for task in built for number in numbers(task.test)]
    assert sorted(learned) == sorted(numbers(dataset.train))
    assert sorted(tested) == sorted(numbers(dataset.test))
    assert [label for task in built for label in task.classes] == list(range(6))
    assert [task.index for task in built] == list(range(tasks))


def test_labels_are_positions_in_the_class_order() -> None:
    order = class_order("seed", 6, seed=1)
    assert order != tuple(range(6))
    for task in build_tasks(numbered_dataset(6, 10), tasks=3, seed=1):
        for part in (task.train, task.validation, task.test):
            assert set(part.labels.tolist()) == set(task.classes)
            assert [order[label] for label in part.labels.tolist()] == part.images[:, 0, 1, 0].tolist()


def test_fewer_classes_are_the_first_of_the_order_with_the_same_images() -> None:
    dataset = numbered_dataset(6, 10)
    short = build_tasks(dataset, tasks=2, classes=4, seed=1)
    whole = build_tasks(dataset, tasks=3, seed=1)
    assert [task.classes for task in short] == [range(2), range(2, 4)]
    for own, same in zip(short, whole[:2], strict=True):
        for part in ("train", "validation", "test"):
            found, wanted = getattr(own, part), getattr(same, part)
            assert numbers(found) == numbers(wanted) and torch.equal(found.labels, wanted.labels)


@pytest.mark.parametrize("classes", [0, 7])
def test_more_classes_than_there_are_or_none_are_refused(classes: int) -> None:
    with pytest.raises(TaskError, match=f"classes={classes} must lie in 1 to 6, the classes of numbered"):
        build_tasks(numbered_dataset(6, 10), tasks=1, classes=classes)


@pytest.mark.parametrize(
    ("per_class", "share", "held_out"),
    [(10, 0.1, 1), (10, 0.0, 0), (10, 0.25, 2), (10, 0.99, 9), (1, 0.9, 0)],
    ids=["tenth", "none", "rounded", "leaves one", "single image"],
)
def test_validation_takes_its_share_of_every_class(per_class: int, share: float, held_out: int) -> None:
    for task in build_tasks(numbered_dataset(4, per_class), tasks=2, validation=share):
        start = task.classes.start
        counts = [torch.bincount(part.labels - start, minlength=2).tolist() for part in (task.validation, task.train)]
        assert counts == [[held_out] * 2, [per_class - held_out] * 2]


def held_out_images(**choices: object) -> set[int]:
    built = build_tasks(numbered_dataset(6, 20), **{"tasks": 3, **choices})  # pyright: ignore[reportArgumentType]
    return {number for task in built for number in numbers(task.validation)}


def test_validation_images_depend_on_the_seed_alone() -> None:
    assert held_out_images(order="sorted") == held_out_images(order="seed", tasks=2)
    assert held_out_images(seed=0) != held_out_images(seed=1)


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_validation_share_outside_the_range_is_refused(share: float) -> None:
    with pytest.raises(TaskError, match="validation must be a share"):
        build_tasks(numbered_dataset(4, 2), tasks=2, validation=share)


def test_digits_in_five_tasks() -> None:
    pytest.importorskip("sklearn")
    built = build_tasks(load("digits"), tasks=5, validation=0.1)
    assert [len(task.classes) for task in built] == [2] * 5
    assert sum(len(part) for task in built for part in (task.train, task.validation, task.test)) == 1797


def test_cifar100_in_the_icarl_order() -> None:
    root = Path(os.environ.get("SLIMKERN_DATA", ""))
    if not (root / "cifar-100-python").is_dir():
        pytest.skip("set SLIMKERN_DATA to a folder that holds cifar-100-python/ to read the official files")
    dataset = load("cifar100", root)
    first, *_, last = build_tasks(dataset, tasks=10, order="icarl", validation=0.1)
    assert [len(first.train), len(first.validation), len(first.test)] == [4500, 500, 1000]
    assert (dataset.classes[ICARL_ORDER[0]], dataset.classes[ICARL_ORDER[99]]) == ("road", "forest")
    forests = last.test.images[last.test.labels == 99]
    assert torch.equal(forests, dataset.test.images[dataset.test.labels == 33])
