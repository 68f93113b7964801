"""One whole run: data, training, checkpoints, records, figures. Chapters and the command line both call `execute`."""

import json
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import nn

from ptd_core import history
from ptd_core.checkpoint import load_checkpoint, save_checkpoint
from ptd_core.cost import cost, run_training_cost
from ptd_core.data import load_recipe
from ptd_core.dataset import PROJECT_ROOT, Dataset
from ptd_core.device import describe_device, resolve_device, synchronize
from ptd_core.errors import OutputError, TrainingError
from ptd_core.figures import save_run_figures
from ptd_core.history import EpochRecord
from ptd_core.progress import Progress, duration
from ptd_core.recipe import Recipe
from ptd_core.stamp import stamp
from ptd_core.trainer import Trainer

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


@dataclass
class Folders:
    """Where a run writes: `figures` for readers, `state` for checkpoints (git-ignored)."""

    figures: Path
    state: Path
    checkpoint: Path = field(init=False)

    def __post_init__(self):
        self.checkpoint = self.state / "last.pt"

    @classmethod
    def of(cls, recipe: Recipe) -> "Folders":
        base = Path(recipe.out_dir).expanduser() if recipe.out_dir else PROJECT_ROOT
        return cls(figures=base / "figures" / recipe.run_name, state=base / "runs" / recipe.run_name)

    def create(self) -> None:
        """Raises OutputError if they cannot be made or written."""
        for folder in (self.figures, self.state):
            try:
                folder.mkdir(parents=True, exist_ok=True)
                history.write_atomically(folder / ".writable", b"")
                (folder / ".writable").unlink()
            except OSError as error:
                raise OutputError(
                    f"{folder}: cannot be written ({error.strerror or error}); set out_dir to a folder that can"
                ) from None


def execute(recipe: Recipe, progress: Progress | None = None, *, dataset: Dataset | None = None) -> Run:
    """Train what the recipe says, or take it up where an earlier call stood, or show it if it is finished.

    dataset: the recipe's data, if the caller has read it already.

    Raises OutputError if the run's folder holds another recipe's run or cannot be written, DataError, DeviceError,
    and TrainingError after saving what was recorded until then.
    """
    progress = progress or Progress()
    started = time.perf_counter()
    resolve_device(recipe.device)  # an absent device is refused before data is read
    folders = Folders.of(recipe)
    _refuse_other_recipe(recipe, folders)
    dataset = dataset or load_recipe(recipe)
    trainer = Trainer(recipe, dataset)
    folders.create()  # only now: a refusal above leaves nothing behind
    records = _take_up(recipe, trainer, folders)
    for line in describe(recipe, dataset, trainer):
        progress.say(line)
    if trainer.next_epoch >= recipe.epochs:
        progress.say(f"{recipe.run_name} is finished: its {len(records)} epochs are shown, not repeated")
    elif records:
        progress.say(f"{recipe.run_name} goes on from epoch {trainer.next_epoch} (counted from 0)")
    trained = trainer.next_epoch < recipe.epochs
    if trained:
        _train(recipe, trainer, records, folders, progress)
    info_path = folders.figures / "run.json"
    if trained or not info_path.exists():
        info = _info(recipe, trainer, records, finished=True)
        info["times"]["this_call_seconds"] = time.perf_counter() - started
        _leave(recipe, records, info, folders)
    info = json.loads(info_path.read_text())
    return Run(recipe, dataset, records, trainer.headline.eval(), trainer, folders.figures, info)


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
        f"device    {describe_device(trainer.device)}, {trainer.precision}, {trainer.attention} attention",
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


def stamp_line(info: dict) -> str:
    """run.json's stamp in one line."""
    seed, versions = info["seed"], info["versions"]
    return f"{info['run']}, n = 1, seed {seed} · {info['device']} · torch {versions['torch']} · commit {info['commit']}"


