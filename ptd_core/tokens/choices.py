"""Choices: which tokens a block keeps, given their scores. Pure functions; B batch, N patch tokens, E embedding.

Each takes scores (B, N), the number to keep and the patch tokens (B, N, E); it returns values (B, N) whose `keep`
largest are the chosen tokens.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ptd_core.saliency import cosines, directions, gather_tokens

Choice = Callable[[Tensor, int, Tensor], Tensor]

ROUNDS = 2  # of farthest tokens, as ToE expands its set in each of its stages
_CHOSEN = 4.0  # above every cosine distance, which is at most 2


def top(scores_BN: Tensor, keep: int, x_BNE: Tensor) -> Tensor:
    """The highest scores."""
    return scores_BN


def sample(scores_BN: Tensor, keep: int, x_BNE: Tensor) -> Tensor:
    """Drawn without replacement, each time in proportion to the scores of those that are left, which are weights.

    log score + Gumbel noise: its k largest are such a draw (Kool, van Hoof and Welling 2019, section 2).
    """
    noise = -torch.empty_like(scores_BN).exponential_().log()
    return scores_BN.log() + noise


def greedy(scores_BN: Tensor, keep: int, x_BNE: Tensor) -> Tensor:
    """Tokens that spread over the features: half of them evenly over the image, the rest the farthest ones.

    That is ToE where half of all tokens are kept, its first stage. Its later stages begin with as few seeds, a quarter
    of all tokens, and add rounds.

    The rest are found in ROUNDS rounds: in each those whose cosine distance to the nearest chosen token is largest.
    The scores, see `saliency.distance_score`, do not rank them: a token is far or near to a set, not by itself.
    """
    batch, count = scores_BN.shape
    x_BNE = directions(x_BNE)
    seeds = (keep + 1) // 2
    index = (torch.arange(seeds, device=scores_BN.device) * count) // seeds
    chosen_Bk = index.expand(batch, -1)
    nearest_BN = _distance(x_BNE, chosen_Bk)
    for turn in range(ROUNDS):
        wanted = (keep - seeds) * (turn + 1) // ROUNDS - (keep - seeds) * turn // ROUNDS
        far_Bk = nearest_BN.topk(wanted, dim=1).indices
        nearest_BN = torch.minimum(nearest_BN, _distance(x_BNE, far_Bk)) if wanted else nearest_BN
        chosen_Bk = torch.cat([chosen_Bk, far_Bk], dim=1)
    return nearest_BN.scatter(1, chosen_Bk, _CHOSEN)


def _distance(x_BNE: Tensor, chosen_Bk: Tensor) -> Tensor:
    """Cosine distance of every token to the nearest of some, -1 for these themselves: (B, N)."""
    return (1 - cosines(x_BNE, gather_tokens(x_BNE, chosen_Bk))).amin(dim=2).scatter(1, chosen_Bk, -1.0)


CHOICES: dict[str, Choice] = {"top": top, "sample": sample, "greedy": greedy}
