"""Arms against their controls: every seed's difference a point, the mean a line, the interval a bar."""

import math
from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ptd_core.records.cells import Cell
from ptd_core.records.effects import NO_LOSS, Effect
from ptd_core.views.comparison import where_run
from ptd_core.views.rows import name_rows, seed_row
from ptd_core.views.style import BLUE, GREEN, GREY, ORANGE, RED, new_figure, styled

_UNKNOWN = "too few seeds"
_COLOURS = {
    "better": BLUE,
    "no difference seen, no loss": GREEN,
    "no difference seen": GREY,
    "worse": ORANGE,
    _UNKNOWN: "black",
}
_BELOW = 0.22  # rows: points do not hide their bar


@styled
def effects_figure(effects: list[Effect], cells: list[Cell], name: Callable[[str], str] = str) -> Figure:
    """Differences in percentage points, seed by seed, with Student's 95 % intervals; dashed: the limit of "no loss".

    Controls that trained for another number of epochs have a panel of their own, as such differences are of another
    size. cells: of both, at least. name: what to call a cell.
    """
    epochs = {cell.name: cell.runs[0].epochs for cell in cells}
    panels: dict[bool, list[Effect]] = {}
    for one in effects:
        panels.setdefault(epochs[one.arm] == epochs[one.control], []).append(one)
    panels = dict(sorted(panels.items(), reverse=True))  # of as many epochs first
    figure = new_figure(where_run(cells), (7.4, 0.38 * len(effects) + 0.5 * len(panels) + 1.2))
    heights = [len(panel) for panel in panels.values()]
    all_axes = figure.subplots(len(panels), 1, height_ratios=heights, squeeze=False)[:, 0]
    for axes, (alike, panel) in zip(all_axes, panels.items()):
        _panel(axes, panel, name)
        if len(panels) > 1:
            axes.set_title(f"controls with {'as many' if alike else 'other numbers of'} epochs", fontsize=8, loc="left")
        if alike:
            axes.axvline(
                NO_LOSS, color="black", linewidth=1, linestyle="--", label=f'{NO_LOSS}, the limit of "no loss"'
            )
    all_axes[-1].set_xlabel("test accuracy in the last epoch, arm - control (points)")
    seen = {_said(one) for one in effects}
    handles = [
        Line2D([], [], color=colour, marker="o", label=said) for said, colour in _COLOURS.items() if said in seen
    ]
    handles.append(Line2D([], [], color=RED, label="mean"))
    handles += all_axes[0].get_legend_handles_labels()[0]
    figure.legend(handles=handles, loc="outside upper left", ncols=3, fontsize=7)
    return figure


def _panel(axes: Axes, effects: list[Effect], name: Callable[[str], str]) -> None:
    for place, one in enumerate(effects):
        colour = _COLOURS[_said(one)]
        if not math.isnan(one.t_low):
            axes.plot([one.t_low, one.t_high], [place, place], color=colour, linewidth=5, alpha=0.35)
        seed_row(axes, place, one.differences, one.mean, _BELOW, color=colour, markersize=3)
    axes.axvline(0, color="black", linewidth=1)
    name_rows(axes, [f"{name(one.arm)} - {name(one.control)} (n = {len(one.seeds)})" for one in effects])


def _said(one: Effect) -> str:
    """Which of _COLOURS."""
    return next((said for said in _COLOURS if one.verdict == said or one.verdict.startswith(f"{said},")), _UNKNOWN)
