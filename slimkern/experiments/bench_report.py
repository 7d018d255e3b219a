"""The README's figures of speed and their pictures, from the rows that benchmarks have stored and from nothing else.

See `benchmarks/rows.py` for what a row is.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from textwrap import fill
from typing import Any

from slimkern.experiments.atomic import make_folder, write_bytes
from slimkern.experiments.optional import load_extra
from slimkern.experiments.plots import STYLE
from slimkern.experiments.runs import ReportError

Row = dict[str, Any]
BEGIN, END = "<!-- benchmarks: written by `slimkern bench report` -->", "<!-- benchmarks: end -->"
SHOWN = {"widths": 4, "scroll": 0}
"""The case of training steps that the README shows; the others stay in the files."""
BATCHES, PRECISIONS = (64, 128, 256), ("fp32", "tf32", "bf16", "fp16")
STEPS = (
    "plain, eager",
    "plain, compiled",
    "plain, captured",
    "released way, eager",
    "passes, eager",
    "passes, captured",
    "passes, captured on streams",
    "passes, compiled",
    "masked, eager",
    *(f"slimkern {backend}, {way}" for backend in ("torch", "native", "triton") for way in ("eager", "captured")),
)
"""All that `benchmarks/bench_training_step.py` measures where there is a GPU, in the order of the tables."""
KEYS = ("benchmark", "case", "name", "milliseconds", "repetitions", "figures", "device", "versions", "commit")
"""What every row has."""

_CASES = {
    "training_step": ("batch", "precision"),
    "step_breakdown": ("batch", "precision", "scroll", "backend"),
    "run": ("data", "widths", "precision", "batch", "epochs", "images"),
}
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
    if _breakdown(rows):
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
    if not _drawn(rows):
        raise ReportError(
            f"{results} holds no rows of training steps of {SHOWN} and batch {BATCHES[0]} beside a plain one; "
            "benchmarks/bench_training_step.py --save makes some"
        )
    return rows


def _checked(row: Row) -> Row:
    """A row that has what is read of it.

    Raises:
        KeyError, TypeError: it hasn't.
    """
    itemgetter(*KEYS)(row)
    itemgetter("p50")(row["milliseconds"])
    itemgetter("torch")(row["versions"])
    keys = _CASES.get(row["benchmark"])
    if keys:
        itemgetter(*keys)(row["case"])
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
    """Markdown: for each device its training steps, what wasn't measured there, and other figures of it."""
    parts = list(map(_of_device, _by_device(rows).values()))
    if _breakdown(rows):
        parts.append("![Where the time of a step goes, by operator, beside its floor](docs/step_breakdown.png)\n")
    return "\n".join(parts)


def _by_device(rows: Sequence[Row]) -> dict[str, list[Row]]:
    devices = dict.fromkeys(row["device"] for row in _steps(rows))
    return {device: [row for row in rows if row["device"] == device] for device in devices}


def _of_device(rows: Sequence[Row]) -> str:
    steps = _steps(rows)
    parts = [f"**{steps[0]['device']}**\n"]
    for batch in sorted({row["case"]["batch"] for row in steps}):
        table = _table([row for row in steps if row["case"]["batch"] == batch])
        folded = f"<details><summary>Batches of {batch}</summary>\n\n{table}\n</details>\n"
        parts.append(f"Batches of {batch}:\n\n{table}" if batch == BATCHES[0] else folded)
    missing = [
        *[f'"{name}"' for name in STEPS if name not in {row["name"] for row in steps}],
        *[f"{own} images" for own in BATCHES if own not in {row["case"]["batch"] for row in steps}],
        *[own for own in PRECISIONS if own not in {row["case"]["precision"] for row in steps}],
    ]
    parts.append(fill(f"{_origin(steps)} Not measured here: {'; '.join(missing) or 'nothing'}.", 120) + "\n")
    others = [*map(_run, _of("run", rows)), *map(_python, _of("python", rows))]
    return "\n".join([*parts, *(["\n".join(others) + "\n"] if others else [])])


