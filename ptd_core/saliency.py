"""Which patch tokens matter: scores, kept masks, and how much of an object they cover. Pure functions of tensors.

Shapes: B batch, H heads, T tokens with the prefix first (class token, then distillation or register tokens), P prefix
tokens, N = T - P patch tokens, K kept tokens with the prefix, E embedding, D head dimension, G patch tokens of the
whole image, g of its sides.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Seen:
    """What a block that drops tokens sees when it scores them.

    tokens_BTE: the tokens as the block gets them. x_BTE: as its attention takes them, after the first norm;
    None where neither the policy nor the score, one of ASK_ATTENTION, asks for it.
    query: tokens (B, n, E) -> theirs (B, H, n, D). key, value: of all tokens, (B, H, T, D). Only what a score asks for
    is computed. prefix: P; token 0 is the class token, if there is one.
    place_BN: int64, where in the image each patch token comes from, counted row by row; -1 for one made of several.
    grid: g. given_BG: a value for each place of the image, from whoever calls the network; None if nothing came.
    """

    tokens_BTE: Tensor
    x_BTE: Tensor | None
    query: Callable[[Tensor], Tensor]
    key: Callable[[], Tensor]
    value: Callable[[], Tensor]
    prefix: int
    place_BN: Tensor
    grid: int
    given_BG: Tensor | None = None


@dataclass(frozen=True)
class Chosen:
    """What a block that drops tokens chose.

    place_BN: int64, where in the image each patch token that reached it comes from, as in `Seen`. scores_BN: their
    scores. kept_Bk: the places of those that it kept. part_BN: the place of the kept one that each is part of from then
    on: its own, its partner's if it is merged, -1 otherwise.
    """

    place_BN: Tensor
    scores_BN: Tensor
    kept_Bk: Tensor
    part_BN: Tensor


def attention_rows(query_BHnD: Tensor, key_BHTD: Tensor) -> Tensor:
    """Rows of softmaxed attention for some queries: (B, H, n, T), in float32 or better.

    In bfloat16, which autocast keeps on the CPU, near ones would become equal and the choice among them arbitrary.
    """
    logits_BHnT = query_BHnD * query_BHnD.shape[-1] ** -0.5 @ key_BHTD.transpose(-2, -1)
    return logits_BHnT.to(torch.promote_types(logits_BHnT.dtype, torch.float32)).softmax(dim=-1)


def class_attention(query_BH1D: Tensor, key_BHTD: Tensor) -> Tensor:
    """A^h[0, :], the class token's row of softmaxed attention for each head: (B, H, T).

    One row, not the T x T matrix: its cost is that of a single query.
    """
    return attention_rows(query_BH1D, key_BHTD).squeeze(-2)


def patch_scores(attention_BHT: Tensor, prefix: int = 1) -> Tensor:
    """s_i = (1/H) sum_h A^h[0, i] for the patch tokens: (B, N), without gradient."""
    return attention_BHT.detach().mean(dim=1)[:, prefix:]


def directions(x_BNE: Tensor) -> Tensor:
    """Unit vectors along the last axis, in float32 or better."""
    return F.normalize(x_BNE.to(torch.promote_types(x_BNE.dtype, torch.float32)), dim=-1)


def cosines(x_BNE: Tensor, y_BME: Tensor) -> Tensor:
    """Products of `directions` with others or their sums: (B, N, M), in their own precision whatever autocast says.

    They lie close together, and a sum of N of them has few digits left of each in bfloat16.
    """
    device = x_BNE.device.type
    known = torch.amp.is_autocast_available(device)  # not of meta tensors
    with torch.autocast(device, enabled=False) if known else nullcontext():
        return x_BNE @ y_BME.transpose(1, 2)


# Scores: functions Seen -> (B, N), higher means more worth keeping.


def class_attention_score(seen: Seen) -> Tensor:
    """The score of Progressive Token Drop: the class token's attention to each patch token, mean over heads."""
    return patch_scores(class_attention(seen.query(seen.x_BTE[:, :1]), seen.key()), seen.prefix)


def inverse_score(seen: Seen) -> Tensor:
    """The least attended first: what class attention would drop."""
    return -class_attention_score(seen)


def class_attention_value_score(seen: Seen) -> Tensor:
    """Class attention times the L2 norm of the value, mean over heads: what each token adds to the class token."""
    rows_BHT = class_attention(seen.query(seen.x_BTE[:, :1]), seen.key())
    return patch_scores(rows_BHT * seen.value().norm(dim=-1), seen.prefix)


def attention_received_score(seen: Seen) -> Tensor:
    """The attention that a token receives, mean over all queries and heads; needs no class token."""
    rows_BHTT = attention_rows(seen.query(seen.x_BTE), seen.key())
    return patch_scores(rows_BHTT.mean(dim=2), seen.prefix)


def norm_score(seen: Seen) -> Tensor:
    """The L2 norm of the token."""
    return seen.tokens_BTE[:, seen.prefix :].norm(dim=-1)


def l1_norm_score(seen: Seen) -> Tensor:
    """The L1 norm of the token, as PSS takes it."""
    return seen.tokens_BTE[:, seen.prefix :].norm(p=1, dim=-1)


