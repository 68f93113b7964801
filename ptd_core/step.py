"""One training step (mix, forward, loss, backward, clip, update), and the moving average of weights after it."""

import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from ptd_core.data.batches import Batch
from ptd_core.data.micro_batches import MicroBatch, micro_batches
from ptd_core.data.mixing import mixed_cross_entropy
from ptd_core.machine.device import synchronize
from ptd_core.machine.fast_path import FastPath
from ptd_core.machine.ranks import Ranks
from ptd_core.token_drop import Keep
from ptd_core.tokens.given import Giver
from ptd_core.vits.fine_tuning import parameter_groups

GRAPHS = 3  # of a network and a side: for all tokens, for the first number of kept tokens, and for every other number
PREPARING_STEPS = 3  # with CUDA graphs the first warms up, the second is recorded, the third replays


@dataclass(frozen=True)
class Optimisation:
    """How weights are updated: AdamW, linear warm-up and cosine, clipping, and the moving average.

    lr: at the peak. warmup_epochs: of linear warm-up. grad_clip: largest gradient norm, 0 for no clipping.
    ema_decay: of the weights' moving average, 0 for none. accumulate_steps: micro-batches in which a batch is computed,
    one after the other. layer_decay: learning rate of a block over that of the next, see `parameter_groups`.
    """

    lr: float
    weight_decay: float = 0.05
    warmup_epochs: int = 0
    grad_clip: float = 0.0
    label_smoothing: float = 0.0
    ema_decay: float = 0.0
    accumulate_steps: int = 1
    layer_decay: float = 1.0


