"""A sweep that goes on where its checkpoints are not: from the tables that were published of it."""

import csv
import shutil
from dataclasses import replace

import pytest
import yaml
from conftest import TINY, Lines
from mapped import RUN
from photographs import image_folder

import ptd_core.sweep.__main__ as command
from ptd_core.cost import run_training_cost
from ptd_core.errors import OutputError
from ptd_core.records.finished_runs import read_epochs, read_runs
from ptd_core.records.folders import RunFolder
from ptd_core.run import execute
from ptd_core.sweep.outcome import Outcome, finished
from ptd_core.sweep.plan import read_plan
from ptd_core.sweep.published import published_rows, refuse_other_images

ARMS = "base: base.yaml, arms: {all: {drop_final: 0.0}, few: {}}, controls: {few: [all]}"


def write_sweep(folder, text, **changes):
    folder.mkdir(exist_ok=True)
    base = {**TINY, "run": "tiny", "epochs": 2, "out_dir": str(folder), **changes}
    (folder / "base.yaml").write_text(yaml.safe_dump(base))
    (folder / "question.yaml").write_text(text)
    return folder / "question.yaml"


@pytest.fixture
def trained(monkeypatch, tiny_shapes):
    """Names of the runs that sweeps train, in this process."""
    names = []

    def run_here(runs, at_once, threads, show):
        names.extend(run.name for run in runs)
        done = {run.name: execute(run.recipe, Lines(), dataset=tiny_shapes) for run in runs}
        return {name: Outcome(run.record, run.records) for name, run in done.items()}

    monkeypatch.setattr(command, "run_processes", run_here)
    return names


@pytest.fixture
def published(tmp_path, trained):
    """Tables of a sweep's first seed, alone in a folder."""
    path = write_sweep(tmp_path / "there", f"{{{ARMS}, seeds: [0]}}")
    assert command.main([str(path), "--processes", "1"]) == 0
    folder = tmp_path / "published"
    folder.mkdir()
    for name in ("runs.csv", "epochs.csv"):
        shutil.copy(RunFolder("question", str(tmp_path / "there")).path / name, folder / name)
    trained.clear()
    return folder


def test_it_goes_on_elsewhere(published, trained, tmp_path, capsys):
    path = write_sweep(tmp_path / "here", f"{{{ARMS}, seeds: [0, 1]}}")
    assert command.main([str(path), "--processes", "1", "--records", str(published)]) == 0
    assert trained == ["tiny_all_seed1", "tiny_few_seed1"]
    out = capsys.readouterr().out
    assert "skipped  2 finished runs: tiny_all_seed0, tiny_few_seed0" in out and "4 of 4 runs are finished" in out
    folder = RunFolder("question", str(tmp_path / "here")).path
    runs, epochs = read_runs(folder), read_epochs(folder)
    assert [run.run for run in runs] == [*("tiny_all_seed0", "tiny_few_seed0"), *trained]  # as the file lists them
    assert read_runs(published) == runs[:2]
    assert [len(epochs[run.run]) for run in runs] == [2, 2, 2, 2]
    for run in runs[:2]:
        assert repr(read_epochs(published)[run.run]) == repr(epochs[run.run])  # NaN is not itself
    (row,) = csv.DictReader((folder / "effects.csv").open())
    assert row["seeds"] == "0;1" and not (folder / "unfinished.txt").exists()
    assert float(row["predicted"]) == runs[0].training_flops / runs[1].training_flops > 1
    assert command.main([str(path), "--list", "--records", str(published)]) == 0


def test_tables_say_how_many_operations_a_run_took(published, tiny_shapes):
    for run in read_runs(published):
        recipe = next(
            one for one in read_plan(published.parent / "there" / "question.yaml").runs if one.name == run.run
        )
        of_an_image, _ = run_training_cost(recipe.recipe.vit, 10, recipe.recipe.token_drop, recipe.recipe.keeps)
        images = len(tiny_shapes.train) // recipe.recipe.batch_size * recipe.recipe.batch_size
        assert run.training_flops == of_an_image * images and run.data == tiny_shapes.digest


def refused(plan, folder):
    with pytest.raises(OutputError) as refusal:
        published_rows(plan, folder)
    return str(refusal.value)


