"""python -m ptd_core.sweep SWEEP.yaml [name=value ...]: many runs, each one task of Dask.

All runs are checked before the first one starts. Finished ones, whose checkpoints are here, are skipped; one that was
stopped, or whose worker was lost, is resumed from its last checkpoint; one that fails does not hold up the others. See
parameters/sweeps/README.md for clusters.
"""

import argparse
import queue
import signal
import sys
import time
import traceback
import uuid
from collections.abc import Callable

try:
    from distributed import Client, Future
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "sweeps need Dask, the extra `sweep`: pip install -e '.[sweep]'", name=error.name
    ) from None

from ptd_core.errors import PTDError, SweepError
from ptd_core.progress import duration, say
from ptd_core.records.cells import mark_unfinished
from ptd_core.sweep.cluster import RESOURCE, local_client, remote_client, workers_with_a_device
from ptd_core.sweep.plan import Plan, PlannedRun, read_plan
from ptd_core.sweep.report import save_tables
from ptd_core.sweep.task import Outcome, Task, finished, run_task

PATIENCE = 30  # seconds without any message after which to look whether a worker is there at all
NO_WORKER = "waiting: no worker has the resource device=1; parameters/sweeps/README.md says how to start one"

Show = Callable[[PlannedRun | None, dict], None]


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_intermixed_args(arguments)  # options before or after name=value
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # asked to end politely: as Ctrl-C does
    try:
        plan = read_plan(options.sweep, options.overrides)
        done = {run.name: outcome for run in plan.runs if (outcome := finished(run.recipe, options.notebooks))}
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
    finally:
        signal.signal(signal.SIGTERM, before)


