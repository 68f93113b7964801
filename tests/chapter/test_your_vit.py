"""The chapter on the reader's own ViT and images: what it looks at, predicts, measures and decides."""

import dataclasses
import math
import re
from types import SimpleNamespace

import nbformat
import papermill
import pytest
import torch

from ptd_core.chapter import decision, your_vit
from ptd_core.chapter.decision import ALL, EQUAL_TIME, FEWER, Trained, learnt_above
from ptd_core.data.dataset import Dataset, Split
from ptd_core.data.load import load
from ptd_core.data.shapes import load_shapes
from ptd_core.errors import RecipeError
from ptd_core.machine.clock import Timing
from ptd_core.paths import PROJECT_ROOT
from ptd_core.progress import duration
from ptd_core.recipe import Recipe
from ptd_core.records.cells import Cell
from ptd_core.records.effects import effect
from ptd_core.records.finished_runs import FinishedRun
from ptd_core.run import execute

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
    assert capsys.readouterr().out == "3 classes; 2 test images are training images too\n"
    apart = dataclasses.replace(
        data, test=Split(images[5:], torch.tensor([0, 1])), notes=("from a", "2 files not used")
    )
    your_vit.checked(apart)
    assert capsys.readouterr().out == "from a\n2 files not used\n3 classes; 0 test images are training images too\n"


def test_candidates_differ_and_say_which_are_left_out(recipe, capsys):
    found = your_vit.candidates(recipe)
    assert found["yours"] is recipe and "in the second block" not in found  # which is the recipe's own
    assert len({(one.token_drop, one.schedule) for one in found.values()}) == len(found) == 6
    assert capsys.readouterr().out == ""
    blind = recipe.replace(model_args="patch_size=8,class_token=False,global_pool=avg", drop_score="norm")
    assert set(your_vit.candidates(blind)) == set(found) - {"fused into one"}
    assert "left out: fused into one (" in capsys.readouterr().out
    text = your_vit.predicted({"yours": recipe}, 10).data
    ours, whole = recipe.training_cost(10)
    assert f"| yours | 8 of 16 | {ours / whole:.3f} | {whole / ours:.3f}x |" in text


def test_measured_time_is_weighted_by_epochs(recipe, monkeypatch, capsys):
    """Two epochs at 8 of 16 tokens, one at 12, one with all: of made-up times."""
    seconds, asked = {None: 1.0, (8,): 0.4, (12,): 0.7}, []

    def made_up(cases, rounds, device):
        asked.append(set(cases))
        machine = 2.0 if len(asked) == 1 else 3.0  # slower by then
        return {case: Timing([machine * seconds[case]] * rounds, 9.0) for case in cases}

    monkeypatch.setattr(your_vit, "interleave", made_up)
    sizes = recipe.replace(size_stages="16/32 at 50/50", drop_shape="polynomial", drop_stages="", drop_final=0.0)
    steps = your_vit.measured({"yours": recipe, "other": recipe.replace(drop_block=0), "sizes": sizes})
    assert steps.step_seconds == 2.0
    assert asked == [set(seconds)] * 2  # one policy at a time beside all tokens
    assert steps.shares["yours"] == steps.shares["other"] == pytest.approx((2 * 0.4 + 0.7 + 1) / 4)
    ours, whole = sizes.training_cost(100)
    assert steps.shares["sizes"] == ours / whole
    table = steps.table.data
    assert "| yours | 0.625 | 1.600x | measured |" in table and "| operations |" in table
    assert "a step with all tokens: 2.000 s on cpu, ±0 % between rounds" in capsys.readouterr().out


def test_a_few_real_steps_are_measured(recipe):
    steps = your_vit.measured({"yours": recipe}, rounds=1)
    assert 0 < steps.shares["yours"] < math.inf and 0 < steps.step_seconds < math.inf


def test_three_trainings_one_of_them_as_long_as_fewer_tokens_take(recipe):
    arms = your_vit.arms(recipe.replace(epochs=20, warmup_epochs=3), 0.74)
    assert {name: arm.epochs for name, arm in arms.items()} == {ALL: 20, FEWER: 20, EQUAL_TIME: 15}
    assert not any(arms[ALL].keeps) and not any(arms[EQUAL_TIME].keeps) and any(arms[FEWER].keeps)
    assert arms[FEWER].settings() == recipe.replace(epochs=20, warmup_epochs=3).settings()
    again = your_vit.arms(recipe.replace(epochs=20, warmup_epochs=3), 0.69)  # steps are measured anew each time
    assert len({arm.run_name for arm in (*arms.values(), *again.values())}) == 4
    assert [again[name] == arms[name] for name in arms] == [True, True, False]
    shortest = your_vit.arms(recipe.replace(warmup_epochs=3), 0.1)[EQUAL_TIME]
    assert (shortest.epochs, shortest.warmup_epochs) == (1, 0)


