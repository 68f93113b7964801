"""python -m ptd_core.compare RUN_FOLDER|SWEEP_FOLDER ... [--figure FILE.png] [--table FOLDER]: runs side by side.

Runs that differ in their seed only are one row: mean and sample standard deviation in the printed Markdown table,
every seed a point in the figure. A sweep's folder holds a table of its runs: nothing is trained.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from ptd_core.errors import PTDError
from ptd_core.progress import say
from ptd_core.records.cells import read_cells
from ptd_core.records.files import make_folder
from ptd_core.records.finished_runs import write_runs
from ptd_core.views.comparison import compare


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ptd_core.compare", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="such as runs/ptd_small, or figures/small_cells")
    parser.add_argument("--figure", type=Path, help="where to draw the comparison, as PNG")
    parser.add_argument("--table", type=Path, metavar="FOLDER", help="where to write runs.csv, one row a run")
    options = parser.parse_args(arguments)
    try:
        cells = read_cells(options.folders)
        if options.table:
            make_folder(options.table)
            # Under the names that tell the cells apart here: two sweeps may both have one that is called `base`.
            write_runs([replace(run, cell=cell.name) for cell in cells for run in cell.runs], options.table)
        printed = compare(cells, options.figure)
    except PTDError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    say(printed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
