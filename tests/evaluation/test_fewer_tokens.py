"""Trained models on fewer tokens: what comes out against one image at a time, and the share of the object kept."""

import math

import definition
import pytest
import torch
import torch.nn.functional as F

from ptd_core.evaluation.fewer_tokens import Reduced, evaluate
from ptd_core.saliency import object_coverage, places_mask
from ptd_core.token_drop import TokenDrop
from ptd_core.trainer import build_model

PLAIN = {"mixup_alpha": 0.0, "cutmix_alpha": 0.0, "rand_ops": 0}


@pytest.fixture(scope="module")
def sharp():
    """Weights large enough for attention that tells tokens apart."""

    def make(recipe):
        model = build_model(recipe, 10).eval()
        with torch.no_grad():
            for block in model.blocks:
                block.attn.qkv.weight.mul_(5)
        return model

    return make


def reduced(model, recipe, data):
    return Reduced.of(model, recipe, data.train, lambda images: images * 2 - 1)


def outcome(model, recipe, data, keep, **options):
    return evaluate(
        reduced(model, recipe, data), keep, data.test, lambda images: images * 2 - 1, batch_size=25, **options
    )


@pytest.mark.parametrize(
    "settings", [{}, {"drop_fate": "fuse"}, {"drop_blocks": "0, 1"}, {"drop_fate": "skip"}], ids=str
)
def test_outcomes_are_those_of_the_definition(tiny, tiny_shapes, sharp, settings):
    recipe = tiny(**PLAIN, **settings)
    model, keep = sharp(recipe), (20, 9) if "drop_blocks" in settings else (20,)
    images = tiny_shapes.test.images.float() / 255 * 2 - 1
    x, _ = definition.run(model, images, recipe.token_drop, keep)
    found = outcome(model, recipe, tiny_shapes, keep)
    assert found.loss == pytest.approx(F.cross_entropy(x, tiny_shapes.test.labels).item(), rel=1e-5)
    right = (x.argmax(dim=1) == tiny_shapes.test.labels).double().mean().item()
    assert found.accuracy == pytest.approx(100 * right, abs=1e-4)


def test_the_share_of_the_object_is_counted_pixel_by_pixel(tiny, tiny_shapes, sharp):
    recipe = tiny(**PLAIN, drop_block=1)
    model = sharp(recipe)
    images = tiny_shapes.test.images.float() / 255 * 2 - 1
    _, places = definition.run(model, images, TokenDrop((1,)), (20,))
    under, of_object = 0, 0
    for kept, mask in zip(places.tolist(), tiny_shapes.test.masks):
        for y, x in mask.nonzero().tolist():
            of_object += 1
            under += (y // 2) * 8 + x // 2 in kept
    assert outcome(model, recipe, tiny_shapes, (20,)).object_kept == pytest.approx(under / of_object)
    assert 0 < under < of_object


def test_places_are_marked_on_the_grid():
    found = places_mask(torch.tensor([[0, 5, -1], [8, 3, 4]]), 3)  # -1: a token made of several
    assert found.flatten(1).nonzero().tolist() == [[0, 0], [0, 5], [1, 3], [1, 4], [1, 8]]


def test_with_several_blocks_the_last_one_counts(tiny, tiny_shapes, sharp):
    recipe = tiny(**PLAIN, drop_blocks="0, 1")
    model = sharp(recipe)
    images = tiny_shapes.test.images.float() / 255 * 2 - 1
    _, places = definition.run(model, images, recipe.token_drop, (40, 12))
    kept = places_mask(places, 8)
    assert kept.flatten(1).sum(1).tolist() == [12] * len(images)
    expected = object_coverage(kept, tiny_shapes.test.masks)
    assert outcome(model, recipe, tiny_shapes, (40, 12)).object_kept == pytest.approx(expected)


@pytest.mark.parametrize("fate", ["fuse", "merge", "skip", "bypass"])
def test_what_becomes_of_the_others_does_not_change_what_is_kept(tiny, tiny_shapes, sharp, fate):
    until = {"drop_until": 2} if fate == "bypass" else {}
    shares = [
        outcome(sharp(recipe), recipe, tiny_shapes, (20,)).object_kept
        for recipe in (tiny(**PLAIN), tiny(**PLAIN, drop_fate=fate, **until))
    ]
    assert shares[0] == shares[1]


def test_all_tokens_show_the_whole_object_and_merged_ones_nobody_knows_how_much(tiny, tiny_shapes, sharp):
    recipe = tiny(**PLAIN)
    whole = outcome(sharp(recipe), recipe, tiny_shapes, None)
    same = outcome(sharp(recipe), recipe, tiny_shapes, (64,))
    assert whole.object_kept == same.object_kept == 1
    assert (whole.accuracy, whole.loss) == pytest.approx((same.accuracy, same.loss))
    merging = tiny(**PLAIN, drop_method="tome")
    assert math.isnan(outcome(sharp(merging), merging, tiny_shapes, (40,)).object_kept)


def test_the_oracle_is_the_ceiling_and_random_tokens_show_their_share(tiny, tiny_shapes, sharp):
    shares = {}
    for score in ("class_attention", "inverse", "norm", "centre", "random", "gradient", "averaged_attention", "oracle"):
        recipe = tiny(**PLAIN, drop_score=score)
        shares[score] = outcome(sharp(recipe), recipe, tiny_shapes, (20,)).object_kept
    assert max(shares.values()) == shares["oracle"]
    assert shares["random"] == pytest.approx(20 / 64, abs=0.04)


def test_random_draws_follow_from_the_seed(tiny, tiny_shapes, sharp):
    recipe = tiny(**PLAIN, drop_score="random")
    draws = [outcome(sharp(recipe), recipe, tiny_shapes, (20,), seed=seed).loss for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_the_gradient_score_is_learned_from_training_images(tiny, tiny_shapes, sharp):
    """The running mean of gradient x activation, batch by batch, by automatic differentiation of each token."""
    recipe = tiny(**PLAIN, drop_score="gradient", batch_size=80)
    model = sharp(recipe)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    mean = None
    for images, labels in zip(tiny_shapes.train.images.split(80), tiny_shapes.train.labels.split(80)):
        tokens = model.embed(images.float() / 255 * 2 - 1).detach().requires_grad_()
        x = tokens
        for block in model.blocks:
            x = block(x)
        F.cross_entropy(model.forward_head(model.norm(x)), labels).backward()
        saliency = (tokens.grad * tokens).sum(dim=2)[:, 1:].abs().mean(dim=0)
        mean = saliency if mean is None else 0.99 * mean + 0.01 * saliency
    learned = reduced(model, recipe, tiny_shapes).giver.mean_gg
    torch.testing.assert_close(learned.flatten(), mean.detach(), rtol=1e-4, atol=1e-9)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())
