"""Scores, several dropping blocks and other ViTs in the saliency explorer, in a real browser, against Python."""

import math

import pytest
import timm
import torch
from conftest import TINY, screenshot
from matplotlib import colormaps
from matplotlib.colors import to_hex
from pages import assert_legible, assert_small_and_alone, press
from test_token_drop import TIMM_SMALL

from ptd_core.data.dataset import Split
from ptd_core.data.load import load
from ptd_core.evaluation.token_maps import token_maps
from ptd_core.recipe import Recipe
from ptd_core.saliency import object_coverage
from ptd_core.token_drop import TokenDrop
from ptd_core.trainer import build_model
from ptd_core.views.dropping import Dropping
from ptd_core.views.explorers import Shown, saliency_page

NAMES = [f"class {number}" for number in range(10)]


@pytest.fixture
def open_models(open_page, tmp_path):
    """A function from token drop and models to their page of 32 x 32 shapes; and the images as models take them."""

    def open_them(dropping, models, side=32, width=1280, given=None):
        split = load("shapes", "", image_size=side, subset=40, test_subset=20).test.part(12)
        split = Split(split.images, split.labels, split.masks)
        inputs = split.images / 255 * 2 - 1
        shown = Shown(split, [NAMES[label] for label in split.labels.tolist()], [True] * len(split))
        text = saliency_page(dropping, shown, models, inputs, NAMES, "a stamp", given)
        assert_small_and_alone(text)
        (tmp_path / "page.html").write_text(text)
        return open_page((tmp_path / "page.html").as_uri(), width=width, offline=True), inputs, split

    return open_them


def timm_vit(**options):
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", **{**TIMM_SMALL, "num_classes": 10, **options}).eval()


def cells(page, kind):
    """Places of the cells of a kind: absent in the map, dropped in the image."""
    found = page.locator(f"rect.{kind}").evaluate_all("all => all.map((c) => [c.y.baseVal.value, c.x.baseVal.value])")
    left = {"absent": 218, "dropped": 502}[kind]
    side = 190 / 8
    return {(round((y - 46) / side), round((x - left) / side)) for y, x in found}


def colours(page):
    return page.locator("rect.saliency").evaluate_all("all => all.map((cell) => cell.getAttribute('fill'))")


def expected_colours(map_GG, from_zero):
    known = map_GG[~map_GG.isnan()].float()
    lowest = 0 if from_zero else known.min()
    levels = (255 * (known - lowest) / (known.max() - lowest)).round().int()
    return [to_hex(colormaps["viridis"](level)) for level in levels.tolist()]


def places(mask_GG):
    return {tuple(place) for place in mask_GG.nonzero().tolist()}


def scores(page):
    return page.locator("#score option").all_text_contents()


SEVERAL = {"drop_blocks": "0, 1", "drop_score": "norm", "drop_fate": "fuse", "epochs": 6, "drop_end": 5}


@pytest.mark.parametrize("width", [1280, 400])
def test_a_run_of_two_drops_is_shown_as_it_drops(width, open_models):
    recipe = Recipe(**{**TINY, **SEVERAL})
    torch.manual_seed(0)
    vit = build_model(recipe, 10).eval()
    page, inputs, split = open_models(Dropping.of(recipe), {"trained": vit, "untrained": vit}, 16, width)
    assert_legible(page, width)
    page.click("[data-image='3']")
    page.select_option("#place", label="1")
    assert_legible(page, width)
    screenshot(page, f"scores_{width}")
    if width == 400:
        page.select_option("#compare", label="untrained")
        assert_legible(page, width)
        return
    keep = recipe.keep_at(0.5)
    first, second = token_maps(vit, recipe.token_drop, keep, inputs)
    summary = page.text_content("#summary")
    assert cells(page, "absent") == places(~first.kept_BGG[3]) and second.reaching == 33
    assert cells(page, "dropped") == places(~second.kept_BGG[3])
    assert colours(page) == expected_colours(second.scores_BGG[3], from_zero=False)
    assert "16 of the 33 tokens that reach block 1 kept (epoch 5, d = 0.5)" in summary
    covered = 100 * object_coverage(second.kept_BGG[3:4], split.masks[3:4])
    assert f"with them {covered:.0f} % of the object" in summary
    assert summary.endswith(
        "In this run blocks 0 and 1 keep tokens by norm; the others are fused into one token that goes on."
    )
    assert page.locator("#head").is_hidden() and page.locator("#ratio").is_hidden()

    page.select_option("#score", label="class attention")  # in the same blocks, with the same fate
    _, other = token_maps(vit, TokenDrop((0, 1), fate="fuse"), keep, inputs)
    assert cells(page, "dropped") == places(~other.kept_BGG[3])
    assert colours(page) == expected_colours(other.scores_BGG[3], from_zero=True)

    press(page, "stop", "Home")
    assert page.text_content("output[for=stop]") == "0.00" and cells(page, "absent") == set()
    assert "64 of 64 tokens kept (drop ratio 0.00)" in page.text_content("#summary")
    press(page, "epoch", "ArrowLeft")  # d = 0.32 is not among the four
    assert "epoch 4, d = 0.32" in page.text_content("#summary")

    page.select_option("#way", label="one block, top scores")
    press(page, "block", "End")
    press(page, "ratio", "ArrowRight", 1)
    assert page.locator("#head").is_visible() and page.locator("#place").is_hidden()
    ratio = float(page.text_content("output[for=ratio]"))
    alone = token_maps(vit, TokenDrop((1,)), (math.floor((1 - ratio) * 64 + 1e-9),), inputs)[0]
    assert cells(page, "dropped") == places(~alone.kept_BGG[3]) and cells(page, "absent") == set()


