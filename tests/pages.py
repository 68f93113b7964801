"""What tests of both explorers ask of a page: is it small, is it legible; and a reader's keys."""

import itertools
import re

from ptd_core.recipe import Recipe

PUBLISHED_SIZES = Recipe(stem_stride=2, stem_width=64, embed_dim=192, depth=6, num_heads=6)
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


def press(page, control: str, key: str, times: int = 1) -> None:
    for _ in range(times):
        page.locator(f"#{control}").press(key)


def assert_small_and_alone(page: str) -> None:
    """Below 1 MiB, and nothing is fetched: an SVG's namespace is a name."""
    assert len(page.encode()) < 2**20
    assert set(re.findall(r"https?://[^\"'\s]+", page)) <= {"http://www.w3.org/2000/svg"}
