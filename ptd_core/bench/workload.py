"""What is timed: a trainer on random images, and other models in its place."""

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from ptd_core.data.dataset import Dataset, Split
from ptd_core.machine.fast_path import FastPath
from ptd_core.recipe import Recipe
from ptd_core.schedule import DropSchedule
from ptd_core.step import TrainingStep, WarmupEma
from ptd_core.trainer import Trainer

CLASSES = 100
BATCHES = 4  # in the set of random images; what they show changes no time


def random_images(recipe: Recipe) -> Dataset:
    """A few batches of random pixels with the sizes and the normalisation of CIFAR-100."""
    generator = torch.Generator().manual_seed(0)
    n, side = BATCHES * recipe.batch_size, recipe.image_size

    def split() -> Split:
        images = torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=generator)
        return Split(images, torch.randint(0, CLASSES, (n,), generator=generator))

    names = tuple(f"class {number}" for number in range(CLASSES))
    return Dataset("random pixels", split(), split(), names, (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))


class Workload:
    """A recipe's trainer and whole training steps, data and moving average included, for it and for other models."""

    def __init__(self, recipe: Recipe):
        self.recipe = recipe
        self.dataset = random_images(recipe)
        self.trainer = Trainer(recipe, self.dataset)
        self.device = self.trainer.device
        self.path = self.trainer.path

    def keep(self, ratio: float) -> int:
        """Kept patch tokens at a drop ratio."""
        return max(1, DropSchedule.tokens_at_ratio(ratio, self.recipe.patch_tokens))

    def batches(self) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Augmented batches without end, each with its mixing weights or None."""
        for epoch in itertools.count():
            weights = self.trainer.mixing_weights(epoch)
            for step, (images, labels) in enumerate(self.trainer.batches(epoch)):
                yield images, labels, None if weights is None else weights[step]

    def step(self, model: nn.Module, keep: int, path: FastPath | None = None) -> Callable[[], None]:
        """The trainer's whole step on a model that takes (images, keep=...), in `path`, by default the trainer's."""
        path = path or self.path
        model = path.place(model, self.device).train()
        step = TrainingStep(self.recipe, model, path, self.trainer.normalise)
        average = WarmupEma(model, decay=self.recipe.ema_decay) if self.recipe.ema_decay else None
        batches, count = self.batches(), itertools.count()

        def run() -> None:
            images, labels, weight = next(batches)
            step(images, labels, keep, weight)
            if average:
                average.update(model, step=next(count))

        return run
