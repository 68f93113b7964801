"""Token drop around a ViT: the policy (which blocks, by which score), and a module that runs any ViT by it.

The ViT knows nothing of it: `TokenDropViT` holds an untouched one and runs its own parts, so its weights, state dict,
evaluation and export are those of a plain ViT.

Shapes: B batch, C channels, S pixels a side, P prefix tokens (class token first), N patch tokens, T = P + N,
K kept tokens with the prefix, E embedding, H heads, D = E / H head dimension.
"""

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from timm.models import vision_transformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ptd_core.saliency import SCORES, Seen, class_attention, gather_tokens, kept_tokens

Keep = tuple[int, ...]  # kept patch tokens, one number for each block that drops

_ATTENTION_PARTS = {"qkv", "q_norm", "k_norm", "attn_drop", "norm", "gate", "proj", "proj_drop"}
_CHOICES = ("top",)
_FATES = ("discard",)


@dataclass(frozen=True)
class TokenDrop:
    """A policy of token drop. How many tokens are kept, and when, is not in it: that is the schedule's.

    blocks: those that drop tokens, ascending, counted from 0. score: a key of `saliency.SCORES`. choice: "top" keeps
    the tokens of the highest scores. fate: "discard" leaves the others out of this block's queries and of all that
    comes after. Raises ValueError, naming the field, for anything else.
    """

    blocks: tuple[int, ...] = (0,)
    score: str = "class_attention"
    choice: str = "top"
    fate: str = "discard"

    def __post_init__(self) -> None:
        blocks = self.blocks
        whole = isinstance(blocks, (tuple, list)) and all(type(block) is int for block in blocks)
        if not whole or not blocks or list(blocks) != sorted(set(blocks)) or blocks[0] < 0:
            raise ValueError(f"blocks must be a tuple of different whole numbers from 0 on, ascending; got {blocks!r}")
        object.__setattr__(self, "blocks", tuple(blocks))
        for name, allowed in (("score", tuple(SCORES)), ("choice", _CHOICES), ("fate", _FATES)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {getattr(self, name)!r}")


class TokenDropViT(nn.Module):
    """A ViT run with fewer tokens: `TokenDropViT(vit, drop)(images, keep)`.

    vit: HybridViT, or a timm VisionTransformer with a class token (distillation and register tokens, layer scale,
    norms of queries and keys, fused or explicit attention). Prefix tokens are always kept and never scored.

    A block that drops makes keys and values for all tokens that it sees and scores them once; queries, attention,
    projection and MLP are computed for the kept ones only. The result equals attention for all tokens followed by a
    gather, at less cost. The parts of such a block are run, not the block as a module: hooks on it do not fire.
    Gradient checkpointing is that of the ViT.

    Raises ValueError for a ViT that cannot be run so, with the reason and what can, and for blocks that it lacks.
    """

    def __init__(self, vit: nn.Module, drop: TokenDrop = TokenDrop()):
        super().__init__()
        _refuse_unfit(vit)
        if drop.blocks[-1] >= len(vit.blocks):
            raise ValueError(f"blocks = {drop.blocks}: this ViT has the blocks 0 to {len(vit.blocks) - 1}")
        self.vit = vit
        self.drop = drop

    def forward(self, images: Tensor, keep: Keep | None = None) -> Tensor:
        """Images (B, C, S, S) -> what `vit(images)` gives, with keep[i] patch tokens from block drop.blocks[i] on.

        Obeyed in training and in evaluation; None is exactly `vit(images)`. Raises ValueError unless there is one
        number for each dropping block, each at least 1 and at most what the block before has left.
        """
        if keep is None:
            return self.vit(images)
        return self.vit.forward_head(self.forward_features(images, keep))

    def forward_features(self, images: Tensor, keep: Keep) -> Tensor:
        """Tokens after the last block and norm: (B, P + keep[-1], E)."""
        if not isinstance(keep, (tuple, list)) or len(keep) != len(self.drop.blocks):
            raise ValueError(f"keep must be a tuple, one number for each of the blocks {self.drop.blocks}; got {keep}")
        kept_in = dict(zip(self.drop.blocks, keep))
        x_BTE = embed(self.vit, images)
        checkpointing = getattr(self.vit, "grad_checkpointing", False) and torch.is_grad_enabled()
        for number, block in enumerate(self.vit.blocks):
            run = partial(self._drop, block, keep=kept_in[number]) if number in kept_in else block
            x_BTE = checkpoint(run, x_BTE, use_reentrant=False) if checkpointing else run(x_BTE)
        return self.vit.norm(x_BTE)

    def _drop(self, block: nn.Module, x_BTE: Tensor, keep: int) -> Tensor:
        """The block for the prefix and the `keep` patch tokens that it chooses: (B, P + keep, E)."""
        prefix = self.vit.num_prefix_tokens
        patch_tokens = x_BTE.shape[1] - prefix
        if not 1 <= keep <= patch_tokens:
            raise ValueError(f"keep must be from 1 to the {patch_tokens} patch tokens; got {keep}")
        if keep == patch_tokens:
            return block(x_BTE)
        attention, normed_BTE = block.attn, block.norm1(x_BTE)
        key_BHTD, value_BHTD = keys_values(attention, normed_BTE)
        with torch.no_grad():  # a token is in or out: no gradient flows through the choice
            seen = Seen(normed_BTE, key_BHTD, value_BHTD, lambda tokens: queries(attention, tokens), prefix)
            index_BK = kept_tokens(SCORES[self.drop.score](seen), keep, prefix)
        kept_BKE = gather_tokens(normed_BTE, index_BK)
        attended_BKE = attend(attention, kept_BKE, queries(attention, kept_BKE), key_BHTD, value_BHTD)
        return _residuals(block, gather_tokens(x_BTE, index_BK), attended_BKE)


# The parts of a ViT, for HybridViT and timm's VisionTransformer alike.


def embed(vit: nn.Module, images: Tensor) -> Tensor:
    """Images (B, C, S, S) -> tokens as the first block takes them, positions included: (B, T, E)."""
    if hasattr(vit, "embed"):
        return vit.embed(images)
    return vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(images))))


