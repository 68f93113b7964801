"""Runs of a sweep that published tables hold: finished on another machine, whose checkpoints are not here."""

from pathlib import Path

from ptd_core.errors import OutputError
from ptd_core.records.finished_runs import EPOCHS, RUNS, FinishedRun, read_epochs, read_runs
from ptd_core.records.history import EpochRecord
from ptd_core.records.run_record import Results
from ptd_core.sweep.plan import Plan, PlannedRun

_DATA = ("dataset", "data_dir", "label_column", "image_size", "subset", "test_subset")  # decide what is seen
Row = tuple[FinishedRun, list[EpochRecord]]  # of the tables: a run, and its epochs


def published_rows(plan: Plan, folder: Path) -> dict[str, Row]:
    """The runs of this plan that the tables in a folder hold, or those of all folders in it, by name.

    A run that several of them hold, trained anew for its weights perhaps, is taken from the plan's own table, else from
    the first by name; runs of one seed may then be of two machines: the same weights to begin with, the same images,
    another rounding.

    Raises OutputError if there are no tables, or damaged ones, and if they hold another recipe's run under the name of
    one that is asked for.
    """
    asked = {run.name: run for run in plan.runs}
    places = [folder] if (folder / RUNS).exists() else [path.parent for path in folder.glob(f"*/{RUNS}")]
    if not places:
        raise OutputError(f"{folder}: holds no {RUNS}, nor does a folder in it")
    found: dict[str, Row] = {}
    for place in sorted(places, key=lambda place: (place.name != plan.name, place)):
        runs = [run for run in read_runs(place) if run.run in asked]
        epochs = read_epochs(place) if runs else {}
        for run in runs:
            found.setdefault(run.run, _checked(place, run, epochs.get(run.run, []), asked[run.run]))
    refuse_other_images(plan, found)
    return found


def _checked(place: Path, run: FinishedRun, epochs: list[EpochRecord], asked: PlannedRun) -> Row:
    """A row as this plan has it. Raises OutputError if it is not whole, or of another recipe."""
    recipe = asked.recipe
    if run.fingerprint != recipe.fingerprint:
        raise OutputError(
            f"{place}: its run {run.run} had another recipe (fingerprint {run.fingerprint}) than the one that is asked "
            f"for (fingerprint {recipe.fingerprint})"
        )
    whole = (run.cell, run.seed, run.epochs) == (asked.cell, recipe.seed, recipe.epochs)
    if not whole or [record.epoch for record in epochs] != list(range(recipe.epochs)):
        raise OutputError(f"{place}: its run {run.run} is not whole: {len(epochs)} of {recipe.epochs} epochs are there")
    told = Results.of(epochs)
    if told is None or any(getattr(run, name) != value for name, value in told.model_dump().items()):
        raise OutputError(f"{place}: of its run {run.run}, {RUNS} does not tell what {EPOCHS} does")
    return run.with_levels(asked.levels), epochs


def refuse_other_images(plan: Plan, rows: dict[str, Row]) -> None:
    """Raises OutputError where one run was trained on other images than another, although their settings of the data
    are the same; as far as digests are known."""
    first: dict[tuple, FinishedRun] = {}
    for planned in plan.runs:
        run, _ = rows.get(planned.name, (None, []))
        if run is None or not run.data:
            continue
        settings = tuple(getattr(planned.recipe, name) for name in _DATA)
        earlier = first.setdefault(settings, run)
        if run.data != earlier.data:
            raise OutputError(
                f"{earlier.run} and {run.run}: were trained on different images (their digests are {earlier.data} and "
                f"{run.data}) and cannot be compared; give the data_dir of those, or leave out --records"
            )
