"""What stands in the explorers' pages; the schedule explorer in a real browser against schedule.py and cost.py."""

import base64
import io
import json
import random
import re

import numpy as np
import pytest
import torch
from conftest import screenshot
from pages import PUBLISHED_SIZES, assert_legible, assert_small_and_alone, press
from PIL import Image

from ptd_core.cost import cost
from ptd_core.recipe import Recipe
from ptd_core.token_drop import TokenDrop
from ptd_core.views.explorers import cost_of_kept, schedule_page
from ptd_core.views.pictures import outline_path, png_address, shrink


@pytest.fixture
def open_schedule(open_page, tmp_path):
    def open_recipe(recipe: Recipe, classes: int = 10):
        path = tmp_path / "schedule.html"
        path.write_text(schedule_page(recipe, classes), encoding="utf-8")
        return open_page(path.as_uri(), offline=True)

    return open_recipe


@pytest.mark.parametrize("sizes", [{}, {"stem_stride": 2, "depth": 3, "mlp_ratio": 2.5}, {"stem_stride": 8}])
def test_three_coefficients_give_the_cost_at_every_number_of_tokens(sizes):
    recipe = Recipe(**sizes)
    vit = recipe.vit
    for block in range(vit.depth):
        constant, linear, quadratic = cost_of_kept(recipe, 10, block)
        for keep in range(1, vit.patch_tokens):
            expected = cost(vit, 10, TokenDrop(blocks=(block,)), (keep,)).training
            assert constant + linear * keep + quadratic * keep**2 == expected


def test_outline_follows_every_edge_of_the_mask():
    mask = torch.zeros(3, 3, dtype=torch.bool)
    mask[1, 1] = True
    assert set(re.findall(r"M[^M]+", outline_path(mask))) == {"M1 1h1", "M1 2h1", "M1 1v1", "M2 1v1"}


