"""The commit in a stamp: this project's own, or none."""

import shutil
import subprocess

import pytest

from ptd_core.paths import project_root
from ptd_core.records import stamp


def git(folder, *arguments):
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    done = subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def make_repository(folder):
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "all", "--allow-empty")
    return git(folder, "rev-parse", "--short=12", "HEAD")


@pytest.fixture
def code(tmp_path, monkeypatch):
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    folder = tmp_path / "outer" / "project"
    (folder / "ptd_core").mkdir(parents=True)
    (folder / "ptd_core" / "a.py").write_text("1")
    monkeypatch.setattr(stamp, "CODE_ROOT", folder)
    return folder


def test_own_commit_and_changes(code):
    head = make_repository(code)
    assert stamp.commit() == head
    (code / "ptd_core" / "a.py").write_text("2")
    assert stamp.commit() == f"{head}+changes"


def test_no_commit_of_another_repository(code, monkeypatch):
    assert stamp.commit() is None
    make_repository(code.parent)
    assert stamp.commit() is None
    monkeypatch.setenv("GIT_DIR", str(code.parent / ".git"))
    assert stamp.commit() is None


def test_no_commit_of_a_repository_that_does_not_hold_the_code(code):
    (code / ".gitignore").write_text("ptd_core")
    make_repository(code)
    assert stamp.commit() is None


def test_installed_code_writes_to_the_current_folder(tmp_path, monkeypatch):
    installed, here = tmp_path / "site-packages", tmp_path / "here"
    installed.mkdir()
    here.mkdir()
    monkeypatch.chdir(here)
    assert project_root(installed) == here
    (installed / "pyproject.toml").write_text("")
    assert project_root(installed) == here  # some package's own
    (installed / "parameters").mkdir()
    assert project_root(installed) == installed


def test_what_was_computed_in_parts_names_all_places():
    one = {"device": "A", "versions": {"torch": "2.1", "timm": "1"}, "commit": "aa", "precision": "bf16"}
    two = {"device": "B", "versions": {"torch": "2.2", "timm": "1"}, "commit": None, "precision": "bf16"}
    both = {"device": "A; B", "versions": {"torch": "2.1; 2.2", "timm": "1"}, "commit": "aa; None", "precision": "bf16"}
    assert stamp.joined(one, one) == one and stamp.joined(one, two) == both
    assert stamp.joined(both, one) == both and stamp.joined(both, two) == both
    assert stamp.joined({"device": "A"}, two) == {**two, "device": "A; B"}  # what an older checkpoint lacks
    assert stamp.places("A; B") == ["A", "B"] and stamp.places("A") == ["A"]
