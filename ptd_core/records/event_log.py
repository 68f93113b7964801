"""A run's records as TensorBoard's event files, beside what is always written: one point an epoch for every column."""

import math
import shutil
from pathlib import Path

from ptd_core.errors import OutputError, RecipeError
from ptd_core.records.history import EpochRecord, columns, row

FOLDER = "tensorboard"  # in the run's
LOGS = ("none", "tensorboard")


def refuse_absent(log: str) -> None:
    """Raises RecipeError if the package that a log needs is not installed."""
    if log == "tensorboard":
        try:
            import torch.utils.tensorboard  # noqa: F401
        except ImportError:
            raise RecipeError(
                "log = 'tensorboard': the package tensorboard is not installed; "
                "pip install 'ptd-book[log]', or use log = 'none'"
            ) from None


class EventLog:
    """The log of a run in its folder, in a `with` block; with log "none" it writes nothing.

    It begins anew with the records of earlier calls, so that a run which was stopped or killed, at whatever moment, has
    each point once. Raises OutputError if it cannot be written.
    """

    def __init__(self, log: str, folder: Path, records: list[EpochRecord]):
        self._folder, self._records, self._writer = folder / FOLDER, list(records), None
        self._on = log == "tensorboard"

    def __enter__(self) -> "EventLog":
        if self._on:
            from torch.utils.tensorboard import SummaryWriter  # heavy, and an extra

            try:
                if self._folder.exists():
                    shutil.rmtree(self._folder)
                self._writer = SummaryWriter(str(self._folder))
            except OSError as error:
                raise self._cannot(error) from None
            for record in self._records:
                self.add(record)
        return self

    def add(self, record: EpochRecord) -> None:
        """A point for every column of the record that was measured, at the record's epoch, counted from 0."""
        if self._writer is None:
            return
        names = [name for name in columns([record]) if name != "epoch"]
        try:
            for name, value in zip(names, row(record, names)):
                if not math.isnan(value):
                    self._writer.add_scalar(name, value, record.epoch)
            self._writer.flush()
        except OSError as error:
            raise self._cannot(error) from None

    def __exit__(self, *_) -> None:
        if self._writer is not None:
            self._writer.close()

    def _cannot(self, error: OSError) -> OutputError:
        return OutputError(f"{self._folder}: cannot be written ({error.strerror or error})")
