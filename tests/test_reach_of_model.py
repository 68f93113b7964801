"""Settings of the model: change one alone, and look for its own consequence."""

import pytest
import torch
from conftest import TINY
from reach import collector
from timm.layers import DropPath
from timm.models.vision_transformer import VisionTransformer

from ptd_core.model import HybridViT
from ptd_core.recipe import Recipe

CHECKS, reaches = collector()


# model

TIMM = {name: Recipe.model_fields[name].default for name in TINY if name in ("stem_width", "stem_stride", "embed_dim",
        "depth", "num_heads")} | {"model": "vit_tiny_patch16_224", "model_args": "patch_size=4, depth=2"}  # fmt: skip


@reaches("model", "model_args")
def model_and_its_arguments(bench):
    found = bench.model(**TIMM)
    assert type(found) is VisionTransformer and (found.embed_dim, found.blocks[0].attn.num_heads) == (192, 3)
    assert (len(found.blocks), found.patch_embed.proj.kernel_size) == (2, (4, 4))
    heads = {**TIMM, "model_args": "patch_size=8, depth=1, num_heads=6"}
    assert bench.model(**heads).blocks[0].attn.num_heads == 6
    assert bench.model(**{**heads, "model": "vit_small_patch16_224"}).embed_dim == 384
    assert type(bench.model()) is HybridViT


@reaches("weights")
def weights(bench):
    file = bench.folder / "some.pt"
    torch.save(bench.model(seed=3).state_dict(), file)
    begun, own = bench.trainer(weights=str(file)), bench.trainer(seed=3)
    for found in (begun.model, begun.averaged.module):
        assert all(torch.equal(one, two) for one, two in zip(found.parameters(), own.model.parameters()))


@reaches("stem_width")
def stem_width(bench):
    for width in (4, 6):
        convolutions = [m for m in bench.model(stem_width=width).stem if isinstance(m, torch.nn.Conv2d)]
        assert [m.out_channels for m in convolutions] == [width, 2 * width, 16]


@reaches("stem_stride")
def stem_stride(bench):
    for stride in (2, 4):
        assert bench.model(stem_stride=stride).stem(torch.zeros(2, 3, 16, 16)).shape == (
            2,
            16,
            16 // stride,
            16 // stride,
        )


@reaches("embed_dim")
def embed_dim(bench):
    for width in (16, 24):
        model = bench.model(embed_dim=width)
        assert model.cls_token.shape == (1, 1, width) and model.head.in_features == width


@reaches("depth")
def depth(bench):
    assert [len(bench.model(depth=depth).blocks) for depth in (1, 3)] == [1, 3]


@reaches("num_heads")
def num_heads(bench):
    for heads in (1, 4):
        assert [block.attn.num_heads for block in bench.model(num_heads=heads).blocks] == [heads] * 2


@reaches("mlp_ratio")
def mlp_ratio(bench):
    for ratio in (0.5, 3.0):
        assert [block.mlp.fc1.out_features for block in bench.model(mlp_ratio=ratio).blocks] == [int(16 * ratio)] * 2


@reaches("qkv_bias")
def qkv_bias(bench):
    for bias in (True, False):
        assert {block.attn.qkv.bias is not None for block in bench.model(qkv_bias=bias).blocks} == {bias}


@reaches("dropout")
def dropout(bench):
    """After positions, after each block's attention, and twice in its MLP."""
    for rate in (0.0, 0.2):
        rates = [m.p for m in bench.model(dropout=rate).modules() if isinstance(m, torch.nn.Dropout)]
        assert rates[:1] + rates[-6:] == [rate] * 7 and set(rates) == {rate}
    x = torch.ones(4, 65, 16)
    dropped = (bench.model(dropout=0.2).train().pos_drop(x) == 0).float().mean().item()
    assert dropped == pytest.approx(0.2, abs=0.03)
    vit = bench.model(**TIMM, dropout=0.2)
    parts = [
        vit.pos_drop,
        vit.head_drop,
        vit.blocks[0].attn.proj_drop,
        vit.blocks[1].mlp.drop1,
        vit.blocks[1].mlp.drop2,
    ]
    assert [part.p for part in parts] == [0.2] * 5 and vit.blocks[0].attn.attn_drop.p == 0


@reaches("drop_path")
def drop_path(bench):
    model = bench.model(drop_path=0.3, depth=3)
    for block, rate in zip(model.blocks, (0.0, 0.15, 0.3)):
        found = [m.drop_prob for m in block.modules() if isinstance(m, DropPath)]
        assert found == pytest.approx([rate] * 2 if rate else [])
    dropped = (model.train().blocks[2].drop_path1(torch.ones(2000, 1, 1)) == 0).float().mean().item()
    assert dropped == pytest.approx(0.3, abs=0.05)
    assert not any(isinstance(module, DropPath) for module in bench.model(drop_path=0.0).modules())
    assert bench.model(**TIMM, drop_path=0.3).blocks[1].drop_path2.drop_prob == pytest.approx(0.3)


@pytest.mark.parametrize("name", CHECKS)
def test_the_setting_reaches_what_it_sets(bench, name):
    CHECKS[name](bench)
