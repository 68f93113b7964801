"""Whole runs: what they write, how they are resumed, and that nothing of another run is overwritten."""

import csv
import json
import math
import os

import forked
import pytest
import torch
from conftest import Lines

from ptd_core.errors import DataError, DeviceError, OutputError, TrainingError
from ptd_core.paths import PROJECT_ROOT as ROOT
from ptd_core.progress import duration
from ptd_core.recipe import Recipe
from ptd_core.records import files, history
from ptd_core.records.checkpoint import Checkpoints
from ptd_core.records.folders import RunFolder
from ptd_core.records.history import EpochRecord
from ptd_core.records.run_record import RunRecord
from ptd_core.run import execute
from ptd_core.step import TrainingStep
from ptd_core.trainer import Trainer

WRITTEN = ["accuracy.png", "loss.png", "lr_schedule.png", "history.csv", "metrics.csv"]
OTHERS = {
    "run.json",
    "last.pt",
    "previous.pt",
    "best.pt",
    "weights.safetensors",
    "weights_after_epoch_1.safetensors",
    ".lock",
    "model",
}


def run_files(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.drawn
@pytest.mark.parametrize(("settings", "chapter"), [({}, "ptd"), ({"drop_final": 0.0}, "baseline")])
def test_what_a_run_writes(tiny, tmp_path, settings, chapter):
    done = execute(tiny(**settings), Lines())
    folder = tmp_path / "runs" / "tiny"
    assert [path.name for path in tmp_path.iterdir()] == ["runs"] and done.folder == folder
    names = {path.name for path in folder.iterdir()}
    schedule = {"ptd_drop_schedule.png"} if chapter == "ptd" else set()
    assert names == {f"{chapter}_{name}" for name in WRITTEN} | schedule | OTHERS
    for name in names:
        if name.endswith(".png"):
            assert (folder / name).read_bytes().startswith(b"\x89PNG")

    assert history.read_csv(folder / f"{chapter}_history.csv") == done.records
    with open(folder / f"{chapter}_metrics.csv") as file:
        rows = list(csv.DictReader(file))
    column = "val_acc_ema" if chapter == "ptd" else "val_acc"
    expected = [r.ema_test_accuracy if chapter == "ptd" else r.test_accuracy for r in done.records]
    assert [float(row[column]) for row in rows] == expected

    info = json.loads((folder / "run.json").read_text())
    assert info["finished"] and info["seed"] == 0 and info["recipe"]["epochs"] == 3
    assert info["results"]["test_accuracy"] == done.records[-1].headline
    assert info["versions"]["torch"] == torch.__version__
    assert info["times"]["train_seconds"] == pytest.approx(sum(r.train_seconds for r in done.records))
    assert str(tmp_path) not in json.dumps(info)  # no path of one machine
    assert RunRecord.read(folder) == done.record


def test_metrics_have_the_columns_of_the_original_logs(tmp_path):
    reference = ROOT.parent / "shared" / "reference"
    if not reference.exists():
        pytest.skip("the original's logs are not at ../shared/reference")
    for chapter, file in (("baseline", "baseline_metrics.csv"), ("ptd", "ptd_aug_metrics.csv")):
        history.write_metrics([], chapter, tmp_path / "m.csv")
        assert (tmp_path / "m.csv").read_text().strip() == (reference / file).read_text().splitlines()[0].strip()


def test_finished_run_is_shown_not_repeated(tiny, tmp_path):
    first = execute(tiny(), Lines())
    before = run_files(tmp_path)
    progress = Lines()
    again = execute(tiny(), progress)
    assert run_files(tmp_path) == before
    assert any("finished" in line for line in progress.printed)
    assert again.records == first.records
    for one, two in zip(first.model.state_dict().values(), again.model.state_dict().values()):
        assert torch.equal(one, two)


def test_stopped_run_is_resumed_where_it_stood(tiny, tmp_path):
    whole = execute(tiny(out_dir=str(tmp_path / "whole")), Lines())

    class StopAfterFirst(Lines):
        def epoch(self, record, epochs, left):
            if record.epoch == 1:
                raise KeyboardInterrupt

    stopped = tiny(out_dir=str(tmp_path / "stopped"))
    with pytest.raises(KeyboardInterrupt):
        execute(stopped, StopAfterFirst())
    progress = Lines()
    resumed = execute(stopped, progress)
    assert any("is resumed from epoch 2" in line for line in progress.printed)
    assert [r.test_loss for r in resumed.records] == [r.test_loss for r in whole.records]
    for one, two in zip(whole.model.state_dict().values(), resumed.model.state_dict().values()):
        assert torch.equal(one, two)


def test_another_recipe_in_the_same_folder_is_refused(tiny, tmp_path):
    execute(tiny(), Lines())
    before = run_files(tmp_path)
    with pytest.raises(OutputError, match=r"epochs: 4 asked for, 3 there.*run=NAME"):
        execute(tiny(epochs=4), Lines())
    assert run_files(tmp_path) == before


def test_absent_device_is_refused_before_anything_is_written(tiny, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(DeviceError, match=r"'cuda'.*0 CUDA devices"):
        execute(tiny(device="cuda"), Lines())
    assert run_files(tmp_path) == {}


def test_absent_data_is_refused_with_two_ways_to_get_it(tiny, tmp_path):
    recipe = tiny(dataset="cifar100", image_size=32, data_dir=str(tmp_path / "none"), download=False)
    with pytest.raises(DataError) as caught:
        execute(recipe, Lines())
    assert "torchvision" in str(caught.value) and "parquet" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_output_folder_that_cannot_be_written_is_refused(tiny, tmp_path):
    (tmp_path / "runs").write_text("a file where a folder should be")
    with pytest.raises(OutputError, match=r"cannot be written.*out_dir"):
        execute(tiny(), Lines())


def create_as_nobody(folder):
    os.setuid(65534)
    RunFolder("x", folder).create()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_output_folder_of_somebody_else_is_refused(tmp_path):
    """As a user without rights; root may write anywhere."""
    tmp_path.chmod(0o755)
    result = forked.run(create_as_nobody, str(tmp_path))
    assert result.returncode != 0 and "cannot be written (Permission denied)" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_loss_that_is_not_finite_keeps_what_was_recorded(tiny, tmp_path, monkeypatch):
    train = Trainer._train

    def explode(self, epoch, on_step):
        if epoch == 2:
            with torch.no_grad():
                self.model.head.weight.fill_(math.inf)
        return train(self, epoch, on_step)

    monkeypatch.setattr(Trainer, "_train", explode)
    with pytest.raises(TrainingError, match="epoch 3, step 1"):
        execute(tiny(), Lines())
    folder = tmp_path / "runs" / "tiny"
    assert len(history.read_csv(folder / "ptd_history.csv")) == 2
    assert json.loads((folder / "run.json").read_text())["finished"] is False
    assert len(Checkpoints(tmp_path / "runs" / "tiny").load(print).records) == 2


def test_a_loss_that_is_not_finite_is_not_saved(tiny, tmp_path, monkeypatch):
    """Losses are looked at a few times an epoch, and saved weights would be the ones to go on with."""
    step = TrainingStep.__call__
    taken = []

    def explode(self, batch, *passes):
        taken.append(1)
        loss, correct = step(self, batch, *passes)
        return (loss * math.nan if len(taken) == 4 else loss), correct

    monkeypatch.setattr("ptd_core.trainer.LOSS_CHECKS_PER_EPOCH", 1)
    monkeypatch.setattr("ptd_core.records.checkpoint.SHARE", math.inf)
    monkeypatch.setattr(TrainingStep, "__call__", explode)
    recipe = tiny(batch_size=8, checkpoint_seconds=1e-9, compilation="off")
    with pytest.raises(TrainingError, match="the loss is nan at epoch 1, step 4"):
        execute(recipe, Lines())
    assert len(taken) == 4
    saved = Checkpoints(tmp_path / "runs" / "tiny").load(print)
    assert saved.trainer["partial"]["step"] == 3
    execute(recipe, Lines())  # which goes on from there


def test_estimate_and_description_are_printed_before_training(tiny):
    progress = Lines()
    execute(tiny(subset=640), progress)
    text = "\n".join(progress.printed)
    for words in ("640 training", "64 patch tokens", "GFLOP an image", "1 thread,", "estimate"):
        assert words in text
    assert text.index("estimate") < text.index("epoch   1/3")


def test_csv_reads_back_exactly_with_gaps(tmp_path):
    numbers = {name: 0.1 * place for place, name in enumerate(history.FIELDS)}
    record = EpochRecord(**{**numbers, "epoch": 3, "kept_tokens": 41, "ema_test_accuracy": math.nan})
    history.write_csv([record], tmp_path / "h.csv")
    (read,) = history.read_csv(tmp_path / "h.csv")
    assert math.isnan(read.ema_test_accuracy) and read.epoch == 3 and read.lr == record.lr
    assert read.headline == record.test_accuracy


def test_what_probes_measure_stands_in_the_records_and_reads_back(tiny, tmp_path):
    """After evaluated epochs only, in columns of their own; a checkpoint keeps it."""

    def weight(trainer):
        return {"head": trainer.model.head.weight.abs().mean().item()}

    probes = (weight, lambda trainer: {"epoch_now": float(trainer.next_epoch)})
    done = execute(tiny(eval_every=2), Lines(), probes=probes)
    assert [list(record.extra) for record in done.records] == [[], ["head", "epoch_now"], ["head", "epoch_now"]]
    assert [record.extra["epoch_now"] for record in done.records[1:]] == [1.0, 2.0]
    assert history.read_csv(tmp_path / "runs" / "tiny" / "ptd_history.csv")[1:2] == done.records[1:2]
    assert [record.extra for record in execute(tiny(eval_every=2), Lines()).records] == [r.extra for r in done.records]
    with pytest.raises(ValueError, match="a probe must not measure what is called lr"):
        execute(tiny(run="other"), Lines(), probes=(lambda trainer: {"lr": 1.0},))


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", "{}", '{"run": 1}', "\x00", "[" * 100_000], ids=lambda text: text[:9] or "empty"
)
def test_damaged_run_json_is_named_and_nothing_is_changed(tiny, tmp_path, damage):
    done = execute(tiny(epochs=1, drop_end=1), Lines())
    file = done.folder / "run.json"
    for content in (damage, file.read_text().replace('"finished": true', '"finished": "yes"')):
        file.write_text(content)
        before = run_files(tmp_path)
        with pytest.raises(OutputError, match=r"run\.json: is damaged .* delete it, and it is made again"):
            execute(tiny(epochs=1, drop_end=1), Lines())
        assert run_files(tmp_path) == before
    file.unlink()
    again = execute(tiny(epochs=1, drop_end=1), Lines())
    assert again.record.results == done.record.results and RunRecord.read(done.folder) == again.record


def test_run_json_is_absent_while_training_goes_on(tiny, tmp_path):
    """What a killed process leaves beside its checkpoint is no set of records of some other epoch."""
    file = tmp_path / "runs" / "tiny" / "run.json"

    class Killed(Lines):
        def step(self, epoch, done, steps):
            assert not file.exists()
            if epoch == 2:
                raise ZeroDivisionError  # ends it where it stands, without saving

    with pytest.raises(ZeroDivisionError):
        execute(tiny(), Killed())
    done = execute(tiny(), Lines())
    assert RunRecord.read(file.parent) == done.record and done.record.finished
    for name in ("last.pt", "previous.pt"):  # a finished run whose checkpoints are lost is trained, not believed
        (file.parent / name).unlink()
    with pytest.raises(ZeroDivisionError):
        execute(tiny(), Killed())
    assert not file.exists() and RunFolder("tiny", str(tmp_path)).finished is None
    execute(tiny(), Lines())
    assert RunFolder("tiny", str(tmp_path)).finished


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    files.write_atomically(path, b"old")
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        files.write_atomically(path, b"new and longer")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_durations_as_people_say_them():
    assert [duration(s) for s in (42.4, 200, 49_200)] == ["42 s", "3 min 20 s", "13 h 40 min"]


def test_command_line_does_the_same_run(tiny, tmp_path):
    recipe = tiny(out_dir=str(tmp_path / "a"))
    execute(recipe, Lines())
    path = tmp_path / "tiny.yaml"
    path.write_text("\n".join(f"{k}: {json.dumps(v)}" for k, v in recipe.settings().items()) + "\nrun: tiny\n")
    result = forked.run_module("ptd_core", path, f"out_dir={tmp_path / 'b'}", "device=cpu")
    assert result.returncode == 0, result.stderr
    ours = history.read_csv(tmp_path / "a/runs/tiny/ptd_history.csv")
    theirs = history.read_csv(tmp_path / "b/runs/tiny/ptd_history.csv")
    assert [(r.train_loss, r.test_loss) for r in ours] == [(r.train_loss, r.test_loss) for r in theirs]
    assert Recipe.from_yaml(path) == recipe.model_copy(update={"out_dir": "", "device": "auto"})


@pytest.mark.slow
def test_published_recipe_takes_real_steps_on_real_images(real_cifar100, tmp_path):
    """The full-size model, augmentation, mixing and averaging on a few real images: one epoch of three small steps."""
    settings = {"data_dir": real_cifar100, "out_dir": tmp_path, "epochs": 1, "subset": 100, "test_subset": 100,
                "batch_size": 32, "device": "cpu"}  # fmt: skip
    recipe = Recipe.from_yaml(ROOT / "parameters" / "ptd_aug.yaml", [f"{k}={v}" for k, v in settings.items()])
    done = execute(recipe, Lines())
    assert 4.0 < done.records[0].train_loss < 5.5  # ln 100 = 4.6
    assert done.record.model.parameters == 3_035_812


@pytest.mark.slow
def test_small_model_learns_real_images(real_cifar100, tmp_path):
    """Token drop, light augmentation, 1,500 images: far above the 1 % of chance on images that it never saw."""
    overrides = {"data_dir": real_cifar100, "out_dir": tmp_path, "subset": 1500, "test_subset": 500,
                 "epochs": 6, "drop_end": 5, "depth": 2, "embed_dim": 48,
                 "eval_every": 8, "rand_ops": 0, "erase": 0.0, "dropout": 0.0, "batch_size": 32, "lr": 2e-3,
                 "device": "cpu"}  # fmt: skip
    done = execute(
        Recipe.from_yaml(ROOT / "parameters" / "ptd_small.yaml", [f"{k}={v}" for k, v in overrides.items()]), Lines()
    )
    assert done.records[-1].kept_tokens == 41
    assert done.record.results.test_accuracy > 5
    assert done.record.results.clean_train_accuracy > 10
