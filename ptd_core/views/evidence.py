"""Does it pay? Accuracy against what a whole training costs, beside all tokens for fewer epochs."""

import statistics
from dataclasses import dataclass

from matplotlib.figure import Figure

from ptd_core.paths import readable
from ptd_core.records.statistics import t_interval
from ptd_core.views.style import GREY, look, new_figure, styled


@dataclass(frozen=True)
class Arm:
    """cost: operations of the whole training over those of the control. accuracies: in percent, one a seed.
    all_tokens: whether it drops none and sees whole images, in fewer epochs or as many."""

    name: str
    cost: float
    accuracies: list[float]
    all_tokens: bool


@styled
def pays_figure(arms: list[Arm], stamp: str = "") -> Figure:
    """Means with Student's 95 % intervals, every seed a small point; a line joins the arms with all tokens.

    What saves training time lies to the left; what is worth it lies above the line.
    """
    figure = new_figure(stamp, (7.4, 4.6))
    axes = figure.subplots()
    line = sorted((arm for arm in arms if arm.all_tokens), key=lambda arm: arm.cost)
    means = [statistics.mean(arm.accuracies) for arm in line]
    if line:
        axes.plot([arm.cost for arm in line], means, color=GREY, zorder=1, label="all tokens, by epochs")
    others = [arm for arm in arms if not arm.all_tokens]
    marked = [*((arm, GREY, "o") for arm in line), *((arm, *look(number)) for number, arm in enumerate(others))]
    for arm, colour, marker in marked:
        mean = statistics.mean(arm.accuracies)
        if len(arm.accuracies) > 1:
            low, high = t_interval(arm.accuracies)
            axes.plot([arm.cost] * 2, [low, high], color=colour, linewidth=4, alpha=0.3, zorder=2)
        axes.plot([arm.cost] * len(arm.accuracies), arm.accuracies, ".", color=colour, markersize=3, zorder=3)
        label = None if arm.all_tokens else readable(f"{arm.name} (n = {len(arm.accuracies)})")
        axes.plot([arm.cost], [mean], marker, color=colour, label=label, zorder=4)
        if arm.all_tokens:
            side = {"xytext": (-5, 5), "ha": "right"} if arm is line[-1] else {"xytext": (3, -8)}  # within the frame
            axes.annotate(readable(arm.name), (arm.cost, mean), fontsize=6, textcoords="offset points", **side)
    axes.set_xlabel("operations of the whole training, all tokens in all epochs = 1")
    axes.set_ylabel("test accuracy, last epoch (%)")
    axes.grid()
    if others:
        figure.legend(loc="outside right upper", fontsize=7)
    return figure
