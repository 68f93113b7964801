"""What a run prints: what it is, how long it will take, a line per epoch, and a bar where somebody watches."""

import itertools
import time

from tqdm.auto import tqdm

from ptd_core.data.dataset import Dataset
from ptd_core.machine.device import describe_device, synchronize
from ptd_core.machine.terminal import printable, say, somebody_watches
from ptd_core.recipe import Recipe
from ptd_core.records.checkpoint import Checkpoint
from ptd_core.records.history import EpochRecord
from ptd_core.records.stamp import stamp
from ptd_core.rivals.rival import Rival
from ptd_core.token_drop import TokenDrop
from ptd_core.trainer import Trainer

ESTIMATE_AFTER = (3, 8)  # steps between which the first estimate is timed: the first ones warm caches


def duration(seconds: float) -> str:
    """Seconds as a person reads them: 42 s, 3 min 20 s, 13 h 40 min."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


class Progress:
    """Prints a run's epochs, and draws a bar over its steps if `bar` (by default: if somebody watches)."""

    def __init__(self, bar: bool | None = None):
        self._show_bar = somebody_watches() if bar is None else bar
        self._bar = None

    def print(self, text: str) -> None:
        tqdm.write(printable(text)) if self._bar is not None else say(text)

    def step(self, epoch: int, done: int, steps: int) -> None:
        if not self._show_bar:
            return
        if self._bar is None:
            self._bar = tqdm(total=steps, desc=f"epoch {epoch + 1}", unit="step", leave=False)
        self._bar.update(done - self._bar.n)
        if done == steps:
            self.close()

    def epoch(self, record: EpochRecord, epochs: int, left: float = 0.0) -> None:
        """One line; the columns that were not measured in this epoch are left out. left: seconds to go."""
        self.close()
        tests = f"  test {record.headline:6.2f} %  train (clean) {record.clean_train_accuracy:6.2f} %"
        self.print(
            f"epoch {record.epoch + 1:3d}/{epochs}  kept {record.kept_tokens:4d}  loss {record.train_loss:.4f}"
            f"{tests if record.evaluated else ''}  {record.images_per_second:.0f} images/s"
            f"{f'  {duration(left)} left' if left else ''}"
        )

    def close(self) -> None:
        """Take the bar away, also when a run stops in the middle of an epoch."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class Estimate:
    """How long the rest of a run will take. Prints it once, after the first steps.

    Steps of other epochs and evaluation are scaled by their floating-point operations: an extrapolation.
    """

    def __init__(self, trainer: Trainer, progress: Progress):
        self._trainer, self._progress = trainer, progress
        self._start: float | None = None
        self._done = False
        recipe = trainer.recipe
        prices = recipe.training_costs(trainer.classes)
        self._step = [recipe.batch_size * price for price in prices]  # operations of a step, for each epoch
        images = recipe.evaluated_images(len(trainer.train), len(trainer.test))
        evaluation = images * recipe.cost(trainer.classes).forward
        epochs = [
            trainer.steps_per_epoch * step + trainer.evaluates(epoch) * evaluation
            for epoch, step in enumerate(self._step)
        ]
        self._ahead = [*itertools.accumulate(reversed(epochs), initial=0)][::-1]  # operations from an epoch on

    def __call__(self, epoch: int, done: int) -> None:
        first, last = ESTIMATE_AFTER
        if self._done or done not in ESTIMATE_AFTER:
            return
        synchronize(self._trainer.device)
        if done == first:
            self._start = time.perf_counter()
        elif self._start is not None:
            step_seconds = (time.perf_counter() - self._start) / (last - first)
            self._done = True
            self._progress.print(
                f"estimate  {duration(self.seconds(step_seconds, epoch))} for what remains, "
                f"evaluation included ({self._trainer.recipe.batch_size / step_seconds:.0f} images/s now)"
            )

    def left(self, record: EpochRecord) -> float:
        """Seconds to go after an epoch, from its own speed."""
        return self.seconds(record.train_seconds / self._trainer.steps_per_epoch, record.epoch, done=1)

    def seconds(self, step_seconds: float, epoch: int, done: int = 0) -> float:
        """Time of the epochs from `epoch` on, evaluation included, if a training step of it takes `step_seconds`.

        done: how many of these epochs are over.
        """
        return step_seconds * self._ahead[epoch + done] / self._step[epoch]


def _where(recipe: Recipe) -> str:
    """The policy in words; the published one's in few."""
    drop = recipe.token_drop
    if len(drop.blocks) == 1 and drop == TokenDrop(drop.blocks):
        return f"from block {drop.blocks[0]} on"
    blocks = ", ".join(map(str, drop.blocks))
    if isinstance(drop, Rival):
        return f"by {drop.name}" + ("" if drop.name == "tome" else f", blocks {blocks}")
    until = f" until {drop.until}" if drop.until else ""
    return f"by {drop.score}, {drop.choice}, {drop.fate} in block{'s'[: len(drop.blocks) > 1]} {blocks}{until}"


def describe(trainer: Trainer, dataset: Dataset) -> list[str]:
    """What will run, in words and numbers, before it does."""
    recipe, vit = trainer.recipe, trainer.recipe.vit
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    lines = [
        f"run       {recipe.run_name}: {recipe.epochs} epochs of {trainer.steps_per_epoch} steps "
        f"of {recipe.batch_size} images",
        f"data      {dataset.name}: {len(dataset.train):,} training and {len(dataset.test):,} test images of "
        f"{recipe.image_size} px, {trainer.classes} classes",
        *(f"data      {note}" for note in dataset.notes),
        f"model     {parameters:,} parameters, {vit.patch_tokens} patch tokens, training "
        f"{recipe.cost(trainer.classes).training / 1e9:.3f} GFLOP an image",
        f"device    {describe_device(trainer.device)}, {trainer.path}",
    ]
    if recipe.chapter == "ptd":
        with_drop, without = recipe.training_cost(trainer.classes)
        lines.append(
            f"tokens    {recipe.kept_tokens(0)} kept in the first epoch, {recipe.kept_tokens(recipe.epochs - 1)} in "
            f"the last, {_where(recipe)}; predicted from operations: {without / with_drop:.3f}x "
            "faster than with all tokens"
        )
        if not any(recipe.keeps):
            lines.append("note      with these settings no epoch of the run drops a token")
        elif recipe.drop_shape in ("polynomial", "cosine") and recipe.drop_end >= recipe.epochs:
            lines.append(f"note      the run ends before drop_end = {recipe.drop_end}: drop_final is not reached")
    return lines


def standing(trainer: Trainer, found: Checkpoint | None) -> list[str]:
    """Where the run stands, if an earlier call has begun it."""
    if found is None:
        return []
    recipe = trainer.recipe
    if trainer.next_epoch >= recipe.epochs:
        return [f"{recipe.run_name} is finished: its {len(found.records)} epochs are shown, not repeated"]
    lines = [f"{recipe.run_name} is resumed from {position(trainer)}"]
    here = stamp(trainer.device)
    for name in ("device", "versions"):
        if found.stamp[name] != here[name]:
            lines.append(
                f"note      begun with {name} {found.stamp[name]}, now {here[name]}: "
                "the result can differ in rounding from that of a run that was never stopped"
            )
    return lines


def position(trainer: Trainer) -> str:
    """The next step of a trainer, in words."""
    if trainer.partial is None:
        return f"epoch {trainer.next_epoch + 1}"
    return f"epoch {trainer.next_epoch + 1}, after step {trainer.partial.step} of {trainer.steps_per_epoch}"
