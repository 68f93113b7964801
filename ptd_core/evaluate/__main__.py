"""python -m ptd_core.evaluate RUN_FOLDER ... [keep=1,.75,.5] [name=value,value ...]: trained models on fewer tokens.

Test accuracy, speed and, on generated shapes, the share of the object under the kept tokens, of finished runs that were
trained with token drop or without. Each run drops tokens as it did in training, or as the settings say:
drop_score=class_attention,random drop_block=0,1 are four ways, drop_method=tome merges. keep: shares of the patch
tokens, or numbers of them; 1 is all. data_dir, images, cache_dir, device and precision are taken too. Runs that differ
in their seed only are one row of the table; --to FOLDER writes evaluation.csv and evaluation.png.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

from ptd_core.errors import RecipeError
from ptd_core.evaluate.command import folders_and_settings, show
from ptd_core.evaluation import table
from ptd_core.evaluation.policies import points, policies
from ptd_core.evaluation.table import Row
from ptd_core.evaluation.trained import HERE, trained_runs, with_data
from ptd_core.evaluation.ways import rows_of
from ptd_core.load import load_weights
from ptd_core.views.fewer_tokens import fewer_tokens_figure

KEEP = "1,.9,.8,.7,.6,.5,.4,.3"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ptd_core.evaluate", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN_FOLDER|name=value", help="such as runs/ptd_small keep=1,.5")
    parser.add_argument("--images", type=int, default=0, help="test images, class-balanced; by default all")
    parser.add_argument("--rounds", type=int, default=5, help="samples of each speed; 0: speed is not measured")
    parser.add_argument("--to", type=Path, help="folder for evaluation.csv and evaluation.png")
    options = parser.parse_intermixed_args(arguments)
    if options.images < 0 or options.rounds < 0:
        parser.error(f"--images and --rounds must not be negative; got {options.images} and {options.rounds}")
    folders, settings = folders_and_settings(options.runs)
    rows_of = partial(evaluate_runs, folders, settings, options.images, options.rounds)
    return show(rows_of, table, fewer_tokens_figure, options.to)


def evaluate_runs(folders: list[Path], settings: list[str], images: int = 0, rounds: int = 0) -> list[Row]:
    """Rows of finished runs, evaluated in every way that `settings`, `name=value,value` texts, ask for.

    images: of the test set, class-balanced; 0: all. rounds: samples of each speed, in the first run of a cell.
    All that is asked for is checked before the first run is evaluated. Raises RecipeError, DataError, DeviceError or
    OutputError.
    """
    keeps = [text.removeprefix("keep=") for text in settings if text.startswith("keep=")] or [KEEP]
    if len(keeps) > 1:
        raise RecipeError("command line: keep is given twice; several are written keep=1,.5")
    here = [text for text in settings if text.partition("=")[0] in HERE]
    asked = [text for text in settings if text not in here and not text.startswith("keep=")]
    runs = trained_runs(folders, here)
    ways = [
        [point for policy in policies(run.recipe, asked) for point in points(policy, keeps[0].split(","))]
        for run in runs
    ]
    rows = []
    for (run, data), ways_of_run in zip(with_data(runs), ways):
        vit = load_weights(run.folder, run.record)
        found = rows_of(vit, run.recipe, data, ways_of_run, images=images, rounds=rounds if run.first else 0)
        rows += [Row(run=run.record.run, cell=run.cell, seed=run.record.seed, **values) for values in found]
    return rows


if __name__ == "__main__":
    sys.exit(main())
