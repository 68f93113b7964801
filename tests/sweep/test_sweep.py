"""Sweeps on real Dask clusters: every run is done once, whatever happens to its worker; failures and stops are told."""

import csv
import dataclasses
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time

import forked
import nbformat
import pytest
import torch
import yaml
from conftest import TINY

from ptd_core.errors import OutputError
from ptd_core.paths import PROJECT_ROOT as ROOT
from ptd_core.progress import Progress
from ptd_core.recipe import Recipe
from ptd_core.records import history
from ptd_core.records.cells import group
from ptd_core.records.finished_runs import read_runs
from ptd_core.records.folders import RunFolder
from ptd_core.records.statistics import mean_and_sd
from ptd_core.run import execute
from ptd_core.sweep.__main__ import main
from ptd_core.sweep.cluster import local_client
from ptd_core.sweep.outcome import finished
from ptd_core.sweep.plan import read_plan
from ptd_core.sweep.tasks import run_all

EPOCHS = 6  # enough of them that a worker killed after the first is killed in the middle
TIMES = [name for name in history.FIELDS if "second" in name]
pytestmark = pytest.mark.usefixtures("forked_workers")


def write_sweep(folder, text, **settings):
    """A sweep file in `folder` whose runs go there too."""
    base = {**TINY, "run": "tiny", "epochs": EPOCHS, "out_dir": str(folder), **settings}
    (folder / "base.yaml").write_text(yaml.safe_dump(base))
    (folder / "try.yaml").write_text(text)
    return folder / "try.yaml"


def records(recipe):
    """What a run recorded, without its times."""
    rows = history.read_csv(history.history_file(RunFolder(recipe.run_name, recipe.out_dir).path, recipe.chapter))
    return [dataclasses.replace(row, **dict.fromkeys(TIMES, 0.0)) for row in rows]


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def killed(tmp_path_factory, forked_workers):
    """A sweep of four runs on two workers, one of which is killed when its first run has done its first epoch."""
    folder = tmp_path_factory.mktemp("sweep")
    path = write_sweep(folder, "{base: base.yaml, factors: {drop_final: [0.25, 0.5]}, seeds: [0, 1]}")
    plan = read_plan(path)
    events, victim = [], {}
    with local_client("cpu", 2, threads=1, allowed_failures=3) as client:
        pids = client.run(os.getpid)  # by address of the worker

        def show(run, event):
            events.append((run.name, event))
            if event["kind"] == "epoch" and not victim:
                victim.update(run=run, worker=event["worker"], pid=pids[event["worker"]])
                os.kill(victim["pid"], signal.SIGKILL)

        outcomes = run_all(client, plan.runs, show)
        # On the same cluster, as one that exists already: a sweep of which one run cannot succeed.
        failing = folder / "failing"
        failing.mkdir()
        text = "{base: base.yaml, fixed: {epochs: 1}, factors: {dataset: [folder, shapes]}, seeds: [0]}"
        path = write_sweep(failing, text, data_dir=str(failing / "nowhere"))
        output = forked.run_module("ptd_core.sweep", path, "--scheduler", client.scheduler.address)
    return {"plan": plan, "events": events, "victim": victim, "outcomes": outcomes, "failing": output, "folder": folder}


def test_every_run_is_finished_although_a_worker_was_killed(killed):
    assert killed["victim"]
    with pytest.raises(ProcessLookupError):
        os.kill(killed["victim"]["pid"], 0)
    assert set(killed["outcomes"]) == {run.name for run in killed["plan"].runs}
    for run in killed["plan"].runs:
        assert repr(killed["outcomes"][run.name]) == repr(finished(run.recipe, notebook=False))  # NaN equals NaN
        assert killed["outcomes"][run.name].record.finished
        assert [row.epoch for row in records(run.recipe)] == list(range(EPOCHS))


def test_no_run_and_no_epoch_is_done_twice(killed):
    lost = killed["victim"]["run"].name
    for run in killed["plan"].runs:
        mine = [event for name, event in killed["events"] if name == run.name]
        assert sum(event["kind"] == "starts" for event in mine) == (2 if run.name == lost else 1)
        assert sum(event["kind"] == "done" for event in mine) == 1
        epochs = [event["epoch"] for event in mine if event["kind"] == "epoch"]
        if run.name == lost and epochs[:2] == [0, 0]:
            del epochs[0]  # killed between its line and its checkpoint
        assert epochs == list(range(EPOCHS))


