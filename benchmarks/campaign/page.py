"""One page on what a campaign found: what ran, what is right, what is fast, what to do next."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from campaign.runner import Ending, Step

Line = dict[str, Any]
PLAIN = "plain, captured"
SHOWN_KERNELS = 12


def write_page(folder: Path, steps: Sequence[Step], endings: Mapping[str, Ending]) -> Path:
    """Write `page.md` of a campaign's folder."""
    rows, checks = read_lines(folder / "rows.jsonl"), read_lines(folder / "checks.jsonl")
    log = folder / "log.txt"
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    parts = [
        "# What the campaign found",
        _section("What ran", _ran(steps, endings)),
        _section("What is right", [*_checked(checks), *_tested(text)]),
        _section("What is fast", [*_machine(rows), *_steps(rows), *_kernels(rows), *_passes(rows)]),
        _section("What to do next", _next(steps, endings, rows, checks, text)),
    ]
    path = folder / "page.md"
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return path


def read_lines(path: Path) -> list[Line]:
    """The objects of a file with one a line; a last line that was cut short is left out."""
    lines = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                continue
    return lines


def _section(title: str, lines: Iterable[str]) -> str:
    return "\n".join([f"## {title}", "", *(lines or ["nothing yet"])])


def _ran(steps: Sequence[Step], endings: Mapping[str, Ending]) -> list[str]:
    lines = []
    for step in steps:
        ending = endings.get(step.name)
        how = f"{ending.status}, {ending.seconds:.0f} s" if ending else "still missing"
        lines.append(f"- {step.name} ({step.what}): {how}")
    return lines


def _checked(checks: Sequence[Line]) -> list[str]:
    """How many configurations are right, and which aren't."""
    if not checks:
        return ["- no configuration was checked"]
    counts = Counter(check["status"] for check in checks)
    lines = ["- configurations of the convolutions: " + ", ".join(f"{n} {status}" for status, n in counts.items())]
    return lines + [f"  - {_named(check)}: {check['status']}, {_first(check['why'])}" for check in _faulty(checks)]


def _faulty(checks: Sequence[Line]) -> list[Line]:
    return [check for check in checks if check["status"] not in ("right", "unsuitable")]


def _named(check: Line) -> str:
    return ", ".join(
        str(check[key]) for key in ("layer", "pass", "way", "kind", "scroll", "configuration") if key in check
    )


def _first(text: str) -> str:
    return text.strip().splitlines()[-1][:200] if text.strip() else "no reason told"


def _tested(log: str) -> list[str]:
    """pytest's last lines, and the tests that failed."""
    totals = re.findall(r"^(?:=+ )?(\d+ (?:passed|failed|skipped|error).*?)(?: =+)?$", log, re.MULTILINE)
    failed = sorted(set(re.findall(r"^(?:FAILED|ERROR) (\S+.*)$", log, re.MULTILINE)))
    return [f"- tests: {total}" for total in totals] + [f"  - {name[:220]}" for name in failed]


def _machine(rows: Sequence[Line]) -> list[str]:
    lines = []
    for row in rows:
        if row["benchmark"] == "machine":
            rates = ", ".join(f"{value:.4g} {unit}" for unit, value in row["figures"].items())
            case = ", ".join(f"{key} {value}" for key, value in row["case"].items())
            lines.append(f"- {row['name']} ({case}): {rates or str(row['milliseconds']['p50'] * 1e3) + ' us'}")
    return lines


def _steps(rows: Sequence[Line]) -> list[str]:
    """Training steps, each beside the plain one of its run."""
    told = [row for row in rows if row["benchmark"] == "training_step"]
    if not told:
        return []
    lines = [
        "",
        "| step | case | ms | of plain | of the floor | launches |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in told:
        figures, case = row["figures"], ", ".join(f"{key} {value}" for key, value in row["case"].items())
        case += ", tuned" if figures.get("tuned") == "yes" else ""
        ratio = figures.get("ratio p50")
        lines.append(
            f"| {row['name']} | {case} | {row['milliseconds']['p50']:.3f} | {f'{ratio:.2f}' if ratio else ''} "
            f"| {figures['ratio to roofline']:.2f} | {figures['launches']} |"
        )
    return lines


def _kernels(rows: Sequence[Line]) -> list[str]:
    """The heaviest kernels of each step."""
    lines: list[str] = []
    by_step: dict[str, list[Line]] = {}
    for row in rows:
        if row["benchmark"] == "step_kernels":
            by_step.setdefault(row["case"]["step"], []).append(row)
    for step, kernels in by_step.items():
        lines += ["", f"{step}: kernel, launches, us a step"]
        for row in sorted(kernels, key=lambda row: -row["milliseconds"]["p50"])[: SHOWN_KERNELS + 1]:
            us = 1e3 * row["milliseconds"]["p50"]
            lines.append(f"- {row['name'][:110]}: {row['figures']['launches']:.0f}, {us:.1f}")
    return lines


def _passes(rows: Sequence[Line]) -> list[str]:
    """Who is the fastest on each pass of each layer."""
    by_case: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["benchmark"] == "scroll_conv2d":
            case = ", ".join(f"{key} {value}" for key, value in row["case"].items())
            by_case.setdefault(case, {})[row["name"]] = 1e3 * row["milliseconds"]["p50"]
    lines = [""] if by_case else []
    for case, times in by_case.items():
        ranked = sorted(times.items(), key=lambda item: item[1])
        lines.append(f"- {case}: " + ", ".join(f"{name} {us:.1f}" for name, us in ranked) + " us")
    return lines


def _next(
    steps: Sequence[Step], endings: Mapping[str, Ending], rows: Sequence[Line], checks: Sequence[Line], log: str
) -> list[str]:
    lines = []
    missing = [step.name for step in steps if step.name not in endings or endings[step.name].status == "no time"]
    if missing:
        lines.append(f"- run the same command with the same folder again: {', '.join(missing)} are missing")
    broken = [ending for ending in endings.values() if ending.status in ("failed", "crashed", "hung")]
    lines += [f"- {ending.step} {ending.status}: its part of log.txt says why" for ending in broken]
    if faulty := _faulty(checks):
        lines.append(f"- mend or refuse {len(faulty)} configurations that aren't right, named above")
    if "FAILED " in log or "ERROR " in log:
        lines.append("- mend the tests that failed, named above")
    steps_told = [row for row in rows if row["benchmark"] == "training_step" and row["figures"].get("ratio p50")]
    own = [row for row in steps_told if row["name"].startswith("slimkern") and row["name"].endswith("captured")]
    if own:
        best = min(own, key=lambda row: row["figures"]["ratio p50"])
        lines.append(
            f"- the best step of ours takes {best['figures']['ratio p50']:.2f} of {best['figures']['plain']} "
            f"({best['name']}) and {best['figures']['ratio to roofline']:.2f} of the floor: its kernels above say where"
        )
    return lines or ["- nothing: all ran, and all is right"]
