"""The training loop: epochs, evaluation, moving average, clocks. It yields one record per epoch and draws nothing."""

import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from ptd_core.data.batches import Batches
from ptd_core.data.dataset import Dataset, Split
from ptd_core.errors import DataError
from ptd_core.evaluation.accuracy import accuracy
from ptd_core.machine.device import check_mps_linear, synchronize
from ptd_core.machine.fast_path import FastPath, keep_freed_memory
from ptd_core.machine.randomness import seeded, torch_seed
from ptd_core.machine.ranks import Ranks
from ptd_core.recipe import Recipe
from ptd_core.records.folders import refuse_half_trained
from ptd_core.records.history import NAN, EpochRecord
from ptd_core.records.partial_epoch import PartialEpoch
from ptd_core.schedule import learning_rate
from ptd_core.step import Preparation, TrainingStep, WarmupEma
from ptd_core.tokens.given import giver_of
from ptd_core.vits.fine_tuning import freeze, training_mode
from ptd_core.vits.weights import begin_with, find

LOSS_CHECKS_PER_EPOCH = 20  # each waits for the device; between them a step never does

OnStep = Callable[[int, int, int], None]  # epoch, steps done in it, steps in it
MayStop = Callable[[], None]  # raises to stop where the state is whole
Probe = Callable[["Trainer"], dict[str, float]]  # measures something after an evaluated epoch, for its record


def build_model(recipe: Recipe, num_classes: int, attention: str = "fused") -> nn.Module:
    """The recipe's model, its weights a function of the recipe's seed alone (not of the device)."""
    with seeded(torch_seed(recipe.seed, 0, "initialisation")):
        return recipe.vit.build(num_classes, attention)


