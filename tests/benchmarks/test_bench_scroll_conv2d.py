from __future__ import annotations

from typing import Any

import bench_scroll_conv2d
import pytest
from convolutions import Layer


def test_compares_the_contenders_on_each_layer_and_on_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_scroll_conv2d, "LAYERS", [Layer(3, 32, 3, 1, 4, 1), Layer(32, 32, 3, 1, 4, 2)])
    monkeypatch.setattr("sys.argv", ["bench", "--device", "cpu", "--batch", "1", "--repetitions", "2"])
    found: list[dict[str, Any]] = []
    monkeypatch.setattr(bench_scroll_conv2d, "finish", lambda rows, options: found.extend(rows))
    bench_scroll_conv2d.main()
    cases = [(row["case"]["layer"], row["case"]["pass"], row["name"]) for row in found]
    layers = ["3>32 3x3 stride 1 on 4x4"] * 2 + ["32>32 3x3 stride 1 on 4x4"] * 3 + ["all of ResNet-18"]
    assert [layer for layer, *_ in cases] == [layer for layer in layers for _ in range(2)]
    assert {name for *_, name in cases} == {"plain, full width", "torch, slab by slab"}
    assert all(row["milliseconds"]["p50"] > 0 and row["figures"]["floor ms"] > 0 for row in found)
