"""One record per epoch, and the files that hold a run's records."""

import csv
import dataclasses
import io
import math
from dataclasses import dataclass, field
from pathlib import Path

from ptd_core.errors import OutputError
from ptd_core.records.files import write_atomically

NAN = math.nan  # a quantity that was not measured in this epoch


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch of training did. Accuracies in percent, times in seconds, losses in nats.

    train_loss, train_accuracy: mean over the augmented (and mixed) batches, against each image's own label.
    clean_train_accuracy: un-augmented training images, evaluation mode, headline weights: the only training figure
    that can be set against test accuracy. test_*: raw weights; ema_test_*: averaged weights, NaN without averaging.
    lr: learning rate of the epoch's last step. train_seconds excludes evaluation; data_seconds is the part of it in
    which the host waited for batches or, where the device makes them, gave it the orders. compile_seconds, which is no
    part of it: for compiling the step and recording CUDA graphs, before the epoch's first step. extra: what probes
    measured, by name; none of them is called as a field here.
    """

    epoch: int
    lr: float
    drop_ratio: float
    kept_tokens: int
    train_loss: float
    train_accuracy: float
    clean_train_accuracy: float
    test_loss: float
    test_accuracy: float
    ema_test_loss: float
    ema_test_accuracy: float
    train_seconds: float
    data_seconds: float
    eval_seconds: float
    images_per_second: float
    compile_seconds: float = 0.0
    extra: dict[str, float] = field(default_factory=dict)

    def __post_init__(self):
        if clash := sorted(self.extra.keys() & FIELDS.keys()):
            raise ValueError(f"a probe must not measure what is called {', '.join(clash)}: records have that already")

    @property
    def evaluated(self) -> bool:
        return not math.isnan(self.test_accuracy)

    @property
    def headline(self) -> float:
        """Test accuracy of the weights that a run stands for: averaged ones where there are any."""
        return self.test_accuracy if math.isnan(self.ema_test_accuracy) else self.ema_test_accuracy


# Columns of a CSV and their types; those of `extra` come after them.
FIELDS = {field.name: field.type for field in dataclasses.fields(EpochRecord) if field.name != "extra"}


def history_file(folder: Path, chapter: str) -> Path:
    """The CSV of a run's records in its folder."""
    return folder / f"{chapter}_history.csv"


def columns(records: list[EpochRecord]) -> list[str]:
    """The fields, then the names that probes of these records measured, each once."""
    return list(dict.fromkeys([*FIELDS, *(name for record in records for name in record.extra)]))


def row(record: EpochRecord, names: list[str]) -> list:
    """A record's values of these columns; NaN for what was not measured."""
    return [getattr(record, name) if name in FIELDS else record.extra.get(name, NAN) for name in names]


def write_csv(records: list[EpochRecord], path: Path) -> None:
    """All fields of all records, then what probes measured; empty where nothing was. Values read back exactly."""
    names = columns(records)
    write_rows(path, names, [row(record, names) for record in records])


def read_csv(path: Path) -> list[EpochRecord]:
    """The records that `write_csv` wrote; a column that an older file lacks was not measured.

    Raises OutputError if it is not there or damaged.
    """
    return [record for _, record in read_csv_of_runs(path, beside=())]


def read_csv_of_runs(path: Path, beside: tuple[str, ...]) -> list[tuple[list[str], EpochRecord]]:
    """The records of a table with other columns `beside` them, each after its values there. Raises as `read_csv`."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return [([cells.pop(name) for name in beside], _read_row(cells)) for cells in csv.DictReader(file)]
    except (OSError, ValueError, TypeError, KeyError, csv.Error) as error:
        raise OutputError(
            f"{path}: cannot be read as records of epochs ({getattr(error, 'strerror', None) or error})"
        ) from None


def _read_row(cells: dict[str, str]) -> EpochRecord:
    if None in cells or None in cells.values():
        raise ValueError("a row has not as many values as there are columns")
    values = {
        name: kind(cells[name]) if kind is int or cells.get(name) else NAN  # no record is without its epoch
        for name, kind in FIELDS.items()
    }
    extra = {name: float(cells[name]) for name in cells if name not in FIELDS and cells[name]}
    return EpochRecord(**values, extra=extra)


def write_metrics(records: list[EpochRecord], chapter: str, path: Path) -> None:
    """The columns of the original runs' own logs, so that their plots read ours.

    There `train_acc` and `train_acc_clean` both mean accuracy on the augmented batch against the image's own label.
    """
    if chapter == "baseline":
        names = {
            "epoch": "epoch",
            "train_loss": "train_loss",
            "train_acc": "train_accuracy",
            "val_loss": "test_loss",
            "val_acc": "test_accuracy",
            "lr": "lr",
        }
    else:
        names = {
            "epoch": "epoch",
            "train_loss": "train_loss",
            "train_acc_clean": "train_accuracy",
            "val_loss_raw": "test_loss",
            "val_acc_raw": "test_accuracy",
            "val_loss_ema": "ema_test_loss",
            "val_acc_ema": "ema_test_accuracy",
            "lr": "lr",
            "epoch_time_sec": "train_seconds",
        }
    write_rows(path, list(names), [row(record, list(names.values())) for record in records])


def write_rows(path: Path, header: list[str], rows: list[list]) -> None:
    """A CSV file; NaN and None are left empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(
        [["" if isinstance(value, float) and math.isnan(value) else value for value in cells] for cells in rows]
    )
    write_atomically(path, text.getvalue().encode())