def check(recipe: Recipe, ranks: Ranks) -> torch.device:
    """The device. Raises DeviceError, and RecipeError for a batch that does not divide among the processes and for
    half-trained weights: what can be refused before data is read."""
    ranks.check_batch_size(recipe.batch_size, recipe.accumulate_steps, pairs=recipe.mixing is not None)
    device = ranks.device(recipe.device)
    tokens = recipe.vit.prefix_tokens + recipe.vit.patch_tokens
    check_mps_linear(device, recipe.batch_size // recipe.accumulate_steps, tokens)
    refuse_half_trained(find(recipe.weights))
    return device


class Trainer:
    """Trains the recipe's model on a dataset; `epochs()` resumes wherever the trainer stands.

    model: the ViT whose weights are trained. averaged: their moving average, or None. headline: the one that stands
    for the run in results. Everything random in epoch t is drawn from (seed, t), so a trainer whose state was saved
    after epoch t and loaded elsewhere trains on exactly as the first would have. So does one that was stopped within
    an epoch: `partial` holds what has been done of it, None between epochs.
    normalise: images in [0, 1] (B, 3, S, S) -> what the model takes.
    probes: what they measure after each evaluated epoch goes into its record's `extra`. Only the process that writes
    has any, so a probe must not wait for other processes.

    Raises DeviceError if the device is absent, DataError if the training images do not fill one batch or are fewer
    than an epoch is to have, RecipeError for weights to begin with that do not fit.
    """

    def __init__(
        self,
        recipe: Recipe,
        dataset: Dataset,
        ranks: Ranks = Ranks(),  # noqa: B008  frozen
        probes: tuple[Probe, ...] = (),
    ):
        self.recipe, self.dataset, self.ranks, self.probes = recipe, dataset, ranks, probes
        self.device, vit = check(recipe, ranks), recipe.vit
        path = FastPath.choose(self.device, recipe.precision, recipe.attention, recipe.compilation)
        if self.device.type == "cpu":
            keep_freed_memory()
        self.classes = len(dataset.classes)
        self.train, self.test = dataset.train.to(self.device), dataset.test.to(self.device)
        self._clean = self.train.rows_of_part(len(self.test))  # of the training images, that stand for them all
        if recipe.epoch_images > len(self.train):
            raise DataError(f"epoch_images = {recipe.epoch_images}: there are {len(self.train)} training images")
        self.batches = Batches(
            self.train, recipe.batch_size, recipe.augmentation, recipe.mixing, steps=recipe.steps(len(self.train)),
            seed=recipe.seed, masks=recipe.drop_score == "oracle", ranks=ranks,
        )  # fmt: skip
        self.steps_per_epoch = self.batches.steps
        if not self.steps_per_epoch:
            raise DataError(f"{len(dataset.train)} training images do not fill one batch of {recipe.batch_size}")
        self.normalise = dataset.normaliser(self.device)
        model = begin_with(build_model(recipe, self.classes, path.attention), recipe.weights, vit.adapted)
        self.model = path.place(ranks.global_batch_norm(model), self.device)
        self.model.set_grad_checkpointing(recipe.checkpoint_activations)
        freeze(self.model, recipe.frozen_blocks)
        self.averaged = WarmupEma(self.model, decay=recipe.ema_decay) if recipe.ema_decay else None
        with seeded(torch_seed(recipe.seed, 0, "method")):  # which may have weights of its own
            network = recipe.token_drop.network(self.model, self.headline).to(self.device)
        looks_at = recipe.drop_score_block % vit.depth
        self.giver = giver_of(recipe.drop_score, self.headline, looks_at, vit.grid_size, vit.stride, self.device)
        self.step = TrainingStep(network, recipe.optimisation, path, self.normalise, ranks, self.giver)
        self._passes = list(zip(recipe.keeps, recipe.sides))  # of every epoch
        self.next_epoch = 0
        self.partial: PartialEpoch | None = None
        self._may_stop: MayStop = lambda: None
        self._preparation = Preparation(
            self.device, recipe.batch_size // ranks.size, recipe.image_size, recipe.mixing is not None,
            recipe.compilation == "auto",
        )  # fmt: skip

    @property
    def path(self) -> FastPath:
        """How it computes: what was chosen for the device, uncompiled where that turned out not to work."""
        return self.step.path

    @property
    def headline(self) -> nn.Module:
        return self.averaged.module if self.averaged else self.model

    def epochs(self, on_step: OnStep | None = None, may_stop: MayStop | None = None) -> Iterator[EpochRecord]:
        """Train the epochs that remain; one record after each. `on_step` is called after every step.

        `may_stop` is called after every step of training and of evaluation; if it raises, `state_dict()` is that of
        a trainer which resumes there.

        Raises TrainingError, naming epoch and step, when the loss is not finite; the weights are then of no use.
        """
        self._may_stop = may_stop or self._may_stop
        while self.next_epoch < self.recipe.epochs:
            record = self._epoch(self.next_epoch, on_step)
            self.next_epoch += 1  # before the yield: a caller saves the state of a trainer that has done this epoch
            self.partial = None
            yield record

    def evaluate(self, model: nn.Module, split: Split, rows: Tensor | None = None) -> tuple[float, float]:
        """Mean cross-entropy in nats and accuracy in percent on a split, or on these rows of it, with all tokens."""
        return accuracy(
            model,
            split,
            self.normalise,
            rows=rows,
            batch_size=self.recipe.eval_batch_size,
            precision=self.path.precision,
            ranks=self.ranks,
            after_batch=self._may_stop,
        )

    def state_dict(self) -> dict:
        """Everything that `load_state_dict` needs to resume after the last step."""
        return {
            "next_epoch": self.next_epoch,
            "partial": self.partial.state_dict(self.device, self.next_epoch) if self.partial else None,
            "model": self.model.state_dict(),
            "averaged": self.averaged.module.state_dict() if self.averaged else None,
            "optimizer": self.step.optimizer.state_dict(),
            "giver": self.giver.state_dict() if self.giver else None,
            "method": {n: v for n, v in self.step.network.state_dict().items() if not n.startswith("vit.")},
        }

    def load_state_dict(self, state: dict) -> None:
        vit = {f"vit.{name}": value for name, value in state["model"].items()}
        self.step.network.load_state_dict({**vit, **state["method"]})
        self.step.optimizer.load_state_dict(state["optimizer"])
        if self.averaged:
            self.averaged.module.load_state_dict(state["averaged"])
        if self.giver:
            self.giver.load_state_dict(state["giver"])
        self.next_epoch = state["next_epoch"]
        self.partial = PartialEpoch.from_state(state["partial"], self.device) if state["partial"] else None

    def _epoch(self, epoch: int, on_step: OnStep | None) -> EpochRecord:
        recipe = self.recipe
        if self.partial is None:
            self.partial = PartialEpoch.begin(self.steps_per_epoch, self.device)
        training_mode(self.model)
        compile_seconds = self._preparation(self.step, self._passes[: epoch + 1])
        synchronize(self.device)
        loss, accuracy, lr = self._train(epoch, on_step)
        train_seconds = self.partial.seconds
        start = time.perf_counter()
        evaluates = self.evaluates(epoch)
        evaluation = self._evaluate_all() if evaluates else dict.fromkeys(_EVALUATED, NAN)
        eval_seconds = time.perf_counter() - start
        return EpochRecord(
            epoch=epoch,
            lr=lr,
            drop_ratio=recipe.schedule.ratio(epoch),
            kept_tokens=recipe.kept_tokens(epoch),
            train_loss=loss,
            train_accuracy=accuracy,
            train_seconds=train_seconds,
            data_seconds=self.partial.data_seconds,
            eval_seconds=eval_seconds,
            images_per_second=self.steps_per_epoch * recipe.batch_size / train_seconds,
            compile_seconds=compile_seconds,
            **evaluation,
            extra={name: value for probe in self.probes if evaluates for name, value in probe(self).items()},
        )

    def _train(self, epoch: int, on_step: OnStep | None) -> tuple[float, float, float]:
        recipe, steps, partial = self.recipe, self.steps_per_epoch, self.partial
        start = time.perf_counter() - partial.seconds
        partial.seed(torch_seed(recipe.seed, epoch, "dropout"), self.device)
        training_mode(self.model)
        check_every = -(-steps // LOSS_CHECKS_PER_EPOCH)
        batches = self.batches.epoch(epoch, partial.step)
        for step in range(partial.step, steps):
            asked = time.perf_counter()
            batch = next(batches)
            partial.data_seconds += time.perf_counter() - asked
            self._set_lr(epoch * steps + step)
            self.ranks.seed_step(recipe.seed, epoch, step)
            loss, correct = self.step(batch, *self._passes[epoch])
            partial.losses[step] = loss
            partial.correct += correct
            if self.averaged:
                self.averaged.update(self.model, step=epoch * steps + step)
            partial.step = step + 1
            if partial.step % check_every == 0 or partial.step == steps:
                partial.check_finite(epoch)
            partial.seconds = time.perf_counter() - start
            if on_step:
                asked = time.perf_counter()
                on_step(epoch, step + 1, steps)
                start += time.perf_counter() - asked  # printing and saving are not training
            self._may_stop()
        lr = self._set_lr((epoch + 1) * steps - 1)  # the last step's, also if all steps were done before
        return partial.losses.mean().item(), 100 * partial.correct.item() / (steps * recipe.batch_size), lr

    def _set_lr(self, step: int) -> float:
        recipe, steps = self.recipe, self.steps_per_epoch
        lr = learning_rate(
            step, peak=recipe.lr, warmup_steps=recipe.warmup_epochs * steps, total_steps=recipe.epochs * steps
        )
        for group in self.step.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        return lr

    def evaluates(self, epoch: int) -> bool:
        """Whether an evaluation ends this epoch."""
        return (epoch + 1) % self.recipe.eval_every == 0 or epoch + 1 == self.recipe.epochs

    def _evaluate_all(self) -> dict[str, float]:
        test = self.evaluate(self.model, self.test)
        ema_test = self.evaluate(self.averaged.module, self.test) if self.averaged else (NAN, NAN)
        _, clean = self.evaluate(self.headline, self.train, self._clean)
        return dict(zip(_EVALUATED, (clean, *test, *ema_test)))


_EVALUATED = ("clean_train_accuracy", "test_loss", "test_accuracy", "ema_test_loss", "ema_test_accuracy")
