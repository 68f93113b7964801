"""Any image dataset of the Hugging Face hub, as its parquet shards: train beside test or validation.

The column of images is the one with encoded pictures; the column of labels holds integers. Class names are the hub's,
or the numbers themselves. Pictures of any kind and size are decoded, resized and cropped like those of a folder.
"""

import io
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from ptd_core.data.dataset import balanced_subset
from ptd_core.data.image_folder import read_image
from ptd_core.data.listing import Listing, mark
from ptd_core.data.parquet_shards import (
    Encoded,
    column_types,
    encoded_images,
    features,
    find_shards,
    has_split,
    holds_pictures,
    opened,
    read_labels,
    shard_paths,
)
from ptd_core.errors import DataError
from ptd_core.paths import readable

TRAIN, HELD_OUT = "train", ("test", "validation", "valid", "val")


@dataclass(frozen=True)
class _Columns:
    """The columns of a set of shards. names: of the classes, None if the shards do not name them."""

    image: str
    label: str
    names: tuple[str, ...] | None


def list_parquet(
    folder: Path, *, image_size: int = 32, subset: int = 0, test_subset: int = 0, label_column: str = ""
) -> Listing:
    """The images of the shards in `folder` or `folder`/data, to be read as uint8 (n, 3, image_size, image_size).

    label_column: the column of labels; empty: the only one of integers, or the only one with class names. Test shards
    are used, or validation shards where there are none, or where the test labels are withheld (all negative).
    Raises DataError, naming file and row, for what is missing, damaged or not clear; decoding raises it for pictures.
    """
    place = find_shards([folder, folder / "data"], (TRAIN,))
    if place is None:
        raise DataError(
            f"{readable(folder)} has no parquet shards of training images, neither in itself nor in data/; expected "
            "train-00000-of-00001.parquet or the like. Pass the folder that holds them as data_dir."
        )
    held_out = [split for split in HELD_OUT if has_split(place, split)]
    if not held_out:
        raise DataError(
            f"{readable(place)} has train shards, but none of {', '.join(HELD_OUT)} beside them. Fetch those as well."
        )
    paths = {TRAIN: shard_paths(place, TRAIN)}
    columns = _columns(paths[TRAIN][0], label_column)
    labels = {TRAIN: _labels(paths[TRAIN], columns)}
    for split in held_out:
        paths[split] = shard_paths(place, split)
        labels[split] = _labels(paths[split], columns)
        if len(labels[split]) and (labels[split] >= 0).any():
            break
    else:
        raise DataError(f"{readable(place)}: the {' and '.join(held_out)} shards have no labels (all are negative).")
    names = columns.names or _numbered(place, labels[TRAIN], columns.label, chosen=bool(label_column))
    if len(names) < 2:
        raise DataError(f"{readable(place)}: {columns.label} has {len(names)} class(es); telling them apart needs two.")
    chosen = {}
    for part, size in ((TRAIN, subset), (split, test_subset)):
        _check(place, part, labels[part], columns.label, len(names))
        what = f"{part} images in {readable(place)}"
        chosen[part] = balanced_subset(labels[part], size, len(names), what, names)
    # Where names do not say how many shards there should be, whoever fetched them may miss rows.
    used = [f"{len(paths[part])} {part} shard(s) with {len(labels[part]):,} rows" for part in (TRAIN, split)]
    note = f"{readable(place)}: {used[0]} for training, {used[1]} for test, labels from {columns.label}"
    unused = [other for other in held_out if other != split]
    return Listing(
        name="parquet",
        place=folder,
        image_size=image_size,
        classes=names,
        train=labels[TRAIN][chosen[TRAIN]],
        test=labels[split][chosen[split]],
        encoded=partial(_encoded, [(paths[part], chosen[part]) for part in (TRAIN, split)], columns.image),
        decode=partial(_decode, image_size),
        files=lambda: (mark(path, place) for part in (TRAIN, split) for path in paths[part]),
        settings={"subset": subset, "test_subset": test_subset, "label_column": columns.label},
        notes=(note + (f"; not used: {', '.join(unused)}" if unused else ""),),
    )