class TrainingStep:
    """The step of a run on a network that is in training mode. Nothing in it waits for the device.

    network: images (B, 3, S, S), normalised, and keep -> logits, such as a TokenDropViT, or logits and a loss of its
    own, which is added. normalise: images in [0, 1] -> what the network takes. ranks: the processes that share a
    batch; each gets its own shard of it, in which mirroring pairs the images that are mixed. giver: of a score that the
    network cannot see for itself, which it then takes after keep.

    A shard is computed in `accumulate_steps` micro-batches, whose gradients add up to those of the whole: up to
    rounding, to random draws (dropout, drop-path, scores and choices by chance), to batch norm, which normalises each
    by its own statistics, and to DynamicViT's loss on tokens, a mean over those that each has left.
    """

    def __init__(
        self,
        network: nn.Module,
        optimisation: Optimisation,
        path: FastPath,
        normalise: Callable[[Tensor], Tensor],
        ranks: Ranks = Ranks(),  # noqa: B008  frozen
        giver: Giver | None = None,
    ):
        self.network = network
        self.giver = giver
        self.optimisation = optimisation
        self.path = path
        self.normalise = normalise
        self.ranks = ranks
        self.parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        decay = optimisation.weight_decay
        groups = parameter_groups(network, decay, optimisation.layer_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=optimisation.lr, weight_decay=decay, fused=True)
        self._parallel = ranks.parallel(network)
        self._compiled = path.compile(self._parallel)
        self._given: Tensor | None = None  # by the giver, to the last forward pass

    def __call__(self, batch: Batch, keep: Keep | None, side: int | None = None) -> tuple[Tensor, Tensor]:
        """Mean loss () of the batch and how many images were classified right (), before the update.

        keep: what the network is told to keep; None for all tokens. side: in pixels, to which the images are resized
        after mixing; None for none.
        """
        parts, sums, gradients = self._micro_batches(batch), 0.0, []
        self.optimizer.zero_grad(set_to_none=True)
        for number, part in enumerate(parts, start=1):
            with nullcontext() if number == len(parts) else self.ranks.alone(self._parallel):
                loss, correct = self._forward(part, keep, side)
                (loss / len(parts)).backward()
            if number == 1 < len(parts) and self.path.compilation == "cudagraphs":
                self._own_gradients()
            if self._given is not None and self.giver.always:
                gradients.append(self._given.grad.clone())
            sums = sums + torch.stack([loss.detach() / (len(parts) * self.ranks.size), correct])
        if gradients:
            self.giver.learn(torch.cat(gradients), self.ranks)
        self.update()
        loss, correct = self.ranks.sum(sums).unbind()
        return loss, correct

    def prepare(self, batch: Batch, keep: Keep | None, side: int | None = None) -> None:
        """Let a compiled step compile, and record its CUDA graph, on inputs like these: no call of it will have to.

        Weights, statistics of batch norm and the optimizer stay as they are; random generators move on.
        """
        statistics = [buffer.clone() for buffer in self.network.buffers()]
        try:
            for _ in range(PREPARING_STEPS):
                loss, _ = self._forward(self._micro_batches(batch)[0], keep, side)
                self.backward(loss)
        finally:  # compiling may fail after a forward pass
            self.optimizer.zero_grad(set_to_none=True)
            for buffer, before in zip(self.network.buffers(), statistics):
                buffer.copy_(before)

    def give_up_compiling(self) -> None:
        """Go on uncompiled: slower, and the same up to rounding."""
        self.path = replace(self.path, compilation="off")
        self._compiled = self._parallel
        self.optimizer.zero_grad(set_to_none=True)

    def forward(self, batch: Batch, keep: Keep | None, side: int | None = None) -> tuple[Tensor, Tensor]:
        """Mean loss and correct answers, both (), of this process's shard, computed at once."""
        return self._forward(*micro_batches(batch, 1), keep, side)

    def _micro_batches(self, batch: Batch) -> list[MicroBatch]:
        return micro_batches(batch, self.optimisation.accumulate_steps)

    def _forward(self, part: MicroBatch, keep: Keep | None, side: int | None) -> tuple[Tensor, Tensor]:
        """Mean loss and correct answers, both (), of a micro-batch."""
        images, own, partners, share, masks = part
        if side is not None and side != images.shape[-1]:
            images = F.interpolate(images, size=(side, side), mode="bilinear", antialias=True, align_corners=False)
        images = self.normalise(images)
        if self.path.compilation != "off":  # each size is a graph of its own: torch fails on sizes that vary in one
            torch._dynamo.mark_static(images)
        with autocast(images.device, self.path.precision):
            self._given = None
            if self.giver is not None and (keep is not None or self.giver.always):
                self._given = self.giver(images, masks)
            out = self._compiled(images, keep, *(() if self._given is None else (self._given,)))
        logits, own_loss = out if isinstance(out, tuple) else (out, 0.0)
        logits, smoothing = logits.float(), self.optimisation.label_smoothing
        correct = (logits.detach().argmax(dim=1) == own).sum().float()
        if share is None:
            loss = F.cross_entropy(logits, own, label_smoothing=smoothing)
        else:
            loss = mixed_cross_entropy(logits, own, partners, share, smoothing)
        return loss + own_loss, correct

    def _own_gradients(self) -> None:
        """Move gradients out of a CUDA graph's memory, which its next replay writes over; later ones add to them."""
        for parameter in self.parameters:
            if parameter.grad is not None:
                parameter.grad = parameter.grad.clone()

    def backward(self, loss: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()

    def update(self) -> None:
        if self.optimisation.grad_clip:
            nn.utils.clip_grad_norm_(self.parameters, self.optimisation.grad_clip)
        self.optimizer.step()


class Preparation:
    """Prepares each step before it is first taken, on empty images, so that no step of an epoch waits for compiling.

    size, side: of a batch (size, 3, side, side). mixing: whether they are mixed. may_give_up: whether to go on
    uncompiled, with a warning, where compiling fails.

    A process that resumes prepares the steps of earlier epochs as well, up to where one graph serves all numbers of
    tokens: the first of its own would be another graph otherwise, which rounds differently. Several processes prepare
    their first step in any case: after it DistributedDataParallel adds up gradients in another order, and a run that
    is resumed must go on in that one.
    """

    def __init__(self, device: torch.device, size: int, side: int, mixing: bool, may_give_up: bool):
        self.device, self.size, self.side, self.mixing = device, size, side, mixing
        self.may_give_up = may_give_up
        self.done: set[tuple[Keep | None, int]] = set()

    def __call__(self, step: TrainingStep, passes: list[tuple[Keep | None, int]]) -> float:
        """Prepare for the last of `passes`, what each epoch up to the next one keeps and its images' side.

        Returns the seconds spent on compiling.
        """
        compiles = step.path.compilation != "off"
        if not compiles and (step.ranks.size == 1 or self.done):
            return 0.0
        early = _first_graphs(passes) if compiles else []
        start = time.perf_counter()
        for one in dict.fromkeys([*early, passes[-1]]):
            if one not in self.done:
                self._prepare(step, *one)
                self.done.add(one)
        synchronize(self.device)
        return time.perf_counter() - start if compiles else 0.0

    def _prepare(self, step: TrainingStep, keep: Keep | None, side: int) -> None:
        images = torch.zeros(self.size, 3, self.side, self.side, device=self.device)
        labels = torch.zeros(self.size, dtype=torch.long, device=self.device)
        masks = torch.zeros(self.size, self.side, self.side, dtype=torch.bool, device=self.device)
        batch = Batch(images, labels, images[0, 0] if self.mixing else None, masks)
        try:
            step.prepare(batch, keep, side)
        except RuntimeError as error:  # among them all that torch.compile and Triton raise where something is missing
            if step.path.compilation == "off" or not self.may_give_up:
                raise
            reason = str(error).strip().partition("\n")[0]
            warnings.warn(f"training is not compiled, and slower: {type(error).__name__}: {reason}", stacklevel=2)
            step.give_up_compiling()
            step.prepare(batch, keep, side)


def _first_graphs(passes: list[tuple[Keep | None, int]]) -> list[tuple[Keep | None, int]]:
    """Of each side the first passes, in their order, after which no other makes a new graph."""
    early = []
    for one in dict.fromkeys(passes):
        if [side for _, side in early].count(one[1]) < GRAPHS:
            early.append(one)
    return early


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
