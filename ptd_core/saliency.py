"""Which patch tokens matter: scores from the class token's attention, and the choice of tokens to keep.

Shapes: B batch, H heads, T tokens with the class token first, N = T - 1 patch tokens, K kept patch tokens,
D head dimension.
"""

import torch
from torch import Tensor


def class_attention(query_BH1D: Tensor, key_BHTD: Tensor) -> Tensor:
    """A^h[0, :], the class token's row of softmaxed attention for each head: (B, H, T).

    One row, not the T x T matrix: its cost is that of a single query.
    """
    scale = query_BH1D.shape[-1] ** -0.5
    return (query_BH1D * scale @ key_BHTD.transpose(-2, -1)).softmax(dim=-1).squeeze(-2)


def patch_scores(attention_BHT: Tensor) -> Tensor:
    """s_i = (1/H) sum_h A^h[0, i] for the patch tokens i = 1..N: (B, N), without gradient."""
    return attention_BHT.detach().mean(dim=1)[:, 1:]


def kept_tokens(scores_BN: Tensor, keep: int) -> Tensor:
    """Indices into the T tokens of the class token and the `keep` highest scores: (B, 1 + keep), ascending.

    Ties may fall either way. Raises ValueError unless 1 <= keep <= N.
    """
    batch, patch_tokens = scores_BN.shape
    if not 1 <= keep <= patch_tokens:
        raise ValueError(f"keep must be from 1 to the {patch_tokens} patch tokens; got {keep}")
    # Ascending order keeps neighbours together in memory; attention itself does not depend on the order.
    patches = scores_BN.topk(keep, dim=1, sorted=False).indices.sort(dim=1).values + 1
    return torch.cat([patches.new_zeros(batch, 1), patches], dim=1)


def gather_tokens(x_BTE: Tensor, index_BK: Tensor) -> Tensor:
    """The tokens at `index_BK` of each image: (B, K, E)."""
    return x_BTE.gather(1, index_BK.unsqueeze(-1).expand(-1, -1, x_BTE.shape[-1]))
