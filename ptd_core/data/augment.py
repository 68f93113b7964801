"""Augmentation of one epoch: crop, flip, RandAugment, erasing, each a function of (seed, epoch) and position alone.

All choices are drawn on the host for the whole epoch before the first image is touched, so neither the chunk size
nor the device changes them, and the device is never waited for.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as nnf

from ptd_core.data import randaugment
from ptd_core.data.randaugment import to_device
from ptd_core.data.resized_crop import ResizedCrop, crop_masks
from ptd_core.machine.randomness import generator, torch_seed

ERASE_AREA = (0.02, 0.33)  # share of the image's area, uniform
ERASE_RATIO = (0.3, 3.3)  # height / width, uniform in its logarithm
ERASE_ATTEMPTS = 10  # boxes tried until one is smaller than the image; torchvision's limit
# Of images worked on at once, as float32: many, for the bucketed operations; on the CPU memory fresh from the system
# costs more than the arithmetic, and small blocks use the same again.
BLOCK_BYTES = {"cpu": 12 * 2**20, "cuda": 96 * 2**20, "mps": 96 * 2**20}
NOISE_BLOCK = 64  # images' worth of noise drawn at a time, of up to NOISE_PIXELS each, fewer of larger ones
NOISE_PIXELS = 128 * 128


@dataclass(frozen=True)
class Augmentation:
    """What is done to a training image, in this order; the defaults do nothing.

    crop_padding: pixels of black on each side, before a random crop back to the image's size. resized: in its place, a
    random part of the image, resized to the image's size.
    flip: horizontally, for half of the images.
    rand_ops, rand_magnitude: RandAugment's operations per image, and their magnitude 0..30 (torchvision's scale).
    erase: probability of replacing a random box by standard normal noise on the [0, 1] scale.
    Raises ValueError, naming the field, for a value outside of these.
    """

    crop_padding: int = 0
    flip: bool = False
    rand_ops: int = 0
    rand_magnitude: int = 0
    erase: float = 0.0
    resized: ResizedCrop | None = None

    def __post_init__(self) -> None:
        if self.crop_padding < 0:
            raise ValueError(f"crop_padding is {self.crop_padding}; it must be 0 pixels or more.")
        if self.resized and self.crop_padding:
            raise ValueError(f"crop_padding is {self.crop_padding}; a resized crop has no padding.")
        if self.rand_ops < 0:
            raise ValueError(f"rand_ops is {self.rand_ops}; it must be 0 operations or more.")
        if not 0 <= self.rand_magnitude <= randaugment.MAX_MAGNITUDE:
            raise ValueError(f"rand_magnitude is {self.rand_magnitude}; allowed are 0 to {randaugment.MAX_MAGNITUDE}.")
        if not 0.0 <= self.erase <= 1.0:
            raise ValueError(f"erase is {self.erase}; a probability is between 0 and 1.")


@dataclass(frozen=True)
class Boxes:
    """Boxes to erase: images (k,), ascending positions in the epoch; top, left, height, width (k,) in pixels."""

    images: np.ndarray
    top: np.ndarray
    left: np.ndarray
    height: np.ndarray
    width: np.ndarray

    def within(self, start: int, stop: int) -> "Boxes":
        """The boxes of the images at start..stop - 1, whose positions are then counted from start."""
        a, b = np.searchsorted(self.images, (start, stop))
        cut = [values[a:b] for values in (self.top, self.left, self.height, self.width)]
        return Boxes(self.images[a:b] - start, *cut)


def draw_boxes(rng: np.random.Generator, n: int, size: int, probability: float) -> Boxes:
    """Choose which of n images of size x size pixels lose a box, and where, as torchvision's RandomErasing does.

    An image that found no box smaller than itself in ten attempts stays whole.
    """
    chosen = np.flatnonzero(rng.random(n) < probability)
    attempts = (len(chosen), ERASE_ATTEMPTS)
    area = size * size * rng.uniform(*ERASE_AREA, attempts)
    ratio = np.exp(rng.uniform(*np.log(ERASE_RATIO), attempts))
    height, width = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
    fits = (height < size) & (width < size)
    first = np.argmax(fits, axis=1)[:, None]
    height, width = (np.take_along_axis(sides, first, 1)[:, 0].astype(np.int64) for sides in (height, width))
    # Places are drawn also for those that found no box, so that one image's luck moves no other image's draws.
    top, left = (np.floor(rng.random(len(chosen)) * (size - side + 1)).astype(np.int64) for side in (height, width))
    found = fits.any(axis=1)
    return Boxes(*(values[found] for values in (chosen, top, left, height, width)))


def crop_and_flip(
    images: torch.Tensor, padding: int, top: np.ndarray, left: np.ndarray, flip: np.ndarray
) -> torch.Tensor:
    """Crop each image, padded with zeros, back to its size at (top, left), then mirror it where flip is set.

    images: (n, C, S, S); top, left: integers (n,) in 0..2 * padding; flip: bool (n,). Returns (n, C, S, S).
    """
    n, channels, size, _ = images.shape
    padded = nnf.pad(images, (padding,) * 4)
    side = size + 2 * padding
    both = torch.cat([padded, padded.flip(-1)]).flatten()
    # Every row of the result is `size` neighbours in `both`, so that one index_select over all rows does the work.
    # A mirrored crop starts as far from the mirrored image's left edge as the crop ended from the right edge.
    first = (np.arange(n) + n * flip) * channels * side**2 + top * side + np.where(flip, 2 * padding - left, left)
    rows = (np.arange(channels)[:, None] * side**2 + np.arange(size) * side).ravel()
    first, rows = (to_device(torch.from_numpy(x), images.device) for x in (first, rows))
    starts = (first[:, None] + rows).flatten()
    return both.unfold(0, size, 1).index_select(0, starts).view(images.shape)


class Noise:
    """Standard normal images (C, S, S) in a sequence that does not depend on how many are taken at a time."""

    def __init__(self, seed: int, shape: tuple[int, ...], device: torch.device):
        self._generator = torch.Generator(device).manual_seed(seed)
        images = max(1, NOISE_BLOCK * NOISE_PIXELS // max(NOISE_PIXELS, shape[-2] * shape[-1]))
        self._block = (images, *shape)
        self._left = torch.empty((0, *shape), device=device)

    def take(self, k: int) -> torch.Tensor:
        """The next k images, float32 (k, C, S, S)."""
        parts = [self._left]
        # Random number generators step differently for different sizes, hence blocks of one size.
        for _ in range(-(-(k - len(self._left)) // self._block[0])):
            parts.append(torch.randn(self._block, generator=self._generator, device=self._left.device))
        drawn = torch.cat(parts)
        self._left = drawn[k:].clone()  # a clone, or the few images left would keep all of `drawn` in memory
        return drawn[:k]


def erase_boxes(images: torch.Tensor, boxes: Boxes, noise: torch.Tensor) -> None:
    """Replace boxes by noise, in place. images: float32 (n, C, S, S); noise: (k, C, S, S), one for each of k boxes."""
    edges = np.stack([boxes.top, boxes.top + boxes.height, boxes.left, boxes.left + boxes.width])
    top, bottom, left, right = to_device(torch.from_numpy(edges), images.device)[:, :, None]
    line = torch.arange(images.shape[-1], device=images.device)
    rows, columns = (line >= top) & (line < bottom), (line >= left) & (line < right)  # (k, S) each
    inside = rows[:, None, :, None] & columns[:, None, None, :]
    chosen = to_device(torch.from_numpy(boxes.images), images.device)
    images.index_copy_(0, chosen, torch.where(inside, noise, images.index_select(0, chosen)))


def augment_epoch(
    images: torch.Tensor,
    order: np.ndarray | torch.Tensor,
    augmentation: Augmentation,
    *,
    seed: int,
    epoch: int,
    chunk: int,
) -> Iterator[torch.Tensor]:
    """One epoch's augmented images, a chunk at a time.

    images: uint8 (n, 3, S, S), resident on the device; order: int64 (m,), on the host: the images in the order in
    which the epoch sees them; chunk: images per chunk, which changes memory and speed, never the result.
    Yields float32 (<= chunk, 3, S, S) in that order, on the device, with bytes mapped to [0, 1] and not normalised.
    What a position of the order draws is a function of (seed, epoch), whichever image stands there; erasing's noise
    is drawn on the device and also depends on the kind of device.
    Raises ValueError if images are not uint8 (n, 3, S, S) or chunk is below 1, at the call.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
        raise ValueError(f"images must be uint8 (n, 3, S, S), but {images.dtype} {tuple(images.shape)} came.")
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}; it must be 1 image or more.")
    return _chunks(images, torch.as_tensor(order), augmentation, seed, epoch, chunk)


