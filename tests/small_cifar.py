"""A CIFAR-10 in miniature: its truth, and files like those of the hub and of torchvision that hold it."""

import functools
import hashlib
import io
import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torchvision
from PIL import Image

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


@functools.cache
def truth():
    """{split: (images (n, 32, 32, 3), labels)}."""
    rng = np.random.default_rng(0)
    return {
        split: (rng.integers(0, 256, (rows, 32, 32, 3), dtype=np.uint8), rng.permutation(np.arange(rows) % 10))
        for split, rows in ROWS.items()
    }


def write_shards(folder):
    """Two train shards and one test shard."""
    for split, parts in (("train", 2), ("test", 1)):
        images, labels = truth()[split]
        for i in range(parts):
            rows = slice(i * len(labels) // parts, (i + 1) * len(labels) // parts)
            path = folder / f"{split}-{i:05d}-of-{parts:05d}.parquet"
            write_shard(path, [png(image) for image in images[rows]], labels[rows])


def write_torchvision_folder(root, monkeypatch):
    """A miniature cifar-10-batches-py, whose checksums torchvision is told to expect."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    source = torchvision.datasets.CIFAR10
    contents = {"batches.meta": {"label_names": NAMES}}
    batches = (("b1", "train", slice(0, 20)), ("b2", "train", slice(20, 40)), ("t", "test", slice(0, 20)))
    for name, split, rows in batches:
        images, labels = truth()[split]
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


def assert_equals(split, images, labels):
    assert np.array_equal(split.images.numpy(), images.transpose(0, 3, 1, 2))
    assert np.array_equal(split.labels.numpy(), labels)
