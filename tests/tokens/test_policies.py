"""TokenDropViT under every policy against the definitions, run one image at a time; and what contradicts itself."""

import itertools

import definition
import pytest
import timm
import torch
from test_model import small
from test_token_drop import TIMM_SMALL, timm_vit

from ptd_core.saliency import ASK_THE_CLASS_TOKEN, GIVEN, SCORES
from ptd_core.token_drop import ATTENDED, TokenDrop, TokenDropViT
from ptd_core.tokens.fates import FATES

# Of 64 places 24 are nearest to the centre, and then 4: other numbers would cut through places equally far from it.
DRAWN = ("random",)  # no definition tells which tokens these keep
ORDERED = [name for name in SCORES if name not in DRAWN]


def policy(score="class_attention", fate="discard", attended="all", blocks=(0, 2), **rest):
    if fate == "bypass":
        blocks, rest = blocks[:1], {"until": 3, **rest}
    return TokenDrop(blocks, score, fate=fate, attended=attended, **rest)


def assert_as_defined(vit, drop, keep, given=None):
    """Outputs, places and gradients."""
    side = 16 if hasattr(vit, "stem") else 32
    images = torch.randn(2, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    network = TokenDropViT(vit, drop)
    expected, places = definition.run(vit, images, drop, keep, given)
    assert torch.equal(network.run_blocks(images, keep, given)[1], places)
    definition.assert_same_with_gradients(vit, network(images, keep, given), expected, atol=1e-9)


def given_for(score, tokens=64):
    """Values for every place, if the score wants some from outside."""
    return torch.rand(2, tokens, generator=torch.Generator().manual_seed(4)) if score in GIVEN else None


@pytest.fixture(scope="module")
def hybrid():
    return small().double().eval()


@pytest.mark.parametrize("attended", ATTENDED)
@pytest.mark.parametrize("fate", FATES)
def test_every_fate_is_what_it_is_defined_to_be(hybrid, fate, attended):
    drop = policy(fate=fate, attended=attended, blocks=(1,) if fate == "bypass" else (0, 1))
    assert_as_defined(hybrid, drop, (30,) if fate == "bypass" else (40, 17))


@pytest.mark.parametrize("score", ORDERED)
@pytest.mark.parametrize("attended", ATTENDED)
def test_every_score_is_what_it_is_defined_to_be(hybrid, score, attended):
    assert_as_defined(hybrid, policy(score, attended=attended, blocks=(1,)), (24,), given_for(score))


@pytest.mark.parametrize("score", ORDERED)
def test_a_fused_token_is_scored_like_the_others(hybrid, score):
    """It has no place: the centre prior puts it in the middle, given values take their largest for it."""
    assert_as_defined(hybrid, policy(score, "fuse", blocks=(0, 1)), (24, 5), given_for(score))


@pytest.mark.parametrize("kind", ["registers", "layer scale and norms of queries and keys"])
@pytest.mark.parametrize("fate", FATES)
def test_timm_models_too(kind, fate):
    assert_as_defined(timm_vit(kind).eval(), policy("attention_received", fate), (20, 7) if fate != "bypass" else (20,))


@pytest.mark.parametrize("fate", ["discard", "merge", "skip", "bypass"])
def test_without_a_class_token_too(fate):
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", class_token=False, global_pool="avg", **TIMM_SMALL).double().eval()
    assert_as_defined(vit, policy("attention_received", fate), (20, 7) if fate != "bypass" else (20,))


@pytest.mark.parametrize(("fate", "attended"), list(itertools.product(FATES, ATTENDED)))
def test_all_tokens_kept_is_the_plain_vit(fate, attended):
    vit = small().double().eval()
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    network = TokenDropViT(vit, policy(fate=fate, attended=attended))
    keep = (64,) * len(network.drop.blocks)
    torch.testing.assert_close(network(images, keep), vit(images), rtol=1e-12, atol=0)


def test_bypassing_tokens_may_return_after_the_last_block():
    vit = small().double().eval()
    drop = TokenDrop((1,), fate="bypass", until=len(vit.blocks))
    assert_as_defined(vit, drop, (10,))


def test_skipping_leaves_every_token_in_its_place():
    network = TokenDropViT(small(), policy(fate="skip", attended="kept", score="random"))
    tokens, places = network.run_blocks(torch.randn(2, 3, 16, 16), (5, 9))
    assert tokens.shape == (2, 65, 32) and torch.equal(places, torch.arange(64).expand(2, -1))


def test_random_tokens_are_drawn_anew_in_each_block_and_pass():
    network = TokenDropViT(small(), policy(score="random"))
    images = torch.randn(1, 3, 16, 16).expand(4, -1, -1, -1)
    torch.manual_seed(0)
    draws = [network.run_blocks(images, (40, 20))[1] for _ in range(2)]
    rows = [tuple(row.tolist()) for draw in draws for row in draw]
    assert len(set(rows)) == 8  # 4 images, twice
    torch.manual_seed(0)
    assert torch.equal(network.run_blocks(images, (40, 20))[1], draws[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"blocks": ()}, "blocks must be different whole numbers"),
        ({"blocks": (2, 0)}, "ascending"),
        ({"blocks": (-1,)}, "from 0 on"),
        ({"blocks": 1}, "in a tuple"),
        ({"blocks": (True,)}, "whole numbers"),
        ({"blocks": (0.0,)}, "whole numbers"),
        ({"score": "luck"}, "score must be one of class_attention, inverse, .*; got 'luck'"),
        ({"score": "class_atention"}, r"got 'class_atention' \(did you mean class_attention\?\)"),
        ({"choice": "all"}, "choice must be one of top, sample, greedy"),
        ({"fate": "merged"}, r"fate must be one of discard, fuse, merge, skip, bypass; .* \(did you mean merge\?\)"),
        ({"attended": "some"}, "attended must be one of all, kept"),
        ({"choice": "greedy"}, "score must be 'distance'; got 'class_attention'"),
        ({"choice": "sample", "score": "inverse"}, "draws by weights, and the score 'inverse' is none"),
        ({"fate": "bypass"}, "until must be a block after 0, where tokens return; got None"),
        ({"fate": "bypass", "blocks": (2,), "until": 2}, "until must be a block after 2"),
        ({"fate": "bypass", "blocks": (0, 2), "until": 3}, "one route, from one block"),
        ({"until": 3}, "until is of fate = 'bypass' alone"),
    ],
)
def test_impossible_policies_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TokenDrop(**settings)


