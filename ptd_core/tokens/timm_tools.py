"""What timm's tools ask a model for, beside running it: features of blocks, layers of parameters, its head.

Shapes: B batch, C channels, S pixels a side, P prefix tokens, N patch tokens, G of them a side, E embedding.
"""

import math

from timm.models._features import feature_take_indices
from torch import Tensor, nn


class TimmTools:
    """For a ViT with `embed`, `blocks`, `norm`, `head` and a class token."""

    grad_checkpointing = False

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute the blocks' activations again in the backward pass, in place of keeping them."""
        self.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict:
        """timm's layers of parameters: stem, class token and positions; each block; with the last one the last norm."""
        return {
            "stem": r"^cls_token|pos_embed|stem",
            "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))],  # the number puts it to the layer before
        }

    def get_classifier(self) -> nn.Module:
        return self.head

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ):
        """Features after several blocks, as timm's `VisionTransformer.forward_intermediates` gives them.

        indices: blocks (the last n for an int, all for None). Each is (B, E, G, G), or (B, N, E) with output_fmt
        "NLC"; with return_prefix_tokens a pair with the class token (B, 1, E). Returns (tokens after the last block
        and norm, list of features), or the list alone with intermediates_only.
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise ValueError(f"output_fmt must be 'NCHW' or 'NLC'; got {output_fmt!r}")
        wanted, last = feature_take_indices(len(self.blocks), indices)
        x, features = self.embed(x), []
        for number, block in enumerate(self.blocks[: last + 1] if stop_early else self.blocks):
            x = block(x)
            if number in wanted:
                y = self.norm(x) if norm else x
                patches = y[:, 1:]
                if output_fmt == "NCHW":
                    patches = patches.transpose(1, 2).unflatten(2, (math.isqrt(patches.shape[1]), -1)).contiguous()
                features.append((patches, y[:, :1]) if return_prefix_tokens else patches)
        return features if intermediates_only else (self.norm(x), features)