def test_other_recipes_and_other_runs_are_refused(published, tmp_path):
    other = read_plan(write_sweep(tmp_path / "other", f"{{{ARMS}, seeds: [0]}}", lr=0.5))
    assert "tiny_all_seed0 had another recipe" in refused(other, published)
    none = read_plan(write_sweep(tmp_path / "none", f"{{{ARMS}, seeds: [7]}}"))
    assert published_rows(none, published) == {}
    assert "holds no runs.csv" in refused(none, tmp_path / "nowhere")


def test_other_questions_may_have_asked_for_the_same_run(published, tmp_path):
    """Of a folder of tables what is asked for is taken; one run has one row."""
    both = tmp_path / "both"
    for name in ("a", "b"):
        shutil.copytree(published, both / name)
    fewer = read_plan(write_sweep(tmp_path / "fewer", "{base: base.yaml, arms: {all: {drop_final: 0.0}}, seeds: [0]}"))
    assert list(published_rows(fewer, both)) == list(published_rows(fewer, published)) == ["tiny_all_seed0"]
    text = (both / "b" / "runs.csv").read_text()
    (row,) = [run for run in read_runs(published) if run.run == "tiny_all_seed0"]
    (both / "b" / "runs.csv").write_text(text.replace(repr(row.train_seconds), "1.0"))

    def seconds():
        ((run, _),) = published_rows(fewer, both).values()
        return run.train_seconds

    assert seconds() == row.train_seconds  # that of "a"
    (both / "a" / "runs.csv").write_text(text.replace("tiny_all_seed0", "other"))  # nothing that is asked for:
    (both / "a" / "epochs.csv").unlink()
    assert seconds() == 1.0
    shutil.copytree(published, both / "question")  # the sweep's own
    assert seconds() == row.train_seconds


def test_tables_that_do_not_belong_together_are_refused(published, tmp_path):
    plan = read_plan(tmp_path / "there" / "question.yaml")
    lines = (published / "epochs.csv").read_text().splitlines()
    (published / "epochs.csv").write_text("\n".join(lines[:-1]) + "\n")
    assert "tiny_few_seed0 is not whole: 1 of 2 epochs are there" in refused(plan, published)
    (published / "epochs.csv").write_text("\n".join([*lines[:-1], lines[-2]]) + "\n")  # one of them twice
    assert "tiny_few_seed0 is not whole" in refused(plan, published)
    (published / "epochs.csv").unlink()
    assert "epochs.csv: cannot be read" in refused(plan, published)
    (published / "epochs.csv").write_text("\n".join(lines) + "\n")
    text, few = (published / "runs.csv").read_text(), read_runs(published)[1]
    for wrong in (f"tiny_all,{few.chapter},{few.seed}", f"tiny_few,{few.chapter},7"):  # another cell, another seed
        (published / "runs.csv").write_text(text.replace(f"tiny_few,{few.chapter},{few.seed}", wrong))
        assert "tiny_few_seed0 is not whole" in refused(plan, published)
    for wrong in ("99.5", ""):
        (published / "runs.csv").write_text(text.replace(f"2,{few.test_accuracy!r},", f"2,{wrong},"))
        assert "does not tell what epochs.csv does" in refused(plan, published)
    (published / "runs.csv").write_text("nothing\n")
    assert "runs.csv: cannot be read" in refused(plan, published)


def test_runs_that_are_compared_saw_the_same_images(published, trained, tmp_path, capsys):
    """Whoever names another folder of images beside published tables is told so."""
    text = (published / "runs.csv").read_text()
    digest = read_runs(published)[0].data
    (published / "runs.csv").write_text(text.replace(digest, "0f"))
    path = write_sweep(tmp_path / "here", f"{{{ARMS}, seeds: [0, 1]}}")
    assert command.main([str(path), "--processes", "1", "--records", str(published)]) == 2
    error = capsys.readouterr().err
    assert "tiny_all_seed0 and tiny_all_seed1" in error and "different images" in error and digest in error
    (published / "runs.csv").write_text(text.replace(digest, "0f", 1))  # of another cell
    trained.clear()
    assert command.main([str(path), "--processes", "1", "--records", str(published)]) == 2
    assert "tiny_all_seed0 and tiny_few_seed0" in capsys.readouterr().err and trained == []
    # what a table does not know is not held against it
    (published / "runs.csv").write_text(text.replace(digest, ""))
    rows = published_rows(read_plan(path), published)
    assert all(run.data == "" for run, _ in rows.values())
    refuse_other_images(read_plan(path), rows)


