"""What a trained model does with fewer tokens than it was given: accuracy, loss, and the part of the object it sees.

Shapes: B images, S pixels a side, G * G patch tokens.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ptd_core.data.dataset import Split
from ptd_core.evaluation.accuracy import accuracy, evaluating
from ptd_core.machine.randomness import seeded, torch_seed
from ptd_core.machine.ranks import Ranks
from ptd_core.recipe import Recipe
from ptd_core.saliency import object_coverage, places_mask
from ptd_core.token_drop import Keep, TokenDropViT
from ptd_core.tokens.given import Giver, giver_of

GRADIENT_IMAGES = 2000  # of the training images, from which the gradient score is learned

Normalise = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Reduced:
    """A trained model run by a policy. giver: of its score, if the network does not see that itself. grid: G."""

    network: nn.Module
    giver: Giver | None
    grid: int

    @classmethod
    def of(cls, vit: nn.Module, policy: Recipe, train: Split, normalise: Normalise) -> "Reduced":
        """By a recipe's policy. A score that is learned in training is learned from `train`, with these weights.

        Raises ValueError for a policy by which the ViT cannot be run.
        """
        network, sizes, device = policy.token_drop.network(vit, vit), policy.vit, train.device
        looks_at, grid = policy.drop_score_block % sizes.depth, sizes.grid_size
        giver = giver_of(policy.drop_score, vit, looks_at, grid, sizes.stride, device)
        if giver is not None and giver.always:
            _learn(network, giver, train.part(GRADIENT_IMAGES), normalise, policy.batch_size)
        return cls(network, giver, grid)


@dataclass(frozen=True)
class Outcome:
    """accuracy in percent, loss in nats. object_kept: the share of all objects' pixels under the tokens that the last
    dropping block keeps; NaN where nobody knows the objects, or where tokens are merged and none is dropped."""

    accuracy: float
    loss: float
    object_kept: float


def evaluate(
    reduced: Reduced,
    keep: Keep | None,
    split: Split,
    normalise: Normalise,
    *,
    batch_size: int,
    precision: str = "fp32",
    seed: int = 0,
) -> Outcome:
    """The outcome on a split with `keep` (None: all tokens). seed: of what a score or a choice draws."""
    drops = keep is not None and isinstance(reduced.network, TokenDropViT)
    network = _Watched(reduced.network, reduced.grid) if drops else reduced.network
    with seeded(torch_seed(seed, 0, "evaluation")):
        loss, percent = accuracy(
            network, split, normalise,
            batch_size=batch_size, keep=keep, giver=reduced.giver if drops else None, precision=precision,
        )  # fmt: skip
    object_kept = 1.0 if keep is None and split.masks is not None else math.nan
    if drops and split.masks is not None:
        object_kept = object_coverage(torch.cat(network.kept), split.masks.cpu())
    return Outcome(percent, loss, object_kept)


class _Watched(nn.Module):
    """A TokenDropViT that remembers which patch tokens its last dropping block kept: bool (B, G, G) for each batch."""

    def __init__(self, network: TokenDropViT, grid: int):
        super().__init__()
        self.network, self.grid = network, grid
        self.kept: list[Tensor] = []

    def forward(self, images: Tensor, keep: Keep, given_BG: Tensor | None = None) -> Tensor:
        vit, trace = self.network.vit, []
        x_BTE, _ = self.network.run_blocks(images, keep, given_BG, trace)
        self.kept.append(places_mask(trace[-1].kept_Bk, self.grid).cpu())
        return vit.forward_head(vit.norm(x_BTE))


def _learn(network: TokenDropViT, giver: Giver, train: Split, normalise: Normalise, batch_size: int) -> None:
    """Show the giver the gradients of its scores on whole training images; the weights stay."""
    wanted = {parameter: parameter.requires_grad for parameter in network.parameters()}
    network.requires_grad_(False)
    try:
        with evaluating(network):
            for batch in train.batches(batch_size):
                images = normalise(batch.images.float() / 255)
                scores = giver(images)
                F.cross_entropy(network(images, None, scores).float(), batch.labels).backward()
                giver.learn(scores.grad, Ranks())
    finally:
        for parameter, before in wanted.items():
            parameter.requires_grad_(before)
