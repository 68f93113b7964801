"""What a dataset is here: uint8 images that stay in memory, their labels, and how pixels are normalised.

Sources (`shapes`, `cifar`, `image_folder`) import this file; `load` imports the sources.
Shapes of arrays: n images, 3 channels, S pixels a side.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from ptd_core.errors import DataError


@dataclass(frozen=True)
class Split:
    """The images of a training or a test set.

    images: uint8 (n, 3, S, S), RGB. labels: int64 (n,), an index into `Dataset.classes`.
    masks: bool (n, S, S), True where the object is, or None where nobody knows.
    """

    images: torch.Tensor
    labels: torch.Tensor
    masks: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "Split":
        """The images and labels on a device; masks stay where they are, few ask for them."""
        return Split(self.images.to(device), self.labels.to(device), self.masks)

    def part(self, count: int) -> "Split":
        """`count` images that stand for the whole: fixed, drawn at random, as balanced over the classes as can be.

        All of them, in their own order, if there are no more. A smaller part is the beginning of a larger one.
        """
        if count >= len(self):
            return self
        labels = self.labels.cpu().numpy()
        order = np.random.default_rng(0).permutation(len(labels))
        order = order[np.argsort(rank_in_class(labels[order]), kind="stable")[:count]]
        chosen = torch.from_numpy(order)
        there = chosen.to(self.images.device)
        return Split(self.images[there], self.labels[there], None if self.masks is None else self.masks[chosen])


@dataclass(frozen=True)
class Dataset:
    """A training set and a test set with one list of class names.

    mean, std: per channel, of training pixels scaled to [0, 1]. notes: sentences on what was read, for a run to print.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    notes: tuple[str, ...] = ()

    def normaliser(self, device: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
        """A function on a device from images in [0, 1] (B, 3, S, S) to what a model takes."""
        mean, std = torch.tensor([self.mean, self.std], device=device).view(2, 1, 3, 1, 1)
        return lambda images: (images - mean) / std

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits of the classes' names and of all images and labels: which data this is, wherever it
        lies."""
        whole = hashlib.sha256(repr(self.classes).encode(errors="surrogateescape"))
        for split in (self.train, self.test):
            for array in (split.images, split.labels):
                whole.update(repr(tuple(array.shape)).encode())
                for chunk in array.split(4096):
                    whole.update(chunk.contiguous().numpy())
        return whole.hexdigest()[:16]


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
        raise DataError(
            f"A class-balanced subset of {size} {what} needs {whole + (extra > 0)} images in "
            f"{extra or classes} of {classes} classes and {whole} in the others, but class {name} "
            f"has {counts[short]}. Ask for at most {most}, or for 0 (all of them)."
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


def pixel_statistics(images: torch.Tensor) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation of each channel of uint8 images (n, 3, S, S), exact, for pixels in [0, 1].

    A channel without any variation gets 1/255 as its deviation: normalisation divides by it.
    """
    levels = np.arange(256) / 255
    mean, std = [], []
    for channel in range(3):
        # A histogram is exact and needs no floating-point copy of the images.
        counts = sum(torch.bincount(chunk[:, channel].flatten(), minlength=256) for chunk in images.split(4096))
        share = counts.numpy() / counts.sum().item()
        mean.append(float(share @ levels))
        std.append(max(float(np.sqrt(share @ (levels - mean[-1]) ** 2)), 1 / 255))
    return tuple(mean), tuple(std)
