from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

on_gpu = pytest.importorskip("on_gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_does_nothing() -> None:
    done = subprocess.run([sys.executable, on_gpu.__file__], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith("there is nothing to do without a GPU: torch ")


def test_a_missing_sanitizer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_gpu.shutil, "which", lambda place: None)
    assert on_gpu.sanitizer().startswith("there is no compute-sanitizer (looked in PATH and in CUDA_HOME/bin)")


def test_the_sanitizer_of_cuda_home_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tool = tmp_path / "bin" / "compute-sanitizer"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert on_gpu.sanitizer_path() == str(tool)


def test_parts_that_fail_are_told_and_change_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(on_gpu, "why_not", lambda: None)
    monkeypatch.setattr(on_gpu, "PARTS", {"build": lambda: None, "tests": lambda: "exit status 1"})
    monkeypatch.setattr(sys, "argv", ["on_gpu.py"])
    assert on_gpu.main() == 1
    assert "build: passed (0 s)\ntests: exit status 1 (0 s)\n" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["on_gpu.py", "--skip", "tests"])
    assert on_gpu.main() == 0


WITHOUT_KERNELS = {"test_streams.py"}  # of slimkern's own; and captures need PyTorch's cache, which is off there


def test_what_the_sanitizer_runs_is_there() -> None:
    """The subset is chosen by name: each file with GPU tests must have some of that name."""
    root = Path(on_gpu.ROOT)
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", "tests/gpu", "-k", on_gpu.SANITIZED]
    collected = subprocess.run(command, cwd=root, capture_output=True, text=True).stdout
    files = {file.name for file in (root / "tests/gpu").glob("test_*.py")} - WITHOUT_KERNELS
    assert [name for name in sorted(files) if f"{name}::" not in collected] == []
