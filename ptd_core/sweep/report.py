"""What a sweep writes: one row a run, one row a run and epoch, a picture of its cells, and arms against controls."""

from pathlib import Path

from ptd_core.records.cells import Cell, FinishedRun, group, mark_unfinished, read_runs, write_epochs, write_runs
from ptd_core.records.effects import compared, effects_table, write_effects
from ptd_core.records.history import EpochRecord
from ptd_core.records.run_record import RunRecord
from ptd_core.sweep.plan import Plan
from ptd_core.views.comparison import compare, where_run
from ptd_core.views.effects import effects_figure
from ptd_core.views.style import save_figure

Results = tuple[RunRecord, list[EpochRecord]]  # what a finished run recorded


def save_tables(plan: Plan, results: dict[str, Results]) -> str:
    """Write runs.csv, epochs.csv and cells.png into the sweep's folder, and effects.csv and effects.png if arms have
    controls; the tables of cells and of effects as Markdown.

    results: by name of run, of the finished ones; those that are missing are named in unfinished.txt.
    """
    folder = plan.folder.path
    mark_unfinished(folder, [run.name for run in plan.runs if run.name not in results])
    rows = {
        run.name: FinishedRun.of(results[run.name][0], run.cell, run.recipe.fingerprint, run.levels)
        for run in plan.runs
        if run.name in results
    }
    write_epochs([(row, results[name][1]) for name, row in rows.items()], folder)
    write_runs(list(rows.values()), folder)
    return "\n\n".join(filter(None, [redraw(folder), save_effects(plan, group(list(rows.values())))]))


def save_effects(plan: Plan, cells: list[Cell]) -> str:
    """Of the pairs of which both cells have runs with one seed; "" if there is none."""
    found = compared(plan.pairs, cells)
    if not found:
        return ""
    write_effects(found, plan.folder.path)
    save_figure(effects_figure(found, where_run(cells)), plan.folder.path / "effects.png")
    return effects_table(found)


def redraw(folder: Path) -> str:
    """The table of a sweep's cells as Markdown, and its picture drawn again, from its runs.csv alone."""
    return compare(group(read_runs(folder)), folder / "cells.png")