def queries(attention: nn.Module, x_BnE: Tensor) -> Tensor:
    """Queries of tokens (B, n, E), as attention takes them: (B, H, n, D)."""
    (query,) = _project(attention, x_BnE, 0, 1)
    return _part(attention, "q_norm")(query)


def keys_values(attention: nn.Module, x_BTE: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values of tokens (B, T, E): (B, H, T, D) each."""
    key, value = _project(attention, x_BTE, 1, 3)
    return _part(attention, "k_norm")(key), value


def attend(attention: nn.Module, x_BKE: Tensor, query_BHKD: Tensor, key_BHTD: Tensor, value_BHTD: Tensor) -> Tensor:
    """What attention gives the K tokens x that ask, over the T tokens that are asked: (B, K, E)."""
    drop = _part(attention, "attn_drop")
    if attention.fused_attn:
        rate = getattr(drop, "p", 0.0) if attention.training else 0.0
        out = F.scaled_dot_product_attention(query_BHKD, key_BHTD, value_BHTD, dropout_p=rate)
    else:
        scale = query_BHKD.shape[-1] ** -0.5
        out = drop((query_BHKD * scale @ key_BHTD.transpose(-2, -1)).softmax(dim=-1)) @ value_BHTD
    out = _part(attention, "norm")(out.transpose(1, 2).flatten(2))
    if getattr(attention, "gate", None) is not None:
        out = out * attention.gate(x_BKE).sigmoid()
    return attention.proj_drop(attention.proj(out))


def class_attention_row(vit: nn.Module, images: Tensor, block: int) -> Tensor:
    """The class token's attention in one block to all tokens, with none dropped: (B, H, T), sums to 1.

    Raises ValueError for a ViT that TokenDropViT would refuse.
    """
    _refuse_unfit(vit)
    x_BTE = embed(vit, images)
    for earlier in vit.blocks[:block]:
        x_BTE = earlier(x_BTE)
    attention, normed_BTE = vit.blocks[block].attn, vit.blocks[block].norm1(x_BTE)
    key_BHTD, _ = keys_values(attention, normed_BTE)
    return class_attention(queries(attention, normed_BTE[:, :1]), key_BHTD)


def _project(attention: nn.Module, x: Tensor, first: int, last: int) -> tuple[Tensor, ...]:
    """Some of the three projections of `qkv`, which lie one above the other in its weight: 0 q, 1 k, 2 v."""
    width = attention.qkv.weight.shape[0] // 3
    lines = slice(first * width, last * width)
    bias = attention.qkv.bias
    projected = F.linear(x, attention.qkv.weight[lines], None if bias is None else bias[lines])
    return projected.unflatten(2, (last - first, attention.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


def _residuals(block: nn.Module, x: Tensor, attended: Tensor) -> Tensor:
    x = x + block.drop_path1(_part(block, "ls1")(attended))
    return x + block.drop_path2(_part(block, "ls2")(block.mlp(block.norm2(x))))


def _part(module: nn.Module, name: str) -> nn.Module:
    return getattr(module, name, None) or _IDENTITY


_IDENTITY = nn.Identity()


def _refuse_unfit(vit: nn.Module) -> None:
    """Raises ValueError for a ViT whose blocks cannot be run in parts, or that has no class token."""
    works = (
        "what works: HybridViT, and timm's VisionTransformer family with a class token, such as deit_tiny_patch16_224"
    )
    name = type(vit).__name__
    plain = isinstance(vit, vision_transformer.VisionTransformer) and (
        type(vit).forward_features is vision_transformer.VisionTransformer.forward_features
    )
    own = all(hasattr(vit, name) for name in ("embed", "blocks", "norm", "forward_head", "num_prefix_tokens"))
    if not plain and not own:
        grid = any(hasattr(module, "window_size") for module in vit.modules())
        reason = (
            "its windows or relative positions need a whole grid of tokens"
            if grid
            else "it is no plain sequence of tokens through pre-norm blocks"
        )
        raise ValueError(f"{name} cannot drop tokens: {reason}; {works}")
    for block in vit.blocks:
        if not getattr(block, "pre_norm", type(block) is vision_transformer.Block):
            raise ValueError(
                f"{name} cannot drop tokens: its {type(block).__name__} is no plain pre-norm block; {works}"
            )
        parts = {part for part, _ in block.attn.named_children()}
        if parts - _ATTENTION_PARTS or type(getattr(block.attn, "qkv", None)) is not nn.Linear:
            raise ValueError(
                f"{name} cannot drop tokens: its {type(block.attn).__name__} is not softmax attention from one "
                f"plain linear layer to queries, keys and values (merge an adapter into it first); {works}"
            )
    if getattr(vit, "cls_token", None) is None:
        raise ValueError(
            f"{name} has no class token, and the score class_attention is the class token's attention; build it with "
            f"class_token=True, global_pool='token'; {works}"
        )
