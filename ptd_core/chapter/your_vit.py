"""What chapter 5 does with the reader's own ViT and images: looks, predicts, measures, trains and decides."""

import hashlib
import re
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from IPython.display import Markdown
from PIL import Image

from ptd_core.bench.workload import CLASSES, Workload
from ptd_core.chapter.decision import ALL, EQUAL_TIME, FEWER, Trained
from ptd_core.chapter.notebook import table
from ptd_core.data.dataset import Dataset, Split, chunks_of
from ptd_core.data.shapes import load_shapes
from ptd_core.errors import RecipeError
from ptd_core.evaluation.policies import NO_DROP
from ptd_core.machine.clock import interleave
from ptd_core.machine.counted import saved_bytes
from ptd_core.paths import resolve_data_dir
from ptd_core.progress import duration
from ptd_core.recipe import Recipe
from ptd_core.records.cells import Cell
from ptd_core.records.files import make_folder
from ptd_core.records.finished_runs import FinishedRun
from ptd_core.records.folders import RunFolder
from ptd_core.run import Run, execute
from ptd_core.vits.fine_tuning import freeze

EXAMPLE = "data/shapes_as_images"  # the folder that the chapter makes where the reader has named none
ROUNDED = 0.05  # share of its time by which a control's whole epochs may miss it without a word
_ALL_TOKENS = NO_DROP | {"size_stages": ""}


def with_images(recipe: Recipe, train: int = 1500, test: int = 500) -> Recipe:
    """The recipe itself; where it names the example's folder, this is made first, of generated shapes as PNG files."""
    if recipe.dataset == "folder" and recipe.data_dir == EXAMPLE:
        folder = resolve_data_dir(EXAMPLE)
        if not folder.exists():
            _write_folder(folder, load_shapes(image_size=recipe.image_size, subset=train, test_subset=test))
            print(f"made {folder}: {train} training and {test} test images of generated shapes")
    return recipe


def _write_folder(folder: Path, data: Dataset) -> None:
    """The images as FOLDER/train/CLASS/NUMBER.png and FOLDER/test/...; whole or not at all."""
    unfinished = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    for part, split in (("train", data.train), ("test", data.test)):
        for number, (image, label) in enumerate(zip(split.images, split.labels)):
            into = unfinished / part / data.classes[label]
            make_folder(into)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(into / f"{number:05d}.png")
    unfinished.rename(folder)


def checked(data: Dataset) -> Markdown:
    """What to know of a dataset before a model is trained on it."""
    rows = []
    for name, split in (("training", data.train), ("test", data.test)):
        counts = np.bincount(split.labels.numpy(), minlength=len(data.classes))
        most, least = int(counts.argmax()), int(counts.argmin())
        sizes = [f"{counts[one]:,} ({_as_text(data.classes[one])})" for one in (least, most)]
        rows.append([name, f"{len(split):,}", *sizes, f"{100 * counts[most] / len(split):.1f} %"])
    print(*data.notes, sep="\n", end="\n" if data.notes else "")
    print(f"{len(data.classes)} classes; {shared_images(data)} test images are training images too")
    return table(["part", "images", "smallest class", "largest class", "always the largest: accuracy"], rows)


def _as_text(name: str) -> str:
    """A name in Markdown, in a table, as it is."""
    return re.sub(r"([\\`*_<>|\[\]$~])", r"\\\1", name)


def shared_images(data: Dataset) -> int:
    """How many test images are, pixel by pixel, among the training images."""

    def digests(split: Split) -> list[bytes]:
        chunks = chunks_of(split.images, split.mapped)
        return [hashlib.sha256(image.numpy()).digest() for chunk in chunks for image in chunk]

    training = set(digests(data.train))
    return sum(digest in training for digest in digests(data.test))


