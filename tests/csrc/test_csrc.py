"""The C++ sources without libtorch: compiled into small programs, with sanitizers, and run."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path

import pytest

from tests.building_modules import load

toolchain = load("toolchain")
native_extensions = load("native_extensions")
CXX, NVCC = toolchain.find_cxx(), toolchain.find_nvcc()

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"
CPU_SOURCES = [CSRC / "cpu" / f"{name}.cpp" for name in ("passes", "stretches", "winograd_tiles", "dispatch")]
CPU_PROGRAMS = {
    "batch_norm": "switchable_batch_norm",
    "pack_weights": "pack_weights",
    "ragged_head": "ragged_head",
    "winograd": "winograd",
}
CUDA_PROGRAMS = {
    "batch_norm": ("switchable_batch_norm", "statistics"),
    "pack_weights": ("pack_weights",),
    "ragged_head": ("ragged_head",),
}
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
INSTRUCTION_SETS = {
    "baseline": [],
    "avx2": AVX2,
    "avx512f": [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"],
}
MEMORY = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
ARCHITECTURES = ["8.0", "9.0a", "10.0"]

pytestmark = pytest.mark.skipif(CXX is None, reason="needs a C++ compiler")
needs_nvcc = pytest.mark.skipif(NVCC is None, reason="needs nvcc")


def processor_has(feature: str) -> bool:
    flags = Path("/proc/cpuinfo")
    return feature == "baseline" or (
        platform.machine() == "x86_64"
        and flags.is_file()
        and re.search(rf"\b{feature}\b", flags.read_text()) is not None
    )


def run(folder: Path, sources: list[Path], options: list[str]) -> str:
    program = folder / "program"
    # Headers of GCC 12 for AVX-512 read undefined vectors on purpose, and warn of it themselves.
    quiet = ["-Wno-psabi", "-Wno-maybe-uninitialized", "-Wno-uninitialized"]
    common = ["-std=c++17", "-O1", "-g", "-Wall", "-Wextra", *quiet, "-pthread"]
    command = [str(CXX), *common, *options, f"-I{CSRC}", f"-I{HERE}", *map(str, sources), "-o", str(program)]
    compiled = subprocess.run(command, capture_output=True, text=True)
    assert compiled.returncode == 0, compiled.stderr
    assert "warning" not in compiled.stderr, compiled.stderr
    # The fibers that stand for CUDA's threads have stacks of their own, which this option can't follow.
    environment = os.environ | {"ASAN_OPTIONS": "detect_stack_use_after_return=0"}
    done = subprocess.run([program], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("program", ["arithmetic", "rotation", "tile_plan"])
def test_arithmetic(program: str, tmp_path: Path) -> None:
    run(tmp_path, [HERE / f"{program}.cpp"], MEMORY)


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_conversions(instruction_set: str, tmp_path: Path) -> None:
    if not processor_has(instruction_set):
        pytest.skip(f"this processor has no {instruction_set}")
    run(tmp_path, [HERE / "conversions.cpp"], [*INSTRUCTION_SETS[instruction_set], *MEMORY])


@pytest.mark.parametrize(
    ("instruction_set", "sanitizers", "threads"),
    [("baseline", MEMORY, 2), ("avx2", MEMORY, 2), ("avx2", ["-fsanitize=thread"], 4), ("avx512f", MEMORY, 2)],
    ids=["baseline_memory", "avx2_memory", "avx2_races", "avx512_memory"],
)
@pytest.mark.parametrize("program", CPU_PROGRAMS)
def test_cpu_kernels_with_sanitizers(
    program: str, instruction_set: str, sanitizers: list[str], threads: int, tmp_path: Path
) -> None:
    if not processor_has(instruction_set):
        pytest.skip(f"this processor has no {instruction_set}")
    # Compiled as if it were the baseline, so that no other is chosen when the program runs.
    own = ["-DSLIMKERN_ISA=baseline", "-ffp-contract=off", *INSTRUCTION_SETS[instruction_set]]
    sources = [HERE / f"{program}_cpu.cpp", CSRC / "cpu" / f"{CPU_PROGRAMS[program]}.cpp", *CPU_SOURCES]
    assert "passed" in run(tmp_path, sources, [*own, *sanitizers, f"-DSLIMKERN_STD_THREADS={threads}"])


@pytest.mark.parametrize("program", CUDA_PROGRAMS)
def test_cuda_kernels_on_the_host(program: str, tmp_path: Path) -> None:
    own = ["-I", str(HERE / "cuda_on_host"), *MEMORY, "-Wno-unknown-pragmas", "-Wno-sign-compare"]
    assert "passed" in run(tmp_path, [HERE / f"{program}_cuda.cpp"], own)


def test_every_cuda_source_is_compiled_by_a_test() -> None:
    kernels = {source for sources in CUDA_PROGRAMS.values() for source in sources}
    assert {path.stem for path in (CSRC / "cuda").glob("*.cu")} == kernels | {
        f"{own}_operators" for own in CUDA_PROGRAMS
    }


@needs_nvcc
@pytest.mark.parametrize("program", CUDA_PROGRAMS)
def test_cuda_operators_compile_for_every_architecture(program: str, tmp_path: Path) -> None:
    options = [*native_extensions.NVCC_OPTIONS, *toolchain.code_options(ARCHITECTURES), f"-ccbin={CXX}", f"-I{CSRC}"]
    source = CSRC / "cuda" / f"{program}_operators.cu"
    command = [
        str(NVCC),
        *options,
        *native_extensions.torch_options(),
        "-c",
        str(source),
        "-o",
        str(tmp_path / "object"),
    ]
    compiled = subprocess.run(command, capture_output=True, text=True)
    assert compiled.returncode == 0, compiled.stderr


@needs_nvcc
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("program", CUDA_PROGRAMS)
def test_cuda_kernels_keep_to_their_registers(program: str, architecture: str, tmp_path: Path) -> None:
    target = f"-arch=sm_{architecture.replace('.', '')}"
    for source in CUDA_PROGRAMS[program]:
        options = ["-std=c++17", "-O3", target, "-Xptxas=-v", "--cubin", f"-I{CSRC}"]
        command = [str(NVCC), *options, str(CSRC / "cuda" / f"{source}.cu"), "-o", str(tmp_path / source)]
        compiled = subprocess.run(command, capture_output=True, text=True)
        assert compiled.returncode == 0, compiled.stderr
        spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", compiled.stderr)
        registers = [int(count) for count in re.findall(r"Used (\d+) registers", compiled.stderr)]
        assert spills and set(spills) == {("0", "0")}, compiled.stderr
        assert max(registers) <= 128, registers  # two blocks of 256 threads a multiprocessor
