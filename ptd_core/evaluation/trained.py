"""Finished runs that are looked at again: their recipes on this machine, and their data."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ptd_core.data.dataset import Dataset
from ptd_core.errors import RecipeError
from ptd_core.machine.device import resolve_device
from ptd_core.recipe import Recipe
from ptd_core.records.cells import runs_by_cell
from ptd_core.records.run_record import RunRecord, refuse_other_data

HERE = ("data_dir", "device", "precision", "attention", "download", "images", "cache_dir")  # settings of this machine
_DATA = ("dataset", "data_dir", "label_column", "image_size", "subset", "test_subset")  # say which images are read


@dataclass(frozen=True)
class TrainedRun:
    """A finished run. cell: the name that runs share which differ in their seed only. first: whether it is the first
    of its cell. recipe: as it was trained, with the settings of this machine."""

    cell: str
    first: bool
    folder: Path
    record: RunRecord
    recipe: Recipe


def trained_runs(folders: list[Path], here: list[str]) -> list[TrainedRun]:
    """The runs of these folders, cell by cell. here: name=value texts of settings in HERE.

    Raises OutputError as `runs_by_cell` does, RecipeError for no folder and for wrong settings, DeviceError for an
    absent device.
    """
    if not folders:
        raise RecipeError("command line: name at least one run's folder")
    found = []
    for cell, runs in runs_by_cell(folders).items():
        for number, (folder, record) in enumerate(runs):
            recipe = Recipe.from_values(record.recipe, source=str(folder)).overridden(here)
            resolve_device(recipe.device)
            found.append(TrainedRun(cell, number == 0, folder, record, recipe))
    return found


def with_data(runs: list[TrainedRun]) -> Iterator[tuple[TrainedRun, Dataset]]:
    """Each run with its dataset, read once for runs in a row; no more than one is held.

    Raises DataError, and OutputError where the images are not those that the run was trained on.
    """
    read, data = None, None
    for run in runs:
        wanted = tuple(getattr(run.recipe, name) for name in _DATA)
        if wanted != read:
            read, data = wanted, run.recipe.load_dataset()
        refuse_other_data(data.digest, run.record.data, run.folder)
        yield run, data
