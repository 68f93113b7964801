"""The stream of training batches: every epoch's images in its own order, augmented, with labels and mixing weights.

A trainer and the bench read the same stream.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ptd_core.data.augment import Augmentation, augment_epoch, augment_masks
from ptd_core.data.dataset import Split
from ptd_core.data.mixing import Mixing, draw_mixing
from ptd_core.data.randaugment import to_device
from ptd_core.machine.randomness import generator
from ptd_core.machine.ranks import Ranks

# Of augmented images made ahead, float32, but always a whole batch; on the CPU fewer, where fresh memory costs most.
BYTES_AHEAD = {"cpu": 24 * 2**20, "cuda": 96 * 2**20, "mps": 96 * 2**20}


class Batch(NamedTuple):
    """What data hands to a training step of one process.

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

    An epoch of fewer batches than the images fill goes on where the last one ended, in one order of all images; when
    too few are left for another epoch, these sit out and a new order begins.

    split: uint8 images and their labels, on the device that is to make the batches. masks: also give the objects'
    masks, if the split has them. ranks: the processes that share the batches of `batch_size` images; each reads and
    makes its own shard of every batch, the same images as in the whole one. steps: batches in an epoch, by default as
    many as the images fill. Raises ValueError for masks with RandAugment, which moves objects and would leave their
    masks behind, and for more steps than that.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        augmentation: Augmentation,
        mixing: Mixing | None = None,
        *,
        steps: int | None = None,
        seed: int = 0,
        masks: bool = False,
        ranks: Ranks = Ranks(),  # noqa: B008  frozen
    ):
        if masks and augmentation.rand_ops:
            raise ValueError(f"masks do not follow RandAugment; rand_ops must be 0, got {augmentation.rand_ops}")
        self.split, self.batch_size = split, batch_size
        self.augmentation, self.mixing, self.seed = augmentation, mixing, seed
        self.masks = masks and split.masks is not None
        filled = len(split) // batch_size
        self.steps = filled if steps is None else steps
        if self.steps > filled:
            raise ValueError(f"{len(split)} images fill {filled} batches of {batch_size}; {steps} were asked for")
        self._in_order = filled // max(1, self.steps)  # epochs that one order of the images serves
        self._own = ranks.own(batch_size, pairs=mixing is not None)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The epoch's batches from step `first` on; nothing is drawn or read before the first one is asked for."""
        split, size, draws = self.split, len(self._own), {"seed": self.seed, "epoch": epoch}
        order = self._order(epoch)
        places = (np.arange(first, self.steps)[:, None] * self.batch_size + self._own).ravel()
        labels = split.labels[torch.from_numpy(order[places]).to(split.device)].split(size)
        mixing = None
        if self.mixing is not None:
            mixing = draw_mixing(self.steps, split.images.shape[-1], self.mixing, **draws)
        masks = None
        if self.masks:
            masks = augment_masks(split.masks, order, self.augmentation, places=places, **draws)
            masks = masks.to(split.device).split(size)
        batch_bytes = 4 * size * split.images.shape[1:].numel()
        chunk = max(1, BYTES_AHEAD[split.device.type] // batch_bytes) * size
        chunks = augment_epoch(
            split.images, order, self.augmentation, chunk=chunk, places=places, device=split.device,
            ahead=split.read if split.mapped else None, **draws,
        )  # fmt: skip
        for number, images in enumerate(batch for chunk in chunks for batch in chunk.split(size)):
            step = slice(first + number, first + number + 1)
            yield Batch(
                images,
                labels[number],
                None if mixing is None else to_device(mixing.weights(step)[0], split.device),
                None if masks is None else masks[number],
            )

    def _order(self, epoch: int) -> np.ndarray:
        """The rows of the split in the order in which the epoch sees them: (steps * batch_size,)."""
        begun, part = divmod(epoch, self._in_order)
        images = self.steps * self.batch_size
        return generator(self.seed, begun, "order").permutation(len(self.split))[part * images :][:images]
