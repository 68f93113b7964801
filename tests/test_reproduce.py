"""The reproduction in pieces: it stops when its time is over, goes on, and repeats nothing."""

import json
import signal
import sys
import time

import forked
import psutil
import pytest

from ptd_core import reproduce
from ptd_core.bench.sections import SECTIONS
from ptd_core.machine.device import describe_device, resolve_device
from ptd_core.run import execute
from ptd_core.sweep import __main__ as sweep_command

SMALL = ["dataset=shapes", "image_size=16", "subset=64", "test_subset=20", "stem_width=4", "embed_dim=16", "depth=1",
         "num_heads=2", "batch_size=32", "epochs=2", "warmup_epochs=0", "device=cpu", "precision=fp32"]  # fmt: skip


@pytest.fixture
def question(tmp_path):
    """A sweep file of two runs, in place of the question at full size."""
    (tmp_path / "base.yaml").write_text("run: base\n")
    (tmp_path / "asked.yaml").write_text("{base: base.yaml, arms: {all: {drop_final: 0.0}, few: {}}, seeds: [0]}")
    return ["--sweep", str(tmp_path / "asked.yaml"), "--processes", "2"]


@pytest.mark.slow
def test_it_stops_goes_on_and_repeats_nothing(tmp_path, question, capfd, monkeypatch):
    monkeypatch.setattr(reproduce.subprocess, "Popen", forked.popen)
    arguments = ["nowhere", "--no-bench", "--out", str(tmp_path), *question, *SMALL]
    assert reproduce.main([*arguments, "--minutes", "0"]) == reproduce.RESUMABLE
    assert not (tmp_path / "runs").exists()
    assert reproduce.main(arguments) == 0
    written = {}
    for name in (*reproduce.RECIPES, "base_all_seed0", "base_few_seed0"):
        file = tmp_path / "runs" / name / "run.json"
        info = json.loads(file.read_text())
        assert info["finished"] and info["epochs"] == 2 and info["run"] == name
        assert (info["recipe"]["drop_shape"] == "reversed") == (name == "ptd_aug_mirrored")
        written[file] = file.stat().st_mtime_ns
    capfd.readouterr()
    assert reproduce.main(arguments) == 0
    assert capfd.readouterr().out.splitlines() == [f"{name}: finished" for name in (*reproduce.RECIPES, "asked")]
    assert all(file.stat().st_mtime_ns == before for file, before in written.items())


def test_correctness_comes_first_then_the_recipes_then_the_question(monkeypatch, tmp_path):
    jobs = []
    monkeypatch.setattr(reproduce, "run_until", lambda command, end: jobs.append(command) or 0)
    assert reproduce.main(["nowhere", "--out", str(tmp_path), "--processes", "3", "seed=2"]) == 0
    assert [command[2] for command in jobs] == ["ptd_core.bench", *["ptd_core"] * 5, "ptd_core.sweep"]
    assert next(iter(SECTIONS)) == "agreement" and "--only" not in jobs[0]
    assert [command[3] for command in jobs[1:6]] == [
        f"parameters/{name}.yaml" for name in ("ptd_aug", "baseline_aug", "baseline", "ptd", "ptd_aug")
    ]
    assert jobs[5][-2:] == ["run=ptd_aug_mirrored", "drop_shape=reversed"]
    assert (
        "seed=2" in jobs[1]
        and "seed=2" not in jobs[6]
        and jobs[6][-2:] == ["--processes", "3"]
        and jobs[6][3].endswith("full_direction.yaml")
    )


def test_a_bench_of_another_device_is_not_taken_for_this_ones(tmp_path):
    """Its first section refuses a device that does not compute what the CPU does."""
    assert not reproduce.bench_finished(tmp_path, "cpu")
    here = describe_device(resolve_device("cpu"))
    for finished, device, taken in ((True, here, True), (False, here, False), (True, "another card", False)):
        (tmp_path / "bench.json").write_text(json.dumps({"finished": finished, "stamp": {"device": device}}))
        assert reproduce.bench_finished(tmp_path, "cpu") is taken


def test_a_job_that_fails_ends_it(monkeypatch, tmp_path):
    monkeypatch.setattr(reproduce, "run_until", lambda command, end: 2 if command[2] == "ptd_core.bench" else 0)
    assert reproduce.main(["nowhere", "--out", str(tmp_path)]) == 2


def child(tmp_path, then):
    """A command that tells its number, and does `then` when it is asked to stop."""
    file = tmp_path / "number"
    code = (
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored where the tests are a background job
        f"signal.signal(signal.SIGTERM, lambda *_: {then})\n"
        f"open({str(file)!r}, 'w').write(str(os.getpid()))\n"
        "while True: time.sleep(0.01)\n"
    )
    return [sys.executable, "-c", code], file


