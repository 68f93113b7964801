"""Slow and fast tokens against the definition, in loops over images, blocks and tokens."""

import pytest
import timm
import torch
from definition import assert_same_with_gradients, attention_of, whole
from test_model import small
from test_token_drop import TIMM_SMALL, timm_vit

from ptd_core.rivals.evo_vit import EvoViT
from ptd_core.tokens.vit_parts import embed


def followed(vit, image, keep, start):
    """Logits of one image."""
    x, prefix, seen = embed(vit, image.unsqueeze(0))[0], vit.num_prefix_tokens, None
    for number, block in enumerate(vit.blocks):
        if number < start:
            row = attention_of(block, x)[0][:, 0].mean(0)[prefix:].tolist()
            seen = row if seen is None else [(old + new) / 2 for old, new in zip(seen, row)]
            x = whole(block, x)
            continue
        best = sorted(range(len(seen)), key=lambda token: -seen[token])[:keep]
        slow = [*range(prefix), *sorted(token + prefix for token in best)]
        fast = [token for token in range(len(x)) if token not in slow]
        total = sum(seen[token - prefix] for token in fast)
        mean = sum(seen[token - prefix] / total * x[token] for token in fast)
        tokens = torch.stack([*(x[token] for token in slow), mean])
        row = attention_of(block, tokens)[0][:, 0].mean(0).tolist()
        out = whole(block, tokens)
        after = [x[token] + (out[-1] - mean) for token in range(len(x))]
        for place, token in enumerate(slow):
            after[token] = out[place]
            if token >= prefix:
                seen[token - prefix] = (seen[token - prefix] + row[place]) / 2
        x = torch.stack(after)
    return vit.forward_head(vit.norm(x).unsqueeze(0))


def assert_as_defined(vit, images, keep, start):
    expected = torch.cat([followed(vit, image, keep, start) for image in images])
    assert_same_with_gradients(vit, EvoViT(vit, start)(images, (keep,)), expected)


@pytest.mark.parametrize("kernel", ["fused", "explicit"])
@pytest.mark.parametrize("start", [1, 2])
@pytest.mark.parametrize("keep", [1, 30, 63])
def test_fast_tokens_follow_their_mean(kernel, start, keep):
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert_as_defined(small(attention=kernel).double().eval(), images, keep, start)


@pytest.mark.parametrize("kind", ["registers", "layer scale and norms of queries and keys"])
def test_timm_models_too(kind):
    assert_as_defined(timm_vit(kind).eval(), torch.randn(2, 3, 32, 32, dtype=torch.float64), 20, 1)


def test_all_tokens_slow_is_the_plain_vit():
    vit, images = small().double().eval(), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(EvoViT(vit, 1)(images, (64,)), vit(images), rtol=1e-12, atol=0)
    assert torch.equal(EvoViT(vit, 1)(images), vit(images))


@pytest.mark.parametrize("start", [0, 3])
def test_a_start_without_blocks_before_or_after_it_is_refused(start):
    with pytest.raises(ValueError, match=f"start must be a block from 1 to 2; got {start}"):
        EvoViT(small(), start)


def test_what_it_cannot_do_is_refused():
    with pytest.raises(ValueError, match="from 1 to the 64 patch tokens; got 65"):
        EvoViT(small(), 1)(torch.randn(1, 3, 16, 16), (65,))
    with pytest.raises(ValueError, match="a tuple with one number"):
        EvoViT(small(), 1)(torch.randn(1, 3, 16, 16), (5, 5))
    vit = timm.create_model("vit_tiny_patch16_224", class_token=False, global_pool="avg", **TIMM_SMALL)
    with pytest.raises(ValueError, match="no class token, and Evo-ViT chooses by its attention"):
        EvoViT(vit, 1)
