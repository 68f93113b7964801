"""Names that people give to classes and folders, in figures and pages: drawn as they are, never taken for markup."""

import json
import os

import numpy as np
import pytest
import torch
from matplotlib.text import Text
from PIL import Image
from test_compare import record

from ptd_core.data.dataset import Dataset, Split
from ptd_core.data.load import load
from ptd_core.evaluation.token_maps import TokenMap
from ptd_core.records.cells import Cell
from ptd_core.records.finished_runs import FinishedRun
from ptd_core.saliency import kept_mask
from ptd_core.trainer import build_model
from ptd_core.views.comparison import comparison_figure
from ptd_core.views.dropping import Dropping
from ptd_core.views.explorers import Shown, saliency_page
from ptd_core.views.maps import saliency_figure, sample_figure
from ptd_core.views.style import save_figure

NAMES = ["$5", "$5 and $6", "$\\frac$", "a_b^c{", "<!--<script>", "</script>", "caf\udce9", "\ud800", "&amp;", "\\"]


def shown(name):
    return name.encode("utf-8", "backslashreplace").decode()


def titles(figure):
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


@pytest.fixture
def split():
    images = torch.randint(0, 256, (10, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Split(images, torch.arange(10))


def test_names_are_drawn_as_they_are(split, tmp_path):
    dataset = Dataset("folder", split, split, tuple(NAMES), (0.5,) * 3, (0.2,) * 3)
    scores = torch.rand(10, 8, 8)
    maps = [TokenMap(0, scores, kept_mask(scores, 20), 64, 20)]
    figures = [sample_figure(dataset, split), saliency_figure(split, maps, "norm", NAMES, NAMES[1], NAMES[0])]
    runs = [FinishedRun.of(record("r", 0, 10.0), name) for name in NAMES]
    figures.append(comparison_figure([Cell(run.cell, [run]) for run in runs]))
    for figure in figures[:2]:
        assert titles(figure) == [shown(name) for name in NAMES]
    assert [label.get_text() for label in figures[2].axes[0].get_yticklabels()] == [shown(name) for name in NAMES]
    for number, figure in enumerate(figures):
        save_figure(figure, tmp_path / f"{number}.png")
        texts = figure.findobj(lambda part: isinstance(part, Text) and "$" in part.get_text())
        assert len(texts) >= 3 and not any(text.get_parse_math() for text in texts)


def test_no_name_can_end_the_data_of_a_page(tiny, split):
    models = {NAMES[4]: build_model(tiny(), 10)}
    page = saliency_page(
        Dropping.of(tiny()), Shown(split, NAMES, [True] * 10), models, split.images / 255, NAMES, NAMES[5]
    )
    page.encode()  # as it is written
    data = page.partition('<script type="application/json" id="data">')[2].partition("</script>")[0]
    assert "<" not in data and page.count("<!--") == 0
    read = json.loads(data)
    assert read["labels"] == NAMES and read["stamp"] == NAMES[5] and read["views"][0]["label"] == NAMES[4]


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
def test_folders_whose_names_are_no_utf8(tmp_path):
    for name in (b"caf\xe9", b"$5"):
        (tmp_path / os.fsdecode(name)).mkdir()
        for number in range(5):
            pixels = Image.fromarray(np.full((4, 4, 3), number, dtype=np.uint8))
            pixels.save(tmp_path / os.fsdecode(name) / f"{number}.png")
    assert load("folder", tmp_path, image_size=4).classes == ("$5", "caf\\udce9")
