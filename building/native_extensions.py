"""The native core as setuptools extensions: a library of operators for each device, and a module of Python functions.

The libraries hold no Python, and speak to libtorch through its stable ABI alone. Whatever can't be built is left out
with a warning, unless `SLIMKERN_BUILD` asks for it: the package then works without.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sysconfig
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ninja_build import Compilation, make_library
from setuptools import Distribution, Extension
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from toolchain import BuildError, Toolchain, architectures, code_options, mode, torch_root, version_of

ROOT = Path(__file__).resolve().parents[1]
CSRC = ROOT / "csrc"
OBJECTS = ROOT / "build" / "native"  # an editable installation throws setuptools' own folder away
CPU, CUDA, REPORT = "slimkern.libslimkern_cpu", "slimkern.libslimkern_cuda", "slimkern._build"
REPORT_FILE = "build_report.json"  # beside the package: what `_build` would tell, had it been built
STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020b000000000000"  # libtorch 2.11
OPTIMISED = ["-std=c++17", "-O3", "-fPIC"]
# Contraction would give the backward pass other values than the forward pass clamped.
CXX_OPTIONS = [*OPTIMISED, "-fvisibility=hidden", "-ffp-contract=off", "-Wno-psabi"]
NVCC_OPTIONS = ["-std=c++17", "-O3", "-Xcompiler=-fPIC,-fvisibility=hidden", "-DUSE_CUDA"]
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
INSTRUCTION_SETS = {
    "baseline": [],
    "avx2": AVX2,
    "avx512": [*AVX2, *(f"-mavx512{part}" for part in ("f", "bw", "dq", "vl"))],
}
FOR_EACH_INSTRUCTION_SET = {CSRC / "cpu" / f"{name}.cpp" for name in ("passes", "stretches", "winograd_tiles")}


def native_extensions() -> list[Extension]:
    """The extensions that the compilers at hand allow for; none without a C++ compiler."""
    toolchain = Toolchain.find()
    names = [CPU, CUDA] if toolchain.nvcc else [CPU]
    return [Extension(name, [], optional=True) for name in [*names, REPORT]] if toolchain.cxx else []


def torch_options() -> list[str]:
    """What it takes to compile against libtorch's stable ABI.

    Raises:
        BuildError: there is no torch that has it.
    """
    return [STABLE_ABI, "-isystem", str(torch_root() / "include")]


def libtorch(prefix: str = "-Wl,") -> list[str]:
    """What it takes to link against whatever libraries this torch has, which the process has loaded already.

    Raises:
        BuildError: there is no torch that can be used.
    """
    return [f"{prefix}--no-as-needed", f"-L{torch_root() / 'lib'}", "-ltorch", "-ltorch_cpu"]


def _clear(folder: Path, command: build_ext) -> None:
    """Remove what an earlier build left in a folder of the package: also the parts that this one leaves out."""
    for name in (*(command.get_ext_filename(name) for name in (CPU, CUDA, REPORT)), REPORT_FILE):
        (folder / Path(name).name).unlink(missing_ok=True)


def _leave_word(folder: Path, left_out: dict[str, str]) -> None:
    (folder / REPORT_FILE).write_text(json.dumps({"left out": left_out}))


def _put(made: Path, target: Path) -> None:
    """Put a copy into its place at once, as one that is cut short kills the process which loads it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f"{target.name}.part")
    try:
        shutil.copy(made, beside)
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)


class BuildPython(build_py):
    """Leaves word of what is missing where there is no compiler, and so no extension that could tell."""

    def run(self) -> None:
        """Copy the sources, and write the report."""
        super().run()
        toolchain = Toolchain.find()
        if not toolchain.cxx:
            folder = self.get_package_dir("slimkern") if self.editable_mode else Path(self.build_lib, "slimkern")
            _clear(Path(folder), self.get_finalized_command("build_ext"))
            _leave_word(Path(folder), toolchain.left_out)


