"""The chapter on the reader's own ViT and images: what it looks at, predicts, measures and decides."""

import dataclasses
import math

import nbformat
import papermill
import pytest
import torch

from ptd_core.chapter import your_vit
from ptd_core.chapter.your_vit import ALL, EQUAL_TIME, FEWER, Trained
from ptd_core.cost import run_training_cost
from ptd_core.data.dataset import Dataset, Split
from ptd_core.data.load import load
from ptd_core.data.shapes import load_shapes
from ptd_core.machine.clock import Timing
from ptd_core.paths import PROJECT_ROOT
from ptd_core.recipe import Recipe
from ptd_core.records.cells import Cell, FinishedRun
from ptd_core.records.effects import effect

VIT = {"model": "test_vit", "model_args": "patch_size=8", "dataset": "shapes", "image_size": 32, "device": "cpu"}
STEPS = {"drop_shape": "steps", "drop_stages": ".5/.75/1 at 50/25/25", "epochs": 4, "drop_block": 1}


@pytest.fixture
def recipe(tmp_path):
    return Recipe(**VIT, **STEPS, run="mine", out_dir=str(tmp_path), subset=64, test_subset=20, batch_size=32)


def test_the_example_is_a_folder_of_the_generated_shapes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(your_vit, "resolve_data_dir", lambda name: tmp_path / name)
    (tmp_path / "data").mkdir()
    recipe = Recipe(dataset="folder", data_dir=your_vit.EXAMPLE)
    assert your_vit.with_images(recipe, train=40, test=20) is recipe
    made = tmp_path / your_vit.EXAMPLE
    assert f"made {made}: 40 training and 20 test images" in capsys.readouterr().out
    read, drawn = load("folder", made), load_shapes(subset=40, test_subset=20)
    for mine, theirs in ((read.train, drawn.train), (read.test, drawn.test)):
        names = [drawn.classes[label] for label in theirs.labels]
        for name in drawn.classes:
            ours = mine.images[[read.classes[label] == name for label in mine.labels]]
            assert torch.equal(ours, theirs.images[[other == name for other in names]])
    your_vit.with_images(recipe, train=1, test=1)  # it is there already
    assert capsys.readouterr().out == "" and len(load("folder", made).train) == 40
    other = Recipe(dataset="folder", data_dir="elsewhere")
    assert your_vit.with_images(other) is other and not (tmp_path / "elsewhere").exists()


def test_the_check_counts_classes_and_images_in_both_parts(capsys):
    images = torch.arange(7, dtype=torch.uint8).view(7, 1, 1, 1).expand(7, 3, 8, 8).contiguous()
    train = Split(images[:5], torch.tensor([0, 1, 1, 1, 2]))
    test = Split(images[[4, 4, 5, 6]], torch.tensor([2, 2, 0, 1]))
    data = Dataset("d", train, test, ("a", "b", "c"), (0.5,) * 3, (0.2,) * 3)
    text = your_vit.checked(data).data
    assert "| training | 5 | 1 (a) | 3 (b) | 60.0 % |" in text and "| test | 4 | 1 (a) | 2 (c) | 50.0 % |" in text
    assert "3 classes; 2 test images are training images too" in capsys.readouterr().out
    apart = dataclasses.replace(data, test=Split(images[5:], torch.tensor([0, 1])))
    assert your_vit.shared_images(apart) == 0


def test_candidates_differ_and_say_which_are_left_out(recipe, capsys):
    found = your_vit.candidates(recipe)
    assert found["yours"] is recipe and "in the second block" not in found  # which is the recipe's own
    assert len({(one.token_drop, one.schedule) for one in found.values()}) == len(found) == 6
    assert capsys.readouterr().out == ""
    blind = recipe.replace(model_args="patch_size=8,class_token=False,global_pool=avg", drop_score="norm")
    assert set(your_vit.candidates(blind)) == set(found) - {"fused into one"}
    assert "left out: fused into one (" in capsys.readouterr().out
    text = your_vit.predicted({"yours": recipe}, 10).data
    ours, whole = run_training_cost(recipe.vit, 10, recipe.token_drop, recipe.keeps)
    assert f"| yours | 8 of 16 | {ours / whole:.3f} | {whole / ours:.3f}x |" in text


