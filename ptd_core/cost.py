"""What a forward pass and a training step cost in floating-point operations, and so what dropping tokens can save.

One multiply-add counts as two operations; only matrix products and convolutions are counted, as
`torch.utils.flop_counter` does. Softmax, norms, activations and the optimizer are left out.
"""

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ptd_core.machine.counted import Cost, Operations, count
from ptd_core.model import ViTConfig
from ptd_core.rivals.rival import Rival
from ptd_core.saliency import CLASS_ROW
from ptd_core.token_drop import Keep, TokenDrop
from ptd_core.tokens import vit_parts
from ptd_core.tokens.fates import PUT_BACK
from ptd_core.vits.fine_tuning import freeze
from ptd_core.vits.timm_config import TimmConfig

Sizes = ViTConfig | TimmConfig


def cost(
    vit: Sizes,
    num_classes: int,
    drop: TokenDrop | Rival | None = None,
    keep: Keep | None = None,
    *,
    frozen_blocks: int = 0,
    score_block: int = -1,
) -> Cost:
    """Operations per image of a ViT of that size, run by `drop` with `keep` patch tokens (None: all).

    Blocks have a closed form; what stands before and after them torch counts once, on the meta device. A block that
    drops prices its scores and what becomes of the others, see `_dropping_block`; the blocks after it see what is left.
    A rival has no closed form: torch counts one pass on the meta device.

    frozen_blocks: first blocks that are not trained, nor what stands before them: they go forward only, but that the
    score gradient asks for the gradient of the tokens that enter block 0. score_block: of averaged_attention, whose
    model goes forward up to that block; other scores from outside cost nothing here. Raises ValueError for a keep that
    the policy cannot obey.
    """
    if isinstance(drop, Rival) and keep is not None:
        return _counted(vit, num_classes, drop, keep, frozen_blocks)
    patches = vit.patch_tokens
    kept_in = {}
    if keep is not None:
        if drop is None:
            raise ValueError(f"keep = {keep} needs the policy by which tokens are dropped")
        drop.reaching(keep, patches)  # refuses what cannot be kept
        kept_in = dict(zip(drop.blocks, keep))
    total, sizes = Operations(), _block_sizes(vit)
    entry = isinstance(drop, TokenDrop) and drop.score == "gradient"  # whether tokens want a gradient from block 0 on
    back, whole = None, patches
    for block in range(vit.depth):
        if block == back:
            patches, back = whole, None
        kept = kept_in.get(block, patches)
        if kept == patches:
            price = _block(sizes, sizes.prefix + patches, sizes.prefix + patches)
        else:
            price = _dropping_block(sizes, drop, patches, kept, reached=entry or block != frozen_blocks or not block)
        if block < frozen_blocks:
            price = price.frozen() if entry else price.forward_only()
        total += price
        if kept == patches:
            continue
        if drop.fate in PUT_BACK:
            whole, patches, back = patches, kept, drop.until or block + 1
        else:
            patches = drop.left(kept, patches)
    left = whole if back is not None else patches
    total += _ends(vit, num_classes, left if sizes.pools_tokens else vit.patch_tokens, frozen_blocks, entry)
    if keep is not None and drop.score == "averaged_attention":
        total += _averaged_attention(vit, sizes, score_block % vit.depth)
    # Backward makes two products for each forward one, towards weights and towards inputs. The first convolution
    # needs none towards the images; what carries no gradient needs none.
    return Cost(forward=total.both + total.one + total.none, training=3 * total.both + 2 * total.one + total.none)


@functools.cache
def _counted(vit: Sizes, num_classes: int, drop: Rival, keep: Keep, frozen_blocks: int) -> Cost:
    """Training with that keep; `forward` too is that of training, where a method may do more."""
    drop.reaching(keep, vit.patch_tokens)
    with torch.device("meta"):
        model, teacher = (vit.build(num_classes, "explicit") for _ in range(2))
        freeze(model, frozen_blocks)
        network = drop.network(model.train(), teacher.eval()).train()
    return count(network, torch.empty(2, vit.in_chans, vit.img_size, vit.img_size, device="meta"), keep)


def training_costs(
    vit: Sizes,
    num_classes: int,
    drop: TokenDrop | Rival | None,
    keeps: Sequence[Keep | None],
    sides: Sequence[int] | None = None,
    **details: int,
) -> list[int]:
    """Training operations per image in each epoch t: with keeps[t], on images of sides[t] pixels a side.

    sides: by default the ViT's own. details: frozen_blocks and score_block, as `cost` takes them.
    """
    passes = list(zip(keeps, sides or [vit.img_size] * len(keeps), strict=True))
    price = {
        (keep, side): cost(dataclasses.replace(vit, img_size=side), num_classes, drop, keep, **details).training
        for keep, side in set(passes)
    }
    return [price[one] for one in passes]


def run_training_cost(
    vit: Sizes,
    num_classes: int,
    drop: TokenDrop | Rival | None,
    keeps: Sequence[Keep | None],
    sides: Sequence[int] | None = None,
    **details: int,
) -> tuple[int, int]:
    """Training operations per image summed over epochs: `training_costs`, and with all tokens of whole images."""
    whole = cost(vit, num_classes, **details).training
    return sum(training_costs(vit, num_classes, drop, keeps, sides, **details)), len(keeps) * whole


