"""A sweep's runs as tasks of Dask: on a cluster of this machine, or on one that exists."""

import argparse
import queue
import traceback
import uuid
from contextlib import AbstractContextManager

from distributed import Client, Future

from ptd_core.errors import PTDError
from ptd_core.progress import say
from ptd_core.sweep.cluster import RESOURCE, local_client, remote_client, workers_with_a_device
from ptd_core.sweep.outcome import Outcome
from ptd_core.sweep.plan import Plan, PlannedRun
from ptd_core.sweep.task import Task, run_task
from ptd_core.sweep.terminal import Show

PATIENCE = 30  # seconds without any message after which to look whether a worker is there at all
NO_WORKER = "waiting: no worker has the resource device=1; parameters/sweeps/README.md says how to start one"


def run_as_tasks(plan: Plan, runs: list[PlannedRun], options: argparse.Namespace, show: Show) -> dict[str, Outcome]:
    """The outcomes of some of a plan's runs, by name, as the command's options say."""
    with _client(plan, len(runs), options) as client:
        found = workers_with_a_device(client)
        say(f"cluster  {found} workers with a device; dashboard {client.dashboard_link}")
        return run_all(client, runs, show, threads=options.threads, notebooks=options.notebooks)


def _client(plan: Plan, runs: int, options: argparse.Namespace) -> AbstractContextManager[Client]:
    if options.scheduler:
        return remote_client(options.scheduler)
    workers = options.workers and min(options.workers, runs)
    return local_client(plan.device, workers, options.threads, options.allowed_failures)


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
