from __future__ import annotations

import pytest

from slimkern import ScrollConv2d
from slimkern.kernels import why_unavailable
from slimkern.ops import backends, native, triton


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_UNAVAILABLE", {"cpu": None, "cuda": None})
    monkeypatch.delenv("SLIMKERN_BACKEND", raising=False)


@pytest.fixture
def not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_UNAVAILABLE", {"cpu": "no C++ compiler", "cuda": "no C++ compiler"})
    monkeypatch.delenv("SLIMKERN_BACKEND", raising=False)


@pytest.mark.usefixtures("built")
def test_native_serves_the_cpu_and_only_there_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert backends.choose("switchable_batch_norm", "cpu") == "native"
    assert backends.choose("switchable_batch_norm", "cuda") == "torch"
    reason = "not yet proven on such hardware; SLIMKERN_BACKEND=native asks for it"
    assert backends.why_not("switchable_batch_norm", "native", "cuda") == reason
    monkeypatch.setenv("SLIMKERN_BACKEND", "native")
    assert backends.choose("switchable_batch_norm", "cuda") == "native"


@pytest.mark.usefixtures("not_built")
def test_plain_torch_serves_where_nothing_was_built(monkeypatch: pytest.MonkeyPatch) -> None:
    assert backends.choose("switchable_batch_norm", "cpu") == "torch"
    assert backends.why_not("switchable_batch_norm", "native") == "no C++ compiler"
    monkeypatch.setenv("SLIMKERN_BACKEND", "native")
    with pytest.raises(ValueError, match=r"SLIMKERN_BACKEND=native: .* on cpu can't use native: no C\+\+ compiler"):
        backends.choose("switchable_batch_norm", "cpu")


@pytest.mark.usefixtures("built")
def test_the_first_of_several_that_an_operator_has_serves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIMKERN_BACKEND", "triton,native,torch")
    assert backends.choose("switchable_batch_norm", "cuda") == "native"
    monkeypatch.setenv("SLIMKERN_BACKEND", "native,torch")
    assert backends.choose("scroll_conv2d", "cuda") == "torch"


@pytest.mark.skipif(why_unavailable() is not None, reason=f"{why_unavailable()}")
def test_triton_is_for_gpus_and_for_its_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIMKERN_BACKEND", "triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert backends.choose("scroll_conv2d", "cuda") == "triton"
    with pytest.raises(ValueError, match=r"scroll_linear on cpu can't use triton: .* under TRITON_INTERPRET=1"):
        backends.choose("scroll_linear", "cpu")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert backends.choose("scroll_linear", "cpu") == "triton"


def test_triton_that_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "_UNAVAILABLE", "triton isn't installed")
    assert backends.why_not("scroll_conv2d", "triton", "cuda") == "triton isn't installed"


def test_other_devices_have_no_compiled_kernels() -> None:
    assert native.why_unavailable("mps") == "compiled kernels are for cpu and cuda"


@pytest.mark.parametrize("forced", ["foo", "native"], ids=["unknown", "not_of_this_operator"])
def test_modules_are_printed_even_where_nothing_serves_them(forced: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIMKERN_BACKEND", forced)
    assert f"backend=none (SLIMKERN_BACKEND={forced}" in repr(ScrollConv2d(8, 8, 3))
