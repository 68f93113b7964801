"""CIFAR from the dataset hub's parquet shards: the true pixels, or a refusal that names what is wrong."""

import io

import numpy as np
import pyarrow.parquet as pq
import pytest
import small_cifar
import torch
from PIL import Image
from small_cifar import NAMES, ROWS, assert_equals, png, write_shard, write_shards, write_torchvision_folder

from ptd_core.data import cifar
from ptd_core.data.load import load
from ptd_core.errors import DataError
from ptd_core.paths import PROJECT_ROOT

REAL = PROJECT_ROOT.parent / "shared" / "cifar100"


@pytest.fixture(scope="module")
def truth():
    return small_cifar.truth()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder of two train shards and one test shard. Nothing may be downloaded."""
    monkeypatch.setattr(cifar, "ROWS", ROWS)
    monkeypatch.setattr(cifar, "_download", lambda *_: pytest.fail("tried to download"))
    write_shards(tmp_path)
    return tmp_path


FIRST = "train-00000-of-00002.parquet"
SECOND = "train-00001-of-00002.parquet"


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


def test_torchvisions_folder_chooses_the_same_subset(hub, monkeypatch):
    """One data_dir holds both here; the shards are preferred, so they are hidden for the second reading."""
    write_torchvision_folder(hub, monkeypatch)
    from_shards = load("cifar10", hub, subset=13).train
    for path in hub.glob("*.parquet"):
        path.unlink()
    from_folder = load("cifar10", hub, subset=13).train
    assert torch.equal(from_shards.images, from_folder.images) and torch.equal(from_shards.labels, from_folder.labels)


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
