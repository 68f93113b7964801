"""Images mapped from a file are the resident ones bit for bit: alone, as batches, and in a run."""

import shutil

import pytest
import torch
from conftest import Lines, equal, without_clocks
from mapped import RUN, SIDE, files, mapped, resident, same
from photographs import image_folder
from PIL import Image
from ranked import Cut

from ptd_core.data.augment import Augmentation
from ptd_core.data.batches import Batches
from ptd_core.data.load import load
from ptd_core.machine.ranks import Ranks
from ptd_core.run import execute
from ptd_core.trainer import Trainer


@pytest.fixture
def folder(tmp_path):
    return image_folder(tmp_path / "pictures")


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
