"""What all benchmarks share: timing in turns, and results as rows of JSON that say where they come from.

A row is an object with

- `benchmark`, `case` (what was computed: batch, precision, ...) and `name` (who computed it);
- `milliseconds` (percentiles `p20`, `p50`, `p80` of one call) and `repetitions`;
- `figures`, whatever else was measured or follows from it, by name and unit;
- `device`, `versions`, `commit`, `clock_mhz` and `measured`, the time in UTC.

`results/<device>.json` holds the newest row of each benchmark, case and name on that device. While a benchmark runs,
each row is also added to the file that `SLIMKERN_ROWS` names, a line of JSON a row, so that what was measured outlives
a benchmark that is killed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from lines import add_line, replace

import slimkern

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
STREAM = "SLIMKERN_ROWS"
"""Environment variable that names the file which rows are added to as they come."""

Row = dict[str, Any]
Times = dict[str, list[float]]
FEWEST = 3
"""Rounds that are timed even where a budget of time is spent."""


def in_turns(
    calls: Mapping[str, Callable[[], object]],
    repetitions: int,
    warmup: int = 3,
    inner: int = 1,
    device: str = "cpu",
    budget: float | None = None,
    before: Callable[[str], object] = lambda name: None,
) -> Times:
    """Seconds of each repetition of each call, taken in turns, so that a machine whose speed drifts slows all alike.

    Args:
        calls: what to time, by name.
        repetitions: timed rounds.
        warmup: rounds before them.
        inner: calls timed together as one, for those so short that the clock or the launch would count.
        device: what to wait for before the clock is read.
        budget: seconds for all of it. No round is begun that would likely end later, unless fewer than `FEWEST` have
            been timed.
        before: called with the name of what is timed next, with the clock at rest.
    """
    times: Times = {name: [] for name in calls}
    began = round_began = time.perf_counter()
    for repetition in range(warmup + repetitions):
        now = time.perf_counter()
        if budget is not None and repetition >= warmup + FEWEST and now - began + (now - round_began) > budget:
            break
        round_began = now
        for name, call in calls.items():
            before(name)
            _wait(device)
            start = time.perf_counter()
            for _ in range(inner):
                call()
            _wait(device)
            if repetition >= warmup:
                times[name].append((time.perf_counter() - start) / inner)
    return times


def ratios(times: Times, name: str, to: str) -> list[float]:
    """The quotients of two calls' times, repetition by repetition."""
    return [own / other for own, other in zip(times[name], times[to], strict=True)]


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """The 20th, 50th and 80th percentile."""
    if len(values) < 2:
        return dict.fromkeys(("p20", "p50", "p80"), values[0])
    low, *_, high = statistics.quantiles(values, n=5, method="inclusive")
    return {"p20": low, "p50": statistics.median(values), "p80": high}


