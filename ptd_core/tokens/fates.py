"""Fates: what becomes of the tokens that a block does not keep. Pure functions of tensors.

Shapes: B batch, T tokens with the prefix first, P prefix tokens, K kept tokens with the prefix, R = T - K the rest,
E embedding, H heads.

A fate reduces the tokens once, before the block or between its attention and its MLP, or it lets the rest wait and
puts the kept ones back among them later.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ptd_core.saliency import Seen, class_attention, cosines, directions, gather_tokens

Reduce = Callable[[Tensor, Tensor, Seen], Tensor]  # tokens (B, T, E), index of the kept (B, K), what the block saw


def discard(x_BTE: Tensor, index_BK: Tensor, seen: Seen) -> Tensor:
    """The rest is gone: (B, K, E)."""
    return gather_tokens(x_BTE, index_BK)


def fuse(x_BTE: Tensor, index_BK: Tensor, seen: Seen) -> Tensor:
    """One more token, last, for the rest: sum_r a_r x_r, a the class token's attention: (B, K + 1, E).

    As EViT (Liang et al. 2022) computes it: the weights are not renormalised, so the token is small if the class
    token attended little to the rest. No gradient flows through them.
    """
    with torch.no_grad():
        attention_BT = class_attention(seen.query(seen.x_BTE[:, :1]), seen.key()).mean(dim=1)
        weight_BT = attention_BT.scatter(1, index_BK, 0.0).to(x_BTE.dtype)
    return torch.cat([gather_tokens(x_BTE, index_BK), weight_BT.unsqueeze(1) @ x_BTE], dim=1)


def merge(x_BTE: Tensor, index_BK: Tensor, seen: Seen) -> Tensor:
    """Each of the rest joins the kept patch token most like it (cosine), which becomes their mean: (B, K, E).

    As ToE (Huang et al. 2024) merges. No gradient flows through who joins whom.
    """
    kept_BKE = gather_tokens(x_BTE, index_BK)
    with torch.no_grad():
        partner_BT = _most_like(x_BTE, kept_BKE[:, seen.prefix :]) + seen.prefix
        joins_BTK = F.one_hot(partner_BT, index_BK.shape[1]) * dropped(index_BK, x_BTE.shape[1]).unsqueeze(-1)
        joins_BKT = joins_BTK.transpose(1, 2).to(x_BTE.dtype)
        size_BK = 1 + joins_BKT.sum(dim=2)
    return (kept_BKE + joins_BKT @ x_BTE) / size_BK.unsqueeze(-1)


def _most_like(x_BTE: Tensor, patches_BkE: Tensor) -> Tensor:
    """Which of k patch tokens is most like each token (cosine): (B, T)."""
    return cosines(directions(x_BTE), directions(patches_BkE)).argmax(dim=2)


def put_back(x_BTE: Tensor, index_BK: Tensor, kept_BKE: Tensor) -> Tensor:
    """The tokens x with the kept ones, which went further, at their places: (B, T, E)."""
    return x_BTE.scatter(1, index_BK.unsqueeze(-1).expand_as(kept_BKE), kept_BKE.to(x_BTE.dtype))


def dropped(index_BK: Tensor, tokens: int) -> Tensor:
    """Which of the tokens are not among the kept: bool (B, T)."""
    rest = torch.ones(len(index_BK), tokens, dtype=torch.bool, device=index_BK.device)
    return rest.scatter(1, index_BK, False)


def places_left(fate: str, place_BN: Tensor, index_BK: Tensor, prefix: int) -> Tensor:
    """The places of the patch tokens that a dropping block lets out; -1 for the one that stands for the rest."""
    place_Bk = place_BN.gather(1, index_BK[:, prefix:] - prefix)
    return F.pad(place_Bk, (0, 1), value=-1) if fate == "fuse" else place_Bk


def part_of(fate: str, x_BTE: Tensor, index_BK: Tensor, place_BN: Tensor, prefix: int) -> tuple[Tensor, Tensor]:
    """The places of the kept patch tokens (B, k), and for each patch token that of the kept one it is part of (B, N).

    Itself if it is kept, -1 if it is part of none. x: the tokens as they come to the fate.
    """
    kept_Bk = index_BK[:, prefix:] - prefix
    place_Bk = place_BN.gather(1, kept_Bk)
    if fate == "merge":
        into_BN = place_Bk.gather(1, _most_like(x_BTE[:, prefix:], gather_tokens(x_BTE, index_BK[:, prefix:])))
    else:
        into_BN = torch.full_like(place_BN, -1)
    return place_Bk, into_BN.scatter(1, kept_Bk, place_Bk)


REDUCE: dict[str, Reduce] = {"discard": discard, "fuse": fuse, "merge": merge}
PUT_BACK = ("skip", "bypass")  # the rest waits: for the end of this block; for that of a route
FATES = (*REDUCE, *PUT_BACK)
