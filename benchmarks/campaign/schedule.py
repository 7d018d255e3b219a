"""What is asked of a GPU, the most telling first; and the same on a CPU, with tiny shapes and stand-ins."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from campaign.journal import Step

ROOT = Path(__file__).resolve().parents[2]
KERNELS = "slimkern|gather|sum_pixels|sum_boxes|add_partial_sums"
"""What the mangled names of our kernels hold: a namespace in C++, their own names in Triton."""
CHECKED_FOR_MEMORY = (
    "bfloat16 and (narrow_32x32 or odd_33x33_stride_2 or stem or biased_dilated or wraps_around or misaligned "
    "or four_widths_residual) or triton_residual_relu"
)
"""What the sanitizer runs of tests/gpu: some of each kernel. Captured tests don't run under it."""
WITHOUT_CAPTURES = "not captured and not graph and not replay and not stream"
HEAVIEST = "gather|sum_boxes|sum_pixels|differentiate|normalise"


def on_gpu(folder: Path) -> list[Step]:
    """The steps for a machine with a GPU; `folder` is the campaign's."""
    quick = ["--batches", "64", "--precisions", "bf16", "--repetitions", "8", "--budget", "12"]
    step_of = [*_bench("training_step"), *quick, "--skip", "compiled"]
    untuned = [*step_of, "--scrolls", "0", "--backends", "torch", "native"]
    tuned = [*step_of, "eager", "--tune", "--scrolls"]
    kernels = [*_bench("step_kernels"), "--repetitions", "3", "--tune"]
    layers = [*_bench("scroll_conv2d"), "--batch", "64", "--experiment", "layers", "--repetitions", "10"]
    return [
        Step("build", "does the native core compile from its sources here", _build(), 150, beside=True),
        Step("machine", "versions, clocks, copies, products, launches", _machine(), 40),
        Step("kernels", "is every configuration right on ResNet-18's shapes", _check(folder), 75),
        Step("step", "the step at scroll 0, without Triton, untuned", untuned, 80),
        Step("tests", "tests/gpu in twelve processes", _tests("-n", "12"), 130),
        Step("tuned-step", "the captured step at scroll 0, tuned", [*tuned, "0"], 110),
        Step("step-kernels", "what each kernel of a step takes", kernels, 50),
        Step("tuned-step-scrolled", "the captured step at scroll 1, tuned", [*tuned, "1"], 80),
        Step("memory", "memcheck of our kernels", _sanitized("memcheck"), 75),
        Step("counters", "what limits the heaviest kernels", _counters(), 45),
        Step("operators", "batch norm, packing and heads by themselves", _operators(), 60),
        Step("layers", "each layer and pass by all contenders", layers, 120),
        Step("run", "one task as the paper trains it", [*_bench("run"), "--precisions", "bf16"], 60),
        Step("races", "racecheck of our kernels", _sanitized("racecheck"), 120),
    ]


def rehearsal(folder: Path) -> list[Step]:
    """The same steps on a CPU: little of everything, and stand-ins for what only a GPU has."""
    few = ["--device", "cpu", "--repetitions", "1", "--budget", "5"]
    small = [*few, "--channels", "32"]
    check = [*_python("check_scroll_conv2d.py"), "--device", "cpu", "--batch", "1", "--kinds", "ieee", "--scrolls", "1"]
    check += ["--shrink", "8", "--layers", "2", "--processes", "1", "--silence", "120", "--out", str(_checks(folder))]
    stand_in = "stands in for what only a GPU has"
    step_of = [*_bench("training_step"), *small, "--batches", "2", "--precisions", "fp32"]
    step_of += ["--only", "plain", "slimkern", "--skip", "compiled", "captured"]
    return [
        Step("build", "stands in for the compilers", [sys.executable, "-c", "print('compiled')"], 60, beside=True),
        Step("machine", "copies, products, launches", _each([*_bench("machine"), *few], ["echo", "and no more"]), 120),
        Step("kernels", "one layer in Triton's interpreter", check, 300, {"TRITON_INTERPRET": "1"}),
        Step("step", "the step", step_of, 300),
        Step("tests", "tests/gpu, which skip", _tests(), 300),
        Step("step-kernels", "the operators of a step", [*_bench("step_kernels"), *small, "--batch", "2",
             "--precision", "fp32", "--steps", "plain, eager"], 120),
        Step("memory", stand_in, [sys.executable, "-c", "print('no errors')"], 60),
    ]  # fmt: skip


