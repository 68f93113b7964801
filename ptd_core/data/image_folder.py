"""Any folder of class folders of images, resized and cropped to squares.

Either FOLDER/train/CLASS/... and FOLDER/test/CLASS/... (or val instead of test, and other usual names: `folder_parts`),
or FOLDER/CLASS/... alone, where every fifth image of each class, by name, is a test image.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps

from ptd_core.data.dataset import Dataset, Split, balanced_subset, pixel_statistics
from ptd_core.data.folder_files import Unused, list_classes
from ptd_core.data.folder_parts import find_parts
from ptd_core.data.picture import as_shown, formats
from ptd_core.errors import DataError
from ptd_core.paths import readable

MAX_PIXELS = 64_000_000
TEST_EVERY = 5


def load_image_folder(folder: Path, *, image_size: int = 32, subset: int = 0, test_subset: int = 0) -> Dataset:
    """The images below `folder` as uint8 (n, 3, image_size, image_size), classes in the order of their names.

    Shorter side resized to image_size (bicubic, antialiased), centre crop, RGB. Hidden files and folders, and files
    that are no images, are passed over; the dataset's notes say how many. Images may lie at any depth below their
    class.
    Raises DataError, naming what is at fault, if there are fewer than two classes, a class without images, a test
    class that training does not have, or a file that cannot be read or has more than 64 megapixels.
    """
    if not folder.is_dir():
        raise DataError(f"{readable(folder)} is not a folder. Pass a folder of class folders of images as data_dir.")
    train, test, notes = _listed_splits(folder)
    classes = tuple(train)
    if len(classes) < 2:
        raise DataError(
            f"{readable(folder)} has {len(classes)} class folder(s){': ' if classes else ''}{', '.join(classes)}; "
            "telling classes apart needs at least two, as folder/CLASS/IMAGE or folder/train/CLASS/IMAGE."
        )
    train_split = _read_split(train, classes, image_size, subset, f"training images in {readable(folder)}")
    test_split = _read_split(test, classes, image_size, test_subset, f"test images in {readable(folder)}")
    mean, std = pixel_statistics(train_split.images)
    return Dataset("folder", train_split, test_split, classes, mean, std, notes)


def _listed_splits(folder: Path) -> tuple[dict[str, list[Path]], dict[str, list[Path]], tuple[str, ...]]:
    """({class: image files}, the same for the test set, notes), whichever of the two layouts `folder` has."""
    parts, unused = find_parts(folder), Unused()
    if parts is None:
        listed = list_classes(folder, [folder], unused)
        train, test = {}, {}
        for name, files in listed.items():
            if len(files) < TEST_EVERY:
                raise DataError(
                    f"{readable(folder / name)} has {len(files)} image(s); without a test folder every {TEST_EVERY}th "
                    f"image of a class becomes a test image, so each class needs at least {TEST_EVERY}."
                )
            test[name] = files[TEST_EVERY - 1 :: TEST_EVERY]
            train[name] = [file for i, file in enumerate(files) if i % TEST_EVERY != TEST_EVERY - 1]
        note = f"every {TEST_EVERY}th image of a class of {readable(folder)} is a test image"
    else:
        fence = [parts.train, parts.held_out]
        train, test = (list_classes(part, fence, unused) for part in fence)
        if not test:
            raise DataError(f"{readable(parts.held_out)} has no class folders.")
        if unknown := sorted(set(test) - set(train)):
            raise DataError(
                f"{readable(parts.held_out)} has classes that {readable(parts.train)} does not have: "
                f"{', '.join(unknown)}."
            )
        note = parts.note
    return train, test, (note, str(unused)) if unused else (note,)


def _read_split(
    listed: dict[str, list[Path]], classes: tuple[str, ...], image_size: int, subset: int, what: str
) -> Split:
    files = [file for name in classes for file in listed.get(name, [])]
    labels = np.repeat(np.arange(len(classes)), [len(listed.get(name, [])) for name in classes])
    chosen = balanced_subset(labels, subset, len(classes), what, classes)
    # One array for all, filled in place by threads: decoding a photograph releases Python's lock.
    images = np.empty((len(chosen), 3, image_size, image_size), dtype=np.uint8)

    def read(slot: int) -> None:
        images[slot] = read_image(files[chosen[slot]], image_size)

    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        for _ in pool.map(read, range(len(chosen))):
            pass
    finally:
        pool.shutdown(cancel_futures=True)  # after an error nothing more is read
    return Split(torch.from_numpy(images), torch.from_numpy(labels[chosen]))


def read_image(file: Path | BinaryIO, image_size: int, name: str = "") -> np.ndarray:
    """uint8 (3, image_size, image_size). The size in the header is judged before any pixel is decoded.

    name: what messages call an open file. Raises DataError as `load_image_folder` does.
    """
    path = name or readable(file)
    if isinstance(file, Path) and file.exists() and not file.is_file():  # reading a pipe would wait for ever
        raise DataError(f"{path} is not a file.")
    try:
        with Image.open(file, formats=formats(path)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(f"{path} is {image.width} x {image.height}; at most {MAX_PIXELS:,} pixels are read.")
            # A JPEG can be decoded at 1/2, 1/4 or 1/8 of its size; twice the final size is kept for the resizing.
            image.draft("RGB", (2 * image_size, 2 * image_size))
            square = ImageOps.fit(as_shown(image, path), (image_size, image_size), Image.Resampling.BICUBIC)
    except DataError:
        raise
    except Exception as error:  # decoders answer damage with errors of a dozen kinds
        raise DataError(f"{path} cannot be read as an image: {error}.") from error
    return np.asarray(square).transpose(2, 0, 1)
