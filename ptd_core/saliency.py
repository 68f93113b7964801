"""Which patch tokens matter: scores, and the choice of tokens to keep. Pure functions of tensors.

Shapes: B batch, H heads, T tokens with the prefix first (class token, then distillation or register tokens), P prefix
tokens, N = T - P patch tokens, K kept tokens with the prefix, E embedding, D head dimension.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Seen:
    """What a block that drops tokens sees when it scores them.

    x_BTE: the tokens as attention takes them, after the block's first norm. key_BHTD, value_BHTD: of all tokens.
    query: tokens (B, n, E) -> their queries (B, H, n, D); only those that a score asks for are computed.
    prefix: P; token 0 is the class token.
    """

    x_BTE: Tensor
    key_BHTD: Tensor
    value_BHTD: Tensor
    query: Callable[[Tensor], Tensor]
    prefix: int


def class_attention(query_BH1D: Tensor, key_BHTD: Tensor) -> Tensor:
    """A^h[0, :], the class token's row of softmaxed attention for each head: (B, H, T).

    One row, not the T x T matrix: its cost is that of a single query.
    """
    scale = query_BH1D.shape[-1] ** -0.5
    return (query_BH1D * scale @ key_BHTD.transpose(-2, -1)).softmax(dim=-1).squeeze(-2)


def patch_scores(attention_BHT: Tensor, prefix: int = 1) -> Tensor:
    """s_i = (1/H) sum_h A^h[0, i] for the patch tokens: (B, N), without gradient."""
    return attention_BHT.detach().mean(dim=1)[:, prefix:]


def class_attention_score(seen: Seen) -> Tensor:
    """The score of Progressive Token Drop: the class token's attention to each patch token, mean over heads: (B, N)."""
    return patch_scores(class_attention(seen.query(seen.x_BTE[:, :1]), seen.key_BHTD), seen.prefix)


# A score is one function Seen -> (B, N) and its key here; higher means more worth keeping.
SCORES: dict[str, Callable[[Seen], Tensor]] = {"class_attention": class_attention_score}


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


def object_coverage(kept_BGG: Tensor, objects_BSS: Tensor) -> float:
    """The share of all object pixels (B, S, S) that lie under kept tokens; random tokens would score about k / N."""
    pixels = objects_BSS.shape[-1] // kept_BGG.shape[-1]
    kept_BSS = kept_BGG.repeat_interleave(pixels, 1).repeat_interleave(pixels, 2)
    return (kept_BSS & objects_BSS).sum().item() / objects_BSS.sum().item()