def test_images_in_pages_are_lossless_and_large_ones_reduced():
    image = torch.randint(0, 256, (3, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    read = Image.open(io.BytesIO(base64.b64decode(png_address(image).partition(",")[2])))
    assert np.array_equal(np.asarray(read), image.permute(1, 2, 0).numpy())
    assert shrink(image, 20) is image
    assert torch.equal(shrink(image.repeat_interleave(2, 1).repeat_interleave(2, 2), 20), image)


def test_page_stays_small_and_needs_no_network():
    assert_small_and_alone(schedule_page(PUBLISHED_SIZES, 100))


@pytest.mark.parametrize("stem_stride", [1, 2, 4, 8])
def test_browser_computes_what_python_computes(stem_stride, open_schedule):
    base = Recipe(stem_stride=stem_stride, depth=3)
    page = open_schedule(base)
    rng = random.Random(stem_stride)
    cases = []
    for _ in range(60):
        start = rng.randint(0, 120)
        cases.append({
            "drop_init": rng.randint(0, 93) / 100,
            "drop_final": rng.randint(0, 93) / 100,
            "drop_start": start,
            "drop_end": start + rng.choice([0, 1, 4, 9, 16, 64, 100]),
            "drop_gamma": rng.choice([0.5, 1.0, 1.5, 2.0, 3.0, rng.randint(1, 60) / 10]),
            "drop_hold": rng.random() < 0.8,
            "drop_block": rng.randint(0, 2),
            "epochs": rng.randint(1, 200),
        })  # fmt: skip
    computed = page.evaluate(
        """(cases) => cases.map((settings) => {
            const { ratios, kept, withDrop, without } = runOfSchedule(settings, data);
            return { ratios, kept, withDrop: String(withDrop), without: String(without) };
        })""",
        cases,
    )
    for settings, found in zip(cases, computed, strict=True):
        recipe = base.replace(**settings)
        epochs = range(recipe.epochs)
        assert found["kept"] == [recipe.kept_tokens(epoch) for epoch in epochs], settings
        assert found["ratios"] == pytest.approx([recipe.schedule.ratio(epoch) for epoch in epochs], abs=1e-15)
        assert (int(found["withDrop"]), int(found["without"])) == recipe.training_cost(10), settings


def test_published_prediction_is_the_one_of_the_tests_of_cost(open_schedule):
    recipe = Recipe(stem_width=64, stem_stride=2, embed_dim=192, depth=6, num_heads=6, epochs=200, drop_start=40,
                    drop_end=140)  # fmt: skip
    page = open_schedule(recipe, 100)
    with_drop, without = recipe.training_cost(100)
    assert f"{without / with_drop:.3f}x faster, predicted from operations" in page.text_content("#summary")
    press(page, "drop_block", "ArrowRight", 2)
    with_drop, without = recipe.replace(drop_block=2).training_cost(100)
    assert f"{100 * (1 - with_drop / without):.1f} %" in page.text_content("#summary")
    screenshot(page, "schedule_published")


def test_sliders_move_the_curve_and_the_yaml_is_a_recipe(open_schedule, tmp_path):
    recipe = Recipe(dataset="cifar100", data_dir="somewhere", lr=1e-5)
    page = open_schedule(recipe, 100)
    curve = "path.chosen[data-quantity=kept]"
    before, kept = page.get_attribute(curve, "d"), page.get_attribute("svg.picture", "data-kept")
    press(page, "drop_final", "ArrowRight", 3)
    assert page.text_content("output[for=drop_final]") == "0.38"
    assert page.get_attribute(curve, "d") != before and page.get_attribute("svg.picture", "data-kept") != kept
    press(page, "drop_start", "End")  # pushes the end of the window with it
    press(page, "drop_start", "ArrowLeft", 15)
    press(page, "drop_end", "ArrowLeft", 18)
    press(page, "drop_gamma", "ArrowLeft", 5)
    press(page, "drop_block", "End")
    page.click("#copy-yaml")
    page.wait_for_function("document.getElementById('copied').textContent")
    file = tmp_path / "copied.yaml"
    file.write_text(page.input_value("#yaml"))
    read = Recipe.from_yaml(file)
    changed = {"drop_final": 0.38, "drop_start": 2, "drop_end": 2, "drop_gamma": 1.5, "drop_block": 3}
    assert read.settings() == {**recipe.settings(), **changed}
    page.click("#reset")
    assert page.get_attribute("svg.picture", "data-kept") == kept


def test_the_page_starts_and_starts_again_at_numbers_between_and_beyond_the_steps(open_schedule, tmp_path):
    model = "patch_size=4,depth=2,embed_dim=48,num_heads=3,class_token=True,global_pool=token,init_values=0.1"
    recipe = Recipe(drop_start=0, drop_end=0, drop_final=0.0156, drop_gamma=8.25, model="vit_tiny_patch16_224",
                    model_args=model)  # fmt: skip
    page = open_schedule(recipe)
    file = tmp_path / "own.yaml"
    for _ in range(2):
        assert page.get_attribute("svg.picture", "data-kept").split() == ["63"] * recipe.epochs
        assert page.text_content("output[for=drop_final]") == "0.0156"
        file.write_text(page.input_value("#yaml"))
        assert Recipe.from_yaml(file).settings() == recipe.settings()
        press(page, "drop_final", "ArrowRight", 2)
        assert page.get_attribute("svg.picture", "data-kept").split() != ["63"] * recipe.epochs
        page.click("#reset")


@pytest.mark.parametrize("image_size", [8, 16, 24])
def test_sliders_end_where_recipes_do(image_size, open_schedule, tmp_path):
    page = open_schedule(Recipe(image_size=image_size, stem_stride=8, drop_final=0.0))
    press(page, "drop_final", "End")
    file = tmp_path / "most.yaml"
    file.write_text(page.input_value("#yaml"))
    assert Recipe.from_yaml(file).drop_final == {8: 0.0, 16: 0.75, 24: 0.88}[image_size]


@pytest.mark.parametrize("width", [1280, 800, 400])
def test_page_is_legible_at_every_width(width, open_schedule):
    page = open_schedule(Recipe())
    page.set_viewport_size({"width": width, "height": 900})
    page.wait_for_function(
        "document.querySelector('svg.picture').viewBox.baseVal.width === (innerWidth < 560 ? 360 : 720)"
    )
    assert_legible(page, width)
    screenshot(page, f"schedule_{width}")


def test_a_model_without_class_token_has_a_schedule_page():
    settings = {"model": "vit_tiny_patch16_224", "model_args": "patch_size=4,depth=2,class_token=False,global_pool=avg"}
    recipe = Recipe(**settings, drop_score="norm", drop_fate="merge")
    page = schedule_page(recipe, 10)
    assert re.search(r'"drop_score", ?"norm"', page) and re.search(r'"drop_fate", ?"discard"', page)
    costs = [cost(recipe.vit, 10, TokenDrop((1,), "norm"), (keep,)).training for keep in (10, 40)]
    a, b, c = cost_of_kept(recipe.replace(drop_fate="discard"), 10, 1)
    assert [a + b * keep + c * keep**2 for keep in (10, 40)] == costs


def test_a_page_says_what_of_the_run_has_no_slider(open_schedule):
    page = open_schedule(Recipe(drop_shape="flat", drop_attended="kept", drop_start=0))
    assert "This run also has drop_shape, drop_attended, without sliders" in page.text_content("#left-out")
    assert "the sliders' start" in page.text_content("svg.picture")
    assert page.text_content("#reset") == "back to the start"
    screenshot(page, "schedule_left_out")
    page = open_schedule(Recipe())
    assert not page.query_selector("#left-out") and "this run's recipe" in page.text_content("svg.picture")


def test_the_yaml_of_a_run_that_began_with_weights_can_begin(tmp_path):
    file = tmp_path / "some.safetensors"
    file.write_bytes(b"weights")
    page = schedule_page(Recipe(weights=str(file)), 10)
    assert f'["weights", "{json.dumps(str(file))[1:-1]}"]' in page or str(file) in page
    assert "sha256:" not in page
