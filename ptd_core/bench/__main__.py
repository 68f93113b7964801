"""python -m ptd_core.bench [--recipe FILE] [--only SECTION ...] [--rounds N] [name=value ...]: what dropping buys.

Measures this project's training step against what operations predict and against other implementations on the same
machine in the same run: interleaved, repeated, medians with spread. Tables on the screen, bench.json and bench.png
under runs/bench/DEVICE/. Random pixels stand in for images; they change no time. Each section is written when it
is done, and shown, not measured again, by a later call of the same bench. The report of another one is set aside.
"""

import argparse
import itertools
import json
import re
import sys
import time
from pathlib import Path

from ptd_core.bench.report import section_table, write_report
from ptd_core.bench.sections import OF_HYBRID_VIT, SECTIONS
from ptd_core.bench.workload import Workload
from ptd_core.errors import PTDError, RecipeError
from ptd_core.paths import PROJECT_ROOT
from ptd_core.progress import say
from ptd_core.recipe import Recipe
from ptd_core.records.files import make_folder
from ptd_core.records.stamp import stamp

PUBLISHED = PROJECT_ROOT / "parameters" / "ptd_aug.yaml"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ptd_core.bench", description=__doc__)
    parser.add_argument("--recipe", default=str(PUBLISHED), help="parameter file; by default the published recipe")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="SECTION",
                        help=f"sections to measure, of {', '.join(SECTIONS)}; by default all")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5, help="samples of each case")
    parser.add_argument("--to", type=Path, help="folder of the report; by default runs/bench/DEVICE")
    parser.add_argument("overrides", nargs="*", metavar="name=value", help="parameters that replace the file's")
    options = parser.parse_intermixed_args(arguments)
    if options.rounds < 1:
        parser.error(f"--rounds must be at least 1; got {options.rounds}")
    try:
        measure(Recipe.from_yaml(options.recipe, options.overrides), options.only, options.rounds, options.to)
    except PTDError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0


def measure(recipe: Recipe, only: list[str], rounds: int, to: Path | None) -> None:
    """Measure sections, write each and print it. Raises OutputError before measuring if the folder cannot be made,
    RecipeError for a recipe that one of them cannot measure, DeviceError."""
    unfit = [name for name in only if name in OF_HYBRID_VIT]
    if unfit and recipe.model != "hybrid_vit":
        raise RecipeError(f"model = {recipe.model!r}: {', '.join(unfit)} measure hybrid_vit beside peers of its sizes")
    work = Workload(recipe)
    about = stamp(work.device)
    folder = to or PROJECT_ROOT / "runs" / "bench" / re.sub(r"[^A-Za-z0-9]+", "_", about["device"]).strip("_")
    make_folder(folder)
    report = resumed(folder, {
        "stamp": about,
        "recipe": recipe.settings(),
        "path": str(work.path),
        "rounds": rounds,
        "finished": False,
        "section_seconds": {},
        "sections": {},
    })  # fmt: skip
    say(f"{about['device']}: {work.path}, batch {recipe.batch_size}, {rounds} rounds\n")
    for name in only:
        if name not in report["sections"]:
            start = time.perf_counter()
            report["sections"][name] = SECTIONS[name](work, rounds)
            report["section_seconds"][name] = time.perf_counter() - start
            report["finished"] = all(section in report["sections"] for section in SECTIONS)
            write_report(folder, report)
        say(section_table(name, report["sections"][name]) + "\n")
    say(f"report: {folder}")


def resumed(folder: Path, report: dict) -> dict:
    """The report in `folder` if it is that of the same bench, else the new one; another report is set aside.

    The same: device, versions and commit, recipe, path and rounds.
    """
    file = folder / "bench.json"
    try:
        earlier = json.loads(file.read_text(encoding="utf-8"))
        if all(earlier[name] == report[name] for name in ("stamp", "recipe", "path", "rounds")):
            return earlier
    except (OSError, ValueError, KeyError, TypeError):  # absent, or no such report
        pass
    if file.is_file():
        free = next(path for n in itertools.count(1) if not (path := folder / f"bench_{n}.json").exists())
        file.rename(free)
        say(f"{file} is of another bench; it is {free.name} now")
    return report


if __name__ == "__main__":
    sys.exit(main())
