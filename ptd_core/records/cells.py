"""Finished runs as rows of a table, and the cells that they form: the runs of one recipe that differ in their seed.

A sweep publishes two tables: runs.csv, one row a run, from which means and spreads are computed whenever they are
wanted, and epochs.csv, one row a run and epoch.
"""

import csv
import json
import os
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from ptd_core.errors import OutputError
from ptd_core.records import history
from ptd_core.records.files import write_atomically
from ptd_core.records.history import NAN, EpochRecord
from ptd_core.records.rows import value_of
from ptd_core.records.run_record import RunRecord
from ptd_core.records.statistics import spread

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
            device=record.device,
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


@dataclass(frozen=True)
class Cell:
    """The finished runs of one recipe, one for each seed."""

    name: str
    runs: list[FinishedRun]

    def values(self, result: str) -> list[float]:
        """One result of each run, for example test_accuracy in percent."""
        return [getattr(run, result) for run in self.runs]


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


def group(runs: list[FinishedRun]) -> list[Cell]:
    """The cells in the order of their first runs, their runs ordered by seed.

    Where "auto" became two precisions, on two kinds of device, these are cells of their own.
    """
    groups: dict[tuple[str, str], list[FinishedRun]] = {}
    for run in runs:
        groups.setdefault((run.cell, run.precision), []).append(run)
    names = _distinct([(cell, f"{cell} ({precision})") for cell, precision in groups])
    return [Cell(name, sorted(found, key=lambda run: run.seed)) for name, found in zip(names, groups.values())]


def read_cells(folders: list[Path]) -> list[Cell]:
    """The cells of sweeps' folders, and of runs' folders; the latter's runs form a cell where only the seed differs.

    What is given twice, also by another path, counts once. Raises OutputError for a folder that holds neither a
    finished run nor a table of runs, and for two runs of one cell with the same seed, which are no sample of two.
    """
    once: dict[str, Path] = {}
    for folder in folders:
        once.setdefault(os.path.realpath(folder), folder)
    folders = list(once.values())
    sweeps = [folder for folder in folders if (folder / RUNS).exists()]
    cells = [(folder, cell) for folder in sweeps for cell in group(read_runs(folder))]
    names = _distinct([(cell.name, f"{folder}: {cell.name}") for folder, cell in cells])
    named = [Cell(name, cell.runs) for name, (_, cell) in zip(names, cells)]
    found = runs_by_cell([folder for folder in folders if folder not in sweeps])
    return named + [Cell(name, [FinishedRun.of(record, name) for _, record in runs]) for name, runs in found.items()]


def runs_by_cell(folders: list[Path]) -> dict[str, list[tuple[Path, RunRecord]]]:
    """Finished runs, ordered by seed, under the name of their cell: the runs of one recipe that differ in their seed.

    A copy of a run counts once. Raises OutputError for a folder without a finished run, and for one recipe with one
    seed that was run twice.
    """
    groups: dict[str, dict[int, tuple[Path, RunRecord]]] = {}
    for folder in folders:
        record = RunRecord.read(folder)
        if record is None:
            raise OutputError(f"{folder}: holds neither a run.json nor a {RUNS}")
        if not record.finished:
            raise OutputError(f"{folder}: its run is not finished")
        settings = {name: value for name, value in record.recipe.items() if name != "seed"}
        # precision: what "auto" became; data: not told by the recipe, which may name another folder with the same
        same = json.dumps([settings, record.precision, record.data], sort_keys=True)
        of_seed = groups.setdefault(same, {})
        earlier, known = of_seed.setdefault(record.seed, (folder, record))
        if known != record:
            raise OutputError(f"{earlier} and {folder}: are one recipe with one seed, run twice; give one of them")
    firsts = [of_seed[min(of_seed)] for of_seed in groups.values()]
    names = _distinct(
        [(first.run, f"{first.run} ({first.precision})", f"{folder}: {first.run}") for folder, first in firsts]
    )
    return {name: [of_seed[seed] for seed in sorted(of_seed)] for name, of_seed in zip(names, groups.values())}


def _distinct(names: list[tuple[str, ...]]) -> list[str]:
    """Of each one's names, from short to full, the first that no other has; the last where there is none."""
    levels = [list(level) for level in zip(*names)]
    return [next((name for name, level in zip(own, levels) if level.count(name) == 1), own[-1]) for own in names]


def table(cells: list[Cell]) -> str:
    """Markdown: test accuracy of the last epoch is the headline; the best epoch chosen on test stands apart."""
    lines = [
        "| run | seeds | test accuracy, last epoch | raw weights | best on test | train, clean images |",
        "|---|---|---|---|---|---|",
    ]
    results = ("test_accuracy", "test_accuracy_raw", "best_on_test", "clean_train_accuracy")
    for cell in cells:
        seeds = ", ".join(str(run.seed) for run in cell.runs)
        lines.append("| " + " | ".join([cell.name, seeds, *(spread(cell.values(name)) for name in results)]) + " |")
    return "\n".join(lines)


def mark_unfinished(folder: Path, runs: list[str]) -> None:
    """Save which runs of a sweep are not in its tables; no such file means that all of them are."""
    if runs:
        write_atomically(folder / UNFINISHED, "".join(f"{run}\n" for run in runs).encode())
    else:
        (folder / UNFINISHED).unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or (f"no column {error}" if isinstance(error, KeyError) else str(error))
