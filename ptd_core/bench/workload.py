"""What is timed: a trainer on random images, and other models in its place."""

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import nn

from ptd_core.data.batches import Batch
from ptd_core.data.dataset import Dataset, Split
from ptd_core.machine.fast_path import FastPath
from ptd_core.recipe import Recipe
from ptd_core.schedule import DropSchedule
from ptd_core.step import TrainingStep, WarmupEma
from ptd_core.token_drop import Keep, TokenDrop, TokenDropViT
from ptd_core.trainer import Trainer, build_model

CLASSES = 100
FEWER = 4  # batches are so much smaller where many cases are compared on a CPU
BATCHES = 4  # in the set of random images; what they show changes no time


def random_images(recipe: Recipe) -> Dataset:
    """A few batches of random pixels, and of objects where shapes are asked for, as CIFAR-100's are normalised."""
    generator = torch.Generator().manual_seed(0)
    n, side = BATCHES * recipe.batch_size, recipe.image_size

    def split() -> Split:
        images = torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=generator)
        labels = torch.randint(0, CLASSES, (n,), generator=generator)
        masks = images[:, 0] > 127 if recipe.dataset == "shapes" else None
        return Split(images, labels, masks)

    names = tuple(f"class {number}" for number in range(CLASSES))
    return Dataset("random pixels", split(), split(), names, (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))


def dropping_none(recipe: Recipe, **changes: object) -> Recipe:
    """The recipe with all tokens of whole images in all epochs, all of it trained, and other changes."""
    defaults = {name: Recipe.model_fields[name].default for name in (*Recipe.token_settings(), "frozen_blocks")}
    return recipe.replace(**{**defaults, "drop_final": 0.0, **changes})


def keep_at(ratio: float, patch_tokens: int) -> Keep | None:
    """What one dropping block keeps of so many tokens at a drop ratio; None for all of them."""
    kept = DropSchedule().kept_at_ratio(ratio, patch_tokens)
    return (kept,) if kept < patch_tokens else None


class Workload:
    """A recipe's trainer and whole training steps, data and moving average included, for it and for other models."""

    def __init__(self, recipe: Recipe):
        self.recipe = recipe
        self.dataset = random_images(recipe)
        self.trainer = Trainer(recipe.replace(epoch_images=0), self.dataset)
        self.device = self.trainer.device
        self.path = self.trainer.path

    @property
    def small_batch(self) -> int:
        """Images of a step where many cases are compared: the recipe's batch, on a CPU a part of it."""
        size = self.recipe.batch_size // (FEWER if self.device.type == "cpu" else 1)
        return max(2, size // 2 * 2)  # pairs, which a recipe may mix

    def keep(self, ratio: float) -> Keep | None:
        """What one dropping block keeps at a drop ratio; None for all tokens."""
        return keep_at(ratio, self.recipe.vit.patch_tokens)

    def network(self, blocks: tuple[int, ...] = (0,), path: FastPath | None = None) -> TokenDropViT:
        """A new model of the recipe that drops tokens in `blocks`."""
        model = build_model(self.recipe, CLASSES, (path or self.path).attention)
        return TokenDropViT(model, TokenDrop(blocks))

    def batches(self) -> Iterator[Batch]:
        """Augmented batches without end."""
        for epoch in itertools.count():
            yield from self.trainer.batches.epoch(epoch)

    def step(self, network: nn.Module, keep: Keep | None, path: FastPath | None = None) -> Callable[[], None]:
        """The trainer's whole step on a network that takes (images, keep), in `path`, by default the trainer's."""
        path = path or self.path
        network = path.place(network, self.device).train()
        step = TrainingStep(network, self.recipe.optimisation, path, self.trainer.normalise)
        decay = self.recipe.ema_decay
        # As the trainer does: the ViT is averaged, not what runs it.
        model = network.vit if isinstance(network, TokenDropViT) else network
        return self._whole(step, keep, model, WarmupEma(model, decay=decay) if decay else None)

    def trainers_step(self, keep: Keep | None) -> Callable[[], None]:
        """The trainer's own, with its network, by whatever method it drops tokens, and whoever gives its score."""
        trainer = self.trainer
        trainer.step.network.train()
        return self._whole(trainer.step, keep, trainer.model, trainer.averaged)

    def _whole(
        self, step: TrainingStep, keep: Keep | None, model: nn.Module, average: WarmupEma | None
    ) -> Callable[[], None]:
        batches, count = self.batches(), itertools.count()

        def run() -> None:
            step(next(batches), keep)
            if average:
                average.update(model, step=next(count))

        return run
