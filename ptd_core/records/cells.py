"""Cells: the finished runs of one recipe, which differ in their seed."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from ptd_core.errors import OutputError
from ptd_core.records.finished_runs import RUNS, FinishedRun, read_runs
from ptd_core.records.markdown import markdown_table
from ptd_core.records.run_record import RunRecord
from ptd_core.records.statistics import spread


@dataclass(frozen=True)
class Cell:
    """The finished runs of one recipe, one for each seed."""

    name: str
    runs: list[FinishedRun]

    def values(self, result: str) -> list[float]:
        """One result of each run, for example test_accuracy in percent."""
        return [getattr(run, result) for run in self.runs]


def group(runs: list[FinishedRun]) -> list[Cell]:
    """The cells in the order of their first runs, their runs ordered by seed.

    Where "auto" became two precisions, on two kinds of device, these are cells of their own. Raises OutputError for two
    runs of one cell with the same seed, which are no sample of two.
    """
    groups: dict[tuple[str, str], list[FinishedRun]] = {}
    for run in runs:
        same = groups.setdefault((run.cell, run.precision), [])
        if twin := next((other for other in same if other.seed == run.seed), None):
            raise OutputError(f"{twin.run} and {run.run}: are both of the cell {run.cell} with seed {run.seed}")
        same.append(run)
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
            if (folder / RUNS).exists():
                raise OutputError(f"{folder}: holds the tables of several runs, but no weights; name their own folders")
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
    names = []
    for of_seed in groups.values():
        folder, first = of_seed[min(of_seed)]
        short = _without_seed([of_seed[seed][1] for seed in sorted(of_seed)])
        names.append((short, first.run, f"{first.run} ({first.precision})", f"{folder}: {first.run}"))
    names = _distinct(names)
    return {name: [of_seed[seed] for seed in sorted(of_seed)] for name, of_seed in zip(names, groups.values())}


def _without_seed(records: list[RunRecord]) -> str:
    """What several runs are called that are named after their seeds, as a sweep's are; else the first one's name."""
    short = {record.run.removesuffix(f"_seed{record.seed}") for record in records}
    return short.pop() if len(short) == 1 and len(records) > 1 else records[0].run


def _distinct(names: list[tuple[str, ...]]) -> list[str]:
    """Of each one's names, from short to full, the first that no other has; the last where there is none."""
    levels = [list(level) for level in zip(*names)]
    return [next((name for name, level in zip(own, levels) if level.count(name) == 1), own[-1]) for own in names]


def table(cells: list[Cell]) -> str:
    """Markdown: test accuracy of the last epoch is the headline; the best epoch chosen on test stands apart."""
    header = ["run", "seeds", "test accuracy, last epoch", "raw weights", "best on test", "train, clean images"]
    results = ("test_accuracy", "test_accuracy_raw", "best_on_test", "clean_train_accuracy")
    rows = []
    for cell in cells:
        seeds = ", ".join(str(run.seed) for run in cell.runs)
        rows.append([cell.name, seeds, *(spread(cell.values(name)) for name in results)])
    return markdown_table(header, rows)
