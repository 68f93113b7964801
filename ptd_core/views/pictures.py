"""Pictures as text, for web pages: images as data addresses, colour maps as hexadecimal digits, masks as outlines."""

import base64
import io

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.colors import to_hex
from PIL import Image
from torch import Tensor


def png_address(image_3SS: Tensor) -> str:
    """A uint8 image (3, S, S) as a data: address of a PNG, lossless."""
    file = io.BytesIO()
    Image.fromarray(image_3SS.permute(1, 2, 0).numpy()).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def shrink(image_3SS: Tensor, side: int) -> Tensor:
    """A uint8 image (3, S, S), reduced to at most `side` pixels a side."""
    if image_3SS.shape[-1] <= side:
        return image_3SS
    small = Image.fromarray(image_3SS.permute(1, 2, 0).numpy()).resize((side, side), Image.Resampling.BOX)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1)


def colour_table(name: str) -> str:
    """The 256 colours of a matplotlib map, six hexadecimal digits each."""
    return "".join(to_hex(colour)[1:] for colour in colormaps[name](np.arange(256)))


def outline_path(mask_SS: Tensor) -> str:
    """The border of a bool mask (S, S) as an SVG path in pixels: every edge between inside and outside."""
    padded = np.pad(mask_SS.numpy(), 1)
    across = np.argwhere(padded[1:, 1:-1] != padded[:-1, 1:-1])  # row of the edge, column of its left end
    down = np.argwhere(padded[1:-1, 1:] != padded[1:-1, :-1])
    return "".join([f"M{x} {y}h1" for y, x in across] + [f"M{x} {y}v1" for y, x in down])
