"""python -m ptd_core.publish NAME ... [--from OUT_DIR] [--to FOLDER] [--unfinished]: what is to be kept.

Copies the records (run.json, tables) and pictures (PNG, explorers) of finished runs, or the tables and the picture of
a finished sweep, from runs/NAME/ to figures/NAME/; never checkpoints, weights or executed notebooks. An older copy is
replaced whole, but for Markdown files, which stay; only by one with its tables, explorers and runs too. If anything
cannot be published, nothing is copied. --unfinished: also the tables that a sweep has so far, with the names of the
runs that are missing.
"""

import argparse
import os
import shutil
import sys
from pathlib import Path

from ptd_core.errors import OutputError, PTDError
from ptd_core.paths import PROJECT_ROOT
from ptd_core.progress import say
from ptd_core.records import run_record
from ptd_core.records.finished_runs import RUNS, UNFINISHED, read_runs
from ptd_core.records.folders import NAME, RunFolder
from ptd_core.records.run_record import RunRecord

KINDS = (".csv", ".png", ".html")  # and run.json
OLD = ".replaced"  # ends the name of a copy while another takes its place
LARGEST = 2**20  # bytes of a file; a repository keeps what it has once held


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ptd_core.publish", description=__doc__)
    parser.add_argument("names", nargs="+", metavar="NAME", help="a run or a sweep: the name of its folder in runs/")
    parser.add_argument("--from", dest="out_dir", default="", help="folder that holds runs/; default: the project")
    parser.add_argument("--to", type=Path, default=PROJECT_ROOT / "figures", help="default: the project's figures/")
    parser.add_argument("--unfinished", action="store_true", help="also a sweep that is not finished")
    options = parser.parse_args(arguments)
    try:
        published = publish(options.names, options.out_dir, options.to, options.unfinished)
    except PTDError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    for folder in published:
        say(f"published: {folder}")
    return 0


def publish(names: list[str], out_dir: str, to: Path, unfinished: bool = False) -> list[Path]:
    """Copy the records and pictures of these runs and sweeps into folders of `to`, which are returned.

    unfinished: also of sweeps that are not finished, with the list of what is missing.

    Raises OutputError, before anything is copied, if one of them is not there, not finished, or has a file that is
    too large, or if something else stands in its place, or tables with runs that these lack.
    """
    names = list(dict.fromkeys(names))
    for name in filter(NAME.fullmatch, names):
        _bring_back(to / name)
    contents = {name: _publishable(name, out_dir, unfinished) for name in names}
    for name in names:
        _refuse_anything_else(to / name)
        _refuse_loss(RunFolder(name, out_dir).path, contents[name], to / name)
    staged = {name: to / f".{name}.{os.getpid()}.tmp" for name in names}
    try:
        for name, files in contents.items():
            staged[name].mkdir(parents=True)
            notes = sorted((to / name).glob("*.md"))  # written by hand, about what is published
            for file in [*files, *notes]:
                shutil.copyfile(file, staged[name] / file.name)
        _replace({folder: to / name for name, folder in staged.items()})
    except OSError as error:
        raise OutputError(f"{to}: cannot be written ({error.strerror or error})") from None
    finally:
        for folder in staged.values():
            shutil.rmtree(folder, ignore_errors=True)
    return [to / name for name in names]


def _publishable(name: str, out_dir: str, unfinished: bool) -> list[Path]:
    """The files of a finished run or sweep that are for everybody."""
    if not NAME.fullmatch(name):
        raise OutputError(f"{name!r}: is not the name of a run or a sweep; give the name of a folder in runs/")
    folder = RunFolder(name, out_dir).path
    if not folder.is_dir():
        raise OutputError(f"{folder}: is not there")
    if (folder / RUNS).exists():
        read_runs(folder)
        if (folder / UNFINISHED).exists() and not unfinished:
            missing = (folder / UNFINISHED).read_text(encoding="utf-8").split()
            raise OutputError(
                f"{folder}: the sweep is not finished; missing are {', '.join(missing)}; see --unfinished"
            )
    else:
        record = RunRecord.read(folder)
        if record is None or not record.finished:
            raise OutputError(f"{folder}: holds no finished run and no finished sweep")
    files = [path for path in sorted(folder.iterdir()) if _for_everybody(path)]
    for file in files:
        if file.stat().st_size > LARGEST:
            raise OutputError(f"{file}: has {file.stat().st_size:,} bytes; what is published has at most {LARGEST:,}")
    return files


def _for_everybody(path: Path) -> bool:
    named = path.name in (run_record.FILE, UNFINISHED) or path.suffix in KINDS
    return named and not path.name.startswith(".") and path.is_file() and not path.is_symlink()


def _refuse_anything_else(folder: Path) -> None:
    """Only a published record is replaced."""
    known = any((folder / name).exists() for name in (run_record.FILE, RUNS))
    if folder.is_symlink() or (folder.exists() and (not known or any(path.is_dir() for path in folder.iterdir()))):
        raise OutputError(f"{folder}: is no published run or sweep and is not replaced")


def _refuse_loss(given: Path, files: list[Path], older: Path) -> None:
    """What is published is replaced only by as many tables and explorers; a sweep's tables with all of their runs."""
    kept = {path.name for path in older.glob("*") if path.suffix in (".csv", ".html")}
    if lost := kept - {file.name for file in files}:
        raise OutputError(f"{older}: holds {', '.join(sorted(lost))}, which {given} does not; delete {older} first")
    if not (older / RUNS).exists():
        return
    there = {run.run for run in read_runs(given)}
    if lost := [run.run for run in read_runs(older) if run.run not in there]:
        raise OutputError(
            f"{older}: holds {len(lost)} run(s) that {given} does not: {', '.join(lost)}. "
            f"`python -m ptd_core.sweep ... --tables --records {older}` takes them over; or delete {older} first"
        )


def _replace(folders: dict[Path, Path]) -> None:
    """Put each staged folder in the place of another. If one fails, all are back."""
    done: list[tuple[Path, Path]] = []  # where the older ones are, and where they were
    try:
        for staged, folder in folders.items():
            aside = folder.with_name(f".{folder.name}{OLD}")
            if folder.exists():
                os.rename(folder, aside)
            done.append((aside, folder))
            os.rename(staged, folder)
    except OSError:
        for aside, folder in reversed(done):
            if folder.exists():
                shutil.rmtree(folder)
            if aside.exists():
                os.rename(aside, folder)
        raise
    for aside, _ in done:
        shutil.rmtree(aside, ignore_errors=True)


def _bring_back(folder: Path) -> None:
    """Undo what a process that was killed between the two renames of `_replace` left."""
    aside = folder.with_name(f".{folder.name}{OLD}")
    try:
        if aside.is_dir() and folder.exists():
            shutil.rmtree(aside)
        elif aside.is_dir():
            os.rename(aside, folder)
    except OSError as error:
        raise OutputError(f"{aside}: cannot be put back ({error.strerror or error})") from None


if __name__ == "__main__":
    sys.exit(main())
