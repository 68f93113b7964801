"""What a sweep leaves: a row per run, a row per cell (mean and sample standard deviation over seeds), a figure."""

import csv
import io
import statistics
from pathlib import Path

from ptd_core.compare import Cell, comparison_figure
from ptd_core.records.files import write_atomically
from ptd_core.sweep.plan import Plan, PlannedRun
from ptd_core.views.style import save_figure

RESULTS = ("test_accuracy", "test_accuracy_raw", "best_on_test", "clean_train_accuracy")


def cells(plan: Plan, infos: dict[str, dict]) -> list[Cell]:
    """The cells that have a finished run, in the plan's order. infos: run.json by name of run."""
    groups: dict[str, list[dict]] = {}
    for run in plan.runs:
        if run.name in infos:
            groups.setdefault(run.cell, []).append(infos[run.name])
    return [Cell(name, group) for name, group in groups.items()]


def leave(plan: Plan, infos: dict[str, dict]) -> Path:
    """Write runs.csv, cells.csv and cells.png into the sweep's folder, which is returned. Accuracies in percent."""
    folder = plan.figures
    folder.mkdir(parents=True, exist_ok=True)
    done = [run for run in plan.runs if run.name in infos]
    write_atomically(folder / "runs.csv", _csv([_run_row(run, infos[run.name]) for run in done]))
    levels = {run.cell: run.levels for run in done}
    write_atomically(folder / "cells.csv", _csv([_cell_row(cell, levels[cell.name]) for cell in cells(plan, infos)]))
    save_figure(comparison_figure(cells(plan, infos)), folder / "cells.png")
    return folder


def _run_row(run: PlannedRun, info: dict) -> dict:
    return {
        "run": run.name,
        "cell": run.cell,
        **run.levels,
        "seed": info["seed"],
        "epochs": info["epochs"],
        **{name: info["results"][name] for name in RESULTS},
        "train_seconds": info["times"]["train_seconds"],
        "eval_seconds": info["times"]["eval_seconds"],
        "device": info["device"],
        "torch": info["versions"]["torch"],
        "commit": info["commit"],
    }


def _cell_row(cell: Cell, levels: dict) -> dict:
    row = {"cell": cell.name, **levels, "n": len(cell.infos), "seeds": " ".join(str(i["seed"]) for i in cell.infos)}
    for name in RESULTS:
        values = cell.values(name)
        row[f"{name}_mean"] = statistics.mean(values)
        row[f"{name}_sd"] = statistics.stdev(values) if len(values) > 1 else ""
    return row


def _csv(rows: list[dict]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
