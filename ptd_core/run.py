"""One whole run: data, training, checkpoints, records, figures. Chapters and the command line both call `execute`."""

import itertools
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import nn

from ptd_core.cost import cost, run_training_cost
from ptd_core.data.dataset import Dataset
from ptd_core.data.load import load_recipe
from ptd_core.errors import OutputError, TrainingError
from ptd_core.machine.device import describe_device, resolve_device, synchronize
from ptd_core.machine.interrupt import Interrupt, Stopped
from ptd_core.machine.ranks import Ranks
from ptd_core.model import HybridViT
from ptd_core.progress import Progress, duration
from ptd_core.recipe import Recipe
from ptd_core.records import history
from ptd_core.records.checkpoint import Checkpoint, Checkpoints
from ptd_core.records.folders import Folders
from ptd_core.records.history import EpochRecord
from ptd_core.records.run_record import leave, read_info, refuse_other_recipe, run_info, stamp_line
from ptd_core.records.stamp import stamp
from ptd_core.trainer import Trainer, build_model

STOP_AGREED_EVERY = 16  # steps of several CUDA devices, which should not wait for each other's hosts at every one
ESTIMATE_AFTER = (3, 8)  # steps between which the first estimate is timed: the first ones warm caches


@dataclass(frozen=True)
class Run:
    """A finished run: what it was, what it recorded, and the weights that it stands for, in evaluation mode."""

    recipe: Recipe
    dataset: Dataset
    records: list[EpochRecord]
    model: nn.Module
    trainer: Trainer
    figures: Path
    info: dict

    @property
    def stamp(self) -> str:
        """One line for the foot of a figure."""
        return stamp_line(self.info)


def execute(
    recipe: Recipe,
    progress: Progress | None = None,
    *,
    dataset: Dataset | None = None,
    ranks: Ranks = Ranks(),  # noqa: B008  frozen
) -> Run:
    """Train what the recipe says, or take it up where an earlier call stood, or show it if it is finished.

    dataset: the recipe's data, if the caller has read it already. ranks: the processes that do it together; this is
    for the one that writes, the others call `follow`.

    Raises OutputError if the run's folder holds another recipe's run, is in use by another process or cannot be
    written; DataError; DeviceError; TrainingError after saving what was recorded until then. Ctrl-C and SIGTERM end
    it with KeyboardInterrupt and SystemExit(143) after the step under way, saved to go on from there.
    """
    progress = progress or Progress()
    started = time.perf_counter()
    resolve_device(recipe.device)  # an absent device is refused before data is read
    folders = Folders.of(recipe)
    with folders.locked():
        checkpoints = Checkpoints(folders.state)
        found = checkpoints.load(progress.say)
        info = read_info(folders.figures)
        _refuse_other_runs(recipe, folders, info, found)
        dataset = dataset or load_recipe(recipe)
        ranks.share(found and found.trainer)
        trainer = Trainer(recipe, dataset, ranks)
        folders.create()  # only now: a refusal above leaves nothing behind
        records = _take_up(found, trainer, checkpoints)
        for line in [*describe(recipe, dataset, trainer), *_standing(recipe, trainer, found)]:
            progress.say(line)
        if trainer.next_epoch < recipe.epochs or info is None or not info["finished"]:
            with Interrupt() as interrupt:
                _train(recipe, trainer, records, folders, checkpoints, progress, interrupt)
                info = run_info(recipe, trainer, records, finished=True)
                info["times"]["this_call_seconds"] = time.perf_counter() - started
                leave(recipe, records, info, folders.figures)
    return Run(recipe, dataset, records, trainer.headline.eval(), trainer, folders.figures, info)


def follow(recipe: Recipe, ranks: Ranks) -> None:
    """Train beside the process that writes, in step with it, from where it stands, and leave nothing behind."""
    state = ranks.share()
    trainer = Trainer(recipe, load_recipe(recipe), ranks)
    if state is not None:
        trainer.load_state_dict(state)
    if trainer.partial is not None:
        trainer.partial.random = None  # the other process's
    with Interrupt() as interrupt:
        for _ in trainer.epochs(may_stop=together(interrupt, trainer)):
            pass


def load_model(run: str, out_dir: str = "") -> HybridViT:
    """The headline weights of the run of that name, in evaluation mode, on the CPU.

    out_dir: the folder that holds the run's figures/ and runs/; by default the project's own.
    Raises RecipeError for a name that no run can have, OutputError if the run or its weights are not there, or are
    damaged.
    """
    folders = Folders.of(Recipe.from_values({"run": run, "out_dir": out_dir}, source="load_model"))
    info = read_info(folders.figures)
    if info is None:
        raise OutputError(f"{folders.figures}: holds no run")
    file = Checkpoints(folders.state).weights
    try:
        weights = safetensors.torch.load_file(file)
        model = build_model(
            Recipe.from_values(info["recipe"], source=str(folders.figures)), len(weights["head.weight"])
        )
        model.load_state_dict(weights)
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        raise OutputError(f"{file}: cannot be read as the weights of {run} ({error})") from None
    return model.eval()


def together(interrupt: Interrupt, trainer: Trainer) -> Callable[[], None]:
    """A check that stops all processes after the same step when a signal has come to one of them."""
    calls = itertools.count()
    every = STOP_AGREED_EVERY if trainer.device.type == "cuda" and trainer.ranks.size > 1 else 1

    def check() -> None:
        if next(calls) % every == 0 and trainer.ranks.any(interrupt.received is not None):
            interrupt.received = interrupt.received or signal.SIGTERM
            interrupt.check()

    return check


