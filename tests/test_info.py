from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError

import pytest
import torch

import slimkern
from slimkern import info
from slimkern.ops import backends


def test_it_names_the_versions_and_devices() -> None:
    first, second, *_ = info.describe().splitlines()
    assert first.startswith(f"slimkern {slimkern.__version__}, torch {torch.__version__}, triton ")
    assert first.endswith(f"Python {platform.python_version()}")
    gpu = f"cuda:0 ({torch.cuda.get_device_name(0)})" if torch.cuda.is_available() else "no CUDA GPU"
    assert second.startswith("devices: cpu (") and gpu in second


def test_every_operator_has_its_backend_and_the_reasons_against_others() -> None:
    lines = info.describe().splitlines()
    for operator, available in backends.OPERATORS.items():
        at = lines.index(f"  {operator}: {available[0]}")
        others = [backend for backend in backends.BACKENDS if backend not in available]
        assert lines[at + 1 : at + 1 + len(others)] == [f"    {other}: not part of this version" for other in others]


@pytest.mark.parametrize(
    ("forced", "message"),
    [("cuda", "SLIMKERN_BACKEND=cuda is unknown"), ("native", "has no such backend, only torch")],
)
def test_a_backend_that_can_not_be_forced_is_explained(
    monkeypatch: pytest.MonkeyPatch, forced: str, message: str
) -> None:
    monkeypatch.setenv("SLIMKERN_BACKEND", forced)
    assert message in info.describe()


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(package: str) -> str:
        if package in ("tyro", "rich", "triton"):
            raise PackageNotFoundError(package)
        return "1.0"

    monkeypatch.setattr(info, "version", version)
    text = info.describe()
    assert "triton missing" in text
    assert "  train: missing rich, tyro; pip install 'slimkern[train]'" in text
    assert "  plot: installed" in text and "  tensorboard: installed" in text
