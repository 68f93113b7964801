"""What a forward pass and a training step cost in floating-point operations, and so what dropping tokens can save.

One multiply-add counts as two operations; only matrix products and convolutions are counted, as
`torch.utils.flop_counter` does. Softmax, norms, activations and the optimizer are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ptd_core.model import STEM_STRIDES, ViTConfig
from ptd_core.token_drop import Keep, TokenDrop


@dataclass(frozen=True)
class Cost:
    """Operations for one image: `forward` in evaluation or training, `training` forward and backward together."""

    forward: int
    training: int


def cost(vit: ViTConfig, num_classes: int, drop: TokenDrop | None = None, keep: Keep | None = None) -> Cost:
    """Operations per image of a HybridViT of that size, run by `drop` with `keep` patch tokens (None: all).

    A block that drops makes keys and values for all tokens that it sees, one query for the class token, and the rest
    for the kept tokens; blocks after it see the kept tokens only. Raises ValueError unless there is one number for
    each dropping block, each at least 1 and at most what the block before has left.
    """
    kept_in = {}
    if keep is not None:
        if drop is None or len(keep) != len(drop.blocks):
            raise ValueError(f"keep must have one number for each dropping block of {drop}; got {keep}")
        kept_in = dict(zip(drop.blocks, keep))
    first, rest = _stem(vit)
    trained = rest + 2 * vit.embed_dim * num_classes
    untrained = 0
    patches = vit.patch_tokens
    for block in range(vit.depth):
        kept = kept_in.get(block, patches)
        if not 1 <= kept <= patches:
            raise ValueError(f"keep must be from 1 to the {patches} patch tokens; got {kept}")
        trained += _block(vit, 1 + patches, 1 + kept)
        if kept < patches:
            untrained += _scores(vit, 1 + patches)
        patches = kept
    # Backward makes two products for each forward one, towards weights and towards inputs. The first convolution
    # needs none towards the images; the scores carry no gradient at all.
    return Cost(forward=first + trained + untrained, training=2 * first + 3 * trained + untrained)


def run_training_cost(
    vit: ViTConfig, num_classes: int, drop: TokenDrop | None, keeps: Sequence[Keep | None]
) -> tuple[int, int]:
    """Training operations per image summed over epochs: with keeps[t] in epoch t, and with all tokens in each."""
    by_keep = {keep: cost(vit, num_classes, drop, keep).training for keep in set(keeps)}
    return sum(by_keep[keep] for keep in keeps), len(keeps) * cost(vit, num_classes).training


def count(model: nn.Module, images: torch.Tensor, keep: Keep | None = None) -> Cost:
    """Operations per image of any model, counted by torch while it runs: no closed form needed, but a forward and
    a backward pass.

    model: called with (images, keep), or with (images) alone where keep is None; images: (B, C, S, S), on the meta
    device if the model is there, which costs no arithmetic. The counter's rule for a fused kernel's backward adds
    the recomputation of its forward, and on the CPU older versions of torch count 0 for it: give explicit attention.
    It is a real step without its update: gradients and statistics of batch norm change.
    """
    with FlopCounterMode(display=False) as counter:
        loss = (model(images) if keep is None else model(images, keep)).sum()
    forward = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        loss.backward()
    return Cost(forward // len(images), (forward + counter.get_total_flops()) // len(images))


def _stem(vit: ViTConfig) -> tuple[int, int]:
    """Operations of the first convolution, and of the other two."""
    side, operations = vit.img_size, []
    for before, after, stride in zip(vit.stem_channels, vit.stem_channels[1:], STEM_STRIDES[vit.stem_stride]):
        side = -(-side // stride)
        operations.append(2 * 9 * before * after * side * side)
    return operations[0], sum(operations[1:])


def _block(vit: ViTConfig, tokens: int, kept: int) -> int:
    """A block that sees `tokens` and lets out `kept`, both with the class token."""
    width = vit.embed_dim
    keys_values = 4 * tokens * width * width
    query_projection = 4 * kept * width * width
    attention = 4 * kept * tokens * width
    mlp = 4 * kept * width * vit.mlp_width
    return keys_values + query_projection + attention + mlp


def _scores(vit: ViTConfig, tokens: int) -> int:
    """The class token's query and its row of attention."""
    return 2 * vit.embed_dim * vit.embed_dim + 2 * tokens * vit.embed_dim
