"""Checkpoints: nothing that is not exactly what was written is ever taken for a checkpoint, and no code runs."""

import dataclasses
import os
import pickle
import random
import zipfile
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch
from conftest import Lines, equal, without_clocks

from ptd_core.errors import OutputError
from ptd_core.records.checkpoint import Checkpoint, Checkpoints, Interval, pack, unpack
from ptd_core.records.history import EpochRecord
from ptd_core.run import execute
from ptd_core.trainer import Trainer, build_model

RECORD = EpochRecord(4, 1e-3, 0.1, 41, 2.5, 30.0, 44.0, 2.2, 40.0, 2.1, float("nan"), 10.0, 0.5, 1.0, 400.0)


def small(step=0):
    """A checkpoint of a few kilobytes, with what a trainer's state consists of."""
    model = torch.nn.Linear(20, 10)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 20)).sum().backward()
    optimizer.step()
    trainer = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "averaged": None}
    return Checkpoint(trainer, [RECORD], {"seed": 0, "lr": 1e-3, "flip": True}, "0f", {"device": "x", "versions": {}})


class Touch:
    """Makes a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def with_code(path):
    """Files that touch `path` if any of their pickles is trusted: a bare pickle, and whole, well-signed checkpoints."""
    checkpoint = small()
    evil = [Checkpoint(**{**vars(checkpoint), name: Touch(path)}) for name in ("trainer", "recipe", "stamp")]
    return [pickle.dumps(Touch(path)), *map(pack, evil)]


def damaged(content):
    """{what was done: the content after it}"""
    place = len(content) // 3
    return {
        "empty": b"",
        "truncated": content[: len(content) // 2],
        "one byte short": content[:-1],
        "zeroed": bytes(len(content)),
        "a block zeroed": content[:place] + bytes(512) + content[place + 512 :],
        "bit flipped": content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :],
        "something else": b"not a checkpoint",
    }


def test_reads_back_exactly_also_as_a_plain_archive(tmp_path):
    checkpoint = small()
    path = tmp_path / "c.pt"
    path.write_bytes(pack(checkpoint))
    read = unpack(path.read_bytes(), path)
    assert equal(read.trainer, checkpoint.trainer) and (read.recipe, read.stamp) == (
        checkpoint.recipe,
        checkpoint.stamp,
    )
    assert repr(read.records) == repr(checkpoint.records)
    plain = torch.load(path, weights_only=True)
    assert equal(plain["trainer"], checkpoint.trainer)
    assert zipfile.ZipFile(path).testzip() is None


def test_every_flipped_bit_and_every_cut_is_noticed():
    content = pack(small())
    rng = random.Random(0)
    for _ in range(2000):
        place, bit = rng.randrange(len(content)), rng.randrange(8)
        flipped = bytearray(content)
        flipped[place] ^= 1 << bit
        with pytest.raises(OutputError, match=r"c\.pt: is damaged"):
            unpack(bytes(flipped), Path("c.pt"))
    for length in [*range(0, len(content), 97), len(content) - 1]:
        with pytest.raises(OutputError, match=r"c\.pt: is damaged"):
            unpack(content[:length], Path("c.pt"))


def test_code_in_a_checkpoint_never_runs(tmp_path):
    witness = tmp_path / "witness"
    for content in with_code(witness):
        with pytest.raises(OutputError, match=r"c\.pt: is (damaged or )?not a checkpoint"):
            unpack(content, Path("c.pt"))
        assert not witness.exists()
    pickle.loads(with_code(witness)[0])
    assert witness.exists()  # the trap works


@pytest.mark.parametrize("change", [{"format": None}, {"records": [{"epoch": 1}]}, {"trainer": None}, {"more": 1}])
def test_whole_file_of_another_program_is_refused(monkeypatch, change):
    save = torch.save

    def save_changed(content, file):
        changed = {**content, **change}
        save({name: value for name, value in changed.items() if value is not None}, file)

    monkeypatch.setattr(torch, "save", save_changed)
    content = pack(small())
    with pytest.raises(OutputError, match="not a checkpoint of this program"):
        unpack(content, Path("c.pt"))


def test_another_version_is_named(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("ptd_core.records.checkpoint.FORMAT", 1)
        content = pack(small())
    with pytest.raises(OutputError, match=r"c\.pt: was written by another version .*\(format 1; this one reads 2\)$"):
        unpack(content, Path("c.pt"))


@pytest.mark.parametrize("damage", damaged(bytes(3000)))
def test_damaged_last_falls_back_to_the_one_before_and_says_so(tmp_path, damage):
    checkpoints, said = Checkpoints(tmp_path), []
    for step in (1, 2):
        checkpoints.save(small(step))
    broken = damaged(checkpoints.last.read_bytes())[damage]
    checkpoints.last.write_bytes(broken)
    assert checkpoints.load(said.append).trainer["step"] == 1
    (line,) = said
    assert "last.pt: is damaged" in line and "previous.pt is used instead" in line and "damaged.pt" in line
    assert checkpoints.damaged.read_bytes() == broken
    checkpoints.save(small(3))  # must not put the damaged one in the place of the good one
    checkpoints.last.unlink()
    assert checkpoints.load(said.append).trainer["step"] == 1


def test_code_in_last_falls_back_without_running(tmp_path):
    checkpoints, witness = Checkpoints(tmp_path), tmp_path / "witness"
    for content in with_code(witness):
        for step in (1, 2):
            checkpoints.save(small(step))
        checkpoints.last.write_bytes(content)
        assert checkpoints.load(lambda text: None).trainer["step"] == 1
        checkpoints.previous.write_bytes(content)
        checkpoints.last.write_bytes(content)
        with pytest.raises(OutputError, match=r"last\.pt.*previous\.pt.*delete .*last\.pt and .*previous\.pt"):
            checkpoints.load(print)
        assert not witness.exists()


def test_two_damaged_ones_are_one_refusal_that_changes_nothing(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(small(step))
    for path in (checkpoints.last, checkpoints.previous):
        path.write_bytes(path.read_bytes()[:-100])
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(OutputError, match=r"last\.pt.*previous\.pt.*delete .* to train anew"):
        checkpoints.load(print)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_nothing_there_is_no_checkpoint(tmp_path):
    assert Checkpoints(tmp_path).load(print) is None


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_stop_between_the_renames_of_saving_loses_nothing(tmp_path, monkeypatch, renames):
    """After the first rename of three the new checkpoint is whole on the disk, and so it is the one that counts."""
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(small(1))
    checkpoints.save(small(2))
    replace, calls = os.replace, []

    def stop(source, target):
        if len(calls) == renames:
            raise KeyboardInterrupt
        calls.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(small(3))
    monkeypatch.setattr(os, "replace", replace)
    assert checkpoints.load(print).trainer["step"] == (2 if renames == 0 else 3)
    assert checkpoints.last.exists() and not checkpoints.new.exists()
    assert Checkpoints(tmp_path).load(print).trainer["step"] == (2 if renames == 0 else 3)


def test_disk_that_gives_back_something_else_keeps_the_last_one(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(small(1))
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path)[:-5] + b"12345")
    with pytest.raises(OutputError, match=r"new\.pt: is damaged.*just after it was written; last\.pt is kept"):
        checkpoints.save(small(2))
    monkeypatch.setattr(Path, "read_bytes", read)
    assert checkpoints.load(print).trainer["step"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


def test_run_with_a_damaged_checkpoint_ends_as_if_it_had_none(tiny, tmp_path):
    """A finished run loses its last checkpoint: the epoch is trained again, to the same end, bit for bit."""
    whole = execute(tiny(), Lines())
    checkpoints = Checkpoints(tmp_path / "runs" / "tiny")
    checkpoints.last.write_bytes(checkpoints.last.read_bytes()[:1000])
    progress = Lines()
    again = execute(tiny(), progress)
    assert any("last.pt: is damaged" in line and "previous.pt is used" in line for line in progress.printed)
    assert any("is resumed from epoch 3" in line for line in progress.printed)
    assert without_clocks(again.records) == without_clocks(whole.records)
    assert equal(again.trainer.state_dict(), whole.trainer.state_dict())


def test_what_a_finished_run_keeps(tiny, tmp_path, tiny_shapes):
    """Last, previous, best, and headline weights that another program can read; each is what it says."""
    done = execute(tiny(seed=3), Lines())
    checkpoints = Checkpoints(tmp_path / "runs" / "tiny")
    last, previous, best = (
        unpack(path.read_bytes(), path) for path in (checkpoints.last, checkpoints.previous, checkpoints.best)
    )
    assert equal(last.trainer, done.trainer.state_dict()) and last.records == done.records
    assert previous.records == done.records[:-1]
    assert best.records[-1].headline == max(record.headline for record in done.records)
    assert done.record.results.test_accuracy == done.records[-1].headline  # not the best

    weights = safetensors.torch.load_file(checkpoints.weights)
    assert equal(weights, done.trainer.headline.state_dict())
    with safetensors.safe_open(checkpoints.weights, "pt") as file:
        assert file.metadata() == {"description": "headline weights of run tiny after 3 epochs"}
    model = build_model(tiny(), 10)
    model.load_state_dict(weights)
    _, accuracy = Trainer(tiny(), tiny_shapes).evaluate(model, tiny_shapes.test)
    assert accuracy == done.records[-1].headline


def test_interval_grows_where_saving_is_slow():
    now = [0.0]
    interval = Interval(60.0, lambda: now[0])
    for wait, save in ((60.0, 0.5), (60.0, 2.0), (200.0, 0.1), (60.0, 0.0)):
        now[0] += wait - 0.01
        assert not interval.over
        now[0] += 0.02
        assert interval.over
        with interval.timed():
            now[0] += save
    never = Interval(0.0, lambda: now[0])
    now[0] += 1e9
    assert not never.over


def test_same_images_elsewhere_are_the_same_run_and_others_are_refused(tiny, tmp_path, tiny_shapes):
    done = execute(tiny(), Lines(), dataset=tiny_shapes)
    moved = dataclasses.replace(tiny_shapes, name="elsewhere")
    assert execute(tiny(), Lines(), dataset=moved).records == done.records
    images = tiny_shapes.train.images.clone()
    images[7, 1, 2, 3] ^= 1
    other = dataclasses.replace(tiny_shapes, train=dataclasses.replace(tiny_shapes.train, images=images))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for _ in ("finished", "half done"):
        with pytest.raises(OutputError, match="holds a run on other images"):
            execute(tiny(), Lines(), dataset=other)
        (tmp_path / "runs" / "tiny" / "run.json").unlink(missing_ok=True)
        before = {path: content for path, content in before.items() if path.exists()}
        assert {path: path.read_bytes() for path in before} == before


def test_checkpoint_that_does_not_fit_the_model_is_refused(tiny, tmp_path):
    execute(tiny(), Lines())
    checkpoints = Checkpoints(tmp_path / "runs" / "tiny")
    found = checkpoints.load(print)
    for trainer in ({**found.trainer, "model": {}}, {}, {**found.trainer, "optimizer": {"state": 1}}):
        checkpoints.save(Checkpoint(trainer, found.records, found.recipe, found.data, found.stamp))
        with pytest.raises(OutputError, match=r"last\.pt: does not fit this recipe's model"):
            execute(tiny(), Lines())
