"""Images that are listed but not read yet, and a dataset made of them: read into memory, or into a file that is mapped.

`folder` and `parquet` list theirs; whatever the source, an image is decoded, resized and cropped in the same way.
Shapes: n images, S pixels a side.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ptd_core.data.dataset import Dataset, Split, pixel_statistics
from ptd_core.data.pages import Pages

WAITING = 8  # images for each thread that are being decoded or wait for those before them


@dataclass(frozen=True)
class Listing:
    """The images of a dataset that can be read: first those of training, then those of the test set.

    name: of the kind of source. place: the folder or file it was asked for. image_size: S. train, test: int64 (n,),
    the labels. encoded: the images from a number on, each in whatever form `decode` takes, in order. decode: one of
    them -> uint8 (3, S, S); called by several threads at once. files: texts, the same as long as the same images
    would be read, wherever the folder lies. settings: what was asked for of them. folders, notes: see Dataset.
    """

    name: str
    place: Path
    image_size: int
    classes: tuple[str, ...]
    train: np.ndarray
    test: np.ndarray
    encoded: Callable[[int], Iterator[Any]]
    decode: Callable[[Any], np.ndarray]
    files: Callable[[], Iterator[str]]
    settings: dict[str, Any]
    notes: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.train) + len(self.test)

    def decoded(self, first: int = 0) -> Iterator[np.ndarray]:
        """The images from number `first` on, uint8 (3, S, S), in order; decoding a photograph releases Python's lock.

        Few are held at a time. What decoding raises comes in the image's turn.
        """
        threads = os.cpu_count() or 1
        pool, waiting = ThreadPoolExecutor(threads), deque()
        try:
            for image in self.encoded(first):
                waiting.append(pool.submit(self.decode, image))
                if len(waiting) >= WAITING * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)  # after an error nothing more is read

    def dataset(
        self,
        images: torch.Tensor,
        statistics: tuple[tuple[float, ...], tuple[float, ...]],
        *,
        mapped: Pages | None = None,
        expected: str = "",
        notes: tuple[str, ...] = (),
    ) -> Dataset:
        """The dataset of these images, uint8 (n, 3, S, S): the listed ones. See `Split` and `Dataset`."""
        parts = images.split([len(self.train), len(self.test)])
        train, test = (
            Split(part, torch.from_numpy(labels), mapped=mapped) for part, labels in zip(parts, (self.train, self.test))
        )
        return Dataset(self.name, train, test, self.classes, *statistics, (*self.notes, *notes), self.folders, expected)


def mark(file: Path, folder: Path) -> str:
    """What is another text once a file is another: its name in the folder, its size and when it was written."""
    name = file.relative_to(folder).as_posix()
    try:
        about = os.stat(file)
    except OSError:  # whoever reads it says what is wrong
        return name
    return f"{name} {about.st_size} {about.st_mtime_ns}"


def resident(listing: Listing) -> Dataset:
    """The dataset in memory."""
    images = np.empty((len(listing), 3, listing.image_size, listing.image_size), dtype=np.uint8)
    for slot, image in enumerate(listing.decoded()):
        images[slot] = image
    pixels = torch.from_numpy(images)
    return listing.dataset(pixels, pixel_statistics(pixels[: len(listing.train)]))