def test_what_is_planned_adds_up(recipe, capsys):
    """5 batches of 32 of 170 images, at 2 s a step: 10 s an epoch with all tokens, 7 s with fewer; and evaluation."""
    images, labels = torch.zeros(170, 3, 32, 32, dtype=torch.uint8), torch.arange(170) % 10
    split = Split(images, labels)
    data = Dataset("d", split, Split(images[:60], labels[:60]), tuple("abcdefghij"), (0.5,) * 3, (0.2,) * 3)
    arms = your_vit.arms(recipe.replace(epochs=20, eval_every=6), 0.7)
    text = your_vit.planned(arms, (0, 1), your_vit.Measured(2.0, {"yours": 0.7}, None), data).data
    price = recipe.cost(10)
    evaluation = 2.0 / 32 * (3 * 60) * price.forward / price.training  # twice the test images, and as many of training
    seconds = {ALL: 200 + 4 * evaluation, FEWER: 140 + 4 * evaluation, EQUAL_TIME: 140 + 3 * evaluation}
    for name, epochs in ((ALL, 20), (FEWER, 20), (EQUAL_TIME, 14)):
        assert f"| {name} | {epochs} | about {duration(seconds[name])} |" in text
    said = capsys.readouterr().out
    assert f"6 trainings, about {duration(2 * sum(seconds.values()))} in all" in said
    assert "20 epochs with fewer tokens take as long as 14.0 with all" in said and "note" not in said
    for share, words in ((0.88, "14 % more time"), (0.86, "13 % less time")):  # 4 and 3 epochs, 3.52 and 3.44 of 4
        arms = your_vit.arms(recipe, share)
        your_vit.planned(arms, (0,), your_vit.Measured(2.0, {"yours": share}, None), data)
        assert f"note: in whole epochs the control has {words}" in capsys.readouterr().out


