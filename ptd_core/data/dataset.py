"""What a dataset is here: uint8 images, in memory or mapped from a file, their labels, how pixels are normalised.

Sources (`shapes`, `cifar`, `image_folder`) import this file; `load` imports the sources.
Shapes of arrays: n images, 3 channels, S pixels a side.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from ptd_core.data.ahead import read_ahead
from ptd_core.data.pages import Pages
from ptd_core.data.randaugment import to_device
from ptd_core.errors import DataError
from ptd_core.machine.ranks import Ranks

CHUNK_BYTES = 16 * 2**20  # of images that are looked at at a time: a mapped set may not fit into memory


@dataclass(frozen=True)
class Split:
    """The images of a training or a test set.

    images: uint8 (n, 3, S, S), RGB. labels: int64 (n,), an index into `Dataset.classes`.
    masks: bool (n, S, S), True where the object is, or None where nobody knows.
    mapped: the pages of the file that the images lie in, None if they are in memory. Mapped images may not be written
    to; they stay on the host, and what is asked for of them is read and moved to the device.
    """

    images: torch.Tensor
    labels: torch.Tensor
    masks: torch.Tensor | None = None
    mapped: Pages | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def device(self) -> torch.device:
        """Where the images are to be worked on; mapped images themselves stay on the host."""
        return self.labels.device

    def to(self, device: torch.device) -> "Split":
        """The images and labels on a device; masks stay where they are, few ask for them."""
        images = self.images if self.mapped else self.images.to(device)
        return Split(images, self.labels.to(device), self.masks, self.mapped)

    def part(self, count: int) -> "Split":
        """`count` images that stand for the whole: fixed, drawn at random, as balanced over the classes as can be.

        All of them, in their own order, if there are no more; else a smaller part is the beginning of a larger one.
        A part is in memory, on the device, also of mapped images.
        """
        if count >= len(self) and not self.mapped:
            return self
        return self._at(self.rows_of_part(count))

    def rows_of_part(self, count: int) -> torch.Tensor:
        """Which images `part` takes, int64 (count,) on the host."""
        if count >= len(self):
            return torch.arange(len(self))
        labels = self.labels.cpu().numpy()
        order = np.random.default_rng(0).permutation(len(labels))
        return torch.from_numpy(order[np.argsort(rank_in_class(labels[order]), kind="stable")[:count]])

    def batches(
        self,
        size: int,
        rows: torch.Tensor | None = None,
        ranks: Ranks = Ranks(),  # noqa: B008  frozen
    ) -> Iterator["Split"]:
        """The images in batches of `size`, the last one maybe smaller: of each this process's shard, on the device.

        rows: int64, on the host: those that are wanted, in this order; by default all. Mapped images are read a batch
        ahead, by a thread.
        """
        if rows is None and not self.mapped:
            parts = (self.images, self.labels, *(() if self.masks is None else (self.masks,)))
            yield from (Split(*map(ranks.shard, batch)) for batch in zip(*(part.split(size) for part in parts)))
            return
        shards = map(ranks.shard, (torch.arange(len(self)) if rows is None else rows).split(size))
        yield from read_ahead(self._at, shards) if self.mapped else map(self._at, shards)

    def read(self, rows: torch.Tensor) -> torch.Tensor:
        """A copy of these images, where the images are. rows: int64, also there."""
        images = self.images.index_select(0, rows)
        if self.mapped:
            self.mapped.let_go(self.images, rows)
        return images

    def _at(self, rows: torch.Tensor) -> "Split":
        there = to_device(rows, self.device)
        if self.mapped:
            images = to_device(self.read(rows), self.device)
        else:
            images = self.images[there]
        return Split(images, self.labels[there], None if self.masks is None else self.masks[rows])


@dataclass(frozen=True)
class Dataset:
    """A training set and a test set with one list of class names.

    mean, std: per channel, of training pixels scaled to [0, 1]. notes: sentences on what was read, for a run to print.
    folders: what the classes are called where they lie, if `classes` has other names for them. expected: the digest
    that these images had when they were decoded, if somebody wrote it down.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    notes: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    expected: str = ""

    def normaliser(self, device: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
        """A function on a device from images in [0, 1] (B, 3, S, S) to what a model takes."""
        mean, std = torch.tensor([self.mean, self.std], device=device).view(2, 1, 3, 1, 1)
        return lambda images: (images - mean).div_(std)

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits of the classes' names and of all images and labels: which data this is, wherever it
        lies. Raises DataError if the images are not those that were decoded."""
        whole = hashlib.sha256(repr(self.folders or self.classes).encode(errors="surrogateescape"))
        for split in (self.train, self.test):
            for array in (split.images, split.labels):
                whole.update(repr(tuple(array.shape)).encode())
                for chunk in chunks_of(array, split.mapped if array is split.images else None):
                    whole.update(chunk.contiguous().numpy())
        found = whole.hexdigest()[:16]
        if self.expected and found != self.expected:
            raise DataError(
                f"{self.notes[-1]}: pixels of it have changed since they were decoded (digest {found}, expected "
                f"{self.expected}). Delete that file, and the images are decoded anew."
            )
        return found


def chunks_of(array: torch.Tensor, mapped: Pages | None = None) -> Iterator[torch.Tensor]:
    """A tensor (n, ...) in parts of at most CHUNK_BYTES, or of one entry where that is larger, one after the other.

    mapped: of the file that it lies in, as in `Split`.
    """
    for chunk in array.split(max(1, CHUNK_BYTES * len(array) // max(1, array.nbytes))):
        yield chunk
        if mapped:
            mapped.let_go(chunk)


def rank_in_class(labels: np.ndarray) -> np.ndarray:
    """int (n,) -> int64 (n,): 0 for the first image of its class, 1 for the second, ..."""
    counts = np.bincount(labels)
    by_class = np.argsort(labels, kind="stable")
    rank = np.empty(len(labels), dtype=np.int64)
    rank[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return rank


def balanced_subset(labels: np.ndarray, size: int, classes: int, what: str, names: tuple[str, ...] = ()) -> np.ndarray:
    """Indices, ascending, of `size` images whose class counts differ by at most one; all images if size is 0.

    The first images of each class in file order are taken, whatever the training seed, so that runs with several
    seeds see the same images and a larger subset contains a smaller one.

    labels: int (n,). what: a phrase for messages, such as "training images of cifar100". names: of the classes,
    also for messages.
    Raises DataError if there are fewer than `size` images, fewer wanted than classes, or if a class runs short.
    """
    if size == 0:
        return np.arange(len(labels))
    check_subset_size(size, len(labels), classes, what)
    counts = np.bincount(labels, minlength=classes)
    rank = rank_in_class(labels)

    whole, extra = divmod(size, classes)
    chosen = rank < whole
    one_more = np.flatnonzero(rank == whole)[:extra]
    if counts.min() < whole or len(one_more) < extra:
        short = int(counts.argmin())
        most = classes * counts[short] + int((counts > counts[short]).sum())
        name = names[short] if names else short
        advice = f"Ask for at most {most}, or for 0 (all of them)." if counts[short] else "Ask for 0 (all of them)."
        raise DataError(
            f"A class-balanced subset of {size} {what} needs {whole + (extra > 0)} images in "
            f"{extra or classes} of {classes} classes and {whole} in the others, but class {name} "
            f"has {counts[short]}. {advice}"
        )
    chosen[one_more] = True
    return np.flatnonzero(chosen)


def check_subset_size(size: int, available: int, classes: int, what: str) -> None:
    """Raises DataError unless `size` is 0 (all) or between the number of classes and what is available."""
    if size < 0:
        raise DataError(f"The number of {what} is {size}; it must be 0 (all of them) or positive.")
    if size > available:
        raise DataError(f"{size} {what} were asked for, but there are {available}. 0 means all of them.")
    if 0 < size < classes:
        raise DataError(
            f"{size} {what} were asked for, but there are {classes} classes and each needs at least one image. "
            f"Ask for {classes} or more, or for 0 (all of them)."
        )


def pixel_statistics(
    images: torch.Tensor, mapped: Pages | None = None
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation of each channel of uint8 images (n, 3, S, S), exact, for pixels in [0, 1].

    A channel without any variation gets 1/255 as its deviation: normalisation divides by it. mapped: as in `Split`.
    """
    levels = np.arange(256) / 255
    mean, std = [], []
    for channel in range(3):
        # A histogram is exact and needs no floating-point copy of the images.
        counts = sum(torch.bincount(chunk[:, channel].flatten(), minlength=256) for chunk in chunks_of(images, mapped))
        share = counts.numpy() / counts.sum().item()
        mean.append(float(share @ levels))
        std.append(max(float(np.sqrt(share @ (levels - mean[-1]) ** 2)), 1 / 255))
    return tuple(mean), tuple(std)
