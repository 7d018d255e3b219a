"""AutoActivator: the scan of candidate nodes against loops over candidates, and whole runs on MNIST.

    python benchmarks/bench_units.py [--root DATA] [--seeds 0 1 2 3 4] [--save]

The scan is that of a task of MNIST: 11,000 images and 50 candidates of ten nodes, against the residual of two classes.
The strongest loop that we know keeps the images as columns, transposed once beforehand, so that its products read whole
rows. Runs are five tasks of two digits with the defaults of `slimkern train --method autoactivator`, evaluation
included, once with the digits in order, as the paper has them, and once in an order of each seed. Their figures are of
batches of 100 and 1000 test images of one task, and of single images. Without MNIST they are left out.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from rows import Row, finish, in_turns, parser, percentiles, ratios, row
from torch import Tensor

from slimkern.continual.config import ClassOrder
from slimkern.continual.data import Dataset, MissingDataError, load
from slimkern.continual.methods import config_for
from slimkern.continual.recorder import Recorder
from slimkern.continual.units.scan import node_outputs, scan
from slimkern.continual.units.training import UnitTrainer
from slimkern.memory import keep_freed_memory

SAMPLES, WIDTH, CLASSES, CANDIDATES, NODES = 11_000, 784, 2, 50, 10
Products = list[tuple[Tensor, Tensor]]


def loop_over_columns(columns: Tensor, residual: Tensor, weights: Tensor, biases: Tensor) -> Products:
    """Gram matrix and cross product of each candidate; inputs [M, N] make outputs [l, N]."""
    made = (torch.sigmoid(torch.addmm(b[:, None], w, columns)) for w, b in zip(weights, biases, strict=True))
    return [(outputs @ outputs.t(), outputs @ residual) for outputs in made]


def loop_over_rows(inputs: Tensor, residual: Tensor, weights: Tensor, biases: Tensor) -> Products:
    """The same with inputs [N, M] and outputs [N, l], as it is written down."""
    made = (torch.sigmoid(torch.addmm(b, inputs, w.t())) for w, b in zip(weights, biases, strict=True))
    return [(outputs.t() @ outputs, outputs.t() @ residual) for outputs in made]


def measure_scan(repetitions: int, device: str) -> list[Row]:
    """Rows of the scan and of the loops, which have to agree."""
    torch.manual_seed(0)
    inputs, residual = torch.randn(SAMPLES, WIDTH, device=device), torch.randn(SAMPLES, CLASSES, device=device)
    weights = torch.randn(CANDIDATES, NODES, WIDTH, device=device) / WIDTH**0.5
    biases = torch.randn(CANDIDATES, NODES, device=device)
    columns = inputs.t().contiguous()
    calls = {
        "scan": partial(scan, inputs, residual, weights, biases, torch.sigmoid),
        "loop, images as columns": partial(loop_over_columns, columns, residual, weights, biases),
        "loop, images as rows": partial(loop_over_rows, inputs, residual, weights, biases),
    }
    outputs = node_outputs(weights[-1], biases[-1], inputs, torch.sigmoid)
    torch.testing.assert_close(calls["scan"]()[0][-1], outputs @ outputs.t(), rtol=1e-4, atol=1e-2)
    times = in_turns(calls, repetitions, warmup=1, device=device)
    case = {"images": SAMPLES, "candidates": CANDIDATES, "nodes": NODES, "precision": "fp32"}
    rows = []
    for name, seconds in times.items():
        compared = {f"ratio to scan {key}": own for key, own in percentiles(ratios(times, name, "scan")).items()}
        rows.append(row("units", case, name, seconds, {} if name == "scan" else compared, device))
    return rows


class Told(Recorder):
    """Keeps the last answers to batches."""

    def noted(self, kind: str, facts: dict[str, Any]) -> None:
        if kind == "activated":
            self.last = facts

    def accuracy(self, kind: str, size: int) -> float:
        """Average over tasks in percent."""
        shares = [own / total for own, total in zip(self.last["correct"][kind][size], self.last["images"], strict=True)]
        return 100 * sum(shares) / len(shares)


def measure_run(dataset: Dataset, order: ClassOrder, seed: int, device: str) -> Row:
    """The row of one run."""
    config = replace(config_for("autoactivator"), data="mnist", class_order=order, seed=seed)
    told, start, work = Told(), time.perf_counter(), time.process_time()
    trainer = UnitTrainer(config, dataset, torch.device(device))
    trainer.run(told)
    seconds, work = time.perf_counter() - start, time.process_time() - work
    figures = {
        "processor seconds": work,
        "nodes": float(sum(len(unit.biases) for unit in trainer.units)),
        "% in batches of 100 of one task": told.accuracy("task", 100),
        "% in batches of 1000 of one task": told.accuracy("task", 1000),
        "% image by image": told.accuracy("none", 1),
    }
    case = {"data": "mnist", "tasks": 5, "class order": order, "seed": seed}
    return row("units", case, "a whole run", [seconds], figures, device)


def main() -> None:
    options = parser(__doc__, 10)
    options.add_argument("--root", type=Path, default=os.environ.get("SLIMKERN_DATA"), help="folder of MNIST")
    options.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4], help="of the runs")
    options.add_argument(
        "--class-orders", nargs="*", choices=get_args(ClassOrder), default=["sorted", "seed"], help="of the runs"
    )
    arguments = options.parse_args()
    keep_freed_memory()
    rows = measure_scan(arguments.repetitions, arguments.device)
    try:
        dataset = load("mnist", arguments.root, False)
        rows += [
            measure_run(dataset, order, seed, arguments.device)
            for order in arguments.class_orders
            for seed in arguments.seeds
        ]
    except MissingDataError as error:
        print(f"runs left out: {error}", file=sys.stderr)
    finish(rows, arguments)


if __name__ == "__main__":
    main()
