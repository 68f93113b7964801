"""Images mapped from a file: the resident ones bit for bit, whatever happens to the file, its folder or its writer."""

import errno
import json
import os
import shutil
import threading
import time
from collections import namedtuple

import numpy as np
import pytest
import torch
from conftest import Lines, equal, without_clocks
from filelock import FileLock
from photographs import image_folder
from PIL import Image
from ranked import Cut

from ptd_core.data import image_folder as folder_module
from ptd_core.data import mapped as store_module
from ptd_core.data.ahead import read_ahead
from ptd_core.data.augment import Augmentation
from ptd_core.data.batches import Batches
from ptd_core.data.load import load
from ptd_core.errors import DataError
from ptd_core.machine.ranks import Ranks
from ptd_core.run import execute
from ptd_core.trainer import Trainer

SIDE, IMAGES = 16, 48
BYTES = IMAGES * 3 * SIDE * SIDE


@pytest.fixture
def folder(tmp_path):
    return image_folder(tmp_path / "pictures")


@pytest.fixture
def decoded(monkeypatch):
    """The names of the files that are decoded, as they are."""
    seen, read = [], folder_module.read_image

    def reading(file, image_size, name=""):
        seen.append(file.name)
        return read(file, image_size, name)

    monkeypatch.setattr(folder_module, "read_image", reading)
    return seen


def resident(folder, **options):
    return load("folder", folder, image_size=SIDE, **options)


def mapped(folder, **options):
    return resident(folder, images="mapped", cache_dir=folder.parent / "cache", **options)


def files(folder, suffix):
    return sorted((folder.parent / "cache").glob(f"*{suffix}"))


def same(one, two):
    assert torch.equal(one.train.images, two.train.images) and torch.equal(one.test.images, two.test.images)
    assert torch.equal(one.train.labels, two.train.labels) and torch.equal(one.test.labels, two.test.labels)
    assert (one.mean, one.std, one.classes, one.digest) == (two.mean, two.std, two.classes, two.digest)


@pytest.mark.parametrize("options", [{}, {"subset": 10, "test_subset": 5}], ids=["all", "a subset"])
def test_mapped_images_are_the_resident_ones(folder, decoded, options):
    truth = resident(folder, **options)
    count = len(decoded)
    for times in (2, 2):  # decoded once, then only mapped
        found = mapped(folder, **options)
        same(found, truth)
        assert len(decoded) == times * count
        assert found.train.mapped and found.test.mapped and found.notes[:-1] == truth.notes
        (pixels,) = files(folder, ".pixels")
        assert found.notes[-1] == f"mapped from {pixels}"
        assert pixels.stat().st_size == 3 * SIDE * SIDE * (len(truth.train) + len(truth.test))


def test_real_photographs_mapped_are_the_resident_ones(tmp_path, real_jpegs):
    sizes = {"image_size": 32, "subset": 300, "test_subset": 100}
    same(load("folder", real_jpegs, images="mapped", cache_dir=tmp_path, **sizes), load("folder", real_jpegs, **sizes))


def test_a_moved_folder_is_the_same_data(folder, decoded):
    truth = mapped(folder)
    count = len(decoded)
    moved = folder.rename(folder.parent / "moved")
    same(mapped(moved), truth)
    copy = folder.parent / "copy"
    shutil.copytree(moved, copy)  # with its times, as cp -a does
    same(mapped(copy), truth)
    assert len(decoded) == count


@pytest.mark.parametrize("change", ["other pixels", "one more", "one less", "renamed"])
def test_a_changed_folder_is_decoded_anew(folder, capsys, change):
    mapped(folder)
    (before,) = files(folder, ".pixels")
    file = folder / "train" / "bee" / "001.png"
    match change:
        case "other pixels":  # in a file of the same size
            size = (40, 30)
            for colour in (50, 60):
                Image.new("RGB", size, (colour, 0, 0)).save(file, "PNG", compress_level=0)
                if colour == 50:
                    mapped(folder)
                    (before,) = files(folder, ".pixels")
                    length = file.stat().st_size
            assert file.stat().st_size == length
        case "one more":
            shutil.copy(file, file.with_name("zzz.png"))
        case "one less":
            file.unlink()
        case "renamed":
            file.rename(file.with_name("zzz.png"))
    capsys.readouterr()
    same(mapped(folder), resident(folder))
    said = [line for line in capsys.readouterr().out.splitlines() if " have changed: " in line]
    assert len(said) == 1 and f"files of {folder} have changed" in said[0]
    assert before.name not in [path.name for path in files(folder, ".pixels")] and len(files(folder, ".json")) == 1


def test_what_was_decoded_for_other_settings_stays(folder):
    mapped(folder)
    mapped(folder, subset=10)
    load("folder", folder, image_size=8, images="mapped", cache_dir=folder.parent / "cache")
    assert len(files(folder, ".pixels")) == len(files(folder, ".json")) == 3


