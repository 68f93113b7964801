"""Parquet shards of image datasets: the pictures and labels that were put in, or a refusal that says what is wrong."""

import io

import numpy as np
import pyarrow as pa
import pytest
import torch
from photographs import CLASSES, photograph, shard
from PIL import Image

from ptd_core.data.image_folder import read_image
from ptd_core.data.load import load
from ptd_core.data.mapped import mapped as map_listing
from ptd_core.data.parquet import list_parquet
from ptd_core.errors import DataError

RNG = np.random.default_rng(0)
PICTURES = {
    split: [photograph(RNG, ("PNG", "JPEG")[i % 2]) for i in range(n)] for split, n in (("train", 23), ("test", 9))
}
LABELS = {split: np.arange(len(pictures)) * 7 % 3 for split, pictures in PICTURES.items()}
NAMES = {"label": CLASSES}


def read(folder, **options):
    return load("parquet", folder, image_size=16, **options)


def write(folder, split, parts=1, *, called=None, labels=None, column="label", names=NAMES, **options):
    """The shards of a split. called: its name in the files'."""
    pictures, labels = PICTURES[split], LABELS[split] if labels is None else labels
    for number, rows in enumerate(np.array_split(np.arange(len(pictures)), parts)):
        path = folder / f"{called or split}-{number:05d}-of-{parts:05d}.parquet"
        shard(path, [pictures[i] for i in rows], {column: labels[rows]}, names=names, **options)


@pytest.fixture
def hub(tmp_path):
    write(tmp_path / "hub", "train", 3)
    write(tmp_path / "hub", "test")
    return tmp_path / "hub"


def holds(split, name, labels=None):
    assert split.labels.tolist() == (LABELS[name] if labels is None else labels).tolist()
    for image, content, number in zip(split.images, PICTURES[name], range(100)):
        expected = decoded(content, number)
        assert np.array_equal(image.numpy(), expected)


def decoded(content, number):
    return read_image(io.BytesIO(content), 16, str(number))


def test_shards_give_back_what_was_put_in(hub):
    data = read(hub)
    holds(data.train, "train")
    holds(data.test, "test")
    assert data.classes == CLASSES and data.name == "parquet"
    used = "3 train shard(s) with 23 rows for training, 1 test shard(s) with 9 rows for test"
    assert data.notes == (f"{hub}: {used}, labels from label",)


def test_the_same_pictures_in_folders_are_the_same_images(hub, tmp_path):
    for split, pictures in PICTURES.items():
        for number, content in enumerate(pictures):
            place = tmp_path / "folder" / split / CLASSES[LABELS[split][number]]
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{number:03d}.png").write_bytes(content)
    one, two = read(hub), load("folder", tmp_path / "folder", image_size=16)
    order = np.argsort(LABELS["train"], kind="stable")
    assert torch.equal(one.train.images[torch.from_numpy(order)], two.train.images)
    assert (one.mean, one.std) == (two.mean, two.std)


def test_real_cifar_is_what_its_own_reader_reads(real_cifar100):
    sizes = {"image_size": 32, "subset": 300, "test_subset": 200}
    truth = load("cifar100", real_cifar100, **sizes)
    found = load("parquet", real_cifar100, label_column="fine_label", **sizes)
    for one, two in ((found.train, truth.train), (found.test, truth.test)):
        assert torch.equal(one.images, two.images) and torch.equal(one.labels, two.labels)
    assert found.digest == truth.digest and found.classes == truth.classes
    with pytest.raises(DataError, match=r"several columns of labels: fine_label, coarse_label\. Choose"):
        load("parquet", real_cifar100, **sizes)
    assert len(load("parquet", real_cifar100, label_column="coarse_label", **sizes).classes) == 20


@pytest.mark.parametrize("subset", [0, 7])
@pytest.mark.parametrize("first", [0, 1, 6, 30])
def test_images_can_be_read_from_any_of_them_on(hub, subset, first):
    listing = list_parquet(hub, image_size=16, subset=subset)
    whole = list(listing.decoded())
    rest = list(listing.decoded(first))
    assert len(whole) == len(listing) and len(rest) == max(0, len(whole) - first)
    assert all(np.array_equal(one, two) for one, two in zip(rest, whole[first:]))


