from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from slimkern import memory

ROOT = Path(__file__).resolve().parents[1]
# glibc returns pieces above 32 MiB whatever it has learned of a program's habits; this is twice that. Small pieces that
# land in the gaps can make the heap grow in the first cycles.
FAULTS_OF_A_LATER_CYCLE = """
import json, resource, torch
from slimkern.memory import keep_freed_memory

def faults_of_a_later_cycle():
    for _ in range(10):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.empty(2**26, dtype=torch.uint8).fill_(1)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    return after - before

print(json.dumps([faults_of_a_later_cycle(), keep_freed_memory(), faults_of_a_later_cycle()]))
"""
FORGETTING = """
import torch
from slimkern.memory import forget_peak_memory, peak_memory

torch.empty(2**28, dtype=torch.uint8).fill_(1)  # given back at once, being so large
print(peak_memory(torch.device("cpu")))
forget_peak_memory(torch.device("cpu"))
print(peak_memory(torch.device("cpu")))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is asked")
def test_freed_memory_stays_with_the_process() -> None:
    # In a process of its own, as the setting can't be taken back.
    run = subprocess.run([sys.executable, "-c", FAULTS_OF_A_LATER_CYCLE], cwd=ROOT, capture_output=True, check=True)
    returned, agreed, kept = json.loads(run.stdout)
    assert agreed is True
    assert returned > 20
    assert kept < returned / 4


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(name: str | None) -> None:
        raise AssertionError(f"the C library {name} was touched")

    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(memory.ctypes, "CDLL", refused)
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    assert memory.keep_freed_memory() is False


def test_the_peak_grows_until_it_is_forgotten() -> None:
    cpu = torch.device("cpu")
    before = memory.peak_memory(cpu)
    held = torch.ones(2**24)
    after = memory.peak_memory(cpu)
    assert before is not None and after is not None
    assert max(before, held.nbytes) <= after < 2**40


@pytest.mark.skipif(not memory._CLEARED.exists(), reason="only Linux can forget the peak of a process")
def test_a_peak_that_is_forgotten_counts_anew() -> None:
    command = [sys.executable, "-c", FORGETTING]
    of_before, of_itself = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout.split()
    assert int(of_before) - int(of_itself) > 2**27


@pytest.mark.parametrize(("answers", "agreed"), [((1, 1), True), ((0, 1), False), ((1, 0), False)], ids=str)
def test_a_refusal_of_either_setting_is_told(
    monkeypatch: pytest.MonkeyPatch, answers: tuple[int, int], agreed: bool
) -> None:
    class Library:
        def __init__(self, name: str | None) -> None:
            self.left = list(answers)

        def mallopt(self, setting: int, value: int) -> int:
            return self.left.pop(0)

    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.40"))
    monkeypatch.setattr(memory.ctypes, "CDLL", Library)
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    assert memory.keep_freed_memory() is agreed


@pytest.mark.parametrize(("before", "after"), [(None, "1"), ("0", "0"), ("1", "1")], ids=str)
def test_large_pages_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, before: str | None, after: str
) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    environment = {} if before is None else {"THP_MEM_ALLOC_ENABLE": before}
    monkeypatch.setattr(memory.os, "environ", environment)
    memory.keep_freed_memory()
    assert environment == {"THP_MEM_ALLOC_ENABLE": after}