def test_the_lost_worker_changed_nothing_in_the_records_or_the_weights(killed, tmp_path):
    torch.set_num_threads(1)
    recipe = killed["victim"]["run"].recipe
    whole = execute(Recipe(**{**recipe.model_dump(), "out_dir": str(tmp_path)}), Progress(bar=False))
    assert records(whole.recipe) == records(recipe)
    shown = execute(recipe, Progress(bar=False))
    for one, two in zip(whole.model.state_dict().values(), shown.model.state_dict().values()):
        assert torch.equal(one, two)


def test_finished_sweep_is_skipped_and_its_tables_are_of_all_runs(killed, capsys):
    folder = killed["folder"]
    assert main([str(folder / "try.yaml")]) == 0
    printed = capsys.readouterr().out
    assert "skipped  4 finished runs" in printed and "cluster" not in printed
    assert "| tiny_drop_final0.25 | 0, 1 |" in printed and "4 of 4 runs are finished" in printed
    rows = table(folder / "runs" / "try" / "runs.csv")
    assert [row["run"] for row in rows] == [run.name for run in killed["plan"].runs]
    for row, run in zip(rows, killed["plan"].runs):
        info = json.loads((folder / "runs" / run.name / "run.json").read_text())
        assert float(row["test_accuracy"]) == info["results"]["test_accuracy"]
        assert float(row["drop_final"]) == info["recipe"]["drop_final"] and int(row["seed"]) == info["seed"]
        assert {name: row[name] for name in ("precision", "attention", "compilation", "fingerprint")} == {
            "precision": "fp32", "attention": "fused", "compilation": "off", "fingerprint": run.recipe.fingerprint
        }  # fmt: skip
    cells = group(read_runs(folder / "runs" / "try"))
    assert [cell.name for cell in cells] == ["tiny_drop_final0.25", "tiny_drop_final0.5"]
    for cell in cells:
        values = [float(row["test_accuracy"]) for row in rows if row["cell"] == cell.name]
        mean, sd = mean_and_sd(cell.values("test_accuracy"))
        assert len(cell.runs) == 2 and mean == pytest.approx(sum(values) / 2)
        assert sd == pytest.approx(statistics.stdev(values))
        assert f"{cell.name} | 0, 1 | {mean:.2f} ± {sd:.2f} %" in printed
    names = sorted(path.name for path in (folder / "runs" / "try").iterdir())
    assert names == ["cells.png", "epochs.csv", "runs.csv"]
    assert (folder / "runs" / "try" / "cells.png").read_bytes().startswith(b"\x89PNG")


def test_epochs_of_all_runs_are_one_table(killed):
    assert main([str(killed["folder"] / "try.yaml")]) == 0
    rows = table(killed["folder"] / "runs" / "try" / "epochs.csv")
    assert list(rows[0]) == ["run", "cell", "seed", *history.FIELDS]
    assert len(rows) == 4 * EPOCHS
    for run in killed["plan"].runs:
        mine = [row for row in rows if row["run"] == run.name]
        assert {(row["cell"], int(row["seed"])) for row in mine} == {(run.cell, run.recipe.seed)}
        theirs = history.read_csv(history.history_file(killed["folder"] / "runs" / run.name, run.recipe.chapter))
        assert [float(row["train_loss"]) for row in mine] == [record.train_loss for record in theirs]


def test_a_run_whose_checkpoint_is_not_here_is_not_finished(killed, capsys):
    """As published records are, or what was copied from another machine: the sweep trains it."""
    run = killed["plan"].runs[0]
    folder = killed["folder"] / "runs" / run.name
    hidden = [(path, path.with_suffix(".hidden")) for path in (folder / "last.pt", folder / "previous.pt")]
    for path, away in hidden:
        path.rename(away)
    try:
        assert finished(run.recipe, notebook=False) is None
        assert main([str(killed["folder"] / "try.yaml"), "--list"]) == 0
        assert f"{run.name}\n" in capsys.readouterr().out
    finally:
        for path, away in hidden:
            away.rename(path)
    assert finished(run.recipe, notebook=False)


