"""What this installation can do, and what it lacks."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from slimkern.ops import backends, native
from slimkern.ops.native_library import LIBRARIES
from slimkern.ops.native_report import read_report

EXTRAS = {
    "train": ("torchvision", "rich", "tyro", "scikit-learn"),
    "plot": ("matplotlib",),
    "tensorboard": ("tensorboard",),
    "ray": ("ray",),
}


def describe() -> str:
    """Versions, devices, which backend serves each operator and why not another, the native core, the extras."""
    import slimkern

    lines = [
        f"slimkern {slimkern.__version__}, torch {torch.__version__}, triton {_version('triton') or 'missing'}, "
        f"Python {platform.python_version()}",
        f"devices: {', '.join(_devices())}",
        "",
        "operators",
    ]
    for operator in backends.OPERATORS:
        lines += [line for device in _kinds() for line in _serving(operator, device)]
    lines += ["", "native core", *_native_core(), "", "extras"]
    for extra, packages in EXTRAS.items():
        missing = [package for package in packages if _version(package) is None]
        state = f"missing {', '.join(missing)}; pip install 'slimkern[{extra}]'" if missing else "installed"
        lines.append(f"  {extra}: {state}")
    return "\n".join(lines)


def _kinds() -> list[str]:
    """The types of device at hand."""
    return ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def _serving(operator: str, device: str) -> list[str]:
    """What serves an operator on a type of device, and why no other backend does."""
    refusals = [(backend, backends.why_not(operator, backend, device)) for backend in backends.BACKENDS]
    return [
        f"  {operator} on {device}: {backends.describe(operator, device)}",
        *(f"    {backend}: {reason}" for backend, reason in refusals if reason),
    ]


def _native_core() -> list[str]:
    report = read_report()
    lines = [f"  {report.problem}"] if report.problem else []
    for device in LIBRARIES:
        built = report.parts.get(device)
        if reason := native.why_unavailable(device):
            lines.append(f"  {device}: missing, {reason}")
        elif built is None:
            lines.append(f"  {device}: loaded; how it was built is not on record")
        else:
            lines.append(
                f"  {device}: for {', '.join(built.targets)}; by {built.compiler} against torch {report.torch}"
            )
            lines.append(f"    {built.flags}")
    if any(map(native.why_unavailable, LIBRARIES)):
        lines.append(f"  to get what is missing: {native.HOW_TO_BUILD}")
    return lines


def _devices() -> list[str]:
    cpu = f"cpu ({torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()})"
    gpus = [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    return [cpu, *(gpus or ["no CUDA GPU"])]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
