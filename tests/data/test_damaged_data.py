"""Data files that something has happened to: read as they were, or refused with one sentence that names the file."""

import io
import json
import os
import random
import warnings

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from small_cifar import png, write_shard

from ptd_core import __main__ as command_line
from ptd_core.data import cifar
from ptd_core.data.load import load
from ptd_core.errors import DataError

FORMATS = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp", "BMP": "bmp"}


def mutated(content, rng):
    """Truncated, zeroed in part, with bits flipped, bytes replaced, or pieces moved."""
    content = bytearray(content)
    place = rng.randrange(len(content))
    length = rng.choice([1, 1, 2, 4, 16, 100])
    match rng.randrange(6):
        case 0:
            return bytes(content[:place])
        case 1:
            content[place : place + length] = bytes(len(content[place : place + length]))
        case 2:
            content[place] ^= 1 << rng.randrange(8)
        case 3:
            content[place : place + length] = rng.randbytes(length)
        case 4:
            del content[place : place + length]
        case 5:  # headers and footers are short and say most
            at = rng.choice([rng.randrange(min(64, len(content))), -1 - rng.randrange(min(400, len(content)))])
            content[at] = rng.randrange(256)
    return bytes(content)


@pytest.fixture
def folder(tmp_path):
    """Two classes of one training and one test image each."""
    for split in ("train", "test"):
        for name in ("ant", "bee"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / split / name / "0.png")
    return tmp_path


@pytest.mark.parametrize("kind", FORMATS)
def test_changed_image_is_read_or_named(folder, kind):
    pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)
    content = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(pixels).save(content, kind, **({} if kind == "BMP" else {"exif": exif}))
    path = folder / "train" / "bee" / f"0.{FORMATS[kind]}"
    (folder / "train" / "bee" / "0.png").unlink()
    rng, refused = random.Random(0), 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PIL warns of what it reads all the same
        for _ in range(300):
            path.write_bytes(mutated(content.getvalue(), rng))
            try:
                assert load("folder", folder, image_size=8).train.images.shape == (2, 3, 8, 8)
            except DataError as error:
                refused += 1
                assert str(path) in str(error)
    assert refused > 20


@pytest.mark.parametrize("kind", ["a pipe", "a folder", "an empty file", "a program", "a picture of another format"])
def test_what_is_no_image_is_named(folder, kind):
    path = folder / "train" / "bee" / "1.png"
    match kind:
        case "a pipe":
            os.mkfifo(path)
        case "a folder":  # is looked into, not read
            path.mkdir()
            (path / "2.png").write_bytes(b"")
        case "an empty file":
            path.write_bytes(b"")
        case "a program":
            path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
        case _:
            Image.new("RGB", (8, 8)).save(path, "GIF")
    with pytest.raises(DataError, match=r"train/bee/1\.png"):
        load("folder", folder, image_size=8)


def test_enormous_images_are_refused_by_their_headers(folder):
    """Beyond this project's limit, and beyond PIL's own, with and without its warning."""
    path = folder / "train" / "bee" / "1.png"
    whole = png(np.zeros((8, 8, 3), dtype=np.uint8))
    for side in (8001, 12_000, 60_000):
        path.write_bytes(whole[:16] + side.to_bytes(4, "big") * 2 + whole[24:])
        with warnings.catch_warnings(), pytest.raises(DataError, match=r"train/bee/1\.png"):
            warnings.simplefilter("ignore")
            load("folder", folder, image_size=8)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """One train and one test shard of twenty images; nothing may be downloaded."""
    monkeypatch.setattr(cifar, "ROWS", {"train": 20, "test": 20})
    monkeypatch.setattr(cifar, "_download", lambda *_: pytest.fail("tried to download"))
    images = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    for split in ("train", "test"):
        write_shard(tmp_path / f"{split}-00000-of-00001.parquet", [png(image) for image in images], np.arange(20) % 10)
    return tmp_path


def test_changed_shard_is_read_or_named(hub):
    path = hub / "train-00000-of-00001.parquet"
    content, rng, refused = path.read_bytes(), random.Random(0), 0
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    for turn in range(400):
        if turn % 2:  # half of them in the footer, which says where everything is
            path.write_bytes(content[:footer] + mutated(content[footer:-8], rng) + content[-8:])
        else:
            path.write_bytes(mutated(content, rng))
        try:
            assert load("cifar10", hub).train.images.shape == (20, 3, 32, 32)
        except DataError as error:
            refused += 1
            assert str(path) in str(error) or (str(hub) in str(error) and "rows" in str(error))
    assert refused > 100


@pytest.mark.parametrize("damage", ["column twice", "deep metadata", "wide type", "text labels", "no column"])
def test_shard_of_another_shape_is_named(hub, damage):
    path = hub / "train-00000-of-00001.parquet"
    table = pq.read_table(path)
    match damage:
        case "column twice":
            table = pa.Table.from_arrays([*table.columns, table["label"]], names=["img", "label", "label"])
        case "deep metadata":
            table = table.replace_schema_metadata({"huggingface": "[" * 100_000})
        case "wide type":
            table = table.set_column(1, "label", pa.array([2**64 - 1] * 20, pa.uint64()))
        case "text labels":
            table = table.set_column(1, "label", pa.array(["cat"] * 20))
        case "no column":
            table = table.drop_columns(["img"])
    pq.write_table(table, path)
    with pytest.raises(DataError, match=r"train-00000-of-00001\.parquet"):
        load("cifar10", hub)


def test_shard_with_far_too_many_rows_is_refused_before_they_are_read(hub):
    """Two million equal labels take 16 kB in the file."""
    path = hub / "train-00000-of-00001.parquet"
    rows = 2_000_000
    image = pa.StructArray.from_arrays([pa.nulls(rows, pa.binary()), pa.nulls(rows, pa.string())], ["bytes", "path"])
    pq.write_table(pa.table({"img": image, "label": pa.array(np.zeros(rows, dtype=np.int64))}), path)
    assert path.stat().st_size < 50_000
    with pytest.raises(DataError, match=r"train-00000-of-00001\.parquet holds 2000000 rows, expected at most 20"):
        load("cifar10", hub)


@pytest.mark.parametrize("data_dir", ["x" * 300, "~nobody-of-this-name/x"])
def test_data_dir_that_cannot_be_a_folder_is_named(data_dir):
    with pytest.raises(DataError, match="data_dir = "):
        load("folder", data_dir)


def test_file_that_may_not_be_opened_is_named(hub, monkeypatch):
    """As for another user; root may read everything."""

    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr("pathlib.Path.iterdir", refuse)
    with pytest.raises(DataError, match=r"cannot be read \(Permission denied\)"):
        load("cifar10", hub)


def test_command_line_names_the_file_in_one_sentence(hub, tmp_path, capsys):
    path = hub / "test-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    parameters = tmp_path / "p.yaml"
    parameters.write_text(
        json.dumps(
            {"dataset": "cifar10", "data_dir": str(hub), "subset": 0, "run": "x", "out_dir": str(tmp_path / "o")}
        )
    )
    assert command_line.main([str(parameters)]) == 2
    out, err = capsys.readouterr()
    assert (
        out == "" and err.startswith(f"DataError: {path} cannot be read as parquet") and not (tmp_path / "o").exists()
    )
