"""Whether every configuration of the Triton kernels is right on the shapes of ResNet-18.

    python benchmarks/check_scroll_conv2d.py [--batch 64] [--kinds bfloat16 tf32] [--scrolls 0 1] [--out FILE]

Layers are checked in processes of their own, several at a time. Before a process tries a configuration it says so: if
it dies then, or is silent for `--silence` seconds, that configuration is recorded as crashed or hung, and another
process goes on after it. A configuration is right if nothing of its result was left unwritten (memory is filled with
NaN before), if its error is at most twice plain torch's at the same precision (four times as tf32, which tensor cores
truncate), and if it gives the same bits again, eagerly and in two replays of a CUDA graph.
"""

from __future__ import annotations

import argparse
import json
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from convolutions import LAYERS, Work
from lines import add_line
from torch import Tensor

from slimkern.kernels.capturing import capturing

PASSES = ("forward", "input gradient", "weight gradient")
WAYS = ("in place", "packed")
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "tf32": torch.float32, "ieee": torch.float32}
SLACK = 1e-6
"""Of a result's size: where plain torch happens to be exact."""

GOOD, BAD = ("right", "unsuitable"), ("wrong", "raised", "crashed", "hung")
Verdict = dict[str, Any]


class Share(NamedTuple):
    """What one process checks."""

    layer: int
    kind: str
    scroll: int


