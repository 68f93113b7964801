"""Runs that are killed without warning, and disks that are full: what is there afterwards goes on to the same end.

A child process counts what it does (forward passes, evaluation among them; writes, half-done ones too; flushes and
renames) and kills itself at a count, or is killed from outside. Children are forked from a server that has PyTorch
imported already, so that a kill costs no more than the work that it destroys.
"""

import io
import json
import os
import random
import signal
import subprocess
import sys
import time

import forked
import killable
import papermill
import pytest
from conftest import TINY, Lines, equal, without_clocks
from patience import PATIENCE

from ptd_core.errors import OutputError
from ptd_core.parameters import read_parameters
from ptd_core.paths import PROJECT_ROOT as ROOT
from ptd_core.recipe import Recipe
from ptd_core.records import checkpoint, files
from ptd_core.records.checkpoint import Checkpoint, Checkpoints, unpack
from ptd_core.records.history import EpochRecord
from ptd_core.run import execute

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL and resource limits are POSIX")

SPACE = sorted((ROOT / "parameters" / "space").glob("*.yaml"))
# parameters/demo.yaml with few images, at half the size, and a narrow model.
DEMO = {"subset": 128, "test_subset": 64, "image_size": 16, "batch_size": 16, "stem_width": 8, "embed_dim": 24,
        "depth": 2, "device": "cpu"}  # fmt: skip


@pytest.fixture(scope="module")
def server():
    return forked.server()


def run_child(server, recipe, kill_at=0, kill_after=None, share=checkpoint.SHARE):
    """(exit code, events counted) of a child; with `kill_after` it is killed from outside after that many events."""
    counter = server.Value("q", 0, lock=False)
    process = server.Process(target=killable.run_and_count, args=(recipe, counter, kill_at, share))
    process.start()
    if kill_after is not None:
        while process.is_alive() and counter.value < kill_after:
            time.sleep(0.002)
        process.kill()
    process.join()
    return process.exitcode, counter.value


def written(folder):
    """What a finished run wrote, without clocks: records, states, weights, run.json, names of files."""
    (place,) = (folder / "runs").iterdir()
    checkpoints = Checkpoints(place)
    info = json.loads((place / "run.json").read_text())
    read = {name: unpack(path.read_bytes(), path) for name, path in vars(checkpoints).items() if name in
            ("last", "previous", "best")}  # fmt: skip
    return {
        "records": {name: repr(without_clocks(found.records)) for name, found in read.items()},
        "trainers": {name: found.trainer for name, found in read.items()},
        "weights": checkpoints.weights.read_bytes(),
        "info": {name: value for name, value in info.items() if name not in ("times", "time_ledger", "made", "commit")},
        "names": sorted(path.name for path in place.iterdir()),
    }


def assert_same_end(folder, other):
    ours, theirs = written(folder), written(other)
    assert [what for what in ours if not equal(ours[what], theirs[what])] == []


@pytest.mark.slow
def test_twenty_kills_in_one_demo_run_lose_nothing(server, tmp_path):
    """Twelve at counted events, eight from outside wherever the child happens to be."""
    recipe = Recipe.from_yaml(ROOT / "parameters" / "demo.yaml", [f"{name}={value}" for name, value in DEMO.items()])
    code, events = run_child(server, recipe.model_copy(update={"out_dir": str(tmp_path / "whole")}))
    assert code == 0
    an_epoch = events // recipe.epochs
    rng = random.Random(0)
    hurt = recipe.model_copy(update={"out_dir": str(tmp_path / "hurt")})
    begun = set()  # epochs that children went on from
    for kill in range(20):
        # The first one lives to the first checkpoint, or all of them would begin anew.
        when = rng.randrange(1, int(1.3 * an_epoch)) if kill else 2 * an_epoch
        outside = kill % 5 in (1, 3)
        code, _ = run_child(server, hurt, **{"kill_after" if outside else "kill_at": when})
        assert code == -signal.SIGKILL, f"kill {kill} came too late"
        begun.add(Checkpoints(tmp_path / "hurt" / "runs" / "demo").load(print).trainer["next_epoch"])
    assert len(begun) >= 4
    assert run_child(server, hurt)[0] == 0
    assert_same_end(tmp_path / "hurt", tmp_path / "whole")


