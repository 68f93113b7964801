"""Arms against their controls: every seed's difference a point, the mean a line, the interval a bar."""

import math

from matplotlib.figure import Figure

from ptd_core.records.effects import NO_LOSS, Effect
from ptd_core.views.rows import name_rows, seed_row
from ptd_core.views.style import BLUE, GREY, ORANGE, new_figure, styled

_COLOURS = {"better": BLUE, "no difference seen, no loss": BLUE, "no difference seen": GREY}


@styled
def effects_figure(effects: list[Effect], stamp: str = "") -> Figure:
    """Differences in percentage points, seed by seed, with Student's 95 % intervals; dashed: the limit of "no loss"."""
    figure = new_figure(stamp, (7.4, 0.42 * len(effects) + 1.3))
    axes = figure.subplots()
    for place, one in enumerate(effects):
        colour = _COLOURS.get(one.verdict, ORANGE)
        if not math.isnan(one.t_low):
            axes.plot([one.t_low, one.t_high], [place, place], color=colour, linewidth=5, alpha=0.35)
        seed_row(axes, place, one.differences, one.mean, color=colour, markersize=4)
    axes.axvline(0, color="black", linewidth=1)
    axes.axvline(NO_LOSS, color="black", linewidth=1, linestyle="--")
    name_rows(axes, [f"{one.arm} - {one.control} (n = {len(one.seeds)})" for one in effects])
    axes.set_xlabel(f'difference in test accuracy, last epoch (points)\ndashed: {NO_LOSS}, the limit of "no loss"')
    return figure
