"""The README's figures of speed and their pictures, from the rows that benchmarks have stored and from nothing else.

See `benchmarks/rows.py` for what a row is.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from slimkern.experiments.atomic import make_folder, write_bytes
from slimkern.experiments.optional import load_extra
from slimkern.experiments.plots import STYLE
from slimkern.experiments.runs import ReportError

Row = dict[str, Any]
BEGIN, END = "<!-- benchmarks: written by `slimkern bench report` -->", "<!-- benchmarks: end -->"
SHOWN = {"batch": 64, "widths": 4, "scroll": 0}
"""The case of training steps that the README shows; the others stay in the files."""
_KEYS = ("benchmark", "case", "name", "milliseconds", "repetitions", "figures", "device", "versions", "commit")
_COLOURS = ("#0072B2", "#56B4E9", "#E69F00", "#009E73", "#999999")


def bench_report(results: Path, readme: Path, pictures: Path) -> list[Path]:
    """Write the part of the README between the two marks, and the pictures it shows.

    Args:
        results: folder of rows, one file a device.
        readme: file that holds the marks `BEGIN` and `END`.
        pictures: folder for `training_step.png` and `step_breakdown.png`.

    Returns:
        The files that were written.

    Raises:
        ReportError: no rows of training steps, a file that holds none, or a README without the marks.
        ImportError: matplotlib is missing; the message names the extra.
    """
    rows = read_rows(results)
    text = readme.read_text(encoding="utf-8")
    new = with_section(text, section(rows))
    drawn = [_draw_steps(rows, pictures / "training_step.png")]
    if _of("step_breakdown", rows):
        drawn.append(_draw_breakdown(rows, pictures / "step_breakdown.png"))
    write_bytes(readme, new.encode())
    return [readme, *drawn]


def read_rows(results: Path) -> list[Row]:
    """All stored rows, device by device.

    Raises:
        ReportError: there are none of training steps, or a file holds something else.
    """
    rows: list[Row] = []
    for path in sorted(results.glob("*.json")):
        try:
            own = json.loads(path.read_text(encoding="utf-8"))
            rows += [_checked(row) for row in own]
        except (ValueError, TypeError, KeyError) as error:
            raise ReportError(f"{path} doesn't hold rows of benchmarks: {type(error).__name__} {error}") from None
    if not any("ratio p50" in row["figures"] for row in _shown(rows)):
        raise ReportError(
            f"{results} holds no rows of training steps of {SHOWN} beside a plain one; "
            "benchmarks/bench_training_step.py --save makes some"
        )
    return rows


def _checked(row: Row) -> Row:
    """A row that has what is read of it.

    Raises:
        KeyError, TypeError: it hasn't.
    """
    itemgetter(*_KEYS)(row)
    itemgetter("p50")(row["milliseconds"])
    itemgetter("torch")(row["versions"])
    if row["benchmark"] in ("training_step", "step_breakdown"):
        itemgetter("batch", "precision")(row["case"])
    return row


def with_section(readme: str, section: str) -> str:
    """The README with another section between its marks.

    Raises:
        ReportError: it doesn't have each mark once, in their order.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end) or BEGIN in after or END in before:
        raise ReportError(f"the README needs the lines {BEGIN} and {END}, once each and in this order")
    return f"{before}{BEGIN}\n\n{section}\n{END}{after}"


def section(rows: Sequence[Row]) -> str:
    """Markdown: a table of training steps for each device and precision, and where each was measured."""
    parts = []
    for device in dict.fromkeys(row["device"] for row in _of("training_step", rows)):
        own = [row for row in _shown(rows) if row["device"] == device]
        precisions = list(dict.fromkeys(row["case"]["precision"] for row in own))
        if not own:
            continue
        heads = [head for precision in precisions for head in (f"{precision}, ms", "x plain")]
        lines = [f"**{device}**", "", f"| step | {' | '.join(heads)} |", "| --- |" + " ---: |" * len(heads)]
        for name in dict.fromkeys(row["name"] for row in own):
            cells = []
            for precision in precisions:
                found = [row for row in own if (row["name"], row["case"]["precision"]) == (name, precision)]
                cells += _cells(found[0]) if found else ["", ""]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        parts.append("\n".join([*lines, "", _origin(own)]))
    return "\n\n".join(parts) + "\n"


def _cells(row: Row) -> list[str]:
    middle, figures = row["milliseconds"]["p50"], row["figures"]
    ratio = figures.get("ratio p50")
    spread = "" if ratio is None else f"{ratio:.2f} ({figures['ratio p20']:.2f} to {figures['ratio p80']:.2f})"
    return [f"{middle:.1f}" if middle >= 10 else f"{middle:.2f}", spread]


