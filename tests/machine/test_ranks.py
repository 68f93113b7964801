"""Runs in several processes under torchrun: the run of one process, in its numbers and in what it survives."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch
import yaml
from conftest import TINY, equal, without_clocks
from safetensors.torch import load_file

from ptd_core.errors import RecipeError
from ptd_core.machine.ranks import Ranks
from ptd_core.records.checkpoint import Checkpoints
from ptd_core.records.history import read_csv
from ptd_core.run import execute
from ptd_core.trainer import Trainer

EXACT = {**TINY, "dropout": 0.0, "drop_path": 0.0, "run": "tiny"}


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
    output, _ = process.communicate(timeout=300)
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
    one = execute(tiny(dropout=0.0, drop_path=0.0), dataset=tiny_shapes)
    two = records_of(tmp_path / "two")
    assert len(one.records) == len(two) == 3
    for mine, theirs in zip(one.records, two):
        for name in ("train_loss", "test_loss", "ema_test_loss"):
            assert getattr(theirs, name) == pytest.approx(getattr(mine, name), rel=1e-5)
        assert (theirs.train_accuracy, theirs.kept_tokens) == (mine.train_accuracy, mine.kept_tokens)
    together, alone = weights_of(tmp_path / "two"), one.trainer.headline.state_dict()
    for name, value in alone.items():
        if "qkv.bias" not in name:  # the keys' part has no gradient but rounding, which AdamW blows up
            torch.testing.assert_close(together[name], value, rtol=1e-3, atol=1e-4)
    info = json.loads((tmp_path / "two" / "runs" / "tiny" / "run.json").read_text())
    assert info["processes"] == 2 and one.record.processes == 1


def test_a_batch_that_does_not_divide_is_refused(tiny, tiny_shapes):
    with pytest.raises(RecipeError, match="batch_size = 32: does not divide among 3 processes"):
        Trainer(tiny(), tiny_shapes, Ranks(0, 3))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["one rank killed", "terminated"])
def test_a_stopped_job_goes_on_to_the_same_end(tmp_path, how):
    settings = {"epochs": 30, "drop_end": 20}
    whole = launch(tmp_path / "whole", **settings)
    finish(whole)

    hurt = launch(tmp_path / "hurt", **settings)
    checkpoint = tmp_path / "hurt" / "runs" / "tiny" / "last.pt"
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
    output, _ = hurt.communicate(timeout=240)
    assert hurt.returncode != 0, output
    assert not (tmp_path / "hurt" / "runs" / "tiny" / "run.json").exists() or "stopped and saved" in output

    assert "is resumed from epoch" in finish(launch(tmp_path / "hurt", **settings))
    assert records_of(tmp_path / "hurt") == records_of(tmp_path / "whole")
    assert equal(weights_of(tmp_path / "hurt"), weights_of(tmp_path / "whole"))
