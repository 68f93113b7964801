"""The saliency explorer in a real browser: what it shows against what Python computes, and its answers to readers."""

import io
import itertools
import re
from datetime import UTC, datetime

import pytest
from conftest import TINY, screenshot
from matplotlib import colormaps
from matplotlib.colors import to_hex
from pages import PUBLISHED_SIZES, assert_legible, assert_small_and_alone, press
from PIL import Image

from ptd_core.chapter import widgets
from ptd_core.errors import DataError
from ptd_core.evaluation.attention_maps import attention_maps
from ptd_core.progress import Progress
from ptd_core.recipe import Recipe
from ptd_core.run import execute
from ptd_core.saliency import kept_mask, object_coverage
from ptd_core.views.explorers import images_that_fit


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    return execute(
        Recipe(**{**TINY, "out_dir": str(tmp_path_factory.mktemp("run")), "run": "tiny"}), Progress(bar=False)
    )


@pytest.fixture(scope="module")
def saliency_file(tiny_run):
    widgets.saliency_explorer(tiny_run)
    return tiny_run.folder / "ptd_saliency_explorer.html"


def test_page_stays_small_and_needs_no_network(saliency_file):
    assert images_that_fit(PUBLISHED_SIZES, 2) >= 8 and images_that_fit(Recipe(image_size=512, stem_stride=1), 2) == 1
    assert_small_and_alone(saliency_file.read_text())


def test_saliency_explorer_shows_what_python_computes(tiny_run, saliency_file, open_page):
    page = open_page(saliency_file.as_uri(), offline=True)
    page.click("[data-image='5']")
    press(page, "block", "ArrowRight")
    page.select_option("#head", label="head 1")
    press(page, "ratio", "ArrowRight", 20)
    assert page.text_content("output[for=ratio]") == "0.70"
    test = tiny_run.trainer.test.part(48)
    inputs = tiny_run.trainer.normalise(test.images.float() / 255)
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


@pytest.mark.parametrize("width", [1280, 800, 400])
def test_page_is_legible_at_every_width(width, saliency_file, open_page):
    page = open_page(saliency_file.as_uri(), width=width, offline=True)
    assert_legible(page, width)
    page.select_option("#compare", label="untrained")
    assert_legible(page, width)
    screenshot(page, f"saliency_{width}")


def test_long_names_break_into_lines(tiny_run, open_page, tmp_path):
    file = io.BytesIO()
    Image.new("RGB", (20, 20), "red").save(file, "PNG")
    for name, width in itertools.product(("a name with many words " * 6, "WITHOUT_ANY_SPACE" * 8), (1280, 400)):
        (tmp_path / "own.html").write_text(widgets.own_page(tiny_run, {name: file.getvalue()}))
        assert_legible(open_page((tmp_path / "own.html").as_uri(), width=width, offline=True), width)


def test_own_image_files_are_shown_with_their_names(tiny_run, open_page, tmp_path):
    file = io.BytesIO()
    Image.new("RGB", (60, 40), "red").save(file, "PNG")
    for name in ("mine</script>.png", "<!--<script>.png", "'a' & \"b\" \u2028.png"):  # none may end or hide a script
        page_text = widgets.own_page(tiny_run, {name: file.getvalue()})
        assert "<" not in re.search(r'id="data">(.*)</script>', page_text)[1]
        (tmp_path / "own.html").write_text(page_text)
        page = open_page((tmp_path / "own.html").as_uri(), offline=True)
        assert f"{name}, true class unknown" in page.text_content("#summary")
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
