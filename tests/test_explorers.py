"""The explorers' pages in a real browser: arithmetic against schedule.py and cost.py, answers to readers."""

import base64
import io
import itertools
import math
import random
import re
from datetime import UTC, datetime

import numpy as np
import pytest
import torch
from conftest import TINY, screenshot
from matplotlib import colormaps
from matplotlib.colors import to_hex
from PIL import Image

from ptd_core.chapter import widgets
from ptd_core.cost import cost, run_training_cost
from ptd_core.errors import DataError
from ptd_core.progress import Progress
from ptd_core.recipe import Recipe
from ptd_core.run import execute
from ptd_core.views.explorers import images_that_fit, newton_terms, schedule_page
from ptd_core.views.maps import attention_maps, kept_mask, object_coverage
from ptd_core.views.pictures import outline_path, png_address, shrink


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    return execute(
        Recipe(**{**TINY, "out_dir": str(tmp_path_factory.mktemp("run")), "run": "tiny"}), Progress(bar=False)
    )


@pytest.fixture(scope="module")
def saliency_file(tiny_run):
    widgets.saliency_explorer(tiny_run)
    return tiny_run.figures / "ptd_saliency_explorer.html"


@pytest.fixture
def open_schedule(open_page, tmp_path):
    def open_recipe(recipe: Recipe, classes: int = 10):
        path = tmp_path / "schedule.html"
        path.write_text(schedule_page(recipe, classes), encoding="utf-8")
        return open_page(path.as_uri(), offline=True)

    return open_recipe


def press(page, control: str, key: str, times: int = 1) -> None:
    for _ in range(times):
        page.locator(f"#{control}").press(key)


# what stands in the pages


@pytest.mark.parametrize("sizes", [{}, {"stem_stride": 2, "depth": 3, "mlp_ratio": 2.5}, {"stem_stride": 8}])
def test_three_values_give_the_cost_at_every_number_of_tokens(sizes):
    for block in range(Recipe(**sizes).depth):
        recipe = Recipe(drop_block=block, **sizes)
        first, slope, bend = newton_terms(recipe, 10, block)
        for keep in range(1, recipe.patch_tokens):
            expected = cost(recipe, 10, keep).training
            assert first + slope * (keep - 1) + bend * math.comb(keep - 1, 2) == expected


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


def test_pages_stay_small_and_need_no_network(saliency_file):
    published = Recipe(stem_stride=2, stem_width=64, embed_dim=192, depth=6, num_heads=6)
    assert images_that_fit(published, 2) >= 8 and images_that_fit(Recipe(image_size=512, stem_stride=1), 2) == 1
    for page in (saliency_file.read_text(), schedule_page(published, 100)):
        assert len(page.encode()) < 2**20
        # an SVG's namespace is a name, nothing is fetched from it
        assert set(re.findall(r"https?://[^\"'\s]+", page)) <= {"http://www.w3.org/2000/svg"}


# schedule explorer


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
        recipe = base.model_copy(update=settings)
        epochs = range(recipe.epochs)
        assert found["kept"] == [recipe.schedule.kept(epoch, recipe.patch_tokens) for epoch in epochs], settings
        assert found["ratios"] == pytest.approx([recipe.schedule.ratio(epoch) for epoch in epochs], abs=1e-15)
        assert (int(found["withDrop"]), int(found["without"])) == run_training_cost(recipe, 10), settings


def test_published_bound_is_the_one_of_the_tests_of_cost(open_schedule):
    recipe = Recipe(stem_width=64, stem_stride=2, embed_dim=192, depth=6, num_heads=6, epochs=200, drop_start=40,
                    drop_end=140)  # fmt: skip
    page = open_schedule(recipe, 100)
    with_drop, without = run_training_cost(recipe, 100)
    assert f"at most {without / with_drop:.3f}x faster" in page.text_content("#summary")
    press(page, "drop_block", "ArrowRight", 2)
    with_drop, without = run_training_cost(recipe.model_copy(update={"drop_block": 2}), 100)
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
    press(page, "drop_start", "End")  # takes the end of the window along
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
    assert read.essence() == {**recipe.essence(), **changed}
    page.click("#reset")
    assert page.get_attribute("svg.picture", "data-kept") == kept