def flipped(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def of(change):
    """A change of the description's values, with or without a checksum that fits."""

    def apply(pixels, json_file):
        about = json.loads(json_file.read_bytes())
        about.update(change)
        json_file.write_text(json.dumps(about))

    return apply


DAMAGES = {
    "cut": lambda pixels, _: os.truncate(pixels, BYTES - 1),
    "cut to an image": lambda pixels, _: os.truncate(pixels, BYTES - 3 * SIDE * SIDE),
    "empty": lambda pixels, _: os.truncate(pixels, 0),
    "longer": lambda pixels, _: os.truncate(pixels, BYTES + 1),
    "gone": lambda pixels, _: pixels.unlink(),
    "description gone": lambda _, about: about.unlink(),
    "description empty": lambda _, about: about.write_bytes(b""),
    "description no JSON": lambda _, about: about.write_bytes(b"[" * 100_000),
    "description a list": lambda _, about: about.write_bytes(b"[]"),
    "other statistics": of({"mean": [0.5, 0.5, 0.5]}),
    "other key": of({"key": "0" * 64}),
    **{f"description's byte {at}": lambda _, about, at=at: flipped(about, at) for at in range(3, 500, 71)},
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_found_and_written_anew(folder, capsys, damage):
    truth = mapped(folder)
    (pixels,), (about,) = files(folder, ".pixels"), files(folder, ".json")
    same(truth, resident(folder))
    DAMAGES[damage](pixels, about)
    capsys.readouterr()
    same(mapped(folder), resident(folder))
    said = [line for line in capsys.readouterr().out.splitlines() if "is damaged" in line]
    assert said == [f"decoding  {pixels} is damaged: it is written anew"]
    same(mapped(folder), resident(folder))
    assert "decoding" not in capsys.readouterr().out


def test_changed_pixels_are_named_when_the_digest_is_asked_for(folder):
    mapped(folder)
    (pixels,) = files(folder, ".pixels")
    flipped(pixels, BYTES // 2)
    with pytest.raises(DataError, match=rf"mapped from {pixels}: pixels of it have changed .* Delete that file"):
        _ = mapped(folder).digest


def test_an_interrupted_writer_goes_on_where_it_was(folder, decoded, monkeypatch, capsys):
    """As after a kill: nothing is tidied up."""
    monkeypatch.setattr(store_module, "FLUSH_BYTES", 4 * 3 * SIDE * SIDE)
    truth, read = resident(folder), folder_module.read_image
    for stop in (3, 22, 10):

        def interrupted(file, image_size, stop=stop):
            if len(decoded) >= stop:
                raise KeyboardInterrupt
            return read(file, image_size)

        decoded.clear()
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(folder_module, "read_image", interrupted)
            mapped(folder)
    (pixels,) = files(folder, ".pixels")
    there = pixels.stat().st_size // (3 * SIDE * SIDE)
    assert 20 < there < IMAGES
    with open(pixels, "ab") as file:
        file.write(b"half of an image")
    decoded.clear()
    capsys.readouterr()
    same(mapped(folder), truth)
    assert IMAGES - there <= len(decoded) <= IMAGES - there + 4
    assert "goes on after image " in capsys.readouterr().out


def test_damaged_pixels_are_gone_before_they_are_described_as_begun(folder, monkeypatch):
    """A process killed between the two would leave them, and the next one would take them for its own."""
    mapped(folder)
    (pixels,), truth = files(folder, ".pixels"), resident(folder)
    pixels.write_bytes(b"\7" * (BYTES + 1))
    monkeypatch.setattr(store_module, "FLUSH_BYTES", 4 * 3 * SIDE * SIDE)
    describe = store_module._Store._describe

    def killed(self, **more):
        describe(self, **more)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(store_module._Store, "_describe", killed)
        mapped(folder)
    same(mapped(folder), truth)


def test_a_full_disk_is_one_error_that_leaves_nothing(folder, monkeypatch):
    sync = os.fsync
    for kind in (".pixels", ".tmp"):  # the pixels, and the description on its way

        def full(descriptor, kind=kind):
            if os.readlink(f"/proc/self/fd/{descriptor}").endswith(kind):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            sync(descriptor)

        with monkeypatch.context() as patch:
            patch.setattr(store_module.os, "fsync", full)
            with pytest.raises(DataError, match=r"\.pixels cannot be written \(.*No space left.*\); nothing is left"):
                mapped(folder)
        left = [path.name for path in (folder.parent / "cache").iterdir() if path.suffix != ".lock"]
        assert left == []
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patch:
        patch.setattr(store_module.shutil, "disk_usage", lambda path: usage(1, 1, BYTES - 1))
        with pytest.raises(DataError, match=r"48 images of 16 px need .* GB, but .*cache has .* left. Make room, or"):
            mapped(folder)
    assert not files(folder, ".pixels") and not files(folder, ".json")
    same(mapped(folder), resident(folder))


def test_a_picture_that_cannot_be_read_leaves_nothing(folder):
    (folder / "train" / "cat" / "005.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"train/cat/005\.png"):
        mapped(folder)
    assert not files(folder, ".pixels") and not files(folder, ".json")


def test_a_cache_that_cannot_be_written_is_named_and_a_whole_one_need_not_be(folder, monkeypatch):
    (folder.parent / "a file").write_text("")
    with pytest.raises(DataError, match=r"cannot be written .* set cache_dir to a folder that can"):
        load("folder", folder, images="mapped", cache_dir=folder.parent / "a file" / "cache")
    mapped(folder)

    def refuse(*arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(store_module, "FileLock", refuse)
    same(mapped(folder), resident(folder))
    with pytest.raises(DataError, match=r"cache cannot be written \(Permission denied\)"):
        mapped(folder, subset=6)


def test_waiting_for_another_process_is_said(folder, monkeypatch, capsys):
    truth = mapped(folder)
    monkeypatch.setattr(store_module, "PATIENCE", 0.01)
    (pixels,), (about,) = files(folder, ".pixels"), files(folder, ".json")
    content = about.read_bytes()
    about.unlink()
    held = threading.Event()

    def write():
        with FileLock(pixels.with_name(f".{pixels.stem}.lock"), fallback_to_soft=False):
            held.set()
            time.sleep(0.3)
            about.write_bytes(content)

    writer = threading.Thread(target=write)
    writer.start()
    held.wait()
    capsys.readouterr()
    same(mapped(folder), truth)
    writer.join()
    assert capsys.readouterr().out == f"decoding  another process writes {pixels}: waiting for it\n"


def test_parts_and_batches_of_mapped_images_are_in_memory(folder):
    truth, found = resident(folder).train, mapped(folder).train
    for count in (5, 1000):
        part = found.part(count)
        assert not part.mapped and torch.equal(part.images, truth.part(count).images)
        part.images.zero_()  # what is mapped could not be written to
    rows = torch.tensor([7, 3, 3, 30])
    for asked in (None, rows):
        for rank in (0, 1):
            one, two = (list(split.batches(3, asked, Ranks(rank, 2))) for split in (truth, found))
            assert len(one) == len(two) > 1
            for a, b in zip(one, two):
                assert torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) and not b.mapped
    assert torch.equal(torch.cat([batch.images for batch in found.batches(3, rows)]), truth.images[rows])


@pytest.mark.parametrize("size", [1, 2])
def test_the_stream_of_batches_is_the_same(folder, size):
    augmentation = Augmentation(crop_padding=2, flip=True, rand_ops=1, rand_magnitude=9, erase=0.5)
    for rank in range(size):
        one, two = (
            Batches(split, 8, augmentation, seed=3, ranks=Ranks(rank, size)).epoch(1)
            for split in (resident(folder).train, mapped(folder).train)
        )
        for a, b in zip(one, two, strict=True):
            assert torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)


RUN = {"dataset": "folder", "subset": 0, "test_subset": 0, "batch_size": 12}


def test_a_run_on_mapped_images_is_the_run_on_resident_ones(folder, tiny, tmp_path):
    place = {"data_dir": str(folder), "cache_dir": str(tmp_path / "cache")}
    runs = {}
    for images in ("resident", "mapped", "in pieces"):
        how = "resident" if images == "resident" else "mapped"
        recipe = tiny(**RUN, **place, images=how, run=images.replace(" ", "_"))
        if images == "in pieces":
            for cut in ((0, 2), (1, 3)):
                with pytest.raises(SystemExit):
                    execute(recipe, Cut(cut))
        runs[images] = execute(recipe, Lines())
    one = runs["resident"]
    for other in (runs["mapped"], runs["in pieces"]):
        assert without_clocks(other.records) == without_clocks(one.records)
        assert equal(other.trainer.state_dict()["model"], one.trainer.state_dict()["model"])
        assert equal(other.trainer.state_dict()["averaged"], one.trainer.state_dict()["averaged"])
        assert other.record.data == one.record.data and other.record.recipe == one.record.recipe


def test_a_trainer_leaves_mapped_images_in_their_file(folder, tiny):
    dataset = mapped(folder)
    trainer = Trainer(tiny(**RUN), dataset)
    assert trainer.train.mapped and trainer.train.images.data_ptr() == dataset.train.images.data_ptr()
    assert trainer.test.mapped and trainer.test.images.data_ptr() == dataset.test.images.data_ptr()


def test_reading_ahead_is_one_ahead_and_in_order():
    begun = []

    def read(item):
        begun.append(item)
        if item == 3:
            raise OSError("the third")
        return 10 * item

    results = read_ahead(read, range(6))
    assert begun == []
    assert [next(results), next(results)] == [0, 10]
    assert next(results) == 20
    with pytest.raises(OSError, match="the third"):
        next(results)
    assert begun[:4] == [0, 1, 2, 3] and len(begun) <= 5
    begun.clear()
    stopped = read_ahead(read, iter(range(3)))
    next(stopped)
    stopped.close()
    assert begun in ([0], [0, 1]) and list(read_ahead(read, [])) == []
    assert np.array_equal(list(read_ahead(read, [5])), [50])