def test_a_route_beyond_the_last_block_is_refused():
    with pytest.raises(ValueError, match=r"until = 4: this ViT ends after block 2"):
        TokenDropViT(small(), TokenDrop((0,), fate="bypass", until=4))


@pytest.mark.parametrize("score", ASK_THE_CLASS_TOKEN)
def test_scores_of_the_class_token_need_one(score):
    vit = timm.create_model("vit_tiny_patch16_224", class_token=False, global_pool="avg", **TIMM_SMALL)
    with pytest.raises(ValueError, match=f"no class token, and the score {score} is .*such as norm"):
        TokenDropViT(vit, TokenDrop(score=score))
    with pytest.raises(ValueError, match="no class token, and the fate fuse"):
        TokenDropViT(vit, TokenDrop(score="norm", fate="fuse"))


def test_a_given_score_that_nobody_gave_is_refused():
    with pytest.raises(ValueError, match="give its values"):
        TokenDropViT(small(), TokenDrop(score="oracle"))(torch.randn(1, 3, 16, 16), (10,))


def test_keep_may_count_a_fused_token():
    """After 10 kept tokens 11 reach the next drop, the fused one among them."""
    network = TokenDropViT(small(), TokenDrop((0, 2), fate="fuse"))
    assert network.run_blocks(torch.randn(1, 3, 16, 16), (10, 11))[0].shape == (1, 12, 32)
    with pytest.raises(ValueError, match="from 1 to the 11 patch tokens; got 12"):
        network(torch.randn(1, 3, 16, 16), (10, 12))


def test_the_centre_is_that_of_square_images():
    vit = timm.create_model("vit_tiny_patch16_224", **{**TIMM_SMALL, "img_size": (16, 32)}).eval()
    images = torch.rand(2, 3, 16, 32)
    with pytest.raises(ValueError, match="images are 16 x 32: the score centre is that of square ones"):
        TokenDropViT(vit, policy("centre", blocks=(0,)))(images, (8,))
    assert TokenDropViT(vit, policy("norm", blocks=(0,)))(images, (8,)).shape == vit(images).shape
