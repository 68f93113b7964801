"""Pictures of the space of token reduction: what they say of methods, and the pixels that they paint."""

import math

import pytest
import torch

from ptd_core.cost import cost
from ptd_core.evaluation.methods import keep_of, methods
from ptd_core.evaluation.provenance import FUSED, GONE, Provenance
from ptd_core.recipe import Recipe
from ptd_core.schedule import DropSchedule, Stages
from ptd_core.token_drop import TokenDrop
from ptd_core.views.choosing import points_figure
from ptd_core.views.provenance import painted, provenance_figure
from ptd_core.views.space import AXES, axis_rows, cost_figure, courses_figure, place_figure, space_figure, traits

# What the papers say, in the words of the axes: score, choice, fate, place, schedule.
PUBLISHED = {
    "dynamicvit": (
        "learned predictor", "drawn by score", "masked, later discarded", "before several blocks", "constant"
    ),
    "evit": ("class attention", "top k", "fused into one", "within several blocks", "all to few"),
    "evo_vit": (
        "class attention, mean over blocks", "top k", "follow one token", "from a middle block on", "constant"
    ),
    "patchdropout": ("random", "at random", "discarded", "before the first block", "constant"),
    "pss": ("L1 norm", "top k", "discarded", "before the first block", "up and down"),
    "ptd": ("class attention", "top k", "discarded", "within the first block", "all to few"),
    "random_ltd": ("random", "at random", "skip the block", "before several blocks", "few to all"),
    "skipvit": ("class attention", "top k", "bypass blocks", "within a later block", "constant"),
    "toe": ("distance", "spread (greedy)", "merged into the nearest", "before a later block", "few to all"),
    "tome": ("similarity of keys", "pairs (bipartite)", "merged into the nearest", "within every block", "constant"),
}  # fmt: skip


@pytest.fixture(scope="module")
def found():
    return methods(Recipe())


def test_methods_lie_where_their_papers_put_them(found):
    assert {name: tuple(traits(recipe).values()) for name, recipe in found.items()} == PUBLISHED


def test_a_line_of_the_table_is_the_method_and_its_predicted_step(found):
    rows = {row[0]: row[1:] for row in axis_rows(found, 10, keep_of)}
    vit = Recipe().vit
    gain = cost(vit, 10).training / cost(vit, 10, TokenDrop((0,)), (32,)).training
    assert rows["PTD"] == [*PUBLISHED["ptd"], "block 0", f"{gain:.3f}x"]
    assert rows["EViT"][-2] == "blocks 1, 2 and 3"
    assert rows["ToMe"][-2] == "all blocks" and rows["Evo-ViT"][-2] == "from block 2 on"
    assert float(rows["DynamicViT"][-1][:-1]) < 1  # it masks, and asks a teacher


def test_the_picture_of_the_space_has_every_method_and_value(found):
    (axes,) = space_figure(found).axes
    assert [line.get_label() for line in axes.lines][:3] == ["DynamicViT", "EViT", "Evo-ViT"]
    assert all(len(line.get_xdata()) == len(AXES) for line in axes.lines) and len(axes.lines) == 10
    heights = {text.get_text().replace(",\n", ", "): text.get_position() for text in axes.texts}
    assert set(heights) == {*AXES, *(value for values in PUBLISHED.values() for value in values)}
    for line, name in zip(axes.lines, found):  # each passes near its values
        for place, (value, height) in enumerate(zip(PUBLISHED[name], line.get_ydata())):
            assert heights[value][0] == place and abs(heights[value][1] - height) < 0.05


def test_cost_lines_are_what_operations_predict(found):
    (axes,) = cost_figure({name: found[name] for name in ("ptd", "random_ltd")}, 10, keep_of).axes
    ptd, skipping = axes.lines[:2]
    vit = Recipe().vit
    whole = cost(vit, 10).training
    expected = {kept: 100 * cost(vit, 10, TokenDrop((0,)), (kept,)).training / whole for kept in (58, 48, 39, 32)}
    assert dict(zip(ptd.get_xdata(), ptd.get_ydata())) == {100 * k / 64: share for k, share in expected.items()}
    assert (100, 100) in list(zip(skipping.get_xdata(), skipping.get_ydata()))  # .9 is no multiple of 8 below 64


def test_dropping_earlier_or_before_the_block_saves_more():
    (axes,) = place_figure(Recipe(), 10).axes
    lines = {line.get_label(): line.get_ydata() for line in axes.lines}
    before, within, merged = (lines[f"{name}"] for name in (
        "before the block, discarded", "within the block, discarded", "within the block, merged"))  # fmt: skip
    assert all(a > b > c > 1 for a, b, c in zip(before, within, merged))
    assert list(before) == sorted(before, reverse=True) and len(lines["bypass until the last block"]) == 3
    vit = Recipe().vit
    drop = TokenDrop((2,), "norm", fate="skip")
    assert lines["skip this block"][2] == cost(vit, 10).training / cost(vit, 10, drop, (32,)).training


def test_courses_are_the_kept_shares():
    steps = DropSchedule(epochs=10, shape="steps", stages=Stages((0.5, 1.0), (1, 1)))
    panels = courses_figure({"a": steps, "b": DropSchedule(final=0.5, start=0, shape="flat")}, 10).axes
    assert list(panels[0].lines[0].get_ydata()) == [0.5] * 5 + [1.0] * 6
    assert list(panels[1].lines[0].get_ydata()) == [0.5] * 11 and panels[1].get_title() == "b"


@pytest.mark.parametrize("rest", [GONE, FUSED])
def test_tokens_are_painted_as_they_have_become(rest):
    """Pixel by pixel: two tokens merged at 0 and 1, one kept at 2, the one at 3 is not."""
    image = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    one = Provenance(torch.tensor([[[1, 1], [2, -1]]]), rest, 2)
    found, pixels = painted(image, one), image.float()
    orange = (0xE6, 0x9F, 0x00)
    for channel in range(3):
        mean = sum(pixels[channel, y, x].item() for y in range(4) for x in range(8)) / 32
        for y in range(8):
            for x in range(8):
                was = pixels[channel, y, x].item()
                if y < 4:
                    expected = mean
                elif x < 4:
                    expected = was
                else:
                    expected = 0.2 * was if rest == GONE else 0.35 * was + 0.65 * orange[channel]
                assert found[channel, y, x].item() == pytest.approx(expected, abs=1e-3)


def test_the_picture_of_methods_says_what_its_colours_mean():
    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    parts = {
        "A": Provenance(torch.tensor([[[0, -1], [2, 3]]]), FUSED, 4),
        "B": Provenance(torch.arange(4).view(1, 2, 2), GONE, 4),
    }
    figure = provenance_figure(image, parts, {"A": "4 of 4", "B": "all"})
    assert [axes.get_title() for axes in figure.axes[:3]] == ["the image", "A\n4 of 4", "B\nall"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "in the one token that stands for the rest", "dropped"
    ]  # fmt: skip
    borders = [len(axes.lines) for axes in figure.axes[:3]]
    assert borders == [0, 2, 4]  # of 2 with 0 and with 3; between all four


@pytest.mark.parametrize("share", [60.0, math.nan])
def test_points_stand_beside_chance_by_name(share):
    figure = points_figure({"centre": (40.0, share, 1.5), "random": (30.0, share, 1.5)}, chance=10.0)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["centre", "random", "chance"]
    for axes in figure.axes:
        assert [list(line.get_ydata()) for line in axes.lines if line.get_linestyle() == ":"] == [[10.0, 10.0]]
