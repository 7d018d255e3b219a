"""One page on what a campaign found: what ran, what is right, what is fast, what to do next."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lines import read_lines

from campaign.journal import Ending, Step

Line = dict[str, Any]
SHOWN_KERNELS = 12
FAILED_TESTS = re.compile(r"^(?:FAILED|ERROR) (\S+::\S.*)$", re.MULTILINE)
TOTALS = re.compile(r"^(?:=+ )?((?:\d+ \w+, )*\d+ (?:passed|failed|skipped|errors?)\b.*? in [\d.]+s.*?)(?: =+)?$", re.M)
LEFT_OUT = re.compile(r"^left out: (.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Campaign:
    """What the page is made of: the steps, how they ended, and what is in the folder, of their last tries alone."""

    steps: Sequence[Step]
    endings: Mapping[str, Ending]
    rows: Sequence[Line]
    checks: Sequence[Line]
    log: str

    @classmethod
    def read(cls, folder: Path, steps: Sequence[Step], endings: Mapping[str, Ending]) -> Campaign:
        """Read a campaign's folder."""
        log = folder / "log.txt"
        text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
        parts = re.split(r"^===== ([\w-]+): ", text, flags=re.MULTILINE)
        last = dict(zip(parts[1::2], parts[2::2], strict=True))
        rows, checks = read_lines(folder / "rows.jsonl"), read_lines(folder / "checks.jsonl")
        return cls(steps, endings, rows, checks, "\n".join(last.values()))

    def of(self, benchmark: str) -> list[Line]:
        """The rows of a benchmark."""
        return [row for row in self.rows if row.get("benchmark") == benchmark]

    @property
    def faulty(self) -> list[Line]:
        """The configurations that are wrong, raise, or end the process."""
        return [check for check in self.checks if check.get("status") not in ("right", "unsuitable")]


def write_page(folder: Path, steps: Sequence[Step], endings: Mapping[str, Ending]) -> Path:
    """Write `page.md` of a campaign's folder; what can't be told, as a file is damaged, is named there."""
    campaign = Campaign.read(folder, steps, endings)
    sections = {
        "What ran": (_ran,),
        "What is right": (_checked, _tested),
        "What is fast": (_machine, _training_steps, _kernels, _passes),
        "What to do next": (_next,),
    }
    text = "# What the campaign found\n"
    for title, parts in sections.items():
        lines = [line for part in parts for line in _told(part, campaign)]
        text += "\n".join(["", f"## {title}", "", *(lines or ["nothing yet"]), ""])
    path = folder / "page.md"
    path.write_text(text, encoding="utf-8")
    return path


def _told(part: Callable[[Campaign], Iterable[str]], campaign: Campaign) -> list[str]:
    try:
        return list(part(campaign))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        return [f"- this part can't be told ({type(error).__name__}: {error}): a file of the campaign is damaged"]


def _ran(campaign: Campaign) -> Iterable[str]:
    for step in campaign.steps:
        ending = campaign.endings.get(step.name)
        how = f"{ending.status}, {ending.seconds:.0f} s" if ending else "still missing"
        yield f"- {step.name} ({step.what}): {how}"


def _checked(campaign: Campaign) -> Iterable[str]:
    """How many configurations are right, and which aren't."""
    if campaign.checks:
        counts = Counter(check["status"] for check in campaign.checks)
        yield "- configurations of the convolutions: " + ", ".join(f"{n} {status}" for status, n in counts.items())
    for check in campaign.faulty:
        keys = ("layer", "pass", "way", "kind", "scroll", "configuration")
        named = ", ".join(str(check[key]) for key in keys if key in check)
        reason = check["why"].strip().splitlines()
        yield f"  - {named}: {check['status']}, {reason[-1][:200] if reason else 'no reason told'}"


def _tested(campaign: Campaign) -> Iterable[str]:
    """pytest's last lines, and the tests that failed."""
    for total in TOTALS.findall(campaign.log):
        yield f"- tests: {total}"
    for test in sorted(set(FAILED_TESTS.findall(campaign.log))):
        yield f"  - {test[:220]}"


def _machine(campaign: Campaign) -> Iterable[str]:
    for row in campaign.of("machine"):
        rates = ", ".join(f"{value:.4g} {unit}" for unit, value in row["figures"].items())
        yield f"- {row['name']} ({_case(row)}): {rates or str(row['milliseconds']['p50'] * 1e3) + ' us'}"


