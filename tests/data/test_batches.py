"""The stream of batches: its order, its mixing weights, and masks that stay on their objects."""

import pytest
import torch

from ptd_core.data import augment, batches
from ptd_core.data.augment import Augmentation, augment_epoch
from ptd_core.data.batches import Batches
from ptd_core.data.dataset import Split
from ptd_core.data.mixing import Mixing, mixing_weights
from ptd_core.machine.randomness import generator


def masked_split(n=50, side=16):
    """Images that are white where their object is and black elsewhere: the mask can be read off the pixels."""
    masks = torch.rand(n, side, side, generator=torch.Generator().manual_seed(0)) < 0.4
    images = (masks[:, None] * torch.ones(1, 3, 1, 1)).mul(255).byte()
    return Split(images, torch.arange(n) % 7, masks)


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("flip", [False, True])
def test_masks_ride_through_crop_and_flip(padding, flip):
    batches = Batches(masked_split(), 8, Augmentation(crop_padding=padding, flip=flip), seed=3, masks=True)
    seen = list(batches.epoch(2))
    assert len(seen) == batches.steps == 6
    for batch in seen:
        assert batch.masks.dtype == torch.bool and batch.masks.shape == (8, 16, 16)
        assert torch.equal(batch.masks, batch.images[:, 0] > 0.5)  # beyond the image there is no object
    assert any(batch.masks.any() for batch in seen)


def test_masks_come_only_where_they_are_asked_for_and_known():
    split = masked_split()
    assert next(Batches(split, 8, Augmentation()).epoch(0)).masks is None
    unknown = Split(split.images, split.labels)
    assert next(Batches(unknown, 8, Augmentation(), masks=True).epoch(0)).masks is None


def test_masks_that_would_not_follow_their_objects_are_refused():
    with pytest.raises(ValueError, match="rand_ops must be 0, got 2"):
        Batches(masked_split(), 8, Augmentation(rand_ops=2, rand_magnitude=9), masks=True)


def test_masks_do_not_change_the_other_draws():
    split, augmentation = masked_split(), Augmentation(2, True, erase=0.5)
    with_masks = Batches(split, 8, augmentation, Mixing(0.8, 1.0), masks=True).epoch(1)
    for one, two in zip(with_masks, Batches(split, 8, augmentation, Mixing(0.8, 1.0)).epoch(1)):
        assert all(torch.equal(getattr(one, name), getattr(two, name)) for name in ("images", "labels", "mix"))


@pytest.mark.parametrize("budget", [1, 5_000, 20_000, 60_000])
def test_memory_for_augmentation_is_counted_in_bytes_and_changes_nothing(budget, monkeypatch):
    split, augmentation = masked_split(side=16), Augmentation(2, True, rand_ops=1, rand_magnitude=9, erase=0.5)
    stream = Batches(split, 8, augmentation, seed=5)
    whole = torch.cat([batch.images for batch in stream.epoch(4)])
    made, worked = [], []
    augment_all, apply = batches.augment_epoch, augment.randaugment.apply

    def ahead(*arguments, **options):
        for chunk in augment_all(*arguments, **options):
            made.append(len(chunk))
            yield chunk

    def at_once(images, *arguments):
        worked.append(len(images))
        return apply(images, *arguments)

    monkeypatch.setattr(batches, "augment_epoch", ahead)
    monkeypatch.setattr(augment.randaugment, "apply", at_once)
    monkeypatch.setitem(batches.BYTES_AHEAD, "cpu", budget)
    monkeypatch.setitem(augment.BLOCK_BYTES, "cpu", budget)
    assert torch.equal(torch.cat([batch.images for batch in stream.epoch(4)]), whole)
    image = 4 * 3 * 16 * 16
    assert max(made) == max(8, budget // image // 8 * 8)  # a batch at least
    assert max(worked) == max(1, min(max(made), budget // image))


def test_images_labels_and_weights_are_those_of_their_parts():
    split, augmentation, mixing = masked_split(), Augmentation(2, True), Mixing(0.8, 1.0)
    batches = list(Batches(split, 8, augmentation, mixing, seed=5).epoch(4))
    order = generator(5, 4, "order").permutation(50)[:48]
    images = torch.cat(list(augment_epoch(split.images, order, augmentation, seed=5, epoch=4, chunk=7)))
    assert torch.equal(torch.cat([batch.images for batch in batches]), images)
    assert torch.equal(torch.cat([batch.labels for batch in batches]), split.labels[torch.from_numpy(order)])
    weights = mixing_weights(6, 16, mixing, seed=5, epoch=4)
    assert torch.equal(torch.stack([batch.mix for batch in batches]), weights)
