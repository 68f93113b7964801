"""python -m ptd_core.sweep SWEEP.yaml [name=value ...]: many runs, each one task of Dask, or each one process.

All runs are checked before the first one starts. Finished ones, whose checkpoints are here, are skipped, and so are
those of published tables whose folder --records names. One that was stopped, or whose worker was lost, is resumed from
its last checkpoint; one that fails does not hold up the others. See parameters/sweeps/README.md for clusters.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ptd_core.errors import OutputError, PTDError, SweepError
from ptd_core.machine.interrupt import as_ctrl_c
from ptd_core.parameters import positive
from ptd_core.progress import duration, say
from ptd_core.records.finished_runs import FinishedRun, mark_unfinished
from ptd_core.sweep.outcome import Outcome, finished
from ptd_core.sweep.plan import Plan, PlannedRun, read_plan
from ptd_core.sweep.processes import run_processes
from ptd_core.sweep.published import Row, published_rows
from ptd_core.sweep.report import save_tables
from ptd_core.sweep.terminal import Terminal


@as_ctrl_c()
def main(arguments: list[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_intermixed_args(arguments)  # options before or after name=value
    if options.processes and (options.scheduler or options.workers or options.notebooks):
        parser.error("--processes is without Dask: --scheduler, --workers and --notebooks do not go with it")
    if options.records and options.notebooks:
        parser.error("--records: published tables hold no executed notebooks, which --notebooks wants")
    try:
        plan = read_plan(options.sweep, options.overrides)
        done = published_rows(plan, options.records) if options.records else {}
        done |= {run.name: row for run in plan.runs if (row := _row(run, finished(run.recipe, options.notebooks)))}
        if options.list:
            for run in plan.runs:
                say(f"{run.name}{'  finished' if run.name in done else ''}")
            return 0
        if options.tables:
            return _save_tables(plan, done)
        return _sweep(plan, done, options)
    except PTDError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command resumes from the last checkpoints", file=sys.stderr)
        return 130


def _sweep(plan: Plan, done: dict[str, Row], options: argparse.Namespace) -> int:
    started = time.perf_counter()
    waiting = [run for run in plan.runs if run.name not in done]
    seeds = len(plan.runs) // len({run.cell for run in plan.runs})
    say(f"sweep    {plan.name}: {len(plan.runs)} runs, {len(plan.runs) // seeds} cells with {seeds} seeds each")
    if done:
        say(f"skipped  {len(done)} finished runs: {', '.join(done)}")
    failures: dict[str, str] = {}
    plan.folder.create()  # one that cannot be written is refused before anything is trained
    if waiting:
        mark_unfinished(plan.folder.path, [run.name for run in waiting])  # tables of an earlier call lack these
        show = Terminal(waiting, options.quiet)
        if options.processes:
            outcomes = run_processes(waiting, options.processes, options.threads, show)
        else:
            outcomes = _with_dask()(plan, waiting, options, show)
        failed = [run for run in waiting if not outcomes[run.name].record]
        # One that another command was training, and was refused here for that, may be finished by now.
        outcomes |= {run.name: there for run in failed if (there := _finished_elsewhere(run, options.notebooks))}
        done |= {run.name: row for run in waiting if (row := _row(run, outcomes[run.name]))}
        failures = {name: outcome.failure for name, outcome in outcomes.items() if not outcome.record}
    for name, failure in failures.items():
        print(f"failed   {name}: {failure}", file=sys.stderr)
    if done:
        _save_tables(plan, done)
    took = duration(time.perf_counter() - started)
    say(f"{len(done)} of {len(plan.runs)} runs are finished; this call took {took}")
    return 1 if failures else 0


def _finished_elsewhere(run: PlannedRun, notebook: bool) -> Outcome | None:
    try:
        return finished(run.recipe, notebook)
    except OutputError:  # as damaged as it was; its own failure says more
        return None


def _with_dask() -> Callable[..., dict[str, Outcome]]:
    """`tasks.run_as_tasks`. Raises SweepError where Dask is not installed."""
    try:
        from ptd_core.sweep.tasks import run_as_tasks
    except ModuleNotFoundError as error:
        raise SweepError(
            f"sweeps need Dask, the extra `sweep` (pip install -e '.[sweep]'; {error}); --processes N does without"
        ) from None
    return run_as_tasks


def _row(run: PlannedRun, outcome: Outcome | None) -> Row | None:
    """A run's row of the sweep's tables, None if it is not finished."""
    if outcome is None or outcome.record is None:
        return None
    return FinishedRun.of(outcome.record, run.cell, run.recipe.fingerprint, run.levels), outcome.epochs


def _save_tables(plan: Plan, done: dict[str, Row]) -> int:
    """Tables and picture of the finished runs, on the screen and in the sweep's folder; the exit status."""
    if not done:
        raise SweepError(f"{plan.name}: none of its {len(plan.runs)} runs is finished")
    plan.folder.create()
    say(f"\n{save_tables(plan, done)}\n\ntables and picture: {plan.folder.path}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ptd_core.sweep", description=__doc__)
    add = parser.add_argument
    add("sweep", help="sweep file, such as parameters/sweeps/small_cells.yaml")
    add("overrides", nargs="*", metavar="name=value", help="parameters for all runs")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--list", action="store_true", help="check the file, name its runs, and stop")
    instead.add_argument("--tables", action="store_true", help="write the tables of what is finished so far, and stop")
    add("--records", type=Path, metavar="FOLDER",
        help="of published tables: runs of this sweep in them are finished, and stand in the new tables")  # fmt: skip
    add("--scheduler", metavar="ADDRESS", help="use the cluster of this Dask scheduler, tcp://HOST:PORT")
    add("--workers", type=positive, metavar="N", help="workers on this machine; default: one a device, or one a core")
    add("--processes", type=positive, metavar="N",
        help="without Dask: N runs at once on this machine, also on one device that they share")  # fmt: skip
    add("--threads", type=positive, default=1, metavar="N", help="torch threads of a run; default: 1")
    add("--allowed-failures", type=positive, default=5, metavar="N",
        help="lost workers after which a run is given up, on this machine; default: 5")  # fmt: skip
    add("--notebooks", action="store_true", help="execute the chapters by papermill and keep them in runs/NAME/")
    add("--quiet", action="store_true", help="no line per epoch")
    return parser


if __name__ == "__main__":
    sys.exit(main())
