"""The parts of a ViT, run apart: HybridViT and timm's VisionTransformer alike. And which ViTs have such parts.

Shapes: B batch, C channels, S pixels a side, P prefix tokens (class token first), T tokens, n some of them,
K kept tokens with the prefix, E embedding, H heads, D = E / H head dimension.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.models import vision_transformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ptd_core.saliency import class_attention

_ATTENTION_PARTS = {"qkv", "q_norm", "k_norm", "attn_drop", "norm", "gate", "proj", "proj_drop"}
_WORKS = "what works: HybridViT, and timm's VisionTransformer family with a class token, such as deit_tiny_patch16_224"
_IDENTITY = nn.Identity()


def embed(vit: nn.Module, images: Tensor) -> Tensor:
    """Images (B, C, S, S) -> tokens as the first block takes them, positions included: (B, T, E)."""
    if hasattr(vit, "embed"):
        return vit.embed(images)
    return vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(images))))


def runner(vit: nn.Module) -> Callable:
    """Calls a block, or a function that runs parts of one, with arguments.

    Where the ViT's `set_grad_checkpointing` asks for it and gradients are wanted, activations within the block are not
    kept but computed again in the backward pass, with the same draws of dropout (torch.utils.checkpoint).
    """
    if getattr(vit, "grad_checkpointing", False) and torch.is_grad_enabled():
        return partial(checkpoint, use_reentrant=False)
    return _call


def queries(attention: nn.Module, x_BnE: Tensor) -> Tensor:
    """Queries of tokens, as attention takes them: (B, H, n, D)."""
    (query,) = _project(attention, x_BnE, 0, 1)
    return _part(attention, "q_norm")(query)


def keys(attention: nn.Module, x_BTE: Tensor) -> Tensor:
    """Keys of tokens: (B, H, T, D)."""
    (key,) = _project(attention, x_BTE, 1, 2)
    return _part(attention, "k_norm")(key)


def values(attention: nn.Module, x_BTE: Tensor) -> Tensor:
    """Values of tokens: (B, H, T, D)."""
    (value,) = _project(attention, x_BTE, 2, 3)
    return value


def keys_values(attention: nn.Module, x_BTE: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values of tokens: (B, H, T, D) each."""
    key, value = _project(attention, x_BTE, 1, 3)
    return _part(attention, "k_norm")(key), value


def attend(
    attention: nn.Module,
    x_BKE: Tensor,
    query_BHKD: Tensor,
    key_BHTD: Tensor,
    value_BHTD: Tensor,
    bias_B11T: Tensor | None = None,
) -> Tensor:
    """What attention gives the K tokens x that ask, over the T tokens that are asked: (B, K, E).

    bias_B11T: added to the logits before the softmax.
    """
    drop = _part(attention, "attn_drop")
    if attention.fused_attn:
        rate = getattr(drop, "p", 0.0) if attention.training else 0.0
        out = F.scaled_dot_product_attention(query_BHKD, key_BHTD, value_BHTD, bias_B11T, dropout_p=rate)
    else:
        scale = query_BHKD.shape[-1] ** -0.5
        logits = query_BHKD * scale @ key_BHTD.transpose(-2, -1)
        out = drop((logits if bias_B11T is None else logits + bias_B11T).softmax(dim=-1)) @ value_BHTD
    return project_out(attention, x_BKE, out)


def attention_dropout(attention: nn.Module, weight_BHnT: Tensor) -> Tensor:
    """The attention's own dropout of its softmaxed weights."""
    return _part(attention, "attn_drop")(weight_BHnT)


def project_out(attention: nn.Module, x_BKE: Tensor, out_BHKD: Tensor) -> Tensor:
    """What the heads found for the tokens x, joined and projected: (B, K, E)."""
    out = _part(attention, "norm")(out_BHKD.transpose(1, 2).flatten(2))
    if getattr(attention, "gate", None) is not None:
        out = out * attention.gate(x_BKE).sigmoid()
    return attention.proj_drop(attention.proj(out))


def attention_residual(block: nn.Module, x: Tensor, attended: Tensor) -> Tensor:
    """Tokens (B, n, E) and what attention gave them -> tokens as the MLP takes them."""
    return x + block.drop_path1(_part(block, "ls1")(attended))


def mlp_residual(block: nn.Module, x: Tensor) -> Tensor:
    """The block's second half, on any of its tokens: (B, n, E) -> (B, n, E)."""
    return x + block.drop_path2(_part(block, "ls2")(block.mlp(block.norm2(x))))


def class_attention_row(vit: nn.Module, images: Tensor, block: int) -> Tensor:
    """The class token's attention in one block to all tokens, with none dropped: (B, H, T), sums to 1.

    Raises ValueError for a ViT that cannot be run in parts or has no class token.
    """
    refuse_unfit(vit)
    refuse_without_class_token(vit, "this map is the class token's attention")
    x_BTE = embed(vit, images)
    for earlier in vit.blocks[:block]:
        x_BTE = earlier(x_BTE)
    attention, normed_BTE = vit.blocks[block].attn, vit.blocks[block].norm1(x_BTE)
    return class_attention(queries(attention, normed_BTE[:, :1]), keys(attention, normed_BTE))


def refuse_unfit(vit: nn.Module) -> None:
    """Raises ValueError for a ViT whose blocks cannot be run in parts, with the reason and what can."""
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
        raise ValueError(f"{name} cannot drop tokens: {reason}; {_WORKS}")
    if not isinstance(_part(vit, "patch_drop"), nn.Identity):
        raise ValueError(
            f"{name} cannot drop tokens: its patch_drop has dropped some before, whose places are lost; build it with "
            f"patch_drop_rate=0 and choose the score 'random' for such a drop; {_WORKS}"
        )
    for block in vit.blocks:
        if not getattr(block, "pre_norm", type(block) is vision_transformer.Block):
            raise ValueError(
                f"{name} cannot drop tokens: its {type(block).__name__} is no plain pre-norm block; {_WORKS}"
            )
        parts = {part for part, _ in block.attn.named_children()}
        if parts - _ATTENTION_PARTS or type(getattr(block.attn, "qkv", None)) is not nn.Linear:
            raise ValueError(
                f"{name} cannot drop tokens: its {type(block.attn).__name__} is not softmax attention from one "
                f"plain linear layer to queries, keys and values (merge an adapter into it first); {_WORKS}"
            )


def refuse_without_class_token(vit: nn.Module, asks: str, otherwise: str = "") -> None:
    """Raises ValueError for a ViT without class token. asks: a phrase that says what needs it; otherwise: what else
    than another ViT would help."""
    if getattr(vit, "cls_token", None) is None:
        raise ValueError(
            f"{type(vit).__name__} has no class token, and {asks}; build it with class_token=True, "
            f"global_pool='token'{otherwise}; {_WORKS}"
        )


def _project(attention: nn.Module, x: Tensor, first: int, last: int) -> tuple[Tensor, ...]:
    """Some of the three projections of `qkv`, which lie one above the other in its weight: 0 q, 1 k, 2 v."""
    width = attention.qkv.weight.shape[0] // 3
    lines = slice(first * width, last * width)
    bias = attention.qkv.bias
    projected = F.linear(x, attention.qkv.weight[lines], None if bias is None else bias[lines])
    return projected.unflatten(2, (last - first, attention.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


def _call(function: Callable, *arguments: Any) -> Any:
    return function(*arguments)


def _part(module: nn.Module, name: str) -> nn.Module:
    return getattr(module, name, None) or _IDENTITY
