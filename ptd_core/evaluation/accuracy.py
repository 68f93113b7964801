"""How often a model is right on a split, with all tokens or with fewer."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ptd_core.data.dataset import Split
from ptd_core.machine.ranks import Ranks
from ptd_core.step import autocast
from ptd_core.token_drop import Keep
from ptd_core.tokens.given import Giver

CPU_BYTES = 24 * 2**20  # of images as float32 that are evaluated at once on a CPU, where more is no faster


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode; each of its modules is as it was afterwards, frozen ones too."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@torch.inference_mode()
def accuracy(
    model: nn.Module,
    split: Split,
    normalise: Callable[[Tensor], Tensor],
    *,
    rows: Tensor | None = None,
    batch_size: int = 256,
    keep: Keep | None = None,
    giver: Giver | None = None,
    precision: str = "fp32",
    ranks: Ranks = Ranks(),  # noqa: B008  frozen
    after_batch: Callable[[], None] = lambda: None,
) -> tuple[float, float]:
    """Mean cross-entropy in nats and accuracy in percent of a model on a split, in evaluation mode.

    model: a ViT, on the split's device; with `keep` a TokenDropViT, which then keeps so many patch tokens. giver: of
    its score, if it does not see that itself. normalise: images in [0, 1] -> what the model takes. rows: of the split,
    by default all. batch_size: images at a time; on a CPU fewer of large ones. ranks: each process computes its shard
    of every batch; the sums are over all. after_batch is called after every batch; it may raise to stop.
    """
    loss = torch.zeros((), device=split.device)
    correct = torch.zeros((), device=split.device)
    if split.device.type == "cpu":
        batch_size = min(batch_size, max(1, CPU_BYTES // (4 * split.images.shape[1:].numel())))
    with evaluating(model):
        for batch in split.batches(batch_size, rows, ranks):
            if len(batch):  # the last batch may hold fewer than there are processes
                with autocast(split.device, precision):
                    images = normalise(batch.images.float().div_(255))
                    logits = model(images) if keep is None else model(images, keep, *_given(giver, images, batch))
                loss += F.cross_entropy(logits.float(), batch.labels, reduction="sum")
                correct += (logits.argmax(dim=1) == batch.labels).sum()
            after_batch()
    loss, correct = ranks.sum(torch.stack([loss, correct])).tolist()
    count = len(split) if rows is None else len(rows)
    return loss / count, 100 * correct / count


def _given(giver: Giver | None, images: Tensor, batch: Split) -> tuple[Tensor, ...]:
    """What a giver gives for normalised images and, if anybody knows them, the masks of their objects."""
    masks = () if batch.masks is None else (batch.masks.to(images.device),)
    return () if giver is None else (giver(images, *masks).detach(),)
