"""One run of a sweep, as one Dask task: what a worker does, what it tells meanwhile, and what it hands back.

A worker computes on the one device that it sees, and on as many torch threads as the task says. Messages are small:
a recipe's values go in, a run's records come out, and an event per epoch goes to whoever subscribed to the topic.
"""

import os
from dataclasses import dataclass

import torch
from distributed import Reschedule, Status, Worker, get_worker

from ptd_core.errors import DeviceError, OutputError, PTDError
from ptd_core.machine.device import describe_device, resolve_device
from ptd_core.machine.interrupt import Stopped
from ptd_core.paths import PROJECT_ROOT
from ptd_core.progress import Progress
from ptd_core.recipe import Recipe
from ptd_core.records.folders import RunFolder
from ptd_core.records.history import EpochRecord
from ptd_core.run import execute
from ptd_core.sweep.outcome import Outcome, executed_chapter, finished

# The lines of progress.describe, and the estimate: alike for all seeds of a cell, and too many for one terminal.
_OPENING = ("run ", "data ", "model ", "device ", "tokens ", "estimate ")
_AT_WORK = (Status.running, Status.paused)


@dataclass(frozen=True)
class Task:
    """What a worker is given. topic: where its events go. threads: torch threads. notebook: execute the chapter?"""

    values: dict
    topic: str
    threads: int
    notebook: bool


def run_task(task: Task) -> Outcome:
    """Train one recipe to its end on this worker, from wherever an earlier worker stopped.

    A refusal or a failure of this package becomes the outcome's text; any other exception is raised. Raises
    distributed.Reschedule if the worker is closed meanwhile.
    """
    torch.set_num_threads(task.threads)
    torch.compiler.reset()  # graphs of this worker's earlier runs count towards the limit of recompilations
    os.environ["OMP_NUM_THREADS"] = str(task.threads)  # for the kernel of a notebook
    worker = get_worker()
    reporter = _Reporter(worker, task)
    try:
        recipe = Recipe.from_values(task.values)
        reporter.tell("starts", f"starts on worker {worker.name}: {_the_device(recipe)}")
        if task.notebook:
            return _execute_chapter(recipe)
        run = execute(recipe, reporter)
        return Outcome(run.record, run.records)
    except PTDError as error:
        return Outcome(failure=f"{type(error).__name__}: {error}")
    except Stopped:  # by the reporter, below
        if worker.status not in _AT_WORK:
            raise Reschedule from None  # this worker is being closed: another one is to go on
        return Outcome()


def _the_device(recipe: Recipe) -> str:
    """The device in words. Raises DeviceError if it is absent or if it is not clear which one is meant."""
    device = resolve_device(recipe.device)
    if device.type == "cuda" and torch.cuda.device_count() > 1:
        raise DeviceError(
            f"this worker sees {torch.cuda.device_count()} CUDA devices and must see one: start one worker for each, "
            "with CUDA_VISIBLE_DEVICES=0, 1, ... in its environment"
        )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return describe_device(device) + (f" (CUDA device {visible})" if device.type == "cuda" and visible else "")


def _execute_chapter(recipe: Recipe) -> Outcome:
    """The chapter with this recipe, by papermill. The notebook stands under its final name only once it is whole."""
    import papermill

    chapter = PROJECT_ROOT / "book" / f"{recipe.chapter}.ipynb"
    if not chapter.exists():
        raise OutputError(f"{chapter}: is not there; executed notebooks need a checkout of the project on the worker")
    RunFolder(recipe.run_name, recipe.out_dir).create()
    whole = executed_chapter(recipe)
    unfinished = whole.with_suffix(".unfinished.ipynb")
    try:
        papermill.execute_notebook(
            chapter, unfinished, parameters=recipe.model_dump(), cwd=PROJECT_ROOT, progress_bar=False
        )
    except papermill.PapermillExecutionError as error:
        return Outcome(failure=f"{error.ename}: {error.evalue} (cell {error.exec_count} of {unfinished})")
    os.replace(unfinished, whole)
    return finished(recipe, notebook=True) or Outcome(failure=f"{whole}: was executed, but its run is not finished")


class _Reporter(Progress):
    """Progress as events of a Dask topic; and the ear for a task that is called off."""

    def __init__(self, worker: Worker, task: Task):
        super().__init__(bar=False)
        self._worker, self._topic, self._run = worker, task.topic, task.values["run"]
        self._key = worker.get_current_task()
        self._epoch = None  # the one whose line is being printed
        self._called_off = False

    def tell(self, kind: str, text: str, epoch: int | None = None) -> None:
        """An event; Dask adds the worker's address as "worker"."""
        self._worker.log_event(self._topic, {"kind": kind, "run": self._run, "text": text, "epoch": epoch})

    def print(self, text: str) -> None:
        if self._called_off:  # nobody listens any more
            return
        if self._epoch is not None:
            self.tell("epoch", text, self._epoch)
        elif not text.startswith(_OPENING):
            self.tell("prints", text.removeprefix(f"{self._run} "))

    def epoch(self, record: EpochRecord, epochs: int, left: float = 0.0) -> None:
        self._epoch = record.epoch
        super().epoch(record, epochs, left)  # prints one line
        self._epoch = None

    def step(self, epoch: int, done: int, steps: int) -> None:
        """Stop as Ctrl-C would, saved, between two steps, once nobody waits for this run or the worker is being closed.

        Dask does not interrupt a task that has begun; the worker only marks it.
        """
        task = self._worker.state.tasks.get(self._key)
        if task is None or task.state != "executing" or self._worker.status not in _AT_WORK:
            self._called_off = True
            raise Stopped
