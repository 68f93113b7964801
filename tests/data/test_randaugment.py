"""RandAugment on whole batches against torchvision's, which treats one image at a time."""

from collections import Counter

import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode, RandAugment, autoaugment, v2

from ptd_core.data import randaugment
from ptd_core.data.randaugment import OPS, SIGNED, Draws, apply, apply_op, draw

VARIANTS = [(name, negative) for name in OPS for negative in ([False, True] if name in SIGNED else [False])]


def pictures(size: int) -> torch.Tensor:
    """uint8 (10, 3, size, size): noise, dark noise, a ramp, few colours, one colour: what histograms trip over."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (4, 3, size, size), generator=generator)
    dark = torch.randint(20, 90, (2, 3, size, size), generator=generator)
    ramp = torch.linspace(0, 255, size * size).round().view(1, 1, size, size).expand(1, 3, size, size).long()
    few = torch.randint(0, 2, (1, 3, size, size), generator=generator) * 200 + 17
    flat = torch.tensor([0, 255]).view(2, 1, 1, 1).expand(2, 3, size, size)
    return torch.cat([noise, dark, ramp, few, flat]).to(torch.uint8)


def torchvision_one(image: torch.Tensor, name: str, magnitude: int, negative: bool) -> torch.Tensor:
    """One image (3, H, W) through torchvision's own code for the operation (transforms v2)."""
    transform = v2.RandAugment()
    magnitudes, signed = transform._AUGMENTATION_SPACE[name]
    values = magnitudes(31, *image.shape[-2:])
    amount = 0.0 if values is None else float(values[magnitude])
    assert signed or not negative
    amount = -amount if negative else amount
    return transform._apply_image_or_video_transform(image, name, amount, transform.interpolation, transform._fill)


def torchvision_v1_one(image: torch.Tensor, name: str, magnitude: int, negative: bool) -> torch.Tensor:
    values, _ = RandAugment()._augmentation_space(31, tuple(image.shape[-2:]))[name]
    amount = float(values[magnitude]) if values.ndim else 0.0
    return autoaugment._apply_op(image, name, -amount if negative else amount, InterpolationMode.NEAREST, None)


def draws_of(ops: list[list[tuple[str, bool]]]) -> Draws:
    op = np.array([[OPS.index(name) for name, _ in slots] for slots in ops])
    return Draws(op, np.array([[negative for _, negative in slots] for slots in ops]))


def test_operations_are_torchvisions():
    space = RandAugment()._augmentation_space(31, (32, 32))
    assert list(OPS) == list(space)
    assert {name for name in OPS if name in SIGNED} == {name for name, (_, signed) in space.items() if signed}
    assert len(VARIANTS) == 23


@pytest.mark.parametrize("size", [32, 20])
@pytest.mark.parametrize("magnitude", range(31))
def test_every_operation_equals_torchvision_image_by_image(size, magnitude):
    images = pictures(size)
    for name, negative in VARIANTS:
        ours = apply(images, draws_of([[(name, negative)]] * len(images)), magnitude)
        theirs = torch.stack([torchvision_one(image, name, magnitude, negative) for image in images])
        assert torch.equal(ours, theirs), (name, negative)
        # torchvision's older transforms round three operations otherwise, by one level of 256.
        # Their threshold of Solarize falls otherwise on a whole level at three magnitudes.
        if name == "Solarize" and magnitude in (16, 18, 24):
            continue
        older = torch.stack([torchvision_v1_one(image, name, magnitude, negative) for image in images])
        most = 1 if name in ("Color", "Sharpness", "AutoContrast") else 0
        assert (ours.int() - older.int()).abs().max() <= most, (name, negative)


def test_mixed_draws_equal_torchvision_image_by_image(monkeypatch):
    # Calls of at most 3 images, so that groups are cut as they are for large batches.
    monkeypatch.setattr(randaugment, "CPU_VALUES_PER_CALL", 3 * 3 * 32 * 32)
    images = pictures(32).repeat(20, 1, 1, 1)
    before = images.clone()
    draws = draw(np.random.default_rng(1), len(images), 2)
    ours = apply(images, draws, 10)
    for image, op, negative, got in zip(images, draws.op, draws.negative, ours, strict=True):
        for index, flipped in zip(op, negative, strict=True):
            image = torchvision_one(image, OPS[index], 10, bool(flipped))
        assert torch.equal(got, image)
    assert torch.equal(images, before)


def test_draws_have_torchvisions_distribution(monkeypatch):
    n = 28_000
    drawn = Counter()

    def record(image, name, amount, **_):
        drawn[name, amount < 0] += 1
        return image

    monkeypatch.setattr(autoaugment, "_apply_op", record)
    torch.manual_seed(0)
    # Magnitude 7: no signed operation has strength 0 there, so the sign shows.
    RandAugment(num_ops=n, magnitude=7)(torch.zeros(3, 32, 32, dtype=torch.uint8))

    draws = draw(np.random.default_rng(0), n // 2, 2)
    ours = Counter((OPS[op], bool(negative)) for op, negative in zip(draws.op.flat, draws.negative.flat, strict=True))
    assert set(ours) == set(drawn) == set(VARIANTS)
    expected = {(name, negative): n / 14 / (2 if name in SIGNED else 1) for name, negative in VARIANTS}
    # Chi-square with 22 degrees of freedom: above 48.3 once in a thousand.
    for counts in (ours, drawn):
        assert sum((counts[v] - expected[v]) ** 2 / expected[v] for v in VARIANTS) < 48.3


def test_slots_are_drawn_independently():
    op = draw(np.random.default_rng(0), 28_000, 2).op
    table = np.zeros((14, 14))
    np.add.at(table, (op[:, 0], op[:, 1]), 1)
    expected = len(op) / 14**2
    assert ((table - expected) ** 2 / expected).sum() < 262  # 195 degrees of freedom, one in a thousand


def test_a_part_of_the_draws_is_for_that_part_of_the_images():
    images = pictures(32)
    draws = draw(np.random.default_rng(2), len(images), 2)
    parts = [apply(images[a:b], draws[a:b], 7) for a, b in [(0, 3), (3, 4), (4, 10)]]
    assert torch.equal(torch.cat(parts), apply(images, draws, 7))


def test_no_operations_change_nothing():
    images = pictures(32)
    assert torch.equal(apply(images, draw(np.random.default_rng(0), len(images), 0), 7), images)


def test_refusals():
    images = pictures(32)
    with pytest.raises(ValueError, match="for 9 images, but 10"):
        apply(images, draw(np.random.default_rng(0), 9, 1), 7)
    with pytest.raises(ValueError, match="'Blur' is no operation"):
        apply_op(images, "Blur", 0.0)
