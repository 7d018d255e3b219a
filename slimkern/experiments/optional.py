"""Libraries that slimkern can do without."""

from __future__ import annotations

import importlib
from typing import Any


def load_extra(module: str, extra: str) -> Any:
    """Imports `module`.

    Raises:
        ImportError: naming the extra of slimkern that brings the library.
    """
    try:
        return importlib.import_module(module)
    except ImportError as cause:
        raise ImportError(f"{module} could not be imported ({cause}); try pip install 'slimkern[{extra}]'") from cause
