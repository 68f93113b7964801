"""The stream of batches: its order, its mixing weights, and masks that stay on their objects."""

import pytest
import torch

from ptd_core.data import augment, batches
from ptd_core.data.augment import Augmentation, augment_epoch
from ptd_core.data.batches import Batches
from ptd_core.data.dataset import Split
from ptd_core.data.mixing import Mixing, mixing_weights
from ptd_core.errors import DataError, RecipeError
from ptd_core.machine.randomness import generator
from ptd_core.trainer import Trainer


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


def test_epochs_of_fewer_images_go_through_all_of_them():
    """50 images in batches of 4: 12 batches, so 2 epochs of 5 with one order; 40 images, each once."""
    split = Split(torch.arange(50, dtype=torch.uint8).view(50, 1, 1, 1).expand(50, 3, 8, 8).contiguous(),
                  torch.arange(50))  # fmt: skip
    stream = Batches(split, 4, Augmentation(), steps=5, seed=2)
    seen = [[label for batch in stream.epoch(epoch) for label in batch.labels.tolist()] for epoch in range(4)]
    assert [len(epoch) for epoch in seen] == [20] * 4
    assert len({*seen[0], *seen[1]}) == len({*seen[2], *seen[3]}) == 40
    assert seen[:2] != seen[2:] and {*seen[0], *seen[1]} != {*seen[2], *seen[3]}
    assert [label for batch in stream.epoch(3, 2) for label in batch.labels.tolist()] == seen[3][8:]
    whole = [batch.labels.tolist() for batch in Batches(split, 4, Augmentation(), seed=2).epoch(0)]
    assert [label for batch in whole for label in batch][:40] == [*seen[0], *seen[1]]  # the same order as without
    assert len(whole) == 12 and Batches(split, 4, Augmentation(), steps=12, seed=2).steps == 12
    with pytest.raises(ValueError, match="50 images fill 12 batches of 4; 13 were asked for"):
        Batches(split, 4, Augmentation(), steps=13)


def test_an_epoch_cannot_have_more_images_than_there_are(tiny, tiny_shapes):
    with pytest.raises(DataError, match="epoch_images = 161: there are 160 training images"):
        Trainer(tiny(subset=0, epoch_images=161), tiny_shapes)
    for settings, words in (({"epoch_images": 31}, "do not fill one batch"), ({"epoch_images": 161}, "image twice")):
        with pytest.raises(RecipeError, match=words):
            tiny().replace(**settings)
    whole, parts = tiny(), tiny(epoch_images=96)
    assert "epoch_images" not in whole.settings() and whole.fingerprint != parts.fingerprint
