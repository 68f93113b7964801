"""How figures look: the book's style, its colours, and the way that a figure is saved."""

import io
from pathlib import Path

import matplotlib
from matplotlib import colormaps
from matplotlib.figure import Figure

from ptd_core.paths import readable
from ptd_core.records.files import write_atomically

# Okabe and Ito's palette: distinct for colour-blind readers and in grey print.
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#999999"
# Of many lines in one picture, in their order, see `look`.
_COLOURS = (BLUE, ORANGE, GREEN, RED, *(colormaps["tab10"](place) for place in (4, 5, 6, 8)), "black", "#56B4E9")
_MARKERS = "osD^v<>P*X"
SIZE = (6.4, 3.8)  # inches: the width of a notebook's text


styled = matplotlib.rc_context(fname=Path(__file__).with_name("book.mplstyle"))  # decorates what makes a figure


def look(number: int) -> tuple[object, str]:
    """Colour and marker of a picture's line number `number`, counted from 0; the first hundred look all different."""
    rounds, place = divmod(number, len(_COLOURS))
    return _COLOURS[place], _MARKERS[(place + rounds) % len(_MARKERS)]


def new_figure(stamp: str = "", size: tuple[float, float] = SIZE) -> Figure:
    """An empty figure with its origin at the foot."""
    figure = Figure(figsize=size)
    if stamp:
        figure.supxlabel(readable(stamp), fontsize=7, color="#555555", x=0.01, ha="left")
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """A figure as PNG. Raises OutputError if it cannot be written; an older one is then still there."""
    content = io.BytesIO()
    figure.savefig(content, format="png")
    write_atomically(path, content.getvalue())
