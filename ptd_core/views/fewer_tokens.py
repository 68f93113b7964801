"""Trained models evaluated on fewer tokens, from the rows of `evaluation.table`."""

import dataclasses
import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ptd_core.evaluation import table
from ptd_core.evaluation.table import Row
from ptd_core.paths import readable
from ptd_core.records.statistics import mean_and_sd
from ptd_core.views.style import GREY, look, new_figure, styled

_PANELS = (
    ("accuracy", "test accuracy (%)"),
    ("object_kept", "object under kept tokens (%)"),
    ("faster", "times faster (dashed: predicted)"),
)
_ASIDE = 0.02  # of the axis' length, between the points of two ways of evaluating
_TICKS = 16

Way = tuple[str, ...]  # a policy; without its block, where blocks are on the axis


@styled
def fewer_tokens_figure(rows: list[Row]) -> Figure:
    """Accuracy, speed and the object's share against kept tokens: each run a point, each way's mean a line.

    A column for each cell, and one look in all of them for a way of evaluating. A panel is left out where nothing is
    known. Where only one number of tokens is fewer than all, blocks take their place on the axis.
    """
    blocks = {row.blocks for row in rows if row.blocks.isdecimal()}
    by_block = len(blocks) > 1 and len({row.kept for row in rows if not row.whole}) == 1
    panels = [panel for panel in _PANELS if any(not math.isnan(getattr(row, panel[0])) for row in rows)]
    called = _names(rows, by_block)
    cells = list(dict.fromkeys(row.cell for row in rows))
    first, seeds = rows[0], sorted({row.seed for row in rows})
    figure = new_figure(
        f"n = {len(seeds)} (seeds {', '.join(map(str, seeds))}), {first.images} test images · {first.device}, "
        f"{first.precision} · torch {first.torch} · commit {first.commit}",
        (max(6.4, 0.6 + 3.1 * len(cells)), 2.6 * len(panels) + 0.16 * len(called) + 0.4),
    )
    grid = figure.subplots(len(panels), len(cells), sharex=True, sharey="row", squeeze=False)
    for column, cell in zip(grid.T, cells):
        of_cell = [row for row in rows if row.cell == cell]
        for axes, (value, _) in zip(column, panels):
            _panel(axes, of_cell, value, called, by_block)
        if len(cells) > 1:
            column[0].set_title(readable(cell), fontsize=8)
        aside = "\n(points of one number side by side)" if len(called) > 1 else ""
        column[-1].set_xlabel("block that drops tokens" if by_block else f"kept patch tokens{aside}")
    for axes, (_, label) in zip(grid[:, 0], panels):
        axes.set_ylabel(label)
    found = {label: line for axes in grid[0] for line, label in zip(*axes.get_legend_handles_labels())}
    figure.legend(found.values(), found, loc="outside upper left", ncols=2, fontsize=7)
    return figure


def _names(rows: list[Row], by_block: bool) -> dict[Way, str]:
    """What to call each way, whatever the cell, in the order of their looks."""
    alike = [dataclasses.replace(row, cell="", blocks="" if by_block else row.blocks) for row in rows]
    return {policy[:-1] if by_block else policy: name for (_, policy), name in table.names(alike).items()}


def _panel(axes: Axes, rows: list[Row], value: str, called: dict[Way, str], by_block: bool) -> None:
    """One cell's runs: a line for each way; by block, all tokens are a line across."""
    lines: dict[Way, dict[int, list[Row]]] = {}
    for row in rows:
        if not by_block:
            lines.setdefault(row.policy, {}).setdefault(row.kept, []).append(row)
        elif not row.whole:
            place = int(row.blocks) if row.blocks.isdecimal() else -1
            lines.setdefault(row.policy[:-1], {}).setdefault(place, []).append(row)
    places = sorted({place for groups in lines.values() for place in groups})
    aside = _ASIDE * (places[-1] - places[0]) if places else 0.0
    for order, (way, groups) in enumerate(lines.items()):
        shift = aside * (order - (len(lines) - 1) / 2)
        _line(axes, list(called).index(way), called[way], sorted(groups.items()), value, shift)
    if len(places) <= _TICKS:
        axes.set_xticks(places)  # points stand beside them
    if by_block:
        whole = [row.accuracy for row in rows if row.whole]
        if whole and value == "accuracy":
            axes.axhline(mean_and_sd(whole)[0], color=GREY, linestyle="-.", label="all tokens")
    axes.grid(axis="y")


def _line(axes: Axes, number: int, label: str, groups: list[tuple[int, list[Row]]], value: str, shift: float) -> None:
    """Runs as points, their means as a line; percent for shares. shift: beside other lines' points."""
    colour, marker = look(number)
    scale = 100 if value == "object_kept" else 1
    known = [
        (place + shift, [scale * getattr(row, value) for row in group if not math.isnan(getattr(row, value))])
        for place, group in groups
    ]
    known = [(place, values) for place, values in known if values]
    if not known:
        return
    axes.plot([place for place, _ in known], [mean_and_sd(values)[0] for _, values in known],
              color=colour, marker=marker, markevery=[], label=readable(label), linewidth=1.4)  # fmt: skip
    for place, values in known:
        axes.plot([place] * len(values), values, marker, color=colour, markersize=3.5, alpha=0.7)
    if value == "faster":
        axes.plot([place + shift for place, _ in groups], [group[0].predicted for _, group in groups], "--",
                  color=colour, linewidth=1)  # fmt: skip
