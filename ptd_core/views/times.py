"""How much faster whole trainings are: every seed's clock a point, what operations predict a diamond."""

import statistics
from dataclasses import dataclass

from matplotlib.figure import Figure

from ptd_core.views.rows import name_rows, seed_row
from ptd_core.views.style import BLUE, ORANGE, new_figure, styled


@dataclass(frozen=True)
class Times:
    """clock: the control's seconds of training over the arm's, one a seed. predicted: the same of their operations."""

    arm: str
    control: str
    clock: tuple[float, ...]
    predicted: float


@styled
def times_figure(found: list[Times], stamp: str = "") -> Figure:
    """Right of 1 an arm trains faster than its control; the red line is the median."""
    figure = new_figure(stamp, (7.4, 0.42 * len(found) + 1.6))
    axes = figure.subplots()
    for place, one in enumerate(found):
        seed_row(axes, place, one.clock, statistics.median(one.clock), color=BLUE, markersize=4)
        axes.plot([one.predicted], [place], "D", color=ORANGE, markerfacecolor="none")
    axes.axvline(1, color="black", linewidth=1)
    name_rows(axes, [f"{one.arm} / {one.control} (n = {len(one.clock)})" for one in found])
    axes.set_xlabel("times faster; points: clock, a seed each\nline: their median; diamond: operations")
    return figure
