"""What a run leaves for readers: run.json, its records and its figures."""

import json
from datetime import UTC, datetime
from pathlib import Path

from ptd_core.cost import cost, run_training_cost
from ptd_core.errors import OutputError
from ptd_core.recipe import Recipe
from ptd_core.records import history
from ptd_core.records.files import write_atomically
from ptd_core.records.history import EpochRecord
from ptd_core.records.ledger import time_ledger
from ptd_core.records.stamp import stamp
from ptd_core.trainer import Trainer
from ptd_core.views.curves import save_run_figures


def run_info(recipe: Recipe, trainer: Trainer, records: list[EpochRecord], finished: bool) -> dict:
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
        "precision": trainer.path.precision,
        "attention": trainer.path.attention,
        "compilation": trainer.path.compilation,
        "processes": trainer.ranks.size,
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
        "time_ledger": time_ledger(recipe, records),
    }


def leave(recipe: Recipe, records: list[EpochRecord], info: dict, folder: Path) -> None:
    """The records and figures of a run, for readers; run.json last, so that it stands for a complete set."""
    prefix = folder / recipe.chapter
    history.write_csv(records, prefix.with_name(f"{recipe.chapter}_history.csv"))
    history.write_metrics(records, recipe.chapter, prefix.with_name(f"{recipe.chapter}_metrics.csv"))
    history.write_pickle(records, prefix.with_name(f"{recipe.chapter}_history.pkl"))
    save_run_figures(recipe, records, folder, stamp_line(info))
    write_atomically(folder / "run.json", (json.dumps(info, indent=1) + "\n").encode())


def read_info(folder: Path) -> dict | None:
    """The run.json in a run's folder, None if there is none. Raises OutputError if it is damaged."""
    path = folder / "run.json"
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
        info["recipe"].items(), info["finished"], info["times"]["train_seconds"]
        return info
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise OutputError(
            f"{path}: is damaged ({type(error).__name__}); delete it, and it is made again from the run's checkpoint"
        ) from None


def refuse_other_recipe(recipe: Recipe, theirs: dict, folder: Path) -> None:
    """Raises OutputError, naming every difference, if the run in `folder` has another recipe's essence, `theirs`."""
    mine = recipe.essence()
    names = [name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)]
    if names:
        listed = "; ".join(f"{name}: {mine.get(name)!r} asked for, {theirs.get(name)!r} there" for name in names)
        raise OutputError(
            f"{folder}: holds a run with another recipe ({listed}); choose another name with run=NAME, "
            "another out_dir, or delete that folder"
        )


def stamp_line(info: dict) -> str:
    """run.json's stamp in one line."""
    seed, versions = info["seed"], info["versions"]
    return f"{info['run']}, n = 1, seed {seed} · {info['device']} · torch {versions['torch']} · commit {info['commit']}"