@pytest.mark.slow
def test_kills_more_frequent_than_epochs_still_let_the_run_end(server, tmp_path):
    """Every child is killed before it has done an epoch of forward passes: checkpoints within the epoch carry on.

    Epochs of so many steps that what a finished run writes at its end has fewer events than a child lives.
    """
    values = {**TINY, "epochs": 2, "subset": 1600, "drop_end": 2, "run": "tiny", "checkpoint_seconds": 1e-6}
    recipe = Recipe(**{**values, "out_dir": str(tmp_path / "hurt")})
    an_epoch = recipe.subset // recipe.batch_size
    kills, code = 0, -signal.SIGKILL
    while code:
        assert kills < 2 * an_epoch  # each child saves at least the first of its steps
        code, _ = run_child(server, recipe, kill_at=2 * an_epoch - 1, share=1.0)
        kills += code != 0
    assert kills >= 4
    whole = Recipe(**{**values, "checkpoint_seconds": 0.0, "out_dir": str(tmp_path / "whole")})
    assert run_child(server, whole)[0] == 0
    ours, theirs = written(tmp_path / "hurt"), written(tmp_path / "whole")
    for found in (ours, theirs):  # the last checkpoint but one: within an epoch, or at its end
        del found["trainers"]["previous"], found["records"]["previous"]
    assert [what for what in ours if not equal(ours[what], theirs[what])] == []


