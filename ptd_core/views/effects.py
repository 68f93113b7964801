"""Arms against their controls: every seed's difference a point, the mean a line, the interval a bar."""

import math

from matplotlib.figure import Figure

from ptd_core.paths import readable
from ptd_core.records.effects import NO_LOSS, Effect
from ptd_core.views.style import BLUE, GREY, ORANGE, RED, new_figure, styled

_COLOURS = {"better": BLUE, "no loss": BLUE, "no difference seen": GREY}


@styled
def effects_figure(effects: list[Effect], stamp: str = "") -> Figure:
    """Differences in percentage points, seed by seed, with Student's 95 % intervals; dashed: the limit of "no loss"."""
    figure = new_figure(stamp, (7.4, 0.42 * len(effects) + 1.3))
    axes = figure.subplots()
    for place, one in enumerate(effects):
        colour = _COLOURS.get(one.verdict, ORANGE)
        if not math.isnan(one.t_low):
            axes.plot([one.t_low, one.t_high], [place, place], color=colour, linewidth=5, alpha=0.35)
        axes.plot(one.differences, [place] * len(one.differences), "o", color=colour, markersize=4)
        axes.plot([one.mean] * 2, [place - 0.3, place + 0.3], color=RED)
    axes.axvline(0, color="black", linewidth=1)
    axes.axvline(NO_LOSS, color="black", linewidth=1, linestyle="--")
    names = [readable(f"{one.arm} - {one.control} (n = {len(one.seeds)})") for one in effects]
    axes.set_yticks(range(len(effects)), names)
    axes.invert_yaxis()
    axes.set_xlabel("difference in test accuracy, last epoch (points)")
    axes.grid(axis="x")
    return figure
