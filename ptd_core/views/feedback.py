"""How class attention changed from epoch to epoch, from the rows of `evaluation.feedback`."""

import math

from matplotlib.figure import Figure

from ptd_core.evaluation import feedback
from ptd_core.evaluation.feedback import Row
from ptd_core.paths import readable
from ptd_core.records.statistics import mean_and_sd
from ptd_core.views.style import GREY, look, new_figure, styled

_STYLES = ("-", "--", ":", "-.")
_PANELS = (
    ("entropy", "entropy of attention\n(1: uniform)", 1),
    ("changed", "kept tokens not kept\none epoch before (%)", 100),
    ("until_end", "kept tokens that the last\nepoch's model drops (%)", 100),
)


@styled
def feedback_figure(rows: list[Row]) -> Figure:
    """Three panels against epochs: concentration, change, and distance from the end. Every seed is a point, means are
    lines; a colour for each way of training, a line's style for each block; grey: a choice by chance."""
    first, seeds = rows[0], sorted({row.seed for row in rows})
    figure = new_figure(
        f"n = {len(seeds)} (seeds {', '.join(map(str, seeds))}), {first.images} test images, "
        f"{first.kept} of {first.tokens} tokens kept · torch {first.torch} · commit {first.commit}",
        (6.4, 7.2),
    )
    axes = figure.subplots(3, 1, sharex=True)
    cells, blocks = (list(dict.fromkeys(getattr(row, name) for row in rows)) for name in ("cell", "block"))
    for (cell, block), epochs in feedback.lines(rows).items():
        colour, marker = look(cells.index(cell))
        width = 3 if cell == cells[0] else 1.2  # one line upon another is seen
        fill = "full" if block == blocks[0] else "none"
        for panel, (name, _, scale) in zip(axes, _PANELS):
            known = {
                epoch: [scale * getattr(row, name) for row in group]
                for epoch, group in sorted(epochs.items())
                if not math.isnan(getattr(group[0], name))
            }
            panel.plot(
                list(known), [mean_and_sd(values)[0] for values in known.values()],
                _STYLES[blocks.index(block) % len(_STYLES)], color=colour, marker=marker, markevery=[], linewidth=width,
                fillstyle=fill,
                label=readable(f"{cell}, block {block}"),
            )  # fmt: skip
            for epoch, values in known.items():
                panel.plot([epoch] * len(values), values, marker, color=colour, markersize=3, fillstyle=fill)
    for panel, (name, label, scale) in zip(axes, _PANELS):
        panel.set_ylabel(label)
        panel.grid(axis="y")
        if name != "entropy":
            panel.axhline(scale * (1 - first.kept / first.tokens), color=GREY, linewidth=1, label="by chance")
    axes[-1].set_xlabel("finished epochs")
    axes[-1].xaxis.get_major_locator().set_params(integer=True)
    handles, labels = axes[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=2, fontsize=7)
    return figure