def distance_score(seen: Seen) -> Tensor:
    """How unlike the others a token is: its cosine distance to the other patch tokens, mean over them."""
    x_BNE = directions(seen.tokens_BTE[:, seen.prefix :])
    others = max(1, x_BNE.shape[1] - 1)
    return 1 - (cosines(x_BNE, x_BNE.sum(dim=1, keepdim=True)).squeeze(-1) - 1) / others


def random_score(seen: Seen) -> Tensor:
    """Uniform in [0, 1), drawn from the device's default generator."""
    batch, tokens, _ = seen.tokens_BTE[:, seen.prefix :].shape
    return torch.rand(batch, tokens, device=seen.tokens_BTE.device)


def centre_score(seen: Seen) -> Tensor:
    """1 at the image's centre, falling with the distance to 0 beyond its corners; blind to what is in the image.

    A token made of several stands in the middle.
    """
    row, column = seen.place_BN.div(seen.grid, rounding_mode="floor"), seen.place_BN % seen.grid
    middle = (seen.grid - 1) / 2
    distance = ((row - middle) ** 2 + (column - middle) ** 2).sqrt() / (seen.grid * 0.5**0.5)
    return torch.where(seen.place_BN < 0, 1.0, 1.0 - distance)


def given_score(seen: Seen) -> Tensor:
    """The caller's value for the token's place; a token made of several gets the largest of its image.

    Raises ValueError if the caller gave none.
    """
    if seen.given_BG is None:
        raise ValueError(
            "this score is not in the model: give its values, (B, patch tokens of the image), as `given_BG`"
        )
    largest = seen.given_BG.amax(dim=1, keepdim=True)
    return torch.where(seen.place_BN < 0, largest, seen.given_BG.gather(1, seen.place_BN.clamp_min(0)))


# A score is one function and its key here.
SCORES: dict[str, Callable[[Seen], Tensor]] = {
    "class_attention": class_attention_score,
    "inverse": inverse_score,
    "class_attention_value": class_attention_value_score,
    "attention_received": attention_received_score,
    "norm": norm_score,
    "l1_norm": l1_norm_score,
    "distance": distance_score,
    "random": random_score,
    "centre": centre_score,
    "averaged_attention": given_score,  # class attention of the moving-average model
    "gradient": given_score,  # gradient x activation, a running mean for each place
    "oracle": given_score,  # the object's share of the token's pixels
}
GIVEN = tuple(name for name, score in SCORES.items() if score is given_score)
CLASS_ROW = ("class_attention", "inverse", "class_attention_value")  # computed from the class token's attention
ASK_ATTENTION = (*CLASS_ROW, "attention_received")  # of this block: they look at `Seen.x_BTE`
ASK_THE_CLASS_TOKEN = (*CLASS_ROW, "averaged_attention")
SIGNED = ("inverse",)  # no weights to draw by


def kept_tokens(scores_BN: Tensor, keep: int, prefix: int = 1) -> Tensor:
    """Indices into the T tokens of the prefix and the `keep` highest scores: (B, prefix + keep), ascending.

    Ties may fall either way. Raises ValueError unless 1 <= keep <= N.
    """
    batch, patch_tokens = scores_BN.shape
    if not 1 <= keep <= patch_tokens:
        raise ValueError(f"keep must be from 1 to the {patch_tokens} patch tokens; got {keep}")
    # Ascending order keeps neighbours together in memory; attention itself does not depend on the order.
    patches = scores_BN.topk(keep, dim=1, sorted=False).indices.sort(dim=1).values + prefix
    return torch.cat([torch.arange(prefix, device=patches.device).expand(batch, -1), patches], dim=1)


def gather_tokens(x_BTE: Tensor, index_BK: Tensor) -> Tensor:
    """The tokens at `index_BK` of each image: (B, K, E)."""
    return x_BTE.gather(1, index_BK.unsqueeze(-1).expand(-1, -1, x_BTE.shape[-1]))


def kept_mask(saliency_BGG: Tensor, keep: int) -> Tensor:
    """Which patch tokens a training step would keep: saliency (B, G, G) -> bool (B, G, G) with `keep` true each."""
    flat = saliency_BGG.flatten(1)
    mask = torch.zeros_like(flat, dtype=torch.bool)
    mask.scatter_(1, kept_tokens(flat, keep, prefix=0), True)
    return mask.view_as(saliency_BGG)


def places_mask(place_BK: Tensor, grid: int) -> Tensor:
    """Places in the image, counted row by row, -1 for none (B, K) -> bool (B, grid, grid), true where one is."""
    mask = torch.zeros(len(place_BK), grid * grid + 1, dtype=torch.bool, device=place_BK.device)
    mask.scatter_(1, place_BK.where(place_BK >= 0, grid * grid), True)
    return mask[:, :-1].unflatten(1, (grid, grid))


def object_coverage(kept_BGG: Tensor, objects_BSS: Tensor) -> float:
    """The share of all object pixels (B, S, S) that lie under kept tokens; random tokens would score about k / N."""
    pixels = objects_BSS.shape[-1] // kept_BGG.shape[-1]
    kept_BSS = kept_BGG.repeat_interleave(pixels, 1).repeat_interleave(pixels, 2)
    return (kept_BSS & objects_BSS).sum().item() / objects_BSS.sum().item()
