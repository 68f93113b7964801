"""`shapes`: a generated dataset whose every image says where its object is.

One object of ten kinds, of random colour, size, tilt and place, lies over cluttered ground: a colour gradient,
noise at several scales and stray strokes. The kind decides the outline and nothing else: colour, area, tilt and
place are drawn in the same way for all kinds, so that only shape tells them apart. The exact mask of the object comes
with every image, which makes it possible to ask whether kept tokens are the object's.

Image i of a split is a function of (split, i, image_size) alone; no training seed changes it. On another kind of CPU
matrix products round otherwise, which moves one of a million values by one of 255 steps: other images, by their digest.
Symbols: n images, S pixels a side; coordinates x to the right and y downwards, in units of the image's side.
"""

import math
from typing import NamedTuple

import numpy as np
import torch

from ptd_core.data.dataset import Dataset, Split, check_subset_size, pixel_statistics
from ptd_core.data.shape_kinds import KINDS, outlines
from ptd_core.errors import DataError
from ptd_core.machine.randomness import generator

TRAIN_IMAGES = 8_000
TEST_IMAGES = 2_000
MIN_IMAGE_SIZE = 16
DATASET_SEED = 2024
CHUNK = 100  # images drawn from one generator; few, so that working arrays stay in the processor's cache
AREA = (0.09, 0.22)  # of the object, as a share of the image, uniform
SUPERSAMPLING = 4  # points a side within each pixel
TILT = math.pi / 8  # either way, uniform
STROKES = 2


class Scene(NamedTuple):
    """What `draw` made, and with which choices; `images`, `labels` and `masks` become a Split.

    images: uint8 (n, S, S, 3). labels: int64 (n,). masks: bool (n, S, S), where at least half of the pixel is object.
    colours: float32 (n, 3) in [0, 1], of the object before shading. areas: float32 (n,), share of the image.
    centres: float32 (n, 2), of the object, x and y.
    """

    images: np.ndarray
    labels: np.ndarray
    masks: np.ndarray
    colours: np.ndarray
    areas: np.ndarray
    centres: np.ndarray


