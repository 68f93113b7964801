"""What a trained model does: its accuracy, with all tokens or with fewer, and where its class token looks.

Shapes: B images, H heads, G tokens a side (G * G = N patch tokens), S pixels a side.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ptd_core.data.dataset import Split
from ptd_core.machine.ranks import Ranks
from ptd_core.step import autocast
from ptd_core.token_drop import Keep
from ptd_core.tokens.vit_parts import class_attention_row


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
    batch_size: int = 256,
    keep: Keep | None = None,
    precision: str = "fp32",
    ranks: Ranks = Ranks(),  # noqa: B008  frozen
    after_batch: Callable[[], None] = lambda: None,
) -> tuple[float, float]:
    """Mean cross-entropy in nats and accuracy in percent of a model on a split, in evaluation mode.

    model: a ViT, on the split's device; with `keep` a TokenDropViT, which then keeps so many patch tokens. normalise:
    images in [0, 1] -> what the model takes. ranks: each process computes its shard of every batch; the sums are
    over all. after_batch is called after every batch; it may raise to stop.
    """
    loss = torch.zeros((), device=split.images.device)
    correct = torch.zeros((), device=split.images.device)
    with evaluating(model):
        for images, labels in zip(split.images.split(batch_size), split.labels.split(batch_size)):
            images, labels = ranks.shard(images), ranks.shard(labels)
            if len(images):  # the last batch may hold fewer than there are processes
                with autocast(images.device, precision):
                    images = normalise(images.float() / 255)
                    logits = model(images) if keep is None else model(images, keep)
                loss += F.cross_entropy(logits.float(), labels, reduction="sum")
                correct += (logits.argmax(dim=1) == labels).sum()
            after_batch()
    loss, correct = ranks.sum(torch.stack([loss, correct])).tolist()
    return loss / len(split), 100 * correct / len(split)


@torch.no_grad()
def attention_maps(vit: nn.Module, images: Tensor, block: int) -> Tensor:
    """The class token's attention to each patch token, per head: normalised images (B, 3, S, S) -> (B, H, G, G).

    vit: any ViT that TokenDropViT takes, here with none of its tokens dropped. On the CPU. Raises ValueError for
    another model, and for images that are not square.
    """
    if images.shape[-1] != images.shape[-2]:
        raise ValueError(f"images must be square; got {tuple(images.shape)}")
    with evaluating(vit):
        patches = class_attention_row(vit, images, block)[:, :, vit.num_prefix_tokens :]
    side = round(patches.shape[2] ** 0.5)
    return patches.unflatten(2, (side, side)).cpu()
