"""Runs of a sweep that published tables hold: finished on another machine, whose checkpoints are not here."""

from pathlib import Path

from ptd_core.errors import OutputError
from ptd_core.records.cells import FinishedRun, read_epochs, read_runs
from ptd_core.records.history import EpochRecord
from ptd_core.sweep.plan import Plan

Row = tuple[FinishedRun, list[EpochRecord]]  # of the tables: a run, and its epochs


def published_rows(plan: Plan, folder: Path) -> dict[str, Row]:
    """The rows of a published sweep's folder, by name of run.

    Raises OutputError if its tables are not there or damaged, and if they hold a run that this plan does not ask for,
    or another recipe's under the name of one.
    """
    runs, epochs = read_runs(folder), read_epochs(folder)
    recipes = {run.name: run.recipe for run in plan.runs}
    for run in runs:
        if run.run not in recipes:
            raise OutputError(f"{folder}: has the run {run.run}, which the sweep {plan.name} does not ask for")
        if run.fingerprint != recipes[run.run].fingerprint:
            raise OutputError(
                f"{folder}: its run {run.run} had another recipe (fingerprint {run.fingerprint}) than the sweep "
                f"{plan.name} asks for (fingerprint {recipes[run.run].fingerprint})"
            )
        if len(epochs.get(run.run, [])) != run.epochs:
            raise OutputError(f"{folder}: has {len(epochs.get(run.run, []))} of {run.epochs} epochs of {run.run}")
    return {run.run: (run, epochs[run.run]) for run in runs}


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