def candidates(recipe: Recipe) -> dict[str, Recipe]:
    """The recipe's own policy, and others with its schedule; says which of them its model cannot have."""
    own = {"drop_block": recipe.drop_block, "drop_blocks": "", "drop_shares": "", "drop_method": "token_drop",
           "drop_fate": "discard", "drop_attended": "all", "drop_choice": "top", "drop_until": -1}  # fmt: skip
    others = {
        "in the first block": {"drop_block": 0},
        "in the second block": {"drop_block": 1},
        "at the input, at random": {"drop_block": 0, "drop_attended": "kept", "drop_score": "random"},
        "fused into one": {"drop_fate": "fuse"},
        "merged into the nearest": {"drop_fate": "merge"},
        "bypass until the last block": {"drop_fate": "bypass"},
    }
    found = {"yours": recipe}
    for name, values in others.items():
        try:
            one = recipe.replace(**{**own, **values})
        except RecipeError as error:
            print(f"left out: {name} ({error})")
            continue
        if one.settings() != recipe.settings():
            found[name] = one
    return found


def predicted(found: dict[str, Recipe], classes: int) -> Markdown:
    """What operations say of each policy: the whole training against one with all tokens."""
    rows = []
    for name, recipe in found.items():
        ours, whole = recipe.training_cost(classes)
        fewest = min(recipe.kept_tokens(epoch) for epoch in range(recipe.epochs))
        rows.append([name, f"{fewest} of {recipe.vit.patch_tokens}", f"{ours / whole:.3f}", f"{whole / ours:.3f}x"])
    return table(["policy", "fewest tokens kept", "operations, all tokens = 1", "faster by"], rows)


def facts(recipe: Recipe, classes: int) -> Markdown:
    """Size of the model, and what a training step on one image costs."""
    model, images = recipe.vit.build(classes), torch.zeros(2, 3, recipe.image_size, recipe.image_size)
    freeze(model, recipe.frozen_blocks)
    rows = {
        "parameters": f"{sum(parameter.numel() for parameter in model.parameters()):,}",
        "blocks": recipe.vit.depth,
        "patch tokens of an image": recipe.vit.patch_tokens,
        "prefix tokens (class, distillation, registers)": recipe.vit.prefix_tokens,
        "operations of training, an image": f"{recipe.cost(classes).training / 1e9:.3f} GFLOP",
        "memory for the backward pass, an image": f"{saved_bytes(model.train(), images) / 1e6:.1f} MB (fp32)",
    }
    return table([recipe.model, ""], list(rows.items()))


@dataclass(frozen=True)
class Measured:
    """step_seconds: of a training step with all tokens. shares: of each policy, the time of its whole training over
    that of all tokens. table: the same to be shown."""

    step_seconds: float
    shares: dict[str, float]
    table: Markdown


def measured(found: dict[str, Recipe], rounds: int = 3) -> Measured:
    """Each policy's time, from a few steps of each kind of epoch.

    A policy's steps and those with all tokens in turn, medians of `rounds`; random pixels stand in for images. Where
    images change their size, operations stand in for time, and the table says so.
    """
    work = Workload(next(iter(found.values())).replace(**_ALL_TOKENS))
    whole, costs = None, {}
    for name, recipe in found.items():
        if recipe.size_stages:
            ours, all_of_them = recipe.training_cost(CLASSES)
            costs[name] = ours / all_of_them
            continue
        # Beside all tokens and no other policy: that many models and optimizers would not fit on a small card.
        trainer, epochs = Workload(recipe), Counter(recipe.keeps)
        cases = {keep: trainer.trainers_step(keep) for keep in epochs if keep is not None}
        times = interleave({None: work.trainers_step(None), **cases}, rounds, work.device)
        whole = whole or times[None]
        shares = {keep: times[keep].over(times[None]) for keep in epochs}
        costs[name] = sum(count * shares[keep] for keep, count in epochs.items()) / recipe.epochs
    whole = whole or interleave({None: work.trainers_step(None)}, rounds, work.device)[None]
    how = {name: "operations" if recipe.size_stages else "measured" for name, recipe in found.items()}
    rows = [[name, f"{one:.3f}", f"{1 / one:.3f}x", how[name]] for name, one in costs.items()]
    print(f"a step with all tokens: {whole.median:.3f} s on {work.device}, ±{100 * whole.spread:.0f} % between rounds")
    return Measured(whole.median, costs, table(["policy", "time, all tokens = 1", "faster by", "by"], rows))


