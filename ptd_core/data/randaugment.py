"""RandAugment (Cubuk et al., 2020) for thousands of images at once, bit-equal to torchvision's v2 on each alone.

torchvision draws one operation per call, hence per image. But the magnitude is fixed, so an operation has at most
two variants, with and without its sign flipped: 23 in all. Images that drew the same variant share one call.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torchvision.transforms.v2 import functional as F

MAX_MAGNITUDE = 30  # torchvision's scale has 31 bins, 0..30

# torchvision's operations in its order. Those of SIGNED are applied with -strength half of the time.
GEOMETRIC = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
ENHANCING = ("Brightness", "Color", "Contrast", "Sharpness")
SIGNED = GEOMETRIC + ENHANCING
OPS = ("Identity", *SIGNED, "Posterize", "Solarize", "AutoContrast", "Equalize")

# On the CPU one call covers about this many pixel values: its float copies then stay in cache, in half the time.
CPU_VALUES_PER_CALL = 128 * 3 * 32 * 32


@dataclass(frozen=True)
class Draws:
    """What n images drew: op (n, num_ops), indices into OPS; negative (n, num_ops), True where the sign is flipped."""

    op: np.ndarray
    negative: np.ndarray

    def __len__(self) -> int:
        return len(self.op)

    def __getitem__(self, part: slice | np.ndarray) -> "Draws":
        return Draws(self.op[part], self.negative[part])


def draw(rng: np.random.Generator, n: int, num_ops: int) -> Draws:
    """Draw num_ops operations for each of n images: uniform over OPS, with replacement, both signs equally likely.

    An operation without a sign is never negative.
    """
    op = rng.integers(len(OPS), size=(n, num_ops))
    negative = rng.random((n, num_ops)) < 0.5
    signed = np.array([name in SIGNED for name in OPS])
    return Draws(op, negative & signed[op])


def strength(name: str, magnitude: int, height: int, width: int) -> float:
    """The unsigned strength of an operation at a magnitude of 0..30, in the operation's own unit.

    Shear in pixels per pixel, translation in pixels, rotation in degrees, enhancement as the offset from the neutral
    factor 1, Posterize in bits kept, Solarize as a threshold on 0..255; 0 where an operation has none.
    Source: torchvision.transforms.RandAugment.
    """
    if name == "Posterize":
        return float(8 - round(magnitude / (MAX_MAGNITUDE / 4)))
    if name in ("ShearX", "ShearY"):
        first, last = 0.0, 0.3
    elif name in ("TranslateX", "TranslateY"):
        first, last = 0.0, 150.0 / 331.0 * (width if name == "TranslateX" else height)
    elif name == "Rotate":
        first, last = 0.0, 30.0
    elif name in ENHANCING:
        first, last = 0.0, 0.9
    elif name == "Solarize":
        first, last = 1.0, 0.0  # a share of 255, which is rounded to float32 before it is multiplied
    else:
        return 0.0
    # The same float32 values as torchvision: translations are cut to whole pixels and Solarize compares with whole
    # levels, so the last bit can matter.
    amount = float(torch.linspace(first, last, MAX_MAGNITUDE + 1)[magnitude])
    return 255.0 * amount if name == "Solarize" else amount


@lru_cache(maxsize=64)
def _source_pixels(name: str, amount: float, height: int, width: int, device: torch.device):
    """Where each pixel of a geometric operation's result comes from, read off torchvision's own result.

    Returns the source's flat position, int64 (H * W,), and uint8 (H * W,): 1 where it lies inside the image, else 0.
    """
    numbered = torch.arange(1.0, height * width + 1).view(1, 1, height, width)  # 0 is left for "outside"
    if name == "Rotate":
        moved = F.rotate(numbered, amount)
    else:
        along = np.array([1, 0] if name.endswith("X") else [0, 1])
        shear, translate, center = [0.0, 0.0], [0, 0], None
        if name.startswith("Shear"):
            shear, center = (math.degrees(math.atan(amount)) * along).tolist(), [0, 0]
        else:
            translate = (int(amount) * along).tolist()
        moved = F.affine(numbered, angle=0.0, translate=translate, scale=1.0, shear=shear, center=center)
    source = moved.flatten().long()
    return to_device((source - 1).clamp_(min=0), device), to_device((source > 0).to(torch.uint8), device)


def _move_pixels(images: torch.Tensor, name: str, amount: float) -> torch.Tensor:
    # Nearest-neighbour geometry only copies pixels: a gather takes half the time of torchvision's grid_sample on
    # floats, and gives the same on every device.
    n, channels, height, width = images.shape
    source, inside = _source_pixels(name, amount, height, width, images.device)
    rows = images.reshape(n * channels, height * width)
    return rows.gather(1, source.expand_as(rows)).mul_(inside).view(images.shape)


def _sharpen(images: torch.Tensor, factor: float) -> torch.Tensor:
    # F.adjust_sharpness in half its time on the CPU, and without its copy of a kernel that CUDA would wait for:
    # sums of neighbours in place of a convolution. Bytes have exact sums in float32.
    pixels = images.to(torch.float32)
    inner = pixels[..., 1:-1, 1:-1]
    column = pixels[..., :-2, :] + pixels[..., 1:-1, :] + pixels[..., 2:, :]
    around = column[..., :-2] + column[..., 1:-1] + column[..., 2:]
    blurred = around.add_(inner, alpha=4).div_(13).round_()  # weights 1, in the centre 5; the border stays as it is
    inner.add_(blurred.sub_(inner), alpha=1.0 - factor)
    return pixels.clamp_(0, 255).to(torch.uint8)


def apply_op(images: torch.Tensor, name: str, amount: float) -> torch.Tensor:
    """One operation of OPS, with its signed strength, on each of n images: uint8 (n, 3, H, W) in and out.

    Raises ValueError if the name is unknown.
    """
    if name in GEOMETRIC:
        return _move_pixels(images, name, amount)
    match name:
        case "Identity":
            return images
        case "Brightness":
            return F.adjust_brightness(images, 1.0 + amount)
        case "Color":
            return F.adjust_saturation(images, 1.0 + amount)
        case "Contrast":
            return F.adjust_contrast(images, 1.0 + amount)
        case "Sharpness":
            return _sharpen(images, 1.0 + amount)
        case "Posterize":
            return F.posterize(images, int(amount))
        case "Solarize":
            # Inverting a byte flips all its bits. F.solarize gives the same, in four times the time on the CPU.
            return images ^ (images >= amount).to(torch.uint8).neg_()
        case "AutoContrast":
            return F.autocontrast(images)
        case "Equalize":
            return F.equalize(images)
    raise ValueError(f"{name!r} is no operation of RandAugment; allowed are {', '.join(OPS)}.")


def apply(images: torch.Tensor, draws: Draws, magnitude: int) -> torch.Tensor:
    """Apply to each image the operations it drew, slot after slot.

    images: uint8 (n, 3, H, W) on any device; draws: for these n images; magnitude: 0..30.
    Returns uint8 (n, 3, H, W): what torchvision.transforms.v2.RandAugment, with nearest interpolation and black fill,
    makes of each image with the same draws. Raises ValueError if the draws are not for n images.
    """
    if len(draws) != len(images):
        raise ValueError(f"The draws are for {len(draws)} images, but {len(images)} images came.")
    n, _, height, width = images.shape
    per_call = max(1, CPU_VALUES_PER_CALL // (3 * height * width)) if images.device.type == "cpu" else n
    for slot in range(draws.op.shape[1]):
        # Images are grouped where the draws are, on the host: the device is never asked which image drew what.
        variant = 2 * draws.op[:, slot] + draws.negative[:, slot]
        by_variant = np.argsort(variant, kind="stable")
        grouped = images.index_select(0, to_device(torch.from_numpy(by_variant), images.device))
        counts = np.bincount(variant, minlength=2 * len(OPS)).tolist()
        for number, group in enumerate(grouped.split(counts)):
            name, sign = OPS[number // 2], -1.0 if number % 2 else 1.0
            if name != "Identity" and len(group):
                amount = sign * strength(name, magnitude, height, width)
                for part in group.split(per_call):
                    part.copy_(apply_op(part, name, amount))
        images = grouped.index_select(0, to_device(torch.from_numpy(np.argsort(by_variant)), images.device))
    return images


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A host tensor on the device, without waiting for the device: CUDA copies at leisure from pinned memory only."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
