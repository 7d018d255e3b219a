"""A cache of kernels that was filled without a GPU, and carried."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

pytest.importorskip("triton")

import dry_runs
import kernel_cache
from absent_gpu import absent_gpu

from tests.benchmarks.few_launches import stem


def test_a_cache_is_filled_in_shares_and_carried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled, carried = tmp_path / "filled", tmp_path / "carried"
    monkeypatch.setenv("TRITON_CACHE_DIR", str(filled))
    monkeypatch.setattr(dry_runs, "training", lambda batch, precision, scroll: stem)
    monkeypatch.setattr(dry_runs, "layers", lambda batch, precision: None)
    options = argparse.Namespace(precisions=["bf16"], batches=[4], scrolls=[0], processes=2, cache=filled)
    for share in range(2):
        compiled_stems().clear()
        kernel_cache.fill(options, share)
    assert len(list(filled.glob("*/gather_few_channels.cubin"))) == 1
    assert list(filled.glob("*/*.so"))
    kernel_cache.slim(filled)
    assert not list(filled.glob("*/*.ptx"))
    filled.rename(carried)
    kernel_cache.main(["--cache", str(carried), "--moved"])
    (group,) = carried.glob("*/__grp__gather_few_channels.json")
    paths = json.loads(group.read_text())["child_paths"].values()
    assert {Path(path).parent.parent for path in paths} == {carried}
    monkeypatch.setenv("TRITON_CACHE_DIR", str(carried))
    before = sorted(carried.rglob("*"))
    compiled_stems().clear()
    with absent_gpu(lambda key: True) as launches:
        stem()
    assert launches[0].code is not None and sorted(carried.rglob("*")) == before


def compiled_stems() -> dict:
    from slimkern.kernels.scroll_conv2d_few_channels import gather_few_channels

    return gather_few_channels.device_caches
