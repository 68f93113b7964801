"""Evo-ViT, slow and fast tokens (Xu et al., AAAI 2022): from some block on few tokens are computed, the rest follow.

Shapes: B batch, T tokens with the prefix first, P prefix tokens, N patch tokens, K slow tokens with the prefix,
E embedding.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ptd_core.saliency import class_attention, gather_tokens, kept_tokens, patch_scores
from ptd_core.tokens import vit_parts
from ptd_core.tokens.fates import dropped, put_back
from ptd_core.tokens.reaching import Keep

TRADE_OFF = 0.5  # share of a block's own class attention in the running mean


class EvoViT(nn.Module):
    """A ViT whose blocks from `start` on compute slow tokens only: `EvoViT(vit, start)(images, keep)`.

    keep: a tuple with one number, the slow patch tokens of each of these blocks: those of the highest class attention,
    a running mean over the blocks so far (their code begins it at the block before `start`). The others, the fast ones,
    are represented in the block by their mean, weighted by that attention; each is updated by what the block adds to
    this token, and keeps its place. Every block chooses anew. No gradient flows through the attention that chooses and
    weighs. None is exactly `vit(images)`.

    Raises ValueError for a ViT without class token, a start that leaves no block before or after it, and a number that
    is not from 1 to the patch tokens.
    """

    def __init__(self, vit: nn.Module, start: int):
        super().__init__()
        vit_parts.refuse_unfit(vit)
        vit_parts.refuse_without_class_token(vit, "Evo-ViT chooses by its attention")
        if not 1 <= start < len(vit.blocks):
            raise ValueError(f"start must be a block from 1 to {len(vit.blocks) - 1}; got {start}")
        self.vit, self.start = vit, start

    def forward(self, images: Tensor, keep: Keep | None = None, trace: list[Tensor] | None = None) -> Tensor:
        """trace: a list that gets, for each block with fast tokens, the index of its slow ones (B, K)."""
        if keep is None:
            return self.vit(images)
        if not isinstance(keep, (tuple, list)) or len(keep) != 1:
            raise ValueError(f"keep must be a tuple with one number; got {keep}")
        x_BTE, seen_BN, run = vit_parts.embed(self.vit, images), None, vit_parts.runner(self.vit)
        for number, block in enumerate(self.vit.blocks):
            kept = keep[0] if number >= self.start else None
            x_BTE, seen_BN, index_BK = run(self._block, block, x_BTE, seen_BN, kept)
            if trace is not None and index_BK is not None:
                trace.append(index_BK)
        return self.vit.forward_head(self.vit.norm(x_BTE))

    def _block(
        self, block: nn.Module, x_BTE: Tensor, seen_BN: Tensor | None, keep: int | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """All tokens after the block, the running mean of class attention, and the index of slow tokens (B, K)."""
        prefix = self.vit.num_prefix_tokens
        if keep is None or keep == x_BTE.shape[1] - prefix:
            own_BN = _class_attention(block, x_BTE)[:, prefix:]
            return block(x_BTE), own_BN if seen_BN is None else torch.lerp(seen_BN, own_BN, TRADE_OFF), None
        index_BK = kept_tokens(seen_BN, keep, prefix)
        fast_BT = dropped(index_BK, x_BTE.shape[1])
        weight_BT = F.pad(seen_BN, (prefix, 0)) * fast_BT
        weight_BT = weight_BT / weight_BT.sum(dim=1, keepdim=True)
        mean_B1E = weight_BT.to(x_BTE.dtype).unsqueeze(1) @ x_BTE
        slow_BSE = torch.cat([gather_tokens(x_BTE, index_BK), mean_B1E], dim=1)  # S = K + 1
        own_Bk = _class_attention(block, slow_BSE)[:, prefix:-1]
        places_Bk = index_BK[:, prefix:] - prefix
        seen_BN = seen_BN.scatter(1, places_Bk, torch.lerp(seen_BN.gather(1, places_Bk), own_Bk, TRADE_OFF))
        out_BSE = block(slow_BSE)
        return put_back(x_BTE + (out_BSE[:, -1:] - mean_B1E), index_BK, out_BSE[:, :-1]), seen_BN, index_BK


@torch.no_grad()
def _class_attention(block: nn.Module, x_BTE: Tensor) -> Tensor:
    """Mean over heads of the class token's attention: (B, T), float32 or better."""
    normed_BTE = block.norm1(x_BTE)
    query = vit_parts.queries(block.attn, normed_BTE[:, :1])
    rows_BHT = class_attention(query, vit_parts.keys(block.attn, normed_BTE))
    return patch_scores(rows_BHT, prefix=0).to(x_BTE.dtype)