def arms(recipe: Recipe, share: float) -> dict[str, Recipe]:
    """Three trainings to compare: all tokens, the recipe, and all tokens for as many epochs as its time allows.

    share: the time of the recipe's training over that with all tokens. Measured again it may be another, and so
    the last one's name says how many epochs it has.
    """
    name, epochs = recipe.run_name, max(1, round(share * recipe.epochs))
    whole = recipe.replace(run=f"{name}_all_tokens", **_ALL_TOKENS)
    warmup = min(recipe.warmup_epochs, epochs - 1)
    return {
        ALL: whole,
        FEWER: recipe.replace(run=f"{name}_fewer_tokens"),
        EQUAL_TIME: whole.replace(run=f"{name}_{epochs}_epochs", epochs=epochs, warmup_epochs=warmup),
    }


def planned(compared: dict[str, Recipe], repeats: tuple[int, ...], steps: Measured, data: Dataset) -> Markdown:
    """How many epochs each training has, and how long all of them will take by the measured steps."""
    rows, total, epochs = [], 0.0, compared[FEWER].epochs
    for name, recipe in compared.items():
        step = steps.step_seconds * (steps.shares["yours"] if name == FEWER else 1.0)
        price = recipe.cost(len(data.classes))
        evaluation = steps.step_seconds / recipe.batch_size * price.forward / price.training
        images = recipe.evaluated_images(len(data.train), len(data.test))
        evaluations = -(-recipe.epochs // recipe.eval_every)
        seconds = recipe.epochs * recipe.steps(len(data.train)) * step + evaluations * images * evaluation
        total += len(repeats) * seconds
        rows.append([name, recipe.epochs, f"about {duration(seconds)}"])
    exact = steps.shares["yours"] * epochs
    print(
        f"{len(repeats) * len(rows)} trainings, about {duration(total)} in all; {epochs} epochs with fewer tokens take "
        f"as long as {exact:.1f} with all"
    )
    if abs(off := compared[EQUAL_TIME].epochs / exact - 1) > ROUNDED:
        print(
            f"note: in whole epochs the control has {100 * abs(off):.0f} % {'more' if off > 0 else 'less'} time than "
            "that; with more epochs they come closer"
        )
    return table(["training", "epochs", "each"], rows)


def trained(compared: dict[str, Recipe], seeds: tuple[int, ...]) -> Trained:
    """Every arm with every seed, seed by seed; finished runs are not repeated. Says how long the others will take.

    Raises RecipeError unless there is a seed, and all differ.
    """
    if not 1 <= len(set(seeds)) == len(seeds):
        raise RecipeError(f"repeats = {seeds}: at least one seed is needed, and all must differ")
    runs: dict[str, list[Run]] = {name: [] for name in compared}
    data = next(iter(compared.values())).load_dataset()
    todo = [(seed, name) for seed in seeds for name in compared]
    price = {  # operations of a training, for the time that is left
        name: one.training_cost(len(data.classes))[0] for name, one in compared.items()
    }
    runs_of = {
        (seed, name): compared[name].replace(run=f"{compared[name].run_name}_seed{seed}", seed=seed)
        for seed, name in todo
    }
    waiting = [one for one in todo if RunFolder(runs_of[one].run_name, runs_of[one].out_dir).finished is None]
    seconds = done = 0.0
    for number, (seed, name) in enumerate(todo, start=1):
        print(f"\n{number} of {len(todo)}: {name}, seed {seed}")
        run = execute(runs_of[seed, name], dataset=data)
        runs[name].append(run)
        seconds += run.record.times.train_seconds + run.record.times.eval_seconds
        done += price[name]
        if others := [other for other in todo[number:] if other in waiting]:
            left = sum(price[other] for _, other in others) * seconds / done
            named = f"other {len(others)} trainings" if others[1:] else "last training"
            print(f"about {duration(left)} left for the {named}")
    cells = {name: Cell(name, [FinishedRun.of(run.record, name) for run in found]) for name, found in runs.items()}
    return Trained(cells, runs[FEWER][0], data.test.labels)
