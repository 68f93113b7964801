"""Publishing: records and pictures of what is finished, and nothing else; all of it or none."""

import pytest
from conftest import Lines
from forked import run_module
from test_compare import RECORD, record

from ptd_core import publish as publishing
from ptd_core.errors import OutputError
from ptd_core.paths import PROJECT_ROOT as ROOT
from ptd_core.publish import main, publish
from ptd_core.records.finished_runs import FinishedRun, mark_unfinished, read_runs, write_epochs, write_runs
from ptd_core.records.run_record import RunRecord
from ptd_core.run import execute


@pytest.fixture
def place(tmp_path):
    """A base with a finished run, an unfinished one, and a finished sweep, each with what is not for everybody."""
    for name in ("done", "stopped", "sweep"):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        for file in ("last.pt", "weights.safetensors", "ptd.ipynb", ".lock", ".a.png.1.tmp", "unknown.pkl"):
            (folder / file).write_bytes(b"mine")
        (folder / "deeper").mkdir()
        (folder / "link.png").symlink_to(ROOT / "pyproject.toml")
        if name != "sweep":
            record(name, 0, 10.0, finished=name == "done").write(folder)
            for file in ("ptd_history.csv", "ptd_loss.png", "ptd_saliency_explorer.html"):
                (folder / file).write_text(f"{file} of {name}")
    run = FinishedRun.of(record("c_seed0", 0, 10.0), "c")
    write_runs([run], folder)
    write_epochs([(run, [RECORD])], folder)
    (folder / "cells.png").write_bytes(b"picture")
    return tmp_path


def listed(folder):
    return sorted(path.name for path in folder.iterdir())


def test_records_and_pictures_of_a_run_and_of_a_sweep(place, capsys):
    to = place / "figures"
    assert main(["done", "sweep", "done", "--from", str(place), "--to", str(to)]) == 0
    assert capsys.readouterr().out == f"published: {to / 'done'}\npublished: {to / 'sweep'}\n"
    assert listed(to) == ["done", "sweep"]
    assert listed(to / "done") == ["ptd_history.csv", "ptd_loss.png", "ptd_saliency_explorer.html", "run.json"]
    assert listed(to / "sweep") == ["cells.png", "epochs.csv", "runs.csv"]
    for path in (*(to / "done").iterdir(), *(to / "sweep").iterdir()):
        assert path.read_bytes() == (place / "runs" / path.parent.name / path.name).read_bytes()
    assert RunRecord.read(to / "done") == record("done", 0, 10.0)


