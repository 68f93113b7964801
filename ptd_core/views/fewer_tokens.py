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


@styled
def fewer_tokens_figure(rows: list[Row]) -> Figure:
    """Accuracy, speed and the object's share against kept tokens: each run a point, each way's mean a line.

    A panel is left out where nothing is known. Where only one number of tokens is fewer than all, blocks take their
    place on the axis.
    """
    blocks = {row.blocks for row in rows if row.blocks.isdecimal()}
    by_block = len(blocks) > 1 and len({row.kept for row in rows if not row.whole}) == 1
    panels = [
        ("accuracy", "test accuracy (%)"),
        ("object_kept", "object under kept tokens (%)"),
        ("faster", "times faster (dashed: predicted)"),
    ]
    panels = [panel for panel in panels if any(not math.isnan(getattr(row, panel[0])) for row in rows)]
    first = rows[0]
    seeds = sorted({row.seed for row in rows})
    figure = new_figure(
        f"n = {len(seeds)} (seeds {', '.join(map(str, seeds))}), {first.images} test images · {first.device}, "
        f"{first.precision} · torch {first.torch} · commit {first.commit}",
        (6.4, 2.6 * len(panels) + 0.16 * len(table.lines(rows)) + 0.4),
    )  # fmt: skip
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for panel, (value, label) in zip(axes, panels):
        (_by_block if by_block else _by_kept)(panel, rows, value)
        panel.set_ylabel(label)
        panel.grid(axis="y")
    axes[-1].set_xlabel("block that drops tokens" if by_block else "kept patch tokens")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=2, fontsize=7)
    return figure


def _by_kept(axes: Axes, rows: list[Row], value: str) -> None:
    called = table.names(rows)
    for number, (line, groups) in enumerate(table.lines(rows).items()):
        _line(axes, number, called[line], [(group[0].kept, group) for group in groups], value)


def _by_block(axes: Axes, rows: list[Row], value: str) -> None:
    """One line for each way of evaluating that differs in its block only; all tokens are a line across."""
    lines: dict[tuple, dict[int, list[Row]]] = {}
    for row in rows:
        if not row.whole:
            of_block = lines.setdefault((row.cell, *row.policy[:-1]), {})
            of_block.setdefault(int(row.blocks) if row.blocks.isdecimal() else -1, []).append(row)
    called = table.names([dataclasses.replace(row, blocks="") for row in rows])
    for number, ((cell, *policy), of_block) in enumerate(lines.items()):
        _line(axes, number, called[cell, (*policy, "")], sorted(of_block.items()), value)
    axes.set_xticks(sorted({int(row.blocks) for row in rows if row.blocks.isdecimal()}))
    whole = [getattr(row, value) for row in rows if row.whole]
    if whole and value == "accuracy":
        axes.axhline(mean_and_sd(whole)[0], color=GREY, linestyle="-.", label="all tokens")


def _line(axes: Axes, number: int, label: str, groups: list[tuple[int, list[Row]]], value: str) -> None:
    """The runs at each place as points, their means as a line; percent for shares."""
    colour, marker = look(number)
    scale = 100 if value == "object_kept" else 1
    known = [
        (place, [scale * getattr(row, value) for row in group if not math.isnan(getattr(row, value))])
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
        axes.plot([place for place, _ in groups], [group[0].predicted for _, group in groups], "--", color=colour,
                  linewidth=1)  # fmt: skip
