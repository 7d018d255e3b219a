"""The C++ sources without libtorch: compiled into small programs, with sanitizers, and run."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"
CPU_SOURCES = [HERE / "batch_norm_cpu.cpp", *(CSRC / "cpu" / f"{name}.cpp" for name in ("passes", "dispatch"))]
CPU_SOURCES.append(CSRC / "cpu" / "switchable_batch_norm.cpp")
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
INSTRUCTION_SETS = {
    "baseline": [],
    "avx2": AVX2,
    "avx512f": [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"],
}
MEMORY = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


def processor_has(feature: str) -> bool:
    flags = Path("/proc/cpuinfo")
    return feature == "baseline" or (
        platform.machine() == "x86_64"
        and flags.is_file()
        and re.search(rf"\b{feature}\b", flags.read_text()) is not None
    )


def run(folder: Path, sources: list[Path], options: list[str]) -> str:
    program = folder / "program"
    common = ["-std=c++17", "-O1", "-g", "-Wall", "-Wextra", "-Wno-psabi", "-Wno-maybe-uninitialized", "-pthread"]
    command = ["g++", *common, *options, f"-I{CSRC}", f"-I{HERE}", *map(str, sources), "-o", str(program)]
    compiled = subprocess.run(command, capture_output=True, text=True)
    assert compiled.returncode == 0, compiled.stderr
    assert "warning" not in compiled.stderr, compiled.stderr
    done = subprocess.run([program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_arithmetic(tmp_path: Path) -> None:
    run(tmp_path, [HERE / "arithmetic.cpp"], MEMORY)


@pytest.mark.parametrize(
    ("instruction_set", "sanitizers", "threads"),
    [("baseline", MEMORY, 2), ("avx2", ["-fsanitize=thread"], 4), ("avx512f", MEMORY, 2)],
    ids=["baseline_memory", "avx2_races", "avx512_memory"],
)
def test_batch_norm_with_sanitizers(instruction_set: str, sanitizers: list[str], threads: int, tmp_path: Path) -> None:
    if not processor_has(instruction_set):
        pytest.skip(f"this processor has no {instruction_set}")
    # Compiled as if it were the baseline, so that no other is chosen when the program runs.
    own = ["-DSLIMKERN_ISA=baseline", "-ffp-contract=off", *INSTRUCTION_SETS[instruction_set]]
    assert "passed" in run(tmp_path, CPU_SOURCES, [*own, *sanitizers, f"-DSLIMKERN_STD_THREADS={threads}"])


def test_cuda_kernels_on_the_host(tmp_path: Path) -> None:
    own = ["-I", str(HERE / "cuda_on_host"), "-fsanitize=undefined", "-fno-sanitize-recover=all"]
    assert "passed" in run(
        tmp_path, [HERE / "batch_norm_cuda.cpp"], [*own, "-Wno-unknown-pragmas", "-Wno-sign-compare"]
    )


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
@pytest.mark.parametrize("architecture", ["80", "90a", "100"])
def test_cuda_kernels_keep_to_their_registers(architecture: str, tmp_path: Path) -> None:
    for source in ("switchable_batch_norm", "statistics"):
        options = ["-std=c++17", "-O3", f"-arch=sm_{architecture}", "-Xptxas=-v", "--cubin", f"-I{CSRC}"]
        command = ["nvcc", *options, str(CSRC / "cuda" / f"{source}.cu"), "-o", str(tmp_path / source)]
        compiled = subprocess.run(command, capture_output=True, text=True)
        assert compiled.returncode == 0, compiled.stderr
        spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", compiled.stderr)
        registers = [int(count) for count in re.findall(r"Used (\d+) registers", compiled.stderr)]
        assert spills and set(spills) == {("0", "0")}, compiled.stderr
        assert max(registers) <= 128, registers  # two blocks of 256 threads a multiprocessor