def run_until_it_is_asked(command, file, monkeypatch):
    """Its time is over as soon as it has told its number, however long that takes."""

    class Begun(reproduce.subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            while not file.exists() and self.poll() is None:
                time.sleep(0.01)

    monkeypatch.setattr(reproduce.subprocess, "Popen", Begun)
    return reproduce.run_until(command, time.monotonic() + 1)


def test_a_command_that_does_not_stop_is_killed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reproduce, "GRACE", 0.5)
    command, file = child(tmp_path, "None")
    assert run_until_it_is_asked(command, file, monkeypatch) == reproduce.RESUMABLE
    said = capsys.readouterr().out
    assert said == "killed: it did not stop within 0.5 s; the same command resumes it where it saved last\n"
    assert not psutil.pid_exists(int(file.read_text()))


@pytest.mark.parametrize(
    ("then", "status"),
    [("sys.exit(143)", reproduce.RESUMABLE), ("sys.exit(0)", 0), ("sys.exit(2)", 2),
     ("os.kill(os.getpid(), signal.SIGINT)", reproduce.RESUMABLE)],
)  # fmt: skip
def test_how_a_command_stopped_is_told_from_its_status(tmp_path, monkeypatch, capsys, then, status):
    assert run_until_it_is_asked(*child(tmp_path, then), monkeypatch) == status
    assert ("stopped and saved" in capsys.readouterr().out) == (status == reproduce.RESUMABLE)


def test_ctrl_c_waits_for_what_runs(tmp_path, monkeypatch, capsys):
    class Interrupted(reproduce.subprocess.Popen):
        def wait(self, timeout=None):
            if not hasattr(self, "asked"):
                self.asked = True
                while not file.exists():
                    time.sleep(0.01)
                raise KeyboardInterrupt
            return super().wait(timeout)

    monkeypatch.setattr(reproduce.subprocess, "Popen", Interrupted)
    command, file = child(tmp_path, "(time.sleep(1), sys.exit(143))")
    with pytest.raises(KeyboardInterrupt):
        reproduce.run_until(command, float("inf"))
    assert "stopped and saved" in capsys.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_asked_to_end_is_as_ctrl_c(tmp_path, monkeypatch, number):
    before = signal.signal(number, lambda *_: None)

    def asked(command, end):
        signal.raise_signal(number)
        return 7  # reached where the signal is not what Ctrl-C is

    monkeypatch.setattr(reproduce, "run_until", asked)
    try:
        assert reproduce.main(["nowhere", "--out", str(tmp_path)]) == 130
        assert signal.getsignal(number) not in (before, signal.default_int_handler)
        signal.signal(number, signal.SIG_IGN)  # as nohup
        monkeypatch.setattr(reproduce, "run_until", lambda *_: signal.raise_signal(number) or 3)
        assert reproduce.main(["nowhere", "--out", str(tmp_path)]) == 3
    finally:
        signal.signal(number, before)


def test_a_relative_folder_is_that_of_whoever_asks(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    jobs = []
    monkeypatch.setattr(reproduce, "run_until", lambda command, end: jobs.append(command) or 0)
    assert reproduce.main(["mine", "--no-bench", "--out", "."]) == 0
    assert all({f"data_dir={tmp_path / 'mine'}", f"out_dir={tmp_path}"} <= set(command) for command in jobs)


def test_a_finished_trial_of_other_settings_is_not_taken_for_the_run(tmp_path, tiny, tiny_shapes, monkeypatch, capsys):
    execute(tiny(run="ptd_aug", epochs=1, drop_end=0), dataset=tiny_shapes)
    monkeypatch.setattr(reproduce, "run_until", lambda command, end: pytest.fail("nothing should start"))
    assert reproduce.main(["nowhere", "--no-bench", "--out", str(tmp_path)]) == 2
    assert "ptd_aug: holds a run with another recipe" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_that_is_cut_is_saved_and_a_failure_is_passed_on(tmp_path, monkeypatch):
    monkeypatch.setattr(reproduce.subprocess, "Popen", forked.popen)
    arguments = ["nowhere", "--no-bench", "--sweep", "", "--out", str(tmp_path), *SMALL, "epochs=100000", "subset=320"]
    arguments.remove("epochs=2")
    arguments.remove("subset=64")
    saved = tmp_path / "runs" / "ptd_aug" / "last.pt"
    for minutes in ("0.1", "0.4", "1.6", "6.4"):  # a busy machine has not begun so soon
        assert reproduce.main([*arguments, "--minutes", minutes]) == reproduce.RESUMABLE
        if saved.exists():
            break
    assert saved.exists()
    assert not json.loads((tmp_path / "runs" / "ptd_aug" / "run.json").read_text())["finished"]
    assert reproduce.main(["nowhere", "--no-bench", "--sweep", "", "--out", str(tmp_path), "embed_dim=-1"]) == 2


def test_a_number_of_processes_is_refused_before_anything_runs(tmp_path, capsys):
    for command, more in ((reproduce, ["--no-bench", "--minutes", "0"]), (sweep_command, [])):
        with pytest.raises(SystemExit) as refusal:
            command.main([str(tmp_path), "--processes", "0", *more])
        assert refusal.value.code == 2
        assert "--processes: must be a whole number of at least 1; got '0'" in capsys.readouterr().err
