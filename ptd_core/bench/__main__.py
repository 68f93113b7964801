"""python -m ptd_core.bench [--recipe FILE] [--only SECTION ...] [--rounds N] [name=value ...]: what dropping buys.

Measures this project's training step against what operations predict and against other implementations on the same
machine in the same run: interleaved, repeated, medians with spread. Tables on the screen, bench.json and bench.png
under runs/bench/DEVICE/. Random pixels stand in for images; they change no time. Each section is written when it
is done; the same command again resumes it after the last one.
"""

import argparse
import json
import re
import sys
import time
from pathlib import Path

from ptd_core.bench.report import section_table, write_report
from ptd_core.bench.sections import SECTIONS
from ptd_core.bench.workload import Workload
from ptd_core.errors import PTDError
from ptd_core.paths import PROJECT_ROOT
from ptd_core.progress import say
from ptd_core.recipe import Recipe
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
        work = Workload(Recipe.from_yaml(options.recipe, options.overrides))
    except PTDError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    about = stamp(work.device)
    folder = options.to or PROJECT_ROOT / "runs" / "bench" / re.sub(r"[^A-Za-z0-9]+", "_", about["device"]).strip("_")
    report = resumed(folder, {
        "stamp": about,
        "recipe": work.recipe.settings(),
        "path": str(work.path),
        "rounds": options.rounds,
        "finished": False,
        "section_seconds": {},
        "sections": {},
    })  # fmt: skip
    say(f"{about['device']}: {work.path}, batch {work.recipe.batch_size}, {options.rounds} rounds\n")
    for name in options.only:
        if name not in report["sections"]:
            start = time.perf_counter()
            try:
                report["sections"][name] = SECTIONS[name](work, options.rounds)
            except PTDError as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr)
                return 2
            report["section_seconds"][name] = time.perf_counter() - start
            report["finished"] = name == options.only[-1]
            write_report(folder, report)
        say(section_table(name, report["sections"][name]) + "\n")
    say(f"report: {folder}")
    return 0


def resumed(folder: Path, report: dict) -> dict:
    """The report in `folder` if it is that of the same bench, stopped before its end; else the new one.

    Its sections are not measured again. The same: device, versions and commit, recipe, path and rounds.
    """
    try:
        earlier = json.loads((folder / "bench.json").read_text(encoding="utf-8"))
        same = all(earlier[name] == report[name] for name in ("stamp", "recipe", "path", "rounds"))
        return earlier if same and not earlier["finished"] else report
    except (OSError, ValueError, KeyError, TypeError):  # absent, or no such report: this bench replaces it
        return report


if __name__ == "__main__":
    sys.exit(main())
