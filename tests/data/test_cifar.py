"""CIFAR from hub shards and from torchvision's folder: the true pixels, or a refusal that names what is wrong."""

import hashlib
import io
import json
import os
import pickle
import tarfile
import urllib.error
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torchvision
from PIL import Image

from ptd_core.data import cifar
from ptd_core.data.load import load
from ptd_core.errors import DataError
from ptd_core.paths import PROJECT_ROOT

REAL = PROJECT_ROOT.parent / "shared" / "cifar100"
ROWS = {"train": 40, "test": 20}
NAMES = [f"kind {i}" for i in range(10)]


def png(image: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", **options)
    return file.getvalue()


def write_shard(path, images, labels, *, names=NAMES, column="label", **options):
    """One parquet file like the hub's; `images` are PNGs as bytes."""
    table = pa.table(
        {
            "img": pa.array(
                [{"bytes": image, "path": None} for image in images],
                pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
            ),
            column: pa.array(labels, pa.int64()),
        }
    )
    if names is not None:
        features = {"info": {"features": {column: {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=7, **options)


@pytest.fixture(scope="module")
def truth():
    """{split: (images (n, 32, 32, 3), labels)} of a CIFAR-10 in miniature."""
    rng = np.random.default_rng(0)
    return {
        split: (rng.integers(0, 256, (rows, 32, 32, 3), dtype=np.uint8), rng.permutation(np.arange(rows) % 10))
        for split, rows in ROWS.items()
    }


@pytest.fixture
def hub(tmp_path, monkeypatch, truth):
    """A folder of two train shards and one test shard. Nothing may be downloaded."""
    monkeypatch.setattr(cifar, "ROWS", ROWS)
    monkeypatch.setattr(cifar, "_download", lambda *_: pytest.fail("tried to download"))
    for split, parts in (("train", 2), ("test", 1)):
        images, labels = truth[split]
        for i in range(parts):
            rows = slice(i * len(labels) // parts, (i + 1) * len(labels) // parts)
            path = tmp_path / f"{split}-{i:05d}-of-{parts:05d}.parquet"
            write_shard(path, [png(image) for image in images[rows]], labels[rows])
    return tmp_path


FIRST = "train-00000-of-00002.parquet"
SECOND = "train-00001-of-00002.parquet"


def assert_equals(split, images, labels):
    assert np.array_equal(split.images.numpy(), images.transpose(0, 3, 1, 2))
    assert np.array_equal(split.labels.numpy(), labels)


def test_shards_give_back_what_was_written(hub, truth):
    data = load("cifar10", hub)
    assert_equals(data.train, *truth["train"])
    assert_equals(data.test, *truth["test"])
    assert data.classes == tuple(NAMES) and data.train.masks is None
    assert (data.train.images.dtype, data.train.labels.dtype) == (torch.uint8, torch.int64)
    assert data.mean == (0.4914, 0.4822, 0.4465) and data.std == (0.2470, 0.2435, 0.2616)


@pytest.mark.parametrize("below", ["data", "plain_text"])
def test_shards_may_lie_one_folder_deeper(hub, tmp_path_factory, below, truth):
    outer = tmp_path_factory.mktemp("outer")
    hub.rename(outer / below)
    assert_equals(load("cifar10", outer).test, *truth["test"])


def test_shards_may_have_hashes_in_their_names(hub, truth):
    for number, path in enumerate(sorted(hub.iterdir())):
        path.rename(path.with_stem(f"{path.stem}-b6aa95520f3b{number:04x}"))
    data = load("cifar10", hub)
    assert_equals(data.train, *truth["train"])
    assert_equals(data.test, *truth["test"])
    copy = hub / FIRST
    copy.write_bytes(next(hub.glob("train-00000*")).read_bytes())
    with pytest.raises(DataError, match=r"train-00000-of-00002.* and .*one shard twice"):
        load("cifar10", hub)


@pytest.mark.parametrize("below", ["", "plain_text"])
def test_shards_may_be_numbered_in_a_folder_of_their_split(hub, tmp_path_factory, truth, below):
    outer = tmp_path_factory.mktemp("outer")
    for path in sorted(hub.iterdir()):
        split, number = path.stem.split("-")[:2]
        (outer / below / split).mkdir(parents=True, exist_ok=True)
        path.rename(outer / below / split / f"{int(number):04d}.parquet")
    data = load("cifar10", outer)
    assert_equals(data.train, *truth["train"])
    assert_equals(data.test, *truth["test"])
    (outer / below / "train" / "0000.parquet").rename(outer / below / "train" / "0002.parquet")
    with pytest.raises(DataError, match=r"train.0000\.parquet is missing"):
        load("cifar10", outer)
    (outer / below / "train" / "0002.parquet").unlink()
    (outer / below / "train" / "0001.parquet").rename(outer / below / "train" / "0000.parquet")
    with pytest.raises(DataError, match="hold 20 rows, expected 40"):
        load("cifar10", outer)


def test_subset_is_the_first_of_each_class_and_only_it_is_decoded(hub, truth):
    images, labels = truth["train"]
    first = sorted(int(np.flatnonzero(labels == c)[0]) for c in range(10))
    broken = next(i for i in range(20) if i not in first)
    parts = [png(image) for image in images[:20]]
    parts[broken] = b"broken"
    write_shard(hub / FIRST, parts, labels[:20])
    data = load("cifar10", hub, subset=10)
    assert_equals(data.train, images[first], labels[first])
    with pytest.raises(DataError, match=f"{FIRST}, row {broken}"):
        load("cifar10", hub)


def test_without_names_classes_are_numbered(hub, truth):
    for path in hub.iterdir():
        table = pq.read_table(path).replace_schema_metadata(None)
        pq.write_table(table, path)
    assert load("cifar10", hub).classes == tuple(str(i) for i in range(10))


@pytest.mark.parametrize("name", [FIRST, SECOND, "test-00000-of-00001.parquet"])
def test_missing_shard_is_named(hub, name):
    (hub / name).unlink()
    with pytest.raises(DataError, match="test shard" if name.startswith("test") else name):
        load("cifar10", hub)


@pytest.mark.parametrize("damage", ["empty", "truncated", "text", "flipped"])
def test_damaged_shard_is_named(hub, damage, truth):
    path = hub / SECOND
    if damage == "flipped":  # one bit within a label page that was written with a checksum
        images, labels = truth["train"]
        parts = [png(image) for image in images[20:]]
        write_shard(path, parts, labels[20:], write_page_checksum=True, use_dictionary=False, compression="none")
        whole = bytearray(path.read_bytes())
        column = pq.ParquetFile(path).metadata.row_group(0).column(2)
        whole[column.data_page_offset + column.total_compressed_size - 8] ^= 1
    else:
        whole = path.read_bytes()
    contents = {"empty": b"", "truncated": whole[: len(whole) // 2], "text": b"not parquet", "flipped": bytes(whole)}
    path.write_bytes(contents[damage])
    with pytest.raises(DataError, match=SECOND):
        load("cifar10", hub)


def test_shards_of_two_sets_are_not_mixed(hub):
    (hub / SECOND).rename(hub / "train-00001-of-00003.parquet")
    with pytest.raises(DataError, match="of-00002, of-00003"):
        load("cifar10", hub)


def test_shard_numbered_beyond_the_set_is_refused(hub):
    (hub / "train-00007-of-00002.parquet").write_bytes((hub / FIRST).read_bytes())
    with pytest.raises(DataError, match=r"train-00007-of-00002"):
        load("cifar10", hub)


def test_wrong_number_of_rows(hub, truth):
    images, labels = truth["train"]
    write_shard(hub / SECOND, [png(image) for image in images[20:39]], labels[20:39])
    with pytest.raises(DataError, match=rf"39 rows, expected 40 .*{SECOND}: 19"):
        load("cifar10", hub)


def test_other_dataset_is_refused_by_its_columns(hub):
    with pytest.raises(DataError, match=r"label: int64; expected .*fine_label"):
        load("cifar100", hub)


@pytest.mark.parametrize("label", [-1, 10, None])
def test_label_out_of_range_or_absent(hub, truth, label):
    images, labels = truth["train"]
    changed = [*labels[20:23].tolist(), label, *labels[24:].tolist()]
    write_shard(hub / SECOND, [png(image) for image in images[20:]], changed)
    with pytest.raises(DataError, match=f"{SECOND}: 1 rows have no label" if label is None else f"{SECOND}, row 3"):
        load("cifar10", hub)


def corrupted(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


GREY = np.zeros((32, 32), dtype=np.uint8)
RGB = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (None, "no image"),
        (b"", "no image"),
        (b"GIF89a" + bytes(50), "not a PNG"),
        (png(GREY), "colour type 0"),
        (png(RGB)[:24] + b"\x10" + png(RGB)[25:], "16 bits"),
        (png(np.zeros((32, 33, 3), dtype=np.uint8)), "33 x 32"),
        # A header that claims 60,000 x 60,000 pixels must be refused by its claim, not by trying.
        (png(RGB)[:16] + (60_000).to_bytes(4, "big") * 2 + png(RGB)[24:], "60000 x 60000"),
        (png(RGB)[:-200], "damaged"),
        (corrupted(png(RGB)), "damaged"),
        # Decoders may let these two pass: a wrong checksum of the pixels, and an end that is missing.
        (png(RGB)[:-16] + bytes(4) + png(RGB)[-12:], "damaged"),
        (png(RGB)[:-12], "damaged"),
        # A second header, whole and with its checksum, which decoders believe.
        (png(RGB)[:33] + png(np.zeros((99, 99, 3), dtype=np.uint8))[8:33] + png(RGB)[33:], "damaged"),
    ],
    ids=[
        "null",
        "empty",
        "gif",
        "grey",
        "16 bits",
        "size",
        "enormous",
        "truncated",
        "bit flip",
        "checksum",
        "no end",
        "two headers",
    ],
)
def test_wrong_image_is_named_by_file_and_row(hub, truth, image, words):
    images, labels = truth["train"]
    parts = [png(image) for image in images[20:]]
    parts[11] = image
    write_shard(hub / SECOND, parts, labels[20:])
    with pytest.raises(DataError, match=rf"{SECOND}, row 11: .*{words}"):
        load("cifar10", hub)


@pytest.mark.parametrize(
    ("names", "words"), [(NAMES[:9], "9 classes"), (NAMES[::-1], "disagree"), (3, "no class names")]
)
def test_class_names_must_be_right_and_the_same_everywhere(hub, truth, names, words):
    images, labels = truth["train"]
    write_shard(hub / SECOND, [png(image) for image in images[20:]], labels[20:], names=names)
    with pytest.raises(DataError, match=words) as refusal:
        load("cifar10", hub)
    assert SECOND in str(refusal.value)


def test_other_image_size_is_refused(hub):
    with pytest.raises(DataError, match=r"32 x 32.*64"):
        load("cifar10", hub, image_size=64)


# --- torchvision's folder ---


def write_torchvision_folder(root, truth, monkeypatch):
    """A miniature cifar-10-batches-py, whose checksums torchvision is told to expect."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    source = torchvision.datasets.CIFAR10
    contents = {"batches.meta": {"label_names": NAMES}}
    batches = (("b1", "train", slice(0, 20)), ("b2", "train", slice(20, 40)), ("t", "test", slice(0, 20)))
    for name, split, rows in batches:
        images, labels = truth[split]
        data = images[rows].transpose(0, 3, 1, 2).reshape(len(images[rows]), -1)
        contents[name] = {"data": data, "labels": labels[rows].tolist()}
    md5 = {}
    for name, content in contents.items():
        (folder / name).write_bytes(pickle.dumps(content))
        md5[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(source, "train_list", [["b1", md5["b1"]], ["b2", md5["b2"]]])
    monkeypatch.setattr(source, "test_list", [["t", md5["t"]]])
    monkeypatch.setattr(source, "meta", {"filename": "batches.meta", "key": "label_names", "md5": md5["batches.meta"]})
    return folder


@pytest.fixture
def torchvision_folder(tmp_path, truth, monkeypatch):
    return write_torchvision_folder(tmp_path, truth, monkeypatch)


def test_torchvision_folder_gives_back_what_was_written(torchvision_folder, truth):
    data = load("cifar10", torchvision_folder.parent, download=False)
    assert_equals(data.train, *truth["train"])
    assert_equals(data.test, *truth["test"])
    assert data.classes == tuple(NAMES)


def test_both_layouts_choose_the_same_subset(torchvision_folder, hub, truth):
    """One data_dir holds both here; the shards are preferred, so they are hidden for the second reading."""
    from_shards = load("cifar10", hub, subset=13).train
    for path in hub.glob("*.parquet"):
        path.unlink()
    from_folder = load("cifar10", hub, subset=13).train
    assert torch.equal(from_shards.images, from_folder.images) and torch.equal(from_shards.labels, from_folder.labels)


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
def archive(tmp_path, truth, monkeypatch):
    """data_dir with the archive of a miniature CIFAR-10, whose checksum torchvision is told to expect."""
    folder = write_torchvision_folder(tmp_path / "whole", truth, monkeypatch)
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
    archive = write_torchvision_folder(tmp_path / "archive", truth, monkeypatch)
    calls = []

    def fetch(url, root, **_):
        calls.append(url)
        archive.rename(Path(root) / archive.name)

    monkeypatch.setattr(torchvision.datasets.cifar, "download_and_extract_archive", fetch)
    for _ in range(2):
        assert_equals(load("cifar10", tmp_path / "data").train, *truth["train"])
    assert len(calls) == 1 and [path.name for path in (tmp_path / "data").iterdir()] == ["cifar-10-batches-py"]


# --- the real data ---


@pytest.mark.skipif(not REAL.is_dir(), reason=f"CIFAR-100's shards are not at {REAL}")
def test_real_rows_equal_what_another_decoder_reads():
    data = load("cifar100", REAL, subset=200, test_subset=100)
    assert torch.bincount(data.train.labels).tolist() == [2] * 100
    assert data.classes[:2] == ("apple", "aquarium_fish") and len(set(data.classes)) == 100
    table = pq.read_table(REAL / "data" / "test-00000-of-00001.parquet")
    labels = table["fine_label"].to_numpy()
    first = sorted(int(np.flatnonzero(labels == c)[0]) for c in range(100))
    assert data.test.labels.tolist() == labels[first].tolist()
    for image, row in zip(data.test.images, first):
        truth = np.asarray(Image.open(io.BytesIO(table["img"][row].as_py()["bytes"])))
        assert np.array_equal(image.permute(1, 2, 0).numpy(), truth)
