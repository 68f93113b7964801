"""The training loop: epochs, evaluation, moving average, clocks. It yields one record per epoch and draws nothing."""

import itertools
import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ptd_core.cost import cost
from ptd_core.data.augment import Augmentation, augment_epoch
from ptd_core.data.dataset import Dataset, Split
from ptd_core.data.mixing import mixing_weights
from ptd_core.errors import DataError, TrainingError
from ptd_core.machine.device import check_mps_linear, synchronize
from ptd_core.machine.fast_path import FastPath, keep_freed_memory
from ptd_core.machine.randomness import generator, torch_seed
from ptd_core.machine.ranks import Ranks
from ptd_core.model import HybridViT
from ptd_core.recipe import Recipe
from ptd_core.records.history import NAN, EpochRecord
from ptd_core.records.partial_epoch import PartialEpoch
from ptd_core.schedule import learning_rate
from ptd_core.step import TrainingStep, WarmupEma, autocast

# Images augmented at once: many, for the bucketed operations; on the CPU fewer, where fresh memory costs most.
AUGMENTED_AT_ONCE = {"cpu": 2048, "cuda": 8192, "mps": 8192}
LOSS_CHECKS_PER_EPOCH = 20  # each waits for the device; between them a step never does

OnStep = Callable[[int, int, int], None]  # epoch, steps done in it, steps in it
MayStop = Callable[[], None]  # raises to stop where the state is whole


