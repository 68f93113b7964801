"""The file of mapped images: damage, a stopped writer, a full disk, a cache that cannot be written, another writer."""

import errno
import json
import os
import threading
import time
from collections import namedtuple

import pytest
from filelock import FileLock
from mapped import BYTES, IMAGES, SIDE, files, mapped, resident, same
from photographs import image_folder

from ptd_core.data import image_folder as folder_module
from ptd_core.data import mapped as store_module
from ptd_core.data.load import load
from ptd_core.errors import DataError


@pytest.fixture
def folder(tmp_path):
    return image_folder(tmp_path / "pictures")


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
