"""HybridViT: a convolutional stem, a class token, and pre-norm transformer blocks, one of which can drop tokens.

Shapes: B batch, C channels, N patch tokens, T = 1 + N tokens with the class token first, K kept tokens with the
class token, E embedding, H heads, D = E / H head dimension.
"""

import torch
import torch.nn.functional as F
from timm.layers import DropPath, Mlp
from timm.models import register_model
from torch import Tensor, nn

from ptd_core.machine.dropout import Dropout
from ptd_core.saliency import class_attention, gather_tokens, kept_tokens, patch_scores

ATTENTION_KERNELS = ("fused", "explicit")


class ConvStem(nn.Sequential):
    """Three 3x3 convolutions, each with batch norm and ReLU: (B, 3, S, S) -> (B, E, S / stride, S / stride).

    Stride 2 stands in the second convolution; 4 in the first two; 8 in all three; 1 in none.
    """

    def __init__(self, width: int, embed_dim: int, stride: int):
        strides = {1: (1, 1, 1), 2: (1, 2, 1), 4: (2, 2, 1), 8: (2, 2, 2)}[stride]
        channels = (3, width, 2 * width, embed_dim)
        layers = []
        for before, after, step in zip(channels, channels[1:], strides):
            layers += [
                nn.Conv2d(before, after, 3, stride=step, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            ]
        super().__init__(*layers)


class Attention(nn.Module):
    """Multi-head self-attention that can answer for a few tokens only.

    With `keep`, keys and values are made for all T tokens, but queries only for the class token, whose attention
    row gives the saliency, and then for the tokens kept. The result equals attention for all tokens followed by
    a gather of the kept ones, at less cost.
    """

    def __init__(self, embed_dim: int, num_heads: int, qkv_bias: bool, dropout: float, kernel: str):
        super().__init__()
        if kernel not in ATTENTION_KERNELS:
            raise ValueError(f"attention kernel must be one of {ATTENTION_KERNELS}; got {kernel!r}")
        self.num_heads = num_heads
        self.kernel = kernel
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim, bias=qkv_bias)
        self.proj = nn.Linear(embed_dim, embed_dim)
        self.proj_drop = Dropout(dropout)

    def forward(self, x_BTE: Tensor, keep: int | None = None) -> tuple[Tensor, Tensor | None]:
        """Attention output for all tokens and None, or for the kept ones (B, K, E) and their indices (B, K)."""
        if keep is None:
            query, key, value = self._heads(self.qkv(x_BTE), 3)
            return self._output(query, key, value), None
        key, value = self._heads(self._project(x_BTE, 1, 3), 2)
        index_BK = self._select(x_BTE, key, keep)
        (query,) = self._heads(self._project(gather_tokens(x_BTE, index_BK), 0, 1), 1)
        return self._output(query, key, value), index_BK

    def class_attention(self, x_BTE: Tensor, key_BHTD: Tensor | None = None) -> Tensor:
        """The class token's attention row for each head: (B, H, T)."""
        if key_BHTD is None:
            (key_BHTD,) = self._heads(self._project(x_BTE, 1, 2), 1)
        (query,) = self._heads(self._project(x_BTE[:, :1], 0, 1), 1)
        return class_attention(query, key_BHTD)

    @torch.no_grad()
    def _select(self, x_BTE: Tensor, key_BHTD: Tensor, keep: int) -> Tensor:
        return kept_tokens(patch_scores(self.class_attention(x_BTE, key_BHTD)), keep)

    def _project(self, x: Tensor, first: int, last: int) -> Tensor:
        """Some of the three projections of `qkv`, which lie one above the other in its weight: 0 q, 1 k, 2 v."""
        rows = slice(first * x.shape[-1], last * x.shape[-1])
        return F.linear(x, self.qkv.weight[rows], None if self.qkv.bias is None else self.qkv.bias[rows])

    def _heads(self, projected: Tensor, parts: int) -> tuple[Tensor, ...]:
        batch, tokens, _ = projected.shape
        return projected.view(batch, tokens, parts, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)

    def _output(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if self.kernel == "fused":
            out = F.scaled_dot_product_attention(query, key, value)
        else:
            out = (query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1)).softmax(dim=-1) @ value
        return self.proj_drop(self.proj(out.transpose(1, 2).flatten(2)))


class Block(nn.Module):
    """x + Attention(LayerNorm(x)), then x + MLP(LayerNorm(x)); with `keep`, only the kept tokens come out."""

    def __init__(self, embed_dim, num_heads, mlp_ratio, qkv_bias, dropout, drop_path, kernel):
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim)
        self.attn = Attention(embed_dim, num_heads, qkv_bias, dropout, kernel)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.mlp = Mlp(embed_dim, int(mlp_ratio * embed_dim))
        self.mlp.drop1, self.mlp.drop2 = Dropout(dropout), Dropout(dropout)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x_BTE: Tensor, keep: int | None = None) -> Tensor:
        attended, index_BK = self.attn(self.norm1(x_BTE), keep)
        if index_BK is not None:
            x_BTE = gather_tokens(x_BTE, index_BK)
        x_BTE = x_BTE + self.drop_path(attended)
        return x_BTE + self.drop_path(self.mlp(self.norm2(x_BTE)))