def test_an_older_copy_is_replaced_whole(place):
    to = place / "figures"
    publish(["done"], str(place), to)
    (to / "done" / "of_an_older_version.png").write_bytes(b"old")
    (place / "runs" / "done" / "ptd_loss.png").write_bytes(b"new")
    publish(["done"], str(place), to)
    assert listed(to / "done") == ["ptd_history.csv", "ptd_loss.png", "ptd_saliency_explorer.html", "run.json"]
    assert (to / "done" / "ptd_loss.png").read_bytes() == b"new" and listed(to) == ["done"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("absent", "runs/absent: is not there"),
        ("stopped", "runs/stopped: holds no finished run and no finished sweep"),
        ("../runs/done", "is not the name of a run or a sweep"),
        ("..", "is not the name of a run or a sweep"),
        ("", "is not the name of a run or a sweep"),
    ],
)
def test_one_that_cannot_be_published_stops_all(place, capsys, name, words):
    assert main(["done", name, "--from", str(place), "--to", str(place / "figures")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("OutputError: ") and words in error and error.count("\n") == 1
    assert not (place / "figures").exists()


def test_an_unfinished_sweep_names_what_is_missing(place):
    mark_unfinished(place / "runs" / "sweep", ["c_seed1", "c_seed2"])
    with pytest.raises(OutputError, match="the sweep is not finished; missing are c_seed1, c_seed2"):
        publish(["sweep"], str(place), place / "figures")
    assert main(["sweep", "--from", str(place), "--to", str(place / "figures"), "--unfinished"]) == 0
    assert (place / "figures" / "sweep" / "unfinished.txt").read_text() == "c_seed1\nc_seed2\n"
    mark_unfinished(place / "runs" / "sweep", [])
    publish(["sweep"], str(place), place / "figures")
    assert not (place / "figures" / "sweep" / "unfinished.txt").exists()


def test_published_runs_of_a_sweep_are_not_lost(place):
    """Tables made elsewhere, where only some of the runs are, do not replace those that hold more."""
    runs = [FinishedRun.of(record(f"c_seed{seed}", seed, 10.0), "c") for seed in range(3)]
    write_runs(runs, place / "runs" / "sweep")
    publish(["sweep"], str(place), place / "figures")
    before = (place / "figures" / "sweep" / "runs.csv").read_bytes()
    write_runs(runs[1:2], place / "runs" / "sweep")
    (place / "runs" / "done" / "ptd_loss.png").write_bytes(b"new")
    with pytest.raises(OutputError, match=r"figures/sweep: holds 2 run\(s\) that .*: c_seed0, c_seed2.*--records"):
        publish(["done", "sweep"], str(place), place / "figures")
    assert (place / "figures" / "sweep" / "runs.csv").read_bytes() == before and not (place / "figures/done").exists()
    (place / "figures" / "sweep" / "feedback.csv").write_text("measured of weights that are gone")
    write_runs(runs, place / "runs" / "sweep")
    with pytest.raises(OutputError, match=r"figures/sweep: holds feedback\.csv, which .*runs/sweep does not; delete"):
        publish(["sweep"], str(place), place / "figures")
    (place / "figures" / "sweep" / "feedback.csv").unlink()
    record("sweep", 0, 10.0).write(place / "runs" / "sweep")  # a run of that name
    (place / "runs" / "sweep" / "runs.csv").rename(place / "aside.csv")
    with pytest.raises(OutputError, match=r"holds runs\.csv, which"):
        publish(["sweep"], str(place), place / "figures")
    (place / "runs" / "sweep" / "run.json").unlink()
    write_runs(runs[::-1], place / "runs" / "sweep")
    publish(["sweep"], str(place), place / "figures")
    assert (place / "figures" / "sweep" / "runs.csv").read_bytes() != before


def test_a_large_file_is_refused_by_name(place):
    large = place / "runs" / "done" / "ptd_saliency_explorer.html"
    large.write_bytes(b"x" * 2**20)
    publish(["done"], str(place), place / "figures")
    large.write_bytes(b"y" * (2**20 + 1))
    with pytest.raises(OutputError, match=r"ptd_saliency_explorer\.html: has 1,048,577 bytes"):
        publish(["sweep", "done"], str(place), place / "figures")
    assert listed(place / "figures") == ["done"]
    assert (place / "figures" / "done" / large.name).read_bytes().startswith(b"x")


def test_what_is_no_published_record_is_not_replaced(place):
    to = place / "figures"
    for name in ("done", "sweep"):
        (to / name / "DEVICE").mkdir(parents=True)
    (to / "sweep" / "runs.csv").write_text("")
    for name in ("done", "sweep"):
        with pytest.raises(OutputError, match=rf"figures/{name}: is no published run or sweep"):
            publish([name], str(place), to)
    (to / "done" / "DEVICE").rmdir()
    (to / "done").rmdir()
    (to / "done").symlink_to(place / "runs" / "stopped")
    with pytest.raises(OutputError, match=r"is no published run or sweep"):
        publish(["done"], str(place), to)
    assert listed(to) == ["done", "sweep"] and listed(to / "sweep") == ["DEVICE", "runs.csv"]


def test_a_failed_copy_leaves_the_older_one(place, monkeypatch):
    to = place / "figures"
    publish(["done"], str(place), to)
    before = {path.name: path.read_bytes() for path in (to / "done").iterdir()}

    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(publishing.shutil, "copyfile", fail)
        with pytest.raises(OutputError, match=r"cannot be written \(No space left on device\)"):
            publish(["done"], str(place), to)
    rename = publishing.os.rename
    with monkeypatch.context() as patch:
        patch.setattr(publishing.os, "rename", lambda a, b: fail() if a.suffix == ".tmp" else rename(a, b))
        with pytest.raises(OutputError, match="cannot be written"):
            publish(["done"], str(place), to)
    assert listed(to) == ["done"]
    assert {path.name: path.read_bytes() for path in (to / "done").iterdir()} == before


def test_if_one_of_several_fails_all_are_back(place, monkeypatch):
    to, rename = place / "figures", publishing.os.rename
    publish(["sweep"], str(place), to)
    (to / "sweep" / "older.png").write_bytes(b"")
    for first, second in (("done", "sweep"), ("sweep", "done")):

        def fail(a, b, name=second):
            if a.name.startswith(f".{name}.") and a.suffix == ".tmp":
                raise OSError(28, "No space left on device")
            rename(a, b)

        with monkeypatch.context() as patch, pytest.raises(OutputError, match="No space left"):
            patch.setattr(publishing.os, "rename", fail)
            publish([first, second], str(place), to)
        assert listed(to) == ["sweep"] and "older.png" in listed(to / "sweep")


@pytest.mark.parametrize("point", [1, 2])
def test_a_copy_that_a_killed_process_had_put_aside_is_brought_back(place, monkeypatch, point):
    """After the first of two renames, and after the second: no run that was published is lost, nothing is left over."""
    to, rename, calls = place / "figures", publishing.os.rename, []
    runs = [FinishedRun.of(record(f"c_seed{seed}", seed, 10.0), "c") for seed in range(2)]
    write_runs(runs, place / "runs" / "sweep")
    publish(["sweep"], str(place), to)

    def killed(a, b):
        rename(a, b)
        calls.append(a)
        if len(calls) == point:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(publishing.os, "rename", killed)
        publish(["sweep"], str(place), to)
    write_runs(runs[:1], place / "runs" / "sweep")
    with pytest.raises(OutputError, match="holds 1 run"):
        publish(["sweep"], str(place), to)
    assert sorted(path.name for path in to.iterdir()) == ["sweep"] and len(read_runs(to / "sweep")) == 2


def test_explorers_and_what_was_written_by_hand_are_not_lost(place):
    to, explorer = place / "figures", place / "runs" / "done" / "ptd_saliency_explorer.html"
    publish(["done"], str(place), to)
    (to / "done" / "README.md").write_text("what this run is")
    publish(["done"], str(place), to)
    assert (to / "done" / "README.md").read_text() == "what this run is"
    explorer.rename(place / "aside.html")
    with pytest.raises(OutputError, match=r"holds ptd_saliency_explorer\.html, which .*runs/done does not; delete"):
        publish(["done"], str(place), to)
    assert explorer.name in listed(to / "done")


def test_a_real_run_by_the_command(tiny, tmp_path):
    done = execute(tiny(epochs=1), Lines())
    result = run_module("ptd_core.publish", "tiny", "--from", tmp_path, "--to", tmp_path / "figures")
    assert result.returncode == 0, result.stderr
    assert listed(tmp_path / "figures" / "tiny") == [
        "ptd_accuracy.png", "ptd_drop_schedule.png", "ptd_history.csv", "ptd_loss.png", "ptd_lr_schedule.png",
        "ptd_metrics.csv", "run.json",
    ]  # fmt: skip
    assert RunRecord.read(tmp_path / "figures" / "tiny") == done.record


def test_in_a_fresh_clone_a_published_run_is_trained(tiny, tmp_path):
    """Its records are there, under another recipe even, and its checkpoint is not."""
    base = tmp_path / "clone"
    execute(tiny(epochs=1), Lines())
    publish(["tiny"], str(tmp_path), base / "figures")
    before = {path.name: path.read_bytes() for path in (base / "figures" / "tiny").iterdir()}
    progress = Lines()
    done = execute(tiny(epochs=2, drop_end=1, out_dir=str(base)), progress)
    assert [record.epoch for record in done.records] == [0, 1]
    assert not [line for line in progress.printed if "finished" in line or "resumed" in line]
    assert {path.name: path.read_bytes() for path in (base / "figures" / "tiny").iterdir()} == before
