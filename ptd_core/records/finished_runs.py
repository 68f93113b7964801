"""Finished runs as rows of a table: what a sweep publishes of its runs.

Two tables: runs.csv, one row a run, from which means and spreads are computed whenever they are wanted, and epochs.csv,
one row a run and epoch.
"""

import csv
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from ptd_core.errors import OutputError
from ptd_core.records import history
from ptd_core.records.files import write_atomically
from ptd_core.records.history import NAN, EpochRecord
from ptd_core.records.rows import value_of
from ptd_core.records.run_record import RunRecord

RUNS, EPOCHS, UNFINISHED = "runs.csv", "epochs.csv", "unfinished.txt"


@dataclass(frozen=True)
class FinishedRun:
    """One row of runs.csv. cell: its name without the seed. Accuracies in percent of the last epoch, as in `Results`.

    fingerprint: of the recipe. data: digest of the images. training_flops: of the whole run, predicted from operations;
    both are unknown to older tables. levels: the values, as text, of those of a sweep's factors that are no column
    already.
    """

    run: str
    cell: str
    chapter: str
    seed: int
    epochs: int
    test_accuracy: float
    test_accuracy_raw: float
    best_on_test: float
    clean_train_accuracy: float
    train_seconds: float
    eval_seconds: float
    device: str
    precision: str
    attention: str
    compilation: str
    torch: str
    commit: str
    fingerprint: str
    data: str = ""
    training_flops: float = NAN
    levels: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, record: RunRecord, cell: str, fingerprint: str = "", levels: dict | None = None) -> "FinishedRun":
        return cls(
            run=record.run,
            cell=cell,
            chapter=record.chapter,
            seed=record.seed,
            epochs=record.epochs,
            **record.results.model_dump(),
            train_seconds=record.times.train_seconds,
            eval_seconds=record.times.eval_seconds,
            device=f"{record.processes} x {record.device}" if record.processes > 1 else record.device,
            precision=record.precision,
            attention=record.attention,
            compilation=record.compilation,
            torch=record.versions["torch"],
            commit=str(record.commit),
            fingerprint=fingerprint,
            data=record.data,
            training_flops=float(record.model.training_flops),
        ).with_levels(levels or {})

    def with_levels(self, levels: dict) -> "FinishedRun":
        """The row with a sweep's values of its factors."""
        return replace(self, levels={name: str(value) for name, value in levels.items() if name not in _COLUMNS})

    @property
    def gap(self) -> float:
        """Accuracy on clean training images less that on test images, in percentage points."""
        return self.clean_train_accuracy - self.test_accuracy


_COLUMNS = {column.name: column.type for column in fields(FinishedRun) if column.name != "levels"}
_UNKNOWN = {"data": "", "training_flops": ""}
_OF_A_RUN = ("run", "cell", "seed")  # columns of epochs.csv beside those of an epoch


def write_runs(runs: list[FinishedRun], folder: Path) -> None:
    """runs.csv; the factors' columns stand after the cell. Values read back exactly.

    Raises OutputError if the folder cannot be written, and for runs of sweeps with different factors.
    """
    names = list(_COLUMNS)
    factors = list(runs[0].levels)
    if any(list(run.levels) != factors for run in runs):
        raise OutputError(f"{folder / RUNS}: runs of sweeps with different factors are no one table")
    place = names.index("cell") + 1
    rows = []
    for run in runs:
        values = [getattr(run, name) for name in names]
        rows.append(values[:place] + [run.levels[name] for name in factors] + values[place:])
    history.write_rows(folder / RUNS, names[:place] + factors + names[place:], rows)


def read_runs(folder: Path) -> list[FinishedRun]:
    """The runs of a sweep's folder. Raises OutputError if its runs.csv is not there or damaged."""
    path = folder / RUNS
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        if not rows:
            raise ValueError("it has no rows")
        return [
            FinishedRun(
                **{name: value_of(kind, row.pop(name)) for name, kind in _COLUMNS.items()},
                levels={name: str(value) for name, value in row.items()},
            )
            for row in ({**_UNKNOWN, **row} for row in rows)
        ]
    except (OSError, ValueError, TypeError, KeyError, csv.Error) as error:
        raise OutputError(f"{path}: cannot be read as a table of runs ({_reason(error)})") from None


def write_epochs(runs: list[tuple[FinishedRun, list[EpochRecord]]], folder: Path) -> None:
    """epochs.csv: run, cell and seed, then what the run's own history holds of each epoch."""
    names = history.columns([record for _, records in runs for record in records])
    rows = [
        [run.run, run.cell, run.seed, *history.row(record, names)]
        for run, records in runs
        for record in records
    ]  # fmt: skip
    history.write_rows(folder / EPOCHS, [*_OF_A_RUN, *names], rows)


def read_epochs(folder: Path) -> dict[str, list[EpochRecord]]:
    """The epochs of a sweep's runs, by name of run. Raises OutputError if its epochs.csv is not there or damaged."""
    found: dict[str, list[EpochRecord]] = {}
    for (run, *_), record in history.read_csv_of_runs(folder / EPOCHS, beside=_OF_A_RUN):
        found.setdefault(run, []).append(record)
    return found


def mark_unfinished(folder: Path, runs: list[str]) -> None:
    """Save which runs of a sweep are not in its tables; no such file means that all of them are."""
    if runs:
        write_atomically(folder / UNFINISHED, "".join(f"{run}\n" for run in runs).encode())
    else:
        (folder / UNFINISHED).unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or (f"no column {error}" if isinstance(error, KeyError) else str(error))