class HybridViT(nn.Module):
    """Images (B, 3, S, S), normalised -> logits (B, classes).

    `drop_block` is the block that drops tokens when `forward` is told to keep fewer than N; it holds no state, so
    a model trained with token drop and one trained without share one state dict and, in evaluation, one function.
    The defaults are the published size: 3,035,812 parameters for 100 classes. Raises ValueError for sizes that do
    not divide.
    """

    def __init__(
        self,
        num_classes: int = 100,
        img_size: int = 32,
        stem_width: int = 64,
        stem_stride: int = 2,
        embed_dim: int = 192,
        depth: int = 6,
        num_heads: int = 6,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        drop_block: int = 0,
        attention: str = "fused",
    ):
        super().__init__()
        if img_size % stem_stride or embed_dim % num_heads or not 0 <= drop_block < depth:
            raise ValueError(
                "img_size must be a multiple of stem_stride, embed_dim of num_heads, and drop_block below depth; got "
                f"{img_size=}, {stem_stride=}, {embed_dim=}, {num_heads=}, {drop_block=}, {depth=}"
            )
        self.num_classes = num_classes
        self.embed_dim = self.num_features = embed_dim
        self.grid_size = img_size // stem_stride
        self.drop_block = drop_block
        self.stem = ConvStem(stem_width, embed_dim, stem_stride)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.patch_tokens, embed_dim))
        self.pos_drop = Dropout(drop_rate)
        drop_paths = torch.linspace(0, drop_path_rate, depth).tolist()
        self.blocks = nn.ModuleList(
            Block(embed_dim, num_heads, mlp_ratio, qkv_bias, drop_rate, rate, attention) for rate in drop_paths
        )
        self.norm = nn.LayerNorm(embed_dim)
        self.head = nn.Linear(embed_dim, num_classes)
        self.apply(_initialise)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    @property
    def patch_tokens(self) -> int:
        """N."""
        return self.grid_size**2

    def forward(self, images: Tensor, keep: int | None = None) -> Tensor:
        """Logits. `keep`: patch tokens to keep in training, 1 to N or None for all; without effect in evaluation."""
        return self.forward_head(self.forward_features(images, keep))

    def forward_features(self, images: Tensor, keep: int | None = None) -> Tensor:
        """Tokens after the last block and norm: (B, T, E), or (B, 1 + keep, E) where tokens were dropped."""
        if keep is not None and not 1 <= keep <= self.patch_tokens:
            raise ValueError(f"keep must be from 1 to the {self.patch_tokens} patch tokens; got {keep}")
        dropping = self.training and keep is not None and keep < self.patch_tokens
        x_BTE = self.tokens(images)
        for number, block in enumerate(self.blocks):
            x_BTE = block(x_BTE, keep if dropping and number == self.drop_block else None)
        return self.norm(x_BTE)

    def forward_head(self, x_BTE: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits from the class token; with pre_logits the class token itself, as timm's models do."""
        return x_BTE[:, 0] if pre_logits else self.head(x_BTE[:, 0])

    def tokens(self, images: Tensor) -> Tensor:
        """Class token and stem features with positions, as the first block sees them: (B, T, E)."""
        patches_BNE = self.stem(images).flatten(2).transpose(1, 2)
        x_BTE = torch.cat([self.cls_token.expand(len(images), -1, -1), patches_BNE], dim=1)
        return self.pos_drop(x_BTE + self.pos_embed)

    def class_attention(self, images: Tensor, block: int) -> Tensor:
        """The class token's attention in one block for all tokens, per head: (B, H, T), rows sum to 1."""
        x_BTE = self.tokens(images)
        for earlier in self.blocks[:block]:
            x_BTE = earlier(x_BTE)
        return self.blocks[block].attn.class_attention(self.blocks[block].norm1(x_BTE))

    def get_classifier(self) -> nn.Module:
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new head for fine-tuning; 0 classes leave the class token. Only class-token pooling exists."""
        if global_pool not in (None, "token"):
            raise ValueError(f"global_pool must be 'token'; got {global_pool!r}")
        self.num_classes = num_classes
        self.head = nn.Linear(self.embed_dim, num_classes) if num_classes else nn.Identity()
        self.head.to(self.norm.weight.device).apply(_initialise)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


@register_model
def hybrid_vit(pretrained: bool = False, **kwargs) -> HybridViT:
    """`timm.create_model("hybrid_vit")` once `ptd_core.model` is imported. There are no published weights."""
    if pretrained:
        raise ValueError("hybrid_vit has no pretrained weights; use pretrained=False")
    for timm_only in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
        kwargs.pop(timm_only, None)
    return HybridViT(**kwargs)
