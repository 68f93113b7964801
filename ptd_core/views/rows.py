"""Figures with one row a thing: every seed a point, a line across at their middle, the name at the side."""

from collections.abc import Sequence

from matplotlib.axes import Axes

from ptd_core.paths import readable
from ptd_core.views.style import RED


def seed_row(
    axes: Axes, place: int, values: Sequence[float], middle: float, below: float = 0.0, **style: object
) -> None:
    """One row of points, which `style` is for, and its line; `place` counts rows from the top, from 0. below: by how
    much of a row the points stand lower."""
    axes.plot(values, [place + below] * len(values), "o", **style)
    axes.plot([middle] * 2, [place - 0.3, place + 0.3], color=RED)


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """The rows' names, the first at the top."""
    axes.set_yticks(range(len(names)), [readable(name) for name in names])
    axes.invert_yaxis()
    axes.grid(axis="x")