def draw(split: str, count: int, image_size: int) -> Scene:
    """The first `count` images of a split ("train" or "test"); image i shows kind i modulo the number of kinds."""
    chunks = []
    for number in range(-(-count // CHUNK)):
        chunk = _draw_chunk(split, number, image_size)
        chunks.append([part[: count - number * CHUNK] for part in chunk])
    return Scene(*(np.concatenate(parts) for parts in zip(*chunks, strict=True)))


def load_shapes(*, image_size: int = 32, subset: int = 0, test_subset: int = 0) -> Dataset:
    """The dataset with its masks: images uint8 (n, 3, S, S) for any S = image_size of at least 16.

    subset, test_subset: the first so many images, which are class-balanced; 0 for all 8,000 and 2,000.
    Raises DataError if image_size is too small, or if more images, or fewer than there are classes, are asked for.
    """
    if image_size < MIN_IMAGE_SIZE:
        raise DataError(f"shapes needs an image_size of at least {MIN_IMAGE_SIZE}; it is {image_size}.")
    splits = {}
    for split, size, available in (("train", subset, TRAIN_IMAGES), ("test", test_subset, TEST_IMAGES)):
        check_subset_size(size, available, len(KINDS), f"{split} images of shapes")
        scene = draw(split, size or available, image_size)
        images = np.ascontiguousarray(scene.images.transpose(0, 3, 1, 2))
        splits[split] = Split(*map(torch.from_numpy, (images, scene.labels, scene.masks)))
    mean, std = pixel_statistics(splits["train"].images)
    return Dataset("shapes", splits["train"], splits["test"], tuple(KINDS), mean, std)


def _draw_chunk(split: str, number: int, size: int) -> Scene:
    rng = generator(DATASET_SEED, number, f"shapes {split}")
    labels = (np.arange(CHUNK) + number * CHUNK) % len(KINDS)
    areas = rng.uniform(*AREA, CHUNK).astype(np.float32)
    # The widest kind of this area must fit, and all kinds share its margin: place does not give the kind away.
    reach = max(outline.reach / math.sqrt(outline.area) for outline in outlines()) * np.sqrt(areas)[:, None]
    centres = (reach + rng.random((CHUNK, 2), dtype=np.float32) * (1 - 2 * reach)).astype(np.float32)
    angles = rng.uniform(-TILT, TILT, CHUNK).astype(np.float32)
    coverage = _coverage(labels, areas, centres, angles, size)

    ground = _ground(rng, size)
    colours = _visible_colours(rng, ground.mean(axis=(1, 2)))
    shading = 0.07 * _noise(rng, 1, 4, size) + 0.03 * _noise(rng, 1, size, size)
    weight = coverage[..., None]
    image = ground * (1 - weight) + (colours[:, None, None] + shading) * weight
    image = (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
    return Scene(image, labels, coverage >= 0.5, colours, areas, centres)


def _coverage(labels: np.ndarray, areas: np.ndarray, centres: np.ndarray, angles: np.ndarray, size: int) -> np.ndarray:
    """float32 (n, S, S): the share of each pixel that the object covers, from 4 x 4 points within it."""
    points = size * SUPERSAMPLING
    axis = (np.arange(points, dtype=np.float32) + 0.5) / points
    coverage = np.empty((len(labels), size, size), dtype=np.float32)
    for label, (inside, outline) in enumerate(zip(KINDS.values(), outlines(), strict=True)):
        which = np.flatnonzero(labels == label)
        scale = np.sqrt(outline.area / areas[which])  # from the image's units to the kind's own
        cos, sin = scale * np.cos(angles[which]), scale * np.sin(angles[which])
        across = (axis - centres[which, :1])[:, None, :]  # (m, 1, points)
        down = (axis - centres[which, 1:])[:, :, None]  # (m, points, 1)
        cos, sin = cos[:, None, None], sin[:, None, None]
        x = cos * across - sin * down + outline.centre[0]
        y = sin * across + cos * down + outline.centre[1]
        hit = inside(x, y).reshape(len(which), size, SUPERSAMPLING, size, SUPERSAMPLING)
        coverage[which] = hit.sum(axis=4, dtype=np.uint8).sum(axis=2, dtype=np.float32) / SUPERSAMPLING**2
    return coverage


def _noise(rng: np.random.Generator, channels: int, cells: int, size: int) -> np.ndarray:
    """float32 (n, S, S, channels): standard normal values on cells x cells points, with straight lines between."""
    values = rng.standard_normal((CHUNK, channels, cells, cells), dtype=np.float32)
    position = (np.arange(size, dtype=np.float32) + 0.5) / size * (cells - 1)
    weights = np.maximum(0, 1 - np.abs(position[:, None] - np.arange(cells, dtype=np.float32)))  # (S, cells)
    return np.ascontiguousarray((weights @ values @ weights.T).transpose(0, 2, 3, 1))


def _ground(rng: np.random.Generator, size: int) -> np.ndarray:
    """float32 (n, S, S, 3): two colours blended by a slanted gradient, with noise and strokes."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    colours = rng.uniform(0.15, 0.85, (2, CHUNK, 1, 1, 3)).astype(np.float32)
    slant = rng.uniform(0, 2 * np.pi, (CHUNK, 1, 1)).astype(np.float32)
    blend = 0.5 + (axis - 0.5) * np.cos(slant) + (axis[:, None] - 0.5) * np.sin(slant)
    ground = colours[0] + (colours[1] - colours[0]) * np.clip(blend, 0, 1)[..., None]
    for cells, strength in ((4, 0.08), (8, 0.05), (size // 2, 0.03)):
        ground += strength * _noise(rng, 3, cells, size)
    for _ in range(STROKES):
        _stroke(rng, ground, axis)
    return np.clip(ground, 0, 1)


def _stroke(rng: np.random.Generator, ground: np.ndarray, axis: np.ndarray) -> None:
    """Draws one line with round ends into each image, in place: edges and corners that belong to no object."""
    start, end = rng.uniform(-0.1, 1.1, (2, CHUNK, 2, 1, 1)).astype(np.float32)
    half_width = rng.uniform(0.012, 0.04, (CHUNK, 1, 1)).astype(np.float32)
    colour = rng.uniform(0, 1, (CHUNK, 1, 1, 3)).astype(np.float32)
    along = end - start
    x, y = axis - start[:, 0], axis[:, None] - start[:, 1]  # (n, 1, S), (n, S, 1)
    nearest = np.clip((x * along[:, 0] + y * along[:, 1]) / (along**2).sum(axis=1), 0, 1)
    distance = np.sqrt((x - nearest * along[:, 0]) ** 2 + (y - nearest * along[:, 1]) ** 2)
    weight = np.clip((half_width - distance) * len(axis) + 0.5, 0, 1)[..., None]  # edges one pixel soft
    ground += weight * (colour - ground)


def _visible_colours(rng: np.random.Generator, ground: np.ndarray) -> np.ndarray:
    """float32 (n, 3): of four random colours, the one that stands out most from the image's mean (n, 3)."""
    candidates = rng.uniform(0, 1, (4, CHUNK, 3)).astype(np.float32)
    farthest = np.square(candidates - ground).sum(axis=2).argmax(axis=0)
    return candidates[farthest, np.arange(CHUNK)]