SCHEDULES: dict[str, Callable[[Path], list[Step]]] = {"gpu": on_gpu, "rehearsal": rehearsal}


def _python(script: str) -> list[str]:
    return [sys.executable, str(ROOT / "benchmarks" / script)]


def _bench(name: str) -> list[str]:
    return _python(f"bench_{name}.py")


def _each(*commands: Sequence[str]) -> list[str]:
    """All commands in turn, whatever becomes of those before; it fails if one does."""
    lines = [f"{shlex.join(command)} || failed=$?" for command in commands]
    return ["bash", "-c", "\n".join([f"cd {shlex.quote(str(ROOT))} || exit", "failed=0", *lines, "exit $failed"])]


def _machine() -> list[str]:
    # Not by the command line, which wants an extra.
    describe = [sys.executable, "-c", "from slimkern.info import describe; print(describe())"]
    return _each(["nvidia-smi"], describe, _bench("machine"))


def _checks(folder: Path) -> Path:
    return folder / "checks.jsonl"


def _check(folder: Path) -> list[str]:
    return [*_python("check_scroll_conv2d.py"), "--out", str(_checks(folder))]


def _tests(*options: str) -> list[str]:
    parallel = [*options, "--timeout", "60"] if options else []
    return [sys.executable, "-m", "pytest", "-q", "-rfE", "--rootdir", str(ROOT), "-p", "no:cacheprovider", *parallel,
            str(ROOT / "tests" / "gpu")]  # fmt: skip


def _build() -> list[str]:
    """Compile a copy of the sources, beside what is installed, and load what came of it."""
    python = shlex.quote(sys.executable)
    loads = "import sys; from slimkern.ops import native; sys.exit(native.why_unavailable('cuda'))"
    lines = [
        "set -e",
        f"cd {shlex.quote(str(ROOT))}",
        "copy=$(mktemp -d)",
        "trap 'rm -rf \"$copy\"' EXIT",
        'cp -r building csrc slimkern *.toml setup.py README.md LICENSE MANIFEST.in "$copy"',
        'cd "$copy"',
        "rm -f slimkern/*.so slimkern/build_report.json",
        f"SLIMKERN_BUILD=cuda MAX_JOBS=4 {python} setup.py -q build_ext --inplace",
        f'PYTHONPATH="$copy" {python} -c {shlex.quote(loads)}',
        "ls -l slimkern/*.so",
    ]
    return ["bash", "-c", "\n".join(lines)]


def tool_of_toolkit(name: str) -> str:
    """Where a program of CUDA's toolkit is: on the path, or where a toolkit is said to be, or is as a rule."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    places = [name, *(f"{home}/bin/{name}" for home in homes if home)]
    return next(filter(None, map(shutil.which, places)), places[-1])


def _sanitized(check: str) -> list[str]:
    tests = [*_tests(), "-k", f"({CHECKED_FOR_MEMORY}) and {WITHOUT_CAPTURES}"]
    filtered = ["--kernel-name", f"regex={KERNELS}", "--error-exitcode", "99"]
    return [tool_of_toolkit("compute-sanitizer"), "--tool", check, *filtered, *tests]


def _counters() -> list[str]:
    step = [*_bench("step_kernels"), "--steps", "slimkern triton, eager", "--repetitions", "0", "--tune"]
    chosen = ["--kernel-name", f"regex:{HEAVIEST}", "--launch-skip", "100", "--launch-count", "60"]
    sections = [word for name in ("SpeedOfLight", "Occupancy", "LaunchStats") for word in ("--section", name)]
    told = ["--clock-control", "none", *chosen, *sections, "--csv", "--page", "raw"]
    return [tool_of_toolkit("ncu"), *told, *step]


def _operators() -> list[str]:
    scripts = ("switchable_batch_norm", "pack_weights", "ragged_head")
    return _each(*([*_bench(name), "--dtype", "bfloat16", "--budget", "12"] for name in scripts))
