"""Any folder of class folders of images, resized and cropped to squares.

Either FOLDER/train/CLASS/... and FOLDER/test/CLASS/... (or val instead of test), or FOLDER/CLASS/... alone, where
every fifth image of each class, by name, is a test image.
"""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps

from ptd_core.data.dataset import Dataset, Split, balanced_subset, pixel_statistics
from ptd_core.errors import DataError
from ptd_core.paths import readable

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")  # by content; PIL knows formats that start other programs
MAX_PIXELS = 64_000_000
TEST_EVERY = 5


def load_image_folder(folder: Path, *, image_size: int = 32, subset: int = 0, test_subset: int = 0) -> Dataset:
    """The images below `folder` as uint8 (n, 3, image_size, image_size), classes in the order of their names.

    Shorter side resized to image_size (bicubic, antialiased), centre crop, RGB. Hidden files and folders, and files
    that are not png, jpg, jpeg, webp or bmp, are passed over; images may lie at any depth below their class.
    Raises DataError, naming what is at fault, if there are fewer than two classes, a class without images, a test
    class that training does not have, or a file that cannot be read or has more than 64 megapixels.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder. Pass a folder of class folders of images as data_dir.")
    train, test = _listed_splits(folder)
    classes = tuple(train)
    if len(classes) < 2:
        raise DataError(
            f"{folder} has {len(classes)} class folder(s){': ' if classes else ''}{', '.join(classes)}; "
            "telling classes apart needs at least two, as folder/CLASS/IMAGE or folder/train/CLASS/IMAGE."
        )
    train_split = _read_split(train, classes, image_size, subset, f"training images in {folder}")
    test_split = _read_split(test, classes, image_size, test_subset, f"test images in {folder}")
    mean, std = pixel_statistics(train_split.images)
    return Dataset("folder", train_split, test_split, tuple(map(readable, classes)), mean, std)


def _listed_splits(folder: Path) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """({class: image files}, the same for the test set), whichever of the two layouts `folder` has."""
    if not (folder / "train").is_dir():
        train, test = {}, {}
        for name, files in _list_classes(folder).items():
            if len(files) < TEST_EVERY:
                raise DataError(
                    f"{folder / name} has {len(files)} image(s); without a test folder every {TEST_EVERY}th image of "
                    f"a class becomes a test image, so each class needs at least {TEST_EVERY}."
                )
            test[name] = files[TEST_EVERY - 1 :: TEST_EVERY]
            train[name] = [file for i, file in enumerate(files) if i % TEST_EVERY != TEST_EVERY - 1]
        return train, test

    held_out = next((folder / name for name in ("test", "val") if (folder / name).is_dir()), None)
    if held_out is None:
        raise DataError(f"{folder} has train/ but neither test/ nor val/ beside it.")
    train, test = _list_classes(folder / "train"), _list_classes(held_out)
    if unknown := sorted(set(test) - set(train)):
        raise DataError(f"{held_out} has classes that {folder / 'train'} does not have: {', '.join(unknown)}.")
    if not test:
        raise DataError(f"{held_out} has no class folders.")
    return train, test


def _list_classes(folder: Path) -> dict[str, list[Path]]:
    """{class: its image files}, both sorted by name. Raises DataError if a class has no image.

    Links to folders below a class are not entered. torchvision's make_dataset enters them: a link that leads back lists
    each image many times over, training and test images alike, and two such links never end.
    """
    classes = {}
    for class_folder in sorted(_visible(folder.iterdir(), folder)):
        if class_folder.is_dir():
            files = [path for path in class_folder.rglob("*") if path.suffix.lower() in SUFFIXES and not path.is_dir()]
            classes[class_folder.name] = sorted(_visible(files, folder))
            if not classes[class_folder.name]:
                raise DataError(f"{class_folder} is an empty class: no image ending in {', '.join(sorted(SUFFIXES))}.")
    return classes


def _visible(paths: Iterable[Path], folder: Path) -> list[Path]:
    """Those of `paths` that are not hidden, and not in a hidden folder, below `folder`."""
    return [path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def _read_split(
    listed: dict[str, list[Path]], classes: tuple[str, ...], image_size: int, subset: int, what: str
) -> Split:
    files = [file for name in classes for file in listed.get(name, [])]
    labels = np.repeat(np.arange(len(classes)), [len(listed.get(name, [])) for name in classes])
    chosen = balanced_subset(labels, subset, len(classes), what)
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
    path = name or file
    if isinstance(file, Path) and file.exists() and not file.is_file():  # reading a pipe would wait for ever
        raise DataError(f"{path} is not a file.")
    try:
        with Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(f"{path} is {image.width} x {image.height}; at most {MAX_PIXELS:,} pixels are read.")
            if image.mode.startswith(("I", "F")):
                raise DataError(f"{path} has more than 8 bits a channel (mode {image.mode}); convert it to 8 bits.")
            # A JPEG can be decoded at 1/2, 1/4 or 1/8 of its size; twice the final size is kept for the resizing.
            image.draft("RGB", (2 * image_size, 2 * image_size))
            upright = ImageOps.exif_transpose(image)
            square = ImageOps.fit(upright.convert("RGB"), (image_size, image_size), Image.Resampling.BICUBIC)
    except DataError:
        raise
    except Exception as error:  # decoders answer damage with errors of a dozen kinds
        raise DataError(f"{path} cannot be read as an image: {error}.") from error
    return np.asarray(square).transpose(2, 0, 1)
