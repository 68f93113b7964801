"""python -m ptd_core.reproduce DATA_DIR [--minutes M] [--processes N] [name=value ...]: all that needs a GPU, in order.

First the bench, whose first section refuses a device that does not compute what the CPU does. Then, at full size on all
of CIFAR-100, the four published recipes, baseline, ptd, ptd_aug and baseline_aug, and ptd_aug mirrored in time. Then
the question of direction with all its arms, seed by seed, N runs at once on the device. Each job is a process of its
own. After M minutes it stops what runs, saved, and ends with status 75; the same command resumes it. Everything is
written under runs/.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

from ptd_core.errors import PTDError
from ptd_core.machine.device import describe_device, resolve_device
from ptd_core.machine.interrupt import as_ctrl_c
from ptd_core.parameters import positive
from ptd_core.paths import PROJECT_ROOT, resolve_data_dir
from ptd_core.progress import say
from ptd_core.recipe import Recipe
from ptd_core.records.finished_runs import RUNS, UNFINISHED
from ptd_core.sweep.outcome import finished
from ptd_core.sweep.plan import Plan, read_plan

RECIPES = {  # run: parameter file and what replaces its parameters
    "ptd_aug": ["ptd_aug"],
    "baseline_aug": ["baseline_aug"],
    "baseline": ["baseline"],
    "ptd": ["ptd"],
    "ptd_aug_mirrored": ["ptd_aug", "run=ptd_aug_mirrored", "drop_shape=reversed"],
}
SWEEP = "parameters/sweeps/full/full_direction.yaml"
RESUMABLE = 75  # EX_TEMPFAIL of sysexits.h: the same command, later
GRACE = 60  # seconds for a step and a checkpoint
# Statuses of a command that was asked to stop: killed by the signal, or ended by itself as shells report one.
STOPPED = {-signal.SIGTERM, 128 + signal.SIGTERM, -signal.SIGINT, 128 + signal.SIGINT}


@as_ctrl_c()
def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ptd_core.reproduce", description=__doc__)
    parser.add_argument("data_dir", help="folder with CIFAR-100")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop and save after so many")
    parser.add_argument("--no-bench", action="store_true", help="train only")
    parser.add_argument("--sweep", default=SWEEP, help=f"the question to ask; '' for none; by default {SWEEP}")
    parser.add_argument("--processes", type=positive, default=1, help="runs of it at once, on one device")
    parser.add_argument("--out", type=Path, default=PROJECT_ROOT, help="folder that receives runs/")
    parser.add_argument("overrides", nargs="*", metavar="name=value", help="parameters that replace the files'")
    options = parser.parse_intermixed_args(arguments)
    end, out = time.monotonic() + 60 * options.minutes, options.out.absolute()  # jobs run in the project's root
    bench = out / "runs" / "reproduction_bench"
    try:
        data_dir = resolve_data_dir(options.data_dir).absolute()
        settings = [f"data_dir={data_dir}", f"out_dir={out}", *options.overrides]
        jobs = []
        if not options.no_bench:
            module = ["ptd_core.bench", "--to", str(bench), *options.overrides]
            device = Recipe.from_yaml(PROJECT_ROOT / "parameters" / "ptd_aug.yaml", settings).device
            jobs.append((bench.name, bench_finished(bench, device), module))
        for name, (file, *changes) in RECIPES.items():
            path, values = f"parameters/{file}.yaml", [*settings, *changes]
            done = finished(Recipe.from_yaml(PROJECT_ROOT / path, values), notebook=False)
            jobs.append((name, done is not None, ["ptd_core", path, *values]))
        if options.sweep:
            file = PROJECT_ROOT / options.sweep  # itself, if it is absolute
            changes = [text for text in settings if not text.startswith("seed=")]  # it lists its own
            plan = read_plan(file, changes)
            module = ["ptd_core.sweep", str(file), *changes, "--processes", str(options.processes)]
            jobs.append((plan.name, sweep_finished(plan), module))
        for job in jobs:
            if status := _do(*job, end):
                return status
        return 0
    except PTDError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT  # what ran has been stopped


def sweep_finished(plan: Plan) -> bool:
    """Whether all runs of a sweep are done and its tables written. Raises OutputError as `outcome.finished` does."""
    tables = plan.folder.path
    return all([finished(run.recipe, notebook=False) for run in plan.runs]) and (
        (tables / RUNS).exists() and not (tables / UNFINISHED).exists()
    )


def bench_finished(folder: Path, device: str) -> bool:
    """Whether a bench of this device has written all of its sections; it writes them one by one.

    One of another device, whose products were never held against the CPU's, begins anew.
    """
    file = folder / "bench.json"
    report = json.loads(file.read_text()) if file.exists() else None
    return bool(report) and report["finished"] and report["stamp"]["device"] == describe_device(resolve_device(device))


def _do(name: str, done: bool, module: list[str], end: float) -> int:
    """Run a module unless its job is done; its exit status."""
    if done:
        say(f"{name}: finished")
        return 0
    return run_until([sys.executable, "-m", *module], end)


def run_until(command: list[str], end: float) -> int:
    """Run a command, ask it to stop when the clock shows `end`; its exit status, RESUMABLE if it was stopped.

    One that does not stop within GRACE seconds is killed: it is resumed from what it saved last.
    """
    if time.monotonic() >= end:
        return RESUMABLE
    # In a session of its own: a terminal's Ctrl-C reaches this command alone, which then asks the job once.
    process = subprocess.Popen(command, cwd=PROJECT_ROOT, start_new_session=True)
    try:
        return process.wait(None if end == float("inf") else max(0.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.terminate()
        return _stopped(process)
    except KeyboardInterrupt:
        process.terminate()
        _stopped(process)
        raise
    finally:
        if process.poll() is None:
            process.kill()


def _stopped(process: subprocess.Popen) -> int:
    """Wait for a process that was asked to stop, and say what came of it."""
    try:
        status = process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        say(f"killed: it did not stop within {GRACE} s; the same command resumes it where it saved last")
        return RESUMABLE
    if status not in STOPPED:
        return status
    say("stopped and saved; the same command resumes it")
    return RESUMABLE


if __name__ == "__main__":
    sys.exit(main())
