from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from slimkern.kernels import why_unavailable

FOLDER = Path(__file__).parent / "interpreted"


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="this process runs them itself")
@pytest.mark.skipif(why_unavailable() is not None, reason=f"{why_unavailable()}")
def test_kernels_compute_the_same_in_the_interpreter() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", str(FOLDER)]
    run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TRITON_INTERPRET": "1"})
    assert run.returncode == 0, run.stdout + run.stderr