def test_mapped_shards_are_the_resident_ones(hub, tmp_path, capsys):
    truth = read(hub)
    for _ in range(2):
        found = read(hub, images="mapped", cache_dir=tmp_path / "cache")
        assert found.train.mapped and torch.equal(found.train.images, truth.train.images)
        assert torch.equal(found.test.images, truth.test.images) and found.digest == truth.digest
    write(hub, "train", 3, labels=1 - LABELS["train"] % 2)  # other labels are other data
    found = read(hub, images="mapped", cache_dir=tmp_path / "cache")
    assert "have changed" in capsys.readouterr().out and found.digest == read(hub).digest != truth.digest


def test_columns_that_were_asked_for_are_of_the_data(hub, tmp_path):
    for split in ("train", "test"):
        pictures = PICTURES[split]
        kinds = {"fine": np.arange(len(pictures)) % 3, "coarse": np.arange(len(pictures)) % 2}
        shard(hub / f"{split}-00000-of-00001.parquet", pictures, kinds)
    for number in range(3):
        (hub / f"train-{number:05d}-of-00003.parquet").unlink()
    with pytest.raises(DataError, match=r"several columns of labels: fine, coarse\. Choose .* as label_column"):
        read(hub)
    for column, count in (("fine", 3), ("coarse", 2)):
        listing = list_parquet(hub, image_size=16, label_column=column)
        found = map_listing(listing, tmp_path / "cache")
        assert found.classes == tuple("012"[:count]) and found.train.labels.max() == count - 1
    with pytest.raises(DataError, match="no column colour of integers; its columns are image: struct"):
        read(hub, label_column="colour")


def test_the_column_with_class_names_is_taken(tmp_path):
    for split in ("train", "test"):
        count = len(PICTURES[split])
        shard(tmp_path / f"{split}-00000-of-00001.parquet", PICTURES[split],
              {"number": np.arange(count), "kind": LABELS[split]}, image="img", names={"kind": CLASSES})  # fmt: skip
    data = read(tmp_path)
    holds(data.train, "train")
    assert data.classes == CLASSES


@pytest.mark.parametrize("called", ["validation", "valid", "val"])
def test_validation_stands_in_for_test(tmp_path, called):
    write(tmp_path, "train")
    write(tmp_path, "test", called=called)
    data = read(tmp_path)
    holds(data.test, "test")
    assert f"1 {called} shard(s) with 9 rows for test" in data.notes[0]


def test_validation_is_used_where_test_labels_are_withheld(tmp_path):
    write(tmp_path / "data", "train")
    write(tmp_path / "data", "test", called="validation")
    write(tmp_path / "data", "test", labels=np.full(9, -1))
    data = read(tmp_path)
    holds(data.test, "test")
    assert data.notes[0].endswith("validation shard(s) with 9 rows for test, labels from label; not used: test")
    (tmp_path / "data" / "validation-00000-of-00001.parquet").unlink()
    with pytest.raises(DataError, match=r"the test shards have no labels \(all are negative\)"):
        read(tmp_path)


def test_a_pictures_own_name_says_its_format(tmp_path):
    """A TIFF is tried only where the name says so."""
    content = io.BytesIO()
    Image.new("RGB", (8, 8), (255, 0, 0)).save(content, "TIFF")
    for split in ("train", "test"):
        shard(tmp_path / f"{split}-00000-of-00001.parquet", [content.getvalue()] * 4, {"label": np.arange(4) % 2},
              own_names=["a.tif"] * 4)  # fmt: skip
    assert read(tmp_path).train.images[:, 0].min() == 255


def only(split, **options):
    return lambda folder: write(folder, split, **options)


def without_pictures(folder):
    for split in ("train", "test"):
        kind = pa.struct([("path", pa.string())])
        shard(folder / f"{split}-00000-of-00001.parquet", PICTURES[split], {"label": LABELS[split]}, image_type=kind)


