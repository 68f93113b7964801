"""The picture of differences: what stands in which panel, in which colour."""

import pytest
from made_up import made_up

from ptd_core.chapter.evidence import differences
from ptd_core.views.style import BLUE, GREEN, GREY, ORANGE

WHOLE = [40.0, 41.0, 39.0, 40.5, 40.2]
SCATTER = [0.1, -0.1, 0.05, -0.05, 0.0]


def arm(difference, wide=1.0):
    return [whole + difference + wide * scatter for whole, scatter in zip(WHOLE, SCATTER)]


def names(axes):
    return [label.get_text().partition(" (")[0] for label in axes.get_yticklabels()]


def points(axes):
    return [line for line in axes.lines if line.get_marker() == "o"]


def test_controls_of_fewer_epochs_have_a_panel_of_their_own():
    accuracies = {"all_tokens": WHOLE, "all_tokens_17": arm(-2.0), "ptd": arm(0.0), "ptd_mirrored": arm(0.1)}
    alike, fewer = differences(made_up("direction", accuracies)).axes
    assert names(alike) == ["ptd - all_tokens", "ptd_mirrored - all_tokens", "ptd_mirrored - ptd"]
    assert names(fewer) == ["ptd - all_tokens_17", "ptd_mirrored - all_tokens_17"]
    assert [line.get_xdata()[0] for line in alike.lines if line.get_linestyle() == "--"] == [-0.3]
    assert not [line for line in fewer.lines if line.get_linestyle() == "--"]  # "no loss" is said of as many epochs
    assert "as many epochs" in alike.get_title(loc="left") and "other numbers" in fewer.get_title(loc="left")
    (first, *_) = points(fewer)
    assert list(first.get_xdata()) == pytest.approx([2.0] * 5, abs=1e-9)
    assert {round(float(y) % 1, 2) for line in points(fewer) for y in line.get_ydata()} == {0.22}  # below the bar


@pytest.mark.parametrize(
    ("difference", "wide", "colour", "said"),
    [
        (1.0, 1.0, BLUE, "better"),
        (0.0, 1.0, GREEN, "no difference seen, no loss"),
        (0.0, 10.0, GREY, "no difference seen"),
        (-0.2, 0.5, ORANGE, "worse"),  # by less than 0.3 points
        (-1.0, 1.0, ORANGE, "worse"),
    ],
)
def test_a_colour_says_what_can_be_said(difference, wide, colour, said):
    figure = differences(made_up("own_effect", {"plain": WHOLE, "ptd_only": arm(difference, wide)}))
    (axes,) = figure.axes
    assert [line.get_color() for line in points(axes)] == [colour] and axes.get_title(loc="left") == ""
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == [said, "mean", '-0.3, the limit of "no loss"']


def test_one_seed_is_told_apart():
    figure = differences(made_up("own_effect", {"plain": WHOLE[:1], "ptd_only": WHOLE[:1]}))
    assert figure.legends[0].get_texts()[0].get_text() == "too few seeds"
