"""CIFAR as the Hugging Face hub stores it: parquet shards of PNG bytes and labels.

Files are named SPLIT-XXXXX-of-YYYYY.parquet, in older repositories with -HASH before the dot, or SPLIT/XXXX.parquet
where the hub made them itself, with columns `img` {bytes: PNG, path} and a label, and class names as
JSON in the schema. Nothing is trusted: every shard must be there, every label in range and every image a
32 x 32 RGB PNG, or the file at fault is named in a DataError.
"""

import io
import json
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from ptd_core.data.dataset import Split, balanced_subset
from ptd_core.errors import DataError

SIZE = 32
SHARD_NAME = re.compile(r"(train|test)-(\d{5})-of-(\d{5})(?:-[0-9a-f]+)?\.parquet")
NUMBERED = re.compile(r"\d{4}\.parquet")  # in a folder of the split's name
PNG_START = struct.Struct(">8sI4sIIBB")  # signature, length and type of the first chunk, width, height, depth, colour


def find_shards(folders: list[Path]) -> Path | None:
    """The first of `folders` that holds a file named like a shard of either split, or None."""
    for folder in folders:
        if folder.is_dir() and any(SHARD_NAME.fullmatch(path.name) for path in folder.iterdir()):
            return folder
        if _numbered(folder, "train") or _numbered(folder, "test"):
            return folder
    return None


def read_split(folder: Path, split: str, label_column: str, classes: int, rows: int, subset: int = 0) -> Split:
    """All images of a split, or a class-balanced `subset` of them, decoded once. Images are uint8 (n, 3, 32, 32).

    Labels are read first, so that only the chosen images are decoded.
    Raises DataError, naming the file, if a shard is missing or damaged, if the split has not `rows` rows, or if a
    label or an image is not what it should be.
    """
    paths = _shard_paths(folder, split)
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
    for slot, (path, row, png) in enumerate(_png_bytes(paths, chosen)):
        images[slot] = _decode(path, row, png)
    return Split(torch.from_numpy(images), torch.from_numpy(labels[chosen]))


def read_class_names(folder: Path, label_column: str, classes: int) -> tuple[str, ...]:
    """The class names in the shards' schema metadata, or their numbers as text where a shard has no names.

    Raises DataError if there are not `classes` of them, or if two shards disagree about what a label means.
    """
    found: dict[tuple[str, ...], Path] = {}
    for path in [*_shard_paths(folder, "train"), *_shard_paths(folder, "test")]:
        with _opened(path) as file:
            metadata = (file.schema_arrow.metadata or {}).get(b"huggingface")
        try:
            names = json.loads(metadata)["info"]["features"][label_column]["names"] if metadata else range(classes)
            names = tuple(str(name) for name in names)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(f"{path}: no class names for {label_column} can be read in its metadata.") from error
        if len(names) != classes:
            raise DataError(f"{path} names {len(names)} classes in its metadata, expected {classes}.")
        found.setdefault(names, path)
    if len(found) > 1:
        raise DataError(f"{' and '.join(map(str, found.values()))} disagree about the names of the classes.")
    return next(iter(found))


def _shard_paths(folder: Path, split: str) -> list[Path]:
    """The shards of a split in order. Raises DataError, naming what is missing, unless the set is complete."""
    names = sorted(path.name for path in folder.iterdir())
    matches = [match for match in map(SHARD_NAME.fullmatch, names) if match and match[1] == split]
    if not matches:
        if numbered := _numbered(folder, split):
            return _complete_numbered(numbered)
        raise DataError(f"{folder} holds no {split} shard; expected {split}-00000-of-00001.parquet or the like.")
    totals = sorted({match[3] for match in matches})
    if len(totals) > 1:
        raise DataError(f"{folder} mixes {split} shards of several sets: of-{', of-'.join(totals)}. Keep one set.")
    total, present = int(totals[0]), {}
    for match in matches:
        if match[2] in present:
            raise DataError(f"{folder} holds {present[match[2]]} and {match[0]}, one shard twice. Keep one of them.")
        present[match[2]] = match[0]
    missing = next((number for number in range(total) if f"{number:05d}" not in present), None)
    if missing is not None:
        name = f"{split}-{missing:05d}-of-{totals[0]}.parquet"
        raise DataError(f"{folder / name} is missing; {len(present)} of {total} {split} shards are there.")
    if len(present) > total:
        raise DataError(f"{folder / present[max(present)]} is numbered beyond the {total} {split} shards there are.")
    return [folder / present[number] for number in sorted(present)]


def _numbered(folder: Path, split: str) -> list[Path]:
    """The files SPLIT/XXXX.parquet of a folder in order."""
    inside = folder / split
    return sorted(path for path in inside.iterdir() if NUMBERED.fullmatch(path.name)) if inside.is_dir() else []


def _complete_numbered(paths: list[Path]) -> list[Path]:
    """These files, if no number is left out; how many there should be, only the count of rows tells."""
    for number, path in enumerate(paths):
        if int(path.stem) != number:
            raise DataError(f"{path.with_name(f'{number:04d}.parquet')} is missing; {path.name} is there.")
    return paths


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    """The open file; whatever goes wrong while it is read becomes a DataError that names it."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            yield file
    except DataError:
        raise
    except Exception as error:  # pyarrow answers damage with errors of a dozen kinds
        raise DataError(f"{path} cannot be read as parquet: {error}. Fetch it again.") from error


def _read_labels(path: Path, label_column: str, classes: int, most: int) -> np.ndarray:
    """int64 (rows,), each checked to be in [0, classes). Checks the columns of the file on the way.

    A file that says it has more than `most` rows is refused before they are read: runs of equal labels pack well.
    """
    with _opened(path) as file:
        if file.metadata.num_rows > most:
            raise DataError(f"{path} holds {file.metadata.num_rows} rows, expected at most {most}.")
        types = dict(zip(file.schema_arrow.names, file.schema_arrow.types, strict=True))
        image_type, label_type = types.get("img"), types.get(label_column)
        has_bytes = (
            image_type is not None
            and pa.types.is_struct(image_type)
            and (image_type.get_field_index("bytes") >= 0 and pa.types.is_binary(image_type.field("bytes").type))
        )
        if not has_bytes or label_type is None or not pa.types.is_integer(label_type):
            raise DataError(
                f"{path} has columns {', '.join(f'{name}: {kind}' for name, kind in types.items())}; "
                f"expected img: struct<bytes: binary, path: string> and {label_column}: an integer."
            )
        column = file.read(columns=[label_column]).column(label_column)
    if column.null_count:
        raise DataError(f"{path}: {column.null_count} rows have no {label_column}.")
    labels = column.to_numpy().astype(np.int64)
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise DataError(f"{path}, row {wrong[0]}: {label_column} is {labels[wrong[0]]}; expected 0 to {classes - 1}.")
    return labels


def _png_bytes(paths: list[Path], chosen: np.ndarray) -> Iterator[tuple[Path, int, bytes | None]]:
    """(file, row in that file, PNG) for each chosen row, counted over all shards; one row group is held at a time."""
    start = 0
    for path in paths:
        first_of_file = start
        with _opened(path) as file:
            for group in range(file.num_row_groups):
                stop = start + file.metadata.row_group(group).num_rows
                here = chosen[(chosen >= start) & (chosen < stop)]
                if len(here):
                    pngs = file.read_row_group(group, columns=["img.bytes"]).column("img").combine_chunks()
                    pngs = pngs.field("bytes")
                    for row in here:
                        yield path, int(row - first_of_file), pngs[int(row - start)].as_py()
                start = stop


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