def paths_alone(folder):
    for split in ("train", "test"):
        count = len(PICTURES[split])
        shard(folder / f"{split}-00000-of-00001.parquet", [None] * count, {"label": LABELS[split]},
              own_names=[f"{i}.png" for i in range(count)])  # fmt: skip


def several_images(folder):
    for split in ("train", "test"):
        rows = [{"bytes": content, "path": None} for content in PICTURES[split]]
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        shard(folder / f"{split}-00000-of-00001.parquet", PICTURES[split],
              {"other": pa.array(rows, kind), "label": LABELS[split]}, image="left")  # fmt: skip


def both(**options):
    def make(folder):
        for split in ("train", "test"):
            write(folder, split, **{name: value[split] for name, value in options.items()})

    return make


REFUSED = {
    "nothing": (lambda folder: None, r"has no parquet shards of training images, neither in itself nor in data/"),
    "train alone": (only("train"), "has train shards, but none of test, validation, valid, val beside them"),
    "test alone": (only("test"), "has no parquet shards of training images"),
    "no pictures": (without_pictures, r"has no column of images, of .*; expected one, image or img: struct"),
    "paths alone": (paths_alone, r"row 0, 0\.png: there is no image; its bytes are to be in the file"),
    "several columns of images": (several_images, "several columns of images, left, other"),
    "no labels": (both(labels={s: LABELS[s] + 0.5 for s in LABELS}), r"no column of integer labels; its columns are"),
    "label too large": (both(labels={s: LABELS[s] + 1 for s in LABELS}), "in row 2 of all train shards label is 3"),
    "negative label": (both(labels={s: LABELS[s] - 1 for s in LABELS}, names=dict.fromkeys(LABELS)),
                       "in row 0 of all train shards label is -1; expected 0 to 1"),
    "one class": (both(labels={s: LABELS[s] * 0 for s in LABELS}, names=dict.fromkeys(LABELS)), "has 1 class"),
    "other names": (both(names={"train": NAMES, "test": {"label": ("x", "y", "z")}}), "the classes of label other"),
    "other column": (both(column={"train": "label", "test": "kind"}), "test-00000-of-00001.parquet has columns"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_missing_is_named(tmp_path, what):
    make, said = REFUSED[what]
    make(tmp_path)
    with pytest.raises(DataError, match=said):
        read(tmp_path)


def test_a_missing_and_a_damaged_shard_are_named(hub):
    path = hub / "train-00001-of-00003.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"train-00001-of-00003\.parquet cannot be read as parquet"):
        read(hub)
    path.unlink()
    with pytest.raises(DataError, match=r"train-00001-of-00003\.parquet is missing; 2 of 3 train shards are there"):
        read(hub)


def test_a_damaged_picture_is_named_by_shard_and_row(tmp_path):
    write(tmp_path, "test")
    pictures = [*PICTURES["train"][:12], b"not a picture", *PICTURES["train"][13:]]
    shard(tmp_path / "train-00000-of-00001.parquet", pictures, {"label": LABELS["train"]}, names=NAMES)
    with pytest.raises(DataError, match=r"train-00000-of-00001\.parquet, row 12 cannot be read as an image"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (
            500_000 + np.arange(23),
            r"label has no names of classes and goes up to 500,022, with 23 different values in 23",
        ),
        (np.arange(23) * 10**14, r"goes up to 2,200,000,000,000,000"),
        (np.arange(23) % 3 * 5, r"goes up to 10, with 3 different values .* or this one if that is meant"),
    ],
)
def test_numbers_that_are_no_labels_are_refused(tmp_path, labels, said):
    """The only column of integers may hold numbers of images: as many classes would fill the memory."""
    write(tmp_path, "train", labels=labels, names=None)
    write(tmp_path, "test", labels=labels[:9], names=None)
    with pytest.raises(DataError, match=said):
        read(tmp_path)
    if labels.max() < 23:
        assert len(read(tmp_path, label_column="label").classes) == 11