@pytest.mark.parametrize("choice", ["sample", "greedy"])
def test_choices_that_are_not_the_top_are_those_of_the_network(choice, open_models):
    recipe = Recipe(**{**TINY, "drop_choice": choice, "drop_score": "distance"})
    vit = build_model(recipe, 10).eval()
    page, inputs, _ = open_models(Dropping.of(recipe), {"model": vit}, 16)
    torch.manual_seed(0)  # as the page draws
    (one,) = token_maps(vit, recipe.token_drop, (32,), inputs)
    assert cells(page, "dropped") == places(~one.kept_BGG[0])
    page.select_option("#way", label="one block, top scores")
    (top,) = token_maps(vit, TokenDrop((0,), "distance"), (32,), inputs)
    assert cells(page, "dropped") == places(~top.kept_BGG[0]) != places(~one.kept_BGG[0])


def test_a_timm_vit_has_every_score_and_its_heads(open_models):
    vit, policy = timm_vit(reg_tokens=2), TokenDrop((2,), "attention_received", fate="merge")
    page, inputs, _ = open_models(Dropping.at(policy, 0.5, 64), {"timm": vit})
    assert scores(page) == [
        "attention received", "class attention", "class attention x value", "norm", "L1 norm", "distance"
    ]  # fmt: skip
    (one,) = token_maps(vit, policy, (32,), inputs)
    assert page.text_content("output[for=block]") == "2" and page.locator("#head").is_hidden()
    assert cells(page, "dropped") == places(~one.kept_BGG[0])
    assert colours(page) == expected_colours(one.scores_BGG[0], from_zero=True)
    assert "merged into the kept token most like it" in page.text_content("#summary")
    for number, score in enumerate(("class_attention", "class_attention_value", "norm", "l1_norm", "distance"), 1):
        page.select_option("#score", value=str(number))
        (other,) = token_maps(vit, TokenDrop((2,), score), (32,), inputs)
        assert cells(page, "dropped") == places(~other.kept_BGG[0])
        assert colours(page) == expected_colours(other.scores_BGG[0], from_zero="attention" in score)
        assert page.locator("#head").is_visible() == (score == "class_attention")


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("fate", ["discard", "skip"])
def test_a_vit_without_class_token_is_never_asked_for_its_attention(fate, width, open_models):
    vit, policy = timm_vit(class_token=False, global_pool="avg"), TokenDrop((1, 3), "norm", fate=fate)
    page, inputs, _ = open_models(Dropping.at(policy, 0.5, 64), {"timm": vit}, width=width)
    assert scores(page) == ["norm", "attention received", "L1 norm", "distance"]
    assert "class attention" not in page.text_content("body main")
    assert_legible(page, width)
    page.select_option("#place", label="3")
    assert_legible(page, width)
    screenshot(page, f"scores_no_class_token_{fate}_{width}")
    if width == 1280:
        keep = (32, 16 if fate == "discard" else 32)
        first, second = token_maps(vit, policy, keep, inputs)
        assert cells(page, "absent") == (places(~first.kept_BGG[0]) if fate == "discard" else set())
        assert cells(page, "dropped") == places(~second.kept_BGG[0])


def test_a_vit_without_class_token_or_policy_is_shown_by_attention_received(open_models):
    vit = timm_vit(class_token=False, global_pool="avg")
    dropping = Dropping("plain", None, 0.5, lambda ratio: None)
    page, inputs, _ = open_models(dropping, {"timm": vit})
    assert scores(page)[0] == "attention received"
    (one,) = token_maps(vit, TokenDrop((0,), "attention_received"), (32,), inputs)
    assert cells(page, "dropped") == places(~one.kept_BGG[0])
    assert page.text_content("#summary").endswith("This run drops no token.")


def test_given_scores_are_shown_where_they_are_given(open_models):
    recipe = Recipe(**{**TINY, "drop_score": "gradient"})
    vit = build_model(recipe, 10).eval()
    given = torch.rand(12, 64, generator=torch.Generator().manual_seed(1))
    page, _, _ = open_models(Dropping.of(recipe), {"model": vit}, 16, given={"model": given})
    best = sorted(range(64), key=lambda place: -given[0, place].item())[:32]
    assert cells(page, "dropped") == {divmod(place, 8) for place in range(64) if place not in best}
    page, _, _ = open_models(Dropping.of(recipe), {"model": vit}, 16)
    assert "gradient" not in scores(page) and scores(page)[0] == "class attention"
