"""Sweeps without Dask: processes of `python -m ptd_core`, several at once."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import forked
import psutil
import pytest
import yaml
from conftest import TINY, Lines, equal, without_clocks
from safetensors.torch import load_file

from ptd_core.paths import PROJECT_ROOT as ROOT
from ptd_core.records.folders import RunFolder
from ptd_core.records.run_record import RunRecord
from ptd_core.run import execute
from ptd_core.sweep import processes
from ptd_core.sweep.__main__ import main
from ptd_core.sweep.plan import read_plan
from ptd_core.sweep.processes import run_processes


def write_sweep(folder, text, **settings):
    base = {**TINY, "run": "tiny", "epochs": 2, "out_dir": str(folder), **settings}
    (folder / "base.yaml").write_text(yaml.safe_dump(base))
    (folder / "try.yaml").write_text(text)
    return folder / "try.yaml"


@pytest.fixture
def forked_runs(monkeypatch):
    """Runs need not import PyTorch again."""
    monkeypatch.setattr(processes.subprocess, "Popen", forked.popen)


def test_runs_are_those_of_one_process_and_never_more_at_once_than_asked_for(tmp_path, tiny_shapes, forked_runs):
    path = write_sweep(
        tmp_path, "{base: base.yaml, arms: {all: {drop_final: 0.0}, few: {}, bad: {dataset: folder}}, seeds: [0]}",
        data_dir=str(tmp_path / "nowhere"),
    )  # fmt: skip
    events, under_way, most = [], set(), []

    def show(run, event):
        events.append((run.cell, event["kind"]))
        (under_way.add if event["kind"] == "starts" else under_way.discard)(run.name)
        most.append(len(under_way))

    plan = read_plan(path)
    outcomes = run_processes(plan.runs, 2, 1, show)
    assert max(most) == 2 and sorted(events) == sorted(
        [("tiny_all", "starts"), ("tiny_few", "starts"), ("tiny_bad", "starts"), ("tiny_all", "done"),
         ("tiny_few", "done"), ("tiny_bad", "failed")]
    )  # fmt: skip
    failure = outcomes["tiny_bad_seed0"].failure
    assert "status 2" in failure and "DataError" in failure and "nowhere" in failure
    for run in plan.runs[:2]:
        recipe = run.recipe.replace(out_dir=str(tmp_path / "whole"))
        whole = execute(recipe, Lines(), dataset=tiny_shapes)
        found = outcomes[run.name]
        assert equal(
            [vars(one) for one in without_clocks(found.epochs)], [vars(one) for one in without_clocks(whole.records)]
        )
        mine = load_file(RunFolder(run.name, str(tmp_path)).path / "weights.safetensors")
        assert all(equal(mine[name], value) for name, value in load_file(whole.folder / "weights.safetensors").items())


def test_the_command_does_it_without_dask_and_says_what_it_did(tmp_path, monkeypatch, capsys, forked_runs):
    for name in ("distributed", "dask"):
        monkeypatch.setitem(sys.modules, name, None)
    path = write_sweep(tmp_path, "{base: base.yaml, fixed: {epochs: 1}, seeds: [0, 1]}")
    assert main([str(path), "--processes", "2"]) == 0
    out = capsys.readouterr().out
    assert "2 of 2 runs are finished" in out and out.count("done: test accuracy") == 2
    assert main([str(path), "--processes", "2"]) == 0
    assert "skipped  2 finished runs" in capsys.readouterr().out
    for option in (["--workers", "2"], ["--notebooks"], ["--scheduler", "tcp://127.0.0.1:1"]):
        with pytest.raises(SystemExit) as refusal:
            main([str(path), "--processes", "2", *option])
        assert refusal.value.code == 2 and "without Dask" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_it_saves_all_runs_and_leaves_no_process(tmp_path, asked):
    path = write_sweep(tmp_path, "{base: base.yaml, seeds: [0, 1]}", epochs=400)
    command = [sys.executable, "-m", "ptd_core.sweep", str(path), "--processes", "2"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    threading.Thread(target=process.stdout.read, daemon=True).start()
    folders = [RunFolder(run.name, str(tmp_path)).path for run in read_plan(path).runs]
    while not all((folder / "last.pt").exists() for folder in folders):
        assert process.poll() is None
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    os.kill(process.pid, asked)
    assert process.wait() == 130
    assert process.stderr.read() == "stopped; the same command resumes from the last checkpoints\n"
    assert not [child for child in children if running(child)]
    for folder in folders:  # the records of what was done, as a run that is stopped by itself writes them
        assert not RunRecord.read(folder).finished


def running(process):
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