def _numbered(place: Path, labels: np.ndarray, column: str, chosen: bool) -> tuple[str, ...]:
    """Names of classes for labels without any: their numbers.

    chosen: whether the user said that the column holds labels. Raises DataError for a column that looks like another
    thing, such as numbers of images.
    """
    count, there = int(labels.max(initial=-1)) + 1, len(np.unique(labels[labels >= 0]))
    if count > len(labels) or (there < count and not chosen):
        raise DataError(
            f"{readable(place)}: {column} has no names of classes and goes up to {count - 1:,}, with {there:,} "
            f"different values in {len(labels):,} training images; labels are 0, 1, 2 and so on. "
            "Choose another label_column" + (", or this one if that is meant." if count <= len(labels) else ".")
        )
    return tuple(map(str, range(count)))


def _columns(path: Path, label_column: str) -> _Columns:
    """Which columns hold images and labels, by the first shard."""
    with opened(path) as file:
        types, about = column_types(file), features(path, file)
    listed = ", ".join(f"{name}: {kind}" for name, kind in types.items())
    images = [name for name, kind in types.items() if holds_pictures(kind)]
    images = [name for name in images if name in ("image", "img")] or images
    if len(images) != 1:
        which = f"several columns of images, {', '.join(images)}" if images else "no column of images"
        raise DataError(
            f"{path} has {which}, of {listed}; expected one, image or img: struct<bytes: binary, path: string>."
        )
    labels = [name for name, kind in types.items() if pa.types.is_integer(kind)]
    named = [name for name in labels if about.get(name, {}).get("names")]
    if label_column:
        if label_column not in labels:
            raise DataError(f"{path} has no column {label_column} of integers; its columns are {listed}.")
        label = label_column
    else:
        candidates = named if named else labels
        if not candidates:
            raise DataError(f"{path} has no column of integer labels; its columns are {listed}.")
        if len(candidates) > 1:
            raise DataError(
                f"{path} has several columns of labels: {', '.join(candidates)}. Choose one of them as label_column."
            )
        label = candidates[0]
    names = about.get(label, {}).get("names")
    return _Columns(images[0], label, tuple(map(str, names)) if names else None)


def _labels(paths: list[Path], columns: _Columns) -> np.ndarray:
    """int64 (n,), of all rows of these shards, whose columns must be those of the first."""
    parts = []
    for path in paths:
        with opened(path) as file:
            types, about = column_types(file), features(path, file)
            kind = types.get(columns.label)
            if not holds_pictures(types.get(columns.image)) or kind is None or not pa.types.is_integer(kind):
                raise DataError(
                    f"{path} has columns {', '.join(f'{name}: {kind}' for name, kind in types.items())}; other shards "
                    f"have images in {columns.image} and integers in {columns.label}."
                )
            names = about.get(columns.label, {}).get("names")
            if (tuple(map(str, names)) if names else None) != columns.names:
                raise DataError(f"{path} names the classes of {columns.label} otherwise than the first train shard.")
            parts.append(read_labels(path, file, columns.label))
    return np.concatenate(parts)


def _check(folder: Path, split: str, labels: np.ndarray, column: str, classes: int) -> None:
    """Raises DataError if there are no rows, or a label that is no class."""
    if not len(labels):
        raise DataError(f"{readable(folder)}: the {split} shards have no rows.")
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise DataError(
            f"{readable(folder)}: in row {wrong[0]} of all {split} shards {column} is {labels[wrong[0]]}; expected 0 "
            f"to {classes - 1}."
        )


def _encoded(parts: list[tuple[list[Path], np.ndarray]], column: str, first: int):
    for paths, chosen in parts:
        yield from encoded_images(paths, column, chosen[first:])
        first = max(0, first - len(chosen))


def _decode(image_size: int, image: Encoded) -> np.ndarray:
    """uint8 (3, S, S). The picture's own name, if it has one, may say which format it has."""
    name = f"{readable(image.shard)}, row {image.row}" + (f", {readable(image.name)}" if image.name else "")
    if not image.content:
        raise DataError(f"{name}: there is no image; its bytes are to be in the file, not only its path.")
    return read_image(io.BytesIO(image.content), image_size, name)
