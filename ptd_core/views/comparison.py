"""Cells side by side: every seed a point, every mean a line, and the table that belongs to them."""

from pathlib import Path

from matplotlib.figure import Figure

from ptd_core.records.cells import Cell, table
from ptd_core.records.stamp import places
from ptd_core.records.statistics import mean_and_sd
from ptd_core.views.rows import name_rows, seed_row
from ptd_core.views.style import BLUE, ORANGE, new_figure, save_figure, styled


def compare(cells: list[Cell], picture: Path | None = None) -> str:
    """The table of these cells as Markdown; their picture goes to the file `picture` if one is named."""
    if picture:
        save_figure(comparison_figure(cells), picture)
    return table(cells)


def where_run(cells: list[Cell]) -> str:
    """The devices and commits of all runs of these cells, for the foot of a figure."""
    runs = [run for cell in cells for run in cell.runs]
    devices = sorted({device for run in runs for device in places(run.device)})
    commits = sorted({commit for run in runs for commit in places(run.commit)})
    return f"{'; '.join(devices)} · commit {', '.join(commits)}"


@styled
def comparison_figure(cells: list[Cell]) -> Figure:
    """Each run's test accuracy as a point, each recipe's mean as a line, runs with token drop in their own colour."""
    counts = _counts(cells)
    figure = new_figure(f"{counts}\n{where_run(cells)}", (6.4, 0.5 * len(cells) + 1.6))
    axes = figure.subplots()
    for place, cell in enumerate(cells):
        values = cell.values("test_accuracy")
        colour = BLUE if cell.runs[0].chapter == "ptd" else ORANGE
        seed_row(axes, place, values, mean_and_sd(values)[0], color=colour, alpha=0.7)
    name_rows(axes, [cell.name for cell in cells])
    axes.set_xlabel("test accuracy, last epoch (%); points: seeds, line: mean")
    return figure


def _counts(cells: list[Cell]) -> str:
    """How many seeds each cell has, for the foot of a figure: once where all have as many."""
    numbers = {len(cell.runs) for cell in cells}
    if len(cells) > 1 and len(numbers) == 1:
        return f"n = {numbers.pop()} each"
    return ", ".join(f"{cell.name} n = {len(cell.runs)}" for cell in cells)