def truths(work: Work, operation: str, dtype: torch.dtype) -> list[Tensor]:
    """The pass in plain torch, slab by slab; the gradients of a weight are added up in float64."""
    slabs = work.slabs * (len(work.grads) // len(work.slabs))
    of_weight = torch.zeros(work.weight.shape, dtype=torch.float64, device=work.weight.device)
    results = []
    for slab, grad, part in zip(slabs, work.grads, work.parts, strict=True):
        result = work.convolve(operation, slab.to(dtype), grad.to(dtype), part.to(dtype))
        if operation == "weight gradient":
            rows, columns = (
                (torch.arange(count, device=part.device) + offset) % total
                for count, offset, total in zip(part.shape, work.offsets, work.weight.shape, strict=False)
            )
            of_weight[rows[:, None], columns] += result.double()
        results.append(result)
    return [of_weight] if operation == "weight gradient" else results


def error(results: Sequence[Tensor], true: Sequence[Tensor]) -> float:
    """The largest root mean square of an error, relative to the truth's; NaN if anything is."""
    sizes = [
        ((result.double() - exact).square().mean() / exact.square().mean()).sqrt()
        for result, exact in zip(results, true, strict=True)
    ]
    return torch.stack(sizes).max().item()  # Python's max may pass over what is no number


def check(work: Work, share: Share, start: int, device: str) -> Iterator[Verdict]:
    """A verdict before each configuration is tried, without status, and one after it; from the `start`th on."""
    from slimkern.kernels.tuning import UNSUITABLE

    interpreted = device == "cpu"
    number = 0
    for operation in [own for own in PASSES if not (work.stem and own == "input gradient")]:
        exact = torch_error = None
        for way in WAYS:
            if (known := work.by_triton(operation, way)) is None:
                continue
            problem, launch = known
            candidates = problem.candidates(*limits(device))
            for configuration in candidates[: 1 if interpreted else None]:
                number += 1
                if number <= start:
                    continue
                verdict: Verdict = {
                    "number": number, "layer": str(work.layer), "pass": operation, "way": way, "kind": share.kind,
                    "batch": work.batch, "scroll": share.scroll, "configuration": configuration.name,
                }  # fmt: skip
                yield verdict
                if exact is None:
                    exact = truths(work, operation, torch.float64)
                    torch_error = error(truths(work, operation, DTYPES[share.kind]), exact)
                try:
                    first = flattened(launch(configuration))
                except UNSUITABLE as reason:
                    yield verdict | {"status": "unsuitable", "why": str(reason)}
                    continue
                except Exception as reason:  # whatever a compiler or a driver may raise
                    yield verdict | {"status": "raised", "why": f"{type(reason).__name__}: {str(reason)[:300]}"}
                    continue
                size = error(first, exact)
                allowed = (4 if share.kind == "tf32" else 2) * torch_error + SLACK
                same = {"eagerly": equal(first, flattened(launch(configuration)))}
                if not interpreted:
                    same |= replayed(lambda: launch(configuration), first)  # noqa: B023 - called before the next turn
                why = [f"error {size:.1e} exceeds {allowed:.1e}"] if not size <= allowed else []
                why += [f"other bits {when}" for when, equals in same.items() if not equals]
                measured = {"error": size, "error of torch": torch_error}
                yield verdict | measured | {"status": "wrong" if why else "right", "why": "; ".join(why)}


def flattened(results: Any) -> list[Tensor]:
    """The tensors of a launch: a list of them, or such a list beside something else."""
    return list(results[0]) if isinstance(results, tuple) else list(results)


def equal(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return all(torch.equal(left, right) for left, right in zip(one, other, strict=True))


def replayed(launch: Any, expected: Sequence[Tensor]) -> dict[str, bool]:
    """Whether a CUDA graph of a launch gives the expected bits, and so a second time."""
    graph = torch.cuda.CUDAGraph()
    with capturing(graph):
        results = flattened(launch())
    same = {}
    for when in ("in a graph", "in a second replay"):
        for result in results:
            result.fill_(float("nan"))
        graph.replay()
        same[when] = equal(results, expected)
    return same


def limits(device: str) -> tuple[bool, int]:
    if device == "cpu":
        return True, 1 << 30
    properties = torch.cuda.get_device_properties(device)
    return properties.major >= 9, properties.shared_memory_per_block_optin


def child(options: argparse.Namespace) -> None:
    """Check one share, a line of JSON a verdict."""
    share = Share(*json.loads(options.share))
    torch.backends.cudnn.allow_tf32 = share.kind == "tf32"
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills fresh memory with NaN
    torch.manual_seed(0)
    layer = LAYERS[share.layer]
    if options.shrink > 1:
        inputs = layer.inputs if layer.inputs == 3 else layer.inputs // options.shrink
        layer = layer._replace(inputs=inputs, outputs=layer.outputs // options.shrink, side=4)
    work = Work(layer, options.batch, DTYPES[share.kind], options.device, share.scroll)
    for verdict in check(work, share, options.start, options.device):
        print(json.dumps(verdict), flush=True)


def _verdict(line: str) -> Verdict | None:
    """A line that a child meant; libraries print others."""
    with suppress(ValueError):
        content = json.loads(line)
        if isinstance(content, dict) and "number" in content:
            return content
    return None


class Child:
    """A process that says what it does in lines of JSON.

    Attributes:
        ending: crashed or hung; None while it runs, and if it ended well.
        errors: the last of what it said on its standard error.
    """

    def __init__(self, command: Sequence[str], silence: float) -> None:
        self.ending: str | None = None
        self.errors = ""
        self._silence = silence
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def lines(self) -> Iterator[Verdict]:
        """What it says, until it ends or is silent for too long.

        Raises:
            KeyboardInterrupt: it was interrupted, and so are we.
        """
        said: queue.Queue[str | None] = queue.Queue()
        readers = [
            threading.Thread(target=self._hear, args=(said,), daemon=True),
            threading.Thread(target=self._keep, daemon=True),
        ]
        for reader in readers:
            reader.start()
        try:
            while (line := said.get(timeout=self._silence)) is not None:
                if (verdict := _verdict(line)) is not None:
                    yield verdict
            code = self._process.wait(self._silence)
            if code == -signal.SIGINT:
                raise KeyboardInterrupt
            self.ending = "crashed" if code else None
        except (queue.Empty, subprocess.TimeoutExpired):
            self.ending = "hung"
        finally:
            self._process.kill()
            self._process.wait()
            for reader in readers:
                reader.join(1.0)  # no longer: what it started may hold its pipes open

    def _hear(self, said: queue.Queue[str | None]) -> None:
        for line in self._process.stdout or ():
            said.put(line)
        said.put(None)

    def _keep(self) -> None:
        self.errors = self._process.stderr.read()[-600:] if self._process.stderr else ""


def verdicts_of(share: Share, options: argparse.Namespace, script: str = __file__) -> Iterator[Verdict]:
    """All verdicts of a share, by as many processes of a script as it takes."""
    start = 0
    while True:
        command = [sys.executable, "-W", "ignore", script, "--share", json.dumps(share), "--start", str(start)]
        command += ["--batch", str(options.batch), "--device", options.device, "--shrink", str(options.shrink)]
        child = Child(command, options.silence)
        trying: Verdict | None = None
        for verdict in child.lines():
            if "status" in verdict:
                yield verdict
                trying = None
            else:
                trying = verdict
        if child.ending is None:
            return
        yield (trying or share._asdict()) | {"status": child.ending, "why": child.errors}
        if trying is None:  # it was no configuration's fault, and another process would end likewise
            return
        start = trying["number"]


class Judging:
    """Shares that are checked side by side: verdicts are counted, kept, and told if they aren't good.

    Attributes:
        counts: verdicts by their status.
        interrupted: set where somebody interrupts; no verdict is kept from then on.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._options, self._writing = options, threading.Lock()
        self.counts = dict.fromkeys((*GOOD, *BAD), 0)
        self.interrupted = threading.Event()

    def judge_all(self, shares: Sequence[Share]) -> None:
        """Check all shares."""
        with ThreadPoolExecutor(self._options.processes) as pool:
            futures = [pool.submit(self._judge, share) for share in shares]
            try:
                for future in futures:
                    future.result()
            except KeyboardInterrupt:
                self.interrupted.set()

    def _judge(self, share: Share) -> None:
        try:
            for verdict in () if self.interrupted.is_set() else verdicts_of(share, self._options):
                if self.interrupted.is_set():
                    return
                self._keep(verdict)
        except KeyboardInterrupt:
            self.interrupted.set()
            raise

    def _keep(self, verdict: Verdict) -> None:
        with self._writing:
            self.counts[verdict["status"]] += 1
            if verdict["status"] in BAD:
                print(json.dumps(verdict), flush=True)
            if self._options.out:
                add_line(self._options.out, verdict)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options.add_argument("--batch", type=int, default=64)
    options.add_argument("--kinds", nargs="+", choices=DTYPES, default=["bfloat16"])
    options.add_argument("--scrolls", nargs="+", type=int, default=[0, 1])
    options.add_argument("--layers", nargs="+", type=int, default=range(len(LAYERS)), help="their places")
    options.add_argument("--shrink", type=int, default=1, help="divisor of channels, for a rehearsal")
    options.add_argument("--processes", type=int, default=11)
    options.add_argument("--silence", type=float, default=40.0, help="seconds after which a process hangs")
    options.add_argument("--out", type=Path, help="file to add verdicts to, a line of JSON each")
    options.add_argument("--share", help=argparse.SUPPRESS)
    options.add_argument("--start", type=int, default=0, help=argparse.SUPPRESS)
    arguments = options.parse_args()
    if arguments.share:
        child(arguments)
        return 0
    if min(arguments.batch, arguments.processes, arguments.shrink) < 1:
        options.error("--batch, --processes and --shrink must be 1 or more")
    if unknown := set(arguments.layers) - set(range(len(LAYERS))):
        options.error(f"--layers {min(unknown)}: there are 0 to {len(LAYERS) - 1}")
    if arguments.out and arguments.out.is_dir():
        options.error(f"--out {arguments.out} is a folder, not a file")
    judging = Judging(arguments)
    judging.judge_all([Share(*own) for own in product(arguments.layers, arguments.kinds, arguments.scrolls)])
    print(", ".join(f"{count} {status}" for status, count in judging.counts.items()))
    if judging.interrupted.is_set():
        return 130
    return int(any(judging.counts[status] for status in BAD) or not judging.counts["right"])


if __name__ == "__main__":
    sys.exit(main())
