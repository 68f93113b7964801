"""Resized crops against torchvision's: the parts that are drawn, every pixel of them, and what rides along."""

import math

import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms.v2 import functional as F

from ptd_core.data import resized_crop
from ptd_core.data.augment import Augmentation, augment_epoch, augment_masks
from ptd_core.data.resized_crop import ResizedCrop, crop_masks
from ptd_core.errors import RecipeError
from ptd_core.machine.randomness import generator

SIZE = 24
RNG = np.random.default_rng(0)
IMAGES = torch.from_numpy(RNG.integers(0, 256, (40, 3, SIZE, SIZE), dtype=np.uint8))
CROPS = ResizedCrop().draw(RNG, 40, SIZE)
CROPS[:, :4] = np.array([[0, 0, SIZE, SIZE], [3, 4, 1, 1], [0, 23, SIZE, 1], [2, 5, 20, 3]]).T
FLIP = RNG.random(40) < 0.5


@pytest.mark.parametrize("one_by_one_from", [1, 1000])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_pixels_are_torchvisions(interpolation, one_by_one_from, monkeypatch):
    monkeypatch.setattr(resized_crop, "ONE_BY_ONE", one_by_one_from)
    found = ResizedCrop(crop_interpolation=interpolation).apply(IMAGES, CROPS, FLIP)
    assert found.dtype == torch.uint8
    mode = InterpolationMode[interpolation.upper()]
    for image, crop, mirrored, pixels in zip(IMAGES, CROPS.T.tolist(), FLIP, found):
        expected = F.resized_crop(image.double(), *crop, [SIZE, SIZE], mode, antialias=True).clamp(0, 255)
        assert (pixels - (expected.flip(-1) if mirrored else expected)).abs().max() < 0.501  # the nearest byte
    assert torch.equal(found[0], IMAGES[0].flip(-1) if FLIP[0] else IMAGES[0])


@pytest.mark.parametrize("one_by_one_from", [1, 1000])
def test_pixels_of_a_larger_image_are_torchvisions(one_by_one_from, monkeypatch):
    monkeypatch.setattr(resized_crop, "ONE_BY_ONE", one_by_one_from)
    image = torch.from_numpy(RNG.integers(0, 256, (1, 3, 225, 225), dtype=np.uint8))
    for crop in ([0, 0, 225, 225], [10, 7, 63, 80], [100, 3, 120, 200], [224, 224, 1, 1]):
        found = ResizedCrop().apply(image, np.array(crop)[:, None], np.array([False]))
        expected = F.resized_crop(image.double(), *crop, [225, 225], InterpolationMode.BICUBIC, antialias=True)
        assert (found - expected.clamp(0, 255)).abs().max() < 0.505


@pytest.mark.parametrize(("scale", "ratio"), [(0.08, 0.75), (0.8, 0.5), (1.0, 0.3)])
def test_parts_are_distributed_as_torchvisions(scale, ratio):
    n, size = 4000, 32
    ours = ResizedCrop(crop_scale_min=scale, crop_ratio_min=ratio).draw(np.random.default_rng(1), n, size)
    torch.manual_seed(1)
    image = torch.empty(3, size, size)
    theirs = [RandomResizedCrop.get_params(image, [scale, 1.0], [ratio, 1 / ratio]) for _ in range(n)]
    theirs = np.array(theirs).T
    for mine, reference in (*zip(ours, theirs), (ours[2] * ours[3], theirs[2] * theirs[3])):
        # Largest distance of the two distributions (Kolmogorov-Smirnov): beyond this once in a thousand.
        grid = np.arange(size * size + 1)
        ecdf = [np.searchsorted(np.sort(v), grid, side="right") / n for v in (mine, reference)]
        assert np.abs(ecdf[0] - ecdf[1]).max() < 1.95 * math.sqrt(2 / n)
    whole = [np.mean((v[2] == size) & (v[3] == size)) for v in (ours, theirs)]
    assert whole[0] == pytest.approx(whole[1], abs=0.04)
    assert (ours[:2] >= 0).all() and (ours[2:] >= 1).all() and (ours[:2] + ours[2:] <= size).all()


