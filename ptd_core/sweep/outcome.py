"""What became of one run of a sweep."""

from dataclasses import dataclass, field
from pathlib import Path

from ptd_core.errors import OutputError
from ptd_core.recipe import Recipe
from ptd_core.records import history
from ptd_core.records.folders import RunFolder
from ptd_core.records.history import EpochRecord
from ptd_core.records.run_record import FILE, Results, RunRecord, refuse_other_settings


@dataclass(frozen=True)
class Outcome:
    """What it recorded, if it is finished, or why there is nothing, or neither if it was called off."""

    record: RunRecord | None = None
    epochs: list[EpochRecord] = field(default_factory=list)
    failure: str = ""


def finished(recipe: Recipe, notebook: bool) -> Outcome | None:
    """What a run recorded if it is done and its checkpoint is here (its executed chapter too, if wanted), else None.

    Raises OutputError if the folder holds another recipe's run, or damaged records.
    """
    folder = RunFolder(recipe.run_name, recipe.out_dir)
    record = RunRecord.read(folder.path)
    if record is None:
        return None
    refuse_other_settings(recipe.settings(), record.recipe, folder.path)
    if not folder.finished or (notebook and not executed_chapter(recipe).exists()):
        return None
    file = history.history_file(folder.path, record.chapter)
    epochs = history.read_csv(file)
    if [one.epoch for one in epochs] != list(range(record.epochs)) or Results.of(epochs) != record.results:
        raise OutputError(
            f"{file}: its epochs are not those of {FILE} beside it; delete {FILE}, and both are made again from the "
            "run's checkpoint"
        )
    return Outcome(record, epochs)


def executed_chapter(recipe: Recipe) -> Path:
    """Where a run's executed notebook is kept."""
    return RunFolder(recipe.run_name, recipe.out_dir).path / f"{recipe.chapter}.ipynb"
