"""Random parts of images, resized to the images' size: torchvision's RandomResizedCrop, for many images at once.

Shapes: n square images, C channels, S pixels a side. Crops are int64 (4, n): top, left, height and width in pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor

from ptd_core.data.randaugment import to_device

ONE_BY_ONE = 64  # pixels a side from which, on a CPU, images are resized one after the other
ATTEMPTS = 10  # shapes tried until one fits into the image, which stays whole otherwise; torchvision's limit


def _triangle(x: Tensor) -> Tensor:
    return (1 - x.abs()).clamp_min(0)


def _cubic(x: Tensor) -> Tensor:
    """Keys' cubic convolution with a = -1/2, as PIL and torchvision's antialiased bicubic take it."""
    x = x.abs()
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


# Weight of a source pixel at a distance, in pixels of the coarser of the two grids.
FILTERS: dict[str, Callable[[Tensor], Tensor]] = {"bicubic": _cubic, "bilinear": _triangle}


@dataclass(frozen=True)
class ResizedCrop:
    """What parts are drawn, and how they are resized, always antialiased.

    crop_scale_min: smallest share of the image's area, uniform from there to 1. crop_ratio_min: smallest width over
    height, uniform in its logarithm from there to 1 / crop_ratio_min. crop_interpolation: a key of FILTERS.
    Raises ValueError, naming the field, for a value outside of these.
    """

    crop_scale_min: float = 0.08
    crop_ratio_min: float = 0.75
    crop_interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        for name in ("crop_scale_min", "crop_ratio_min"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0 and at most 1.")
        if self.crop_interpolation not in FILTERS:
            raise ValueError(f"crop_interpolation is {self.crop_interpolation!r}; allowed are {', '.join(FILTERS)}.")

    def draw(self, rng: np.random.Generator, n: int, size: int) -> np.ndarray:
        """Crops of n images of size x size pixels, distributed as by torchvision's RandomResizedCrop.get_params."""
        height, width = np.full((2, n), size)
        open_, widest = np.ones(n, dtype=bool), abs(np.log(self.crop_ratio_min))
        for _ in range(ATTEMPTS):  # also for images that have their shape: one image's luck moves no other's draws
            area = size * size * rng.uniform(self.crop_scale_min, 1.0, n)
            ratio = np.exp(rng.uniform(-widest, widest, n))
            wide, high = (np.rint(np.sqrt(values)).astype(np.int64) for values in (area * ratio, area / ratio))
            fits = open_ & (wide > 0) & (wide <= size) & (high > 0) & (high <= size)
            height[fits], width[fits] = high[fits], wide[fits]
            open_ &= ~fits
        top, left = (np.floor(rng.random(n) * (size - side + 1)).astype(np.int64) for side in (height, width))
        return np.stack([top, left, height, width])

    def apply(self, images: Tensor, crops: np.ndarray, flip: np.ndarray) -> Tensor:
        """Each image's part, resized to the image's size, then mirrored where flip (n,) is set.

        images: uint8 (n, C, S, S) -> uint8 (n, C, S, S): what v2.functional.resized_crop(antialias=True) makes of
        their bytes as floats, rounded. (Of bytes it rounds in between as well, and differently on different CPUs.)
        """
        if images.device.type == "cpu" and images.shape[-1] >= ONE_BY_ONE:
            return self._one_by_one(images, crops, flip)
        size, resample = images.shape[-1], FILTERS[self.crop_interpolation]
        top, left, height, width = to_device(torch.from_numpy(crops), images.device)[:, :, None, None]
        columns = _weights(left, width, size, resample)
        columns = torch.where(to_device(torch.from_numpy(flip), images.device)[:, None, None], columns.flip(1), columns)
        wide = torch.bmm(images.flatten(1, 2).float(), columns.transpose(1, 2))
        found = _weights(top, height, size, resample).unsqueeze(1) @ wide.view(images.shape)
        return found.round_().clamp_(0, 255).to(torch.uint8)

    def _one_by_one(self, images: Tensor, crops: np.ndarray, flip: np.ndarray) -> Tensor:
        """The same but for rounding, and faster for large images on a CPU: only what has weight is added up."""
        resized = torch.empty_like(images)
        for image, into, (top, left, height, width), mirrored in zip(images, resized, crops.T.tolist(), flip.tolist()):
            part = image[None, :, top : top + height, left : left + width].float()
            found = nnf.interpolate(part, images.shape[-2:], mode=self.crop_interpolation, antialias=True)[0]
            into.copy_((found.flip(-1) if mirrored else found).round_().clamp_(0, 255))
        return resized


def crop_masks(masks: Tensor, crops: np.ndarray, flip: np.ndarray) -> Tensor:
    """Masks bool (n, S, S) of images that `ResizedCrop.apply` resizes: of each pixel the nearest one's."""
    size = masks.shape[-1]
    middle = 2 * np.arange(size) + 1  # of each pixel, in halves
    top, left, height, width = crops[:, :, None]
    rows, columns = top + middle * height // (2 * size), left + middle * width // (2 * size)
    columns = np.where(flip[:, None], columns[:, ::-1], columns)
    images, rows, columns = (
        to_device(torch.from_numpy(index), masks.device)
        for index in (np.arange(len(masks))[:, None, None], rows[:, :, None], columns[:, None, :])
    )
    return masks[images, rows, columns]


def _weights(start: Tensor, length: Tensor, size: int, resample: Callable[[Tensor], Tensor]) -> Tensor:
    """Weights of S source pixels (last) in each of S pixels that `length` of them become: float32 (n, S, S).

    start, length: (n, 1, 1). What lies outside the part has no weight.
    """
    line = torch.arange(size, device=start.device)
    scale = length / size
    centre = scale * (line[:, None] + 0.5)  # of a new pixel, in old ones from the edge of the part
    place = line - start
    weights = resample((place + 0.5 - centre) / scale.clamp_min(1)) * ((place >= 0) & (place < length))
    return weights / weights.sum(dim=-1, keepdim=True)
