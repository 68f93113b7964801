"""Settings of the model and token drop: change one alone, and look for its own consequence."""

from functools import partial

import pytest
import torch
from reach import collector
from timm.layers import DropPath

CHECKS, reaches = collector()


# model


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


@reaches("drop_path")
def drop_path(bench):
    model = bench.model(drop_path=0.3, depth=3)
    for block, rate in zip(model.blocks, (0.0, 0.15, 0.3)):
        found = [m.drop_prob for m in block.modules() if isinstance(m, DropPath)]
        assert found == pytest.approx([rate] * 2 if rate else [])
    dropped = (model.train().blocks[2].drop_path1(torch.ones(2000, 1, 1)) == 0).float().mean().item()
    assert dropped == pytest.approx(0.3, abs=0.05)
    assert not any(isinstance(module, DropPath) for module in bench.model(drop_path=0.0).modules())


# token drop


@reaches("drop_init", "drop_final", "drop_start", "drop_end", "drop_gamma", "drop_hold")
def curriculum(bench):
    """Of 64 tokens; between start and end the ratio has risen by (part of the way) ** gamma."""
    base = {"epochs": 6, "drop_init": 0.25, "drop_final": 0.5, "drop_start": 1, "drop_end": 5, "drop_gamma": 1.0}
    assert bench.kept(**base) == [48, 48, 44, 40, 36, 32]
    assert bench.kept(**{**base, "drop_init": 0.0}) == [64, 64, 56, 48, 40, 32]
    assert bench.kept(**{**base, "drop_final": 0.75}) == [48, 48, 40, 32, 24, 16]
    assert bench.kept(**{**base, "drop_start": 3}) == [48, 48, 48, 48, 40, 32]
    assert bench.kept(**{**base, "drop_end": 3}) == [48, 48, 40, 32, 32, 32]
    assert bench.kept(**{**base, "drop_gamma": 2.0}) == [48, 48, 47, 44, 39, 32]
    assert bench.kept(**{**base, "drop_hold": False}) == [48, 48, 44, 40, 36, 64]


def note_tokens(seen, number, module, given):
    if module.training:
        seen.setdefault(number, given[0].shape[1])


@reaches("drop_block")
def drop_block(bench):
    for block in (0, 1, 2):
        trainer, seen = bench.trainer(depth=4, drop_block=block, epochs=1, drop_end=0), {}
        for number, module in enumerate(trainer.model.blocks):
            module.register_forward_pre_hook(partial(note_tokens, seen, number))
        next(trainer.epochs())  # the block that drops is run in parts, without its hooks
        assert seen == {number: 65 if number < block else 33 for number in range(4) if number != block}


@pytest.mark.parametrize("name", CHECKS)
def test_the_setting_reaches_what_it_sets(bench, name):
    CHECKS[name](bench)
