"""python -m ptd_core.evaluate.feedback RUN_FOLDER ... [--keep SHARE] [--blocks 0,3] [data_dir=...]

Attention after each epoch, of finished runs that kept the weights of their epochs (weights_every = 1): how
concentrated class attention is, how much of the set of tokens that it would keep changes from epoch to epoch, and
whether dropped tokens come back. All of them are asked for the same share of tokens on the same test images, whatever
they were trained with. Runs that differ in their seed only are one row of the table; --to FOLDER writes feedback.csv
and feedback.png. data_dir, images, cache_dir and device are taken too.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

from ptd_core.data.dataset import Dataset
from ptd_core.errors import OutputError, RecipeError
from ptd_core.evaluate.command import folders_and_settings, show
from ptd_core.evaluation import feedback
from ptd_core.evaluation.feedback import Row
from ptd_core.evaluation.trained import HERE, TrainedRun, trained_runs, with_data
from ptd_core.load import load_weights
from ptd_core.machine.device import resolve_device
from ptd_core.records.checkpoint import Checkpoints
from ptd_core.records.stamp import stamp
from ptd_core.schedule import DropSchedule
from ptd_core.trainer import build_model
from ptd_core.views.feedback import feedback_figure

KEEP = 0.65  # the published curriculum's last share
IMAGES = 1000


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ptd_core.evaluate.feedback", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN_FOLDER|name=value", help="such as runs/evidence_ptd_seed0")
    parser.add_argument("--keep", type=float, default=KEEP, help=f"share of the patch tokens; by default {KEEP}")
    parser.add_argument("--blocks", default="", help="such as 0,3; by default the first and the last")
    parser.add_argument("--images", type=int, default=IMAGES, help="test images, class-balanced; 0: all")
    parser.add_argument("--to", type=Path, help="folder for feedback.csv and feedback.png")
    options = parser.parse_intermixed_args(arguments)
    if not 0 < options.keep < 1 or options.images < 0:
        parser.error(f"--keep must lie between 0 and 1, --images not below 0; got {options.keep} and {options.images}")
    folders, settings = folders_and_settings(options.runs)
    rows_of = partial(measure, folders, settings, options.keep, options.blocks, options.images)
    return show(rows_of, feedback, feedback_figure, options.to)


def measure(
    folders: list[Path], settings: list[str], keep: float = KEEP, blocks: str = "", images: int = IMAGES
) -> list[Row]:
    """Rows of finished runs: one a run, block and epoch after which its weights were kept, and one before training,
    but for runs that began with a file of weights, which is not here.

    settings: name=value texts of this machine. keep: share of the patch tokens. blocks: numbers joined by commas; "":
    the first and the last. images: of the test set; 0: all. Raises RecipeError, DataError, DeviceError or OutputError;
    for what is asked for, before the first run is measured.
    """
    if unknown := [text for text in settings if text.partition("=")[0] not in HERE]:
        raise RecipeError(f"command line: {unknown[0]!r}: only {', '.join(HERE)} are settings here")
    runs = trained_runs(folders, settings)
    asked = [(_kept(keep, run), _blocks(blocks, run), _epochs(run)) for run in runs]
    rows = []
    for (run, data), (kept, blocks_of_run, epochs) in zip(with_data(runs), asked):
        rows += _rows(run, data, kept, blocks_of_run, epochs, images)
    return rows


def _rows(run: TrainedRun, data: Dataset, kept: int, blocks: list[int], epochs: list[int], images: int) -> list[Row]:
    device = resolve_device(run.recipe.device)
    test, normalise = (data.test.part(images) if images else data.test).to(device), data.normaliser(device)
    start = {} if run.recipe.weights else {0: build_model(run.recipe, len(data.classes))}
    last = epochs[-1]
    models = {**start, **{epoch: load_weights(run.folder, run.record, epoch) for epoch in epochs[:-1]}}
    models[last] = load_weights(run.folder, run.record)
    tokens, about, batch = run.recipe.vit.patch_tokens, stamp(device), run.recipe.eval_batch_size
    rows = []
    for block in blocks:
        try:
            scored = [feedback.scores(vit.to(device), test, normalise, block, batch) for vit in models.values()]
        except ValueError as error:
            raise RecipeError(f"{run.record.run}: {error}") from None
        for epoch, measured in zip(models, feedback.measures(scored, kept)):
            rows.append(
                Row(
                    run=run.record.run, cell=run.cell, seed=run.record.seed, epoch=epoch,
                    trained_with=run.recipe.kept_tokens(max(0, epoch - 1)), block=block, kept=kept, tokens=tokens,
                    images=len(test), **measured, torch=about["versions"]["torch"], commit=str(about["commit"]),
                )
            )  # fmt: skip
    return rows


def _kept(share: float, run: TrainedRun) -> int:
    tokens = run.recipe.vit.patch_tokens
    kept = DropSchedule.tokens_at_ratio(1 - share, tokens)
    if not 1 <= kept < tokens:
        raise RecipeError(
            f"--keep {share}: is {kept} of the {tokens} patch tokens of {run.record.run}; name some of them"
        )
    return kept


def _blocks(text: str, run: TrainedRun) -> list[int]:
    depth = run.recipe.vit.depth
    if not text:
        return list(dict.fromkeys([0, depth - 1]))
    found = [int(part) if part.strip().isdecimal() else -1 for part in text.split(",")]
    if not all(0 <= block < depth for block in found):
        raise RecipeError(f"--blocks {text}: {run.record.run} has blocks 0 to {depth - 1}, joined by commas")
    return list(dict.fromkeys(found))


def _epochs(run: TrainedRun) -> list[int]:
    """The epochs after which the run's weights are there. Raises OutputError for the first and the last alone."""
    files, last = Checkpoints(run.folder), run.record.epochs
    found = [epoch for epoch in range(1, last) if files.weights_after(epoch).exists()]
    if len(found) < 2 < last:
        raise OutputError(
            f"{run.folder}: keeps no weights between its first and its last epoch; train it with weights_every = 1"
        )
    return [*found, last]


if __name__ == "__main__":
    sys.exit(main())
