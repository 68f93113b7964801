"""One training step (mix, forward, loss, backward, clip, update), and the moving average of weights after it."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from ptd_core.data.mixing import mix, mixed_cross_entropy
from ptd_core.machine.fast_path import FastPath
from ptd_core.machine.ranks import Ranks
from ptd_core.recipe import Recipe

PREPARING_STEPS = 3  # with CUDA graphs the first warms up, the second is recorded, the third replays


class TrainingStep:
    """The step of a recipe on a model that is in training mode. Nothing in it waits for the device.

    normalise: images in [0, 1] (B, 3, S, S) -> what the model takes. ranks: the processes that share the batch; each
    gets the whole of it and computes its own rows.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: nn.Module,
        path: FastPath,
        normalise: Callable[[Tensor], Tensor],
        ranks: Ranks = Ranks(),  # noqa: B008  frozen
    ):
        self.recipe = recipe
        self.model = model
        self.path = path
        self.normalise = normalise
        self.parameters = list(model.parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)
        self.ranks = ranks
        self._compiled = path.compile(ranks.parallel(model))

    def __call__(self, images: Tensor, labels: Tensor, keep: int, weight: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean loss () of the images in [0, 1] and how many were classified right (), before the update.

        weight: the map (S, S) that mixes each image with its partner, None for no mixing.
        """
        loss, correct = self.forward(images, labels, keep, weight)
        self.backward(loss)
        self.update()
        loss, correct = self.ranks.sum(torch.stack([loss.detach() / self.ranks.size, correct])).unbind()
        return loss, correct

    def prepare(self, images: Tensor, labels: Tensor, keep: int, weight: Tensor | None) -> None:
        """Let a compiled step compile, and record its CUDA graph, on inputs like these: no call of it will have to.

        Weights, statistics of batch norm and the optimizer stay as they are; random generators move on.
        """
        statistics = [buffer.clone() for buffer in self.model.buffers()]
        for _ in range(PREPARING_STEPS):
            loss, _ = self.forward(images, labels, keep, weight)
            self.backward(loss)
        self.optimizer.zero_grad(set_to_none=True)
        for buffer, before in zip(self.model.buffers(), statistics):
            buffer.copy_(before)

    def forward(self, images: Tensor, labels: Tensor, keep: int, weight: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean loss and correct answers, both (), of this process's rows."""
        rows, smoothing = self.ranks.rows, self.recipe.label_smoothing
        if weight is not None:
            images = mix(images, weight)
        with autocast(images.device, self.path.precision):
            logits = self._compiled(self.normalise(rows(images)), keep=keep)
        logits, own = logits.float(), rows(labels)
        correct = (logits.detach().argmax(dim=1) == own).sum().float()
        if weight is None:
            return F.cross_entropy(logits, own, label_smoothing=smoothing), correct
        return mixed_cross_entropy(logits, own, rows(labels.flip(0)), weight.mean(), smoothing), correct

    def backward(self, loss: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()

    def update(self) -> None:
        if self.recipe.grad_clip:
            nn.utils.clip_grad_norm_(self.parameters, self.recipe.grad_clip)
        self.optimizer.step()


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """bf16 products where the precision says so; weights stay in fp32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


class WarmupEma(ModelEmaV3):
    """timm's averaged model, with decay min(beta, (1 + n) / (10 + n)) at its n-th update, counted from 0.

    Without warm-up a decay of 0.9999 would take tens of epochs to forget the random initialisation. Batch-norm
    statistics are averaged as the weights are; integer buffers are copied. `update(model, step=n)` after each step.
    """

    def get_decay(self, step: int | None = None) -> float:
        if step is None:
            raise ValueError("WarmupEma.update needs step, the number of updates before this one")
        return min(self.decay, (1 + step) / (10 + step))