def row(
    benchmark: str,
    case: Mapping[str, Any],
    name: str,
    seconds: Sequence[float],
    figures: Mapping[str, float | str | None] | None = None,
    device: str = "cpu",
) -> Row:
    """One result; see the head of this file."""
    return {
        "benchmark": benchmark,
        "case": dict(case),
        "name": name,
        "milliseconds": {key: _short(1e3 * value) for key, value in percentiles(seconds).items()},
        "repetitions": len(seconds),
        "figures": {key: _short(value) for key, value in (figures or {}).items()},
        "device": device_name(device),
        "versions": _versions(),
        "commit": commit(),
        "clock_mhz": _clock(device),
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def operator_rows(
    benchmark: str,
    case: Mapping[str, Any],
    times: Times,
    to: Sequence[str],
    moved: int,
    bandwidth: float,
    device: str = "cpu",
) -> list[Row]:
    """Rows of an operator's backends: how they compare with some of them, and how near to a copy they are.

    Args:
        benchmark: name of the operator.
        case: what was computed.
        times: of each backend.
        to: the backends to compare with.
        moved: bytes that the operator has to read and write at least.
        bandwidth: bytes a second of a copy, measured in this process.
        device: where it ran.
    """
    rows = []
    for name, seconds in times.items():
        share = moved / statistics.median(seconds) / bandwidth
        compared = {
            f"ratio to {other} {key}": value
            for other in to
            if other != name
            for key, value in percentiles(ratios(times, name, other)).items()
        }
        figures = {**compared, "MB moved": moved / 1e6, "share of copy bandwidth": share}
        rows.append(row(benchmark, case, name, seconds, figures, device))
    return rows


def save(rows: Iterable[Row], folder: Path | None = None) -> list[Path]:
    """Put rows into the files of their devices, in place of older ones of the same benchmark, case and name.

    Args:
        rows: the new ones.
        folder: of the files; `benchmarks/results` by default.
    """
    folder = folder or RESULTS
    by_file: dict[Path, list[Row]] = {}
    for own in rows:
        slug = re.sub(r"[^a-z0-9]+", "-", own["device"].lower()).strip("-")
        by_file.setdefault(folder / f"{slug}.json", []).append(own)
    folder.mkdir(parents=True, exist_ok=True)
    for path, new in by_file.items():
        old = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
        kept = {_identity(own): own for own in [*old, *new]}
        lines = ",\n".join(json.dumps(own, ensure_ascii=False) for own in kept.values())
        replace(path, f"[\n{lines}\n]\n")
    return list(by_file)


def show(rows: Iterable[Row]) -> None:
    """Print rows, one a line."""
    for own in rows:
        case = ", ".join(f"{key} {value}" for key, value in own["case"].items())
        low, middle, high = own["milliseconds"].values()
        print(f"{own['benchmark']} [{case}]  {own['name']:36} {middle:10.4g} ms ({low:.4g} to {high:.4g})", end="")
        for key, value in own["figures"].items():
            print(f"   {key} {value:.4g}" if isinstance(value, float) else f"   {key} {value}", end="")
        print(flush=True)


def parser(description: str | None, repetitions: int, budget: float = 120.0) -> argparse.ArgumentParser:
    """The options that every benchmark has: `--device`, `--repetitions`, `--budget` and `--save`."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = present_device()
    options.add_argument("--device", choices=("cpu", "cuda"), default=default)
    options.add_argument("--repetitions", type=int, default=repetitions, help="timed rounds at most")
    options.add_argument(
        "--budget",
        type=float,
        default=budget,
        help=f"seconds after which no more rounds begin, once {FEWEST} are timed",
    )
    options.add_argument("--save", action="store_true", help="put the rows into benchmarks/results/")
    return options


def present_device() -> str:
    """`cuda` where there is a GPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def left_out(what: str, reason: object) -> None:
    """Say that something isn't measured, and why; the rest goes on."""
    print(f"left out: {what}: {reason}", file=sys.stderr, flush=True)


def finish(rows: Iterable[Row], options: argparse.Namespace) -> None:
    """Print rows and add each to the file of `STREAM` as they come; save them all where `--save` asks for it."""
    kept = []
    for measured in rows:
        show([measured])
        stream(measured)
        kept.append(measured)
    if options.save:
        print("Written:", *save(kept), sep="\n  ")


def stream(measured: Row) -> None:
    """Add a row to the file that `SLIMKERN_ROWS` names, if it does."""
    if path := os.environ.get(STREAM):
        add_line(Path(path), measured)


def copy_bandwidth(device: str = "cpu", megabytes: int = 256, repetitions: int = 30, budget: float = 5.0) -> float:
    """Bytes a second of the fastest copy between two tensors larger than any cache, reading and writing counted."""
    source = torch.empty(megabytes * 2**18, device=device).random_()
    target = torch.empty_like(source)
    seconds = in_turns({"copy": lambda: target.copy_(source)}, repetitions, device=device, budget=budget)["copy"]
    return 2 * source.nbytes / min(seconds)


def device_name(device: str = "cpu") -> str:
    """The GPU's name, or a CPU's instruction sets and the threads in use."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    capability = torch.backends.cpu.get_cpu_capability()
    return f"CPU {platform.machine()} {capability}, {torch.get_num_threads()} threads"


def gpus() -> str:
    """The names of the GPUs that the driver knows; none is used for that, as PyTorch would."""
    return ", ".join(_said(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]).splitlines()) or "unknown"


def _wait(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def _identity(own: Row) -> str:
    return json.dumps([own["benchmark"], own["case"], own["name"]], sort_keys=True)


def _short(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value


@cache
def _versions() -> dict[str, str | None]:
    def of(package: str) -> str | None:
        try:
            return version(package)
        except PackageNotFoundError:
            return None

    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda,
        "triton": of("triton"),
        "slimkern": slimkern.__version__,
    }


@cache
def commit() -> str | None:
    """The commit that is checked out, followed by + where files differ from it."""
    head = _said(["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"])
    changed = _said(["git", "-C", str(ROOT), "status", "--porcelain", "--", ".", ":!benchmarks/results"])
    return head + "+" * bool(changed) if head else None


@cache
def _clock(device: str) -> float | None:
    """The processor's clock in MHz as the system tells it, the fastest where there are several."""
    if torch.device(device).type == "cuda":
        said = _said(["nvidia-smi", "--query-gpu=clocks.sm", "--format=csv,noheader,nounits"])
        return float(said.splitlines()[0]) if re.match(r"\d", said) else None
    listing = Path("/proc/cpuinfo")
    told = re.findall(r"^cpu MHz\s*: ([\d.]+)", listing.read_text(), re.MULTILINE) if listing.is_file() else []
    return max(map(float, told), default=None)


def _said(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""
