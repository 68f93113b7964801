"""Runs of a sweep that published tables hold: finished on another machine, whose checkpoints are not here."""

from pathlib import Path

from ptd_core.errors import OutputError
from ptd_core.records.cells import RUNS, FinishedRun, read_epochs, read_runs
from ptd_core.records.history import EpochRecord
from ptd_core.sweep.plan import Plan

Row = tuple[FinishedRun, list[EpochRecord]]  # of the tables: a run, and its epochs


def published_rows(plan: Plan, folder: Path) -> dict[str, Row]:
    """The runs of this plan that the tables in a folder hold, or those of all folders in it, by name.

    Raises OutputError if tables are not there or damaged, if they hold none of the runs, or another recipe's under the
    name of one, or one that was run twice.
    """
    asked = {run.name: run for run in plan.runs}
    found: dict[str, Row] = {}
    for place in [folder] if (folder / RUNS).exists() else sorted(path.parent for path in folder.glob(f"*/{RUNS}")):
        epochs = read_epochs(place)
        for run in read_runs(place):
            if run.run not in asked:
                continue
            fingerprint = asked[run.run].recipe.fingerprint
            if run.fingerprint != fingerprint:
                raise OutputError(
                    f"{place}: its run {run.run} had another recipe (fingerprint {run.fingerprint}) than the sweep "
                    f"{plan.name} asks for (fingerprint {fingerprint})"
                )
            if len(epochs.get(run.run, [])) != run.epochs:
                raise OutputError(f"{place}: has {len(epochs.get(run.run, []))} of {run.epochs} epochs of {run.run}")
            row = run.with_levels(asked[run.run].levels), epochs[run.run]
            known, _ = found.setdefault(run.run, row)
            if known.train_seconds != run.train_seconds:
                raise OutputError(f"{place}: its run {run.run} is another than the one of that name in {folder}")
    if not found:
        raise OutputError(f"{folder}: holds no tables with a run that the sweep {plan.name} asks for")
    return found


def refuse_other_images(rows: dict[str, Row]) -> None:
    """Raises OutputError for a cell of whose runs one was trained on other images than another, as far as is known."""
    first: dict[str, FinishedRun] = {}
    for run, _ in rows.values():
        earlier = first.setdefault(run.cell, run) if run.data else run
        if run.data != earlier.data:
            raise OutputError(
                f"{earlier.run} and {run.run}: are of one cell but were trained on different images (their digests are "
                f"{earlier.data} and {run.data})"
            )
