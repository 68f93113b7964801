"""What others would train in place of `HybridViT`: the same sizes, the same stem, other code for the rest."""

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ptd_core.model import ConvStem, ViTConfig
from ptd_core.tokens.reaching import Keep


def timm_vit(vit: ViTConfig, num_classes: int, patch_drop_rate: float = 0.0, attention: str = "fused") -> nn.Module:
    """timm's VisionTransformer behind this project's stem.

    patch_drop_rate: its random token drop, before block 0. attention: "fused", its default, or "explicit" products.
    """
    model = VisionTransformer(
        img_size=vit.img_size,
        patch_size=vit.stem_stride,
        num_classes=num_classes,
        embed_dim=vit.embed_dim,
        depth=vit.depth,
        num_heads=vit.num_heads,
        mlp_ratio=vit.mlp_ratio,
        qkv_bias=vit.qkv_bias,
        proj_drop_rate=vit.drop_rate,
        drop_path_rate=vit.drop_path_rate,
        patch_drop_rate=patch_drop_rate,
    )
    model.patch_embed = StemTokens(vit)
    for block in model.blocks:
        block.attn.fused_attn = attention == "fused"
    return _AllTokens(model)


def encoder_vit(vit: ViTConfig, num_classes: int) -> nn.Module:
    """torch.nn.TransformerEncoder of pre-norm layers between this project's stem and a linear head."""
    return _AllTokens(_EncoderViT(vit, num_classes))


class StemTokens(nn.Module):
    """Images (B, 3, S, S) -> patch tokens (B, N, E)."""

    def __init__(self, vit: ViTConfig):
        super().__init__()
        self.stem = ConvStem(vit)

    def forward(self, images: Tensor) -> Tensor:
        return self.stem(images).flatten(2).transpose(1, 2)


class _EncoderViT(nn.Module):
    def __init__(self, vit: ViTConfig, num_classes: int):
        super().__init__()
        width = vit.embed_dim
        self.tokens = StemTokens(vit)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + vit.patch_tokens, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, vit.num_heads, vit.mlp_width, vit.drop_rate, "gelu",
            batch_first=True, norm_first=True,
        )  # fmt: skip
        self.encoder = nn.TransformerEncoder(layer, vit.depth, nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.tokens(images)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        return self.head(self.encoder(x)[:, 0])


class _AllTokens(nn.Module):
    """Lets a model that knows no `keep` stand where `HybridViT` does."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, keep: Keep | None = None) -> Tensor:
        return self.model(images)