def _train(recipe: Recipe, trainer: Trainer, records: list[EpochRecord], folders: Folders, progress: Progress) -> None:
    """Train to the end; `records` grows. Checkpoint and history are on disk after every checkpoint_every epochs."""
    clock = {}

    def on_step(epoch: int, done: int, steps: int) -> None:
        progress.step(epoch, done, steps)
        if "estimated" not in clock and (done in ESTIMATE_AFTER):
            synchronize(trainer.device)
            if done == ESTIMATE_AFTER[0]:
                clock["start"] = time.perf_counter()
            elif "start" in clock:
                step_seconds = (time.perf_counter() - clock["start"]) / (ESTIMATE_AFTER[1] - ESTIMATE_AFTER[0])
                clock["estimated"] = trainer.estimate_seconds(step_seconds, epoch)
                progress.say(
                    f"estimate  {duration(clock['estimated'])} for what remains, evaluation included "
                    f"({recipe.batch_size / step_seconds:.0f} images/s now)"
                )

    try:
        for record in trainer.epochs(on_step):
            records.append(record)
            progress.epoch(record, recipe.epochs)
            if len(records) % recipe.checkpoint_every == 0 or trainer.next_epoch == recipe.epochs:
                save_checkpoint(folders.checkpoint, trainer.state_dict(), records, recipe.essence())
                history.write_csv(records, folders.state / "history.csv")
    except TrainingError:
        if records:
            _leave(recipe, records, _info(recipe, trainer, records, finished=False), folders)
        raise
    finally:
        progress.close()


def _refuse_other_recipe(recipe: Recipe, folders: Folders) -> None:
    """Nothing that another recipe left is overwritten."""
    info_path = folders.figures / "run.json"
    if info_path.exists():
        _refuse_difference(recipe, json.loads(info_path.read_text())["recipe"], folders.figures)
    if folders.checkpoint.exists():
        _, _, essence = load_checkpoint(folders.checkpoint, torch.device("cpu"))
        _refuse_difference(recipe, essence, folders.state)


def _refuse_difference(recipe: Recipe, theirs: dict, folder: Path) -> None:
    mine = recipe.essence()
    names = [name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)]
    if names:
        listed = "; ".join(f"{name}: {mine.get(name)!r} asked for, {theirs.get(name)!r} there" for name in names)
        raise OutputError(
            f"{folder}: holds a run with another recipe ({listed}); choose another name with run=NAME, "
            "or delete that folder"
        )


def _take_up(recipe: Recipe, trainer: Trainer, folders: Folders) -> list[EpochRecord]:
    """Load an earlier call's state into the trainer; its records, or none."""
    if not folders.checkpoint.exists():
        return []
    state, records, _ = load_checkpoint(folders.checkpoint, trainer.device)
    trainer.load_state_dict(state)
    return records


def _info(recipe: Recipe, trainer: Trainer, records: list[EpochRecord], finished: bool) -> dict:
    """What run.json says."""
    evaluated = [record for record in records if record.evaluated]
    last = evaluated[-1] if evaluated else None
    with_drop, without = run_training_cost(recipe, trainer.classes)
    return {
        "run": recipe.run_name,
        "chapter": recipe.chapter,
        "seed": recipe.seed,
        "finished": finished,
        "recipe": recipe.essence(),
        **stamp(trainer.device),
        "precision": trainer.precision,
        "attention": trainer.attention,
        "made": datetime.now(UTC).strftime("%Y-%m-%d"),
        "model": {
            "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
            "training_flops_per_image": cost(recipe, trainer.classes).training,
            "flops_bound_on_speedup": without / with_drop,
        },
        "epochs": len(records),
        "results": last
        and {
            "test_accuracy": last.headline,
            "test_accuracy_raw": last.test_accuracy,
            "clean_train_accuracy": last.clean_train_accuracy,
            "best_on_test": max(record.headline for record in evaluated),
        },
        "times": {
            "train_seconds": sum(record.train_seconds for record in records),
            "eval_seconds": sum(record.eval_seconds for record in records),
        },
    }


def _leave(recipe: Recipe, records: list[EpochRecord], info: dict, folders: Folders) -> None:
    """The records and figures of a run, for readers; run.json last, so that it stands for a complete set."""
    prefix = folders.figures / recipe.chapter
    history.write_csv(records, prefix.with_name(f"{recipe.chapter}_history.csv"))
    history.write_metrics(records, recipe.chapter, prefix.with_name(f"{recipe.chapter}_metrics.csv"))
    history.write_pickle(records, prefix.with_name(f"{recipe.chapter}_history.pkl"))
    save_run_figures(recipe, records, folders.figures, stamp_line(info))
    history.write_atomically(folders.figures / "run.json", (json.dumps(info, indent=1) + "\n").encode())