def test_trainings_are_counted_and_timed(recipe, monkeypatch, capsys):
    """All tokens take 8 s, of three times as many operations as the others have together."""
    arms = your_vit.arms(recipe, 0.5)
    monkeypatch.setattr(Recipe, "training_cost", lambda self, classes: (600 // self.epochs, 0))
    monkeypatch.setattr(your_vit, "execute", lambda one, dataset: SimpleNamespace(
        record=SimpleNamespace(times=SimpleNamespace(train_seconds=6.0, eval_seconds=2.0))))  # fmt: skip
    monkeypatch.setattr(your_vit, "FinishedRun", SimpleNamespace(of=lambda record, name: record))
    found = your_vit.trained(arms, (4, 7))
    said = [line for line in capsys.readouterr().out.splitlines() if line]
    # 150, 150 and 300 operations, with each seed; 8 s each time.
    assert said == [
        f"1 of 6: {ALL}, seed 4", "about 56 s left for the other 5 trainings",
        f"2 of 6: {FEWER}, seed 4", "about 48 s left for the other 4 trainings",
        f"3 of 6: {EQUAL_TIME}, seed 4", "about 24 s left for the other 3 trainings",
        f"4 of 6: {ALL}, seed 7", "about 19 s left for the other 2 trainings",
        f"5 of 6: {FEWER}, seed 7", "about 13 s left for the last training",
        f"6 of 6: {EQUAL_TIME}, seed 7",
    ]  # fmt: skip
    assert [len(cell.runs) for cell in found.cells.values()] == [2, 2, 2] and len(found.test_labels) == 20


def test_finished_trainings_leave_no_time(recipe, monkeypatch, capsys):
    monkeypatch.setattr(
        your_vit, "execute", lambda one, dataset: SimpleNamespace(
            record=SimpleNamespace(times=SimpleNamespace(train_seconds=8.0, eval_seconds=0.0)))
    )  # fmt: skip
    monkeypatch.setattr(your_vit, "FinishedRun", SimpleNamespace(of=lambda record, name: record))
    monkeypatch.setattr(Recipe, "training_cost", lambda *_: (1, 0))
    arms = your_vit.arms(recipe, 0.5)
    for arm in (ALL, FEWER):
        execute(arms[arm].replace(run=f"{arms[arm].run_name}_seed7", seed=7))
    capsys.readouterr()
    your_vit.trained(arms, (4, 7))
    left = [line for line in capsys.readouterr().out.splitlines() if "left" in line]
    assert left == [
        "about 24 s left for the other 3 trainings", "about 16 s left for the other 2 trainings",
        *["about 8 s left for the last training"] * 3,
    ]  # fmt: skip


@pytest.mark.parametrize("repeats", [(), (0, 0)])
def test_seeds_without_an_interval_are_refused_before_training(recipe, repeats):
    with pytest.raises(RecipeError, match="all must differ"):
        your_vit.trained(your_vit.arms(recipe, 0.5), repeats)


def test_a_class_may_be_called_anything():
    images = torch.arange(2, dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 8, 8).contiguous()
    split = Split(images, torch.arange(2))
    data = Dataset("d", split, split, ("a|b", "$c_*[<"), (0.5,) * 3, (0.2,) * 3)
    assert r"1 (a\|b)" in your_vit.checked(data).data
    assert your_vit._as_text(data.classes[1]) == r"\$c\_\*\[\<"


def cell(name, accuracies, seconds=10.0):
    about = ("D", "fp32", "fused", "off", "2", "abc", "")
    return Cell(name, [FinishedRun(f"{name}{seed}", name, "ptd", seed, 3, one, one, one, 50.0, seconds, 1.0, *about)
                       for seed, one in enumerate(accuracies)])  # fmt: skip


def page(whole, fewer, shorter, seconds=7.5, images=500):
    cells = {ALL: cell(ALL, whole), FEWER: cell(FEWER, fewer, 7.0), EQUAL_TIME: cell(EQUAL_TIME, shorter, seconds)}
    return cells, decision.decided(Trained(cells, None, torch.arange(images) % 10)).data


@pytest.mark.parametrize(
    ("whole", "fewer", "shorter", "words"),
    [
        ([60.0, 61, 62], [60.1, 61.0, 62.1], [58.0, 59.1, 60.0], "It pays: as good as all tokens"),
        ([60.0, 61, 62], [59.0, 60.1, 61.0], [58.0, 59.0, 60.1], "It pays where time is short"),
        ([60.0, 61, 62], [57.0, 58.0, 59.0], [58.0, 59.1, 60.0], "It does not pay: the same time"),
        # Differences 1, -1, 1: a deviation of 1.155; times 4.303 over the root of 3, 2.776 of 5, 2.262 of 10.
        ([60.0, 61, 62], [59.0, 60.0, 61.0], [58.0, 61.0, 60.0], "Not decided: against equal time the interval is ±2.9 "
         "points. If more seeds scatter like these 3, it is ±1.4 with 5 and ±0.8 with 10."),
        ([60.0], [60.0], [50.0], "Not decided: one seed has no interval."),
        ([11.0, 12.0], [12.0, 13.0], [9.0, 10.0], "Not decided, for too little was learnt: 12.5 % at best, where more "
         "than 12.7 % would"),
    ],
)  # fmt: skip
def test_the_decision_follows_from_two_intervals(whole, fewer, shorter, words):
    cells, text = page(whole, fewer, shorter)
    assert f"**{words}" in text and "| fewer tokens | 3 |" in text and "7.0 s |" in text and "1.43x faster" in text
    gain = effect(cells[FEWER], cells[EQUAL_TIME])
    assert f"{gain.mean:+.2f} points" in text and "500 test images; one image is 0.20 points" in text
    assert "not equal" not in text


def test_equal_differences_of_few_seeds_decide_nothing():
    """One image of 500, twice: an interval without width, by chance."""
    _, text = page([60.0, 61.0], [60.2, 61.2], [58.0, 59.0])
    assert "**Not decided: 2 seeds that differ equally have no interval" in text
    _, text = page([60.0, 61.0], [60.0, 61.0], [58.0, 59.1])
    assert "**It pays where time is short" in text  # and not: as good as all tokens


def test_seconds_of_several_machines_are_told_as_such():
    cells = {ALL: cell(ALL, [60.0, 61.0]), FEWER: cell(FEWER, [60.0, 61.2]), EQUAL_TIME: cell(EQUAL_TIME, [58.0, 59.1])}
    cells[FEWER] = Cell(FEWER, [dataclasses.replace(run, device="D; E") for run in cells[FEWER].runs])
    text = decision.decided(Trained(cells, None, torch.arange(500) % 10)).data
    assert "nan" not in text and "on several machines" in text and "equal is not known" in text


@pytest.mark.parametrize(("seconds", "words"), [(6.0, "took 0.86 times"), (8.2, "took 1.17 times"), (8.0, "")])
def test_unequal_times_are_said(seconds, words):
    _, text = page([60.0, 61], [60.0, 61], [58.0, 60.0], seconds)
    assert ("The times were not equal" in text) == bool(words) and words in text


def test_learning_begins_above_the_largest_class():
    assert learnt_above(torch.arange(100) % 2) == pytest.approx(50 + 2 * 5)
    assert learnt_above(torch.tensor([0] * 80 + [1] * 20)) == pytest.approx(80 + 2 * 4)


@pytest.mark.slow
def test_the_chapter_decides(tmp_path, forked_kernels):
    your_vit._write_folder(tmp_path / "images", load_shapes(subset=80, test_subset=40))
    parameters = {**STEPS, "data_dir": str(tmp_path / "images"), "model": "test_vit", "model_args": "patch_size:8",
                  "run": "mine",
                  "out_dir": str(tmp_path), "batch_size": 16, "device": "cpu", "eval_every": 4}  # fmt: skip
    chapter = PROJECT_ROOT / "book" / "your_vit.ipynb"
    papermill.execute_notebook(chapter, tmp_path / "out.ipynb", parameters=parameters, progress_bar=False)
    book = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    outputs = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    tables = [data["text/markdown"] for output in outputs if "text/markdown" in (data := output.get("data", {}))]
    assert len(tables) == 6 and "2 seed(s)" in tables[-1] and "**" in tables[-1]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    runs = {path.parent.name for path in (tmp_path / "runs").glob("*/run.json")}
    (epochs,) = re.findall(r"all tokens, equal time \| (\d+) \|", tables[-1])
    arms = ("all_tokens", "fewer_tokens", f"{epochs}_epochs")
    assert runs == {f"mine_{arm}_seed{seed}" for arm in arms for seed in (0, 1)}
