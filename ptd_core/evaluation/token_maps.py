"""What a policy sees and keeps, block by block, as maps over the images. The scores are those of the network itself.

Shapes: B images, S pixels a side, N patch tokens, G tokens a side (G * G = N at first), n those that reach a block.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ptd_core.evaluation.accuracy import evaluating
from ptd_core.evaluation.attention_maps import refuse_unsquare
from ptd_core.saliency import CLASS_ROW, GIVEN, places_mask
from ptd_core.token_drop import Keep, TokenDrop, TokenDropViT
from ptd_core.tokens.vit_parts import embed

COMPARED = (*(score for score in CLASS_ROW if score != "inverse"), "attention_received", "norm", "l1_norm", "distance")


@dataclass(frozen=True)
class TokenMap:
    """What one dropping block sees. On the CPU.

    scores_BGG: of the tokens that reach the block, NaN at the places of others. kept_BGG: bool, those that it keeps.
    reaching, kept: numbers of patch tokens, a token fused of several counted, which has no place on the map.
    """

    block: int
    scores_BGG: Tensor
    kept_BGG: Tensor
    reaching: int
    kept: int


@torch.no_grad()
def token_maps(
    vit: nn.Module,
    policy: TokenDrop,
    keep: Keep | None,
    images: Tensor,
    given_BG: Tensor | None = None,
    batch_size: int = 100,
) -> list[TokenMap]:
    """The map of each dropping block: normalised images (B, 3, S, S), run by the policy in evaluation mode.

    vit: any ViT that TokenDropViT takes. keep: as TokenDropViT takes it; None: all tokens reach each of the blocks.
    given_BG: the score of every patch token (B, N), for a score of `saliency.GIVEN`. Raises ValueError as TokenDropViT
    does, and for images that are not square.
    """
    grid = grid_of(vit, images)
    network, traces = TokenDropViT(vit, policy), []
    with evaluating(network):
        for number, part in enumerate(images.split(batch_size)):
            given = None if given_BG is None else given_BG[number * batch_size :][:batch_size].detach()
            traces.append([])
            network.run_blocks(part, keep, given, traces[-1])
    found = []
    for block, chosen in zip(policy.blocks, zip(*traces)):
        scores = torch.cat([_on_grid(part.place_BN, part.scores_BN, grid) for part in chosen])
        kept = torch.cat([places_mask(part.kept_Bk, grid) for part in chosen])
        reaching, keeps = chosen[0].place_BN.shape[1], chosen[0].kept_Bk.shape[1]
        found.append(TokenMap(block, scores.cpu(), kept.cpu(), reaching, keeps))
    return found


def grid_of(vit: nn.Module, images: Tensor) -> int:
    """G, the patch tokens a side of such images. Raises ValueError for images that are not square."""
    refuse_unsquare(images)
    with torch.no_grad(), evaluating(vit):
        return round((embed(vit, images[:1]).shape[1] - vit.num_prefix_tokens) ** 0.5)


def has_class_token(vit: nn.Module) -> bool:
    """Whether a score can ask the class token of this ViT."""
    return getattr(vit, "cls_token", None) is not None


def comparable_scores(class_token: bool, own: str | None = None, given: bool = False) -> list[str]:
    """Scores to show beside each other, a run's own first: it, and those that look at what the model sees.

    class_token: whether the model has one; without it no score asks for it. own: the run's score, if it has one; one of
    `saliency.GIVEN` is shown only if its values are given.
    """
    scores = [score for score in COMPARED if class_token or score not in CLASS_ROW]
    shown = own is not None and (given or own not in GIVEN)
    return [own, *(score for score in scores if score != own)] if shown else scores


def _on_grid(place_BN: Tensor, value_BN: Tensor, grid: int) -> Tensor:
    """Values at their places, NaN elsewhere: (B, G, G). A token without a place is left out."""
    cells = value_BN.new_full((len(value_BN), grid * grid + 1), torch.nan)
    cells.scatter_(1, place_BN.where(place_BN >= 0, grid * grid), value_BN)
    return cells[:, :-1].unflatten(1, (grid, grid))