def build_model(recipe: Recipe, num_classes: int, attention: str = "fused") -> HybridViT:
    """The recipe's model, its weights a function of the recipe's seed alone (not of the device)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(recipe.seed, 0, "initialisation"))
        return HybridViT(
            num_classes=num_classes,
            img_size=recipe.image_size,
            stem_width=recipe.stem_width,
            stem_stride=recipe.stem_stride,
            embed_dim=recipe.embed_dim,
            depth=recipe.depth,
            num_heads=recipe.num_heads,
            mlp_ratio=recipe.mlp_ratio,
            qkv_bias=recipe.qkv_bias,
            drop_rate=recipe.dropout,
            drop_path_rate=recipe.drop_path,
            drop_block=recipe.drop_block,
            attention=attention,
        )


class Trainer:
    """Trains the recipe's model on a dataset; `epochs()` goes on from wherever the trainer stands.

    model: the weights being trained. averaged: their moving average, or None. headline: the one that stands for
    the run in results. Everything random in epoch t is drawn from (seed, t), so a trainer whose state was saved
    after epoch t and loaded elsewhere goes on exactly as the first would have. So does one that was stopped within
    an epoch: `partial` holds what has been done of it, None between epochs.

    Raises DeviceError if the device is absent, DataError if the training images do not fill one batch.
    """

    def __init__(self, recipe: Recipe, dataset: Dataset, ranks: Ranks = Ranks()):  # noqa: B008  frozen
        self.recipe = recipe
        self.ranks = ranks
        ranks.check(recipe)
        self.device = ranks.device(recipe.device)
        check_mps_linear(self.device, recipe.batch_size, 1 + recipe.patch_tokens)
        self.path = FastPath.of(recipe, self.device)
        if self.device.type == "cpu":
            keep_freed_memory()
        self.steps_per_epoch = len(dataset.train) // recipe.batch_size
        if not self.steps_per_epoch:
            raise DataError(f"{len(dataset.train)} training images do not fill one batch of {recipe.batch_size}")
        self.classes = len(dataset.classes)
        self.train = _move(dataset.train, self.device)
        self.test = _move(dataset.test, self.device)
        self._mean = torch.tensor(dataset.mean, device=self.device).view(1, 3, 1, 1)
        self._std = torch.tensor(dataset.std, device=self.device).view(1, 3, 1, 1)
        model = ranks.global_batch_norm(build_model(recipe, self.classes, self.path.attention))
        self.model = self.path.place(model, self.device)
        self.averaged = WarmupEma(self.model, decay=recipe.ema_decay) if recipe.ema_decay else None
        self.step = TrainingStep(recipe, self.model, self.path, self.normalise, ranks)
        self.augmentation = Augmentation(
            crop_padding=recipe.crop_padding,
            flip=recipe.flip,
            rand_ops=recipe.rand_ops,
            rand_magnitude=recipe.rand_magnitude,
            erase=recipe.erase,
        )
        self.next_epoch = 0
        self.partial: PartialEpoch | None = None
        self._may_stop: MayStop = lambda: None
        self._prepared: set[int] = set()  # numbers of kept tokens for which the step is compiled

    @property
    def headline(self) -> nn.Module:
        return self.averaged.module if self.averaged else self.model

    def epochs(self, on_step: OnStep | None = None, may_stop: MayStop | None = None) -> Iterator[EpochRecord]:
        """Train the epochs that remain; one record after each. `on_step` is called after every step.

        `may_stop` is called after every step of training and of evaluation; if it raises, `state_dict()` is that of
        a trainer which goes on from there.

        Raises TrainingError, naming epoch and step, when the loss is not finite; the weights are then of no use.
        """
        if may_stop:
            self._may_stop = may_stop
        while self.next_epoch < self.recipe.epochs:
            record = self._epoch(self.next_epoch, on_step)
            self.next_epoch += 1  # before the yield: a caller saves the state of a trainer that has done this epoch
            self.partial = None
            yield record

    def normalise(self, images: Tensor) -> Tensor:
        """Images in [0, 1] (B, 3, S, S) -> what the model takes."""
        return (images - self._mean) / self._std

    @torch.inference_mode()
    def evaluate(self, model: nn.Module, split: Split, limit: int | None = None) -> tuple[float, float]:
        """Mean cross-entropy in nats and accuracy in percent over the first `limit` images, with all tokens."""
        was_training = model.training
        model.eval()
        images, labels = split.images[:limit], split.labels[:limit]
        loss = torch.zeros((), device=self.device)
        correct = torch.zeros((), device=self.device)
        size, rows = self.recipe.eval_batch_size, self.ranks.rows
        for batch_images, batch_labels in zip(images.split(size), labels.split(size)):
            with autocast(self.device, self.path.precision):
                logits = model(self.normalise(rows(batch_images).float() / 255))
            loss += F.cross_entropy(logits.float(), rows(batch_labels), reduction="sum")
            correct += (logits.argmax(dim=1) == rows(batch_labels)).sum()
            self._may_stop()
        model.train(was_training)
        loss, correct = self.ranks.sum(torch.stack([loss, correct])).tolist()
        return loss / len(labels), 100 * correct / len(labels)

    def estimate_seconds(self, step_seconds: float, epoch: int) -> float:
        """Time of the epochs from `epoch` on, evaluation included, if a training step now takes `step_seconds`.

        Steps of other epochs and evaluation are scaled by their floating-point operations: an extrapolation.
        """
        recipe = self.recipe
        now = cost(recipe, self.classes, recipe.schedule.kept(epoch, recipe.patch_tokens)).training * recipe.batch_size
        total = 0
        for later in range(epoch, recipe.epochs):
            kept = recipe.schedule.kept(later, recipe.patch_tokens)
            total += self.steps_per_epoch * recipe.batch_size * cost(recipe, self.classes, kept).training
            if self._evaluates(later):
                total += self._evaluated_images() * cost(recipe, self.classes).forward
        return step_seconds * total / now

    def state_dict(self) -> dict:
        """Everything that `load_state_dict` needs to go on after the last step."""
        return {
            "next_epoch": self.next_epoch,
            "partial": self.partial.state_dict(self.device) if self.partial else None,
            "model": self.model.state_dict(),
            "averaged": self.averaged.module.state_dict() if self.averaged else None,
            "optimizer": self.step.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict) -> None:
        self.model.load_state_dict(state["model"])
        self.step.optimizer.load_state_dict(state["optimizer"])
        if self.averaged:
            self.averaged.module.load_state_dict(state["averaged"])
        self.next_epoch = state["next_epoch"]
        self.partial = PartialEpoch.from_state(state["partial"], self.device) if state["partial"] else None

    # one epoch

    def _epoch(self, epoch: int, on_step: OnStep | None) -> EpochRecord:
        recipe = self.recipe
        keep = recipe.schedule.kept(epoch, recipe.patch_tokens)
        if self.partial is None:
            self.partial = PartialEpoch.begin(self.steps_per_epoch, self.device)
        compile_seconds = self._prepare(keep)
        synchronize(self.device)
        start = time.perf_counter() - self.partial.seconds
        loss, accuracy, lr = self._train(epoch, keep, on_step)
        train_seconds = time.perf_counter() - start
        start = time.perf_counter()
        evaluation = self._evaluate_all() if self._evaluates(epoch) else dict.fromkeys(_EVALUATED, NAN)
        return EpochRecord(
            epoch=epoch,
            lr=lr,
            drop_ratio=recipe.schedule.ratio(epoch),
            kept_tokens=keep,
            train_loss=loss,
            train_accuracy=accuracy,
            train_seconds=train_seconds,
            data_seconds=self.partial.data_seconds,
            eval_seconds=time.perf_counter() - start,
            images_per_second=self.steps_per_epoch * recipe.batch_size / train_seconds,
            compile_seconds=compile_seconds,
            **evaluation,
        )

    def _prepare(self, keep: int) -> float:
        """Seconds for compiling, and recording, the step with so many tokens; 0 where nothing is compiled."""
        if self.path.compilation == "off" or keep in self._prepared:
            return 0.0
        start = time.perf_counter()
        size, side = self.recipe.batch_size, self.recipe.image_size
        images = torch.zeros(size, 3, side, side, device=self.device)
        labels = torch.zeros(size, dtype=torch.long, device=self.device)
        self.model.train()
        self.step.prepare(images, labels, keep, images[0, 0] if self.recipe.mixes else None)
        synchronize(self.device)
        self._prepared.add(keep)
        return time.perf_counter() - start

    def _train(self, epoch: int, keep: int, on_step: OnStep | None) -> tuple[float, float, float]:
        recipe, steps, partial = self.recipe, self.steps_per_epoch, self.partial
        start = time.perf_counter() - partial.seconds
        partial.seed(torch_seed(recipe.seed, epoch, self._dropout(partial.step)), self.device)
        self.model.train()
        weights = self.mixing_weights(epoch)
        check_every = -(-steps // LOSS_CHECKS_PER_EPOCH)
        batches = itertools.islice(self.batches(epoch), partial.step, None)
        for step in range(partial.step, steps):
            asked = time.perf_counter()
            images, labels = next(batches)
            partial.data_seconds += time.perf_counter() - asked
            self._set_lr(epoch * steps + step)
            loss, correct = self.step(images, labels, keep, None if weights is None else weights[step])
            partial.losses[step] = loss
            partial.correct += correct
            if self.averaged:
                self.averaged.update(self.model, step=epoch * steps + step)
            if (step + 1) % check_every == 0 or step + 1 == steps:
                _check_finite(partial.losses[: step + 1], epoch)
            partial.step, partial.seconds = step + 1, time.perf_counter() - start
            if on_step:
                on_step(epoch, step + 1, steps)
            self._may_stop()
        lr = self._set_lr((epoch + 1) * steps - 1)  # the last step's, also if all steps were done before
        return partial.losses.mean().item(), 100 * partial.correct.item() / (steps * recipe.batch_size), lr

    def _dropout(self, step: int) -> str:
        """The purpose of dropout's seed. Only the first rank's random state is saved: others draw anew from there."""
        rank = self.ranks.rank
        return "dropout" if rank == 0 else f"dropout of rank {rank} from step {step}"

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The epoch's augmented batches in its own random order; images that do not fill a last batch sit out."""
        size = self.recipe.batch_size
        order = generator(self.recipe.seed, epoch, "order").permutation(len(self.train))[: self.steps_per_epoch * size]
        labels = self.train.labels[torch.from_numpy(order).to(self.device)].split(size)
        chunks = augment_epoch(
            self.train.images,
            order,
            self.augmentation,
            seed=self.recipe.seed,
            epoch=epoch,
            chunk=max(1, AUGMENTED_AT_ONCE[self.device.type] // size) * size,
        )
        return zip((batch for chunk in chunks for batch in chunk.split(size)), labels)

    def mixing_weights(self, epoch: int) -> Tensor | None:
        recipe = self.recipe
        if not recipe.mixes:
            return None
        weights = mixing_weights(
            self.steps_per_epoch,
            recipe.image_size,
            recipe.mixup_alpha,
            recipe.cutmix_alpha,
            recipe.cutmix_share,
            seed=recipe.seed,
            epoch=epoch,
        )
        return torch.as_tensor(weights, device=self.device)

    def _set_lr(self, step: int) -> float:
        recipe, steps = self.recipe, self.steps_per_epoch
        lr = learning_rate(
            step, peak=recipe.lr, warmup_steps=recipe.warmup_epochs * steps, total_steps=recipe.epochs * steps
        )
        for group in self.step.optimizer.param_groups:
            group["lr"] = lr
        return lr

    # evaluation

    def _evaluates(self, epoch: int) -> bool:
        return (epoch + 1) % self.recipe.eval_every == 0 or epoch + 1 == self.recipe.epochs

    def _evaluate_all(self) -> dict[str, float]:
        test = self.evaluate(self.model, self.test)
        ema_test = self.evaluate(self.averaged.module, self.test) if self.averaged else (NAN, NAN)
        _, clean = self.evaluate(self.headline, self.train, limit=len(self.test))
        return dict(zip(_EVALUATED, (clean, *test, *ema_test)))

    def _evaluated_images(self) -> int:
        """Forward passes of one evaluation: the test images once or twice, and as many training images."""
        return len(self.test) * (2 if self.averaged else 1) + min(len(self.test), len(self.train))


_EVALUATED = ("clean_train_accuracy", "test_loss", "test_accuracy", "ema_test_loss", "ema_test_accuracy")


def _check_finite(losses: Tensor, epoch: int) -> None:
    finite = torch.isfinite(losses)
    if not finite.all():
        step = int((~finite).nonzero()[0])
        raise TrainingError(
            f"the loss is {losses[step].item()} at epoch {epoch}, step {step} (both counted from 0); "
            "what was recorded until the epoch before is kept. A smaller lr or a smaller grad_clip usually helps"
        )


def _move(split: Split, device: torch.device) -> Split:
    return Split(split.images.to(device), split.labels.to(device), split.masks)
