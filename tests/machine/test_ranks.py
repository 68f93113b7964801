"""Runs in several processes under torchrun: the run of one process, in its numbers and in what it survives."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import torch
import yaml
from conftest import TINY, equal, without_clocks
from patience import PATIENCE
from ranked import normalise_a_shard, run_and_listen, run_and_watch, run_several, together
from safetensors.torch import load_file
from timm.layers import BatchNormAct2d
from torch import nn

from ptd_core.__main__ import main
from ptd_core.data.dataset import Split
from ptd_core.errors import DataError, LaunchError, RecipeError
from ptd_core.evaluation.accuracy import accuracy
from ptd_core.machine.ranks import Ranks
from ptd_core.recipe import Recipe
from ptd_core.records.checkpoint import Checkpoints
from ptd_core.records.history import read_csv
from ptd_core.run import execute, run_worker
from ptd_core.trainer import Trainer

# A last batch of one image: fewer than there are processes.
EXACT = {**TINY, "dropout": 0.0, "drop_path": 0.0, "run": "tiny", "eval_batch_size": 59}


def launch(folder, **settings):
    """torchrun with two processes on the tiny recipe, writing into `folder`."""
    folder.mkdir(exist_ok=True)
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump({**EXACT, "out_dir": str(folder), **settings}))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "ptd_core"]
    return subprocess.Popen(
        [*command, str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def finish(process):
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output
    return output


def records_of(folder):
    return without_clocks(read_csv(folder / "runs" / "tiny" / "ptd_history.csv"))


def weights_of(folder):
    return load_file(Checkpoints(folder / "runs" / "tiny").weights)


def test_each_image_of_a_batch_is_one_processes():
    batch = torch.arange(12)
    shards = [Ranks(rank, 3).shard(batch) for rank in range(3)]
    assert [len(part) for part in shards] == [4, 4, 4]
    assert sorted(torch.cat(shards).tolist()) == list(range(12))


def test_two_processes_do_the_run_of_one(tmp_path, tiny, tiny_shapes):
    output = finish(launch(tmp_path / "two"))
    assert output.count("epoch   1/3") == 1  # one of them speaks
    one = execute(tiny(dropout=0.0, drop_path=0.0, eval_batch_size=59), dataset=tiny_shapes)
    two = records_of(tmp_path / "two")
    assert len(one.records) == len(two) == 3
    for mine, theirs in zip(one.records, two):
        for name in ("train_loss", "test_loss", "ema_test_loss"):
            assert getattr(theirs, name) == pytest.approx(getattr(mine, name), rel=1e-5)
        for name in ("train_accuracy", "test_accuracy", "ema_test_accuracy", "clean_train_accuracy", "kept_tokens"):
            assert getattr(theirs, name) == getattr(mine, name)
    together, alone = weights_of(tmp_path / "two"), one.trainer.headline.state_dict()
    for name, value in alone.items():
        if "qkv.bias" not in name:  # the keys' part has no gradient but rounding, which AdamW blows up
            torch.testing.assert_close(together[name], value, rtol=1e-3, atol=1e-4)
    info = json.loads((tmp_path / "two" / "runs" / "tiny" / "run.json").read_text())
    assert info["processes"] == 2 and one.record.processes == 1


def test_a_batch_that_does_not_divide_is_refused(tiny, tiny_shapes):
    with pytest.raises(RecipeError, match="batch_size = 32: does not divide among 3 processes"):
        Trainer(tiny(), tiny_shapes, Ranks(0, 3))


class Unsummed(Ranks):
    """A process whose sums stay its own."""

    def sum(self, values):
        return values


class Told(Ranks):
    """The second of two processes, which hears from the one that writes that its images have another digest."""

    def broadcast(self, content=None):
        return "0123456789abcdef", None


def test_a_process_with_other_images_is_refused(tiny):
    """Two machines with different copies of the data would train one model on a mixture."""
    with pytest.raises(DataError, match=r"process 1: its images are others \(digest [0-9a-f]{16}\) .*0123456789abcdef"):
        run_worker(tiny(), Told(1, 2))


@pytest.mark.parametrize(("images", "size"), [(65, 2), (65, 3), (5, 8), (64, 2)])
def test_evaluation_counts_each_image_once_however_few_the_last_batch_has(images, size):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (images, 3, 4, 4), generator=generator, dtype=torch.uint8)
    split = Split(pixels, torch.arange(images) % 3)
    model = nn.Sequential(nn.Flatten(), nn.Unflatten(1, (-1, 4)), nn.Flatten(), nn.Linear(48, 3))
    asked = []

    def measure(ranks):
        return accuracy(model, split, lambda x: x, batch_size=64, ranks=ranks, after_batch=lambda: asked.append(ranks))

    alone = measure(Ranks())
    parts = [measure(Unsummed(rank, size)) for rank in range(size)]
    assert [sum(part) for part in zip(*parts)] == pytest.approx(list(alone), rel=1e-5)
    assert len(asked) == (1 + size) * -(-images // 64)  # all processes ask equally often whether to stop


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "cuts"),
    [(2, [(1, 2)]), (2, [(0, 5)]), (2, [(1, 1), (1, 3), (2, 5)]), (3, [(1, 2)])],
    ids=["within an epoch", "at an epoch's end", "three times", "of three processes"],
)
def test_with_dropout_an_interrupted_run_goes_on_to_the_same_end(tmp_path, tiny, size, cuts):
    # From three processes on, the order in which gradients are added up counts as well.
    settings = {"dropout": 0.3, "drop_path": 0.5, "eval_batch_size": 59, "batch_size": 30 if size == 3 else 32}
    whole, hurt = (tiny(**settings, out_dir=str(tmp_path / name)) for name in ("whole", "hurt"))
    stops = [[False], [True] * len(cuts) + [False]]
    assert together(run_several, (whole, []), (hurt, cuts), size=size) == [stops] * size
    assert records_of(tmp_path / "hurt") == records_of(tmp_path / "whole")
    assert equal(weights_of(tmp_path / "hurt"), weights_of(tmp_path / "whole"))


@pytest.mark.slow
def test_each_process_and_each_step_has_draws_of_its_own(tiny):
    first, second = together(run_and_watch, tiny(dropout=0.3, drop_path=0.5))
    first, second = first[-15:], second[-15:]  # before them come steps that only prepare
    for kind, rate in enumerate((0.3, 0.5)):
        draws = [[step[kind] for step in rank] for rank in (first, second)]
        chance = rate**2 + (1 - rate) ** 2  # how often independent draws agree
        for one, other in [draws, (draws[0][:5], draws[0][1:6]), (draws[1][:5], draws[1][1:6])]:
            assert np.concatenate(one).mean() == pytest.approx(rate, abs=0.15)
            agreement = np.mean(np.concatenate([a[: len(b)] == b[: len(a)] for a, b in zip(one, other)]))
            assert agreement == pytest.approx(chance, abs=0.2)


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, BatchNormAct2d])
def test_batch_norm_over_processes_is_that_of_the_whole_batch(kind):
    torch.manual_seed(0)
    images, weights = torch.randn(6, 3, 1, 2) * 2 + 1, torch.randn(6, 3, 1, 2)
    norm = kind(3, eps=1e-3, momentum=0.3)
    nn.init.normal_(norm.weight)
    parts = together(normalise_a_shard, norm, images, weights)
    whole = images.clone().requires_grad_()
    out = norm(whole)
    (out * weights).sum().backward()
    for rank, (shard, gradient, mean, variance, *_) in enumerate(parts):
        np.testing.assert_allclose(shard, out.detach()[rank::2], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(gradient, whole.grad[rank::2], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(mean, norm.running_mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(variance, norm.running_var, rtol=1e-5)  # unbiased: 12 / 11 of the batch's own
    for place, own in ((4, norm.weight), (5, norm.bias)):
        np.testing.assert_allclose(sum(part[place] for part in parts), own.grad, rtol=1e-4, atol=1e-5)


TOLD = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def set_environment(monkeypatch, told):
    for name in TOLD:
        monkeypatch.delenv(name, raising=False)
        if name in told:
            monkeypatch.setenv(name, told[name])


@pytest.mark.parametrize("told", [{}, {"WORLD_SIZE": "1"}, {"WORLD_SIZE": ""}, {"RANK": "3"}])
def test_without_torchrun_there_is_one_process(monkeypatch, told):
    set_environment(monkeypatch, told)
    with Ranks.joined("cpu") as ranks:
        assert ranks == Ranks()


@pytest.mark.parametrize("missing", TOLD)
def test_the_environment_names_the_process_or_is_refused(monkeypatch, missing):
    set_environment(monkeypatch, TOLD)
    assert Ranks.from_environment() == Ranks(1, 2, 1)
    if missing != "WORLD_SIZE":
        set_environment(monkeypatch, {name: value for name, value in TOLD.items() if name != missing})
        with pytest.raises(LaunchError, match=f"no {missing}.*: start several processes with torchrun"):
            Ranks.from_environment()


@pytest.mark.parametrize("wrong", [{"WORLD_SIZE": "two"}, {"WORLD_SIZE": "0"}, {"RANK": "2"}, {"LOCAL_RANK": "-1"}])
def test_an_environment_that_cannot_be_is_refused(monkeypatch, wrong):
    set_environment(monkeypatch, {**TOLD, **wrong})
    with pytest.raises(LaunchError, match=next(f"{name}={value}" for name, value in wrong.items())):
        Ranks.from_environment()


def test_the_command_line_says_so_in_one_sentence(monkeypatch, tmp_path, capsys):
    set_environment(monkeypatch, {"WORLD_SIZE": "4"})
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump({**EXACT, "out_dir": str(tmp_path)}))
    assert main([str(file)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("LaunchError: the environment has WORLD_SIZE=4, no RANK")


LONG = {"epochs": 12, "drop_end": 8}


def long_run(folder):
    return Recipe(**{**EXACT, **LONG, "out_dir": str(folder)})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run of two processes that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    together(run_and_listen, long_run(folder))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("how", ["one rank killed", "terminated"])
def test_a_stopped_job_goes_on_to_the_same_end(tmp_path, whole, how):
    """A job of torchrun's; what resumes it needs no torchrun."""
    hurt = launch(tmp_path, **LONG)
    checkpoint = tmp_path / "runs" / "tiny" / "last.pt"
    patience = time.monotonic() + 240
    while not checkpoint.exists() and hurt.poll() is None and time.monotonic() < patience:
        time.sleep(0.01)
    assert hurt.poll() is None, "ended before it could be stopped"
    if how == "terminated":
        hurt.send_signal(signal.SIGTERM)
    else:
        ranks = [child for child in psutil.Process(hurt.pid).children() if "ptd_core" in child.cmdline()]
        assert len(ranks) == 2
        ranks[1].kill()
    output, _ = hurt.communicate(timeout=PATIENCE)
    assert hurt.returncode != 0, output
    assert not (tmp_path / "runs" / "tiny" / "run.json").exists() or "stopped and saved" in output

    told, _ = together(run_and_listen, long_run(tmp_path))
    assert any("is resumed from epoch" in line for line in told)
    assert records_of(tmp_path) == records_of(whole)
    assert equal(weights_of(tmp_path), weights_of(whole))