def describe(recipe: Recipe, dataset: Dataset, trainer: Trainer) -> list[str]:
    """What will run, in words and numbers, before it does."""
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    price = cost(recipe, trainer.classes)
    with_drop, without = run_training_cost(recipe, trainer.classes)
    first, last = (
        recipe.schedule.kept(0, recipe.patch_tokens),
        recipe.schedule.kept(recipe.epochs - 1, recipe.patch_tokens),
    )
    lines = [
        f"run       {recipe.run_name}: {recipe.epochs} epochs of {trainer.steps_per_epoch} steps "
        f"of {recipe.batch_size} images",
        f"data      {dataset.name}: {len(dataset.train):,} training and {len(dataset.test):,} test images of "
        f"{recipe.image_size} px, {trainer.classes} classes",
        f"model     {parameters:,} parameters, {recipe.patch_tokens} patch tokens, training "
        f"{price.training / 1e9:.3f} GFLOP an image",
        f"device    {describe_device(trainer.device)}, {trainer.path}",
    ]
    if recipe.chapter == "ptd":
        lines.append(
            f"tokens    {first} kept in the first epoch, {last} in the last, from block {recipe.drop_block} on; "
            f"at most {without / with_drop:.3f}x faster than with all tokens, by operations"
        )
        if recipe.drop_start >= recipe.epochs:
            lines.append(f"note      the run ends before drop_start = {recipe.drop_start}: no token is dropped")
        elif recipe.drop_end >= recipe.epochs:
            lines.append(f"note      the run ends before drop_end = {recipe.drop_end}: drop_final is not reached")
    return lines


def _train(
    recipe: Recipe,
    trainer: Trainer,
    records: list[EpochRecord],
    folders: Folders,
    checkpoints: Checkpoints,
    progress: Progress,
    interrupt: Interrupt,
) -> None:
    """Train to the end; `records` grows. What a killed process loses is at most checkpoint_every epochs of time."""
    estimate = _Estimate(trainer, progress)
    origin = stamp(trainer.device)

    def on_step(epoch: int, done: int, steps: int) -> None:
        progress.step(epoch, done, steps)
        estimate(epoch, done)

    def checkpoint() -> Checkpoint:
        return Checkpoint(trainer.state_dict(), records, recipe.essence(), origin)

    try:
        for record in trainer.epochs(on_step, together(interrupt, trainer)):
            records.append(record)
            progress.epoch(record, recipe.epochs)
            # The last checkpoint comes last: a process killed before it writes the others again, to the same end.
            if record.evaluated and record.headline > max(
                (earlier.headline for earlier in records[:-1] if earlier.evaluated), default=-1.0
            ):
                checkpoints.save_best(checkpoint())
            description = f"headline weights of run {recipe.run_name} after {len(records)} epochs"
            if len(records) == 1:
                checkpoints.save_weights(checkpoints.early, trainer.headline.state_dict(), description)
            if len(records) % recipe.checkpoint_every == 0 or trainer.next_epoch == recipe.epochs:
                history.write_csv(records, folders.state / "history.csv")
                checkpoints.save_weights(checkpoints.weights, trainer.headline.state_dict(), description)
                checkpoints.save(checkpoint())
    except Stopped:
        checkpoints.save(checkpoint())
        if records:
            history.write_csv(records, folders.state / "history.csv")
            leave(recipe, records, run_info(recipe, trainer, records, finished=False), folders.figures)
        progress.close()
        progress.say(f"{recipe.run_name} is stopped and saved; the same again goes on from {_position(trainer)}")
        raise
    except TrainingError:
        if records:
            leave(recipe, records, run_info(recipe, trainer, records, finished=False), folders.figures)
        raise
    finally:
        progress.close()


class _Estimate:
    """Says once, after the first steps, how long the rest will take."""

    def __init__(self, trainer: Trainer, progress: Progress):
        self._trainer, self._progress = trainer, progress
        self._start: float | None = None
        self._done = False

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
            self._progress.say(
                f"estimate  {duration(self._trainer.estimate_seconds(step_seconds, epoch))} for what remains, "
                f"evaluation included ({self._trainer.recipe.batch_size / step_seconds:.0f} images/s now)"
            )


def _standing(recipe: Recipe, trainer: Trainer, found: Checkpoint | None) -> list[str]:
    """Where the run stands, if an earlier call has begun it."""
    if found is None:
        return []
    if trainer.next_epoch >= recipe.epochs:
        return [f"{recipe.run_name} is finished: its {len(found.records)} epochs are shown, not repeated"]
    lines = [f"{recipe.run_name} goes on from {_position(trainer)}"]
    here = stamp(trainer.device)
    for name in ("device", "versions"):
        if found.stamp[name] != here[name]:
            lines.append(
                f"note      begun with {name} {found.stamp[name]}, now {here[name]}: "
                "the result can differ in rounding from that of a run that was never stopped"
            )
    return lines


def _position(trainer: Trainer) -> str:
    if trainer.partial is None:
        return f"epoch {trainer.next_epoch} (counted from 0)"
    return f"epoch {trainer.next_epoch}, step {trainer.partial.step} of {trainer.steps_per_epoch} (counted from 0)"


def _refuse_other_runs(recipe: Recipe, folders: Folders, info: dict | None, found: Checkpoint | None) -> None:
    """Nothing that another recipe left is overwritten."""
    if info is not None:
        refuse_other_recipe(recipe, info["recipe"], folders.figures)
    if found is not None:
        refuse_other_recipe(recipe, found.recipe, folders.state)


def _take_up(found: Checkpoint | None, trainer: Trainer, checkpoints: Checkpoints) -> list[EpochRecord]:
    """Load an earlier call's state into the trainer; its records, or none."""
    if found is None:
        return []
    try:
        trainer.load_state_dict(found.trainer)
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise OutputError(
            f"{checkpoints.last}: does not fit this recipe's model ({type(error).__name__}); delete it to train anew"
        ) from None
    return list(found.records)
