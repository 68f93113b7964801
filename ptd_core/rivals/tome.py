"""ToMe, token merging (Bolya et al., ICLR 2023): in every block the most similar pairs of tokens become one.

Shapes: B batch, T tokens with the class token first, A of them at even places, C = T - A at odd ones, r pairs to merge,
E embedding, H heads, D head dimension.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ptd_core.tokens import vit_parts
from ptd_core.tokens.reaching import Keep

# Indices among the even tokens of those that stay (B, A - r) and that go (B, r), and for the latter their partners
# among the odd ones (B, r).
Pairs = tuple[Tensor, Tensor, Tensor]


class ToMeViT(nn.Module):
    """A ViT that merges tokens between attention and MLP of every block: `ToMeViT(vit)(images, keep)`.

    keep: a tuple with one number, the patch tokens that come out of the last block; every block merges equally many
    pairs, at most half of its tokens. Merged tokens are means weighted by how many each stands for, and attention adds
    the logarithm of that number to the logits of their keys. None is exactly `vit(images)`.
    Raises ValueError for a ViT with other prefix tokens than a class token, and for numbers that cannot be reached.
    """

    def __init__(self, vit: nn.Module):
        super().__init__()
        vit_parts.refuse_unfit(vit)
        vit_parts.refuse_without_class_token(vit, "merging keeps it apart")
        if vit.num_prefix_tokens != 1:
            raise ValueError(f"merging keeps the class token alone apart; this ViT has {vit.num_prefix_tokens} of them")
        self.vit = vit

    def forward(self, images: Tensor, keep: Keep | None = None, trace: list[Pairs] | None = None) -> Tensor:
        """trace: a list that gets what each block merges."""
        if keep is None:
            return self.vit(images)
        x_BTE = vit_parts.embed(self.vit, images)
        size_BT1 = torch.ones_like(x_BTE[:, :, :1])
        pairs = pairs_per_block(x_BTE.shape[1] - 1, keep, len(self.vit.blocks))
        run = vit_parts.runner(self.vit)
        for block in self.vit.blocks:
            x_BTE, size_BT1, merged = run(_block, block, x_BTE, size_BT1, pairs)
            if trace is not None:
                trace.append(merged)
        return self.vit.forward_head(self.vit.norm(x_BTE))


def pairs_per_block(patch_tokens: int, keep: Keep, blocks: int) -> int:
    """How many pairs each block merges so that keep[0] patch tokens are left. Raises ValueError if none does that."""
    if not isinstance(keep, (tuple, list)) or len(keep) != 1 or not 1 <= keep[0] <= patch_tokens:
        raise ValueError(f"keep must be a tuple with one number from 1 to {patch_tokens}; got {keep}")
    pairs = (patch_tokens - keep[0]) // blocks
    if pairs * blocks != patch_tokens - keep[0]:
        raise ValueError(f"keep must be {patch_tokens} less a multiple of the {blocks} blocks; got {keep[0]}")
    if 2 * pairs > patch_tokens - (blocks - 1) * pairs:
        raise ValueError(f"keep = {keep[0]}: merging at most half of the tokens in each of {blocks} blocks leaves more")
    return pairs


def match(metric_BTD: Tensor, pairs: int) -> Pairs:
    """Bipartite matching: tokens at even places, each with the odd one most like it (cosine); the best pairs merge.

    The class token stays, and is the first to do so.
    """
    metric_BTD = F.normalize(metric_BTD, dim=-1)
    # Not @, which torch.compile would compile anew for even and for odd numbers of tokens.
    likeness_BAC = torch.bmm(metric_BTD[:, ::2], metric_BTD[:, 1::2].transpose(1, 2))
    best_BA, partner_BA = likeness_BAC.max(dim=2)
    best_BA[:, 0] = -torch.inf  # the class token
    order_BA = best_BA.argsort(dim=1, descending=True)
    stay, go = order_BA[:, pairs:].sort(dim=1).values, order_BA[:, :pairs]
    return stay, go, partner_BA.gather(1, go)


def merge(x_BTE: Tensor, stay: Tensor, go: Tensor, partner: Tensor) -> Tensor:
    """Sums of merged tokens, first the even ones that stay and then the odd ones: (B, T - r, E)."""
    even, odd = x_BTE[:, ::2], x_BTE[:, 1::2]
    wide = (-1, -1, x_BTE.shape[-1])
    odd = odd.scatter_add(1, partner.unsqueeze(-1).expand(wide), even.gather(1, go.unsqueeze(-1).expand(wide)))
    return torch.cat([even.gather(1, stay.unsqueeze(-1).expand(wide)), odd], dim=1)


def _block(block: nn.Module, x_BTE: Tensor, size_BT1: Tensor, pairs: int) -> tuple[Tensor, Tensor, Pairs]:
    attention, normed_BTE = block.attn, block.norm1(x_BTE)
    key, value = vit_parts.keys_values(attention, normed_BTE)
    query = vit_parts.queries(attention, normed_BTE)
    bias_B11T = size_BT1.log().transpose(1, 2).unsqueeze(1).to(query.dtype)
    attended = vit_parts.attend(attention, normed_BTE, query, key, value, bias_B11T)
    x_BTE = vit_parts.attention_residual(block, x_BTE, attended)
    with torch.no_grad():
        stay, go, partner = match(key.mean(dim=1), pairs)
        merged_BT1 = merge(size_BT1, stay, go, partner)
    x_BTE = merge(x_BTE * size_BT1, stay, go, partner) / merged_BT1
    return vit_parts.mlp_residual(block, x_BTE), merged_BT1, (stay, go, partner)