def _chunks(
    images: torch.Tensor, order: torch.Tensor, augmentation: Augmentation, seed: int, epoch: int, chunk: int
) -> Iterator[torch.Tensor]:
    m, size, padding = len(order), images.shape[-1], augmentation.crop_padding
    top, left, flip = _draw_crops(augmentation, m, seed, epoch)
    crops = _draw_resized(augmentation, m, size, seed, epoch)
    operations = randaugment.draw(generator(seed, epoch, "randaugment"), m, augmentation.rand_ops)
    boxes = draw_boxes(generator(seed, epoch, "erase"), m, size, augmentation.erase)
    noise = Noise(torch_seed(seed, epoch, "erase noise"), images.shape[1:], images.device)
    block = max(1, BLOCK_BYTES[images.device.type] // (4 * images.shape[1:].numel()))
    for start in range(0, m, chunk):
        stop = min(start + chunk, m)
        augmented = torch.empty((stop - start, *images.shape[1:]), device=images.device)
        for place in range(start, stop, block):
            part = slice(place, min(place + block, stop))
            pixels = images.index_select(0, to_device(order[part], images.device))
            if augmentation.resized:
                pixels = augmentation.resized.apply(pixels, crops[:, part], flip[part])
            elif padding or augmentation.flip:
                pixels = crop_and_flip(pixels, padding, top[part], left[part], flip[part])
            pixels = randaugment.apply(pixels, operations[part], augmentation.rand_magnitude)
            finished = augmented[part.start - start : part.stop - start]
            finished.copy_(pixels).div_(255.0)
            erased = boxes.within(part.start, part.stop)
            if len(erased.images):
                erase_boxes(finished, erased, noise.take(len(erased.images)))
        yield augmented


def augment_masks(
    masks: torch.Tensor, order: np.ndarray | torch.Tensor, augmentation: Augmentation, *, seed: int, epoch: int
) -> torch.Tensor:
    """Where the objects of one epoch's augmented images are: cropped and flipped as `augment_epoch` does the images.

    masks: bool (n, S, S); order: int64 (m,), on the host. Returns bool (m, S, S); RandAugment and erasing leave the
    masks alone.
    """
    top, left, flip = _draw_crops(augmentation, len(order), seed, epoch)
    chosen = masks[torch.as_tensor(order)][:, None]
    if augmentation.resized:
        return crop_masks(chosen[:, 0], _draw_resized(augmentation, len(order), masks.shape[-1], seed, epoch), flip)
    return crop_and_flip(chosen.byte(), augmentation.crop_padding, top, left, flip)[:, 0].bool()


def _draw_crops(augmentation: Augmentation, m: int, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Top and left of each crop, in pixels of the padded image, and whether it is mirrored: (m,) each."""
    top, left = generator(seed, epoch, "crop").integers(2 * augmentation.crop_padding + 1, size=(2, m))
    flip = generator(seed, epoch, "flip").random(m) < (0.5 if augmentation.flip else 0.0)
    return top, left, flip


def _draw_resized(augmentation: Augmentation, m: int, size: int, seed: int, epoch: int) -> np.ndarray | None:
    """The crops that are resized, see `ResizedCrop`; None for none."""
    resized = augmentation.resized
    return resized.draw(generator(seed, epoch, "resized crop"), m, size) if resized else None