@dataclass(frozen=True)
class _BlockSizes:
    """A ViT's blocks, all alike: prefix tokens, E, width of all heads, and weights that a token meets after attention
    (projection, gate) and in the MLP. pools_tokens: whether its head attends to all tokens that are left."""

    prefix: int
    width: int
    heads_width: int
    projection: int
    mlp: int
    pools_tokens: bool


@functools.cache
def _block_sizes(vit: Sizes) -> _BlockSizes:
    with torch.device("meta"):
        model = vit.build(1)
    block, attention = model.blocks[0], model.blocks[0].attn
    return _BlockSizes(
        prefix=vit.prefix_tokens,
        width=vit.embed_dim,
        heads_width=attention.qkv.out_features // 3,
        projection=_weights(attention.proj) + _weights(getattr(attention, "gate", None)),
        mlp=_weights(block.mlp),
        pools_tokens=getattr(model, "attn_pool", None) is not None,
    )


def _weights(part: nn.Module | None) -> int:
    """Weights of the linear layers in a part of a block."""
    return sum(m.weight.numel() for m in (part.modules() if part else ()) if isinstance(m, nn.Linear))


@functools.cache
def _ends(vit: Sizes, num_classes: int, patches: int, frozen_blocks: int, entry: bool) -> Operations:
    """Of what stands before the blocks and after them, where `patches` are left; torch counts them."""
    with torch.device("meta"):
        model = vit.build(num_classes, "explicit").train()
        images = torch.empty(2, vit.in_chans, vit.img_size, vit.img_size)  # batch norm wants several values
        wanted = entry or frozen_blocks < vit.depth
        tokens = torch.empty(2, vit.prefix_tokens + patches, vit.embed_dim, requires_grad=wanted)
    freeze(model, frozen_blocks)
    total = Operations()
    for part in (count(functools.partial(vit_parts.embed, model), images), count(model.forward_head, tokens)):
        total += Operations(both=part.training - 2 * part.forward, one=3 * part.forward - part.training)
    return total


@functools.cache
def _averaged_attention(vit: Sizes, block: _BlockSizes, number: int) -> Operations:
    """Of a forward pass up to the class token's attention in a block, with all tokens."""
    with torch.device("meta"):
        model = vit.build(1, "explicit").train()
        images = torch.empty(2, vit.in_chans, vit.img_size, vit.img_size)
    tokens = block.prefix + vit.patch_tokens
    keys = 2 * tokens * block.width * block.heads_width
    before = (
        count(functools.partial(vit_parts.embed, model), images).forward + number * _block(block, tokens, tokens).both
    )
    return Operations(none=before + keys + _query_row(block, tokens))


def _query_row(block: _BlockSizes, tokens: int) -> int:
    """The class token's query and its row of attention to tokens whose keys are there."""
    return 2 * block.width * block.heads_width + 2 * tokens * block.heads_width


def _block(block: _BlockSizes, tokens: int, kept: int, asking: int | None = None) -> Operations:
    """A block that sees `tokens` and lets out `kept`; `asking` have queries, by default the kept ones. With prefix."""
    asking = kept if asking is None else asking
    keys_values = 4 * tokens * block.width * block.heads_width
    queries_out = 2 * asking * (block.width * block.heads_width + block.projection)
    attention = 4 * asking * tokens * block.heads_width
    weights = keys_values + queries_out + 2 * kept * block.mlp
    return Operations(both=weights + attention, weights=weights)


def _dropping_block(block: _BlockSizes, drop: TokenDrop, patches: int, kept: int, reached: bool = True) -> Operations:
    """A block that keeps `kept` of the patch tokens that reach it: scores, the fate of the others, the block itself.

    reached: whether the tokens that reach it want a gradient.
    """
    width, tokens, left = block.width, block.prefix + patches, block.prefix + kept + (drop.fate == "fuse")
    attends_all = drop.attended == "all"
    if not attends_all:
        both = _block(block, left, left)
    elif drop.fate in ("fuse", "merge"):
        both = _block(block, tokens, left, asking=tokens)
    else:
        both = _block(block, tokens, left)
    # Keys or values of all tokens, where attention has not made them already.
    projection, query_row = 2 * tokens * width * block.heads_width, _query_row(block, tokens)
    one, none = 0, 0
    if drop.score in CLASS_ROW:
        none += query_row + projection * (not attends_all) * (2 if drop.score == "class_attention_value" else 1)
    elif drop.score == "attention_received":
        none += projection * (1 if attends_all else 2) + 2 * tokens * tokens * block.heads_width
    elif drop.score == "distance":
        none += 2 * patches * width
    if drop.choice == "greedy":
        none += 2 * patches * kept * width  # each chosen token against all, once
    if drop.fate == "fuse":
        none += query_row + projection * (not attends_all)
        one += 2 * tokens * width
    elif drop.fate == "merge":
        none += 2 * tokens * kept * width
        one += 2 * tokens * (block.prefix + kept) * width
    if not reached and not attends_all:  # reduced before the block
        one, none = 0, none + one
    return both + Operations(one=one, none=none)
