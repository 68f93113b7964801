"""CIFAR as the Hugging Face hub stores it: parquet shards of PNG bytes and labels.

Columns are `img` {bytes: PNG, path} and a label, with class names as JSON in the schema. Nothing is trusted: every
shard must be there, every label in range and every image a 32 x 32 RGB PNG, or the file at fault is named in a
DataError.
"""

import io
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from ptd_core.data.dataset import Split, balanced_subset
from ptd_core.data.parquet_shards import column_types, encoded_images, features, holds_pictures, opened, shard_paths
from ptd_core.data.parquet_shards import read_labels as read_column
from ptd_core.errors import DataError

SIZE = 32
SPLITS = ("train", "test")
PNG_START = struct.Struct(">8sI4sIIBB")  # signature, length and type of the first chunk, width, height, depth, colour


def read_split(folder: Path, split: str, label_column: str, classes: int, rows: int, subset: int = 0) -> Split:
    """All images of a split, or a class-balanced `subset` of them, decoded once. Images are uint8 (n, 3, 32, 32).

    Labels are read first, so that only the chosen images are decoded.
    Raises DataError, naming the file, if a shard is missing or damaged, if the split has not `rows` rows, or if a
    label or an image is not what it should be.
    """
    paths = shard_paths(folder, split)
    per_shard = [_read_labels(path, label_column, classes, rows) for path in paths]
    labels = np.concatenate(per_shard)
    if len(labels) != rows:
        listed = ", ".join(f"{path.name}: {len(part)}" for path, part in zip(paths, per_shard, strict=True))
        raise DataError(f"The {split} shards in {folder} hold {len(labels)} rows, expected {rows} ({listed}).")
    names = read_class_names(folder, label_column, classes) if subset else ()
    chosen = balanced_subset(labels, subset, classes, f"{split} images in {folder}", names)

    images = np.empty((len(chosen), 3, SIZE, SIZE), dtype=np.uint8)
    # One plain loop: PNGs this small spend less time decoding than threads spend passing Python's lock around.
    # And PIL: torchvision's decoder takes a third less time, but a PNG with a wrong checksum ends the whole process.
    for slot, (path, row, png, _) in enumerate(encoded_images(paths, "img", chosen)):
        images[slot] = _decode(path, row, png)
    return Split(torch.from_numpy(images), torch.from_numpy(labels[chosen]))


def read_class_names(folder: Path, label_column: str, classes: int) -> tuple[str, ...]:
    """The class names in the shards' schema metadata, or their numbers as text where a shard has no names.

    Raises DataError if there are not `classes` of them, or if two shards disagree about what a label means.
    """
    found: dict[tuple[str, ...], Path] = {}
    for path in [path for split in SPLITS for path in shard_paths(folder, split)]:
        try:
            with opened(path) as file:
                about = features(path, file)
            names = tuple(str(name) for name in (about[label_column]["names"] if about else range(classes)))
        except (KeyError, TypeError) as error:
            raise DataError(f"{path}: no class names for {label_column} can be read in its metadata.") from error
        if len(names) != classes:
            raise DataError(f"{path} names {len(names)} classes in its metadata, expected {classes}.")
        found.setdefault(names, path)
    if len(found) > 1:
        raise DataError(f"{' and '.join(map(str, found.values()))} disagree about the names of the classes.")
    return next(iter(found))


def _read_labels(path: Path, label_column: str, classes: int, most: int) -> np.ndarray:
    """int64 (rows,), each checked to be in [0, classes). Checks the columns of the file on the way.

    A file that says it has more than `most` rows is refused before they are read: runs of equal labels pack well.
    """
    with opened(path) as file:
        if file.metadata.num_rows > most:
            raise DataError(f"{path} holds {file.metadata.num_rows} rows, expected at most {most}.")
        types = column_types(file)
        label_type = types.get(label_column)
        if not holds_pictures(types.get("img")) or label_type is None or not pa.types.is_integer(label_type):
            raise DataError(
                f"{path} has columns {', '.join(f'{name}: {kind}' for name, kind in types.items())}; "
                f"expected img: struct<bytes: binary, path: string> and {label_column}: an integer."
            )
        labels = read_column(path, file, label_column)
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise DataError(f"{path}, row {wrong[0]}: {label_column} is {labels[wrong[0]]}; expected 0 to {classes - 1}.")
    return labels


def _decode(path: Path, row: int, png: bytes | None) -> np.ndarray:
    """uint8 (3, 32, 32). The header is checked first, so that no image of another size is ever decoded.

    PIL alone would decode 16 bits a channel too, without a word, and would not name the size that it refuses.
    """
    if png is None or len(png) < PNG_START.size:
        raise DataError(f"{path}, row {row}: there is no image.")
    signature, _, chunk, width, height, depth, colour = PNG_START.unpack_from(png)
    if signature != b"\x89PNG\r\n\x1a\n" or chunk != b"IHDR":
        raise DataError(f"{path}, row {row}: the image is not a PNG.")
    if (width, height, depth, colour) != (SIZE, SIZE, 8, 2):
        raise DataError(
            f"{path}, row {row}: the PNG is {width} x {height}, {depth} bits, colour type {colour}; "
            f"expected {SIZE} x {SIZE}, 8 bits, colour type 2 (RGB)."
        )
    try:
        with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
            if image.size != (SIZE, SIZE):
                raise ValueError("a second header, of another size")
            image.verify()  # the checksums that decoding skips, and an end; it uses the image up
        with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
            return np.asarray(image).transpose(2, 0, 1)
    except Exception as error:  # damage has errors of a dozen kinds, and PIL's words name an object in memory
        raise DataError(f"{path}, row {row}: the PNG is damaged (cut short, or a wrong checksum).") from error
