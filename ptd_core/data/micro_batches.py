"""A batch in parts that are computed one after the other: mixed as a whole, then divided."""

from typing import NamedTuple

from torch import Tensor

from ptd_core.data.batches import Batch
from ptd_core.data.mixing import mix


class MicroBatch(NamedTuple):
    """What is computed at once: images (b, 3, S, S), mixed, and their labels (b,).

    partners: labels (b,) of what was mixed in. share: () of the images' own labels. Both None for no mixing. masks:
    bool (b, S, S), of the images before mixing, or None.
    """

    images: Tensor
    labels: Tensor
    partners: Tensor | None
    share: Tensor | None
    masks: Tensor | None


def micro_batches(batch: Batch, count: int) -> list[MicroBatch]:
    """A batch, or a process's shard of it, in `count` equal parts. Partners are those of the whole, wherever they are.

    Raises ValueError if it does not divide.
    """
    images, labels, weight, masks = batch
    if len(images) % count:
        raise ValueError(f"{len(images)} images do not divide into {count} micro-batches")
    mixed = weight is not None
    whole = (mix(images, weight) if mixed else images, labels, labels.flip(0) if mixed else None, masks)
    parts = ((None,) * count if values is None else values.chunk(count) for values in whole)
    share = weight.mean() if mixed else None
    return [MicroBatch(images, own, partners, share, masks) for images, own, partners, masks in zip(*parts)]
