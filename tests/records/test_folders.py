"""The folder of a run: one process at a time, none outside of where they belong, none left behind empty."""

import threading
import time

import pytest
from conftest import TINY, Lines
from forked import run_module, server
from patience import PATIENCE

from ptd_core.errors import OutputError, RecipeError
from ptd_core.recipe import Recipe
from ptd_core.records import files, folders
from ptd_core.records.folders import RunFolder
from ptd_core.run import execute


def hold(folder, held):
    with RunFolder("tiny", folder).locked():
        held.set()
        time.sleep(3600)


@pytest.fixture
def holder(tmp_path):
    """Another process that works in the run's folder."""
    held = server().Event()
    process = server().Process(target=hold, args=(str(tmp_path), held))
    process.start()
    assert held.wait(PATIENCE)
    yield process
    process.kill()
    process.join()


def test_second_process_is_refused_and_may_work_once_the_first_is_killed(tiny, tmp_path, holder, monkeypatch):
    monkeypatch.setattr(folders, "LOCK_WAIT", 0.1)
    with pytest.raises(OutputError, match=r"runs/tiny: another process is working in this run.*run=NAME"):
        execute(tiny(epochs=1), Lines())
    assert [path.name for path in (tmp_path / "runs" / "tiny").iterdir()] == [".lock"]
    execute(tiny(epochs=1, run="other"), Lines())
    holder.kill()
    holder.join()
    execute(tiny(epochs=1), Lines())


def test_a_process_that_ends_soon_is_waited_for(tiny, holder):
    """A kernel whose papermill was killed lives about a second longer."""
    threading.Timer(1.0, holder.kill).start()
    execute(tiny(epochs=1), Lines())


def test_command_line_refuses_in_one_line(tmp_path, holder):
    parameters = tmp_path / "p.yaml"
    parameters.write_text("\n".join(f"{name}: {value}" for name, value in TINY.items()))
    result = run_module("ptd_core", parameters, f"out_dir={tmp_path}", "run=tiny")
    assert result.returncode == 2 and result.stdout == ""
    assert "another process is working" in result.stderr and result.stderr.count("\n") == 1


def test_one_process_may_run_again_and_again_also_after_errors(tiny, tmp_path):
    class Failing(Lines):
        def epoch(self, record, epochs, left):
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        execute(tiny(epochs=1), Failing())
    for _ in range(2):
        execute(tiny(epochs=1), Lines())


def test_refused_run_leaves_no_folder_and_keeps_those_of_others(tmp_path):
    place = RunFolder("x", str(tmp_path / "a" / "b"))
    with pytest.raises(ZeroDivisionError), place.locked():
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ZeroDivisionError), place.locked():
        (place.path.parent / "other").mkdir()
        raise ZeroDivisionError
    assert [path.name for path in place.path.parent.iterdir()] == ["other"]


def test_leftovers_of_a_killed_process_are_removed_and_nothing_else(tmp_path):
    place = RunFolder("x", str(tmp_path))
    place.path.mkdir(parents=True)
    (place.path / ".run.json.123.tmp").write_bytes(b"half")
    (place.path / "mine.tmp").write_bytes(b"mine")
    with place.locked():
        place.create()
    assert {path.name for path in place.path.iterdir()} == {"mine.tmp", ".lock"}


def test_run_folder_that_leads_elsewhere_is_refused(tiny, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "tiny").symlink_to(elsewhere)
    with pytest.raises(OutputError, match=r"runs/tiny: is a link to .*elsewhere"):
        execute(tiny(epochs=1), Lines())
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("name", ["..", ".", "a/b", "../x", "/etc", "a\\b", ".hidden", "a\n", "a\0", "x" * 101, "~"])
def test_run_is_a_name_and_never_a_path(name):
    with pytest.raises(ValueError, match=r"parameters: run should match"):
        Recipe.from_values({"run": name})


def test_out_dir_that_cannot_be_a_folder_is_named(tiny):
    with pytest.raises(OutputError, match="xxxx"):
        execute(tiny(out_dir="x" * 300), Lines())
    with pytest.raises(RecipeError, match=r"out_dir .*~nobody-of-this-name/x"):
        Recipe.from_values({"out_dir": "~nobody-of-this-name/x"})
    with pytest.raises(OutputError, match="~nobody-of-this-name/x"):
        RunFolder("run", "~nobody-of-this-name/x").path  # noqa: B018  the reading of it raises


def test_failed_write_tells_the_file_and_keeps_the_old_one(tmp_path):
    """A folder in the file's place: the rename, the last step, fails."""
    (tmp_path / "there").mkdir()
    with pytest.raises(OutputError, match=r"there: cannot be written \(Is a directory\)"):
        files.write_atomically(tmp_path / "there", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    with pytest.raises(OutputError, match=r"absent/f: cannot be written"):
        files.write_atomically(tmp_path / "absent" / "f", b"new")
