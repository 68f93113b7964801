"""The points and pictures of chapter 3 for recipes other than its own."""

import pytest
from conftest import Lines

from ptd_core.chapter import space
from ptd_core.evaluation.methods import methods
from ptd_core.evaluation.token_maps import token_maps
from ptd_core.recipe import Recipe
from ptd_core.run import execute
from ptd_core.saliency import object_coverage
from ptd_core.views.space import traits

PLAIN = {"rand_ops": 0, "mixup_alpha": 0.0, "cutmix_alpha": 0.0, "epochs": 1, "drop_shape": "flat", "dropout": 0.0}


@pytest.fixture
def run(tiny, tiny_shapes):
    return execute(tiny(**PLAIN), Lines(), dataset=tiny_shapes)


def test_points_are_token_drop_by_their_scores_whatever_the_recipe_does(tiny):
    found = space.points(tiny(**PLAIN, drop_method="tome"), ["random", "centre"])
    assert [recipe.drop_method for recipe in found.values()][1:] == ["token_drop"] * 2
    assert list(found) == ["all tokens", "random", "centre"]
    assert found["all tokens"].chapter == "baseline" and found["centre"].drop_score == "centre"


def test_a_recipes_own_score_is_one_of_its_points(tiny):
    found = space.points(tiny(**PLAIN, drop_score="norm", drop_choice="sample"), ["random", "norm"])
    assert list(found) == ["all tokens", "norm", "random"]
    assert {recipe.drop_choice for recipe in list(found.values())[1:]} == {"sample"}
    spread = space.points(tiny(**PLAIN, drop_score="distance", drop_choice="greedy"), ["random"])
    assert spread["distance"].drop_choice == "greedy" and spread["random"].drop_choice == "top"
    late = space.points(tiny(**PLAIN, drop_score="averaged_attention", drop_score_block=1), ["random"])
    assert late["random"].drop_score_block == -1 and late["averaged_attention"].drop_score_block == 1


def test_what_a_recipe_cannot_have_is_named(tiny, capsys):
    found = space.points(tiny(drop_shape="flat"), ["oracle"])
    assert list(found) == ["all tokens", "class_attention"]
    assert "left out: oracle (" in capsys.readouterr().out


@pytest.mark.parametrize(("score", "choice"), [("norm", "top"), ("norm", "sample"), ("oracle", "top")])
def test_the_share_is_of_what_the_run_keeps(tiny, tiny_shapes, score, choice):
    run = execute(tiny(**PLAIN, drop_score=score, drop_choice=choice), Lines(), dataset=tiny_shapes)
    shown = run.trainer.test.part(60)
    share = space._share(run, 60)
    if score == "oracle":
        grid, pixels = 8, 2
        inside = shown.masks.unflatten(1, (grid, pixels)).unflatten(3, (grid, pixels)).sum(dim=(2, 4)).flatten(1)
        best = sum(sum(sorted(row)[-32:]) for row in inside.tolist())
        assert share == pytest.approx(100 * best / shown.masks.sum().item())
    elif choice == "top":
        inputs = run.trainer.normalise(shown.images.float() / 255)
        (kept,) = token_maps(run.model, run.recipe.token_drop, (32,), inputs)
        assert share == 100 * object_coverage(kept.kept_BGG, shown.masks)
    else:
        assert share == space._share(run, 60) and share < 100


def test_methods_that_cannot_leave_half_are_named(run, capsys):
    found = methods(run.recipe.replace(depth=4))
    few = {"tome": found["tome"].replace(image_size=16, stem_stride=8)}  # a pair in each of 4 blocks, or none
    figure = space.fates(run, space.one_image(run, 3), few)
    assert "left out: ToMe keeps all 4 tokens" in capsys.readouterr().out
    assert [axes.get_title() for axes in figure.axes][:1] == ["the image"]
    assert "random_ltd" not in space.methods(run.recipe.replace(depth=4, image_size=16, stem_stride=8))
    assert "left out: random-LTD" in (said := capsys.readouterr().out) and "no multiple of it is below" in said


def test_the_course_of_a_method_does_not_hang_on_the_length_of_the_run():
    long = {name: traits(recipe)["schedule"] for name, recipe in methods(Recipe(epochs=60)).items()}
    assert long == {name: traits(recipe)["schedule"] for name, recipe in methods(Recipe(epochs=2)).items()}
    sizes = Recipe(size_stages="16/32 at 1/1")
    assert long == {name: traits(recipe)["schedule"] for name, recipe in methods(sizes).items()}


def test_a_methods_file_leaves_the_models_own_settings(tiny):
    assert {recipe.drop_path for recipe in methods(tiny(depth=4, drop_path=0.2)).values()} == {0.2}
