"""Any folder of class folders of images, resized and cropped to squares.

Either FOLDER/train/CLASS/... and FOLDER/test/CLASS/... (or val instead of test, and other usual names: `folder_parts`),
or FOLDER/CLASS/... alone, where every fifth image of each class, by name, is a test image.
"""

import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from ptd_core.data.class_names import names_of
from ptd_core.data.dataset import balanced_subset
from ptd_core.data.folder_files import Unused, holds_images, list_classes
from ptd_core.data.folder_parts import find_parts
from ptd_core.data.listing import Listing, mark
from ptd_core.data.picture import as_shown, formats
from ptd_core.errors import DataError
from ptd_core.paths import readable

MAX_PIXELS = 64_000_000
TEST_EVERY = 5


def list_image_folder(folder: Path, *, image_size: int = 32, subset: int = 0, test_subset: int = 0) -> Listing:
    """The images below `folder`, to be read as uint8 (n, 3, image_size, image_size), classes in the order of their
    folders' names.

    Shorter side resized to image_size (bicubic, antialiased), centre crop, RGB. Hidden files and folders, and files
    that are no images, are passed over; the notes say how many. Images may lie at any depth below their class. A file
    of names in the folder, see `class_names`, says what the classes are called in figures.
    Raises DataError, naming what is at fault, if there are fewer than two classes, a class without images, or a test
    class that training does not have; decoding raises it for a file that cannot be read, or above 64 megapixels.
    """
    if not folder.is_dir():
        raise DataError(f"{readable(folder)} is not a folder. Pass a folder of class folders of images as data_dir.")
    train, test, notes, parts = _listed_splits(folder)
    classes = tuple(train)
    if len(classes) < 2:
        raise DataError(
            f"{readable(folder)} has {len(classes)} class folder(s){': ' if classes else ''}{', '.join(classes)}; "
            "telling classes apart needs at least two, as folder/CLASS/IMAGE or folder/train/CLASS/IMAGE."
        )
    train_files, train_labels = _chosen(train, classes, subset, f"training images in {readable(folder)}")
    test_files, test_labels = _chosen(test, classes, test_subset, f"test images in {readable(folder)}")
    files = train_files + test_files
    names, named_by = names_of(classes, [folder, *(part.parent for part in parts)])
    return Listing(
        name="folder",
        place=folder,
        image_size=image_size,
        classes=names,
        train=train_labels,
        test=test_labels,
        encoded=lambda first: iter(files[first:]),
        decode=lambda file: read_image(file, image_size),
        files=lambda: (mark(file, folder) for file in files),
        settings={"subset": subset, "test_subset": test_subset},
        notes=notes + ((named_by,) if named_by else ()),
        folders=classes if names != classes else (),
    )


def _listed_splits(
    folder: Path,
) -> tuple[dict[str, list[Path]], dict[str, list[Path]], tuple[str, ...], tuple[Path, ...]]:
    """({class: image files}, the same for the test set, notes, the folders of parts), whichever layout `folder` has."""
    parts, unused, fence = find_parts(folder), Unused(), []
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
            flat = holds_images(parts.held_out)
            raise DataError(
                f"{readable(parts.held_out)} has {'images but ' if flat else ''}no class folders."
                + (
                    f" Move each image into a folder named like its class in {readable(parts.train)}; a file of labels "
                    "beside them, such as ImageNet's LOC_val_solution.csv, says which that is."
                    if flat
                    else ""
                )
            )
        if unknown := sorted(set(test) - set(train)):
            raise DataError(
                f"{readable(parts.held_out)} has classes that {readable(parts.train)} does not have: "
                f"{', '.join(unknown)}."
            )
        _refuse_common_folders(train, test)
        note = parts.note
    return train, test, (note, str(unused)) if unused else (note,), tuple(fence)


def _refuse_common_folders(train: dict[str, list[Path]], test: dict[str, list[Path]]) -> None:
    """Raises DataError if a folder of test images is one of training images, by a link: what is measured is learned."""
    folders = [{file.parent for files in part.values() for file in files} for part in (train, test)]
    learned, measured = ({os.path.realpath(folder): folder for folder in sorted(part)} for part in folders)
    for place in measured:
        if place in learned:
            raise DataError(
                f"{readable(measured[place])} is the same folder as {readable(learned[place])}: its images would be "
                "learned and tested on. Remove one of the links, or put other images there."
            )


def _chosen(
    listed: dict[str, list[Path]], classes: tuple[str, ...], subset: int, what: str
) -> tuple[list[Path], np.ndarray]:
    """The image files of a class-balanced subset and their labels, int64 (n,)."""
    files = [file for name in classes for file in listed.get(name, [])]
    labels = np.repeat(np.arange(len(classes)), [len(listed.get(name, [])) for name in classes])
    chosen = balanced_subset(labels, subset, len(classes), what, classes)
    return [files[slot] for slot in chosen], labels[chosen]


def read_image(file: Path | BinaryIO, image_size: int, name: str = "") -> np.ndarray:
    """uint8 (3, image_size, image_size). The size in the header is judged before any pixel is decoded.

    name: what messages call an open file. Raises DataError as `list_image_folder` does.
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
