"""python -m ptd_core.compare RUN_FOLDER ... [--figure FILE.png]: finished runs side by side.

Runs that differ in their seed only are one row: mean and sample standard deviation in the printed Markdown table,
every seed a point in the figure.
"""

import argparse
import json
import statistics
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from ptd_core.errors import OutputError, PTDError
from ptd_core.views.style import BLUE, ORANGE, RED, new_figure, save_figure, styled


@dataclass(frozen=True)
class Cell:
    """The runs of one recipe that differ in their seed only, ordered by seed."""

    name: str
    infos: list[dict]

    def values(self, result: str) -> list[float]:
        """One result of each run, for example test_accuracy in percent."""
        return [info["results"][result] for info in self.infos]


def read_cells(folders: list[Path]) -> list[Cell]:
    """The run.json of each folder, grouped by recipe. Raises OutputError for a folder without a finished run."""
    groups = defaultdict(list)
    for folder in folders:
        try:
            info = json.loads((folder / "run.json").read_text())
        except (OSError, ValueError) as error:
            raise OutputError(f"{folder}: has no readable run.json ({error})") from None
        if not info["finished"]:
            raise OutputError(f"{folder}: its run is not finished")
        recipe = {name: value for name, value in info["recipe"].items() if name != "seed"}
        groups[json.dumps(recipe, sort_keys=True)].append(info)
    ordered = [sorted(infos, key=lambda info: info["seed"]) for infos in groups.values()]
    return [Cell(infos[0]["run"], infos) for infos in ordered]


def table(cells: list[Cell]) -> str:
    """Markdown: test accuracy of the last epoch is the headline; the best epoch chosen on test stands apart."""
    lines = [
        "| run | seeds | test accuracy, last epoch | raw weights | best on test | train, clean images |",
        "|---|---|---|---|---|---|",
    ]
    results = ("test_accuracy", "test_accuracy_raw", "best_on_test", "clean_train_accuracy")
    for cell in cells:
        seeds = ", ".join(str(info["seed"]) for info in cell.infos)
        lines.append("| " + " | ".join([cell.name, seeds, *(spread(cell.values(name)) for name in results)]) + " |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """Mean and sample standard deviation in percent; the value alone where there is one."""
    mean = f"{statistics.mean(values):.2f}"
    return f"{mean} ± {statistics.stdev(values):.2f} %" if len(values) > 1 else f"{mean} %"


@styled
def comparison_figure(cells: list[Cell]) -> Figure:
    """Each run's test accuracy as a point, each recipe's mean as a line, runs with token drop in their own colour."""
    devices = sorted({info["device"] for cell in cells for info in cell.infos})
    commits = sorted({str(info["commit"]) for cell in cells for info in cell.infos})
    counts = ", ".join(f"{cell.name} n = {len(cell.infos)}" for cell in cells)
    figure = new_figure(f"{counts}\n{'; '.join(devices)} · commit {', '.join(commits)}", (6.4, 0.5 * len(cells) + 1.6))
    axes = figure.subplots()
    for row, cell in enumerate(cells):
        values = cell.values("test_accuracy")
        colour = BLUE if cell.infos[0]["chapter"] == "ptd" else ORANGE
        axes.plot(values, [row] * len(values), "o", color=colour, alpha=0.7)
        axes.plot([statistics.mean(values)] * 2, [row - 0.3, row + 0.3], color=RED)
    axes.set_yticks(range(len(cells)), [cell.name for cell in cells])
    axes.invert_yaxis()
    axes.set_xlabel("test accuracy, last epoch (%); points: seeds, line: mean")
    axes.grid(axis="x")
    return figure


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ptd_core.compare", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="folders with a run.json, such as figures/ptd_small")
    parser.add_argument("--figure", type=Path, help="where to draw the comparison, as PNG")
    options = parser.parse_args(arguments)
    try:
        cells = read_cells(options.folders)
        if options.figure:
            save_figure(comparison_figure(cells), options.figure)
    except PTDError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    print(table(cells))
    return 0


if __name__ == "__main__":
    sys.exit(main())
