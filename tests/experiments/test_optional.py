from __future__ import annotations

import math

import pytest

from slimkern.experiments.optional import load_extra


def test_a_missing_library_names_its_extra() -> None:
    with pytest.raises(ImportError, match=r"no_such_library.*pip install 'slimkern\[plot\]'"):
        load_extra("no_such_library.part", extra="plot")


def test_a_present_library_is_imported() -> None:
    assert load_extra("math", extra="plot") is math
