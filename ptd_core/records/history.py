"""One record per epoch, and the files that hold a run's records."""

import csv
import dataclasses
import io
import math
import pickle
from dataclasses import dataclass
from pathlib import Path

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
    part of it: for compiling the step and recording CUDA graphs, before the epoch's first step.
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

    @property
    def evaluated(self) -> bool:
        return not math.isnan(self.test_accuracy)

    @property
    def headline(self) -> float:
        """Test accuracy of the weights that a run stands for: averaged ones where there are any."""
        return self.test_accuracy if math.isnan(self.ema_test_accuracy) else self.ema_test_accuracy


FIELDS = {field.name: field.type for field in dataclasses.fields(EpochRecord)}


def write_csv(records: list[EpochRecord], path: Path) -> None:
    """All fields of all records; what was not measured is left empty. Values read back exactly."""
    _write_rows(path, list(FIELDS), [[getattr(record, name) for name in FIELDS] for record in records])


def read_csv(path: Path) -> list[EpochRecord]:
    """The records that `write_csv` wrote; a column that an older file lacks was not measured."""
    with open(path, newline="", encoding="utf-8") as file:
        return [
            EpochRecord(**{name: kind(row[name]) if row.get(name) else NAN for name, kind in FIELDS.items()})
            for row in csv.DictReader(file)
        ]


def write_metrics(records: list[EpochRecord], chapter: str, path: Path) -> None:
    """The columns of the original runs' own logs, so that their plots read ours.

    There `train_acc` and `train_acc_clean` both mean accuracy on the augmented batch against the image's own label.
    """
    if chapter == "baseline":
        columns = {
            "epoch": "epoch",
            "train_loss": "train_loss",
            "train_acc": "train_accuracy",
            "val_loss": "test_loss",
            "val_acc": "test_accuracy",
            "lr": "lr",
        }
    else:
        columns = {
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
    _write_rows(path, list(columns), [[getattr(record, name) for name in columns.values()] for record in records])


def write_pickle(records: list[EpochRecord], path: Path) -> None:
    """A dict of lists, for parity with the original; nothing here ever reads it back."""
    history = {name: [getattr(record, name) for record in records] for name in FIELDS}
    write_atomically(path, pickle.dumps(history))


def _write_rows(path: Path, header: list[str], rows: list[list]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(
        [["" if isinstance(value, float) and math.isnan(value) else value for value in row] for row in rows]
    )
    write_atomically(path, text.getvalue().encode())