def _origin(rows: Sequence[Row]) -> str:
    def all_of(key: str) -> str:
        return ", ".join(sorted({str(row["versions"][key]) for row in rows}))

    commits = ", ".join(sorted({str(row["commit"]) for row in rows}))
    plain = ", ".join(sorted({str(row["figures"]["plain"]) for row in rows if row["figures"].get("plain")}))
    repetitions = " or ".join(map(str, sorted({row["repetitions"] for row in rows})))
    return (
        f"Medians of {repetitions} interleaved repetitions, and the 20th and 80th percentile of the ratios, which are "
        f'to\n"{plain}" of the same precision, repetition by repetition. torch {all_of("torch")}, commit {commits}.'
    )


def _of(benchmark: str, rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["benchmark"] == benchmark]


def _shown(rows: Sequence[Row]) -> list[Row]:
    steps = _of("training_step", rows)
    return [row for row in steps if all(row["case"].get(key) == value for key, value in SHOWN.items())]


def _draw_steps(rows: Sequence[Row], path: Path) -> Path:
    """Bars of each step's ratio to the plain one, a panel for each device."""
    pyplot = load_extra("matplotlib.pyplot", "plot")
    panels: dict[str, list[Row]] = {}
    for row in _shown(rows):
        if row["figures"].get("ratio p50") is not None:
            panels.setdefault(row["device"], []).append(row)
    with pyplot.style.context(STYLE):
        height = max(2 + 0.32 * len(own) for own in panels.values())
        figure, axes = pyplot.subplots(
            1, len(panels), figsize=(8 * len(panels), height), squeeze=False, layout="constrained"
        )
        for axis, (device, own) in zip(axes[0], panels.items(), strict=True):
            names = list(dict.fromkeys(row["name"] for row in own))
            precisions = list(dict.fromkeys(row["case"]["precision"] for row in own))
            thickness = 0.8 / len(precisions)
            for place, precision in enumerate(precisions):
                found = {
                    row["name"]: row["figures"]["ratio p50"] for row in own if row["case"]["precision"] == precision
                }
                at = [names.index(name) + (place - (len(precisions) - 1) / 2) * thickness for name in found]
                bars = axis.barh(at, list(found.values()), thickness, color=_COLOURS[place], label=precision)
                axis.bar_label(bars, fmt="%.2f", padding=3, fontsize=8, color="#333333")
            axis.set(yticks=range(len(names)), yticklabels=names, title=f"Time of a step, plain network = 1\n{device}")
            axis.invert_yaxis()
            axis.margins(x=0.12)
            axis.grid(axis="y", visible=False)
            axis.grid(axis="x", visible=True)
            axis.legend(loc="upper right")
        return _stored(figure, path)


def _draw_breakdown(rows: Sequence[Row], path: Path) -> Path:
    """Stacked bars of the time by operator, measured and at least, a pair for each device and precision."""
    pyplot = load_extra("matplotlib.pyplot", "plot")
    own = _of("step_breakdown", rows)
    groups = list(dict.fromkeys(row["name"] for row in own))
    cases = list(dict.fromkeys((row["device"], row["case"]["precision"], row["case"]["batch"]) for row in own))
    with pyplot.style.context(STYLE):
        figure, axes = pyplot.subplots(
            1, len(cases), figsize=(5.2 * len(cases), 4.6), squeeze=False, layout="constrained"
        )
        for axis, case in zip(axes[0], cases, strict=True):
            found = [row for row in own if (row["device"], row["case"]["precision"], row["case"]["batch"]) == case]
            bottoms = [0.0, 0.0]
            for row in found:
                heights = [row["milliseconds"]["p50"], row["figures"].get("floor ms") or 0.0]
                colour = _COLOURS[groups.index(row["name"])]
                axis.bar(["measured", "floor"], heights, 0.6, bottoms, color=colour, label=row["name"])
                bottoms = [bottom + height for bottom, height in zip(bottoms, heights, strict=True)]
            for place, total in enumerate(bottoms):
                axis.annotate(
                    f"{total:.1f}", (place, total), (0, 3), textcoords="offset points", ha="center", fontsize=9
                )
            axis.set(ylabel="ms a step", title=f"slimkern step, {case[1]}, batch {case[2]}\n{case[0]}")
            handles, labels = axis.get_legend_handles_labels()
            axis.legend(handles[::-1], labels[::-1], loc="upper right", fontsize=8)
        return _stored(figure, path)


def _stored(figure: Any, path: Path) -> Path:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    load_extra("matplotlib.pyplot", "plot").close(figure)
    make_folder(path.parent)
    write_bytes(path, buffer.getvalue())
    return path
