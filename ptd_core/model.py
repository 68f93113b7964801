"""HybridViT: a convolutional stem, a class token, and pre-norm transformer blocks. A plain ViT: it drops no token.

Shapes: B batch, C channels, S pixels a side, N patch tokens, T = 1 + N tokens with the class token first,
E embedding, H heads, D = E / H head dimension.
"""

import dataclasses
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from timm.layers import DropPath, Mlp, resample_abs_pos_embed
from torch import Tensor, nn

from ptd_core.machine.dropout import Dropout
from ptd_core.tokens import vit_parts
from ptd_core.tokens.grid import TokenGrid
from ptd_core.tokens.timm_tools import TimmTools

ATTENTION_KERNELS = ("fused", "explicit")
STEM_STRIDES = {1: (1, 1, 1), 2: (1, 2, 1), 4: (2, 2, 1), 8: (2, 2, 2)}  # of the three convolutions, by their product


@dataclass(frozen=True)
class ViTConfig(TokenGrid):
    """The sizes and rates of a HybridViT; the defaults are the published ones. Raises ValueError if they do not divide.

    img_size, stem_stride: in pixels. stem_width: channels after the first convolution, doubled by the second.
    drop_rate: of dropout. drop_path_rate: of the last block, rising linearly from 0.
    """

    img_size: int = 32
    in_chans: int = 3
    stem_width: int = 64
    stem_stride: int = 2
    embed_dim: int = 192
    depth: int = 6
    num_heads: int = 6
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0

    def __post_init__(self) -> None:
        if self.stem_stride not in STEM_STRIDES:
            raise ValueError(f"stem_stride must be one of {', '.join(map(str, STEM_STRIDES))}; got {self.stem_stride}")
        if self.img_size % self.stem_stride or self.embed_dim % self.num_heads:
            raise ValueError(
                "img_size must be a multiple of stem_stride and embed_dim of num_heads; got "
                f"img_size={self.img_size}, stem_stride={self.stem_stride}, embed_dim={self.embed_dim}, "
                f"num_heads={self.num_heads}"
            )

    prefix_tokens = 1  # the class token

    def build(self, num_classes: int, attention: str = "fused") -> "HybridViT":
        """A model of these sizes."""
        return HybridViT(num_classes, attention=attention, **dataclasses.asdict(self))

    def arguments_of_model(self) -> dict:
        """What `timm.create_model` needs beside the number of classes, without rates of dropout."""
        return {n: v for n, v in dataclasses.asdict(self).items() if n not in ("drop_rate", "drop_path_rate")}

    def check(self, drop) -> None:
        """Any policy of token drop can run a HybridViT."""

    def adapted(self, weights: dict[str, Tensor], vit: nn.Module) -> dict[str, Tensor]:
        """A HybridViT's state dict with its positions interpolated to the grid of `vit`."""
        return {**weights, "pos_embed": resample_abs_pos_embed(weights["pos_embed"], [vit.grid_size] * 2)}

    @property
    def stride(self) -> int:
        """Image pixels per token side."""
        return self.stem_stride

    @property
    def stem_channels(self) -> tuple[int, int, int, int]:
        """Channels before, between and after the three convolutions of the stem."""
        return self.in_chans, self.stem_width, 2 * self.stem_width, self.embed_dim

    @property
    def mlp_width(self) -> int:
        return int(self.mlp_ratio * self.embed_dim)


class ConvStem(nn.Sequential):
    """Three 3x3 convolutions, each with batch norm and ReLU: (B, C, S, S) -> (B, E, S / stride, S / stride)."""

    def __init__(self, config: ViTConfig):
        channels, layers = config.stem_channels, []
        for before, after, stride in zip(channels, channels[1:], STEM_STRIDES[config.stem_stride]):
            layers += [
                nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            ]
        super().__init__(*layers)


class Attention(nn.Module):
    """Multi-head self-attention: softmax(q k' / sqrt(D)) v for each head, then a projection."""

    def __init__(self, config: ViTConfig, kernel: str):
        super().__init__()
        if kernel not in ATTENTION_KERNELS:
            raise ValueError(f"attention kernel must be one of {ATTENTION_KERNELS}; got {kernel!r}")
        self.num_heads = config.num_heads
        self.fused_attn = kernel == "fused"
        self.qkv = nn.Linear(config.embed_dim, 3 * config.embed_dim, bias=config.qkv_bias)
        self.proj = nn.Linear(config.embed_dim, config.embed_dim)
        self.proj_drop = Dropout(config.drop_rate)

    def forward(self, x_BTE: Tensor) -> Tensor:
        qkv = self.qkv(x_BTE).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)  # (B, H, T, D) each
        if self.fused_attn:
            out = F.scaled_dot_product_attention(query, key, value)
        else:
            out = (query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1)).softmax(dim=-1) @ value
        return self.proj_drop(self.proj(out.transpose(1, 2).flatten(2)))


