"""Saliency maps, kept tokens and object coverage against brute force."""

import re

import numpy as np
import pytest
import torch

from ptd_core.data.dataset import Split
from ptd_core.evaluation.attention_maps import attention_maps
from ptd_core.evaluation.token_maps import TokenMap, token_maps
from ptd_core.records.history import NAN, EpochRecord
from ptd_core.saliency import kept_mask, object_coverage
from ptd_core.schedule import DropSchedule, Stages
from ptd_core.token_drop import TokenDrop
from ptd_core.tokens.vit_parts import class_attention_row
from ptd_core.trainer import build_model
from ptd_core.views.curves import accuracy_figure, drop_figure
from ptd_core.views.dropping import Dropping, policy_sentence
from ptd_core.views.maps import coverage_figure, saliency_figure, sample_figure


def test_attention_maps_are_the_class_tokens_row_without_itself(tiny):
    model = build_model(tiny(), 10).train()
    images = torch.randn(3, 3, 16, 16)
    maps = attention_maps(model, images, block=1)
    assert maps.shape == (3, 2, 8, 8) and model.training
    rows = class_attention_row(model.eval(), images, 1)
    assert torch.equal(maps.flatten(2), rows[:, :, 1:].detach())
    assert bool((maps.flatten(2).sum(-1) < 1).all())


@pytest.mark.parametrize("keep", [1, 7, 15, 16])
def test_kept_mask_marks_the_highest(keep):
    saliency = torch.rand(5, 4, 4, generator=torch.Generator().manual_seed(1))
    mask = kept_mask(saliency, keep)
    for image in range(5):
        limit = sorted(saliency[image].flatten().tolist(), reverse=True)[keep - 1]
        assert torch.equal(mask[image], saliency[image] >= limit)


