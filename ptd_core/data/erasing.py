"""Random erasing (Zhong et al., 2020): which images of an epoch lose a box, where, and the noise that is put there."""

from dataclasses import dataclass

import numpy as np
import torch

from ptd_core.data.randaugment import to_device

ERASE_AREA = (0.02, 0.33)  # share of the image's area, uniform
ERASE_RATIO = (0.3, 3.3)  # height / width, uniform in its logarithm
ERASE_ATTEMPTS = 10  # boxes tried until one is smaller than the image; torchvision's limit
NOISE_BLOCK = 64  # images' worth of noise drawn at a time, of up to NOISE_PIXELS each, fewer of larger ones
NOISE_PIXELS = 128 * 128


@dataclass(frozen=True)
class Boxes:
    """Boxes to erase: images (k,), ascending positions in the epoch; top, left, height, width (k,) in pixels."""

    images: np.ndarray
    top: np.ndarray
    left: np.ndarray
    height: np.ndarray
    width: np.ndarray

    def of(self, places: np.ndarray) -> tuple["Boxes", np.ndarray]:
        """The boxes of the images at these places of the epoch, ascending, and which of all boxes they are, (k,).

        Their images are then counted within `places`.
        """
        numbers = np.searchsorted(self.images, places)
        has_box = np.append(self.images, -1)[numbers] == places
        numbers = numbers[has_box]
        cut = [values[numbers] for values in (self.top, self.left, self.height, self.width)]
        return Boxes(np.flatnonzero(has_box), *cut), numbers


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


class Noise:
    """A sequence of standard normal images (C, S, S), the same however many are asked for at a time."""

    def __init__(self, seed: int, shape: tuple[int, ...], device: torch.device):
        self._generator = torch.Generator(device).manual_seed(seed)
        images = max(1, NOISE_BLOCK * NOISE_PIXELS // max(NOISE_PIXELS, shape[-2] * shape[-1]))
        self._block, self._first = torch.empty((images, *shape), device=device), -images

    def at(self, numbers: np.ndarray) -> torch.Tensor:
        """The images of these numbers, float32 (k, C, S, S). numbers: ascending, also from one call to the next."""
        found = torch.empty((len(numbers), *self._block.shape[1:]), device=self._block.device)
        done = 0
        while done < len(numbers):
            within = numbers[done:] - self._first
            here = within[: np.searchsorted(within, len(self._block))]
            found[done : done + len(here)] = self._block[to_device(torch.from_numpy(here), found.device)]
            done += len(here)
            if done < len(numbers):  # generators step differently for different sizes, hence blocks of one size
                self._block.normal_(generator=self._generator)
                self._first += len(self._block)
        return found


def erase_boxes(images: torch.Tensor, boxes: Boxes, noise: torch.Tensor) -> None:
    """Replace boxes by noise, in place. images: float32 (n, C, S, S); noise: (k, C, S, S), one for each of k boxes."""
    edges = np.stack([boxes.top, boxes.top + boxes.height, boxes.left, boxes.left + boxes.width])
    top, bottom, left, right = to_device(torch.from_numpy(edges), images.device)[:, :, None]
    line = torch.arange(images.shape[-1], device=images.device)
    rows, columns = (line >= top) & (line < bottom), (line >= left) & (line < right)  # (k, S) each
    inside = rows[:, None, :, None] & columns[:, None, None, :]
    chosen = to_device(torch.from_numpy(boxes.images), images.device)
    images.index_copy_(0, chosen, torch.where(inside, noise, images.index_select(0, chosen)))