def test_measured_time_is_weighted_by_epochs(recipe, monkeypatch, capsys):
    """Two epochs at 8 of 16 tokens, one at 12, one with all: of made-up times."""
    seconds = {None: 1.0, (8,): 0.4, (12,): 0.7}

    def made_up(cases, rounds, device):
        assert set(cases) == {(ALL, None), ("yours", (8,)), ("yours", (12,)), ("other", (8,)), ("other", (12,))}
        return {case: Timing([2 * seconds[case[1]]] * rounds, 9.0) for case in cases}

    monkeypatch.setattr(your_vit, "interleave", made_up)
    sizes = recipe.replace(size_stages="16/32 at 50/50", drop_shape="polynomial", drop_stages="", drop_final=0.0)
    costs, table = your_vit.measured({"yours": recipe, "other": recipe.replace(drop_block=0), "sizes": sizes})
    assert costs["yours"] == costs["other"] == pytest.approx((2 * 0.4 + 0.7 + 1) / 4)
    ours, whole = run_training_cost(sizes.vit, 100, sizes.token_drop, sizes.keeps, sizes.sides)
    assert costs["sizes"] == ours / whole
    assert "| yours | 0.625 | 1.600x | measured |" in table.data and "| operations |" in table.data
    assert "a step with all tokens: 2.000 s on cpu" in capsys.readouterr().out


def test_a_few_real_steps_are_measured(recipe):
    costs, _ = your_vit.measured({"yours": recipe}, rounds=1)
    assert costs["yours"] > 0 and not math.isnan(costs["yours"])


def test_three_trainings_one_of_them_as_long_as_fewer_tokens_take(recipe):
    arms = your_vit.arms(recipe.replace(epochs=20, warmup_epochs=3), 0.74)
    assert {name: arm.epochs for name, arm in arms.items()} == {ALL: 20, FEWER: 20, EQUAL_TIME: 15}
    assert not any(arms[ALL].keeps) and not any(arms[EQUAL_TIME].keeps) and any(arms[FEWER].keeps)
    assert arms[FEWER].settings() == recipe.replace(epochs=20, warmup_epochs=3).settings()
    assert len({arm.run_name for arm in arms.values()}) == 3
    shortest = your_vit.arms(recipe.replace(warmup_epochs=3), 0.1)[EQUAL_TIME]
    assert (shortest.epochs, shortest.warmup_epochs) == (1, 0)


def cell(name, accuracies, seconds=10.0):
    about = ("D", "fp32", "fused", "off", "2", "abc", "", {})
    return Cell(name, [FinishedRun(f"{name}{seed}", name, "ptd", seed, 3, one, one, one, 50.0, seconds, 1.0, *about)
                       for seed, one in enumerate(accuracies)])  # fmt: skip


@pytest.mark.parametrize(
    ("whole", "fewer", "shorter", "words"),
    [
        ([60.0, 61, 62], [60.1, 61.0, 62.1], [58.0, 59.1, 60.0], "It pays: as good as all tokens"),
        ([60.0, 61, 62], [59.0, 60.1, 61.0], [58.0, 59.0, 60.1], "It pays where time is short"),
        ([60.0, 61, 62], [57.0, 58.0, 59.0], [58.0, 59.1, 60.0], "It does not pay: the same time"),
        ([60.0, 61, 62], [59.0, 60.0, 61.0], [58.0, 61.0, 60.0], "Not decided: with 3 seeds a difference of "),
        ([60.0], [60.0], [50.0], "Not decided: one seed has no interval."),
    ],
)
def test_the_decision_follows_from_two_intervals(recipe, whole, fewer, shorter, words):
    cells = {ALL: cell(ALL, whole), FEWER: cell(FEWER, fewer, 7.0), EQUAL_TIME: cell(EQUAL_TIME, shorter, 7.5)}
    text = your_vit.decided(Trained(cells, None)).data
    assert f"**{words}" in text and "| fewer tokens |" in text and "7.0 s |" in text
    gain = effect(cells[FEWER], cells[EQUAL_TIME])
    assert f"{gain.mean:+.2f} points" in text
    if words.endswith("of "):
        assert f"of {(gain.t_high - gain.t_low) / 2:.1f} points" in text


@pytest.mark.slow
def test_the_chapter_decides(tmp_path, forked_kernels):
    your_vit._write_folder(tmp_path / "images", load_shapes(subset=80, test_subset=40))
    parameters = {**STEPS, "data_dir": str(tmp_path / "images"), "model_args": "patch_size:8", "run": "mine",
                  "out_dir": str(tmp_path), "batch_size": 16, "device": "cpu", "eval_every": 4}  # fmt: skip
    chapter = PROJECT_ROOT / "book" / "your_vit.ipynb"
    papermill.execute_notebook(chapter, tmp_path / "out.ipynb", parameters=parameters, progress_bar=False)
    book = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    outputs = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    tables = [data["text/markdown"] for output in outputs if "text/markdown" in (data := output.get("data", {}))]
    assert len(tables) == 5 and "2 seed(s)" in tables[-1] and "**" in tables[-1]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    runs = {path.parent.name for path in (tmp_path / "runs").glob("*/run.json")}
    assert runs == {f"mine_{arm}_seed{seed}" for arm in ("all_tokens", "fewer_tokens", "equal_time") for seed in (0, 1)}
