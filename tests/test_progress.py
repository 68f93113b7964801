"""What a run prints: where a bar is drawn and where only lines are, and how long the rest will take."""

import subprocess
import sys
from dataclasses import replace

import forked
import pytest
import yaml
from conftest import TINY

from ptd_core.cost import cost
from ptd_core.paths import PROJECT_ROOT as ROOT
from ptd_core.progress import Estimate, Progress, say, somebody_watches
from ptd_core.records.history import NAN, EpochRecord
from ptd_core.records.run_record import RunRecord
from ptd_core.trainer import Trainer

RECORD = EpochRecord(4, 1e-3, 0.1, 41, 2.5, 30.0, 44.0, 2.2, 40.0, 2.1, 42.5, 10.0, 0.5, 1.0, 400.0)


@pytest.mark.parametrize(
    ("kernel", "variables", "watched"),
    [(True, {"JPY_SESSION_NAME": "book/ptd.ipynb"}, True), (True, {"VSCODE_PID": "1"}, True), (True, {}, False)],
)
def test_in_a_notebook_a_bar_needs_an_open_session(monkeypatch, kernel, variables, watched):
    """papermill starts a kernel without any of these variables."""
    for name in ("JPY_SESSION_NAME", "VSCODE_PID", "COLAB_RELEASE_TAG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    assert somebody_watches() is watched


@pytest.mark.parametrize("terminal", [True, False])
def test_outside_of_notebooks_a_bar_needs_a_terminal(monkeypatch, terminal):
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    assert somebody_watches() is terminal


def test_one_line_an_epoch_and_a_bar_only_where_wanted(capsys):
    for bar in (True, False):
        progress = Progress(bar=bar)
        for done in (1, 2, 3):
            progress.step(4, done, 3)
        progress.epoch(RECORD, 10)
        out, err = capsys.readouterr()
        assert out == "epoch   5/10  kept   41  loss 2.5000  test  42.50 %  train (clean)  44.00 %  400 images/s\n"
        assert ("epoch 5" in err and "/3" in err) is bar


def test_an_epoch_says_how_long_the_rest_will_take(capsys):
    Progress(bar=False).epoch(RECORD, 10, left=95.0)
    assert capsys.readouterr().out.endswith("400 images/s  1 min 35 s left\n")


def test_what_was_not_measured_is_not_printed(capsys):
    Progress(bar=False).epoch(replace(RECORD, test_accuracy=NAN, ema_test_accuracy=NAN), 10)
    assert capsys.readouterr().out == "epoch   5/10  kept   41  loss 2.5000  400 images/s\n"


def prints():
    for bar in (False, True):
        shown = Progress(bar=bar)
        shown.step(0, 1, 3)
        shown.print("10.50 \xb1 0.71 \u2192 \udce9")
        shown.close()
    say("runs/\u6587")


@pytest.mark.parametrize(
    ("encoding", "line"), [("cp1252", "10.50 ± 0.71 ? ?"), ("ascii", "10.50 ? 0.71 ? ?"), ("utf-8", "10.50 ± 0.71 → ?")]
)
def test_what_cannot_be_printed_is_replaced(encoding, line):
    result = forked.run(prints, encoding=encoding)
    assert result.returncode == 0, result.stderr
    lines = [part.strip() for part in result.stdout.splitlines()]
    assert lines == [line, line, "runs/文" if encoding == "utf-8" else "runs/?"]


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_commands_end_well_on_every_terminal(tiny, tmp_path, encoding):
    path = tmp_path / "tiny.yaml"
    base = tmp_path / "文_é"
    path.write_text(yaml.safe_dump({**TINY, "run": "tiny", "epochs": 1}))
    for module, *arguments in (("ptd_core", path, f"out_dir={base}"), ("ptd_core.compare", base / "runs" / "tiny")):
        result = forked.run_module(module, *arguments, encoding=encoding)
        assert result.returncode == 0, result.stderr
        assert "test accuracy" in result.stdout


def test_estimate_scales_steps_by_their_operations(tiny, tiny_shapes):
    """A run of equal epochs, no averaging: steps, plus two evaluations' forward passes of 60 images an epoch."""
    trainer = Trainer(tiny(drop_final=0.0, ema_decay=0.0), tiny_shapes)
    price = cost(trainer.recipe.vit, 10)
    per_epoch = 5 + 120 * price.forward / (32 * price.training)
    estimate = Estimate(trainer, Progress(bar=False))
    assert estimate.seconds(2.0, 0) == pytest.approx(2.0 * 3 * per_epoch)
    assert estimate.seconds(2.0, 2) == pytest.approx(2.0 * per_epoch)
    assert estimate.seconds(2.0, 0, done=1) == pytest.approx(2.0 * 2 * per_epoch)
    assert estimate.seconds(2.0, 2, done=1) == 0


def test_a_run_whose_reader_has_gone_ends_well(tiny, tmp_path):
    """python -m ptd_core ... | head -1"""
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(tiny(epochs=2).model_dump()))
    process = subprocess.Popen(
        [sys.executable, "-m", "ptd_core", str(recipe)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout.readline().startswith(b"run ")
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 0
    assert RunRecord.read(tmp_path / "runs" / "tiny").finished