def _sweep(plan: Plan, done: dict[str, Outcome], options: argparse.Namespace) -> int:
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
        if options.scheduler:
            context = remote_client(options.scheduler)
        else:
            count = options.workers and min(options.workers, len(waiting))
            context = local_client(plan.device, count, options.threads, options.allowed_failures)
        with context as client:
            found = workers_with_a_device(client)
            say(f"cluster  {found} workers with a device; dashboard {client.dashboard_link}")
            show = _Terminal(waiting, options.quiet)
            outcomes = run_all(client, waiting, show, threads=options.threads, notebooks=options.notebooks)
        done |= {name: outcome for name, outcome in outcomes.items() if outcome.record}
        failures = {name: outcome.failure for name, outcome in outcomes.items() if not outcome.record}
    if done:
        _save_tables(plan, done)
    took = duration(time.perf_counter() - started)
    say(f"{len(done)} of {len(plan.runs)} runs are finished; this call took {took}")
    for name, failure in failures.items():
        print(f"failed   {name}: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _save_tables(plan: Plan, done: dict[str, Outcome]) -> int:
    """Tables and picture of the finished runs, on the screen and in the sweep's folder; the exit status."""
    if not done:
        raise SweepError(f"{plan.name}: none of its {len(plan.runs)} runs is finished")
    plan.folder.create()
    results = {name: (outcome.record, outcome.epochs) for name, outcome in done.items()}
    say(f"\n{save_tables(plan, results)}\n\ntables and picture: {plan.folder.path}")
    return 0


def run_all(
    client: Client,
    runs: list[PlannedRun],
    show: Show,
    *,
    threads: int = 1,
    notebooks: bool = False,
) -> dict[str, Outcome]:
    """Each run as one task of the client's cluster; the outcomes by name of run.

    show: called with a run and its event (see `task`; its outcome's kind is "done" or "failed"), and with None and
    a remark where no run is meant. Called off (KeyboardInterrupt), it calls the tasks off too: they stop between two
    steps.
    """
    session = uuid.uuid4().hex[:8]
    topic = f"ptd-sweep-{session}"
    by_name = {run.name: run for run in runs}
    messages: queue.Queue[dict | Future] = queue.Queue()
    client.subscribe_topic(topic, lambda event: messages.put(event[1]))
    futures = {}
    outcomes: dict[str, Outcome] = {}
    try:
        for place, run in enumerate(runs):
            task = Task(run.recipe.model_dump(), topic, threads, notebooks)
            key = ("run", run.name, session)  # one prefix: Dask then knows how long runs take
            future = client.submit(run_task, task, key=key, pure=False, resources=RESOURCE, priority=-place)
            futures[future] = run
            future.add_done_callback(messages.put)
        while len(outcomes) < len(runs):
            try:
                message = messages.get(timeout=PATIENCE)
            except queue.Empty:
                if not workers_with_a_device(client):
                    show(None, {"text": NO_WORKER})
                continue
            if isinstance(message, dict):
                show(by_name[message["run"]], message)
                continue
            run = futures[message]
            outcome = outcomes[run.name] = _outcome(message)
            kind = "done" if outcome.record else "failed"
            show(run, {"kind": kind, "text": outcome.failure, "record": outcome.record})
    except BaseException:
        client.cancel(list(futures))
        raise
    finally:
        client.unsubscribe_topic(topic)
    return outcomes


def _outcome(future: Future) -> Outcome:
    """What became of a task, also where it has not handed anything back."""
    if future.status == "finished":
        outcome = future.result()
        return outcome if outcome.record or outcome.failure else Outcome(failure="was called off by another client")
    if future.status == "error":
        error = future.exception()
        trace = "".join(traceback.format_exception(error)) if not isinstance(error, PTDError) else ""
        return Outcome(failure=f"{type(error).__name__}: {error}\n{trace}".rstrip())
    return Outcome(failure=f"the scheduler dropped it ({future.status})")


class _Terminal:
    """One line per epoch and per finished run, with the share of the sweep's epochs that are done."""

    def __init__(self, runs: list[PlannedRun], quiet: bool):
        self.epochs = dict.fromkeys((run.name for run in runs), 0)  # done, of each run
        self.total = sum(run.recipe.epochs for run in runs)
        self.started: set[str] = set()
        self.width = max(map(len, self.epochs))
        self.quiet = quiet
        self.began, self.seen = time.perf_counter(), 0  # epochs seen since then

    def left(self) -> str:
        """The time that the other epochs will take, if they take what those until now took."""
        remaining = self.total - sum(self.epochs.values())
        if not self.seen or not remaining:
            return ""
        return f"; about {duration((time.perf_counter() - self.began) / self.seen * remaining)} left"

    def __call__(self, run: PlannedRun | None, event: dict) -> None:
        if run is None:
            say(event["text"])
            return
        text = event["text"]
        if event["kind"] == "starts" and run.name in self.started:
            text = f"its worker was lost; resumed: {text}"
        elif event["kind"] == "epoch":
            self.epochs[run.name] = event["epoch"] + 1
            self.seen += 1
        elif event["kind"] == "done":
            self.epochs[run.name] = run.recipe.epochs
            results, times = event["record"].results, event["record"].times
            text = (
                f"done: test accuracy {results.test_accuracy:.2f} %, "
                f"{duration(times.train_seconds + times.eval_seconds)}{self.left()}"
            )
        elif event["kind"] == "failed":
            text = f"failed: {text}"
        if event["kind"] == "starts":
            self.started.add(run.name)
        if not self.quiet or event["kind"] in ("done", "failed"):
            share = f"{sum(self.epochs.values())}/{self.total}".rjust(2 * len(str(self.total)) + 1)
            say(f"{share}  {run.name.ljust(self.width)}  {text}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ptd_core.sweep", description=__doc__)
    add = parser.add_argument
    add("sweep", help="sweep file, such as parameters/sweeps/small_cells.yaml")
    add("overrides", nargs="*", metavar="name=value", help="parameters for all runs")
    add("--list", action="store_true", help="check the file, name its runs, and stop")
    add("--tables", action="store_true", help="write the tables of the runs that are finished so far, and stop")
    add("--scheduler", metavar="ADDRESS", help="use the cluster of this Dask scheduler, tcp://HOST:PORT")
    add("--workers", type=_positive, metavar="N", help="workers on this machine; default: one a device, or one a core")
    add("--threads", type=_positive, default=1, metavar="N", help="torch threads of a run; default: 1")
    add("--allowed-failures", type=_positive, default=5, metavar="N",
        help="lost workers after which a run is given up, on this machine; default: 5")  # fmt: skip
    add("--notebooks", action="store_true", help="execute the chapters by papermill and keep them in runs/NAME/")
    add("--quiet", action="store_true", help="no line per epoch")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


if __name__ == "__main__":
    sys.exit(main())
