from __future__ import annotations

import builtins
import sys
from pathlib import Path

import pytest

from slimkern.continual.data import MissingDataError, MissingExtraError, UnknownDatasetError, load


def test_an_unknown_name_lists_the_allowed() -> None:
    with pytest.raises(
        UnknownDatasetError, match="'imagenet'; allowed: digits, mnist, fashion-mnist, cifar10, cifar100, tiny"
    ):
        load("imagenet")


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10", "cifar100", "tiny-imagenet"])
def test_no_root_says_what_is_needed(name: str) -> None:
    with pytest.raises(MissingDataError, match=f"{name} needs a data folder"):
        load(name)


@pytest.mark.parametrize(
    ("name", "package"),
    [("digits", "sklearn"), ("cifar10", "torchvision"), ("mnist", "torchvision"), ("tiny-imagenet", "PIL")],
)
def test_a_missing_package_names_the_extra(
    name: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = tmp_path / "tiny-imagenet-200"
    (tiny / "val").mkdir(parents=True)
    for empty in ("wnids.txt", "words.txt", "val/val_annotations.txt"):
        (tiny / empty).touch()
    for module in [module for module in sys.modules if module.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    import_module = builtins.__import__

    def refuse(wanted: str, *args: object, **kwargs: object) -> object:
        if wanted.split(".")[0] == package:
            raise ImportError(wanted)
        return import_module(wanted, *args, **kwargs)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtraError, match=r"slimkern\[train\]"):
        load(name, tmp_path)