class Block(nn.Module):
    """x + Attention(LayerNorm(x)), then x + MLP(LayerNorm(x)): (B, T, E) -> (B, T, E)."""

    pre_norm = True  # it may be run in parts, as TokenDropViT does

    def __init__(self, config: ViTConfig, drop_path: float, kernel: str):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.embed_dim)
        self.attn = Attention(config, kernel)
        self.drop_path1 = DropPath(drop_path) if drop_path else nn.Identity()
        self.norm2 = nn.LayerNorm(config.embed_dim)
        self.mlp = Mlp(config.embed_dim, config.mlp_width)
        self.mlp.drop1, self.mlp.drop2 = Dropout(config.drop_rate), Dropout(config.drop_rate)
        self.drop_path2 = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x_BTE: Tensor) -> Tensor:
        x_BTE = x_BTE + self.drop_path1(self.attn(self.norm1(x_BTE)))
        return x_BTE + self.drop_path2(self.mlp(self.norm2(x_BTE)))


class HybridViT(TimmTools, nn.Module):
    """Images (B, C, S, S), normalised -> logits (B, num_classes), or the class token (B, E) with num_classes 0.

    sizes: the fields of `ViTConfig`; by default the published size, 3,035,812 parameters for 100 classes.
    attention: "fused" or "explicit". Raises ValueError for sizes that do not divide.
    """

    num_prefix_tokens = 1  # the class token

    def __init__(self, num_classes: int = 100, *, attention: str = "fused", global_pool: str = "token", **sizes):
        super().__init__()
        _check_pool(global_pool)
        self.config = config = ViTConfig(**sizes)
        self.num_classes = num_classes
        self.embed_dim = self.num_features = config.embed_dim
        self.grid_size, self.patch_tokens = config.grid_size, config.patch_tokens
        self.stem = ConvStem(config)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + config.patch_tokens, config.embed_dim))
        self.pos_drop = Dropout(config.drop_rate)
        drop_paths = torch.linspace(0, config.drop_path_rate, config.depth, device="cpu").tolist()
        self.blocks = nn.Sequential(*(Block(config, rate, attention) for rate in drop_paths))
        self.norm = nn.LayerNorm(config.embed_dim)
        self.head = _head(config.embed_dim, num_classes)
        self.apply(_initialise)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: Tensor) -> Tensor:
        """Tokens after the last block and norm: (B, T, E)."""
        x_BTE, run = self.embed(images), vit_parts.runner(self)
        for block in self.blocks:
            x_BTE = run(block, x_BTE)
        return self.norm(x_BTE)

    def embed(self, images: Tensor) -> Tensor:
        """Class token and stem features with positions, as the first block takes them: (B, T, E).

        Positions are interpolated to the grid of images of another side, as timm's models do it. Raises ValueError for
        images that are not square, and for a side that is no multiple of the stem's stride.
        """
        height, width = images.shape[-2:]
        if height != width or width % self.config.stem_stride:
            raise ValueError(f"images must be square, their side a multiple of {self.config.stem_stride} pixels; got "
                             f"{height} x {width}")  # fmt: skip
        patches_BNE = self.stem(images).flatten(2).transpose(1, 2)
        x_BTE = torch.cat([self.cls_token.expand(len(images), -1, -1), patches_BNE], dim=1)
        side = width // self.config.stem_stride
        return self.pos_drop(x_BTE + resample_abs_pos_embed(self.pos_embed, [side, side]))

    def forward_head(self, x_BTE: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits from the class token; with pre_logits the class token itself, as timm's models do."""
        return x_BTE[:, 0] if pre_logits else self.head(x_BTE[:, 0])

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new head for fine-tuning; 0 classes leave the class token. Only class-token pooling exists."""
        _check_pool(global_pool or "token")
        self.num_classes = num_classes
        self.head = _head(self.embed_dim, num_classes).to(self.norm.weight).apply(_initialise)


def _head(embed_dim: int, num_classes: int) -> nn.Module:
    return nn.Linear(embed_dim, num_classes) if num_classes else nn.Identity()


def _check_pool(global_pool: str) -> None:
    if global_pool != "token":
        raise ValueError(f"global_pool must be 'token'; got {global_pool!r}")


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
