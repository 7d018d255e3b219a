"""The errors whose message tells the user what to do; all others keep their traceback."""

from __future__ import annotations

from slimkern.continual.config import ConfigError
from slimkern.continual.data import CorruptDataError, MissingDataError, MissingExtraError, UnknownDatasetError
from slimkern.continual.tasks import TaskError
from slimkern.continual.training import DivergedError
from slimkern.experiments.atomic import StorageError
from slimkern.experiments.config_file import RunFolderError
from slimkern.experiments.runs import ReportError
from slimkern.experiments.sweeps.sweep import FailedRunsError
from slimkern.nn import ConversionError

MENDABLE = (
    ConfigError, ConversionError, TaskError, UnknownDatasetError, MissingDataError, CorruptDataError, MissingExtraError,
    RunFolderError, ReportError, StorageError, DivergedError, FailedRunsError, ImportError,
)  # fmt: skip


def in_one_line(error: BaseException) -> str:
    """What an error says, its kind before it unless the message alone tells the user what to do."""
    message = "; ".join(line.strip() for line in str(error).splitlines() if line.strip())
    return message if isinstance(error, MENDABLE) else f"{type(error).__name__}: {message}"
