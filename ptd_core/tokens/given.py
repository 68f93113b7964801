"""Scores that a network cannot see for itself: who gives them in training, one class each.

A giver is called before a forward pass in which tokens are dropped, and looks at the gradient after the backward pass.
Shapes: B images of a batch, S pixels a side, G patch tokens of an image, g of its sides.
"""

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ptd_core.machine.ranks import Ranks
from ptd_core.tokens.vit_parts import class_attention_row

DECAY = 0.99  # of the running mean of gradient x activation, a step
UNSEEN = 1e30  # of a place that never had a gradient: before all others


class Giver(Protocol):
    """Gives a training step the scores of all patch tokens. always: also where no token is dropped, to learn."""

    always: bool

    def __call__(self, images: Tensor, masks: Tensor | None = None) -> Tensor:
        """Normalised images (B, 3, S, S), their objects' masks bool (B, S, S) -> scores (B, g * g)."""

    def learn(self, gradient: Tensor, ranks: Ranks) -> None:
        """Look at the gradient (B, g * g) of what was given for a batch, after the backward pass."""

    def state_dict(self) -> dict[str, Tensor]:
        """What a resumed run needs."""

    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...


class _Stateless:
    always = False

    def learn(self, gradient: Tensor, ranks: Ranks) -> None:
        """There is nothing to learn."""

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """There is no state."""


class Oracle(_Stateless):
    """The object's share of each token's pixels, from its true mask: what no method can know."""

    def __init__(self, stride: int):
        self.stride = stride

    def __call__(self, images: Tensor, masks: Tensor) -> Tensor:
        grid = images.shape[-1] // self.stride
        return F.adaptive_avg_pool2d(masks.float().unsqueeze(1), grid).flatten(1)


class AveragedAttention(_Stateless):
    """Class attention of the moving-average model, with all tokens, mean over heads; in one block, maybe a late one.

    Costs a forward pass of that model up to the block.
    """

    def __init__(self, averaged: nn.Module, block: int):
        self.averaged, self.block = averaged, block

    @torch.no_grad()
    def __call__(self, images: Tensor, masks: Tensor | None = None) -> Tensor:
        rows_BHT = class_attention_row(self.averaged, images, self.block)
        return rows_BHT.mean(dim=1)[:, self.averaged.num_prefix_tokens :].float()


class Gradient:
    """|gradient x activation| of each place, where tokens come to the first block: a running mean over batches.

    One statistic for all images: where in the image tokens have mattered to the loss. A place learns from those images
    whose token there had a gradient; one that never had comes first.
    """

    always = True

    def __init__(self, grid: int, stride: int, device: torch.device):
        self.stride = stride
        self.mean_gg = torch.full((grid, grid), UNSEEN, device=device)

    def __call__(self, images: Tensor, masks: Tensor | None = None) -> Tensor:
        return _regrid(self.mean_gg, images.shape[-1] // self.stride).flatten().repeat(len(images), 1).requires_grad_()

    def learn(self, gradient: Tensor, ranks: Ranks) -> None:
        found_BG = gradient.abs()
        sums = torch.stack([found_BG.sum(dim=0), (found_BG > 0).sum(dim=0).to(found_BG)])
        total_G, count_G = ranks.sum(sums).unbind()
        grid = math.isqrt(len(total_G))
        new_gg, seen_gg = (_regrid(t.view(grid, grid), len(self.mean_gg)) for t in (total_G / count_G, count_G > 0))
        old_gg = torch.where(self.mean_gg == UNSEEN, new_gg, self.mean_gg)
        self.mean_gg = torch.where(seen_gg, DECAY * old_gg + (1 - DECAY) * new_gg, self.mean_gg)

    def state_dict(self) -> dict[str, Tensor]:
        return {"mean": self.mean_gg}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.mean_gg = state["mean"].to(self.mean_gg.device)


def giver_of(score: str, averaged: nn.Module, block: int, grid: int, stride: int, device: torch.device) -> Giver | None:
    """Who gives a score; None for one that a network sees for itself.

    averaged, block: the moving-average model and the block where its class attention is taken. grid: patch tokens a
    side of the largest images. stride: pixels a side of each.
    """
    if score == "oracle":
        return Oracle(stride)
    if score == "averaged_attention":
        return AveragedAttention(averaged, block)
    return Gradient(grid, stride, device) if score == "gradient" else None


def _regrid(values_gg: Tensor, grid: int) -> Tensor:
    """The value at the middle of each cell of another grid."""
    index = (torch.arange(grid, device=values_gg.device) * 2 + 1) * len(values_gg) // (2 * grid)
    return values_gg[index][:, index]