@pytest.mark.slow
def test_killed_at_any_step_of_evaluating_and_saving(server, tmp_path):
    """Runs of two epochs, each killed once, at events spread from the second epoch's training to the last file."""
    recipe = Recipe(**{**TINY, "epochs": 2, "run": "tiny", "out_dir": str(tmp_path / "whole")})
    code, events = run_child(server, recipe)
    assert code == 0
    forward = 2 * (5 + 3) * 2  # five of training and three of evaluation an epoch, counted before and after
    assert events > forward + 100
    for place, kill_at in enumerate(range(events // 3, events + 1, 13)):
        hurt = recipe.model_copy(update={"out_dir": str(tmp_path / str(place))})
        assert run_child(server, hurt, kill_at)[0] == -signal.SIGKILL
        assert run_child(server, hurt)[0] == 0
        assert_same_end(tmp_path / str(place), tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("path", SPACE, ids=lambda path: path.stem)
def test_every_way_of_dropping_tokens_ends_as_if_never_killed(server, tmp_path, path):
    """Killed in its second and in its last epoch, whatever it learns beside the weights and draws at random."""
    own = {"depth": 4, "epochs": 3, "subset": 96, "test_subset": 32, "rand_ops": 0, "mixup_alpha": 0.0,
           "cutmix_alpha": 0.0, "run": "tiny"}  # fmt: skip
    drops = {name: value for name, value in read_parameters(path).items() if name.startswith("drop_")}
    base = {name: value for name, value in TINY.items() if not name.startswith("drop_")}
    short = {"drop_start": 0, "drop_end": 2} | ({"drop_cycle": 2} if "drop_cycle" in drops else {})
    recipe = Recipe(**{**base, **own, **drops, **short, "out_dir": str(tmp_path / "whole")})
    code, events = run_child(server, recipe)
    assert code == 0
    hurt = recipe.model_copy(update={"out_dir": str(tmp_path / "hurt")})
    for kill_at in (events // 2, events // 3):  # the second child does what the first left
        assert run_child(server, hurt, kill_at)[0] == -signal.SIGKILL
    assert run_child(server, hurt)[0] == 0
    assert_same_end(tmp_path / "hurt", tmp_path / "whole")


@pytest.mark.parametrize("limit", [0, 1000, 50_000])
def test_full_disk_keeps_the_last_good_checkpoint(server, tmp_path, limit):
    """As a limit on the size of files; the system answers a write beyond it as it answers one on a full disk."""
    recipe = Recipe(**{**TINY, "run": "tiny", "out_dir": str(tmp_path / "hurt")})
    answer = server.Queue()
    process = server.Process(target=killable.full_disk, args=(recipe, limit, answer))
    process.start()
    answered = answer.get(timeout=PATIENCE)
    process.join()
    assert "cannot be written (File too large); what stood there before is kept" in answered
    folder = tmp_path / "hurt" / "runs" / "tiny"
    assert not [path.name for path in folder.iterdir() if path.name.endswith(".tmp")]
    assert len(Checkpoints(folder).load(print).records) == 1
    for place in ("hurt", "whole"):  # with room again, the same call goes on
        assert run_child(server, recipe.model_copy(update={"out_dir": str(tmp_path / place)}))[0] == 0
    assert_same_end(tmp_path / "hurt", tmp_path / "whole")


def test_full_disk_before_the_first_checkpoint_is_one_sentence(tiny, tmp_path, monkeypatch):
    class Full(io.FileIO):
        def write(self, content):
            if len(content) > 1000:
                raise OSError(28, "No space left on device")
            return super().write(content)

    monkeypatch.setattr(files, "open", Full, raising=False)
    with pytest.raises(OutputError, match=r"\.pt: cannot be written \(No space left on device\)"):
        execute(tiny(), Lines())
    assert not [path.name for path in tmp_path.rglob("*") if path.is_file()]


def test_old_checkpoint_survives_a_failed_save(tmp_path, monkeypatch):
    """At each of the steps of writing in turn: open, write, flush, rename."""
    record = EpochRecord(0, 1e-3, 0.1, 41, 2.5, 30.0, 44.0, 2.2, 40.0, 2.1, 42.5, 10.0, 0.5, 1.0, 400.0)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(Checkpoint({"step": 1}, [record], {}, "", {}))
    before = checkpoints.last.read_bytes()

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    for module, name in ((files, "open"), (os, "fsync"), (os, "replace")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, fail, raising=False)
            with pytest.raises(OutputError, match="No space left on device"):
                checkpoints.save(Checkpoint({"step": 2}, [record], {}, "", {}))
        assert checkpoints.last.read_bytes() == before
        assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.slow
def test_papermill_killed_in_the_middle_of_a_chapter_goes_on(server, tmp_path):
    """Its process is killed, not its kernel, which ends by itself; then the same command again."""
    parameters = {**TINY, "out_dir": str(tmp_path / "hurt"), "run": "tiny", "epochs": 12, "drop_end": 8}
    words = [word for name, value in parameters.items() for word in ("-p", name, str(value))]
    command = [sys.executable, "-m", "papermill", "book/ptd.ipynb", str(tmp_path / "out.ipynb"), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, env=environment)
    last = tmp_path / "hurt" / "runs" / "tiny" / "last.pt"
    while not last.exists():
        assert first.poll() is None, "papermill ended before the first checkpoint"
        time.sleep(0.01)
    first.kill()
    first.wait()
    second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert second.returncode == 0, second.stderr[-3000:]
    text = "".join(
        output.get("text", "")
        for cell in papermill.iorw.load_notebook_node(str(tmp_path / "out.ipynb")).cells
        for output in cell.get("outputs", [])
    )
    assert "tiny is resumed from epoch" in text and "epoch  12/12" in text and "epoch   1/12" not in text
    whole = Recipe(**{**parameters, "out_dir": str(tmp_path / "whole")})
    assert run_child(server, whole)[0] == 0
    ours, theirs = written(tmp_path / "hurt"), written(tmp_path / "whole")
    for what in ("records", "trainers", "weights", "info"):
        assert equal(ours[what], theirs[what]), what