def test_object_coverage_counts_pixels():
    kept = torch.tensor([[[True, False], [False, True]]])
    objects = torch.zeros(1, 4, 4, dtype=torch.bool)
    objects[0, 1:3, 0:4] = True
    inside = sum(bool(kept[0, y // 2, x // 2]) for y in range(4) for x in range(4) if objects[0, y, x])
    assert object_coverage(kept, objects) == inside / 8 == 0.5


def test_random_tokens_cover_as_much_as_they_are(tiny_shapes):
    """The diagonal of the coverage figure, on the objects of the generated images."""
    objects = tiny_shapes.train.masks
    saliency = torch.rand(len(objects), 8, 8, generator=torch.Generator().manual_seed(0))
    assert object_coverage(kept_mask(saliency, 32), objects) == pytest.approx(0.5, abs=0.04)


def test_saliency_figure_shows_each_image_with_its_map(tiny_shapes):
    split = Split(tiny_shapes.test.images[:3], tiny_shapes.test.labels[:3], tiny_shapes.test.masks[:3])
    saliency = torch.rand(3, 8, 8)
    maps = [TokenMap(0, saliency, kept_mask(saliency, 20), 64, 20)]
    figure = saliency_figure(split, maps, "class_attention", ["a", "b", "c"], "A sentence.")
    assert figure.get_suptitle() == "A sentence."
    axes = figure.axes
    assert torch.equal(torch.as_tensor(axes[1].images[0].get_array()), split.images[1].permute(1, 2, 0))
    assert torch.allclose(torch.as_tensor(axes[4].images[0].get_array().data), saliency[1])
    assert axes[4].images[0].get_clim() == (0, saliency.max().item())
    assert axes[3].get_ylabel() == "class attention\nblock 0" and axes[6].get_ylabel() == "20 of 64 kept"
    darkened = torch.as_tensor(axes[7].images[0].get_array())
    kept = kept_mask(saliency, 20)[1].repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert torch.equal(darkened[kept], split.images[1].permute(1, 2, 0)[kept])


def test_saliency_figure_of_two_drops_is_grey_where_the_first_dropped(tiny, tiny_shapes):
    split, vit = tiny_shapes.test.part(3), build_model(tiny(), 10)
    maps = token_maps(vit, TokenDrop((0, 1), "norm"), (20, 7), split.images / 255)
    axes = saliency_figure(split, maps, "norm", ["a", "b", "c"]).axes
    assert [axes[row].get_ylabel() for row in (3, 6, 9, 12)] == [
        "norm\nblock 0", "20 of 64 kept", "norm\nblock 1", "7 of 20 kept"
    ]  # fmt: skip
    first, second = (axes[row].images[0].get_array() for row in (4, 10))
    assert not np.ma.getmaskarray(first).any()
    assert np.array_equal(np.ma.getmaskarray(second), ~maps[0].kept_BGG[1].numpy())
    known = maps[1].scores_BGG[~maps[1].scores_BGG.isnan()]
    assert axes[10].images[0].get_clim() == (known.min().item(), known.max().item())


def test_coverage_figure_draws_the_top_scores_of_each_block(tiny, tiny_shapes):
    vit, split = build_model(tiny(), 10), tiny_shapes.test.part(20)
    scores = [
        one.scores_BGG for one in token_maps(vit, TokenDrop((0, 1), "attention_received"), None, split.images / 255)
    ]
    (axes,) = coverage_figure(scores, "attention_received", split.masks, (1,)).axes
    assert [line.get_label() for line in axes.lines] == ["block 0", "block 1 (drops tokens)", "random tokens"]
    assert axes.get_xlabel() == "patch tokens kept (%), by attention received"
    (both,) = coverage_figure(scores, "norm", split.masks, (0, 1)).axes
    assert len({line.get_linestyle() for line in both.lines}) == 3  # told apart without colour
    half = axes.lines[1].get_ydata()[9]
    assert half == pytest.approx(100 * object_coverage(kept_mask(scores[1], 32), split.masks))


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (TokenDrop(), "block 0 keeps tokens by class attention; the others are discarded."),
        (TokenDrop((0, 2), "norm", fate="fuse"), "blocks 0 and 2 keep tokens by norm; .* fused into one token"),
        (TokenDrop((1,), fate="merge"), "each of the others is merged into the kept token most like it"),
        (TokenDrop((1,), "random", fate="skip"), "by random; the others skip the block and return after it"),
        (TokenDrop((1,), fate="bypass", until=4), "the others skip blocks 1 to 3 and return after block 3"),
        (TokenDrop((1,), fate="bypass", until=2), "the others skip block 1 and return after it"),
        (TokenDrop((1,), choice="sample"), "keeps tokens drawn in proportion to class attention"),
        (TokenDrop((1,), "distance", "greedy"), "keeps tokens that spread over the features"),
    ],
)
def test_a_policy_is_told_in_one_sentence(policy, words):
    assert re.match(f"In this run .*{words}", policy_sentence(policy))


def test_runs_without_scores_say_so(tiny):
    assert Dropping.of(tiny(drop_final=0.0)).sentence == "This run drops no token."
    assert "by tome, which does not choose by these scores" in Dropping.of(tiny(drop_method="tome")).sentence


def test_the_last_epoch_that_drops_is_the_one_to_show(tiny):
    recipe = tiny(epochs=6, drop_tail=2)
    assert Dropping.of(recipe).ratio == 0.5 and Dropping.of(recipe).keep_at(0.5) == (32,)


def test_drop_figure_draws_the_schedule_to_the_end_of_the_last_epoch():
    schedule = DropSchedule(init=0.1, final=0.5, start=1, end=3, gamma=1.0)
    left, right = drop_figure(schedule, 4, 100).axes
    assert left.lines[0].get_xydata() == pytest.approx(np.array([[0, 0.1], [1, 0.1], [2, 0.3], [3, 0.5], [4, 0.5]]))
    assert right.lines[0].get_ydata().tolist() == [90, 90, 70, 50, 50]


def test_smaller_images_are_shown_by_what_is_kept_of_whole_ones(tiny):
    """Half of 36 tokens in training is half of the 64 that are shown; the run's own figure has what it kept."""
    recipe = tiny(size_stages="12/16 at 2/1", drop_shape="steps", drop_stages=".5/1 at 2/1")
    assert Dropping.of(recipe).kept == (32, 32, 64) and [recipe.kept_tokens(epoch) for epoch in range(3)] == [
        18,
        18,
        64,
    ]
    _, right = drop_figure(recipe.schedule, 3, 64, kept=[18, 18, 64]).axes
    assert right.lines[0].get_ydata().tolist() == [18, 18, 64, 64]


def test_accuracy_figure_leaves_out_what_was_not_measured():
    def record(epoch, test, ema=NAN, clean=NAN):
        return EpochRecord(epoch, 0.1, 0.0, 64, 2.0, 10.0 + epoch, clean, 2.0, test, NAN, ema, 1.0, 0.1, 1.0, 1.0)

    (axes,) = accuracy_figure([record(0, NAN), record(1, 30.0), record(2, 40.0)]).axes
    drawn = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert drawn == {
        "train, augmented batch, own label": [[1, 10.0], [2, 11.0], [3, 12.0]],
        "test, raw weights": [[2, 30.0], [3, 40.0]],
    }
    for ema, weights in ((NAN, "raw"), (35.0, "averaged")):  # those that the results stand for
        (axes,) = accuracy_figure([record(0, 30.0, ema, clean=40.0)]).axes
        assert f"train, clean images, {weights} weights" in [line.get_label() for line in axes.lines]


def test_drop_figure_has_room_for_every_ratio_of_its_shape():
    """Steps have no use for `final`, by which the axis once ended."""
    schedule = DropSchedule(shape="steps", stages=Stages((0.25, 1.0), (1.0, 1.0)), epochs=4)
    left, _ = drop_figure(schedule, 4, 64).axes
    assert left.lines[0].get_ydata().max() == 0.75 < left.get_ylim()[1]


def test_places_without_an_image_are_empty(tiny_shapes):
    figure = sample_figure(tiny_shapes, tiny_shapes.train.part(8))
    assert [axes.axison for axes in figure.axes[8:]] == [False] * 4 and len(figure.axes) == 12