def _table(steps: Sequence[Row]) -> str:
    heads = ("step", "precision", "ms", "images/s", "x plain", "x roofline", "launches", "peak MB")
    lines = [f"| {' | '.join(heads)} |", "| --- | --- |" + " ---: |" * (len(heads) - 2)]
    ordered = sorted(steps, key=lambda row: (_place(PRECISIONS, row["case"]["precision"]), _place(STEPS, row["name"])))
    for row in ordered:
        figures = row["figures"]
        ratio = figures.get("ratio p50")
        cells = [
            row["name"],
            row["case"]["precision"],
            _short(row["milliseconds"]["p50"]),
            _short(figures.get("images/s")),
            "" if ratio is None else f"{ratio:.2f} ({figures['ratio p20']:.2f} to {figures['ratio p80']:.2f})",
            "" if (roofline := figures.get("ratio to roofline")) is None else f"{roofline:.2f}",
            str(figures.get("launches") or ""),
            _short(figures.get("peak MB")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _place(known: Sequence[str], name: str) -> int:
    return known.index(name) if name in known else len(known)


def _short(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 1000 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _run(row: Row) -> str:
    case, figures = row["case"], row["figures"]
    seconds, epochs, widths = row["milliseconds"]["p50"] / 1e3, case["epochs"], case["widths"]
    return (
        f"- {row['name']} of {case['data']}: {seconds:.1f} s for {_count(epochs, 'epoch')} of {case['images']} images, "
        f"{_count(widths, 'width')}, {case['precision']}, batches of {case['batch']}. From this follow "
        f"{figures['estimate of a full cell, hours']:.1f} hours for a full cell of the paper, which wasn't run."
    )


def _count(number: int, of: str) -> str:
    return f"{number} {of}" + "s" * (number != 1)


def _python(row: Row) -> str:
    return f"- Python and framework a step, {row['name']}, one thread: {row['milliseconds']['p50']:.2f} ms."


def _origin(rows: Sequence[Row]) -> str:
    def all_of(key: str) -> str:
        return ", ".join(sorted({str(row["versions"][key]) for row in rows}))

    commits = ", ".join(sorted({str(row["commit"]) for row in rows}))
    plain = ", ".join(sorted({str(row["figures"]["plain"]) for row in rows if row["figures"].get("plain")}))
    repetitions = " or ".join(map(str, sorted({row["repetitions"] for row in rows})))
    return (
        f"Medians of {repetitions} interleaved repetitions, and the 20th and 80th percentile of the ratios, which are "
        f'to "{plain}" of the same precision, repetition by repetition. A launch is an operator on a CPU. torch '
        f"{all_of('torch')}, commit {commits}."
    )


def _of(benchmark: str, rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["benchmark"] == benchmark]


def _steps(rows: Sequence[Row]) -> list[Row]:
    """Those of whole networks of the case shown, at any batch size."""
    steps = [row for row in _of("training_step", rows) if "channels" not in row["case"]]
    return [row for row in steps if all(row["case"].get(key) == value for key, value in SHOWN.items())]


def _breakdown(rows: Sequence[Row]) -> list[Row]:
    parts = [row for row in _of("step_breakdown", rows) if "channels" not in row["case"]]
    return [row for row in parts if all(row["case"].get(key) == value for key, value in SHOWN.items())]


def _drawn(rows: Sequence[Row]) -> list[Row]:
    return [
        row
        for row in _steps(rows)
        if row["case"]["batch"] == BATCHES[0] and row["figures"].get("ratio p50") is not None
    ]


def _draw_steps(rows: Sequence[Row], path: Path) -> Path:
    """Bars of each step's ratio to the plain one, a panel for each device."""
    pyplot = load_extra("matplotlib.pyplot", "plot")
    panels: dict[str, list[Row]] = {}
    for row in sorted(_drawn(rows), key=lambda row: _place(STEPS, row["name"])):
        panels.setdefault(row["device"], []).append(row)
    with pyplot.style.context(STYLE):
        height = max(2 + 0.32 * len(own) for own in panels.values())
        figure, axes = pyplot.subplots(
            1, len(panels), figsize=(8 * len(panels), height), squeeze=False, layout="constrained"
        )
        for axis, (device, own) in zip(axes[0], panels.items(), strict=True):
            names = list(dict.fromkeys(row["name"] for row in own))
            precisions = sorted({row["case"]["precision"] for row in own}, key=partial(_place, PRECISIONS))
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
    """Stacked bars of the time by operator, measured and at least, a pair for each device, backend and precision."""
    pyplot = load_extra("matplotlib.pyplot", "plot")
    own = _breakdown(rows)
    groups = list(dict.fromkeys(row["name"] for row in own))
    panels: dict[tuple, list[Row]] = {}
    for row in own:
        panels.setdefault((row["device"], *itemgetter("backend", "precision", "batch")(row["case"])), []).append(row)
    with pyplot.style.context(STYLE):
        figure, axes = pyplot.subplots(
            1, len(panels), figsize=(5.2 * len(panels), 4.6), squeeze=False, layout="constrained"
        )
        for axis, ((device, backend, precision, batch), parts) in zip(axes[0], panels.items(), strict=True):
            bottoms = [0.0, 0.0]
            for row in parts:
                heights = [row["milliseconds"]["p50"], row["figures"].get("floor ms") or 0.0]
                colour = _COLOURS[groups.index(row["name"])]
                axis.bar(["measured", "floor"], heights, 0.6, bottoms, color=colour, label=row["name"])
                bottoms = [bottom + height for bottom, height in zip(bottoms, heights, strict=True)]
            for place, total in enumerate(bottoms):
                axis.annotate(
                    f"{total:.1f}", (place, total), (0, 3), textcoords="offset points", ha="center", fontsize=9
                )
            axis.set(ylabel="ms a step", title=f"slimkern {backend}, {precision}, batch {batch}\n{device}")
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
