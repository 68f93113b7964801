"""Mixup and CutMix as weight maps, against torchvision's transforms and against soft targets."""

import numpy as np
import pytest
import torch
import torch.nn.functional as nnf
from torchvision.transforms import v2

from ptd_core.data.mixing import Mixing, mix, mixed_cross_entropy, mixing_weights

SIZE = 32


def weights(steps=50, mixup=0.8, cutmix=1.0, share=0.5, *, size=SIZE, seed=0, epoch=0):
    return mixing_weights(steps, size, Mixing(mixup, cutmix, share), seed=seed, epoch=epoch)


def is_constant(maps: torch.Tensor) -> torch.Tensor:
    return maps.amax((1, 2)) == maps.amin((1, 2))


def test_shape_and_range():
    maps = weights()
    assert maps.shape == (50, SIZE, SIZE) and maps.dtype == torch.float32 and maps.device.type == "cpu"
    assert 0 <= maps.min() and maps.max() <= 1


def test_function_of_seed_and_epoch():
    assert torch.equal(weights(), weights())
    assert not torch.equal(weights(), weights(epoch=1))
    assert not torch.equal(weights(), weights(seed=1))


def test_share_of_cutmix():
    maps = weights(2000, share=0.25)
    is_binary = ((maps == 0) | (maps == 1)).flatten(1).all(1)
    assert is_binary.float().mean() == pytest.approx(0.25, abs=0.04)
    assert is_constant(maps[~is_binary]).all()


def test_an_alpha_of_zero_leaves_the_other():
    assert is_constant(weights(cutmix=0.0, share=1.0)).all()
    assert set(weights(mixup=0.0, share=0.0).unique().tolist()) == {0.0, 1.0}


def test_mixup_lambda_is_beta_distributed():
    lam = weights(4000, mixup=0.8, cutmix=0.0, size=1).flatten().numpy()
    assert lam.mean() == pytest.approx(0.5, abs=0.02)
    assert lam.var() == pytest.approx(1 / (4 * (2 * 0.8 + 1)), abs=0.005)  # Beta(a, a)


def test_cutmix_box_is_distributed_as_torchvisions():
    n = 4000
    ours = weights(n, mixup=0.0, cutmix=1.0)
    torch.manual_seed(0)
    transform, image = v2.CutMix(alpha=1.0, num_classes=2), torch.zeros(2, 3, SIZE, SIZE)
    boxes = np.array([transform.make_params([image])["box"] for _ in range(n)])
    x1, y1, x2, y2 = boxes.T
    line = np.arange(SIZE)
    rows = (line >= y1[:, None]) & (line < y2[:, None])
    columns = (line >= x1[:, None]) & (line < x2[:, None])
    theirs = 1.0 - torch.from_numpy(rows[:, :, None] & columns[:, None, :]).float()
    # Sampling error of a mean of n values is 0.005 here: the bounds are four of them for a difference of two.
    ours_lam, theirs_lam = ours.mean((1, 2)).numpy(), theirs.mean((1, 2)).numpy()
    assert ours_lam.mean() == pytest.approx(theirs_lam.mean(), abs=0.025)
    assert ours_lam.std() == pytest.approx(theirs_lam.std(), abs=0.02)
    assert (ours_lam == 1).mean() == pytest.approx((theirs_lam == 1).mean(), abs=0.02)
    assert torch.allclose(ours.mean(0), theirs.mean(0), atol=0.05)  # pixel by pixel: where boxes lie


def test_cutmix_map_is_one_box():
    for weight in weights(mixup=0.0):
        inside = weight == 0
        rows, columns = inside.any(1), inside.any(0)
        assert torch.equal(inside, rows[:, None] & columns[None, :])
        for line in (rows, columns):
            assert line.int().diff(prepend=torch.zeros(1), append=torch.zeros(1)).eq(1).sum() <= 1


def paired(batch=8):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, 3, SIZE, SIZE, generator=generator)


def with_partner_as_torchvision(transform, images, params):
    """torchvision mixes an image with the one before it: two images alternate roles, so mix each pair on its own."""
    params = {"labels": None, "batch_size": 2, **params}
    mixed = [transform.transform(torch.stack([a, b]), params)[0] for a, b in zip(images, images.flip(0), strict=True)]
    return torch.stack(mixed)


def test_mix_with_a_box_equals_torchvisions_cutmix_exactly():
    images = paired()
    weight = torch.ones(SIZE, SIZE)
    weight[5:20, 8:32] = 0
    expected = with_partner_as_torchvision(v2.CutMix(num_classes=2), images, {"box": (8, 5, 32, 20)})
    assert torch.equal(mix(images, weight), expected)


def test_mix_with_a_constant_equals_torchvisions_mixup():
    images = paired()
    expected = with_partner_as_torchvision(v2.MixUp(num_classes=2), images, {"lam": 0.3})
    torch.testing.assert_close(mix(images, torch.full((SIZE, SIZE), 0.3)), expected)


def test_mix_keeps_the_images_type_and_leaves_them_alone():
    images = paired().bfloat16()
    before = images.clone()
    assert mix(images, weights(1)[0]).dtype == torch.bfloat16
    assert torch.equal(images, before)


@pytest.mark.parametrize("smoothing", [0.0, 0.03])
def test_loss_is_cross_entropy_with_the_soft_target(smoothing):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(8, 10, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 10, (8,), generator=generator)
    lam = weights(4)[2].mean()
    onehot = nnf.one_hot(labels, 10).double()
    target = lam * onehot + (1 - lam) * onehot.flip(0)
    target = (1 - smoothing) * target + smoothing / 10
    expected = -(target * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(mixed_cross_entropy(logits, labels, labels.flip(0), lam, smoothing), expected)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mixup": 0.0, "cutmix": 0.0}, "where nothing is mixed"),
        ({"mixup": -0.1}, "mixup_alpha is -0.1"),
        ({"cutmix": -1.0}, "cutmix_alpha -1.0"),
        ({"share": 1.5}, "cutmix_share is 1.5"),
    ],
)
def test_refusals(values, message):
    with pytest.raises(ValueError, match=message):
        weights(**values)


def test_an_odd_batch_is_refused():
    with pytest.raises(ValueError, match="has 7 images"):
        mix(paired()[:7], torch.ones(SIZE, SIZE))
