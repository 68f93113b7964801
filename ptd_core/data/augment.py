"""Augmentation of one epoch: crop, flip, RandAugment, erasing, each a function of (seed, epoch) and position alone.

All choices are drawn on the host for the whole epoch before the first image is touched, so neither the chunk size
nor the device changes them, and the device is never waited for.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as nnf

from ptd_core.data import randaugment
from ptd_core.data.ahead import read_ahead
from ptd_core.data.erasing import Noise, draw_boxes, erase_boxes
from ptd_core.data.randaugment import to_device
from ptd_core.data.resized_crop import ResizedCrop, crop_masks
from ptd_core.machine.randomness import generator, torch_seed

# Of images worked on at once, as float32: many, for the bucketed operations; on the CPU memory fresh from the system
# costs more than the arithmetic, and small blocks use the same again.
BLOCK_BYTES = {"cpu": 12 * 2**20, "cuda": 96 * 2**20, "mps": 96 * 2**20}


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


def augment_epoch(
    images: torch.Tensor,
    order: np.ndarray | torch.Tensor,
    augmentation: Augmentation,
    *,
    seed: int,
    epoch: int,
    chunk: int,
    places: np.ndarray | None = None,
    device: torch.device | None = None,
    ahead: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> Iterator[torch.Tensor]:
    """One epoch's augmented images, a chunk at a time.

    images: uint8 (n, 3, S, S); order: int64 (m,), on the host: the images in the order in which the epoch sees them;
    chunk: images per chunk, which changes memory and speed, never the result. places: int64, ascending, those of the
    order that are made; by default all. device: where they are made; by default where the images are. ahead: reads the
    images of these rows; a thread calls it for each chunk, while the chunk before is worked on. By default so, of
    `images`, on another device than theirs; on theirs nothing is read ahead.
    Yields float32 (<= chunk, 3, S, S) in that order, on the device, with bytes mapped to [0, 1] and not normalised.
    What a place of the order draws is a function of (seed, epoch), whichever image stands there, and whichever places
    are made; erasing's noise is drawn on the device and also depends on the kind of device.
    Raises ValueError if images are not uint8 (n, 3, S, S) or chunk is below 1, at the call.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
        raise ValueError(f"images must be uint8 (n, 3, S, S), but {images.dtype} {tuple(images.shape)} came.")
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}; it must be 1 image or more.")
    order, device = torch.as_tensor(order), device or images.device
    places = np.arange(len(order)) if places is None else places
    chunks = [places[start : start + chunk] for start in range(0, len(places), chunk)]
    if ahead is None and images.device != device:
        ahead = partial(images.index_select, 0)
    read = None if ahead is None else read_ahead(lambda here: ahead(order[here]), chunks)
    return _chunks(images, order, augmentation, seed, epoch, chunks, device, read)


def _chunks(
    images: torch.Tensor,
    order: torch.Tensor,
    augmentation: Augmentation,
    seed: int,
    epoch: int,
    chunks: list[np.ndarray],
    device: torch.device,
    read: Iterator[torch.Tensor] | None,
) -> Iterator[torch.Tensor]:
    m, size, padding = len(order), images.shape[-1], augmentation.crop_padding
    top, left, flip = _draw_crops(augmentation, m, seed, epoch)
    crops = _draw_resized(augmentation, m, size, seed, epoch)
    operations = randaugment.draw(generator(seed, epoch, "randaugment"), m, augmentation.rand_ops)
    boxes = draw_boxes(generator(seed, epoch, "erase"), m, size, augmentation.erase)
    noise = Noise(torch_seed(seed, epoch, "erase noise"), images.shape[1:], device)
    block = max(1, BLOCK_BYTES[device.type] // (4 * images.shape[1:].numel()))
    for places in chunks:
        chunk = None if read is None else to_device(next(read), device)
        augmented = torch.empty((len(places), *images.shape[1:]), device=device)
        for start in range(0, len(places), block):
            part = places[start : start + block]
            if chunk is None:
                pixels = images.index_select(0, to_device(order[part], device))
            else:
                pixels = chunk[start : start + block]
            if augmentation.resized:
                pixels = augmentation.resized.apply(pixels, crops[:, part], flip[part])
            elif padding or augmentation.flip:
                pixels = crop_and_flip(pixels, padding, top[part], left[part], flip[part])
            pixels = randaugment.apply(pixels, operations[part], augmentation.rand_magnitude)
            finished = augmented[start : start + block]
            finished.copy_(pixels).div_(255.0)
            erased, numbers = boxes.of(part)
            if len(numbers):
                erase_boxes(finished, erased, noise.at(numbers))
        yield augmented


def augment_masks(
    masks: torch.Tensor,
    order: np.ndarray | torch.Tensor,
    augmentation: Augmentation,
    *,
    seed: int,
    epoch: int,
    places: np.ndarray | slice = slice(None),
) -> torch.Tensor:
    """Where the objects of one epoch's augmented images are: cropped and flipped as `augment_epoch` does the images.

    masks: bool (n, S, S); order: int64 (m,), on the host. Returns bool (m, S, S), or those at `places` alone;
    RandAugment and erasing leave the masks alone.
    """
    top, left, flip = (drawn[places] for drawn in _draw_crops(augmentation, len(order), seed, epoch))
    chosen = masks[torch.as_tensor(order)[places]][:, None]
    if augmentation.resized:
        crops = _draw_resized(augmentation, len(order), masks.shape[-1], seed, epoch)[:, places]
        return crop_masks(chosen[:, 0], crops, flip)
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
