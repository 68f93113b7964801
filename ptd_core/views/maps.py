"""Saliency maps of a trained model: where the class token looks, which tokens a drop ratio keeps, and how well that
agrees with where the object is.

Shapes: B images, H heads, G tokens a side (G * G = N patch tokens), S pixels a side.
"""

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ptd_core.data.dataset import Dataset, Split
from ptd_core.model import HybridViT
from ptd_core.saliency import kept_tokens
from ptd_core.views.style import BLUE, RED, new_figure, styled


@torch.no_grad()
def attention_maps(model: HybridViT, images: Tensor, block: int) -> Tensor:
    """The class token's attention to each patch token, per head: normalised images (B, 3, S, S) -> (B, H, G, G)."""
    was_training = model.training
    model.eval()
    rows = model.class_attention(images, block)[:, :, 1:]
    model.train(was_training)
    return rows.unflatten(2, (model.grid_size, model.grid_size)).cpu()


def kept_mask(saliency_BGG: Tensor, keep: int) -> Tensor:
    """Which patch tokens a training step would keep: saliency (B, G, G) -> bool (B, G, G) with `keep` true each."""
    flat = saliency_BGG.flatten(1)
    mask = torch.zeros_like(flat, dtype=torch.bool)
    mask.scatter_(1, kept_tokens(flat, keep)[:, 1:] - 1, True)
    return mask.view_as(saliency_BGG)


def object_coverage(kept_BGG: Tensor, objects_BSS: Tensor) -> float:
    """The share of all object pixels (B, S, S) that lie under kept tokens; random tokens would score about k / N."""
    pixels = objects_BSS.shape[-1] // kept_BGG.shape[-1]
    kept_BSS = kept_BGG.repeat_interleave(pixels, 1).repeat_interleave(pixels, 2)
    return (kept_BSS & objects_BSS).sum().item() / objects_BSS.sum().item()


def first_images(split: Split, count: int) -> Split:
    """The first `count` images of a split, or all of them if there are fewer."""
    return Split(split.images[:count], split.labels[:count], None if split.masks is None else split.masks[:count])


@styled
def sample_figure(dataset: Dataset, split: Split, count: int = 12, stamp: str = "") -> Figure:
    """The first images of a split with their class names."""
    figure = new_figure(stamp, (7.4, 1.5 * -(-count // 6)))
    for axes, image, label in zip(figure.subplots(-(-count // 6), 6).flat, split.images, split.labels):
        _show(axes, image)
        axes.set_title(dataset.classes[label], fontsize=8)
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
        grid[0, column].set_title(titles[column], fontsize=7)
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
def coverage_figure(model: HybridViT, images: Tensor, objects_BSS: Tensor, stamp: str = "") -> Figure:
    """Object coverage over the share of tokens kept, for the saliency of every block, beside chance."""
    figure = new_figure(stamp)
    axes = figure.subplots()
    tokens = model.patch_tokens
    keeps = sorted({max(1, round(tokens * share / 20)) for share in range(1, 21)})
    shades = [str(0.75 * number / max(1, len(model.blocks) - 1)) for number in range(len(model.blocks))]
    for block, shade in enumerate(shades):
        saliency = attention_maps(model, images, block).mean(1)
        covered = [100 * object_coverage(kept_mask(saliency, keep), objects_BSS) for keep in keeps]
        colour = BLUE if block == model.drop_block else shade
        label = f"block {block}" + (" (drops tokens)" if block == model.drop_block else "")
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
