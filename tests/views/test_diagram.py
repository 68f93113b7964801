"""The drawing of the block shows for how many tokens each step computes."""

import pytest

from ptd_core.views.diagram import STEPS, block_figure


def test_boxes_hold_the_counts_of_their_steps():
    left, right = block_figure(64, 41).axes
    numbers = [[text.get_text() for text in axes.texts if text.get_text().isdigit()] for axes in (left, right)]
    assert numbers[0] == ["65"] * 5
    labels = [text.get_text() for text in right.texts]
    for step, count in {"in": 65, "kv": 65, "score": 1, "q": 42, "attention": 42, "mlp": 42, "out": 42}.items():
        assert labels[labels.index(STEPS[step][0]) + 1] == str(count)


def test_impossible_keep_is_refused():
    with pytest.raises(ValueError, match="from 1 to the 64 patch tokens; got 65"):
        block_figure(64, 65)