@pytest.mark.parametrize("image_size", [8, 16, 24])
def test_sliders_end_where_recipes_do(image_size, open_schedule, tmp_path):
    page = open_schedule(Recipe(image_size=image_size, stem_stride=8, drop_final=0.0))
    press(page, "drop_final", "End")
    file = tmp_path / "most.yaml"
    file.write_text(page.input_value("#yaml"))
    assert Recipe.from_yaml(file).drop_final == {8: 0.0, 16: 0.75, 24: 0.88}[image_size]


# saliency explorer


def test_saliency_explorer_shows_what_python_computes(tiny_run, saliency_file, open_page):
    page = open_page(saliency_file.as_uri(), offline=True)
    page.click("[data-image='5']")
    press(page, "block", "ArrowRight")
    page.select_option("#head", label="head 1")
    press(page, "ratio", "ArrowRight", 20)
    assert page.text_content("output[for=ratio]") == "0.70"
    test = tiny_run.trainer.test
    inputs = tiny_run.trainer.normalise(test.images[:48].float() / 255)
    saliency = attention_maps(tiny_run.model, inputs, 1)[5, 1]
    kept = kept_mask(saliency[None], 19)
    left = page.locator("svg image").nth(1).evaluate("image => image.x.baseVal.value")
    cells = page.locator("rect.dropped").evaluate_all(
        "found => found.map((c) => [c.y.baseVal.value, c.x.baseVal.value])"
    )
    side = 190 / 8
    dropped = {(round((y - 46) / side), round((x - left) / side)) for y, x in cells}
    assert dropped == {tuple(place) for place in (~kept[0]).nonzero().tolist()}
    summary = page.text_content("#summary")
    assert f"{100 * object_coverage(kept, test.masks[5:6]):.0f} % of the object" in summary
    best = tiny_run.model(inputs[5:6]).softmax(1).max(1)
    answer = f"answers {tiny_run.dataset.classes[best.indices.item()]} {100 * best.values.item():.0f} %"
    assert answer in summary and f"true class {tiny_run.dataset.classes[test.labels[5]]}" in summary
    levels = (255 * saliency / saliency.max()).round().int().flatten()
    fills = page.locator("rect.saliency").evaluate_all("cells => cells.map((cell) => cell.getAttribute('fill'))")
    assert fills == [to_hex(colormaps["viridis"](level)) for level in levels.tolist()]


def test_images_are_chosen_by_click_key_button_and_class(saliency_file, open_page):
    page = open_page(saliency_file.as_uri(), offline=True)
    chosen = "[aria-selected=true]"
    page.click("[data-image='3']")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    assert (
        page.get_attribute(chosen, "data-image") == "4" and page.evaluate("document.activeElement.dataset.image") == "4"
    )
    page.keyboard.press("ArrowDown")
    row = page.evaluate("[...document.querySelectorAll('#thumbnails button')].filter((b) => b.offsetTop < 10).length")
    assert int(page.get_attribute(chosen, "data-image")) == 4 + row
    page.keyboard.press("End")
    assert page.get_attribute(chosen, "data-image") == "47"
    page.click("#previous")
    assert page.get_attribute(chosen, "data-image") == "46"
    page.fill("#search", "star")
    assert page.locator("#thumbnails button:not([hidden])").count() == 5
    assert "true class star" in page.text_content("#summary") and page.text_content("#found") == "5 of 48 images"


def test_two_models_stand_side_by_side(saliency_file, open_page):
    page = open_page(saliency_file.as_uri(), offline=True)
    page.select_option("#compare", label="untrained")
    assert page.locator("rect.saliency").count() == 128
    assert "after epoch 3: true class" in page.text_content("#summary")
    assert "untrained: true class" in page.text_content("#summary")
    screenshot(page, "saliency_compare")


def test_epochs_keep_what_training_kept(tiny_run, saliency_file, open_page):
    page = open_page(saliency_file.as_uri(), offline=True)
    for record in reversed(tiny_run.records):
        assert f"{record.kept_tokens} of 64 tokens kept (epoch {record.epoch}, " in page.text_content("#summary")
        press(page, "epoch", "ArrowLeft")


