"""Parquet shards as the Hugging Face hub stores image datasets: which files there are, and what their columns hold.

Files are named SPLIT-XXXXX-of-YYYYY.parquet, in older repositories with -HASH before the dot, or SPLIT/XXXX.parquet
where the hub made them itself. Images are a struct of bytes (an encoded picture) and path; labels are integers, and
the names of their classes are JSON in the schema. Nothing is trusted: what is wrong is a DataError that names the file.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ptd_core.errors import DataError

_NUMBERED = re.compile(r"\d{4}\.parquet")  # in a folder of the split's name


class Encoded(NamedTuple):
    """An image as it is stored: in which file and row, its bytes if there are any, and its own name if it has one."""

    shard: Path
    row: int
    content: bytes | None
    name: str = ""


def has_split(folder: Path, split: str) -> bool:
    """Whether a folder holds a file named like a shard of a split."""
    return bool(folder.is_dir() and (_matches(folder, split) or _numbered(folder, split)))


def find_shards(folders: list[Path], splits: tuple[str, ...]) -> Path | None:
    """The first of `folders` that holds a file named like a shard of any of these splits, or None."""
    return next((folder for folder in folders if any(has_split(folder, split) for split in splits)), None)


def shard_paths(folder: Path, split: str) -> list[Path]:
    """The shards of a split in order. Raises DataError, naming what is missing, unless the set is complete."""
    matches = _matches(folder, split)
    if not matches:
        if numbered := _numbered(folder, split):
            return _complete_numbered(numbered)
        raise DataError(f"{folder} holds no {split} shard; expected {split}-00000-of-00001.parquet or the like.")
    totals = sorted({match[2] for match in matches})
    if len(totals) > 1:
        raise DataError(f"{folder} mixes {split} shards of several sets: of-{', of-'.join(totals)}. Keep one set.")
    total, present = int(totals[0]), {}
    for match in matches:
        if match[1] in present:
            raise DataError(f"{folder} holds {present[match[1]]} and {match[0]}, one shard twice. Keep one of them.")
        present[match[1]] = match[0]
    missing = next((number for number in range(total) if f"{number:05d}" not in present), None)
    if missing is not None:
        name = f"{split}-{missing:05d}-of-{totals[0]}.parquet"
        raise DataError(f"{folder / name} is missing; {len(present)} of {total} {split} shards are there.")
    if len(present) > total:
        raise DataError(f"{folder / present[max(present)]} is numbered beyond the {total} {split} shards there are.")
    return [folder / present[number] for number in sorted(present)]


def _matches(folder: Path, split: str) -> list[re.Match]:
    name = re.compile(rf"{split}-(\d{{5}})-of-(\d{{5}})(?:-[0-9a-f]+)?\.parquet")
    return [match for match in map(name.fullmatch, sorted(path.name for path in folder.iterdir())) if match]


def _numbered(folder: Path, split: str) -> list[Path]:
    """The files SPLIT/XXXX.parquet of a folder in order."""
    inside = folder / split
    return sorted(path for path in inside.iterdir() if _NUMBERED.fullmatch(path.name)) if inside.is_dir() else []


def _complete_numbered(paths: list[Path]) -> list[Path]:
    """These files, if no number is left out; how many there should be, only the count of rows tells."""
    for number, path in enumerate(paths):
        if int(path.stem) != number:
            raise DataError(f"{path.with_name(f'{number:04d}.parquet')} is missing; {path.name} is there.")
    return paths


@contextmanager
def opened(path: Path) -> Iterator[pq.ParquetFile]:
    """The open file; whatever goes wrong while it is read becomes a DataError that names it."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            yield file
    except DataError:
        raise
    except Exception as error:  # pyarrow answers damage with errors of a dozen kinds
        raise DataError(f"{path} cannot be read as parquet: {error}. Fetch it again.") from error


def column_types(file: pq.ParquetFile) -> dict[str, pa.DataType]:
    """{column: its type} of an open file."""
    return dict(zip(file.schema_arrow.names, file.schema_arrow.types, strict=True))


def holds_pictures(kind: pa.DataType | None) -> bool:
    """Whether a column of this type is a struct with encoded pictures."""
    if kind is None or not pa.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
        return False
    inner = kind.field("bytes").type
    return pa.types.is_binary(inner) or pa.types.is_large_binary(inner)


def features(path: Path, file: pq.ParquetFile) -> dict:
    """What the hub's metadata in the schema says of each column; {} if there is none. Raises DataError for a riddle."""
    metadata = (file.schema_arrow.metadata or {}).get(b"huggingface")
    if not metadata:
        return {}
    try:
        found = json.loads(metadata)["info"]["features"]
        return {name: dict(about) for name, about in found.items() if isinstance(about, dict)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path}: its metadata cannot be read.") from error


def read_labels(path: Path, file: pq.ParquetFile, column: str) -> np.ndarray:
    """int64 (rows,), the labels of an open file. Raises DataError for rows without."""
    labels = file.read(columns=[column]).column(column)
    if labels.null_count:
        raise DataError(f"{path}: {labels.null_count} rows have no {column}.")
    return labels.to_numpy().astype(np.int64)


def encoded_images(paths: list[Path], column: str, chosen: np.ndarray) -> Iterator[Encoded]:
    """The images of the chosen rows, ascending, counted over all shards; one row group is held at a time."""
    start = 0
    for path in paths:
        first_of_file = start
        with opened(path) as file:
            named = column_types(file)[column].get_field_index("path") >= 0
            for group in range(file.num_row_groups):
                stop = start + file.metadata.row_group(group).num_rows
                here = chosen[np.searchsorted(chosen, start) : np.searchsorted(chosen, stop)]
                if len(here):
                    pictures = file.read_row_group(group, columns=[column]).column(column).combine_chunks()
                    contents = pictures.field("bytes")
                    names = pictures.field("path") if named else None
                    for row in here:
                        at = int(row - start)
                        name = names[at].as_py() if named else None
                        yield Encoded(path, int(row - first_of_file), contents[at].as_py(), name or "")
                start = stop
