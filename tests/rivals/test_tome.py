"""Token merging against its definition, in loops over images and tokens."""

import pytest
import torch
from definition import assert_same_with_gradients, merged
from test_model import small
from test_token_drop import timm_vit

from ptd_core.rivals.tome import ToMeViT, match, merge, pairs_per_block


@pytest.mark.parametrize("kernel", ["fused", "explicit"])
@pytest.mark.parametrize(("keep", "pairs"), [(61, 1), (40, 8), (22, 14), (64, 0)])
def test_merging_is_what_it_is_defined_to_be(kernel, keep, pairs):
    vit = small(attention=kernel).double().eval()
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = torch.cat([merged(vit, image, pairs) for image in images])
    assert_same_with_gradients(vit, ToMeViT(vit)(images, (keep,)), expected)


def test_timm_models_too():
    vit = timm_vit("layer scale and norms of queries and keys").eval()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    expected = torch.cat([merged(vit, image, 12) for image in images])
    torch.testing.assert_close(ToMeViT(vit)(images, (16,)), expected, rtol=1e-8, atol=1e-10)


def test_a_sum_over_merged_tokens_is_the_sum_over_all():
    x = torch.randn(3, 9, 4, dtype=torch.float64)
    stay, go, partner = match(torch.randn(3, 9, 5), 3)
    left = merge(x, stay, go, partner)
    assert left.shape == (3, 6, 4)
    torch.testing.assert_close(left.sum(dim=1), x.sum(dim=1))
    assert (stay[:, 0] == 0).all() and torch.equal(left[:, 0], x[:, 0])  # the class token, untouched


@pytest.mark.parametrize(
    ("tokens", "keep", "blocks", "expected"), [(64, 64, 4, 0), (64, 60, 4, 1), (64, 20, 4, 11), (8, 2, 3, 2)]
)
def test_blocks_share_the_merging(tokens, keep, blocks, expected):
    assert pairs_per_block(tokens, (keep,), blocks) == expected


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ((0,), "from 1 to 64; got"),
        ((65,), "from 1 to 64"),
        ((5, 5), "one number"),
        (5, "a tuple"),
        ((1,), "leaves more"),
    ],
)
def test_what_cannot_be_reached_is_refused(keep, message):
    with pytest.raises(ValueError, match=message):
        ToMeViT(small())(torch.randn(1, 3, 16, 16), keep)


def test_other_prefix_tokens_are_refused():
    with pytest.raises(ValueError, match="the class token alone apart; this ViT has 2 of them"):
        ToMeViT(timm_vit("distilled"))