def test_list_names_the_runs_and_runs_none(killed, tmp_path, capsys):
    assert main([str(killed["folder"] / "try.yaml"), "--list"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{run.name}  finished" for run in killed["plan"].runs]
    assert main([str(killed["folder"] / "try.yaml"), "--list", f"out_dir={tmp_path}"]) == 0
    assert capsys.readouterr().out.splitlines() == [run.name for run in killed["plan"].runs]
    assert list(tmp_path.iterdir()) == []


def test_tables_are_those_of_the_runs_that_are_finished(killed, tmp_path, capsys):
    place = tmp_path / "runs"
    for run in killed["plan"].runs[:3]:
        shutil.copytree(killed["folder"] / "runs" / run.name, place / run.name)
    sweep = [str(killed["folder"] / "try.yaml"), "--tables", f"out_dir={tmp_path}"]
    assert main(sweep) == 0
    assert [row["run"] for row in table(place / "try" / "runs.csv")] == [run.name for run in killed["plan"].runs[:3]]
    assert (place / "try" / "unfinished.txt").read_text() == f"{killed['plan'].runs[3].name}\n"
    shutil.rmtree(place)
    assert main(sweep) == 2 and not place.exists()
    assert "try: none of its 4 runs is finished" in capsys.readouterr().err


def test_a_failed_run_is_told_and_holds_up_no_other(killed):
    output = killed["failing"]
    assert output.returncode == 1
    assert "failed   tiny_datasetfolder_seed0: DataError: " in output.stderr and "nowhere" in output.stderr
    assert "Traceback" not in output.stderr
    assert "1 of 2 runs are finished" in output.stdout and "tiny_datasetshapes_seed0" in output.stdout
    folder = killed["folder"] / "failing" / "runs" / "try"
    assert [row["run"] for row in table(folder / "runs.csv")] == ["tiny_datasetshapes_seed0"]
    assert (folder / "unfinished.txt").read_text() == "tiny_datasetfolder_seed0\n"


def test_another_recipe_in_a_runs_folder_refuses_the_sweep(killed, capsys):
    assert main([str(killed["folder"] / "try.yaml"), "epochs=7"]) == 2
    assert "epochs: 7 asked for, 6 there" in capsys.readouterr().err


def test_damaged_run_json_is_named(tmp_path, tiny):
    recipe = tiny()
    folder = RunFolder(recipe.run_name, recipe.out_dir).path
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{")
    with pytest.raises(OutputError, match=r"run\.json: is damaged"):
        finished(recipe, notebook=False)


def test_refusals_are_one_sentence(tmp_path, capsys):
    path = write_sweep(tmp_path, "{base: base.yaml, factors: {drop_block: [0, 9]}, seeds: [0]}")
    assert main([str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("RecipeError: ") and "drop_block" in captured.err and not captured.out
    assert not (tmp_path / "runs").exists()
    with pytest.raises(SystemExit) as refusal:
        main([str(path), "--workers", "0"])
    assert refusal.value.code == 2 and "--workers" in capsys.readouterr().err


@pytest.mark.slow
def test_interrupt_ends_all_processes_and_the_same_command_resumes(tmp_path):
    path = write_sweep(tmp_path, "{base: base.yaml, seeds: [0, 1]}")
    command = [sys.executable, "-m", "ptd_core.sweep", str(path), "--workers", "2"]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    seen = []
    for line in process.stdout:
        seen.append(line)
        if "epoch   1/6" in line:
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the command and to its workers
            break
    _, errors = process.communicate()
    assert process.returncode == 130
    assert errors == "stopped; the same command resumes from the last checkpoints\n"
    with pytest.raises(ProcessLookupError):  # soon nobody of its group is left
        for _ in range(600):
            os.killpg(process.pid, 0)
            time.sleep(0.1)
    run = seen[-1].split()[1]
    again = forked.run_module(*command[2:])
    assert again.returncode == 0, again.stderr
    assert f"{run} is resumed from epoch" in " ".join(again.stdout.split())
    assert "2 of 2 runs are finished" in again.stdout
    for planned in read_plan(path).runs:
        assert [row.epoch for row in records(planned.recipe)] == list(range(EPOCHS))


def test_the_command_without_a_sweep_needs_neither_dask_nor_jupyter():
    """Nor does a sweep need Jupyter: clusters and GPU machines often have none."""
    code = (
        "import sys, ptd_core.__main__; assert 'distributed' not in sys.modules and 'dask' not in sys.modules\n"
        "import ptd_core.sweep\n"
        "assert not {'IPython', 'papermill', 'ipykernel', 'ipywidgets', 'jupytext'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.slow
def test_notebooks_are_executed_and_kept(tmp_path):
    path = write_sweep(tmp_path, "{base: base.yaml, fixed: {epochs: 1}, seeds: [0]}")
    command = ["ptd_core.sweep", path, "--notebooks", "--workers", "1"]
    output = forked.run_module(*command)
    assert output.returncode == 0, output.stdout + output.stderr
    folder = tmp_path / "runs" / "tiny_seed0"
    assert [file.name for file in folder.glob("*.ipynb")] == ["ptd.ipynb"]
    book = nbformat.read(folder / "ptd.ipynb", as_version=4)
    assert all(cell.execution_count for cell in book.cells if cell.cell_type == "code")
    assert "| tiny | 0 |" in output.stdout
    again = forked.run_module(*command)
    assert again.returncode == 0 and "skipped  1 finished runs" in again.stdout
