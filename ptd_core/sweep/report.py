"""What a sweep writes: one row a run, one row a run and epoch, a picture of its cells, and arms against controls."""

from pathlib import Path

from ptd_core.records.cells import Cell, group
from ptd_core.records.effects import EFFECTS, compared, effects_table, write_effects
from ptd_core.records.finished_runs import mark_unfinished, read_runs, write_epochs, write_runs
from ptd_core.sweep.plan import Plan
from ptd_core.sweep.published import Row, refuse_other_images
from ptd_core.views.comparison import compare
from ptd_core.views.effects import effects_figure
from ptd_core.views.style import save_figure


def save_tables(plan: Plan, found: dict[str, Row]) -> str:
    """Write runs.csv, epochs.csv and cells.png into the sweep's folder, and effects.csv and effects.png if arms have
    controls; the tables of cells and of effects as Markdown.

    found: by name of run, of the finished ones; those that are missing are named in unfinished.txt.

    Raises OutputError for runs that say that they saw the same images and did not.
    """
    folder = plan.folder.path
    refuse_other_images(plan, found)
    mark_unfinished(folder, [run.name for run in plan.runs if run.name not in found])
    rows = [found[run.name] for run in plan.runs if run.name in found]
    write_epochs(rows, folder)
    runs = [run for run, _ in rows]
    write_runs(runs, folder)
    return "\n\n".join(filter(None, [redraw(folder), save_effects(plan, group(runs))]))


def save_effects(plan: Plan, cells: list[Cell]) -> str:
    """Of the pairs of which both cells have runs with one seed; "" if there is none."""
    found = compared(plan.pairs, cells)
    if not found:
        for stale in (EFFECTS, "effects.png"):  # of runs that the tables no longer have
            (plan.folder.path / stale).unlink(missing_ok=True)
        return ""
    write_effects(found, plan.folder.path)
    save_figure(effects_figure(found, cells), plan.folder.path / "effects.png")
    return effects_table(found)


def redraw(folder: Path) -> str:
    """The table of a sweep's cells as Markdown, and its picture drawn again, from its runs.csv alone."""
    return compare(group(read_runs(folder)), folder / "cells.png")