def _case(row: Line) -> str:
    tuned = ", tuned" if row["figures"].get("tuned") == "yes" else ""
    return ", ".join(f"{key} {value}" for key, value in row["case"].items()) + tuned


def _training_steps(campaign: Campaign) -> Iterable[str]:
    """Training steps, each beside the plain one of its run."""
    if rows := campaign.of("training_step"):
        yield "\n| step | case | ms | of plain | of the floor | launches |\n| --- | --- " + 4 * "| ---: " + "|"
    for row in rows:
        figures = row["figures"]
        ratio = "" if figures.get("ratio p50") is None else f"{figures['ratio p50']:.2f}"
        yield (
            f"| {row['name']} | {_case(row)} | {row['milliseconds']['p50']:.3f} | {ratio} "
            f"| {figures['ratio to roofline']:.2f} | {figures['launches']} |"
        )


def _kernels(campaign: Campaign) -> Iterable[str]:
    """The heaviest kernels of each step."""
    by_step: dict[str, list[Line]] = {}
    for row in campaign.of("step_kernels"):
        by_step.setdefault(row["case"]["step"], []).append(row)
    for step, kernels in by_step.items():
        yield f"\n{step}: kernel, launches, us a step"
        for row in sorted(kernels, key=lambda row: -row["milliseconds"]["p50"])[: SHOWN_KERNELS + 1]:
            yield f"- {row['name'][:110]}: {row['figures']['launches']:.0f}, {1e3 * row['milliseconds']['p50']:.1f}"


def _passes(campaign: Campaign) -> Iterable[str]:
    """Who is the fastest on each pass of each layer."""
    by_case: dict[str, dict[str, float]] = {}
    for row in campaign.of("scroll_conv2d"):
        by_case.setdefault(_case(row), {})[row["name"]] = 1e3 * row["milliseconds"]["p50"]
    if by_case:
        yield ""
    for case, times in by_case.items():
        ranked = sorted(times.items(), key=lambda item: item[1])
        yield f"- {case}: " + ", ".join(f"{name} {us:.1f}" for name, us in ranked) + " us"


def _next(campaign: Campaign) -> Iterable[str]:
    lines = [*_unfinished(campaign), *_not_right(campaign)]
    yield from lines
    if best := _best_step(campaign):
        yield best
    if not lines:
        yield "- all ran, and all that was checked is right"


def _unfinished(campaign: Campaign) -> Iterable[str]:
    endings = campaign.endings
    missing = [own.name for own in campaign.steps if own.name not in endings or endings[own.name].status == "no time"]
    if missing:
        yield f"- run the same command with the same folder again: {', '.join(missing)} had no time, or are missing"
    for ending in endings.values():
        if ending.status in ("failed", "crashed", "hung"):
            again = f"`--only {ending.step} --again` runs it once more"
            yield f"- {ending.step} {ending.status}: its part of log.txt says why; {again}"


def _not_right(campaign: Campaign) -> Iterable[str]:
    if not campaign.checks:
        yield "- check the kernels: no configuration was"
    if faulty := campaign.faulty:
        yield f"- mend or refuse {len(faulty)} configurations that aren't right, named above"
    if FAILED_TESTS.search(campaign.log):
        yield "- mend the tests that failed, named above"
    skipped = sum(int(number) for number in re.findall(r"(\d+) skipped", "\n".join(TOTALS.findall(campaign.log))))
    if skipped:
        yield f"- see why {skipped} tests were skipped: what they test is unknown"
    elif not TOTALS.search(campaign.log):
        yield "- run the tests: none ended"
    for what in dict.fromkeys(LEFT_OUT.findall(campaign.log)):
        yield f"- see to what was left out: {what[:220]}"
    if not any(row["name"].startswith("slimkern") for row in campaign.of("training_step")):
        yield "- measure a step of slimkern: none was"


def _best_step(campaign: Campaign) -> str | None:
    own = [
        row
        for row in campaign.of("training_step")
        if row["name"].startswith("slimkern") and row["name"].endswith("captured") and row["figures"].get("ratio p50")
    ]
    if not own:
        return None
    best = min(own, key=lambda row: row["figures"]["ratio p50"])
    figures = best["figures"]
    return (
        f"- the best step of ours takes {figures['ratio p50']:.2f} of {figures['plain']} ({best['name']}) and "
        f"{figures['ratio to roofline']:.2f} of the floor: its kernels above say where"
    )
