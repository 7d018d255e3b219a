"""What becomes of the codes that libtorch's C functions return."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.building_modules import load

toolchain = load("toolchain")
native_extensions = load("native_extensions")
CXX = toolchain.find_cxx()

HERE = Path(__file__).parent
WITH_A_MESSAGE = (2, 13)  # the first PyTorch that hands out what it caught

pytestmark = pytest.mark.skipif(CXX is None, reason="needs a C++ compiler")


@pytest.fixture(scope="module")
def operators(tmp_path_factory: pytest.TempPathFactory) -> Any:
    library = tmp_path_factory.mktemp("library") / "libtorch_calls.so"
    options = ["-std=c++17", "-fPIC", "-shared", f"-I{HERE.parents[1] / 'csrc'}", *native_extensions.torch_options()]
    command = [str(CXX), *options, str(HERE / "libtorch_calls.cpp"), "-o", str(library), *native_extensions.libtorch()]
    compiled = subprocess.run(command, capture_output=True, text=True)
    assert compiled.returncode == 0, compiled.stderr
    torch.ops.load_library(str(library))
    return torch.ops.slimkern_libtorch_calls


def test_a_call_that_succeeds_says_nothing(operators: Any) -> None:
    assert operators.allocate(torch.zeros(1), 3).shape == (3,)


def test_a_failure_is_raised_with_libtorchs_message(operators: Any) -> None:
    with pytest.raises(RuntimeError, match="aoti_torch_empty_strided failed") as raised:
        operators.allocate(torch.zeros(1), -1)
    told = tuple(map(int, torch.__version__.split(".")[:2])) >= WITH_A_MESSAGE
    assert ("negative dimension" in str(raised.value).splitlines()[0]) is told
