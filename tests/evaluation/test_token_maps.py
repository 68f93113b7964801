"""Maps of what a policy sees and keeps, against the definitions of the scores, one image and one token at a time."""

import math

import definition
import pytest
import timm
import torch
from test_model import small
from test_token_drop import TIMM_SMALL, timm_vit

from ptd_core.evaluation.attention_maps import attention_maps
from ptd_core.evaluation.token_maps import comparable_scores, token_maps
from ptd_core.saliency import ASK_THE_CLASS_TOKEN, GIVEN, SCORES
from ptd_core.token_drop import TokenDrop, TokenDropViT
from ptd_core.tokens.vit_parts import embed


def without_class_token():
    torch.manual_seed(0)
    options = {**TIMM_SMALL, "class_token": False, "global_pool": "avg"}
    return timm.create_model("vit_tiny_patch16_224", **options).double()


def images_for(vit, count=3):
    side = 16 if hasattr(vit, "stem") else 32
    return torch.randn(count, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def by_definition(vit, images, drop, keep, given=None):
    """For each dropping block the scores and the kept, as {place: score} and set of places for each image; discard."""
    prefix, kept_in = vit.num_prefix_tokens, dict(zip(drop.blocks, keep))
    scores, kept = {block: [] for block in drop.blocks}, {block: [] for block in drop.blocks}
    for image, x in enumerate(embed(vit, images)):
        places = list(range(len(x) - prefix))
        for number, block in enumerate(vit.blocks):
            weights, values, _ = definition.attention_of(block, x)
            y = definition.whole(block, x)
            if number in kept_in:
                row = definition.score(
                    drop.score, prefix, x, weights, values, places, 8, None if given is None else given[image]
                )
                best = sorted(sorted(range(len(row)), key=lambda token: -row[token])[: kept_in[number]])
                scores[number].append(dict(zip(places, row)))
                kept[number].append({places[token] for token in best})
                y = y[[*range(prefix), *(token + prefix for token in best)]]
                places = [places[token] for token in best]
            x = y
    return scores, kept


@pytest.mark.parametrize("score", [score for score in SCORES if score not in ("random", "centre")])
@pytest.mark.parametrize("kind", ["hybrid", "registers", "without class token"])
def test_maps_are_the_scores_by_definition(kind, score):
    if kind == "without class token" and score in ASK_THE_CLASS_TOKEN:
        pytest.skip("asks the class token")
    vit = {"hybrid": lambda: small().double(), "registers": lambda: timm_vit("registers")}.get(
        kind, without_class_token
    )()
    images, drop, keep = images_for(vit), TokenDrop((0, 2), score), (20, 7)
    given = torch.rand(3, 64, generator=torch.Generator().manual_seed(4)).double() if score in GIVEN else None
    scores, kept = by_definition(vit.eval(), images, drop, keep, given)
    found = token_maps(vit, drop, keep, images, given, batch_size=2)
    assert [(one.block, one.reaching, one.kept) for one in found] == [(0, 64, 20), (2, 20, 7)]
    for one in found:
        for image in range(3):
            cells, truth = one.scores_BGG[image].flatten().tolist(), scores[one.block][image]
            assert {place for place in range(64) if not math.isnan(cells[place])} == set(truth)
            assert [cells[place] for place in truth] == pytest.approx(list(truth.values()), rel=1e-8, abs=1e-12)
            assert set(one.kept_BGG[image].flatten().nonzero().flatten().tolist()) == kept[one.block][image]
    first, second = found
    assert torch.equal(second.scores_BGG.isnan(), ~first.kept_BGG)  # NaN exactly where the first dropped


def test_the_model_stays_in_its_mode_and_there_is_no_gradient():
    vit = small().double().train()
    found = token_maps(vit, TokenDrop((1,)), (9,), images_for(vit).requires_grad_())
    assert vit.training and all(module.training for module in vit.modules()) and not found[0].scores_BGG.requires_grad


def test_with_all_tokens_every_block_scores_all_of_them():
    vit = small().double().eval()
    images = images_for(vit)
    found = token_maps(vit, TokenDrop(tuple(range(3))), None, images)
    for one in found:
        assert bool(one.kept_BGG.all()) and one.reaching == one.kept == 64
        torch.testing.assert_close(one.scores_BGG, attention_maps(vit, images, one.block).mean(1))


@pytest.mark.parametrize("fate", ["fuse", "merge", "skip"])
def test_what_becomes_of_the_others_decides_what_the_next_block_sees(fate):
    vit = small().double().eval()
    first, second = token_maps(vit, TokenDrop((0, 1), fate=fate), (20, 7), images_for(vit))
    reaching = {"fuse": 21, "merge": 20, "skip": 64}[fate]  # the fused token has no place on the map
    assert second.reaching == reaching and (~second.scores_BGG.isnan()).sum().item() == 3 * min(
        reaching, 20 if fate == "fuse" else 64
    )
    assert fate == "skip" or torch.equal(second.scores_BGG.isnan(), ~first.kept_BGG)


@pytest.mark.parametrize("fate", ["discard", "fuse", "merge", "skip"])
def test_a_traced_pass_computes_what_an_untraced_one_does(fate):
    vit = small().double().eval()
    network, images = TokenDropViT(vit, TokenDrop((0, 1), fate=fate)), images_for(vit)
    for keep in (None, (64, 7), (20, 7)):
        trace = []
        traced, untraced = network.run_blocks(images, keep, None, trace), network.run_blocks(images, keep)
        assert torch.equal(traced[0], untraced[0]) and torch.equal(traced[1], untraced[1]) and len(trace) == 2


def test_images_must_be_square():
    with pytest.raises(ValueError, match="must be square"):
        token_maps(small(), TokenDrop(), (9,), torch.randn(1, 3, 16, 32))


def test_scores_to_compare_ask_no_class_token_that_is_not_there():
    assert comparable_scores(True)[0] == "class_attention"
    assert comparable_scores(False)[0] == "attention_received"
    assert not set(comparable_scores(False)) & set(ASK_THE_CLASS_TOKEN)
    assert comparable_scores(True, "norm")[0] == "norm" and comparable_scores(True, "norm").count("norm") == 1
    assert comparable_scores(True, "oracle")[0] == "class_attention"
    assert comparable_scores(True, "oracle", given=True)[:2] == ["oracle", "class_attention"]
