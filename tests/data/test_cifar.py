"""CIFAR from torchvision's folder, its archive or a download: the true pixels, or a refusal that says what is wrong."""

import hashlib
import os
import pickle
import tarfile
import urllib.error
from pathlib import Path

import pytest
import small_cifar
import torchvision
from small_cifar import NAMES, assert_equals, write_torchvision_folder

from ptd_core.data import cifar
from ptd_core.data.load import load
from ptd_core.errors import DataError


@pytest.fixture(scope="module")
def truth():
    return small_cifar.truth()


@pytest.fixture
def torchvision_folder(tmp_path, monkeypatch):
    return write_torchvision_folder(tmp_path, monkeypatch)


def test_torchvision_folder_gives_back_what_was_written(torchvision_folder, truth):
    data = load("cifar10", torchvision_folder.parent, download=False)
    assert_equals(data.train, *truth["train"])
    assert_equals(data.test, *truth["test"])
    assert data.classes == tuple(NAMES)


class Trap:
    """Makes a folder when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["b2", "t", "batches.meta"])
def test_wrong_checksum_is_named_and_nothing_is_unpickled(torchvision_folder, tmp_path, name):
    sprung = tmp_path / "sprung"
    (torchvision_folder / name).write_bytes(pickle.dumps(Trap(sprung)))
    with pytest.raises(DataError, match=f"{name} is damaged.*MD5.*hub"):
        load("cifar10", tmp_path)
    assert not sprung.exists()


def test_missing_batch_is_named(torchvision_folder, tmp_path):
    (torchvision_folder / "b2").unlink()
    with pytest.raises(DataError, match="b2 is missing"):
        load("cifar10", tmp_path)


def test_absent_data_says_the_two_ways_to_get_it(tmp_path):
    with pytest.raises(DataError, match=r"cifar-100-python.*download to true.*uoft-cs/cifar100") as refusal:
        load("cifar100", tmp_path / "none", download=False)
    assert str(tmp_path / "none") in str(refusal.value)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("failure", [urllib.error.URLError("no route"), RuntimeError("File not found or corrupted.")])
def test_failed_download_is_told_and_leaves_nothing(tmp_path, monkeypatch, failure):
    def half_done(url, root, **_):
        (Path(root) / "cifar-100-python").mkdir()
        (Path(root) / "cifar-100-python" / "train").write_bytes(b"half")
        raise failure

    monkeypatch.setattr(torchvision.datasets.cifar, "download_and_extract_archive", half_done)
    with pytest.raises(DataError, match=r"could not be downloaded.*(no route|corrupted).*uoft-cs/cifar100"):
        load("cifar100", tmp_path / "data")
    assert not (tmp_path / "data").exists()
    (tmp_path / "mine").mkdir()
    with pytest.raises(DataError, match="could not be downloaded"):
        load("cifar100", tmp_path / "mine")
    assert list((tmp_path / "mine").iterdir()) == []


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """data_dir with the archive of a miniature CIFAR-10, whose checksum torchvision is told to expect."""
    folder = write_torchvision_folder(tmp_path / "whole", monkeypatch)
    path = tmp_path / "data" / torchvision.datasets.CIFAR10.filename
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as file:
        file.add(folder, folder.name)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "tgz_md5", hashlib.md5(path.read_bytes()).hexdigest())
    monkeypatch.setattr(cifar, "_download", lambda *_: pytest.fail("tried to download"))
    return path


@pytest.mark.parametrize("download", [True, False])
def test_archive_that_is_there_is_unpacked(archive, truth, download):
    for _ in range(2):
        assert_equals(load("cifar10", archive.parent, download=download).train, *truth["train"])
    assert sorted(path.name for path in archive.parent.iterdir()) == ["cifar-10-batches-py", archive.name]


def test_damaged_archive_is_named_and_not_opened(archive, truth):
    archive.write_bytes(archive.read_bytes()[:-5])
    with pytest.raises(DataError, match=rf"{archive.name} is damaged: its MD5"):
        load("cifar10", archive.parent)
    assert list(archive.parent.iterdir()) == [archive]


def test_folder_too_deep_is_told(torchvision_folder, monkeypatch):
    monkeypatch.setattr(cifar, "_download", lambda *_: pytest.fail("tried to download"))
    for download in (True, False):
        with pytest.raises(DataError, match="is the folder cifar-10-batches-py of cifar10 itself; pass the folder"):
            load("cifar10", torchvision_folder, download=download)


def test_download_is_moved_into_place_and_not_repeated(tmp_path, monkeypatch, truth):
    archive = write_torchvision_folder(tmp_path / "archive", monkeypatch)
    calls = []

    def fetch(url, root, **_):
        calls.append(url)
        archive.rename(Path(root) / archive.name)

    monkeypatch.setattr(torchvision.datasets.cifar, "download_and_extract_archive", fetch)
    for _ in range(2):
        assert_equals(load("cifar10", tmp_path / "data").train, *truth["train"])
    assert len(calls) == 1 and [path.name for path in (tmp_path / "data").iterdir()] == ["cifar-10-batches-py"]
