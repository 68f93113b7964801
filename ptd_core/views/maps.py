"""Figures of saliency: the scores of tokens, which of them are kept, and how well that agrees with where the object is.

Shapes: B images, G tokens a side (G * G = N patch tokens), S pixels a side.
"""

import textwrap

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ptd_core.data.dataset import Dataset, Split
from ptd_core.evaluation.token_maps import TokenMap
from ptd_core.paths import readable
from ptd_core.saliency import kept_mask, object_coverage
from ptd_core.views.dropping import ATTENTIONS, score_name, score_unit
from ptd_core.views.style import BLUE, RED, new_figure, styled

DASHES = ("-", "--", "-.", (0, (5, 1, 1, 1, 1, 1)))  # of the first, second, ... block that drops


@styled
def sample_figure(dataset: Dataset, split: Split, count: int = 12, stamp: str = "") -> Figure:
    """A few images of a split, of as many classes as can be, with their class names."""
    split = split.part(count)
    figure = new_figure(stamp, (7.4, 1.5 * -(-count // 6)))
    places = figure.subplots(-(-count // 6), 6).flat
    for axes, image, label in zip(places, split.images, split.labels):
        _show(axes, image)
        axes.set_title(readable(dataset.classes[label]), fontsize=8)
    for axes in places[len(split) :]:  # where there are fewer images
        axes.axis("off")
    return figure


@styled
def saliency_figure(
    split: Split, maps: list[TokenMap], score: str, titles: list[str], caption: str = "", stamp: str = ""
) -> Figure:
    """A row of images and, for each dropping block, a row of its scores on one scale and one of images with all tokens
    darkened that it does not keep. Grey: no token reaches the block.

    split: the B images (and masks, whose outline is then drawn). score: what the maps show, a key of
    `saliency.SCORES`. caption: a sentence above them.
    """
    count, rows = len(split), 1 + 2 * len(maps)
    figure = new_figure(stamp, (max(4.2, 1.25 * count + 0.6), 1.35 * rows + 0.35))
    if caption:
        figure.suptitle("\n".join(textwrap.wrap(readable(caption), max(50, 16 * count))), fontsize=8)
    grid = figure.subplots(rows, count, squeeze=False)
    for column in range(count):
        _show(grid[0, column], split.images[column])
        grid[0, column].set_title(readable(titles[column]), fontsize=7)
    grid[0, 0].set_ylabel("image", fontsize=8)
    for number, one in enumerate(maps):
        scored, kept = grid[1 + 2 * number], grid[2 + 2 * number]
        lowest, highest = _scale(one.scores_BGG, score)
        for column in range(count):
            drawn = show_saliency(scored[column], one.scores_BGG[column], highest, lowest)
            show_kept(kept[column], split, column, one.kept_BGG[column])
        scored[0].set_ylabel(f"{score_name(score)}\nblock {one.block}", fontsize=8)
        kept[0].set_ylabel(f"{one.kept} of {one.reaching} kept", fontsize=8)
        bar = figure.colorbar(drawn, ax=list(scored), fraction=0.02, label=score_unit(score))
        bar.ax.tick_params(labelsize=7)
    return figure


def show_saliency(axes, saliency_GG: Tensor, highest: float, lowest: float = 0.0):
    """One map on a scale from `lowest` to `highest`, NaN grey; returns the picture, for a colour bar."""
    _bare(axes)
    axes.set_facecolor("#dddddd")
    return axes.imshow(saliency_GG.numpy(), vmin=lowest, vmax=highest)


def _scale(scores_BGG: Tensor, score: str) -> tuple[float, float]:
    """Where the colours begin and end: attention begins at 0."""
    known = scores_BGG[~scores_BGG.isnan()]
    return 0.0 if score in ATTENTIONS else known.min().item(), known.max().item()


def show_kept(axes, split: Split, number: int, kept_GG: Tensor) -> None:
    """One image with its dropped tokens darkened and, where it is known, the object outlined."""
    image = split.images[number].cpu()
    pixels = image.shape[-1] // kept_GG.shape[-1]
    kept = kept_GG.repeat_interleave(pixels, 0).repeat_interleave(pixels, 1)
    _show(axes, (image * torch.where(kept, 1.0, 0.25)).byte())
    if split.masks is not None:
        axes.contour(split.masks[number].cpu().float().numpy(), levels=[0.5], colors=RED, linewidths=1)


@styled
def coverage_figure(
    scores_of: list[Tensor], score: str, objects_BSS: Tensor, dropping: tuple[int, ...], stamp: str = ""
) -> Figure:
    """Object coverage over the share of tokens kept, by the top scores of every block with all tokens, beside chance.

    scores_of: for each block (B, G, G). dropping: the blocks that drop tokens, which are marked.
    """
    figure = new_figure(stamp)
    axes = figure.subplots()
    tokens = scores_of[0][0].numel()
    keeps = sorted({max(1, round(tokens * share / 20)) for share in range(1, 21)})
    for block, saliency in enumerate(scores_of):
        shade = str(0.75 * block / max(1, len(scores_of) - 1))
        covered = [100 * object_coverage(kept_mask(saliency, keep), objects_BSS) for keep in keeps]
        colour = BLUE if block in dropping else shade
        label = f"block {block}" + (" (drops tokens)" if block in dropping else "")
        style = DASHES[dropping.index(block) % len(DASHES)] if block in dropping else "-"
        axes.plot([100 * keep / tokens for keep in keeps], covered, color=colour, linestyle=style, label=label)
    axes.plot([0, 100], [0, 100], color=RED, linestyle=":", label="random tokens")
    axes.set(xlabel=f"patch tokens kept (%), by {score_name(score)}", ylabel="object pixels under kept tokens (%)")
    axes.grid()
    axes.legend()
    return figure


def _show(axes, image_3SS: Tensor) -> None:
    _bare(axes)
    axes.imshow(image_3SS.cpu().permute(1, 2, 0).numpy())


def _bare(axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
