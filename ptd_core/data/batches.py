"""The stream of training batches: every epoch's images in its own order, augmented, with labels and mixing weights.

A trainer and the bench read the same stream.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ptd_core.data.augment import Augmentation, augment_epoch, augment_masks
from ptd_core.data.dataset import Split
from ptd_core.data.mixing import Mixing, mixing_weights
from ptd_core.machine.randomness import generator

# Of augmented images made ahead, float32, but always a whole batch; on the CPU fewer, where fresh memory costs most.
BYTES_AHEAD = {"cpu": 24 * 2**20, "cuda": 96 * 2**20, "mps": 96 * 2**20}


class Batch(NamedTuple):
    """What data hands to a training step.

    images: float32 (B, 3, S, S) in [0, 1], not yet mixed. labels: int64 (B,). mix: float32 (S, S), the weight of each
    image against its partner's, None for no mixing. masks: bool (B, S, S), where the objects are in the images before
    mixing, None if nobody asked.
    """

    images: Tensor
    labels: Tensor
    mix: Tensor | None = None
    masks: Tensor | None = None


class Batches:
    """The batches of a run, each epoch a function of (seed, epoch); images that do not fill a last batch sit out.

    split: uint8 images and their labels, on the device that is to make the batches. masks: also give the objects'
    masks, if the split has them. steps: batches in an epoch. Raises ValueError for masks with RandAugment, which moves
    objects and would leave their masks behind.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        augmentation: Augmentation,
        mixing: Mixing | None = None,
        *,
        seed: int = 0,
        masks: bool = False,
    ):
        if masks and augmentation.rand_ops:
            raise ValueError(f"masks do not follow RandAugment; rand_ops must be 0, got {augmentation.rand_ops}")
        self.split, self.batch_size = split, batch_size
        self.augmentation, self.mixing, self.seed = augmentation, mixing, seed
        self.masks = masks and split.masks is not None
        self.steps = len(split) // batch_size

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The epoch's batches; nothing is drawn or augmented before the first one is asked for."""
        split, size, draws = self.split, self.batch_size, {"seed": self.seed, "epoch": epoch}
        order = generator(self.seed, epoch, "order").permutation(len(split))[: self.steps * size]
        device = split.images.device
        labels = split.labels[torch.from_numpy(order).to(device)].split(size)
        weights = self.mixing_weights(epoch)
        masks = None
        if self.masks:
            masks = augment_masks(split.masks, order, self.augmentation, **draws).to(device).split(size)
        batch_bytes = 4 * size * split.images.shape[1:].numel()
        chunk = max(1, BYTES_AHEAD[device.type] // batch_bytes) * size
        chunks = augment_epoch(split.images, order, self.augmentation, chunk=chunk, **draws)
        for step, images in enumerate(batch for chunk in chunks for batch in chunk.split(size)):
            yield Batch(
                images,
                labels[step],
                None if weights is None else weights[step],
                None if masks is None else masks[step],
            )

    def mixing_weights(self, epoch: int) -> Tensor | None:
        """The weight map of every step of an epoch: float32 (steps, S, S) on the device; None for no mixing."""
        if self.mixing is None:
            return None
        images = self.split.images
        weights = mixing_weights(self.steps, images.shape[-1], self.mixing, seed=self.seed, epoch=epoch)
        return weights.to(images.device)
