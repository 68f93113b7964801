"""How tokens are chosen on an image: by several scores, by several choices, and how much of the objects each keeps.

Shapes: B images, S pixels a side, G tokens a side.
"""

import math

from matplotlib.figure import Figure
from torch import Tensor

from ptd_core.data.dataset import Split
from ptd_core.saliency import kept_mask, object_coverage
from ptd_core.views.dropping import score_name
from ptd_core.views.maps import show_kept, show_saliency
from ptd_core.views.style import GREY, look, new_figure, styled


@styled
def scores_figure(split: Split, scores_of: dict[str, Tensor], keep: int) -> Figure:
    """The first image's scores, each map on a scale of its own, and the `keep` tokens that each score keeps.

    scores_of: for each score (B, G, G).
    """
    columns = 5
    rows = -(-len(scores_of) // columns)
    figure = new_figure(size=(1.6 * columns, 2.9 * rows))
    panels = figure.subplots(2 * rows, columns, squeeze=False)
    for number, (name, scores_BGG) in enumerate(scores_of.items()):
        row, column = 2 * (number // columns), number % columns
        scores_GG = scores_BGG[0]
        show_saliency(panels[row, column], scores_GG, scores_GG.max().item(), scores_GG.min().item())
        panels[row, column].set_title(score_name(name), fontsize=8)
        show_kept(panels[row + 1, column], split, 0, kept_mask(scores_BGG, keep)[0])
    for number in range(len(scores_of), rows * columns):
        for row in (2 * (number // columns), 2 * (number // columns) + 1):
            panels[row, number % columns].axis("off")
    for row in range(rows):
        panels[2 * row, 0].set_ylabel("score", fontsize=8)
        panels[2 * row + 1, 0].set_ylabel(f"{keep} kept", fontsize=8)
    return figure


@styled
def choices_figure(split: Split, kept_of: dict[str, Tensor]) -> Figure:
    """The first image with the tokens that each choice keeps; kept_of: for each bool (B, G, G)."""
    figure = new_figure(size=(1.5 * len(kept_of), 1.9))
    for axes, (name, kept_BGG) in zip(figure.subplots(1, len(kept_of), squeeze=False)[0], kept_of.items()):
        show_kept(axes, split, 0, kept_BGG[0])
        axes.set_title(name, fontsize=8)
    return figure


@styled
def shares_figure(scores_of: dict[str, Tensor], objects_BSS: Tensor, stamp: str = "") -> Figure:
    """The share of the objects' pixels under kept tokens against the share of tokens kept, a line for each score.

    scores_of: for each score (B, G, G).
    """
    figure = new_figure(stamp, (7.4, 4.2))
    axes = figure.subplots()
    for number, (name, scores_BGG) in enumerate(scores_of.items()):
        tokens = scores_BGG[0].numel()
        keeps = sorted({max(1, round(tokens * share / 10)) for share in range(1, 11)})
        shares = [100 * object_coverage(kept_mask(scores_BGG, keep), objects_BSS) for keep in keeps]
        colour, marker = look(number)
        axes.plot([100 * keep / tokens for keep in keeps], shares, color=colour, marker=marker, markersize=3.5,
                  label=score_name(name))  # fmt: skip
    axes.plot([0, 100], [0, 100], color=GREY, linestyle=":", label="chance")
    axes.set(xlabel="patch tokens kept (%)", ylabel="object pixels under kept tokens (%)")
    axes.grid()
    figure.legend(loc="outside right")
    return figure


@styled
def points_figure(points: dict[str, tuple[float, float, float]], chance: float, stamp: str = "") -> Figure:
    """Trained runs: test accuracy against the object's share under kept tokens, if it is known, and against speed.

    points: for each run test accuracy (%), share of the object (%; NaN: nobody knows) and times faster.
    """
    known = not all(math.isnan(share) for _, share, _ in points.values())
    figure = new_figure(stamp, (7.4, 3.2) if known else (5.0, 3.2))
    *left, right = figure.subplots(1, 1 + known, sharey=True, squeeze=False)[0]
    for number, (name, (accuracy, share, faster)) in enumerate(points.items()):
        colour, marker = look(number)
        for axes in left:
            axes.plot(share, accuracy, marker, color=colour)
        right.plot(faster, accuracy, marker, color=colour, label=score_name(name))
    for axes in (*left, right):
        axes.axhline(chance, color=GREY, linestyle=":", label="chance" if axes is right else None)
        axes.grid()
    for axes in left:
        axes.set_xlabel("object pixels under kept tokens (%)")
    (*left, right)[0].set_ylabel("test accuracy (%)")
    right.set_xlabel("training, times faster (predicted)")
    figure.legend(loc="outside right")
    return figure
