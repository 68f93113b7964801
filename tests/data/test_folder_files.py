"""Which files of class folders are images, which are not used, and that this is said."""

import os
import sys
import unicodedata

import pytest
from PIL import Image, features
from test_image_folder import read, save, split_folder  # noqa: F401  a fixture

from ptd_core.data.folder_files import SUFFIXES
from ptd_core.data.picture import formats
from ptd_core.errors import DataError

FORMATS = {".jfif": "JPEG", ".jpe": "JPEG", ".apng": "PNG", ".pgm": "PPM", ".pbm": "PPM", ".pnm": "PPM",
           ".j2k": "JPEG2000", ".jp2": "JPEG2000", ".jpx": "JPEG2000"}  # fmt: skip


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_every_ending_is_read(split_folder, suffix):  # noqa: F811
    if suffix == ".avif" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    mode, value = {".pgm": ("L", 255), ".pbm": ("1", 1)}.get(suffix, ("RGB", (255, 255, 255)))
    options = {"format": FORMATS[suffix]} if suffix in FORMATS else {}
    path = split_folder / "train" / "ant" / f"3{suffix.upper()}"
    save(path, value, mode=mode, **options)
    assert path.suffix.lower() in SUFFIXES and formats(path.name)
    data = read(split_folder)
    assert (data.train.images[3] > 250).all() and len(data.notes) == 1


def test_torchvisions_endings_are_among_them():
    from torchvision.datasets.folder import IMG_EXTENSIONS

    assert set(IMG_EXTENSIONS) <= SUFFIXES


def test_what_is_not_used_is_counted(split_folder):  # noqa: F811
    ant = split_folder / "train" / "ant"
    for name in ("a.txt", "b.TXT", "c.heic", "README", ".hidden.png"):
        (ant / name).write_text("")
    save(split_folder / "train" / "loose.png")
    (split_folder / "test/ant/again").symlink_to(ant)
    data = read(split_folder)
    assert len(data.train) == 6 and len(data.test) == 2
    assert data.notes[1] == (
        "7 file(s) or link(s) not used: 1 .heic, 2 .txt, 1 hidden image(s), 1 image(s) beside the class folders, "
        "1 link(s) to folders that are read already, 1 without an ending"
    )


def test_leftovers_are_neither_classes_nor_images_nor_counted(split_folder):  # noqa: F811
    for place in (split_folder, split_folder / "train", split_folder / "train" / "ant"):
        for folder in ("__MACOSX/ant", "@eaDir/0.png", ".git"):
            save(place / folder / "x.png")
        for file in (".DS_Store", "Thumbs.db", "desktop.ini", "._0.png"):
            (place / file).write_bytes(b"\0")
    data = read(split_folder)
    assert data.classes == ("ant", "bee") and len(data.train) == 6 and len(data.notes) == 1


def test_linked_folders_are_read(split_folder, tmp_path_factory):  # noqa: F811
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    save(elsewhere / "deep" / "7.png", (70, 0, 0))
    (elsewhere / "back").symlink_to(elsewhere)
    (elsewhere / "up").symlink_to(split_folder.parent)
    (split_folder / "train/ant/more").symlink_to(elsewhere)
    (split_folder / "train/cat").symlink_to(elsewhere)
    data = read(split_folder)
    assert data.classes == ("ant", "bee", "cat") and len(data.train) == 8
    assert data.train.images[3, 0, 0, 0] == 70


def test_an_empty_class_says_what_is_there(split_folder):  # noqa: F811
    (split_folder / "train/cat").mkdir()
    (split_folder / "train/cat/a.heic").write_text("")
    with pytest.raises(DataError, match=r"cat is an empty class.*1 \.heic"):
        read(split_folder)


def test_accents_may_be_spelt_in_either_way(split_folder):  # noqa: F811
    composed, apart = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))
    save(split_folder / "train" / composed / "0.png")
    save(split_folder / "train" / apart / "1.png")
    save(split_folder / "test" / apart / "0.png")
    data = read(split_folder)
    assert data.classes == ("ant", "bee", composed)
    assert data.train.labels.tolist() == [0] * 3 + [1] * 3 + [2] * (2 if sys.platform != "darwin" else 1)
    assert data.test.labels.tolist() == [0, 1, 2]


@pytest.mark.skipif(sys.platform != "linux", reason="names are not bytes there")
def test_names_that_are_not_utf8_are_shown_escaped(split_folder):  # noqa: F811
    for part in (b"train", b"test"):
        os.makedirs(os.fsencode(split_folder) + b"/" + part + b"/caf\xe9")
        Image.new("RGB", (8, 8)).save(os.fsdecode(os.fsencode(split_folder) + b"/" + part + b"/caf\xe9/\xff.png"))
    data = read(split_folder)
    assert data.classes[2] == "caf\\udce9"
    with open(os.fsencode(split_folder) + b"/train/caf\xe9/\xff.png", "w"):
        pass
    with pytest.raises(DataError, match=r"caf\\udce9/\\udcff\.png") as caught:
        read(split_folder)
    str(caught.value).encode()


def test_a_class_that_runs_short_is_named(split_folder):  # noqa: F811
    for i in range(3, 9):
        save(split_folder / "train" / "ant" / f"{i}.png")
    with pytest.raises(DataError, match="class bee has 3"):
        read(split_folder, subset=10)
