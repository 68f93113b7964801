"""Token drop as a first reading of the method writes it, to be measured beside this project's."""

import torch
from torch import Tensor, nn

from ptd_core.recipe import Recipe
from ptd_core.rivals.dense import StemTokens


class PlainViT(nn.Module):
    """Token drop as a first reading of the method writes it.

    Attention for all tokens by explicit products, the weights of all heads kept by each block, and the dropped rows
    of the result thrown away afterwards.
    """

    def __init__(self, recipe: Recipe, num_classes: int):
        super().__init__()
        self.drop_block = 0  # as in all that it is compared with
        self.tokens = StemTokens(recipe.vit)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, recipe.embed_dim))
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + recipe.vit.patch_tokens, recipe.embed_dim) * 0.02)
        self.blocks = nn.ModuleList(_PlainBlock(recipe) for _ in range(recipe.depth))
        self.norm = nn.LayerNorm(recipe.embed_dim)
        self.head = nn.Linear(recipe.embed_dim, num_classes)

    def forward(self, images: Tensor, keep: int | None = None) -> Tensor:
        x = self.tokens(images)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        for number, block in enumerate(self.blocks):
            x = block(x, keep if number == self.drop_block else None)
        return self.head(self.norm(x)[:, 0])


class _PlainBlock(nn.Module):
    def __init__(self, recipe: Recipe):
        super().__init__()
        width, hidden = recipe.embed_dim, recipe.vit.mlp_width
        self.heads = recipe.num_heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width, bias=recipe.qkv_bias), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.weights: Tensor | None = None

    def forward(self, x: Tensor, keep: int | None) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        self.weights = torch.softmax(q @ k.transpose(-2, -1) * (width // self.heads) ** -0.5, dim=-1)
        x = x + self.proj((self.weights @ v).transpose(1, 2).reshape(batch, tokens, width))
        if keep is not None and keep < tokens - 1:
            best = self.weights.mean(1)[:, 0, 1:].topk(keep, dim=1).indices + 1
            index = torch.cat([torch.zeros_like(best[:, :1]), best], dim=1)
            x = torch.gather(x, 1, index.unsqueeze(-1).expand(-1, -1, width))
        return x + self.mlp(self.norm2(x))