def test_labels_of_another_column_are_no_other_images(published, tmp_path):
    (tmp_path / "base.yaml").write_text("{dataset: parquet, data_dir: nowhere}")
    (tmp_path / "labels.yaml").write_text(
        "{base: base.yaml, factors: {label_column: [fine_label, coarse_label]}, seeds: [0]}"
    )
    plan = read_plan(tmp_path / "labels.yaml")
    one = read_runs(published)[0]
    rows = {run.name: (replace(one, run=run.name, data=digest), []) for run, digest in zip(plan.runs, ("0a", "0b"))}
    refuse_other_images(plan, rows)


def test_no_notebooks_are_published(tmp_path, capsys):
    path = write_sweep(tmp_path / "here", f"{{{ARMS}, seeds: [0]}}")
    with pytest.raises(SystemExit):
        command.main([str(path), "--notebooks", "--records", str(tmp_path)])
    assert "hold no executed notebooks" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["last row cut", "last row lacking", "another accuracy"])
def test_epochs_that_are_not_those_of_the_record_are_refused(trained, tmp_path, damage):
    path = write_sweep(tmp_path, f"{{{ARMS}, seeds: [0]}}")
    assert command.main([str(path), "--processes", "1"]) == 0
    run = read_plan(path).runs[0]
    file = next((tmp_path / "runs" / run.name).glob("*_history.csv"))
    rows = list(csv.reader(file.open()))
    if damage == "another accuracy":
        rows[-1][rows[0].index("ema_test_accuracy")] = "13.0"
    rows = rows[:-1] if damage == "last row lacking" else rows
    text = "\n".join(",".join(row) for row in rows) + "\n"
    file.write_text(text[:-40] if damage == "last row cut" else text)
    with pytest.raises(OutputError, match=r"history\.csv: (its epochs are not those of run\.json|cannot be read)"):
        finished(run.recipe, notebook=False)


def test_a_run_that_another_command_finishes_meanwhile_is_in_the_tables(trained, tmp_path, monkeypatch, capsys):
    """It was refused here for its lock: the tables of both commands are complete."""
    path = write_sweep(tmp_path, f"{{{ARMS}, seeds: [0]}}")
    here = command.run_processes

    def one_is_busy(runs, *more):
        outcomes = here(runs, *more)
        return outcomes | {runs[0].name: Outcome(failure="OutputError: is in use by another process")}

    monkeypatch.setattr(command, "run_processes", one_is_busy)
    assert command.main([str(path), "--processes", "1"]) == 0
    assert "failed" not in capsys.readouterr().err
    folder = RunFolder("question", str(tmp_path)).path
    assert len(read_runs(folder)) == 2 and not (folder / "unfinished.txt").exists()


def test_a_sweep_may_be_over_several_folders_of_images(tmp_path, monkeypatch, capsys):
    """Each base names its own; runs on one of them see the same images, and are not held against the others."""

    def run_here(runs, at_once, threads, show):
        done = {run.name: execute(run.recipe, Lines()) for run in runs}
        return {name: Outcome(run.record, run.records) for name, run in done.items()}

    monkeypatch.setattr(command, "run_processes", run_here)
    path = write_sweep(tmp_path, "{base: [few.yaml, many.yaml], seeds: [0, 1]}")
    for name, count in (("few", 8), ("many", 12)):
        folder = image_folder(tmp_path / name, train=count)
        base = {**TINY, **RUN, "run": name, "data_dir": str(folder), "out_dir": str(tmp_path), "epochs": 1}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({**base, "drop_start": 0, "drop_end": 0}))
    for _ in range(2):  # trained, and looked up
        assert command.main([str(path), "--processes", "1"]) == 0
    assert command.main([str(path), "--tables"]) == 0
    runs = read_runs(tmp_path / "runs" / "question")
    assert [run.cell for run in runs] == ["few", "many", "few", "many"] and len({run.data for run in runs}) == 2
    assert "4 of 4 runs are finished" in capsys.readouterr().out
