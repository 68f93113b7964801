"""Where a model's class token looks.

Shapes: B images, H heads, G tokens a side (G * G = N patch tokens), S pixels a side.
"""

import torch
from torch import Tensor, nn

from ptd_core.evaluation.accuracy import evaluating
from ptd_core.tokens.vit_parts import class_attention_row


@torch.no_grad()
def attention_maps(vit: nn.Module, images: Tensor, block: int) -> Tensor:
    """The class token's attention to each patch token, per head: normalised images (B, 3, S, S) -> (B, H, G, G).

    vit: any ViT that TokenDropViT takes, here with none of its tokens dropped. On the CPU. Raises ValueError for
    another model, and for images that are not square.
    """
    refuse_unsquare(images)
    with evaluating(vit):
        patches = class_attention_row(vit, images, block)[:, :, vit.num_prefix_tokens :]
    side = round(patches.shape[2] ** 0.5)
    return patches.unflatten(2, (side, side)).cpu()


def refuse_unsquare(images: Tensor) -> None:
    """Raises ValueError for images (B, 3, S, S') that are not square."""
    if images.shape[-1] != images.shape[-2]:
        raise ValueError(f"images must be square; got {tuple(images.shape)}")
