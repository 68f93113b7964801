"""How much faster whole trainings are: every seed's clock a point, what operations predict a diamond."""

import statistics
from dataclasses import dataclass

from matplotlib.figure import Figure

from ptd_core.paths import readable
from ptd_core.views.style import BLUE, ORANGE, RED, new_figure, styled


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
        axes.plot(one.clock, [place] * len(one.clock), "o", color=BLUE, markersize=4)
        axes.plot([statistics.median(one.clock)] * 2, [place - 0.3, place + 0.3], color=RED)
        axes.plot([one.predicted], [place], "D", color=ORANGE, markerfacecolor="none")
    axes.axvline(1, color="black", linewidth=1)
    names = [readable(f"{one.arm} / {one.control} (n = {len(one.clock)})") for one in found]
    axes.set_yticks(range(len(found)), names)
    axes.invert_yaxis()
    axes.set_xlabel("times faster; points: clock, a seed each\nline: their median; diamond: operations")
    axes.grid(axis="x")
    return figure
