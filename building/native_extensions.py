"""The native core as setuptools extensions: a library of operators for each device, and a module of Python functions.

The libraries hold no Python, and speak to libtorch through its stable ABI alone. Whatever can't be built is left out
with a warning, unless `SLIMKERN_BUILD` asks for it: the package then works without.
"""

from __future__ import annotations

import json
import platform
import shutil
import sysconfig
from importlib.metadata import version
from pathlib import Path
from typing import Any

from compilation import Compilation, compile_all, link
from setuptools import Extension
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


class BuildPython(build_py):
    """Leaves word of what is missing where there is no compiler, and so no extension that could tell."""

    def run(self) -> None:
        """Copy the sources, and write the report."""
        super().run()
        toolchain = Toolchain.find()
        if not toolchain.cxx:
            folder = self.get_package_dir("slimkern") if self.editable_mode else Path(self.build_lib, "slimkern")
            Path(folder, REPORT_FILE).write_text(json.dumps({"left out": toolchain.left_out}))


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
        for extension in self.extensions:
            target = Path(self.get_ext_fullpath(extension.name))
            target.unlink(missing_ok=True)
            part = {CPU: "cpu", CUDA: "cuda"}.get(extension.name, "report")
            try:
                {"cpu": self._build_cpu, "cuda": self._build_cuda, "report": self._build_report}[part](target)
            except BuildError as error:
                if mode() == "cuda" or mode() == part:
                    raise SystemExit(f"SLIMKERN_BUILD={mode()}: {part} can't be built: {error}") from None
                self.left_out[part] = str(error).splitlines()[0]
                self.warn(f"the native core's {part} part is left out, slimkern works without it: {error}")
        report = Path(self.build_lib, "slimkern", REPORT_FILE)
        report.unlink(missing_ok=True)
        if "report" in self.left_out:
            report.parent.mkdir(parents=True, exist_ok=True)
            report.write_text(self._told())

    def copy_extensions_to_source(self) -> None:
        """Put what was built beside the sources, in the place of what an earlier build left there."""
        folder = Path(self.get_finalized_command("build_py").get_package_dir("slimkern"))
        files = [*(Path(self.get_ext_filename(own.name)).name for own in self.extensions), REPORT_FILE]
        for name in files:
            (folder / name).unlink(missing_ok=True)
        super().copy_extensions_to_source()
        report = Path(self.build_lib, "slimkern", REPORT_FILE)
        if report.is_file():
            shutil.copy(report, folder)

    def _build_cpu(self, target: Path) -> None:
        x86 = platform.machine() in ("x86_64", "AMD64")
        options = [*CXX_OPTIONS, *torch_options(), *(["-DSLIMKERN_X86"] if x86 else [])]
        sources = sorted({CSRC / "library.cpp", *(CSRC / "cpu").glob("*.cpp")} - FOR_EACH_INSTRUCTION_SET)
        compilations = [self._compilation(self.toolchain.cxx, source, options) for source in sources]
        for name in INSTRUCTION_SETS if x86 else ["baseline"]:
            own = [*options, f"-DSLIMKERN_ISA={name}", *INSTRUCTION_SETS[name]]
            compilations += [
                self._compilation(self.toolchain.cxx, source, own, f"_{name}")
                for source in sorted(FOR_EACH_INSTRUCTION_SET)
            ]
        link([self.toolchain.cxx], compile_all(compilations), target, self._libraries())
        self.report["cpu"] = {
            "compiler": version_of(str(self.toolchain.cxx)),
            "flags": " ".join([*CXX_OPTIONS, STABLE_ABI]),
            "instruction sets": list(INSTRUCTION_SETS) if x86 else [f"baseline ({platform.machine()})"],
        }

    def _build_cuda(self, target: Path) -> None:
        if "cpu" in self.left_out:
            raise BuildError("it needs the cpu part")
        nvcc = str(self.toolchain.nvcc)
        listed = architectures(nvcc)
        flags = [*NVCC_OPTIONS, *code_options(listed)]
        options = [*flags, *torch_options(), f"-ccbin={self.toolchain.cxx}"]
        sources = sorted((CSRC / "cuda").glob("*.cu"))
        objects = compile_all([self._compilation(nvcc, source, options) for source in sources])
        # The CUDA runtime goes in: its version needn't be the one that torch brings.
        link([nvcc, f"-ccbin={self.toolchain.cxx}", "-cudart=static"], objects, target, self._libraries("-Xlinker="))
        self.report["cuda"] = {
            "compiler": version_of(nvcc),
            "flags": " ".join([*flags, STABLE_ABI]),
            "architectures": listed,
        }

    def _build_report(self, target: Path) -> None:
        try:
            import pybind11
        except ImportError:
            raise BuildError("pybind11 is not installed where the build runs") from None
        generated = OBJECTS / "generated"
        generated.mkdir(parents=True, exist_ok=True)
        header = f'#define SLIMKERN_BUILD_REPORT R"json({self._told()})json"\n'
        if not (generated / "report.h").exists() or (generated / "report.h").read_text() != header:
            (generated / "report.h").write_text(header)
        folders = [generated, Path(pybind11.get_include()), Path(sysconfig.get_path("include"))]
        options = [*OPTIMISED, "-fvisibility=hidden", *(f"-I{folder}" for folder in folders)]
        source = CSRC / "python_module.cpp"
        objects = compile_all([self._compilation(self.toolchain.cxx, source, options, "", [generated / "report.h"])])
        link([self.toolchain.cxx], objects, target, [])

    def _told(self) -> str:
        torch_version = version("torch") if "cpu" in self.report else None
        return json.dumps(self.report | {"built against torch": torch_version, "left out": self.left_out})

    def _compilation(
        self, compiler: str | None, source: Path, options: list[str], suffix: str = "", more: list[Path] | None = None
    ) -> Compilation:
        stem = "_".join(source.relative_to(CSRC).with_suffix("").parts)
        output = OBJECTS / f"{stem}{suffix}{source.suffix}.o"
        command = [str(compiler), *options, f"-I{CSRC}", "-c", str(source), "-o", str(output)]
        return Compilation(command, [source, *sorted(CSRC.rglob("*.h")), *(more or [])], output)

    def _libraries(self, prefix: str = "-Wl,") -> list[str]:
        # libtorch.so stands for whatever libraries this torch has; the process has loaded them already.
        return [f"{prefix}--no-as-needed", f"-L{torch_root() / 'lib'}", "-ltorch", "-ltorch_cpu"]