def test_pictures_are_saved(saliency_file, open_page, tmp_path):
    page = open_page(saliency_file.as_uri(), offline=True)
    for kind in ("svg", "png"):
        with page.expect_download() as download:
            page.click(f"#save-{kind}")
        assert download.value.suggested_filename == f"tiny_image0_block0.{kind}"
        download.value.save_as(tmp_path / f"saved.{kind}")
    assert Image.open(tmp_path / "saved.png").size == (1440, 544)
    svg = (tmp_path / "saved.svg").read_text()
    assert svg.count('class="saliency"') == 64 and "data:image/png" in svg and ".stamp {" in svg


TEXTS = """() => {
    const picture = document.querySelector("svg.picture");
    const { width, height } = picture.viewBox.baseVal;
    const texts = [...picture.querySelectorAll("text")].map((text) => {
        const { x, y, width, height } = text.getBBox();
        return { text: text.textContent, left: x, top: y, right: x + width, bottom: y + height };
    });
    return { texts, width, height, scale: picture.clientWidth / width };
}"""


def assert_legible(page, width):
    """Nothing of the page or its picture is cut, no two texts of the picture overlap, all are large enough to read."""
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = page.evaluate(TEXTS)
    assert 12 * found["scale"] >= 9  # pixels of the ticks' letters
    for text in found["texts"]:
        assert text["left"] >= 0 and text["right"] <= found["width"], text
        assert text["top"] >= 0 and text["bottom"] <= found["height"] + 1, text
    for one, two in itertools.combinations(found["texts"], 2):
        apart = one["right"] <= two["left"] or two["right"] <= one["left"]
        assert apart or one["bottom"] <= two["top"] + 2 or two["bottom"] <= one["top"] + 2, (one, two)


@pytest.mark.parametrize("width", [1280, 800, 400])
def test_pages_are_legible_at_every_width(width, saliency_file, open_schedule, open_page):
    page = open_page(saliency_file.as_uri(), width=width, offline=True)
    assert_legible(page, width)
    page.select_option("#compare", label="untrained")
    assert_legible(page, width)
    screenshot(page, f"saliency_{width}")
    page = open_schedule(Recipe())
    page.set_viewport_size({"width": width, "height": 900})
    page.wait_for_function(
        "document.querySelector('svg.picture').viewBox.baseVal.width === (innerWidth < 560 ? 360 : 720)"
    )
    assert_legible(page, width)
    screenshot(page, f"schedule_{width}")


def test_long_names_break_into_lines(tiny_run, open_page, tmp_path):
    file = io.BytesIO()
    Image.new("RGB", (20, 20), "red").save(file, "PNG")
    for name, width in itertools.product(("a name with many words " * 6, "WITHOUT_ANY_SPACE" * 8), (1280, 400)):
        (tmp_path / "own.html").write_text(widgets.own_page(tiny_run, {name: file.getvalue()}))
        assert_legible(open_page((tmp_path / "own.html").as_uri(), width=width, offline=True), width)


def test_own_image_files_are_shown_with_their_names(tiny_run, open_page, tmp_path):
    file = io.BytesIO()
    Image.new("RGB", (60, 40), "red").save(file, "PNG")
    page_text = widgets.own_page(tiny_run, {"mine</script>.png": file.getvalue()})
    (tmp_path / "own.html").write_text(page_text)
    page = open_page((tmp_path / "own.html").as_uri(), offline=True)
    assert "mine</script>.png, true class unknown" in page.text_content("#summary")
    assert "object" not in page.text_content("#summary")
    with pytest.raises(DataError, match=r"notes\.txt cannot be read as an image"):
        widgets.own_page(tiny_run, {"notes.txt": b"no image"})


def test_choosing_a_file_draws_it_and_a_bad_one_is_named(tiny_run, monkeypatch, capsys):
    shown = []
    monkeypatch.setattr(widgets, "display", shown.append)
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "PNG")
    upload = widgets.own_image(tiny_run).children[0]

    def choose(name, content):
        rest = {"type": "", "size": len(content), "last_modified": datetime.now(UTC)}
        upload.value = ({"name": name, "content": content, **rest},)

    choose("a.png", file.getvalue())
    assert len(shown) == 1 and "a.png" in shown[0].data
    choose("b.png", b"no image")
    assert len(shown) == 1 and "b.png cannot be read as an image" in capsys.readouterr().out
