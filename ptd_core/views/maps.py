"""Figures of saliency: where the class token looks, which tokens a drop ratio keeps, and how well that agrees with
where the object is.

Shapes: B images, H heads, G tokens a side (G * G = N patch tokens), S pixels a side.
"""

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from ptd_core.data.dataset import Dataset, Split
from ptd_core.evaluation.attention_maps import attention_maps
from ptd_core.paths import readable
from ptd_core.saliency import kept_mask, object_coverage
from ptd_core.views.style import BLUE, RED, new_figure, styled


@styled
def sample_figure(dataset: Dataset, split: Split, count: int = 12, stamp: str = "") -> Figure:
    """A few images of a split, of as many classes as can be, with their class names."""
    split = split.part(count)
    figure = new_figure(stamp, (7.4, 1.5 * -(-count // 6)))
    for axes, image, label in zip(figure.subplots(-(-count // 6), 6).flat, split.images, split.labels):
        _show(axes, image)
        axes.set_title(readable(dataset.classes[label]), fontsize=8)
    return figure


@styled
def saliency_figure(
    split: Split,
    saliency_BGG: Tensor,
    keep: int,
    titles: list[str],
    stamp: str = "",
) -> Figure:
    """Three rows: images, saliency maps on one scale, and images with the dropped tokens darkened.

    split: the B images (and masks, whose outline is then drawn); saliency_BGG: their maps; keep: patch tokens kept.
    """
    count = len(saliency_BGG)
    figure = new_figure(stamp, (1.25 * count + 0.6, 4.2))
    grid = figure.subplots(3, count, squeeze=False)
    highest = saliency_BGG.max().item()
    kept = kept_mask(saliency_BGG, keep)
    for column in range(count):
        _show(grid[0, column], split.images[column])
        grid[0, column].set_title(readable(titles[column]), fontsize=7)
        drawn = show_saliency(grid[1, column], saliency_BGG[column], highest)
        show_kept(grid[2, column], split, column, kept[column])
    tokens = saliency_BGG[0].numel()
    for axes, label in zip(grid[:, 0], ("image", "saliency", f"{keep} of {tokens} kept")):
        axes.set_ylabel(label, fontsize=8)
    figure.colorbar(drawn, ax=list(grid[1]), fraction=0.02, label="attention").ax.tick_params(labelsize=7)
    return figure


def show_saliency(axes, saliency_GG: Tensor, highest: float):
    """One map on a scale from 0 to `highest`; returns the picture, for a colour bar."""
    _bare(axes)
    return axes.imshow(saliency_GG.numpy(), vmin=0, vmax=highest)


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
    vit: nn.Module, images: Tensor, objects_BSS: Tensor, dropping: tuple[int, ...], stamp: str = ""
) -> Figure:
    """Object coverage over the share of tokens kept, for the saliency of every block, beside chance.

    dropping: the blocks that drop tokens, which are marked.
    """
    figure = new_figure(stamp)
    axes = figure.subplots()
    saliency_of = [attention_maps(vit, images, block).mean(1) for block in range(len(vit.blocks))]
    tokens = saliency_of[0][0].numel()
    keeps = sorted({max(1, round(tokens * share / 20)) for share in range(1, 21)})
    for block, saliency in enumerate(saliency_of):
        shade = str(0.75 * block / max(1, len(saliency_of) - 1))
        covered = [100 * object_coverage(kept_mask(saliency, keep), objects_BSS) for keep in keeps]
        colour = BLUE if block in dropping else shade
        label = f"block {block}" + (" (drops tokens)" if block in dropping else "")
        axes.plot([100 * keep / tokens for keep in keeps], covered, color=colour, label=label)
    axes.plot([0, 100], [0, 100], color=RED, linestyle=":", label="random tokens")
    axes.set(xlabel="patch tokens kept (%)", ylabel="object pixels under kept tokens (%)")
    axes.grid()
    axes.legend()
    return figure


def _show(axes, image_3SS: Tensor) -> None:
    _bare(axes)
    axes.imshow(image_3SS.cpu().permute(1, 2, 0).numpy())


def _bare(axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
