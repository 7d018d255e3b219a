"""What can go wrong while a dataset is read."""

from __future__ import annotations


class UnknownDatasetError(ValueError):
    """The name is none of the datasets slimkern reads."""


class MissingDataError(FileNotFoundError):
    """The files of a dataset are not where they were looked for; the message says how to get them."""


class CorruptDataError(RuntimeError):
    """A file of a dataset is there, but truncated or altered; the message names the file."""


class MissingExtraError(ImportError):
    """A package of the ``train`` extra is not installed."""

    def __init__(self, package: str) -> None:
        super().__init__(f"{package} is not installed; get it with: pip install 'slimkern[train]'")