class BuildNative(build_ext):
    """Compiles the extensions above, in their order."""

    def get_ext_filename(self, fullname: str) -> str:
        """The file of an extension; the libraries' names don't say for which Python they are."""
        if fullname.rpartition(".")[2] in (CPU.rpartition(".")[2], CUDA.rpartition(".")[2]):
            return str(Path(*fullname.split("."))) + ".so"
        return super().get_ext_filename(fullname)

    def build_extensions(self) -> None:
        """Build what can be built; remember what was left out, and why.

        Raises:
            SystemExit: what `SLIMKERN_BUILD` asks for can't be built.
        """
        self.toolchain = Toolchain.find()
        self.left_out = dict(self.toolchain.left_out)
        self.report: dict[str, Any] = {}
        _clear(Path(self.build_lib, "slimkern"), self)
        for extension in self.extensions:
            target = Path(self.get_ext_fullpath(extension.name))
            part = {CPU: "cpu", CUDA: "cuda"}.get(extension.name, "report")
            try:
                made = {"cpu": self._build_cpu, "cuda": self._build_cuda, "report": self._build_report}[part](
                    target.name
                )
            except BuildError as error:
                if mode() != "auto":
                    raise SystemExit(f"SLIMKERN_BUILD={mode()}: {part} can't be built: {error}") from None
                self.left_out[part] = str(error).splitlines()[0]
                continue
            _put(made, target)
        if "report" in self.left_out:
            report = Path(self.build_lib, "slimkern", REPORT_FILE)
            report.parent.mkdir(parents=True, exist_ok=True)
            report.write_text(self._told())

    def copy_extensions_to_source(self) -> None:
        """Put what was built beside the sources, in the place of all that an earlier build left there."""
        folder = Path(self.get_finalized_command("build_py").get_package_dir("slimkern"))
        _clear(folder, self)
        if not self.extensions:
            _leave_word(folder, Toolchain.find().left_out)
            return
        for name in (
            *(self.get_ext_filename(extension.name) for extension in self.extensions),
            f"slimkern/{REPORT_FILE}",
        ):
            made = Path(self.build_lib, name)
            if made.is_file():
                _put(made, folder / made.name)

    def _build_cpu(self, name: str) -> Path:
        x86 = platform.machine() in ("x86_64", "AMD64")
        compiler = [str(self.toolchain.cxx), *CXX_OPTIONS, *torch_options(), f"-I{CSRC}"]
        compiler += ["-DSLIMKERN_X86"] if x86 else []
        sources = sorted({CSRC / "library.cpp", *(CSRC / "cpu").glob("*.cpp")} - FOR_EACH_INSTRUCTION_SET)
        compilations = [Compilation(compiler, source) for source in sources]
        for isa in INSTRUCTION_SETS if x86 else ["baseline"]:
            options = [f"-DSLIMKERN_ISA={isa}", *INSTRUCTION_SETS[isa]]
            compilations += [
                Compilation([*compiler, *options], source, f"_{isa}") for source in sorted(FOR_EACH_INSTRUCTION_SET)
            ]
        made = make_library(OBJECTS / "cpu", name, compilations, [str(self.toolchain.cxx)], libtorch())
        self.report["cpu"] = {
            "compiler": version_of(str(self.toolchain.cxx)),
            "flags": " ".join([*CXX_OPTIONS, STABLE_ABI]),
            "instruction sets": list(INSTRUCTION_SETS) if x86 else [f"baseline ({platform.machine()})"],
        }
        return made

    def _build_cuda(self, name: str) -> Path:
        if "cpu" in self.left_out:
            raise BuildError("it needs the cpu part")
        nvcc = [str(self.toolchain.nvcc), f"-ccbin={self.toolchain.cxx}"]
        listed = architectures(nvcc[0])
        flags = [*NVCC_OPTIONS, *code_options(listed)]
        compiler = [*nvcc, *flags, *torch_options(), f"-I{CSRC}"]
        compilations = [Compilation(compiler, source) for source in sorted((CSRC / "cuda").glob("*.cu"))]
        # The CUDA runtime goes in: its version needn't be the one that torch brings.
        linker = [*nvcc, "-cudart=static"]
        made = make_library(OBJECTS / "cuda", name, compilations, linker, libtorch("-Xlinker="))
        self.report["cuda"] = {
            "compiler": version_of(nvcc[0]),
            "flags": " ".join([*flags, STABLE_ABI]),
            "architectures": listed,
        }
        return made

    def _build_report(self, name: str) -> Path:
        try:
            import pybind11
        except ImportError:
            raise BuildError("pybind11 is not installed where the build runs") from None
        header = OBJECTS / "report" / "report.h"
        header.parent.mkdir(parents=True, exist_ok=True)
        told = f'#define SLIMKERN_BUILD_REPORT R"json({self._told()})json"\n'
        if not header.exists() or header.read_text() != told:
            header.write_text(told)
        folders = [CSRC, header.parent, pybind11.get_include(), sysconfig.get_path("include")]
        compiler = [str(self.toolchain.cxx), *OPTIMISED, "-fvisibility=hidden", *(f"-I{folder}" for folder in folders)]
        compilation = Compilation(compiler, CSRC / "python_module.cpp")
        return make_library(OBJECTS / "report", name, [compilation], [str(self.toolchain.cxx)])

    def _told(self) -> str:
        torch_version = version("torch") if "cpu" in self.report else None
        return json.dumps(self.report | {"built against torch": torch_version, "left out": self.left_out})


def last_words(distribution: Distribution) -> list[str]:
    """What a build by `SLIMKERN_BUILD=auto` left out, and why; nothing unless commands that build have run."""
    if mode() != "auto" or not any(map(distribution.have_run.get, ("build_ext", "build_py"))):
        return []
    left_out = getattr(distribution.get_command_obj("build_ext"), "left_out", Toolchain.find().left_out)
    return [f"slimkern works without its native core's {part} part: {why}" for part, why in left_out.items()]
