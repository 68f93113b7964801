"""Folders of class folders of images."""

import shutil

import numpy as np
import pytest
from PIL import Image

from ptd_core.data import image_folder
from ptd_core.data.load import load
from ptd_core.errors import DataError


def save(path, colour=(10, 20, 30), size=(8, 8), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **options)


@pytest.fixture
def split_folder(tmp_path):
    """Two classes, three training images and one test image each; the red channel numbers the image."""
    for c, name in enumerate(("ant", "bee")):
        for i in range(3):
            save(tmp_path / "train" / name / f"{i}.png", (10 * i, 100 * c, 5))
        save(tmp_path / "test" / name / "t.png", (200, 100 * c, 5))
    return tmp_path


def read(folder, **options):
    return load("folder", folder, **{"image_size": 4, **options})


def test_train_and_test_folders(split_folder):
    data = read(split_folder)
    assert data.classes == ("ant", "bee")
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1] and data.test.labels.tolist() == [0, 1]
    assert data.train.images.shape == (6, 3, 4, 4)
    assert data.train.images[:, :, 0, 0].tolist() == [[10 * i, 100 * c, 5] for c in (0, 1) for i in range(3)]
    assert data.mean == pytest.approx((10 / 255, 50 / 255, 5 / 255))


def test_val_stands_in_for_test(split_folder):
    (split_folder / "test").rename(split_folder / "val")
    assert len(read(split_folder).test) == 2


def test_one_folder_is_split_every_fifth(tmp_path):
    for name in ("ant", "bee"):
        for i in range(11):
            save(tmp_path / name / f"{i:02d}.png", (i, 0, 0))
    data = read(tmp_path)
    assert data.test.images[:, 0, 0, 0].tolist() == [4, 9] * 2
    assert data.train.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 10] * 2


def test_subset_takes_the_first_of_each_class(split_folder):
    data = read(split_folder, subset=4)
    assert data.train.images[:, :2, 0, 0].tolist() == [[0, 0], [10, 0], [0, 100], [10, 100]]


def test_centre_square_is_kept(split_folder):
    """Left and right thirds of a wide image are blue; its middle square is all that remains."""
    pixels = np.zeros((20, 60, 3), dtype=np.uint8)
    pixels[:, :, 2] = 255
    pixels[:, 20:40] = (255, 0, 0)
    Image.fromarray(pixels).save(split_folder / "train/ant/0.png")
    image = read(split_folder, image_size=5).train.images[0]
    assert (image[0] > 200).all() and (image[2] < 50).all()


def test_resizing_averages_rather_than_skips_pixels(split_folder):
    checks = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    Image.fromarray(checks).convert("RGB").save(split_folder / "train/ant/0.png")
    image = read(split_folder).train.images[0].float()
    assert ((image - 127.5).abs() < 15).all()


def test_formats_modes_capitals_and_depth(split_folder):
    folder = split_folder / "train" / "ant"
    save(folder / "3.JPG", (200, 0, 0), (100, 80), format="JPEG", quality=95)
    save(folder / "4.webp", (200, 0, 0), lossless=True)
    save(folder / "5.bmp", (200, 0, 0))
    save(folder / "deeper" / "6.png", 200, mode="L")
    images = read(split_folder).train.images[3:7, :, 1, 1].int().tolist()
    for image, truth in zip(images, [(200, 0, 0)] * 3 + [(200, 200, 200)]):
        assert image == pytest.approx(truth, abs=3)


def test_photograph_is_turned_upright(split_folder):
    image = Image.new("RGB", (8, 8), (255, 255, 255))
    image.paste((0, 0, 0), (0, 0, 8, 4))  # dark upper half
    exif = Image.Exif()
    exif[0x0112] = 3  # orientation: upside down
    image.save(split_folder / "train/ant/0.png", exif=exif)
    upright = read(split_folder, image_size=8).train.images[0, 0]
    assert (upright[:3] > 200).all() and (upright[5:] < 50).all()


def test_other_files_are_passed_over(split_folder):
    (split_folder / "train/ant/notes.txt").write_text("not an image")
    (split_folder / "train/ant/._0.png").write_text("left by a file manager")
    (split_folder / "train/.ipynb_checkpoints").mkdir()
    assert len(read(split_folder).train) == 6


def test_links_that_lead_back_add_nothing(split_folder):
    """Followed, one would list each image many times, and two would never end."""
    for name in ("here", "again"):
        (split_folder / "train/ant" / name).symlink_to(split_folder / "train/ant")
    assert len(read(split_folder).train) == 6


def test_nothing_there(tmp_path):
    with pytest.raises(DataError, match="absent is not a folder"):
        read(tmp_path / "absent")
    with pytest.raises(DataError, match="0 class folder"):
        read(tmp_path)


def test_one_class_only(tmp_path):
    for i in range(5):
        save(tmp_path / "ant" / f"{i}.png")
    with pytest.raises(DataError, match="ant"):
        read(tmp_path)


def test_empty_class_is_named(split_folder):
    (split_folder / "train/cat").mkdir()
    with pytest.raises(DataError, match="train/cat is an empty class"):
        read(split_folder)


def test_test_class_that_training_lacks_is_named(split_folder):
    save(split_folder / "test/wasp/0.png")
    with pytest.raises(DataError, match="wasp"):
        read(split_folder)


def test_train_without_test(split_folder):
    (split_folder / "test").rename(split_folder / "elsewhere")
    with pytest.raises(DataError, match="neither test/ nor val/"):
        read(split_folder)


def test_class_too_small_to_split(tmp_path):
    for name, count in (("ant", 5), ("bee", 4)):
        for i in range(count):
            save(tmp_path / name / f"{i}.png")
    with pytest.raises(DataError, match=r"bee has 4 image.*at least 5"):
        read(tmp_path)


@pytest.mark.parametrize("damage", ["text", "empty", "truncated", "broken link"])
def test_unreadable_file_is_named(split_folder, damage):
    path = split_folder / "train/bee/1.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8)).save(path)
    whole = path.read_bytes()
    path.unlink()
    if damage == "broken link":
        path.symlink_to(split_folder / "gone.png")
    else:
        path.write_bytes({"text": b"hello", "empty": b"", "truncated": whole[: len(whole) // 2]}[damage])
    with pytest.raises(DataError, match=r"train/bee/1\.png"):
        read(split_folder)


def test_enormous_image_is_refused_before_it_is_decoded(split_folder, monkeypatch):
    monkeypatch.setattr(image_folder, "MAX_PIXELS", 99)
    path = split_folder / "train/bee/1.png"
    save(path, size=(10, 10))
    # Headers only: decoding would fail, with another message.
    path.write_bytes(path.read_bytes()[:45])
    with pytest.raises(DataError, match=r"1\.png is 10 x 10; at most 99 pixels"):
        read(split_folder)


@pytest.mark.parametrize("link", ["a class", "all of it", "within a class"])
def test_training_images_are_not_tested_on_by_a_link(split_folder, link):
    if link == "a class":
        shutil.rmtree(split_folder / "test" / "bee")
        (split_folder / "test" / "bee").symlink_to(split_folder / "train" / "bee")
    elif link == "all of it":
        shutil.rmtree(split_folder / "test")
        (split_folder / "test").symlink_to("train")
    else:
        shutil.rmtree(split_folder / "test" / "bee")
        save(split_folder / "train" / "bee" / "more" / "3.png")
        (split_folder / "test" / "bee").symlink_to(split_folder / "train" / "bee" / "more")
    with pytest.raises(DataError, match=r"test/\w+ is the same folder as .*train/\w+.*: its images would be learned"):
        read(split_folder)