def test_an_image_of_one_pixel_stays_whole():
    assert ResizedCrop().draw(np.random.default_rng(0), 3, 1).tolist() == [[0] * 3, [0] * 3, [1] * 3, [1] * 3]


def test_masks_ride_along():
    """A mask is cropped, resized to the nearest pixel and mirrored with its image."""
    masks = torch.from_numpy(RNG.random((40, SIZE, SIZE)) < 0.5)
    found = crop_masks(masks, CROPS, FLIP)
    for mask, (top, left, height, width), mirrored, got in zip(masks, CROPS.T.tolist(), FLIP, found):
        for row in range(SIZE):
            for column in range(SIZE):
                across = SIZE - 1 - column if mirrored else column
                middle = int((row + 0.5) * height / SIZE), int((across + 0.5) * width / SIZE)
                assert got[row, column] == mask[top + middle[0], left + middle[1]]

    plain = Augmentation(resized=ResizedCrop(), flip=True)
    order, white = RNG.permutation(40), torch.zeros(40, 1, SIZE, SIZE, dtype=torch.bool)
    white[:, :, 5:17, 9:21] = True
    images = (255 * white.byte()).expand(-1, 3, -1, -1).contiguous()
    pixels = torch.cat(list(augment_epoch(images, order, plain, seed=0, epoch=1, chunk=7)))[:, 0]
    shown = augment_masks(white[:, 0], order, plain, seed=0, epoch=1)
    assert ((pixels > 0.5) == shown).float().mean() > 0.95  # but for pixels that an edge goes through
    assert 0 < shown.float().mean() < 1 and not torch.equal(shown[0], shown[1])


def test_an_epoch_is_a_function_of_seed_epoch_and_position():
    full = Augmentation(resized=ResizedCrop(), flip=True, rand_ops=1, rand_magnitude=5, erase=0.3)

    def epoch(chunk=40, **draws):
        draws = {"seed": 0, "epoch": 0, **draws}
        return torch.cat(list(augment_epoch(IMAGES, np.arange(40), full, **draws, chunk=chunk)))

    whole = epoch()
    assert (epoch(7) == whole).float().mean() > 0.999  # a library may sum products of more images in another order
    assert torch.equal(epoch(), whole) and not torch.equal(epoch(seed=1), whole)
    assert not torch.equal(epoch(epoch=1), whole)

    resized = Augmentation(resized=ResizedCrop(), flip=True)
    out = torch.cat(list(augment_epoch(IMAGES, np.arange(40), resized, seed=3, epoch=2, chunk=9)))
    crops = ResizedCrop().draw(generator(3, 2, "resized crop"), 40, SIZE)
    flip = generator(3, 2, "flip").random(40) < 0.5
    assert torch.allclose(out, ResizedCrop().apply(IMAGES, crops, flip) / 255, atol=1.01 / 255)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop": "resized", "crop_padding": 4}, "crop = 'resized', crop_padding = 4: a resized crop has no padding"),
        ({"crop_scale_min": 0.5}, "crop = 'padded', crop_scale_min = 0.5: crop_scale_min is of crop = 'resized' alone"),
        ({"crop_interpolation": "bilinear"}, "crop_interpolation is of crop = 'resized' alone"),
        ({"crop": "resized", "crop_scale_min": 0.0}, "crop_scale_min"),
        ({"crop": "resized", "crop_ratio_min": 1.1}, "crop_ratio_min"),
    ],
)
def test_contradictions_are_refused(tiny, settings, message):
    with pytest.raises(RecipeError, match=message):
        tiny().replace(**settings)


def test_bad_values_are_refused_by_name():
    for field, value in (("crop_scale_min", 0.0), ("crop_ratio_min", 1.5), ("crop_interpolation", "cubic")):
        with pytest.raises(ValueError, match=field):
            ResizedCrop(**{field: value})
    with pytest.raises(ValueError, match="crop_padding"):
        Augmentation(crop_padding=1, resized=ResizedCrop())
