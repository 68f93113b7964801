"""A sweep's runs without Dask: each a process of `python -m ptd_core`, several at once, on one machine.

They may share a device: a small model leaves most of a GPU idle. A process that dies is told as failed; the same
command resumes its run.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from ptd_core.errors import PTDError
from ptd_core.paths import PROJECT_ROOT
from ptd_core.sweep.outcome import Outcome, finished
from ptd_core.sweep.plan import PlannedRun
from ptd_core.sweep.terminal import Show

GRACE = 45  # seconds for a step and a checkpoint; `reproduce` gives a sweep longer, or it would leave these behind
_LOOK = 0.05  # seconds between looks at processes
_SHOWN = 3  # lines of what a failed process printed last


def run_processes(runs: list[PlannedRun], at_once: int, threads: int, show: Show) -> dict[str, Outcome]:
    """The outcomes by name of run, of at most `at_once` processes at a time with so many torch threads each.

    show: called as each run starts and ends. Called off (KeyboardInterrupt), it asks all processes to stop, and waits
    until they have saved.
    """
    waiting, under_way, outcomes = list(runs), {}, {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            while waiting or under_way:
                while waiting and len(under_way) < at_once:
                    run = waiting.pop(0)
                    show(run, {"kind": "starts", "text": "starts"})
                    under_way[run.name] = run, _start(run, Path(folder), threads)
                for name, (run, process) in list(under_way.items()):
                    if process.poll() is not None:
                        del under_way[name]
                        outcome = outcomes[name] = _outcome(run, process.returncode, _printed(Path(folder), run))
                        kind = "done" if outcome.record else "failed"
                        show(run, {"kind": kind, "text": outcome.failure, "record": outcome.record})
                time.sleep(_LOOK)
        finally:
            _stop([process for _, process in under_way.values()])
    return outcomes


def _start(run: PlannedRun, folder: Path, threads: int) -> subprocess.Popen:
    parameters = folder / f"{run.name}.yaml"
    parameters.write_text(yaml.safe_dump(run.recipe.model_dump()), encoding="utf-8")
    paths = os.pathsep.join([str(PROJECT_ROOT), os.environ.get("PYTHONPATH", "")])
    with open(parameters.with_suffix(".txt"), "wb") as printed:
        return subprocess.Popen(
            [sys.executable, "-m", "ptd_core", str(parameters)],
            stdout=printed, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": str(threads)},
            start_new_session=True,  # a terminal's Ctrl-C reaches the command alone, which then asks each once
        )  # fmt: skip


def _printed(folder: Path, run: PlannedRun) -> str:
    """The last lines of what a run's process printed."""
    text = (folder / f"{run.name}.txt").read_text(encoding="utf-8", errors="replace")
    return "\n".join(text.strip().splitlines()[-_SHOWN:])


def _outcome(run: PlannedRun, status: int, printed: str) -> Outcome:
    try:
        found = finished(run.recipe, notebook=False) if status == 0 else None
    except PTDError as error:
        return Outcome(failure=f"{type(error).__name__}: {error}")
    return found or Outcome(failure=f"its process ended with status {status}: {printed}")


def _stop(processes: list[subprocess.Popen]) -> None:
    """Ask all to save and stop; kill those that do not within GRACE seconds."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    end = time.monotonic() + GRACE
    for process in processes:
        try:
            process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
