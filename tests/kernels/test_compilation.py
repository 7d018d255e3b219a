"""Every shipped configuration is compiled for GPUs that aren't here, and held to its budget.

`make test` does so by the newest Triton, `make oldest` by the oldest.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from slimkern.kernels.configurations import FAMILIES
from tests.kernels.compiled import PLAIN, VARIANTS

ROOT = Path(__file__).resolve().parents[2]
CONFIGURATIONS = {
    (family, kind, own.name): own
    for family, lists in FAMILIES.items()
    for kind, configurations in lists.items()
    for own in configurations
}


@cache
def launches(capability: int) -> list[dict[str, Any]]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TRITON_INTERPRET": "0"}
    command = [sys.executable, "-m", "tests.kernels.compiled", str(capability)]
    ended = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines()]


@pytest.mark.parametrize("capability", [80, 90, 100])
def test_every_configuration_compiles(capability: int) -> None:
    found = {
        (each["family"], each["kind"], each["configuration"])
        for each in launches(capability)
        if each["variant"] == PLAIN[each["family"]][0].name
    }
    boxes = {key for key, own in CONFIGURATIONS.items() if own.boxes}
    assert found == set(CONFIGURATIONS) - (boxes if capability < 90 else set())


@pytest.mark.parametrize("key", CONFIGURATIONS, ids="-".join)
def test_stays_within_its_budget(key: tuple[str, str, str]) -> None:
    own = CONFIGURATIONS[key]
    found = [each for each in launches(90) if (each["family"], each["kind"], each["configuration"]) == key]
    plain = [each for each in found if each["variant"] in {variant.name for variant in PLAIN[key[0]]}]
    assert {each["variant"] for each in plain} == {variant.name for variant in PLAIN[key[0]]}
    assert len(found) > len(plain)
    for each in found:
        assert each["stack"] == each["STL"] == 0, f"{each['variant']} spills registers"
        assert each["shared"] <= own.shared, f"{each['variant']} wants {each['shared']} bytes of shared memory"
    for each in plain:
        assert each["registers"] <= own.registers, f"{each['variant']} wants {each['registers']} registers"


@pytest.mark.parametrize("capability", [80, 90, 100])
def test_every_variant_compiles_by_pointers_and_by_boxes(capability: int) -> None:
    expected = {
        (family, variant.name, boxes)
        for family, variants in VARIANTS.items()
        for variant in variants
        for boxes in ((False, True) if capability >= 90 and family != "stem" else (False,))
        if not (boxes and variant.layout is torch.contiguous_format and family == "gather")
    }
    found = {
        (each["family"], each["variant"], "boxes" in each["configuration"])
        for each in launches(capability)
        if each["kernel"] != "add_partial_sums"
    }
    assert expected <= found


def test_nothing_is_added_in_the_order_that_programs_happen_to_run() -> None:
    found = launches(90)
    assert found and not any(each["atomic sums"] for each in found)


def test_sixteen_bit_products_and_tf32_run_on_hoppers_tensor_cores() -> None:
    products = [each for each in launches(90) if each["kernel"] != "add_partial_sums"]
    without = [each["configuration"] for each in products if not each["HGMMA"] and each["kind"] != "ieee"]
    assert products and not without


def test_operands_are_loaded_asynchronously() -> None:
    products = [each for each in launches(90) if each["family"] != "stem" and each["kernel"] != "add_partial_sums"]
    assert products
    for each in products:
        loads = "UTMALDG" if "boxes" in each["configuration"] else "LDGSTS"
        assert each[loads], f"{each['kernel']} {each['configuration']} has no {loads}"
