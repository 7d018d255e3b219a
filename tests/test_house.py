"""The rules of the house that no linter knows: twins by name, short files, docstrings, a light import."""

from __future__ import annotations

import ast
import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from slimkern.ops import backends

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted((ROOT / "slimkern").rglob("*.py"))
LENGTHS = {
    str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
    for folder in ("slimkern", "tests", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
}
OPERATORS_WITHOUT_MODULE = {"branch_conv2d", "branch_linear", "pack_weights", "scroll_conv2d_batch_norm"}


def syntax(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def defines_its_own_name(path: Path) -> bool:
    return any(isinstance(node, ast.FunctionDef) and node.name == path.stem for node in syntax(path).body)


def test_operators_are_those_that_backends_lists() -> None:
    files = (ROOT / "slimkern" / "ops").glob("*.py")
    assert {path.stem for path in files if defines_its_own_name(path)} == set(backends.OPERATORS)


@pytest.mark.parametrize("operator", backends.OPERATORS)
def test_operator_has_its_twins(operator: str) -> None:
    twins = [f"tests/ops/test_{operator}.py"]
    if operator not in OPERATORS_WITHOUT_MODULE:
        twins += [f"slimkern/nn/{operator}.py", f"tests/nn/test_{operator}.py"]
    assert [twin for twin in twins if not (ROOT / twin).is_file()] == []


@pytest.mark.parametrize("operator", [name for name, own in backends.OPERATORS.items() if "native" in own])
def test_native_operator_is_tested_on_a_gpu_too(operator: str) -> None:
    assert (ROOT / "tests" / "gpu" / f"test_{operator}.py").is_file()


def test_no_file_is_long() -> None:
    assert {file: length for file, length in LENGTHS.items() if length > 400} == {}


def test_no_file_holds_marks_of_a_merge() -> None:
    marks = ("<<<<<<< ", ">>>>>>> ")
    lines = {file: (ROOT / file).read_text(encoding="utf-8").splitlines() for file in LENGTHS}
    assert [file for file, own in lines.items() if any(line.strip().startswith(marks) for line in own)] == []


def test_the_median_file_is_short() -> None:
    assert statistics.median(LENGTHS.values()) < 200


def test_public_modules_have_docstrings() -> None:
    public = [path for path in MODULES if path.name == "__init__.py" or not path.name.startswith("_")]
    assert [path for path in public if not ast.get_docstring(syntax(path))] == []


def test_importing_the_package_leaves_the_trainer_and_its_extras_alone() -> None:
    listing = "import json, sys, slimkern; print(json.dumps(sorted(sys.modules)))"
    printed = subprocess.run([sys.executable, "-c", listing], check=True, capture_output=True, text=True, cwd=ROOT)
    extras = {"torchvision", "rich", "tyro", "sklearn", "matplotlib", "tensorboard"}
    trainer = {"slimkern.continual", "slimkern.experiments", "slimkern.cli"}
    assert set(json.loads(printed.stdout)) & (extras | trainer) == set()
